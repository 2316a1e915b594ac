//! Snapshots of VMs: the disk as an internal snapshot of its qcow2 file, which takes milliseconds also while the guest runs, and beside
//! it the memory, if that was asked for.
//!
//! ```text
//! instances/ID/disk.qcow2               holds the disk of each snapshot, under the snapshot's id
//! instances/ID/snapshots/SNAPSHOT/      memory          what QEMU wrote of a guest that stood still
//!                                       snapshot.json   written last: without it there is no snapshot
//! ```
//! A guest stands still only while its memory is written, and goes on afterwards whatever happened: the work runs in a task of its own, so
//! that who asked for it may go away.

use super::{
    VmDriver,
    disk::failed,
    engine::qemu_img,
    files::{Files, read_json, write_json},
    guest,
    identity::Wish,
    machine::Machine,
    memory::{self, Resume},
    plug::{self, Layout},
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use yun_drivers::{DriverError, ErrorKind, Result, SnapshotDriver};
use yun_engine::work::Followed;
use yun_types::{Bytes, InstanceId, SnapshotFacts, SnapshotId, SnapshotOrder, Template};

/// What is written down of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    facts: SnapshotFacts,
    resume: Resume,
    /// The image's disk under the VM's own.
    base: Option<PathBuf>,
}

/// Where one snapshot is.
struct Place {
    dir: PathBuf,
    tag: String,
}

impl Place {
    fn of(files: &Files, snapshot: SnapshotId) -> Self {
        let tag = snapshot.to_string();
        Self { dir: files.snapshots().join(&tag), tag }
    }
    fn record(&self) -> PathBuf {
        self.dir.join("snapshot.json")
    }
    fn memory(&self) -> PathBuf {
        self.dir.join("memory")
    }
    fn read(&self, machine: &Machine) -> Result<Record> {
        read_json(&self.record()).map_err(|e| {
            let name = machine.name();
            if e.kind() == io::ErrorKind::NotFound {
                let message = format!("VM {name} has no snapshot {} on its node; take one first", self.tag);
                return DriverError::new(ErrorKind::NotFound, "NoSuchSnapshot", message);
            }
            let message = format!("snapshot {} of VM {name} is damaged: {e}; remove it and take another", self.tag);
            DriverError::new(ErrorKind::Damaged, "SnapshotDamaged", message).with(e)
        })
    }
}

/// A change of the disk's snapshots: through QEMU while the VM runs, on the file if not.
async fn on_disk(machine: &Machine, place: &Place, delete: bool) -> Result<()> {
    let (verb, name) = (if delete { "remove a snapshot of" } else { "take a snapshot of" }, machine.name());
    if machine.current().is_some() {
        let command = if delete { "blockdev-snapshot-delete-internal-sync" } else { "blockdev-snapshot-internal-sync" };
        let done = machine.command(command, json!({"device": "disk", "name": place.tag})).await;
        return done.map(drop).map_err(|e| machine.failed(verb, e));
    }
    let (flag, disk) = (if delete { "-d" } else { "-c" }, machine.files.disk().display().to_string());
    let done = qemu_img(&["snapshot", flag, &place.tag, &disk]).await;
    done.map(drop).map_err(|e| failed(&name, "change", e))
}

/// Removes what there is of a snapshot.
async fn clear(machine: &Machine, place: &Place) -> Result<()> {
    // The record goes first: half a snapshot is none.
    match std::fs::remove_file(place.record()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(wrong(place, "remove", e)),
        _ => {}
    }
    if machine.files.disk().exists()
        && let Err(error) = on_disk(machine, place, true).await
        // Both say so of one that is not there.
        && !["does not exist", "not found", "Can't find"].iter().any(|text| error.message.contains(text))
    {
        return Err(error);
    }
    match std::fs::remove_dir_all(&place.dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(wrong(place, "remove", e)),
        _ => Ok(()),
    }
}

fn wrong(place: &Place, verb: &str, e: io::Error) -> DriverError {
    DriverError::io(format!("{verb} snapshot {}", place.tag), e)
}

