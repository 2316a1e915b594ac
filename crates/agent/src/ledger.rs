//! The agent's memory on disk: one file an instance, one file a network.
//!
//! An entry is written *before* the agent acts, so that whatever a crash leaves behind has an entry that names it. Each writing makes a new
//! file, `ID.NUMBER.json`, and then removes the one before: whoever reads takes the highest number that is whole. They are not forced to the
//! disk: an agent's crash leaves them in the kernel's memory, which is where the next agent reads them, and a crash of the *host* ends every
//! process and every attachment that they name. What survives a host crash is asked for again by id: the control plane's snapshot names each
//! instance, and `remove` needs no entry. So a launch waits for no disk. (A rename over the file before would: file systems take it as a
//! wish for durability, and begin to write at once.)
//!
//! The writes are a few kilobytes into the page cache, made in place: handing them to another thread takes longer than they do.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};
use yun_drivers::{Attachment, InstanceHandle};
use yun_types::{
    DesiredInstance, DesiredMount, DesiredNetwork, Exit, Generation, HealthStatus, InstanceId, InstanceSpec, NetworkId,
    Timestamp,
};

/// The form of entries. A newer one that this program does not know is left alone.
const VERSION: u32 = 1;

/// What the agent was about to do, or has done.
///
/// ```text
///  New ─▶ Starting ─▶ Running ─▶ Stopping ─▶ Stopped
///            ▲  ▲ │      │           │ (again)   │
///            │  │ ▼      ▼           │           │
///            │  Waiting / Finished   │           │
///            └──────────────────────┴───────────┘
///  any ─▶ Removing ─▶ Removed
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Nothing was done yet.
    New,
    /// A start is wanted and under way.
    Starting,
    /// It was started and seen.
    Running,
    /// It is being ended, and then …
    Stopping(Then),
    /// It was ended because it should not run.
    Stopped,
    /// It ended by itself or could not start, and is tried again at `next_restart`.
    Waiting,
    /// It ended by itself or could not start, and stays so until somebody wants something else.
    Finished,
    /// All of it is being removed.
    Removing,
    /// All of it is gone; only the entry is left.
    Removed,
}

/// What comes after the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Then {
    /// Nothing: it should not run.
    Rest,
    /// A start: a restart was asked for.
    Again,
    /// Nothing: it failed, as `ending` says.
    Fail,
    /// What its restart policy says: it failed, as `ending` says.
    Policy,
}

/// Why an instance does not run, or what troubles it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ending {
    /// Whether that is a failure.
    pub(crate) failed: bool,
    /// Whether it ran at all.
    pub(crate) ran: bool,
    /// One word for programs.
    pub(crate) reason: String,
    /// For people.
    pub(crate) message: String,
}

/// All that the agent must remember of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The form of this entry.
    pub(crate) version: u32,
    /// The newest order.
    pub(crate) desired: DesiredInstance,
    /// What the agent was about to do.
    pub(crate) phase: Phase,
    /// The newest generation that was carried out.
    pub(crate) caught_up: Generation,
    /// The driver's name for it.
    pub(crate) handle: Option<InstanceHandle>,
    /// The generation that `handle` was prepared for.
    pub(crate) prepared: Option<Generation>,
    /// The boot of the host under which it was connected and prepared: processes and attachments of another boot are gone.
    pub(crate) boot_id: String,
    /// What it runs with now; a changed spec may need a restart.
    pub(crate) runs_with: Option<InstanceSpec>,
    /// The generation whose limits it was brought to while it ran, as far as it could take them on.
    #[serde(default)]
    pub(crate) adjusted: Option<Generation>,
    /// Why it could not take all of them on.
    #[serde(default)]
    pub(crate) adjust_note: Option<String>,
    /// Its first connection.
    pub(crate) attachment: Option<Attachment>,
    /// Its other connections.
    #[serde(default)]
    pub(crate) more_attachments: Vec<Attachment>,
    /// The volumes that are plugged into it.
    #[serde(default)]
    pub(crate) fitted: Vec<DesiredMount>,
    /// Restarts by policy since the last start that a user asked for.
    pub(crate) restarts: u32,
    /// Restarts by policy in a row, without a minute of running between them.
    pub(crate) streak: u32,
    /// The value of `spec.restart_count` that was carried out.
    pub(crate) restart_count: u64,
    /// The count of the last restore that was carried out.
    #[serde(default)]
    pub(crate) restores: u64,
    /// Its memory is on disk, and its next start goes on from there.
    #[serde(default)]
    pub(crate) hibernated: bool,
    /// When it is tried again.
    pub(crate) next_restart: Option<Timestamp>,
    /// When it last began to run.
    pub(crate) started: Option<Timestamp>,
    /// How it last ended.
    pub(crate) exit: Option<Exit>,
    /// Why it does not run.
    pub(crate) ending: Option<Ending>,
    /// The guest has answered since the start.
    pub(crate) answered: bool,
    /// What it answered to its health check since the start.
    #[serde(default)]
    pub(crate) health: Option<HealthStatus>,
}

