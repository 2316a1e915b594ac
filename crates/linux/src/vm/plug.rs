//! What is plugged into a VM beside its own disk and its first interface: volumes as disks, and more interfaces.
//!
//! Each is a device behind a port of the PCI Express bus of its own, so that it can be pulled while the guest runs. Its id says what it is:
//! `vol-…` and `nic-N`; QEMU itself is asked which there are, so a call that is made again after a crash finds out how far the last one
//! came. What is to be plugged in is written down first, and what was pulled is forgotten last.
//!
//! A guest that goes on with a memory looks for its devices where they were: what was where is a *layout*. Interfaces are told apart there
//! by their order, since a machine that was made from another one's memory has others, and as many. What came since is plugged in afterwards.

use super::{
    files::{Files, Plan},
    launch::{Arguments, Circumstances, FIRST_TAP},
    machine::Machine,
    qmp::QmpError,
    resize::{self, Room},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    os::fd::RawFd,
    path::Path,
    time::Duration,
};
use tokio::time::{Instant, sleep};
use yun_drivers::{Attachment, DriverError, ErrorKind, FittedVolume, Fittings, Port, Result};
use yun_types::VolumeKind;

/// Ports of the bus that are free after a start, for what comes later.
const SPARE: usize = 4;
/// The most ports: the bus has 32 places, and the machine itself needs some.
const MOST: usize = 19;
/// How long a guest may take to let go of a device.
const LET_GO: Duration = Duration::from_secs(30);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// What was plugged in where, when a memory was written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Layout {
    /// How many ports the bus had.
    pub(super) ports: usize,
    /// The ports of volumes, by their devices' ids.
    pub(super) volumes: BTreeMap<String, usize>,
    /// The ports of the interfaces after the first, in their order.
    pub(super) interfaces: Vec<usize>,
    /// The hardware addresses and addresses of all interfaces, in their order.
    pub(super) nics: Vec<(String, Ipv4Addr)>,
    /// How many processors it had, if that was written down.
    #[serde(default)]
    pub(super) processors: Option<u32>,
    /// How far it could grow, if it could.
    #[serde(default)]
    pub(super) room: Option<Room>,
}

/// How many ports the bus has in a run that no memory decides about.
fn slots(fittings: &Fittings) -> usize {
    (fittings.volumes.len() + fittings.interfaces.len() + SPARE).min(MOST)
}

