//! QEMU on this host: whether it is there, which version, and what its failures mean.

use super::journal::last_words;
use crate::command::Program;
use std::{fmt, time::Duration};
use yun_drivers::{DriverError, ErrorKind, Result};
use yun_types::Arch;

/// A QEMU version, as `--version` prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    major: u32,
    minor: u32,
    micro: u32,
}

/// The oldest that is tried in practice.
pub(super) const OLDEST: Version = Version { major: 7, minor: 2, micro: 0 };

/// The first whose output file can have an input file beside it.
const TWO_FILES: Version = Version { major: 8, minor: 1, micro: 0 };

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

impl Version {
    /// Whether one character device can read one file and write another.
    pub(super) fn reads_and_writes_files(self) -> bool {
        self >= TWO_FILES
    }

    fn parse(text: &str) -> Option<Self> {
        let number = text.split_once("version ")?.1.split([' ', '\n', '(']).next()?;
        let mut parts = number.split('.').map(|part| part.parse().ok());
        Some(Self { major: parts.next()??, minor: parts.next()??, micro: parts.next().flatten().unwrap_or(0) })
    }
}

/// The emulator's usual name for this host's architecture.
pub(super) fn program_name() -> &'static str {
    match Arch::host() {
        Arch::Amd64 => "qemu-system-x86_64",
        Arch::Arm64 => "qemu-system-aarch64",
        Arch::Riscv64 => "qemu-system-riscv64",
    }
}

/// Asks QEMU for its version.
pub(super) async fn version(program: &str) -> Result<Version> {
    let qemu = Program { name: program, package: "qemu-system-x86", limit: Duration::from_secs(20) };
    let printed = qemu.run(&["--version"], None).await.map_err(named)?;
    Version::parse(&printed.out).ok_or_else(|| {
        let message = format!(
            "{program} --version printed {:?}, which names no version: reinstall qemu-system-x86",
            printed.out.trim()
        );
        DriverError::unavailable("QemuBroken", message)
    })
}

/// Runs `qemu-img`.
pub(super) async fn qemu_img(args: &[&str]) -> Result<String> {
    let tool = Program { name: "qemu-img", package: "qemu-utils", limit: Duration::from_secs(300) };
    tool.run(args, None).await.map(|printed| printed.out)
}

/// A missing program is what people call by its name.
pub(super) fn named(error: DriverError) -> DriverError {
    if error.reason != "ProgramMissing" {
        return error;
    }
    missing()
}

/// QEMU is not there.
pub(super) fn missing() -> DriverError {
    DriverError::unavailable("QemuMissing", "QEMU is not installed: run apt-get install qemu-system-x86")
}

/// What QEMU's own words mean: pieces of its messages, and what an operator can do about them.
const MEANINGS: [(&[&str], ErrorKind, &str, &str); 10] = [
    (
        &["set up guest memory", "Cannot allocate memory"],
        ErrorKind::Unavailable,
        "NoMemory",
        "the host has not enough free memory for it; stop other instances or give it less memory",
    ),
    (
        &["/dev/net/tun", "resource busy"],
        ErrorKind::Conflict,
        "TapBusy",
        "another process has its network interface open; end that process",
    ),
    (
        &["/dev/net/tun"],
        ErrorKind::Unavailable,
        "TapFailed",
        "its network interface cannot be opened; load the kernel module tun and run yun as root",
    ),
    (
        &["lock", "Is another process using the image"],
        ErrorKind::Conflict,
        "DiskInUse",
        "another process has its disk open; end that process",
    ),
    (
        &["PID file"],
        ErrorKind::Conflict,
        "AlreadyRuns",
        "another QEMU of this VM is still there; wait until it has ended, or end it",
    ),
    (
        &["load PC BIOS"],
        ErrorKind::Unavailable,
        "FirmwareMissing",
        "the firmware is missing; run apt-get install --reinstall seabios qemu-system-x86",
    ),
    (
        &["romfile"],
        ErrorKind::Unavailable,
        "FirmwareMissing",
        "a boot ROM is missing; run apt-get install --reinstall seabios qemu-system-data",
    ),
    (
        &["No space left"],
        ErrorKind::NoSpace,
        "DiskFull",
        "the disk of the host is full; free some space, for example with yun image rm",
    ),
    (
        &["-sandbox"],
        ErrorKind::Unavailable,
        "QemuBroken",
        "this QEMU was built without seccomp; install the distribution's, with apt-get install qemu-system-x86",
    ),
    (
        &["KVM"],
        ErrorKind::Unavailable,
        "KvmBroken",
        "the processor's virtualisation (KVM) does not work here; set accel = \"tcg\" for VMs to emulate, which is slower",
    ),
];

