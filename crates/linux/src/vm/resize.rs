//! Another size for a machine that runs.
//!
//! Each run begins with room to grow: places for more processors, and a region of memory that is empty at first (virtio-mem). The region
//! costs nothing until the guest takes parts of it. Less memory than at the start is reached by a balloon in the guest; fewer processors by
//! a ceiling, since a guest that sees its processors go needs to agree to that. What the guest has to do for a part of it is asked of its
//! agent; one without an agent or a driver keeps what it has, and that is said.

use super::{disk, guest::Agent, launch::Arguments, machine::Machine, share};
use crate::host::{Host, inventory::memory_total};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use yun_drivers::{DriverError, ErrorKind, Resized, Result};
use yun_types::{Bytes, Cpu, Size};

/// The grain of the region, in MiB.
const BLOCK_MIB: u64 = 2;
/// What a region's size is a multiple of, in MiB: the kernel's own grain.
const SECTION_MIB: u64 = 128;
/// The most processors that a machine has places for, as long as it does not begin with more.
const MOST_PROCESSORS: u32 = 64;
/// How long a guest may take to accept or give back memory.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked how far it is.
const LOOK: Duration = Duration::from_millis(50);
/// How long the agent may take to show that it is there, and for a script.
const MEET: Duration = Duration::from_secs(3);
const SCRIPT: Duration = Duration::from_secs(20);

/// Memory that comes is used at once.
const BEFORE: &str = "echo online_movable >/sys/devices/system/memory/auto_online_blocks";
/// Processors that came are used, and the small VM's file system grows with its disk.
const AFTER: &str = r#"
for switch in /sys/devices/system/cpu/cpu[0-9]*/online; do [ "$(cat $switch)" = 1 ] || echo 1 >$switch; done
[ -x /usr/lib/yun/resize2fs ] && read -r disk </run/disk && /usr/lib/yun/resize2fs "$disk" >/dev/null 2>&1
exit 0
"#;

/// How far a machine can grow while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Room {
    /// The most processors.
    pub(super) processors: u32,
    /// The most memory beside that of the start, in MiB.
    pub(super) memory_mib: u64,
    /// How many queues its disks have: what QEMU would take from the processors of each start stays the same for one memory.
    pub(super) queues: u32,
}

impl Room {
    /// As far as this host could carry it.
    pub(super) fn of_host() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        Self {
            processors: processors.min(MOST_PROCESSORS),
            memory_mib: region(memory_total().unwrap_or_default()),
            queues: 1,
        }
    }

    /// The end of what the guest can have, in MiB. The region lies on a border of its own.
    pub(super) fn most_mib(self, start_mib: u64) -> u64 {
        start_mib + self.memory_mib + 2 * SECTION_MIB
    }

    /// The region's place in QEMU's command line: behind all that was there before regions were.
    pub(super) fn arguments(self, args: &mut Arguments) {
        args.add("-object", format!("memory-backend-ram,id=room,size={}M,reserve=off", self.memory_mib));
        args.add(
            "-device",
            format!("virtio-mem-pci,id=room,memdev=room,node=0,block-size={BLOCK_MIB}M,requested-size=0"),
        );
    }
}

fn region(total: Bytes) -> u64 {
    (total.ceil_mib() / SECTION_MIB * SECTION_MIB).max(SECTION_MIB)
}

/// How many processors the machine has.
pub(super) async fn processors(machine: &Machine) -> Result<u32> {
    let all = ask(machine, "query-cpus-fast", Value::Null).await?;
    Ok(all.as_array().map_or(1, |all| u32::try_from(all.len()).unwrap_or(u32::MAX)))
}

async fn ask(machine: &Machine, command: &str, arguments: Value) -> Result<Value> {
    machine.command(command, arguments).await.map_err(|e| machine.failed("change the size of", e))
}

