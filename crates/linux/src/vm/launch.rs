//! From a plan to a QEMU: its command line, and its birth as a process of its own session that outlives us.

use super::{
    disk::takes_direct,
    engine::{Version, missing, start_failure},
    files::{Files, Plan},
    journal::HELLO,
    memory, plug,
    process::Process,
    resize::Room,
};
use nix::{
    sys::resource::{Resource, setrlimit},
    unistd::setsid,
};
use serde_json::{Value, json};
use std::{
    io,
    os::{
        fd::RawFd,
        unix::fs::{OpenOptionsExt, symlink},
    },
    path::Path,
    process::Stdio,
};
use tokio::process::{Child, Command};
use yun_drivers::{DriverError, ErrorKind, Result};
use yun_types::Accel;

/// What the host decides about a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Circumstances {
    /// How instructions run.
    pub(super) accel: Accel,
    /// Whether the disk can be read past the page cache.
    pub(super) direct: bool,
    /// Whether the kernel moves packets itself.
    pub(super) vhost: bool,
    /// Whether the firmware that only loads a kernel is there.
    pub(super) short_firmware: bool,
    /// Whether one character device of QEMU reads one file and writes another.
    pub(super) two_files: bool,
    /// How far the machine may grow while it runs.
    pub(super) room: Option<Room>,
}

impl Circumstances {
    /// Looks at the host.
    pub(super) fn of(accel: Accel, qemu: Version, files: &Files) -> Self {
        let vhost = accel == Accel::Kvm && Path::new("/dev/vhost-net").exists();
        let short_firmware = Path::new(SHORT_FIRMWARE).exists();
        Self {
            accel,
            direct: takes_direct(&files.disk()),
            vhost,
            short_firmware,
            two_files: qemu.reads_and_writes_files(),
            room: Some(Room::of_host()),
        }
    }
}

/// The largest translated program that emulation keeps in memory, in MiB: QEMU's own default may take a large part of the host.
const TRANSLATION_MIB: u32 = 256;
/// qboot, which comes with QEMU: a guest whose kernel QEMU loads needs nothing of a BIOS that looks for disks and shows menus. Emulated, that
/// saves a quarter of a second of each boot; the slots for later devices work the same, since the kernel sets up what this firmware leaves.
const SHORT_FIRMWARE: &str = "/usr/share/qemu/qboot.rom";

/// The descriptor under which one that takes a guest over finds its first tap; those of the other interfaces follow.
pub(super) const FIRST_TAP: RawFd = 500;

/// QEMU's arguments. One that waits for a memory executes nothing until it has been given one.
pub(super) fn arguments(plan: &Plan, files: &Files, on: Circumstances) -> Vec<String> {
    let mut args = Arguments(Vec::new());
    args.add("-name", format!("guest={},debug-threads=on", plan.name));
    args.add("-uuid", plan.id.to_string());
    args.flag("-nodefaults");
    args.flag("-no-user-config");
    args.add("-display", "none");
    // No fork, no exec, no new rights: a guest that breaks out of its devices finds little to work with.
    args.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    args.add("-msg", "timestamp=on");
    args.add("-pidfile", files.pid().display().to_string());
    let resume = memory::wanted(files);
    let layout = resume.as_ref().map(|resume| &resume.layout);
    let room = room(plan, files, on);
    machine(&mut args, plan, on, layout.and_then(|layout| layout.processors), room);
    channels(&mut args, files, on);
    disks(&mut args, plan, files, on, room);
    network(&mut args, plan, files, on);
    plug::arguments(&mut args, files, layout, on, room);
    if let Some(room) = room {
        room.arguments(&mut args);
    }
    // New with each start: a guest that goes on with a memory that was used before draws new random numbers then. The short firmware would
    // wait for ever with it.
    if !is_short(plan, on) {
        args.add("-device", "vmgenid,guid=auto");
    }
    if resume.is_some() {
        args.add("-incoming", "defer");
    }
    boot(&mut args, plan, on);
    args.0
}

#[derive(Debug)]
pub(super) struct Arguments(pub(super) Vec<String>);

impl Arguments {
    pub(super) fn add(&mut self, option: &str, value: impl Into<String>) {
        self.0.extend([option.to_owned(), value.into()]);
    }
    fn flag(&mut self, option: &str) {
        self.0.push(option.to_owned());
    }
}

