//! What a VM leaves on its node, and where. One directory that outlives the host's uptime, one that does not.
//!
//! ```text
//! instances/ID/  disk.qcow2    its disk: a layer over the image, never replaced once it is there
//!                cidata.img    what cloud-init reads
//!                plan.json     what a start needs, written by `prepare`
//!                fittings.json what is plugged in beside the disk and the first interface
//!                room.json     how far the last run could grow (module `resize`)
//!                run.json      the last run: who it is, and how it ended
//!                events.json   QEMU's own journal of the last run
//!                qemu.log      what QEMU printed in the last run
//!                console.log   the serial console of all runs
//!                resume.json   there is a memory that the next start goes on with, and what it needs for that
//!                memory        that memory
//!                identity      the guest that goes on with it was another one's: it must be told who it is; the addresses that it knows
//!                snapshots/ID/ what it was at one moment (module `snapshot`)
//! i/SHORT/       qmp serial agent pid hello      sockets of the running QEMU
//! i/SHORT/next/  those of the QEMU that takes its guest over (module `hand_over`); its own records have `.next` in their names
//! ```

use super::{
    identity::Wish,
    process::{Process, boot_id},
    resize::Room,
};
use crate::host::Host;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};
use yun_drivers::{DriverError, ErrorKind, Fittings, Result};
use yun_types::{Accel, Cpu, Exit, Generation, InstanceId, Name, NetworkId, Timestamp};

/// Where the parts of one VM are.
#[derive(Debug, Clone)]
pub(super) struct Files {
    /// Outlives a reboot.
    pub(super) dir: PathBuf,
    /// Ends with the host's uptime; on a short path.
    pub(super) run: PathBuf,
    /// Whether these are of the QEMU that takes the guest over.
    pub(super) next: bool,
}

/// Everything that a start needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Which instance.
    pub(super) id: InstanceId,
    /// Its name.
    pub(super) name: Name,
    /// The generation of the spec that this follows.
    pub(super) generation: Generation,
    /// What it was given of the processor.
    pub(super) cpu: Cpu,
    /// Its memory in MiB.
    pub(super) memory_mib: u64,
    /// The image's disk, under the VM's own.
    pub(super) base: Option<PathBuf>,
    /// A kernel that QEMU loads itself.
    pub(super) kernel: Option<DirectBoot>,
    /// Where it is in its network.
    pub(super) network: Option<Connection>,
}

/// A boot without a boot loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DirectBoot {
    /// The kernel.
    pub(super) kernel: PathBuf,
    /// The first file system.
    pub(super) initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub(super) cmdline: String,
}

/// A connection to a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Connection {
    /// The network.
    pub(super) network: NetworkId,
    /// The tap on the host.
    pub(super) tap: String,
    /// The guest's hardware address.
    pub(super) mac: String,
    /// The guest's address.
    pub(super) address: Ipv4Addr,
    /// The size of the network, if it was written down.
    #[serde(default)]
    pub(super) prefix: Option<u8>,
    /// The way out, if it was written down.
    #[serde(default)]
    pub(super) gateway: Option<Ipv4Addr>,
    /// The largest packet.
    pub(super) mtu: u16,
}

/// One run of a VM, from start to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// Its QEMU.
    pub(super) process: Process,
    /// The boot of the host in which it ran.
    pub(super) boot_id: String,
    /// When it began.
    pub(super) since: Timestamp,
    /// How its instructions ran.
    pub(super) accel: Accel,
    /// How it ended, once that was seen.
    #[serde(default)]
    pub(super) exit: Option<Exit>,
}

impl Run {
    /// True while it goes on.
    pub(super) fn is_alive(&self) -> bool {
        self.exit.is_none() && self.boot_id == boot_id() && self.process.is_alive()
    }
}

impl Files {
    /// The files of one instance.
    pub(super) fn of(host: &Host, id: InstanceId) -> Self {
        Self { dir: host.instance_dir(id), run: host.instance_run(id), next: false }
    }

    /// Those of the QEMU that takes the guest over.
    pub(super) fn of_next(&self) -> Self {
        Self { dir: self.dir.clone(), run: self.run.join("next"), next: true }
    }

    /// A record of the run itself, which the next one has of its own.
    fn record(&self, stem: &str, extension: &str) -> PathBuf {
        let next = if self.next { ".next" } else { "" };
        self.dir.join(format!("{stem}{next}.{extension}"))
    }