async fn take(machine: &Machine, order: &SnapshotOrder, work: &Followed) -> Result<SnapshotFacts> {
    let (files, place) = (&machine.files, Place::of(&machine.files, order.id));
    let plan = files.plan()?;
    if let Ok(record) = place.read(machine) {
        return Ok(record.facts);
    }
    clear(machine, &place).await?;
    if let Some(volume) = files.fittings().volumes.first().filter(|_| order.memory) {
        let message = format!(
            "cannot keep the memory of VM {0}: volume {1} is plugged in, and what the memory knows of it would be wrong later; take the volume out first (yun volume detach {1} {0}), or leave memory out",
            plan.name, volume.name
        );
        return Err(DriverError::bad_request("HasVolumes", message));
    }
    std::fs::create_dir_all(&place.dir).map_err(|e| wrong(&place, "make room for", e))?;
    let runs = machine.current().is_some();
    if order.memory && !runs {
        let message = format!("VM {} does not run and has no memory to keep; start it, or leave memory out", plan.name);
        return Err(DriverError::new(ErrorKind::Conflict, "NotRunning", message));
    }
    let layout = if runs { plug::layout(machine, &plan).await? } else { Layout::default() };
    let taken = chrono::Utc::now();
    let consistent = match (runs, order.memory) {
        (false, _) => on_disk(machine, &place, false).await.map(|()| true),
        (true, true) => standing_still(machine, &place, work).await.map(|()| true),
        (true, false) => {
            let frozen = guest::freeze(&files.agent()).await;
            let done = on_disk(machine, &place, false).await;
            if frozen {
                guest::thaw(&files.agent()).await;
            }
            done.map(|()| frozen)
        }
    };
    let consistent = match consistent {
        Ok(consistent) => consistent,
        Err(error) => {
            if let Err(more) = clear(machine, &place).await {
                tracing::warn!(vm = %plan.name, error = %more, "what is left of a snapshot that failed could not be removed; the next one does");
            }
            return Err(error);
        }
    };
    let size = std::fs::metadata(place.memory()).map_or(0, |facts| facts.len());
    let facts = SnapshotFacts { taken, size: Bytes(size), memory: order.memory, consistent };
    let machine_now = memory::fit(files, plan.clone());
    let record = Record { facts: facts.clone(), resume: Resume::of(&machine_now, layout), base: plan.base };
    write_json(&place.record(), &record)?;
    memory::sync(place.record()).await?;
    Ok(facts)
}

/// Takes disk and memory of a guest that stands still for it.
async fn standing_still(machine: &Machine, place: &Place, work: &Followed) -> Result<()> {
    let verb = "take a snapshot of";
    let status = machine.status().await.map_err(|e| machine.failed(verb, e))?;
    let was_running = status == "running";
    machine.command("stop", Value::Null).await.map_err(|e| machine.failed(verb, e))?;
    let done = async {
        on_disk(machine, place, false).await?;
        memory::save(machine, &place.memory(), work).await
    };
    let done = done.await;
    if was_running && let Err(error) = machine.command("cont", Value::Null).await {
        // It stands still, and whoever looks at it next sees that and lets it go on.
        let error = machine.failed("let go on after a snapshot", error);
        return done.and(Err(error));
    }
    done
}

async fn restore(machine: &Machine, snapshot: SnapshotId, with_memory: bool) -> Result<()> {
    let (files, place) = (&machine.files, Place::of(&machine.files, snapshot));
    let record = place.read(machine)?;
    let name = machine.name();
    if machine.current().is_some() {
        let message = format!("cannot restore VM {name}: it runs; stop it first with yun stop {name}");
        return Err(DriverError::new(ErrorKind::Conflict, "Running", message));
    }
    let (with_memory, layout) = (with_memory && record.facts.memory, &record.resume.layout);
    if with_memory {
        plug::check_layout(&name, layout, &files.fittings())?;
    }
    // A memory of another time does not fit to this disk.
    memory::forget(files)?;
    let disk = files.disk().display().to_string();
    let done = qemu_img(&["snapshot", "-a", &place.tag, &disk]).await;
    done.map_err(|e| failed(&name, "restore", e))?;
    if with_memory {
        // An interface that went and came back has another address since.
        let now = plug::nics(&files.plan()?, &files.fittings());
        if !now.starts_with(&layout.nics) {
            files.write_identity(&Wish { macs: layout.macs(), same: true })?;
        }
        memory::keep(files, &place.memory(), &record.resume)?;
    }
    Ok(())
}

/// Copies a snapshot's disk into that of a new VM, over the same image, and lends it the memory. The snapshot of a clone is taken for this.
async fn seed(source: &Machine, files: &Files, template: &Template) -> Result<()> {
    let place = Place::of(&source.files, template.snapshot);
    if !files.disk().exists() {
        if template.live {
            if !source.files.disk().exists() {
                let message = format!("cannot copy the disk of VM {}: it is gone", template.name);
                return Err(DriverError::new(ErrorKind::NotFound, "SourceGone", message));
            }
            let name = "clone".parse().map_err(|e| {
                DriverError::new(ErrorKind::Internal, "BadName", "cannot name the snapshot of a clone").with(e)
            })?;
            take(source, &SnapshotOrder { id: template.snapshot, name, memory: false }, &Followed::default()).await?;
        }
        copy_seed(source, &place, files, template).await?;
    }
    if template.live { clear(source, &place).await } else { Ok(()) }
}