/// The error of a QEMU that ended before the VM ran, from what it printed.
pub(super) fn start_failure(vm: &str, printed: &str) -> DriverError {
    let words = last_words(printed);
    let said = if words.is_empty() { "QEMU ended without a word".to_owned() } else { format!("QEMU said: {words}") };
    let found = MEANINGS.iter().find(|(pieces, ..)| pieces.iter().all(|piece| printed.contains(piece)));
    if let Some((_, kind, reason, meaning)) = found {
        return DriverError::new(*kind, reason, format!("cannot start VM {vm}: {meaning} ({said})"));
    }
    let damaged = [
        "not in qcow2 format",
        "is corrupt",
        "Could not open backing file",
        "could not load kernel",
        "invalid kernel",
        "linux kernel too old",
    ];
    if damaged.iter().any(|piece| printed.contains(piece)) {
        let message = format!(
            "cannot start VM {vm}: its disk or its image is damaged; check the image with yun image verify ({said})"
        );
        return DriverError::new(ErrorKind::Damaged, "ImageDamaged", message);
    }
    DriverError::new(ErrorKind::Internal, "QemuFailed", format!("cannot start VM {vm}: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_distributions_print() {
        let debian = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\nCopyright";
        assert_eq!(Version::parse(debian).unwrap().to_string(), "10.0.2");
        assert_eq!(Version::parse("QEMU emulator version 7.2.15(qemu-7.2.15-3.fc38)").unwrap().to_string(), "7.2.15");
        assert!(Version::parse(debian).unwrap() > OLDEST);
        assert!(Version::parse(debian).unwrap().reads_and_writes_files() && !OLDEST.reads_and_writes_files());
        assert_eq!(Version::parse("nonsense"), None);
    }

    #[tokio::test]
    async fn a_missing_qemu_is_named_with_the_way_out() {
        let error = version("qemu-system-nowhere").await.unwrap_err();
        assert_eq!(error.to_string(), "QEMU is not installed: run apt-get install qemu-system-x86");
        assert_eq!(error.kind, ErrorKind::Unavailable);
    }

    #[test]
    fn failures_get_a_cause_and_a_way_out() {
        for (printed, reason) in [
            ("qemu: cannot set up guest memory 'pc.ram': Cannot allocate memory", "NoMemory"),
            (
                "qemu: -netdev tap,ifname=yt1: could not configure /dev/net/tun (yt1): Device or resource busy",
                "TapBusy",
            ),
            (
                "qemu: -device virtio-blk: Failed to get \"write\" lock\nIs another process using the image [/x]?",
                "DiskInUse",
            ),
            ("qemu: could not load PC BIOS 'bios-256k.bin'", "FirmwareMissing"),
            ("qemu: -blockdev x: Image is not in qcow2 format", "ImageDamaged"),
            ("Could not access KVM kernel module: No such file or directory", "KvmBroken"),
            ("qemu: something new", "QemuFailed"),
            ("", "QemuFailed"),
        ] {
            let error = start_failure("web", printed);
            assert_eq!(error.reason, reason, "{printed}");
            assert!(error.message.starts_with("cannot start VM web: "), "{error}");
        }
    }
}