/// Commas separate QEMU's options; in a value they are doubled.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// How far this run can grow: one that goes on with a memory as far as it could then.
fn room(plan: &Plan, files: &Files, on: Circumstances) -> Option<Room> {
    let fresh = on.room.map(|room| Room { queues: plan.cpu.ceil_cores().max(1), ..room });
    memory::wanted(files).map_or(fresh, |resume| resume.layout.room)
}

fn machine(args: &mut Arguments, plan: &Plan, on: Circumstances, processors: Option<u32>, room: Option<Room>) {
    // Without the controllers that nobody uses, firmware and kernel have less to look for; without graphics, the firmware and a boot
    // loader show themselves on the serial console.
    args.add("-machine", "q35,sata=off,smbus=off,usb=off,vmport=off,graphics=off,dump-guest-core=off");
    match on.accel {
        Accel::Kvm => {
            args.add("-accel", "kvm");
            args.add("-cpu", "host");
        }
        Accel::Tcg => {
            args.add("-accel", format!("tcg,thread=multi,tb-size={TRANSLATION_MIB}"));
            args.add("-cpu", "max");
        }
    }
    let processors = processors.unwrap_or_else(|| plan.cpu.ceil_cores().max(1));
    match room {
        Some(room) => {
            args.add("-smp", format!("cpus={processors},maxcpus={}", room.processors.max(processors)));
            args.add("-m", format!("size={}M,maxmem={}M", plan.memory_mib, room.most_mib(plan.memory_mib)));
        }
        None => {
            args.add("-smp", format!("cpus={processors}"));
            args.add("-m", format!("size={}M", plan.memory_mib));
        }
    }
    args.add("-rtc", "base=utc");
    args.add("-object", "rng-random,id=entropy,filename=/dev/urandom");
    args.add("-device", "virtio-rng-pci,rng=entropy");
    args.add("-device", "virtio-balloon-pci,id=balloon,deflate-on-oom=on,free-page-reporting=on");
}

/// Everything that speaks with QEMU or the guest besides disks and network.
fn channels(args: &mut Arguments, files: &Files, on: Circumstances) {
    let socket = |id: &str, path: &Path| format!("socket,id={id},path={},server=on,wait=off", quoted(path));
    args.add("-chardev", socket("control", &files.qmp()));
    args.add("-mon", "chardev=control,mode=control");
    let journal = if on.two_files {
        format!("file,id=journal,path={},append=on,input-path={}", quoted(&files.journal()), quoted(&files.hello()))
    } else {
        // QEMU 7.2 knows two files only as a named pipe, which it opens by two names without asking what they are.
        format!("pipe,id=journal,path={}", quoted(&files.journal_pipe()))
    };
    args.add("-chardev", journal);
    args.add("-mon", "chardev=journal,mode=control");
    // The log is open for appending so that it can be cut while QEMU writes.
    args.add(
        "-chardev",
        format!("{},logfile={},logappend=on", socket("serial", &files.serial()), quoted(&files.console_log())),
    );
    args.add("-device", "isa-serial,chardev=serial");
    args.add("-device", "virtio-serial-pci");
    args.add("-chardev", socket("agent", &files.agent()));
    args.add("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0");
}

fn disks(args: &mut Arguments, plan: &Plan, files: &Files, on: Circumstances, room: Option<Room>) {
    let queues = room.map_or_else(String::new, |room| format!(",num-queues={}", room.queues));
    let file = |path: &Path, direct: bool| json!({"driver": "file", "filename": path, "cache": {"direct": direct}, "discard": "unmap"});
    let mut disk = json!({
        "driver": "qcow2", "node-name": "disk", "discard": "unmap", "detect-zeroes": "unmap",
        "cache": {"direct": on.direct}, "file": file(&files.disk(), on.direct),
    });
    if let Some(base) = &plan.base {
        // Many VMs read the same image: the host's page cache keeps it once for all of them.
        disk["backing"] = json!({"driver": "qcow2", "read-only": true, "file": read_only(file(base, false))});
    }
    args.add("-blockdev", disk.to_string());
    args.add("-device", format!("virtio-blk-pci,drive=disk,id=disk,bootindex=1{queues}"));
    let cidata = json!({"driver": "raw", "node-name": "cidata", "read-only": true, "file": read_only(file(&files.cidata(), false))});
    args.add("-blockdev", cidata.to_string());
    args.add("-device", format!("virtio-blk-pci,drive=cidata,id=cidata{queues}"));
}