    /// Makes both directories. Only root looks into them: a disk holds secrets.
    pub(super) fn make(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        for path in [&self.dir, &self.run] {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|e| DriverError::io(format!("make the directory {}", path.display()), e))?;
        }
        Ok(())
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.dir.join("disk.qcow2")
    }
    pub(super) fn cidata(&self) -> PathBuf {
        self.dir.join("cidata.img")
    }
    pub(super) fn journal(&self) -> PathBuf {
        self.record("events", "json")
    }
    pub(super) fn words(&self) -> PathBuf {
        self.record("qemu", "log")
    }
    pub(super) fn console_log(&self) -> PathBuf {
        self.dir.join("console.log")
    }
    pub(super) fn resume(&self) -> PathBuf {
        self.record("resume", "json")
    }
    pub(super) fn memory(&self) -> PathBuf {
        self.dir.join("memory")
    }
    pub(super) fn identity(&self) -> PathBuf {
        self.dir.join("identity")
    }
    pub(super) fn snapshots(&self) -> PathBuf {
        self.dir.join("snapshots")
    }
    pub(super) fn qmp(&self) -> PathBuf {
        self.run.join("qmp")
    }
    pub(super) fn serial(&self) -> PathBuf {
        self.run.join("serial")
    }
    pub(super) fn agent(&self) -> PathBuf {
        self.run.join("agent")
    }
    pub(super) fn pid(&self) -> PathBuf {
        self.run.join("pid")
    }
    /// What old QEMUs call a pipe: `journal.in` leads to the hello, `journal.out` to the journal.
    pub(super) fn journal_pipe(&self) -> PathBuf {
        self.run.join("journal")
    }

    pub(super) fn hello(&self) -> PathBuf {
        self.run.join("hello")
    }

    /// What `prepare` decided. `NotFound` if it never ran.
    pub(super) fn plan(&self) -> Result<Plan> {
        let path = self.dir.join("plan.json");
        read_json(&path).map_err(|e| {
            if e.kind() == io::ErrorKind::NotFound {
                return DriverError::new(
                    ErrorKind::NotFound,
                    "NotPrepared",
                    format!("{} holds no prepared VM; prepare it first", self.dir.display()),
                );
            }
            let message = format!(
                "the plan of a VM, {}, is damaged: {e}; it is written again by the next change of the instance",
                path.display()
            );
            DriverError::new(ErrorKind::Damaged, "StateDamaged", message).with(e)
        })
    }

    /// Keeps what `prepare` decided.
    pub(super) fn write_plan(&self, plan: &Plan) -> Result<()> {
        write_json(&self.dir.join("plan.json"), plan)
    }

    /// What is plugged in beside the disk and the first interface.
    pub(super) fn fittings(&self) -> Fittings {
        read_json(&self.dir.join("fittings.json")).unwrap_or_default()
    }

    /// Keeps what is plugged in.
    pub(super) fn write_fittings(&self, fittings: &Fittings) -> Result<()> {
        write_json(&self.dir.join("fittings.json"), fittings)
    }

    /// How far the last run could grow; none if it could not.
    pub(super) fn room(&self) -> Option<Room> {
        read_json(&self.record("room", "json")).ok().flatten()
    }

    /// Keeps how far the run that begins can grow.
    pub(super) fn write_room(&self, room: Option<Room>) -> Result<()> {
        write_json(&self.record("room", "json"), &room)
    }

    /// Keeps that the guest which goes on must be told who it is.
    pub(super) fn write_identity(&self, wish: &Wish) -> Result<()> {
        write_json(&self.identity(), wish)
    }

    /// The last run. A record that cannot be read is one that a crash of the host cut short: nothing runs since then.
    pub(super) fn last_run(&self) -> Option<Run> {
        read_json(&self.record("run", "json")).ok()
    }

    /// Keeps the current run.
    pub(super) fn write_run(&self, run: &Run) -> Result<()> {
        write_json(&self.record("run", "json"), run)
    }

    /// The records that each QEMU has of its own.
    pub(super) fn records(&self) -> [PathBuf; 5] {
        [self.journal(), self.words(), self.resume(), self.record("room", "json"), self.record("run", "json")]
    }

    /// What QEMU printed in the last run, at most the last 16 KiB.
    pub(super) fn said(&self) -> String {
        let bytes = std::fs::read(self.words()).unwrap_or_default();
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(16 << 10)..]).into_owned()
    }
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    serde_json::from_slice(&std::fs::read(path)?).map_err(io::Error::from)
}

/// Writes all of it or nothing: readers see the old content or the new.
pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let wrong = |e: io::Error| DriverError::io(format!("write {}", path.display()), e);
    let bytes = serde_json::to_vec_pretty(value).map_err(|e| wrong(e.into()))?;
    replace(path, &bytes).map_err(wrong)
}

/// Gives a file new content by one rename.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, bytes)?;
    std::fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_another_boot_is_over() {
        let process = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let run = Run { process, boot_id: boot_id(), since: chrono::Utc::now(), accel: Accel::Tcg, exit: None };
        assert!(run.is_alive());
        assert!(!Run { boot_id: "another".into(), ..run }.is_alive());
    }

    #[test]
    fn sockets_fit_into_an_address() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::open(&root.path().join("a-very-long-name/".repeat(6))).unwrap();
        let files = Files::of(&host, InstanceId(uuid::Uuid::from_u128(u128::MAX)));
        assert!(files.serial().as_os_str().len() < 108, "{}", files.serial().display());
        std::fs::remove_dir(host.run()).unwrap();
    }

    #[test]
    fn a_missing_plan_and_a_damaged_one_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files { dir: dir.path().into(), run: dir.path().into(), next: false };
        assert_eq!(files.plan().unwrap_err().kind, ErrorKind::NotFound);
        std::fs::write(dir.path().join("plan.json"), "{").unwrap();
        assert_eq!(files.plan().unwrap_err().kind, ErrorKind::Damaged);
    }
}
