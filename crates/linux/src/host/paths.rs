//! Where one cloud keeps its things on a host. Everything hangs under a root directory, so that several clouds fit on one machine.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use yun_types::{CloudId, InstanceId, NetworkId};

/// The directories and the identity of one cloud on one host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: PathBuf,
    run: PathBuf,
    cloud: CloudId,
}

/// Unix socket paths hold 107 bytes; the longest name that we put under `run` takes 60.
const LONGEST_RUN: usize = 46;

/// The first interface has the name alone, as it had when there was only one.
fn numbered(name: String, index: u32) -> String {
    if index == 0 { name } else { format!("{name}-{index}") }
}

impl Host {
    /// Opens the directories under `root` (`/` for an installed cloud), and makes them and the cloud's id at the first start.
    pub fn open(root: &Path) -> io::Result<Self> {
        let state = root.join("var/lib/yun");
        std::fs::create_dir_all(&state)?;
        let id_file = state.join("cloud-id");
        let cloud = match std::fs::read_to_string(&id_file) {
            Ok(text) => text.trim().parse().map_err(|e| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged: {e}", id_file.display()))
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let id = CloudId(uuid::Uuid::new_v4());
                let draft = state.join(".cloud-id");
                std::fs::write(&draft, format!("{id}\n"))?;
                std::fs::rename(&draft, &id_file)?;
                id
            }
            Err(e) => return Err(e),
        };
        let mut run = root.join("run/yun");
        if run.as_os_str().len() > LONGEST_RUN {
            run = PathBuf::from(format!("/run/yun-{}", cloud.short()));
        }
        std::fs::create_dir_all(&run)?;
        Ok(Self { inner: Arc::new(Inner { state, run, cloud }) })
    }

    /// Which cloud this is.
    pub fn cloud(&self) -> CloudId {
        self.inner.cloud
    }
    /// What must outlive a reboot.
    pub fn state(&self) -> &Path {
        &self.inner.state
    }
    /// What ends with the host's uptime: sockets, pids, mounts, namespaces. On a short path, because Unix sockets need one.
    pub fn run(&self) -> &Path {
        &self.inner.run
    }
    /// The durable directory of one instance.
    pub fn instance_dir(&self, id: InstanceId) -> PathBuf {
        self.inner.state.join("instances").join(id.to_string())
    }
    /// The run-time directory of one instance.
    pub fn instance_run(&self, id: InstanceId) -> PathBuf {
        self.inner.run.join("i").join(id.short())
    }
    /// Where images are kept.
    pub fn images(&self) -> PathBuf {
        self.inner.state.join("images")
    }
    /// The bridge of a network.
    pub fn bridge(&self, id: NetworkId) -> String {
        format!("yb{}", id.short())
    }
    /// A tap of a VM.
    pub fn tap(&self, id: InstanceId, index: u32) -> String {
        numbered(format!("yt{}", id.short()), index)
    }
    /// The host's end of a cable of a container.
    pub fn veth(&self, id: InstanceId, index: u32) -> String {
        numbered(format!("yv{}", id.short()), index)
    }
    /// Where volumes are kept.
    pub fn volumes(&self) -> PathBuf {
        self.inner.state.join("volumes")
    }
    /// The directory of this cloud in each cgroup hierarchy.
    pub fn cgroup(&self) -> String {
        format!("yun-{}", self.inner.cloud.short())
    }
}