fn read_only(mut node: Value) -> Value {
    node["read-only"] = Value::Bool(true);
    node
}

fn network(args: &mut Arguments, plan: &Plan, files: &Files, on: Circumstances) {
    let Some(network) = &plan.network else { return };
    let vhost = if on.vhost { ",vhost=on" } else { "" };
    let line = if files.next {
        format!("tap,id=net,fd={FIRST_TAP}{vhost}")
    } else {
        format!("tap,id=net,ifname={},script=no,downscript=no{vhost}", network.tap)
    };
    args.add("-netdev", line);
    // An empty ROM file: nothing boots from the network, and firmware need not try.
    args.add(
        "-device",
        format!("virtio-net-pci,netdev=net,id=net,mac={},host_mtu={},romfile=", network.mac, network.mtu),
    );
}

/// Whether the firmware only loads a kernel.
fn is_short(plan: &Plan, on: Circumstances) -> bool {
    plan.kernel.is_some() && on.short_firmware
}

fn boot(args: &mut Arguments, plan: &Plan, on: Circumstances) {
    args.add("-boot", "menu=off,strict=on");
    let Some(boot) = &plan.kernel else { return };
    if is_short(plan, on) {
        args.add("-bios", SHORT_FIRMWARE);
    }
    args.add("-kernel", boot.kernel.display().to_string());
    if let Some(initrd) = &boot.initrd {
        args.add("-initrd", initrd.display().to_string());
    }
    args.add("-append", with_console(&boot.cmdline));
}

/// A guest whose console nobody can read is one whose failures nobody can see.
fn with_console(cmdline: &str) -> String {
    if cmdline.split_ascii_whitespace().any(|word| word.starts_with("console=ttyS0")) {
        return cmdline.to_owned();
    }
    format!("{cmdline} console=ttyS0").trim_start().to_owned()
}

/// Starts QEMU. It belongs to no terminal and to no session of ours, and what it prints goes to a file: it lives on when we die.
/// `taps` are handed down to one that takes a guest over: the first is its first interface's.
pub(super) fn spawn(
    program: &str,
    plan: &Plan,
    files: &Files,
    on: Circumstances,
    taps: &[RawFd],
) -> Result<(Child, Process)> {
    let name = &plan.name;
    let wrong = |e: io::Error| DriverError::io(format!("start VM {name}"), e);
    for stale in [files.qmp(), files.serial(), files.agent(), files.pid(), files.journal()] {
        match std::fs::remove_file(&stale) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(wrong(e)),
            _ => {}
        }
    }
    std::fs::write(files.hello(), HELLO).map_err(wrong)?;
    files.write_room(room(plan, files, on))?;
    if !on.two_files {
        std::fs::write(files.journal(), "").map_err(wrong)?;
        for (end, file) in [("in", files.hello()), ("out", files.journal())] {
            let name = files.journal_pipe().with_extension(end);
            match symlink(&file, &name) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(wrong(e)),
                _ => {}
            }
        }
    }
    let words = std::fs::File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(files.words())
        .map_err(wrong)?;
    let mut command = Command::new(program);
    command.args(arguments(plan, files, on)).current_dir("/").stdin(Stdio::null());
    command.stdout(words.try_clone().map_err(wrong)?).stderr(words);
    let taps = taps.to_vec();
    // SAFETY: setsid, setrlimit and dup2 are async-signal-safe, which is all that may be called between fork and exec; the vector was made
    // before, and its descriptors are open as long as the caller holds them.
    unsafe {
        command.pre_exec(move || {
            setsid()?;
            for (tap, number) in taps.iter().zip(FIRST_TAP..) {
                if nix::libc::dup2(*tap, number) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            // A core file would hold the guest's memory.
            setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
            Ok(())
        });
    }
    let child =
        command.spawn().map_err(|e| if e.kind() == io::ErrorKind::NotFound { missing().with(e) } else { wrong(e) })?;
    let process = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Process::of);
    process.map(|process| (child, process)).ok_or_else(|| start_failure(name.as_str(), &files.said()))
}