/// The ports of the bus in this run, and what is plugged into which from the start.
fn places<'a>(fittings: &'a Fittings, layout: Option<&Layout>) -> (usize, Vec<(Device<'a>, usize)>) {
    let volumes = fittings.volumes.iter().map(Device::Volume);
    let interfaces = in_order(fittings).into_iter().map(Device::Interface);
    let Some(layout) = layout else {
        let ports = slots(fittings);
        return (ports, volumes.chain(interfaces).zip(0..ports).collect());
    };
    let volumes = volumes.filter_map(|device| Some((device, *layout.volumes.get(&device.id())?)));
    let interfaces = interfaces.zip(layout.interfaces.iter().copied());
    (layout.ports, volumes.chain(interfaces).collect())
}

pub(super) fn in_order(fittings: &Fittings) -> Vec<&Attachment> {
    let mut interfaces: Vec<&Attachment> = fittings.interfaces.iter().collect();
    interfaces.sort_by_key(|attachment| attachment.nic.index);
    interfaces
}

/// What goes into one port.
#[derive(Debug, Clone, Copy)]
enum Device<'a> {
    Volume(&'a FittedVolume),
    Interface(&'a Attachment),
}

impl Device<'_> {
    fn id(&self) -> String {
        match self {
            Self::Volume(volume) => volume_id(volume),
            Self::Interface(attachment) => nic_id(attachment),
        }
    }
}

impl Layout {
    /// The hardware addresses of all interfaces, in their order.
    pub(super) fn macs(&self) -> Vec<String> {
        self.nics.iter().map(|(mac, _)| mac.clone()).collect()
    }
}

/// The hardware addresses and addresses of all interfaces, in their order.
pub(super) fn nics(plan: &Plan, fittings: &Fittings) -> Vec<(String, Ipv4Addr)> {
    let first = plan.network.iter().map(|network| (network.mac.clone(), network.address));
    let more = in_order(fittings).into_iter().map(|attachment| (attachment.nic.mac.clone(), attachment.nic.address));
    first.chain(more).collect()
}

/// What is plugged in where now.
pub(super) async fn layout(machine: &Machine, plan: &Plan) -> Result<Layout> {
    let fittings = machine.files.fittings();
    let there = devices(machine).await?;
    let ports = there.iter().filter(|id| id.starts_with("slot")).count();
    let mut layout = Layout {
        ports,
        nics: nics(plan, &fittings),
        processors: Some(resize::processors(machine).await?),
        room: machine.files.room(),
        ..Layout::default()
    };
    for volume in fittings.volumes.iter().map(volume_id).filter(|id| there.contains(id)) {
        let port = port_of(machine, &volume).await?;
        layout.volumes.insert(volume, port);
    }
    for interface in in_order(&fittings).into_iter().map(nic_id) {
        layout.interfaces.push(port_of(machine, &interface).await?);
    }
    Ok(layout)
}

/// The port that a device is in: its bus is called like the port.
async fn port_of(machine: &Machine, id: &str) -> Result<usize> {
    let what = json!({"path": format!("/machine/peripheral/{id}"), "property": "parent_bus"});
    let answer = machine.command("qom-get", what).await.map_err(|e| machine.failed("look at the devices of", e))?;
    let bus = answer.as_str().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    bus.strip_prefix("slot").and_then(|number| number.parse().ok()).ok_or_else(|| {
        let message = format!("cannot find out where {id} is plugged into VM {}: QEMU says {answer}", machine.name());
        DriverError::new(ErrorKind::Internal, "UnknownPort", message)
    })
}

/// Refuses a memory in which there is something that is not there any more.
pub(super) fn check_layout(name: &str, layout: &Layout, fittings: &Fittings) -> Result<()> {
    let there: BTreeSet<String> = fittings.volumes.iter().map(volume_id).collect();
    let lost = layout.volumes.keys().find(|id| !there.contains(*id));
    let why = match lost {
        Some(volume) => format!("it had the volume {}… then, and has not now", &volume["vol-".len()..]),
        None if layout.interfaces.len() > fittings.interfaces.len() => format!(
            "it was in {} networks then, and is in {} now",
            layout.interfaces.len() + 1,
            fittings.interfaces.len() + 1
        ),
        None => {
            let had = layout.volumes.len() + layout.interfaces.len();
            let more = fittings.volumes.len() + fittings.interfaces.len() - had;
            if more <= layout.ports.saturating_sub(had) {
                return Ok(());
            }
            format!("{more} more devices are plugged in now, and it had {} free ports then", layout.ports - had)
        }
    };
    let message = format!(
        "VM {name} cannot go on with its memory: {why}; plug in what it had (yun volume attach, yun network attach), or start it without its memory: yun stop {name} drops that, and yun start {name} boots it"
    );
    Err(DriverError::bad_request("DevicesChanged", message))
}

fn volume_id(volume: &FittedVolume) -> String {
    format!("vol-{}", volume.id.short())
}

/// What the guest finds the disk by, in at most the 20 characters that virtio has for it.
fn serial(volume: &FittedVolume) -> String {
    let name = volume.name.as_str();
    if name.len() <= 20 { name.to_owned() } else { format!("{}-{}", &name[..11], volume.id.short()) }
}

fn nic_id(attachment: &Attachment) -> String {
    format!("nic-{}", attachment.nic.index)
}

fn backend(volume: &FittedVolume) -> Value {
    let file = json!({
        "driver": "file", "filename": volume.path, "discard": "unmap", "read-only": volume.read_only,
    });
    json!({
        "driver": "raw", "node-name": volume_id(volume), "discard": "unmap", "read-only": volume.read_only, "file": file,
    })
}

fn disk(volume: &FittedVolume, slot: usize, room: Option<Room>) -> Value {
    let id = volume_id(volume);
    let mut disk = json!({
        "driver": "virtio-blk-pci", "drive": id, "id": id, "serial": serial(volume), "bus": format!("slot{slot}"),
    });
    if let Some(room) = room {
        disk["num-queues"] = room.queues.into();
    }
    disk
}

pub(super) fn tap(attachment: &Attachment) -> &str {
    match &attachment.port {
        Port::Tap { interface } | Port::Namespace { interface, .. } => interface,
    }
}

fn card(attachment: &Attachment, slot: usize) -> Value {
    let id = nic_id(attachment);
    json!({
        "driver": "virtio-net-pci", "netdev": id, "id": id, "mac": attachment.nic.mac, "host_mtu": attachment.mtu,
        "romfile": "", "bus": format!("slot{slot}"),
    })
}

fn line(attachment: &Attachment, vhost: bool, descriptor: Option<RawFd>) -> Value {
    let id = nic_id(attachment);
    let mut line = match descriptor {
        Some(number) => json!({"type": "tap", "id": id, "fd": number.to_string()}),
        None => json!({"type": "tap", "id": id, "ifname": tap(attachment), "script": "no", "downscript": "no"}),
    };
    if vhost {
        line["vhost"] = Value::Bool(true);
    }
    line
}

/// The arguments that plug everything in from the start.
pub(super) fn arguments(
    args: &mut Arguments,
    files: &Files,
    layout: Option<&Layout>,
    on: Circumstances,
    room: Option<Room>,
) {
    let fittings = files.fittings();
    let (ports, places) = places(&fittings, layout);
    // Behind that of the first interface.
    let mut descriptors = FIRST_TAP + 1..;
    for port in 0..ports {
        args.add("-device", format!("pcie-root-port,id=slot{port},chassis={},bus=pcie.0", port + 1));
    }
    for (device, port) in places {
        match device {
            Device::Volume(volume) => {
                args.add("-blockdev", backend(volume).to_string());
                args.add("-device", disk(volume, port, room).to_string());
            }
            Device::Interface(attachment) => {
                let descriptor = files.next.then(|| descriptors.next()).flatten();
                args.add("-netdev", line(attachment, on.vhost, descriptor).to_string());
                args.add("-device", card(attachment, port).to_string());
            }
        }
    }
}

/// Refuses what QEMU would only half notice.
pub(super) fn check(name: &str, fittings: &Fittings) -> Result<()> {
    if let Some(volume) = fittings.volumes.iter().find(|volume| volume.kind != VolumeKind::Block) {
        let message = format!("cannot give volume {} to VM {name}: it is a directory; use a block volume", volume.name);
        return Err(DriverError::bad_request("WrongVolumeKind", message));
    }
    if let Some(volume) = fittings.volumes.iter().find(|volume| !volume.path.exists()) {
        let message = format!("cannot give volume {} to VM {name}: {} is gone", volume.name, volume.path.display());
        return Err(DriverError::new(ErrorKind::Damaged, "VolumeMissing", message));
    }
    let missing = fittings.interfaces.iter().map(tap).find(|tap| !Path::new("/sys/class/net").join(tap).exists());
    match missing {
        Some(tap) => {
            let message =
                format!("VM {name} cannot have its network interface {tap}: it is not there yet; it is tried again");
            Err(DriverError::unavailable("TapMissing", message))
        }
        None => Ok(()),
    }
}

/// Brings what is plugged into a VM to `wanted`.
pub(super) async fn fit(machine: &Machine, wanted: &Fittings) -> Result<()> {
    let files: &Files = &machine.files;
    files.make()?;
    let before = files.fittings();
    if machine.current().is_none() {
        return if before == *wanted { Ok(()) } else { files.write_fittings(wanted) };
    }
    check(&machine.name(), wanted)?;
    let mut all = wanted.clone();
    all.volumes.extend(before.volumes.into_iter().filter(|old| !wanted.volumes.iter().any(|new| new.id == old.id)));
    if all != *wanted {
        files.write_fittings(&all)?;
    } else if files.fittings() != *wanted {
        files.write_fittings(wanted)?;
    }
    let mut there = devices(machine).await?;
    let disks: BTreeSet<String> = wanted.volumes.iter().map(volume_id).collect();
    let cards: BTreeSet<String> = wanted.interfaces.iter().map(nic_id).collect();
    let ours = |id: &&String| id.starts_with("vol-") || id.starts_with("nic-");
    let gone: Vec<String> =
        there.iter().filter(ours).filter(|id| !disks.contains(*id) && !cards.contains(*id)).cloned().collect();
    for id in gone {
        pull(machine, &id).await?;
        there.remove(&id);
    }
    for volume in &wanted.volumes {
        if !there.contains(&volume_id(volume)) {
            plug_disk(machine, volume).await?;
        } else if !volume.read_only {
            let size = volume.size.0.div_ceil(4096) * 4096;
            run(machine, "grow the volume of", "block_resize", json!({"node-name": volume_id(volume), "size": size}))
                .await?;
        }
        limit(machine, volume).await?;
    }
    for attachment in &wanted.interfaces {
        if !there.contains(&nic_id(attachment)) {
            plug_card(machine, attachment).await?;
        }
    }
    files.write_fittings(wanted)
}

/// Limits what was plugged in at the start.
pub(super) async fn limit_all(machine: &Machine) -> Result<()> {
    for volume in machine.files.fittings().volumes.iter().filter(|volume| !volume.limits.is_none()) {
        limit(machine, volume).await?;
    }
    Ok(())
}

async fn limit(machine: &Machine, volume: &FittedVolume) -> Result<()> {
    let (bps, iops) = (volume.limits.bps.map_or(0, |bps| bps.0), volume.limits.iops.unwrap_or_default());
    // The device that is known by our id is the card; the disk is behind it.
    let disk = format!("/machine/peripheral/{}/virtio-backend", volume_id(volume));
    let limits = json!({
        "id": disk, "bps": bps, "bps_rd": 0, "bps_wr": 0, "iops": iops, "iops_rd": 0, "iops_wr": 0,
    });
    run(machine, "limit a volume of", "block_set_io_throttle", limits).await
}

/// The ids of the devices that have one.
async fn devices(machine: &Machine) -> Result<BTreeSet<String>> {
    let answer = machine.command("qom-list", json!({"path": "/machine/peripheral"})).await;
    let answer = answer.map_err(|e| machine.failed("look at the devices of", e))?;
    let all = answer.as_array().cloned().unwrap_or_default();
    Ok(all.iter().filter_map(|device| device["name"].as_str().map(str::to_owned)).collect())
}

async fn run(machine: &Machine, verb: &str, command: &str, arguments: Value) -> Result<()> {
    machine.command(command, arguments).await.map(drop).map_err(|e| machine.failed(verb, e))
}

async fn plug_disk(machine: &Machine, volume: &FittedVolume) -> Result<()> {
    // What a crash left between the two steps.
    let _ = machine.command("blockdev-del", json!({"node-name": volume_id(volume)})).await;
    run(machine, "open a volume for", "blockdev-add", backend(volume)).await?;
    let room = machine.files.room();
    plug(machine, |slot| disk(volume, slot, room)).await
}

async fn plug_card(machine: &Machine, attachment: &Attachment) -> Result<()> {
    let _ = machine.command("netdev_del", json!({"id": nic_id(attachment)})).await;
    run(machine, "open an interface for", "netdev_add", line(attachment, false, None)).await?;
    plug(machine, |slot| card(attachment, slot)).await
}

/// Plugs a device into the first port that is free.
async fn plug(machine: &Machine, device: impl Fn(usize) -> Value) -> Result<()> {
    let name = machine.name();
    for slot in 0..MOST {
        match machine.command("device_add", device(slot)).await {
            Ok(_) => return Ok(()),
            Err(QmpError::Refused { text, .. })
                if ["occupied", "in use", "not available"].iter().any(|w| text.contains(w)) => {}
            // There are no more ports.
            Err(QmpError::Refused { text, .. }) if text.contains("not found") => break,
            Err(e) => return Err(machine.failed("plug a device into", e)),
        }
    }
    let message =
        format!("VM {name} has no free port for another device: restart it, and it gets some (yun restart {name})");
    Err(DriverError::new(ErrorKind::Conflict, "NoFreePort", message))
}

/// Pulls a device, and waits until the guest has let go of it.
async fn pull(machine: &Machine, id: &str) -> Result<()> {
    let deadline = Instant::now() + LET_GO;
    // Refused while the last request is still with the guest: that one counts.
    let asked = machine.command("device_del", json!({"id": id})).await;
    while devices(machine).await?.contains(id) {
        if Instant::now() > deadline {
            let name = machine.name();
            let why = asked.err().map(|e| format!(" ({e})")).unwrap_or_default();
            let message = format!(
                "VM {name} does not let go of {id}{why}: unmount it inside, or stop the VM (yun stop {name}); it is tried again"
            );
            return Err(DriverError::new(ErrorKind::Conflict, "DeviceBusy", message));
        }
        sleep(LOOK).await;
    }
    let (command, key) = if id.starts_with("vol-") { ("blockdev-del", "node-name") } else { ("netdev_del", "id") };
    // Gone with its device in some versions.
    let _ = machine.command(command, json!({key: id})).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use yun_types::{Bytes, VolumeId, VolumeLimits};

    fn volume(name: &str) -> FittedVolume {
        FittedVolume {
            id: VolumeId(uuid::Uuid::from_u128(0xabc)),
            name: name.parse().unwrap(),
            kind: VolumeKind::Block,
            path: "/v/disk, old.raw".into(),
            size: Bytes::gib(1),
            limits: VolumeLimits::default(),
            target: None,
            read_only: true,
            no_copy: false,
        }
    }

    #[test]
    fn disks_are_found_by_name_within_what_virtio_has_for_it() {
        assert_eq!(serial(&volume("data")), "data");
        let long = serial(&volume("a-very-long-name-of-a-volume"));
        assert_eq!((long.as_str(), long.len()), ("a-very-long-00000abc", 20));
    }

    #[test]
    fn each_device_has_a_port_and_some_stay_free() {
        let fittings = Fittings { volumes: vec![volume("a"), volume("b")], interfaces: vec![] };
        assert_eq!(slots(&fittings), 6);
        let mut args = Arguments(Vec::new());
        let dir = tempfile::tempdir().unwrap();
        let files = Files { dir: dir.path().into(), run: dir.path().into(), next: false };
        files.write_fittings(&fittings).unwrap();
        arguments(
            &mut args,
            &files,
            None,
            Circumstances {
                accel: yun_types::Accel::Tcg,
                direct: false,
                vhost: false,
                short_firmware: false,
                two_files: false,
                room: None,
            },
            None,
        );
        let text = args.0.join("\n");
        assert!(text.contains(r#""bus":"slot1""#) && text.contains(r#""filename":"/v/disk, old.raw""#), "{text}");
        assert!(text.contains(r#""read-only":true"#) && text.contains(r#""serial":"a""#), "{text}");
    }

    #[test]
    fn a_memory_finds_its_devices_where_they_were() {
        let (old, new) = (volume("a"), FittedVolume { id: VolumeId(uuid::Uuid::from_u128(0xdef)), ..volume("b") });
        let card = |index| Attachment {
            nic: yun_types::Nic { index, ..crate::vm::cidata::tests::attachment().nic },
            ..crate::vm::cidata::tests::attachment()
        };
        let fittings = Fittings { volumes: vec![new, old.clone()], interfaces: vec![card(7), card(3)] };
        let volumes = BTreeMap::from([(volume_id(&old), 5)]);
        let layout = Layout { ports: 6, volumes, interfaces: vec![2], ..Layout::default() };
        let (ports, places) = places(&fittings, Some(&layout));
        let places: Vec<_> = places.iter().map(|(device, port)| (device.id(), *port)).collect();
        // What came since waits.
        assert_eq!((ports, places), (6, vec![(volume_id(&old), 5), ("nic-3".to_owned(), 2)]));
        check_layout("vm1", &layout, &fittings).unwrap();
        let error = check_layout("vm1", &layout, &Fittings { volumes: vec![], ..fittings }).unwrap_err();
        assert!(
            error.message.contains("it had the volume 00000abc") && error.message.contains("yun volume attach"),
            "{error}"
        );
        let fewer = Fittings { volumes: vec![old], interfaces: vec![] };
        let error = check_layout("vm1", &layout, &fewer).unwrap_err();
        assert!(error.message.contains("was in 2 networks then, and is in 1 now"), "{error}");
    }

    #[test]
    fn a_directory_is_no_disk() {
        let volume = FittedVolume { kind: VolumeKind::Directory, ..volume("data") };
        let error = check("vm1", &Fittings { volumes: vec![volume], interfaces: vec![] }).unwrap_err();
        assert!(error.message.contains("use a block volume"), "{error}");
    }
}
