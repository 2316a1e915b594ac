//! What is written about a container, and where: the paths, and the small records that its driver and its shim exchange.

use super::process::Process;
use crate::host::Host;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};
use yun_drivers::Fittings;
use yun_types::{Exit, Generation, InstanceId, Stdin, Timestamp};

/// The paths of one container.
#[derive(Debug, Clone)]
pub(super) struct Files {
    /// Whose.
    pub(super) id: InstanceId,
    /// Outlives a reboot.
    pub(super) durable: PathBuf,
    /// Ends with the host's uptime.
    pub(super) run: PathBuf,
    /// Where crun keeps its own state of all containers.
    pub(super) crun_root: PathBuf,
    /// The cgroup, in every hierarchy.
    pub(super) cgroup: String,
}

impl Files {
    pub(super) fn new(host: &Host, id: InstanceId) -> Self {
        Self {
            id,
            durable: host.instance_dir(id),
            run: host.instance_run(id),
            crun_root: host.run().join("crun"),
            cgroup: format!("/{}/{id}", host.cgroup()),
        }
    }
    /// Where the container's file tree is mounted.
    pub(super) fn rootfs(&self) -> PathBuf {
        self.run.join("rootfs")
    }
    /// crun's state of this container.
    pub(super) fn crun_state(&self) -> PathBuf {
        self.crun_root.join(self.id.to_string())
    }
    /// The newest log file; older ones have a number behind.
    pub(super) fn log(&self) -> PathBuf {
        self.durable.join("container.log")
    }
    /// The OCI configuration.
    pub(super) fn config(&self) -> PathBuf {
        self.durable.join("config.json")
    }
    pub(super) fn prepared(&self) -> Option<Prepared> {
        read_json(&self.durable.join("prepared.json"))
    }
    pub(super) fn write_prepared(&self, prepared: &Prepared) -> io::Result<()> {
        write_json(&self.durable.join("prepared.json"), prepared)
    }
    /// What is plugged in beside the first interface.
    pub(super) fn fittings(&self) -> Fittings {
        read_json(&self.durable.join("fittings.json")).unwrap_or_default()
    }
    pub(super) fn write_fittings(&self, fittings: &Fittings) -> io::Result<()> {
        write_json(&self.durable.join("fittings.json"), fittings)
    }
    pub(super) fn attempt(&self) -> Option<Attempt> {
        read_json(&self.durable.join("attempt"))
    }
    pub(super) fn write_attempt(&self, attempt: &Attempt) -> io::Result<()> {
        write_json(&self.durable.join("attempt"), attempt)
    }
    /// What the shim said about the process of this attempt.
    pub(super) fn running(&self, attempt: &Attempt) -> Option<Running> {
        let text = fs::read_to_string(self.run.join("running")).ok()?;
        Running::parse(&text, &attempt.token)
    }
    /// What the shim said about the end of this attempt: `Some(None)` if it ended and nobody could tell how.
    pub(super) fn exit(&self, attempt: &Attempt) -> Option<Option<Exit>> {
        // The second place is for a disk that was full.
        [&self.durable, &self.run].into_iter().find_map(|directory| {
            let text = fs::read_to_string(directory.join("exit")).ok()?;
            parse_exit(&text, &attempt.token)
        })
    }
    /// The pid that crun wrote.
    pub(super) fn pid(&self) -> Option<i32> {
        fs::read_to_string(self.run.join("pid")).ok()?.trim().parse().ok()
    }
}

/// What `start` needs to know from `prepare`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Prepared {
    /// What it was prepared for.
    pub(super) generation: Generation,
    /// The image's layers, lowest first.
    pub(super) layers: Vec<PathBuf>,
    /// The number of the signal that asks it to end.
    pub(super) stop_signal: i32,
    /// Whether its main process has a terminal.
    pub(super) tty: bool,
    /// What becomes of its standard input.
    #[serde(default)]
    pub(super) stdin: Stdin,
    /// The first id of its user namespace, if it has one.
    #[serde(default)]
    pub(super) base: Option<u32>,
    /// The host's number of the user of its main process.
    #[serde(default)]
    pub(super) owner: u32,
}