impl Entry {
    /// The entry of an instance of which nothing was done yet.
    pub(crate) fn new(desired: DesiredInstance) -> Self {
        Self {
            version: VERSION,
            phase: Phase::New,
            caught_up: Generation(0),
            handle: None,
            prepared: None,
            boot_id: String::new(),
            runs_with: None,
            adjusted: None,
            adjust_note: None,
            attachment: None,
            more_attachments: Vec::new(),
            fitted: Vec::new(),
            restarts: desired.restarts,
            streak: 0,
            restart_count: desired.restart_count,
            restores: desired.restores,
            hibernated: false,
            next_restart: None,
            started: None,
            exit: None,
            ending: None,
            answered: false,
            health: None,
            desired,
        }
    }

    /// Its id.
    pub(crate) fn id(&self) -> InstanceId {
        self.desired.id
    }
}

/// What was found on disk.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    pub(crate) instances: Vec<Entry>,
    pub(crate) networks: Vec<DesiredNetwork>,
}

/// The directory of entries.
#[derive(Debug)]
pub(crate) struct Ledger {
    instances: Shelf,
    networks: Shelf,
}

impl Ledger {
    /// Opens the ledger under `state`, and makes it at the first start.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let directory = state.join("ledger");
        Ok(Self { networks: Shelf::open(directory.join("networks"))?, instances: Shelf::open(directory)? })
    }

    /// Reads all entries. What cannot be read is set aside under `.damaged`, for people.
    pub(crate) fn load(&self) -> io::Result<Remembered> {
        let mut instances: Vec<Entry> = self.instances.read_all()?;
        instances.retain(|entry| {
            let known = entry.version <= VERSION;
            if !known {
                let (instance, version) = (entry.id(), entry.version);
                tracing::error!(%instance, version, "this ledger entry was written by a newer yun; it is left alone");
            }
            known
        });
        Ok(Remembered { instances, networks: self.networks.read_all()? })
    }

    /// Reads one instance's entry. `None` if there is none that can be read.
    pub(crate) fn read(&self, id: InstanceId) -> Option<Entry> {
        self.instances.read(&id.to_string())
    }
    /// Writes an instance's entry.
    pub(crate) fn write(&self, entry: &Entry) -> io::Result<()> {
        self.instances.write(&entry.id().to_string(), entry)
    }
    /// Removes an instance's entry. Ok when there is none.
    pub(crate) fn forget(&self, id: InstanceId) -> io::Result<()> {
        self.instances.forget(&id.to_string())
    }
    /// Writes a network.
    pub(crate) fn write_network(&self, network: &DesiredNetwork) -> io::Result<()> {
        self.networks.write(&network.id.to_string(), network)
    }
    /// Removes a network. Ok when there is none.
    pub(crate) fn forget_network(&self, id: NetworkId) -> io::Result<()> {
        self.networks.forget(&id.to_string())
    }
}

/// One directory of numbered files.
#[derive(Debug)]
struct Shelf {
    directory: PathBuf,
    /// The number of the newest file of each name.
    newest: Mutex<BTreeMap<String, u64>>,
}

impl Shelf {
    fn open(directory: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        let shelf = Self { directory, newest: Mutex::default() };
        for (name, numbers) in shelf.files()? {
            shelf
                .newest
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(name, numbers.into_iter().max().unwrap_or_default());
        }
        Ok(shelf)
    }

    fn path(&self, name: &str, number: u64) -> PathBuf {
        self.directory.join(format!("{name}.{number}.json"))
    }

    /// The numbers of each name, in any order.
    fn files(&self) -> io::Result<BTreeMap<String, Vec<u64>>> {
        let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for file in fs::read_dir(&self.directory)? {
            let file = file?.file_name();
            let parts = file.to_str().and_then(|file| file.strip_suffix(".json")?.rsplit_once('.'));
            if let Some((name, Ok(number))) = parts.map(|(name, number)| (name, number.parse())) {
                found.entry(name.to_owned()).or_default().push(number);
            }
        }
        Ok(found)
    }

