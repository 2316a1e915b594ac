//! Whether containers work on this host, proved by running one: the shim's own program in an otherwise empty file tree.

use super::{
    cgroup::Layout,
    driver::Inner,
    nest::{self, Nest},
    overlay,
    shim::crun_said,
};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
};
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};
use yun_drivers::{DriverError, ErrorKind, Result};

/// crun refuses a host that has version 1 in use and controllers in version 2 as well. Those that nobody uses can be moved to version 1 by
/// mounting them there, which changes nothing for anybody. Only `hugetlb` is ever moved: no other controller is known to be free of users.
pub(super) fn unmix(layout: Layout) -> Result<Layout> {
    let io = |e: io::Error| DriverError::io("read the host's cgroups", e);
    let mixed = layout.mixed().map_err(io)?;
    if mixed.is_empty() {
        return Ok(layout);
    }
    if mixed != ["hugetlb"] {
        return Err(refuse(&mixed));
    }
    move_hugetlb(&layout).map_err(|e| refuse(&mixed).with(e))?;
    let layout = Layout::detect().map_err(io)?;
    if layout.mixed().map_err(io)?.is_empty() { Ok(layout) } else { Err(refuse(&mixed)) }
}

fn refuse(mixed: &[String]) -> DriverError {
    let names = mixed.join(" ");
    let message = format!(
        "crun cannot use this host's cgroups: version 1 is in use, but version 2 holds {names}. Boot with systemd.unified_cgroup_hierarchy=1, \
         or mount each of them as version 1, as in: mkdir /sys/fs/cgroup/hugetlb && mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb"
    );
    DriverError::new(ErrorKind::Unavailable, "CgroupsMixed", message)
}