/// Runs a script in the guest. False if there is no agent to do that.
async fn inside(machine: &Machine, script: &str) -> bool {
    let words = ["/bin/sh".to_owned(), "-s".to_owned()];
    let running =
        async { Agent::meet(&machine.files.agent(), MEET).await?.run(&words, script.as_bytes(), SCRIPT).await };
    running.await.is_ok_and(|done| done.code == Ok(0))
}

/// Brings a machine as near to `wanted` as it gets without a restart.
pub(super) async fn resize(host: &Host, machine: &Machine, wanted: Size) -> Result<Resized> {
    let name = machine.name();
    let Some(run) = machine.current() else {
        let message = format!("cannot change the size of VM {name} while it runs: it does not run");
        return Err(DriverError::new(ErrorKind::Conflict, "NotRunning", message));
    };
    let plan = machine.files.plan()?;
    let room = machine.files.room();
    let mut why = Vec::new();
    let disk = grow_disk(machine, wanted.disk).await?;
    let (had, grown) = (processors(machine).await?, plug_processors(machine, wanted.cpu, room).await?);
    let memory = memory(machine, wanted.memory, room, &mut why).await?;
    // Nobody waits for an agent that has nothing to do.
    let helped = (grown > had || disk) && inside(machine, AFTER).await;
    if grown > had && !helped {
        why.push("its guest was given more processors and has no agent that puts them to use: switch them on inside (/sys/devices/system/cpu/cpu*/online)".to_owned());
    }
    let mut cpu = wanted.cpu;
    if wanted.cpu.ceil_cores() > grown {
        cpu = Cpu(grown.saturating_mul(1000));
        why.push(format!("it has places for {grown} processors while it runs"));
    }
    // Fewer processors than it has are a ceiling.
    let limited = share::limit(&host.cgroup(), &machine.id.to_string(), cpu, grown, run.process.pid);
    limited.map_err(|e| DriverError::io(format!("give VM {name} its share of the processor"), e))?;
    machine.files.write_plan(&super::files::Plan { cpu, ..plan })?;
    let why = (!why.is_empty()).then(|| why.join("; "));
    Ok(Resized { size: Size { cpu, memory, disk: wanted.disk }, why })
}

/// True if the disk is larger than before.
async fn grow_disk(machine: &Machine, wanted: Bytes) -> Result<bool> {
    let plan = machine.files.plan()?;
    let to = Bytes(wanted.ceil_mib() << 20);
    if disk::virtual_size(&machine.files.disk(), &format!("the disk of VM {}", plan.name))? >= to {
        return Ok(false);
    }
    machine.grow(&plan, to).await?;
    Ok(true)
}

/// Plugs in what is missing; how many there are then.
async fn plug_processors(machine: &Machine, wanted: Cpu, room: Option<Room>) -> Result<u32> {
    let most = room.map_or(0, |room| room.processors);
    let wanted = wanted.ceil_cores().max(1).min(most);
    let have = processors(machine).await?;
    if have >= wanted {
        return Ok(have);
    }
    let places = ask(machine, "query-hotpluggable-cpus", Value::Null).await?;
    let mut free: Vec<&Value> =
        places.as_array().into_iter().flatten().filter(|place| place.get("qom-path").is_none()).collect();
    let order = |place: &Value| {
        let number = |name: &str| place["props"][name].as_u64().unwrap_or_default();
        (number("socket-id"), number("die-id"), number("core-id"), number("thread-id"))
    };
    free.sort_by_key(|place| order(place));
    for (place, number) in free.into_iter().zip(have..wanted) {
        let mut device = place["props"].clone();
        device["driver"] = place["type"].clone();
        device["id"] = Value::String(format!("cpu-{number}"));
        ask(machine, "device_add", device).await?;
    }
    processors(machine).await
}

