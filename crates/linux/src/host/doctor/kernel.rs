//! What the kernel can do, tried out in namespaces that end with the thread that made them.

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use std::{fs, io};

use super::Finding;
use crate::network::trial;

pub(super) fn check() -> Vec<Finding> {
    let release = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let mut findings = vec![version(&release), cgroups(), user_namespaces(), security()];
    if nix::unistd::geteuid().is_root() {
        findings.extend([overlay(), links()]);
    }
    findings
}

fn version(release: &str) -> Finding {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|p| p.parse::<u32>().unwrap_or(0));
    let is = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if is >= (5, 10) {
        return Finding::ok("kernel", release);
    }
    Finding::warning(
        "kernel",
        format!("{release} is older than 5.10, with which yun is known to work"),
        "apt-get install linux-image-amd64, and boot it",
    )
}

fn cgroups() -> Finding {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let of = |kind: &str| {
        mounts
            .lines()
            .filter_map(move |l| l.split(' ').nth(1).filter(|_| l.split(' ').nth(2) == Some(kind)))
            .collect::<Vec<_>>()
    };
    let unified =
        of("cgroup2").first().map(|p| (*p, fs::read_to_string(format!("{p}/cgroup.controllers")).unwrap_or_default()));
    judge_cgroups(!of("cgroup").is_empty(), unified.as_ref().map(|(path, controllers)| (*path, controllers.trim())))
}

/// `unified` is where version 2 is mounted, and the controllers it has.
fn judge_cgroups(version_1: bool, unified: Option<(&str, &str)>) -> Finding {
    match (version_1, unified) {
        (false, Some((_, controllers))) if controllers.contains("memory") && controllers.contains("cpu") => {
            Finding::ok("cgroups", format!("version 2 with {controllers}"))
        }
        (false, Some((path, controllers))) => {
            let found = format!("version 2 has only these controllers: {controllers}");
            Finding::problem(
                "cgroups",
                found,
                format!(
                    "echo '+cpu +memory +pids' > {path}/cgroup.subtree_control in the parent, or boot without cgroup_disable"
                ),
            )
        }
        (true, Some((_, controllers))) if !controllers.is_empty() => {
            let found = format!("version 1 is in use, but version 2 holds {controllers}: crun refuses such a mixture");
            let mounts: Vec<String> = controllers
                .split_whitespace()
                .map(|c| format!("mkdir -p /sys/fs/cgroup/{c} && mount -t cgroup -o {c} cgroup /sys/fs/cgroup/{c}"))
                .collect();
            Finding::warning("cgroups", found, mounts.join(" && "))
        }
        (true, _) => Finding::ok("cgroups", "version 1"),
        (false, None) => Finding::problem("cgroups", "none are mounted", "mount -t cgroup2 none /sys/fs/cgroup"),
    }
}

fn user_namespaces() -> Finding {
    let most = fs::read_to_string("/proc/sys/user/max_user_namespaces").ok().and_then(|t| t.trim().parse::<u64>().ok());
    match most {
        Some(0) => Finding::warning(
            "user namespaces",
            "switched off; containers cannot be given users of their own",
            "sysctl -w user.max_user_namespaces=15000",
        ),
        Some(most) => Finding::ok("user namespaces", format!("up to {most}")),
        None => Finding::warning("user namespaces", "this kernel has none", "boot a kernel with CONFIG_USER_NS"),
    }
}

fn security() -> Finding {
    if fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|t| t.trim() == "1") {
        let found = "SELinux enforces its policy, which does not know yun";
        return Finding::warning(
            "security modules",
            found,
            "setenforce 0, or label yun's root with chcon -R -t container_file_t",
        );
    }
    if fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.trim() == "Y") {
        return Finding::ok("security modules", "AppArmor; it lets yun work");
    }
    Finding::ok("security modules", "none in the way")
}

/// Runs a trial on a thread of its own, in namespaces of its own.
fn apart(flags: CloneFlags, trial: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("yun-doctor".to_owned()).spawn(move || {
        unshare(flags)?;
        trial()
    })?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the trial broke off")))
}

fn overlay() -> Finding {
    let tried = tempfile::tempdir().and_then(|folder| {
        let root = folder.path().to_owned();
        apart(CloneFlags::CLONE_NEWNS, move || {
            // Without this, the trial's mounts would be seen outside.
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
            mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
            for name in ["lower", "upper", "work", "merged"] {
                fs::create_dir(root.join(name))?;
            }
            let part = |name: &str| root.join(name).display().to_string();
            let options = format!("lowerdir={},upperdir={},workdir={}", part("lower"), part("upper"), part("work"));
            mount(Some("overlay"), &root.join("merged"), Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
            Ok(())
        })
    });
    match tried {
        Ok(()) => Finding::ok("overlay", "file systems can be laid over each other"),
        Err(e) => Finding::problem(
            "overlay",
            format!("overlayfs does not work: {e}; no containers without it"),
            "modprobe overlay",
        ),
    }
}

fn links() -> Finding {
    match apart(CloneFlags::CLONE_NEWNET, trial::links) {
        Ok(()) => Finding::ok("links", "bridges, cables and taps can be made"),
        Err(e) => Finding::problem("links", e.to_string(), "modprobe bridge && modprobe veth && modprobe tun"),
    }
}

pub(super) async fn packet_filter() -> Finding {
    match trial::packet_filter().await {
        Ok(()) => Finding::ok("packet filter", "nf_tables knows everything that networks need"),
        Err(e) if e.reason == "ProgramMissing" => {
            Finding::problem("packet filter", e.message, "apt-get install nftables")
        }
        Err(e) => Finding::problem(
            "packet filter",
            e.message,
            "modprobe -a nf_tables nft_chain_nat nft_fib_inet nft_masq nft_ct nf_tables_bridge",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::doctor::Level;

    #[test]
    fn cgroups_are_judged() {
        assert_eq!(judge_cgroups(false, Some(("/sys/fs/cgroup", "cpuset cpu io memory pids"))).level, Level::Ok);
        assert_eq!(judge_cgroups(true, Some(("/sys/fs/cgroup/unified", ""))).level, Level::Ok);
        assert_eq!(judge_cgroups(true, None).level, Level::Ok);
        let mixed = judge_cgroups(true, Some(("/sys/fs/cgroup/unified", "hugetlb")));
        assert_eq!(mixed.level, Level::Warning);
        assert!(mixed.mend.unwrap().contains("mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb"));
        assert_eq!(judge_cgroups(false, None).level, Level::Problem);
        assert_eq!(judge_cgroups(false, Some(("/x", "pids"))).level, Level::Problem);
    }

    #[test]
    fn old_kernels_are_told() {
        assert_eq!(version("6.18.5").level, Level::Ok);
        assert_eq!(version("5.10.0-30-amd64").level, Level::Ok);
        assert_eq!(version("4.19.0").level, Level::Warning);
    }
}
