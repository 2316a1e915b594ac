//! What this node has connected, kept in memory and in files. A file is written before anything is touched, so whatever a crash leaves
//! behind is named by a file, and a file that is in the way of nothing does no harm.
//!
//! The files live under the run directory, because links and rules end with the host's uptime. Each names the boot in which it was
//! written: after another boot (the run directory may be on a disk) nothing of what it names exists any more.

use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};
use yun_drivers::{Attachment, DriverError, Result};
use yun_types::{DesiredNetwork, InstanceId, InstanceKind, NetworkId};

/// How far an attachment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Phase {
    /// Begun; what exists of it is not known.
    Attaching,
    /// Complete.
    Attached,
    /// To be removed; what is left of it is not known.
    Detaching,
}

/// An instance that is connected, or was being connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MemberRecord {
    pub(super) boot: String,
    pub(super) phase: Phase,
    pub(super) kind: InstanceKind,
    pub(super) attachment: Attachment,
}

/// A network that has a bridge, or was to get one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NetworkRecord {
    pub(super) boot: String,
    pub(super) network: DesiredNetwork,
}

/// All records of one cloud on this node.
#[derive(Debug)]
pub(super) struct Book {
    folder: PathBuf,
    pub(super) networks: BTreeMap<NetworkId, NetworkRecord>,
    pub(super) members: BTreeMap<Member, MemberRecord>,
}

/// An instance in one of its networks.
pub(super) type Member = (InstanceId, NetworkId);

impl Book {
    /// Reads what earlier processes of this boot wrote. Older and damaged files are removed: they cannot name anything that exists.
    pub(super) fn open(folder: PathBuf, boot: &str) -> Result<Self> {
        let mut book = Self { folder, networks: BTreeMap::new(), members: BTreeMap::new() };
        let entries = match std::fs::read_dir(&book.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(book),
            Err(e) => return Err(book.error("read", &book.folder, e)),
        };
        for entry in entries.flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let bytes = std::fs::read(&path).map_err(|e| book.error("read", &path, e))?;
            let known = if name.starts_with("n-") {
                serde_json::from_slice::<NetworkRecord>(&bytes).ok().filter(|r| r.boot == boot).map(|r| {
                    book.networks.insert(r.network.id, r);
                })
            } else {
                serde_json::from_slice::<MemberRecord>(&bytes).ok().filter(|r| r.boot == boot).map(|r| {
                    book.members.insert((r.attachment.instance, r.attachment.network), r);
                })
            };
            if known.is_none() || !name.ends_with(".json") {
                tracing::info!(file = %path.display(), "removing the network state of another boot");
                let _ = std::fs::remove_file(&path);
            }
        }
        Ok(book)
    }

    /// The folder itself, for the last one who leaves.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps a network.
    pub(super) fn put_network(&mut self, record: NetworkRecord) -> Result<()> {
        self.write(&network_file(record.network.id), &record)?;
        self.networks.insert(record.network.id, record);
        Ok(())
    }

    /// Keeps an attachment.
    pub(super) fn put_member(&mut self, record: MemberRecord) -> Result<()> {
        let member = (record.attachment.instance, record.attachment.network);
        self.write(&member_file(member), &record)?;
        self.members.insert(member, record);
        Ok(())
    }

    /// Forgets a network of which nothing is left.
    pub(super) fn drop_network(&mut self, id: NetworkId) -> Result<()> {
        self.networks.remove(&id);
        self.erase(&network_file(id))
    }

    /// Forgets an attachment of which nothing is left.
    pub(super) fn drop_member(&mut self, member: Member) -> Result<()> {
        self.members.remove(&member);
        // As it was called when an instance was in one network only.
        self.erase(&format!("i-{}.json", member.0))?;
        self.erase(&member_file(member))
    }

    /// The attachments of an instance, the first one first.
    pub(super) fn of(&self, id: InstanceId) -> Vec<&MemberRecord> {
        let all = self.members.range((id, NetworkId(uuid::Uuid::nil()))..).take_while(|((of, _), _)| *of == id);
        let mut all: Vec<&MemberRecord> = all.map(|(_, record)| record).collect();
        all.sort_by_key(|record| record.attachment.nic.index);
        all
    }

    /// The attachments of a network that are not on their way out.
    pub(super) fn members_of(&self, id: NetworkId) -> impl Iterator<Item = &MemberRecord> {
        self.members.values().filter(move |m| m.attachment.network == id && m.phase != Phase::Detaching)
    }

    /// What people call an instance: its name in DNS, else its id.
    pub(super) fn name_of(&self, id: InstanceId) -> String {
        let record = self.of(id).into_iter().find_map(|member| {
            let network = self.networks.get(&member.attachment.network)?;
            network.network.records.iter().find(|r| r.address == member.attachment.nic.address)
        });
        record.map_or_else(|| id.to_string(), |r| r.name.clone())
    }

    fn write(&self, name: &str, record: &impl Serialize) -> Result<()> {
        let path = self.folder.join(name);
        let draft = self.folder.join(format!(".{name}.draft"));
        let bytes = serde_json::to_vec(record).map_err(|e| self.error("encode", &path, e.into()))?;
        let put = || {
            std::fs::write(&draft, &bytes)?;
            std::fs::rename(&draft, &path)
        };
        put()
            .or_else(|e| {
                if e.kind() != io::ErrorKind::NotFound {
                    return Err(e);
                }
                std::fs::create_dir_all(&self.folder)?;
                put()
            })
            .map_err(|e| self.error("write", &path, e))
    }

    fn erase(&self, name: &str) -> Result<()> {
        let path = self.folder.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.error("remove", &path, e)),
            _ => Ok(()),
        }
    }

    fn error(&self, verb: &str, path: &Path, e: io::Error) -> DriverError {
        DriverError::io(format!("{verb} the network state {}", path.display()), e)
    }
}

fn network_file(id: NetworkId) -> String {
    format!("n-{id}.json")
}

fn member_file((instance, network): Member) -> String {
    format!("i-{instance}-{}.json", network.short())
}