/// One start, written down before anything is done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attempt {
    /// Every record about this start carries it.
    pub(super) token: String,
    /// The boot of the host that it happened in.
    pub(super) boot: String,
}

/// A running container, as its shim describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Running {
    /// Its main process.
    pub(super) main: Process,
    /// The shim beside it, which may be dead.
    pub(super) shim: Process,
    /// When it began, as the shim wrote it.
    pub(super) since: Timestamp,
    /// The process that keeps the terminal or the standard input open, or 0.
    pub(super) keeper: i32,
}

impl Running {
    /// Reads `TOKEN PID START SHIM SHIM-START SINCE KEEPER`; `None` if it is about another attempt.
    fn parse(text: &str, token: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        (words.next()? == token).then_some(())?;
        let mut process = || Some(Process { pid: words.next()?.parse().ok()?, started: words.next()?.parse().ok()? });
        let (main, shim) = (process()?, process()?);
        Some(Self { main, shim, since: words.next()?.parse().ok()?, keeper: words.next()?.parse().ok()? })
    }
}

/// Reads `TOKEN CODE|? SIGNAL OOM-KILLS TIME`.
fn parse_exit(text: &str, token: &str) -> Option<Option<Exit>> {
    let mut words = text.split_ascii_whitespace();
    (words.next()? == token).then_some(())?;
    let code = words.next()?;
    if code == "?" {
        return Some(None);
    }
    let code: i32 = code.parse().ok()?;
    let signal: i32 = words.next()?.parse().ok()?;
    let kills: u64 = words.next()?.parse().ok()?;
    // 137 also without a signal: a shell passes on in this way that its only child was killed.
    let out_of_memory = kills > 0 && code == 137;
    Some(Some(Exit { code, signal: (signal != 0).then_some(signal), out_of_memory, at: words.next()?.parse().ok()? }))
}

/// Replaces a file at once. Not forced to disk: after a power cut an old or unreadable record only means that the work is done again.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    fs::write(&draft, bytes)?;
    fs::rename(&draft, path)
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    replace(path, &serde_json::to_vec(value)?)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Makes a directory that only root may enter: below it are programs of images that run with other rights than their callers.
pub(super) fn make_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes a file or a whole directory. Ok when nothing is there.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => fs::remove_file(path),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_another_attempt_say_nothing() {
        let line = "t1 100 200 300 400 2026-11-21T05:43:30.349209123Z 0\n";
        let running = Running::parse(line, "t1").unwrap();
        assert_eq!(
            (running.main, running.shim),
            (Process { pid: 100, started: 200 }, Process { pid: 300, started: 400 })
        );
        assert_eq!(Running::parse(line, "t2"), None);
        assert_eq!(Running::parse("t1 100 200 300", "t1"), None);
        assert_eq!(parse_exit("t1 0 0 0 2026-11-21T05:43:30Z", "t2"), None);
    }

    #[test]
    fn exits_say_code_signal_and_memory() {
        let at = "2026-11-21T05:43:30.000000001Z";
        let exit = |text: &str| parse_exit(&format!("t {text} {at}\n"), "t").unwrap();
        assert!(exit("0 0 0").unwrap().success());
        let killed = exit("137 9 1").unwrap();
        assert_eq!((killed.code, killed.signal, killed.out_of_memory), (137, Some(9), true));
        assert!(!exit("137 9 0").unwrap().out_of_memory, "an ordinary kill is no lack of memory");
        assert!(!exit("1 0 3").unwrap().out_of_memory, "it outlived the death of a child");
        assert_eq!(exit("? 0 0"), None);
        assert_eq!(parse_exit("t 1", "t"), None);
    }
}