fn move_hugetlb(layout: &Layout) -> io::Result<()> {
    let base = layout.v1.get("memory").and_then(|path| path.parent()).unwrap_or(Path::new("/sys/fs/cgroup"));
    // Two clouds on one host may find out at the same time.
    let _turn = Flock::lock(fs::File::open(base)?, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
    if Layout::detect()?.v1.contains_key("hugetlb") {
        return Ok(());
    }
    let target = base.join("hugetlb");
    fs::create_dir_all(&target)?;
    tracing::info!(
        "mounting the hugetlb cgroup controller as version 1, because crun refuses a mixture with version 2"
    );
    mount(Some("cgroup"), &target, Some("cgroup"), MsFlags::empty(), Some("hugetlb"))?;
    Ok(())
}

/// Runs a container to its end, and finds out whether containers can have user namespaces of their own. Returns the runtime's name and
/// version. Blocks for some 40 ms.
pub(super) fn prove(inner: &Inner) -> Result<String> {
    let version = trial(inner, false)?;
    let why = nest::unreachable(inner.host.run()).or_else(|| trial(inner, true).err().map(|e| e.message));
    if let Some(why) = &why {
        tracing::warn!("containers have no user namespaces of their own here: {why}");
    }
    // Tried once: another answer would mix both kinds.
    let _ = inner.no_nests.set(why);
    Ok(version)
}

fn trial(inner: &Inner, nested: bool) -> Result<String> {
    let version = version(&inner.options.runtime, inner.options.patience)?;
    let io = |e: io::Error| DriverError::io("try a container", e);
    let directory = tempfile::Builder::new().prefix("probe").tempdir_in(inner.host.run()).map_err(io)?;
    let path = |name: &str| directory.path().join(name);
    for name in ["layer", "layer/dev", "layer/proc", "upper", "work", "rootfs", "crun"] {
        fs::create_dir(path(name)).map_err(io)?;
    }
    fs::copy(&inner.shim, path("layer/shim")).map_err(io)?;
    let (user, net) = (path("user"), path("net"));
    let mut namespaces =
        serde_json::json!([{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"}]);
    let nest = nested.then(|| Nest { base: nest::trial_base(), user: user.clone() });
    let both = [user.as_path(), net.as_path()];
    let _kept = Kept(&both);
    if let Some(nest) = &nest {
        for (at, mode) in [(inner.host.run().to_owned(), 0o711), (directory.path().to_owned(), 0o711)] {
            let now = fs::metadata(&at).map_err(io)?.permissions().mode();
            fs::set_permissions(&at, fs::Permissions::from_mode(now | mode)).map_err(io)?;
        }
        nest::make(&inner.shim, nest.base, &user, &net).map_err(io)?;
    }
    let more = match &nest {
        Some(_) => {
            vec![serde_json::json!({"type": "user", "path": user}), serde_json::json!({"type": "network", "path": net})]
        }
        None => vec![serde_json::json!({"type": "network"})],
    };
    if let Some(all) = namespaces.as_array_mut() {
        all.extend(more);
    }
    let mounted = Tree::mount(directory.path(), nest.as_ref()).map_err(|e| {
        if nested {
            return DriverError::io("mount a file tree for a user namespace", e);
        }
        let message = "this host's kernel cannot mount overlayfs: load the overlay module, or put yun's root on ext4, xfs or btrfs";
        DriverError::unavailable("OverlayMissing", message).with(e)
    })?;
    let id = format!("probe-{}", uuid::Uuid::new_v4().simple());
    let cgroup = format!("/{}/{id}", inner.host.cgroup());
    let mut config = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {"terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["/shim", "trial"], "cwd": "/", "noNewPrivileges": true},
        "root": {"path": path("rootfs")},
        "mounts": [],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": namespaces,
            "resources": {"pids": {"limit": 16}},
        },
    });
    if let Some(nest) = &nest {
        let ids = serde_json::json!([{"containerID": 0, "hostID": nest.base, "size": nest::SIZE}]);
        config["linux"]["uidMappings"] = ids.clone();
        config["linux"]["gidMappings"] = ids;
        config["mounts"] = serde_json::json!([{"destination": "/proc", "type": "proc", "source": "proc"}]);
    }
    fs::write(path("config.json"), config.to_string()).map_err(io)?;
    let mut command = Command::new(&inner.options.runtime);
    command.arg("--root").arg(path("crun")).arg("--log").arg(path("log")).args([
        "--log-format",
        "json",
        "run",
        "--bundle",
    ]);
    let output = bounded(command.arg(directory.path()).arg(&id), inner.options.patience);
    drop(mounted);
    if let Some(layout) = inner.layout() {
        // What crun leaves after a failure is ours by its name.
        let _ = layout.group(&cgroup).remove();
    }
    match output.map_err(|e| runtime_missing(&inner.options.runtime, e))?.status.code() {
        Some(42) => Ok(version),
        code => {
            let said = crun_said(&path("log"));
            let message = format!("a container for trial does not run on this host ({version}, exit {code:?}): {said}");
            Err(DriverError::unavailable("RuntimeBroken", message))
        }
    }
}

/// A mounted file tree that goes away with this value.
struct Tree<'a>(&'a Path);

impl<'a> Tree<'a> {
    fn mount(directory: &'a Path, nest: Option<&Nest>) -> io::Result<Self> {
        if let Some(nest) = nest {
            overlay::mount_mapped(directory, &directory.join("rootfs"), &[directory.join("layer")], directory, nest)?;
            return Ok(Self(directory));
        }
        let part = |name: &str| directory.join(name).display().to_string();
        let data = format!("lowerdir={},upperdir={},workdir={}", part("layer"), part("upper"), part("work"));
        mount(Some("overlay"), &directory.join("rootfs"), Some("overlay"), MsFlags::empty(), Some(data.as_str()))?;
        Ok(Self(directory))
    }
}

impl Drop for Tree<'_> {
    fn drop(&mut self) {
        // If this fails the directory stays, too; the next probe makes its own.
        let _ = nix::mount::umount2(&self.0.join("rootfs"), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Files that keep namespaces, which go away with this value.
struct Kept<'a>(&'a [&'a Path]);

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        for file in self.0 {
            // Their directory is removed next, and with it what is left.
            let _ = nest::release(file);
        }
    }
}

/// Runs a program to its end, and ends it if that does not come.
fn bounded(command: &mut Command, limit: Duration) -> io::Result<Output> {
    use std::os::unix::process::CommandExt;
    let child = command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let group = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
    let (done, answer) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    answer.recv_timeout(limit).unwrap_or_else(|_| {
        // Nobody has reaped it: its group is still its own.
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let text = format!("the runtime hangs, and was ended after {limit:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    })
}

fn runtime_missing(runtime: &Path, e: io::Error) -> DriverError {
    if e.kind() == io::ErrorKind::NotFound {
        return DriverError::unavailable(
            "RuntimeMissing",
            format!("{} is not installed: run apt-get install crun", runtime.display()),
        )
        .with(e);
    }
    DriverError::io(format!("start {}", runtime.display()), e)
}

fn version(runtime: &Path, limit: Duration) -> Result<String> {
    let output = bounded(Command::new(runtime).arg("--version"), limit).map_err(|e| runtime_missing(runtime, e))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // `crun version 1.8.1`
    Ok(text.lines().next().unwrap_or("unknown").replace(" version ", " "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Version 1 in use, and version 2 beside it with these controllers.
    fn host(directory: &Path, controllers: &str) -> Layout {
        let unified = directory.join("unified");
        fs::create_dir(&unified).unwrap();
        fs::write(unified.join("cgroup.controllers"), controllers).unwrap();
        Layout { v1: BTreeMap::from([("memory".to_owned(), directory.join("memory"))]), v2: Some(unified) }
    }

    #[test]
    fn controllers_that_others_may_use_are_never_moved() {
        let directory = tempfile::tempdir().unwrap();
        let error = unmix(host(directory.path(), "cpu hugetlb\n")).unwrap_err();
        assert_eq!((error.kind, error.reason), (ErrorKind::Unavailable, "CgroupsMixed"));
        assert!(
            error.message.contains("version 2 holds cpu hugetlb") && error.message.contains("mount -t cgroup"),
            "{error}"
        );
    }

    #[test]
    fn a_host_that_is_not_mixed_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let layout = host(directory.path(), "\n");
        assert_eq!(unmix(layout.clone()).unwrap(), layout);
    }
}