async fn copy_seed(source: &Machine, place: &Place, files: &Files, template: &Template) -> Result<()> {
    let record = place.read(source)?;
    files.make()?;
    memory::forget(files)?;
    copy_disk(&source.files.disk(), &place.tag, record.base.as_deref(), &files.dir.join("disk.draft"))
        .await
        .map_err(|e| failed(&template.name, "copy", e))?;
    if template.memory && record.facts.memory {
        plug::check_layout(&template.name, &record.resume.layout, &files.fittings())?;
        memory::keep(files, &place.memory(), &record.resume)?;
        files.write_identity(&Wish { macs: record.resume.layout.macs(), same: false })?;
    }
    // The disk is last: once it is there, all is.
    std::fs::rename(files.dir.join("disk.draft"), files.disk()).map_err(|e| wrong(place, "use", e))
}

/// Copies what a snapshot has over its image. Its clusters never change, so they can be read while the guest runs.
async fn copy_disk(disk: &Path, tag: &str, base: Option<&Path>, to: &Path) -> Result<()> {
    let (disk, to) = (disk.display().to_string(), to.display().to_string());
    let (name, base) = (format!("snapshot.name={tag}"), base.map(|base| base.display().to_string()));
    let mut args = vec!["convert", "-q", "-U", "-f", "qcow2", "-O", "qcow2", "-l", &name];
    if let Some(base) = &base {
        args.extend(["-B", base, "-F", "qcow2"]);
    }
    args.extend([disk.as_str(), &to]);
    qemu_img(&args).await.map(drop)
}

/// What a task of its own has come to. It is finished also if nobody waits for it any more.
pub(super) async fn finished<T>(task: tokio::task::JoinHandle<Result<T>>) -> Result<T> {
    task.await.unwrap_or_else(|_| {
        let message = "the work on a VM was cut short: yun is shutting down; try again when it is back";
        Err(DriverError::new(ErrorKind::Internal, "CutShort", message))
    })
}

#[async_trait]
impl SnapshotDriver for VmDriver {
    async fn take(&self, instance: InstanceId, order: &SnapshotOrder, work: &Followed) -> Result<SnapshotFacts> {
        let machine = self.machine(instance);
        let turn = Arc::clone(&machine.change).lock_owned().await;
        let (order, work) = (order.clone(), work.clone());
        finished(tokio::spawn(async move {
            let _turn = turn;
            take(&machine, &order, &work).await
        }))
        .await
    }

    async fn restore(&self, instance: InstanceId, snapshot: SnapshotId, memory: bool) -> Result<()> {
        let machine = self.machine(instance);
        let turn = Arc::clone(&machine.change).lock_owned().await;
        finished(tokio::spawn(async move {
            let _turn = turn;
            restore(&machine, snapshot, memory).await
        }))
        .await
    }

    async fn seed(&self, instance: InstanceId, template: &Template) -> Result<()> {
        let (machine, source) = (self.machine(instance), self.machine(template.instance));
        if machine.files.disk().exists() && !template.live {
            return Ok(());
        }
        // The source first: nobody takes turns the other way round, for no VM is seeded from one that is being seeded.
        let from = Arc::clone(&source.change).lock_owned().await;
        let turn = Arc::clone(&machine.change).lock_owned().await;
        let template = template.clone();
        finished(tokio::spawn(async move {
            let _turns = (from, turn);
            seed(&source, &machine.files, &template).await
        }))
        .await
    }

    async fn remove(&self, instance: InstanceId, snapshot: SnapshotId) -> Result<()> {
        let machine = self.machine(instance);
        let turn = Arc::clone(&machine.change).lock_owned().await;
        finished(tokio::spawn(async move {
            let _turn = turn;
            clear(&machine, &Place::of(&machine.files, snapshot)).await
        }))
        .await
    }

    async fn list(&self, instance: InstanceId) -> Result<Vec<(SnapshotId, SnapshotFacts)>> {
        let machine = self.machine(instance);
        let entries = match std::fs::read_dir(machine.files.snapshots()) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(DriverError::io(format!("list the snapshots of VM {}", machine.name()), e)),
        };
        let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<SnapshotId>().ok());
        let whole = ids.filter_map(|id| Some((id, Place::of(&machine.files, id).read(&machine).ok()?.facts)));
        Ok(whole.collect())
    }
}