    fn read_all<T: DeserializeOwned>(&self) -> io::Result<Vec<T>> {
        let mut entries = Vec::new();
        for (name, mut numbers) in self.files()? {
            numbers.sort_unstable_by(|a, b| b.cmp(a));
            let mut whole = None;
            for number in numbers {
                let path = self.path(&name, number);
                if whole.is_some() {
                    // A crash came between writing the newer one and removing this.
                    fs::remove_file(&path)?;
                    continue;
                }
                match serde_json::from_slice(&fs::read(&path)?) {
                    Ok(entry) => {
                        self.newest.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), number);
                        whole = Some(entry);
                    }
                    Err(error) => {
                        tracing::error!(path = %path.display(), %error, "a ledger entry is damaged and was set aside; the one before counts, or the control plane names it again");
                        fs::rename(&path, path.with_extension("damaged"))?;
                    }
                }
            }
            entries.extend(whole);
        }
        Ok(entries)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let number = *self.newest.lock().unwrap_or_else(PoisonError::into_inner).get(name)?;
        serde_json::from_slice(&fs::read(self.path(name, number)).ok()?).ok()
    }

    fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let bytes = serde_json::to_vec(value)?;
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let before = newest.get(name).copied();
        let number = before.map_or(1, |before| before.saturating_add(1));
        let path = self.path(name, number);
        if let Err(error) = fs::write(&path, bytes) {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        newest.insert(name.to_owned(), number);
        drop(newest);
        before.map_or(Ok(()), |before| absent(fs::remove_file(self.path(name, before))))
    }

    fn forget(&self, name: &str) -> io::Result<()> {
        let number = self.newest.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        number.map_or(Ok(()), |number| absent(fs::remove_file(self.path(name, number))))
    }
}

/// What is not there need not be removed.
fn absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tests::desired;

    fn ledger() -> (tempfile::TempDir, Ledger) {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path()).unwrap();
        (directory, ledger)
    }

    #[test]
    fn what_is_written_is_read_by_the_next_agent() {
        let (directory, ledger) = ledger();
        let mut entry = Entry::new(desired());
        entry.phase = Phase::Stopping(Then::Again);
        ledger.write(&entry).unwrap();
        ledger.write(&entry).unwrap();
        let again = Ledger::open(directory.path()).unwrap().load().unwrap();
        assert_eq!(again.instances, std::slice::from_ref(&entry));
        assert_eq!(ledger.read(entry.id()), Some(entry.clone()));
        ledger.forget(entry.id()).unwrap();
        ledger.forget(entry.id()).unwrap();
        assert_eq!(ledger.load().unwrap().instances, []);
        assert_eq!(ledger.read(entry.id()), None);
    }

    fn names(directory: &tempfile::TempDir) -> Vec<String> {
        let path = directory.path().join("ledger");
        let mut names: Vec<_> =
            fs::read_dir(path).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_crash_while_writing_leaves_the_entry_before() {
        let (directory, ledger) = ledger();
        let entry = Entry::new(desired());
        ledger.write(&entry).unwrap();
        let id = entry.id();
        fs::write(directory.path().join(format!("ledger/{id}.2.json")), "{ half").unwrap();
        fs::write(directory.path().join("ledger/notes.txt"), "of somebody").unwrap();
        let ledger = Ledger::open(directory.path()).unwrap();
        assert_eq!(ledger.load().unwrap().instances, std::slice::from_ref(&entry));
        assert_eq!(
            names(&directory),
            [format!("{id}.1.json"), format!("{id}.2.damaged"), "networks".into(), "notes.txt".into()]
        );
        ledger.write(&entry).unwrap();
        assert_eq!(Ledger::open(directory.path()).unwrap().load().unwrap().instances, [entry]);
    }

    #[test]
    fn a_crash_before_the_older_one_was_removed_takes_the_newer() {
        let (directory, ledger) = ledger();
        let (older, newer) = (Entry::new(desired()), Entry { phase: Phase::Running, ..Entry::new(desired()) });
        for (number, entry) in [(9, &older), (10, &newer)] {
            let path = directory.path().join(format!("ledger/{}.{number}.json", entry.id()));
            fs::write(path, serde_json::to_vec(entry).unwrap()).unwrap();
        }
        assert_eq!(ledger.load().unwrap().instances, [newer]);
        assert_eq!(names(&directory).len(), 2, "the older one is gone");
    }

    #[test]
    fn an_entry_of_a_newer_program_is_left_alone() {
        let (directory, ledger) = ledger();
        let entry = Entry { version: VERSION + 1, ..Entry::new(desired()) };
        ledger.write(&entry).unwrap();
        assert_eq!(ledger.load().unwrap().instances, []);
        assert!(directory.path().join(format!("ledger/{}.1.json", entry.id())).exists());
    }

    /// Entries that were written by released programs must be read for ever.
    #[test]
    fn the_first_form_is_still_read() {
        let text = include_str!("../tests/ledger-v1.json");
        let entry: Entry = serde_json::from_str(text).unwrap();
        assert_eq!((entry.version, entry.phase, entry.restarts), (1, Phase::Running, 2));
        assert!(entry.handle.is_some() && entry.attachment.is_some());
        // Then an instance had one interface and no volume.
        assert!(entry.more_attachments.is_empty() && entry.fitted.is_empty() && entry.desired.more_nics.is_empty());
    }
}