/// Refuses what QEMU would only half notice.
pub(super) fn check(plan: &Plan, files: &Files) -> Result<()> {
    let name = &plan.name;
    if let Some(network) = &plan.network {
        // QEMU would make an interface of that name, connected to nothing.
        let tap = &network.tap;
        if !Path::new("/sys/class/net").join(tap).exists() {
            let message = format!(
                "cannot start VM {name}: its network interface {tap} is not there; it comes back when its network is set up again"
            );
            return Err(DriverError::unavailable("TapMissing", message));
        }
    }
    let fittings = files.fittings();
    plug::check(name.as_str(), &fittings)?;
    if let Some(resume) = memory::wanted(files) {
        plug::check_layout(name.as_str(), &resume.layout, &fittings)?;
    }
    let direct = plan.kernel.iter().flat_map(|boot| std::iter::once(&boot.kernel).chain(&boot.initrd));
    for path in direct.chain(&plan.base).chain(&[files.disk(), files.cidata()]) {
        if let Err(e) = std::fs::File::open(path) {
            let message = format!(
                "cannot start VM {name}: {} cannot be opened: {e}; check its image with yun image verify",
                path.display()
            );
            return Err(DriverError::new(ErrorKind::Damaged, "ImageDamaged", message).with(e));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::files::{Connection, DirectBoot};
    use yun_types::{Cpu, Generation, InstanceId, NetworkId};

    fn plan() -> Plan {
        Plan {
            id: InstanceId(uuid::Uuid::from_u128(7)),
            name: "web".parse().unwrap(),
            generation: Generation(1),
            cpu: Cpu(1500),
            memory_mib: 512,
            base: Some("/images/base, old.qcow2".into()),
            kernel: None,
            network: None,
        }
    }

    fn line(plan: &Plan, accel: Accel) -> String {
        let files = Files { dir: "/state".into(), run: "/run,1".into(), next: false };
        arguments(
            plan,
            &files,
            Circumstances { accel, direct: true, vhost: false, short_firmware: true, two_files: true, room: None },
        )
        .join("\n")
    }

    #[test]
    fn processor_and_memory_follow_the_size_and_the_accelerator() {
        let kvm = line(&plan(), Accel::Kvm);
        assert!(kvm.contains("-accel\nkvm\n-cpu\nhost\n-smp\ncpus=2\n-m\nsize=512M"), "{kvm}");
        assert!(line(&plan(), Accel::Tcg).contains("-accel\ntcg,thread=multi,tb-size=256\n-cpu\nmax"));
    }

    #[test]
    fn paths_with_commas_reach_qemu_whole() {
        let line = line(&plan(), Accel::Tcg);
        assert!(line.contains("path=/run,,1/qmp,server=on"), "{line}");
        assert!(line.contains(r#""filename":"/images/base, old.qcow2""#), "{line}");
    }

    #[test]
    fn a_kernel_gets_the_serial_console_once() {
        let mut plan = plan();
        assert!(!line(&plan, Accel::Tcg).contains("-kernel"));
        // A boot loader on a disk needs a BIOS.
        assert!(!line(&plan, Accel::Tcg).contains("-bios"));
        let cmdline = "root=/dev/vda quiet".to_owned();
        plan.kernel = Some(DirectBoot { kernel: "/k".into(), initrd: Some("/i".into()), cmdline });
        assert!(line(&plan, Accel::Tcg).ends_with(
            "-bios\n/usr/share/qemu/qboot.rom\n-kernel\n/k\n-initrd\n/i\n-append\nroot=/dev/vda quiet console=ttyS0"
        ));
        assert_eq!(with_console("console=ttyS0,115200 quiet"), "console=ttyS0,115200 quiet");
        assert_eq!(with_console(""), "console=ttyS0");
    }

    #[test]
    fn a_network_is_a_tap_that_exists() {
        let mut plan = plan();
        let tap = "yt-not-here".to_owned();
        let (network, address) = (NetworkId(uuid::Uuid::from_u128(9)), "10.77.3.5".parse().unwrap());
        plan.network = Some(Connection {
            network,
            tap,
            mac: "02:00:00:00:00:05".into(),
            address,
            prefix: Some(24),
            gateway: None,
            mtu: 1450,
        });
        assert!(line(&plan, Accel::Tcg).contains("tap,id=net,ifname=yt-not-here,script=no,downscript=no\n"));
        assert!(line(&plan, Accel::Tcg).contains("mac=02:00:00:00:00:05,host_mtu=1450,romfile="));
        let error = check(&plan, &Files { dir: "/state".into(), run: "/run".into(), next: false }).unwrap_err();
        assert!(error.message.contains("yt-not-here is not there"), "{error}");
    }
}