/// Brings the memory to what is wanted; what it is then.
async fn memory(machine: &Machine, wanted: Bytes, room: Option<Room>, why: &mut Vec<String>) -> Result<Bytes> {
    let summary = ask(machine, "query-memory-size-summary", Value::Null).await?;
    let start = Bytes(summary["base-memory"].as_u64().unwrap_or_default());
    let wanted = Bytes(wanted.ceil_mib() << 20);
    let region = Bytes(room.map_or(0, |room| room.memory_mib << 20));
    let block = BLOCK_MIB << 20;
    let more = Bytes(wanted.0.saturating_sub(start.0).next_multiple_of(block).min(region.0 / block * block));
    let plugged = plugged_of(machine).await?;
    if more > plugged {
        inside(machine, BEFORE).await;
    }
    let mut have = plugged;
    if room.is_some() && more != plugged {
        let what = json!({"path": "/machine/peripheral/room", "property": "requested-size", "value": more.0});
        ask(machine, "qom-set", what).await?;
        have = settled(machine, plugged_of, more).await?;
    }
    if have != more {
        // It is not promised for later.
        let what = json!({"path": "/machine/peripheral/room", "property": "requested-size", "value": have.0});
        ask(machine, "qom-set", what).await?;
        let verb = if have < more { "took" } else { "gave back" };
        why.push(format!(
            "its guest {verb} only a part of the memory: it has no driver for virtio-mem, or needs what it has"
        ));
    } else if start.0 + region.0 < wanted.0 {
        why.push(format!("it has room for {} of memory while it runs", Bytes(start.0 + region.0).human()));
    }
    let balloon = wanted.min(start);
    let now = balloon_now(machine).await?;
    if balloon == now {
        return Ok(if wanted >= start { covered(Bytes(start.0 + have.0), wanted) } else { wanted });
    }
    ask(machine, "balloon", json!({"value": balloon.0})).await?;
    let reached = settled(machine, balloon_now, balloon).await?;
    if reached != balloon {
        why.push("its guest did not change its balloon: it has no driver for it, or needs what it has".to_owned());
        // A guest that needs it may have it.
        ask(machine, "balloon", json!({"value": reached.0})).await?;
    }
    Ok(covered(Bytes(reached.0 + have.0), wanted))
}

/// What is rounded up to blocks counts as what was wanted.
fn covered(have: Bytes, wanted: Bytes) -> Bytes {
    if have >= wanted && have.0 - wanted.0 < BLOCK_MIB << 20 { wanted } else { have }
}

async fn plugged_of(machine: &Machine) -> Result<Bytes> {
    let devices = ask(machine, "query-memory-devices", Value::Null).await?;
    let room = devices.as_array().into_iter().flatten().find(|device| device["data"]["id"] == "room");
    Ok(Bytes(room.and_then(|room| room["data"]["size"].as_u64()).unwrap_or_default()))
}

async fn balloon_now(machine: &Machine) -> Result<Bytes> {
    let answer = ask(machine, "query-balloon", Value::Null).await?;
    Ok(Bytes(answer["actual"].as_u64().unwrap_or_default()))
}

/// Waits until a guest has done what it was asked; what it has then.
async fn settled(machine: &Machine, look: impl AsyncFn(&Machine) -> Result<Bytes>, wanted: Bytes) -> Result<Bytes> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let have = look(machine).await?;
        if have == wanted || Instant::now() > deadline {
            return Ok(have);
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_as_large_as_the_host_and_has_whole_sections() {
        assert_eq!(region(Bytes::mib(24_500)), 24_448);
        assert_eq!(region(Bytes::mib(5)), 128);
    }

    #[test]
    fn what_was_rounded_up_is_what_was_wanted() {
        assert_eq!(covered(Bytes::mib(258), Bytes::mib(257)), Bytes::mib(257));
        assert_eq!(covered(Bytes::mib(200), Bytes::mib(257)), Bytes::mib(200));
        assert_eq!(covered(Bytes::mib(300), Bytes::mib(257)), Bytes::mib(300));
    }

    #[test]
    fn a_machine_begins_with_room() {
        let mut args = Arguments(Vec::new());
        Room { processors: 4, memory_mib: 1024, queues: 2 }.arguments(&mut args);
        assert!(args.0.iter().any(|word| word.contains("id=room,size=1024M,reserve=off")), "{args:?}");
    }
}
