//! Whether KVM works here. Devices that open and calls that answer prove nothing: a guest has to run.
//!
//! The proof is a boot from QEMU's own firmware of a disk of one sector, with the machine and the processor that VMs get. Its program uses
//! the floating-point unit, counts to twenty million (milliseconds on a processor, half a minute where each instruction is emulated by the
//! kernel), prints a line and switches the machine off. Only that line within the limit means KVM. The answer is kept until the host
//! boots, its kernel or QEMU changes, or `/dev/kvm` appears.

use super::process::{boot_id, kernel_release};
use crate::host::Host;
use nix::{
    libc,
    sys::resource::{Resource, setrlimit},
};
use serde::{Deserialize, Serialize};
use std::{io, os::fd::AsRawFd, path::Path, process::Stdio, time::Duration};
use tokio::process::Command;
use yun_types::Accel;

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccelChoice {
    /// KVM where a test guest proves that it works, else emulation.
    #[default]
    Auto,
    /// KVM, without a proof.
    Kvm,
    /// Emulation.
    Tcg,
}

/// What VMs run with, and what to tell the operator about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Verdict {
    /// How VMs run.
    pub(super) accel: Accel,
    /// Why, if it is not the best there is.
    pub(super) message: Option<String>,
}

/// A verdict and what it was true of.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    boot_id: String,
    kernel: String,
    qemu: String,
    device: bool,
    verdict: Verdict,
}

/// How long the test guest may take; under emulation it takes a tenth of a second.
const LIMIT: Duration = Duration::from_secs(5);
const DEVICE: &str = "/dev/kvm";
const SLOWER: &str = "VMs are emulated (TCG), several times slower";

/// Decides, from the operator's choice, from what is kept, or by a test guest.
pub(super) async fn decide(host: &Host, choice: AccelChoice, program: &str, version: &str) -> Verdict {
    match choice {
        AccelChoice::Tcg => {
            Verdict { accel: Accel::Tcg, message: Some(format!("{SLOWER}: the configuration says accel = \"tcg\"")) }
        }
        AccelChoice::Kvm => {
            let message =
                "KVM is used because the configuration says accel = \"kvm\"; no test guest has proved that it works"
                    .to_owned();
            Verdict { accel: Accel::Kvm, message: Some(message) }
        }
        AccelChoice::Auto => auto(host, program, version).await,
    }
}

async fn auto(host: &Host, program: &str, version: &str) -> Verdict {
    let file = host.state().join("vm-accel.json");
    let device = Path::new(DEVICE).exists();
    let (boot_id, kernel, qemu) = (boot_id(), kernel_release(), version.to_owned());
    let kept: Option<Kept> = std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(kept) =
        kept.filter(|k| k.boot_id == boot_id && k.kernel == kernel && k.qemu == qemu && k.device == device)
    {
        return kept.verdict;
    }
    let verdict = match probe(program).await {
        Ok(()) => Verdict { accel: Accel::Kvm, message: None },
        Err(why) => Verdict { accel: Accel::Tcg, message: Some(format!("{why}; {SLOWER}")) },
    };
    let kept = Kept { boot_id, kernel, qemu, device, verdict };
    // Without the file the next start proves it again; nothing else depends on it.
    let written = serde_json::to_vec_pretty(&kept)
        .map_err(io::Error::from)
        .and_then(|bytes| super::files::replace(&file, &bytes));
    if let Err(error) = written {
        tracing::warn!(file = %file.display(), %error, "cannot keep the result of the KVM test");
    }
    kept.verdict
}

/// Proves KVM, or says why not.
async fn probe(program: &str) -> Result<(), String> {
    open_device().map_err(|error| device_error(&error))?;
    test_guest(program, "kvm", "host", LIMIT)
        .await
        .map_err(|why| format!("{DEVICE} answers but a test guest did not run: {why}"))
}

/// Opens the device and asks for the version of its interface, which has been 12 since Linux 2.6.22.
fn open_device() -> io::Result<()> {
    let device = std::fs::File::options().read(true).write(true).open(DEVICE)?;
    const KVM_GET_API_VERSION: libc::c_ulong = 0xAE00;
    // SAFETY: this request takes no argument and touches no memory of ours; the descriptor is open.
    let version = unsafe { libc::ioctl(device.as_raw_fd(), KVM_GET_API_VERSION, 0) };
    match version {
        12 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        other => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("its interface has version {other}, and only 12 is known"),
        )),
    }
}

/// The state of the device in words that lead out.
fn device_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!(
            "{DEVICE} is missing: switch virtualisation on in the firmware, load the module kvm_intel or kvm_amd, or, if this machine is itself \
             a VM, ask its host for nested virtualisation"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("{DEVICE} may not be opened: run yun as root, or let its user into the group kvm")
        }
        _ if error.raw_os_error() == Some(libc::EBUSY) => {
            format!(
                "{DEVICE} is busy: another hypervisor (VirtualBox, VMware) holds the processor's virtualisation; stop it"
            )
        }
        _ => format!("{DEVICE} cannot be used: {error}"),
    }
}

/// The line that the test guest prints.
const MARKER: &[u8] = b"yun: the guest runs\n";
/// What the test guest writes to the debug-exit device; QEMU's exit code is twice that and one.
const GOODBYE: u8 = 0x10;

/// Boots the test guest. Public to the module so that tests can run it emulated.
async fn test_guest(program: &str, accel: &str, cpu: &str, limit: Duration) -> Result<(), String> {
    let disk = tempfile::Builder::new()
        .prefix("yun-kvm-test-")
        .tempfile()
        .map_err(|e| format!("cannot make its disk: {e}"))?;
    std::fs::write(disk.path(), boot_disk()).map_err(|e| format!("cannot write its disk: {e}"))?;
    let mut command = Command::new(program);
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-machine",
        "q35",
        "-m",
        "64",
        "-serial",
        "stdio",
    ]);
    command.args(["-accel", accel, "-cpu", cpu, "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-drive"]);
    command.arg(format!("file={},format=raw,if=virtio,readonly=on", disk.path().display()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    // SAFETY: setrlimit is async-signal-safe, which is all that may be called between fork and exec.
    unsafe {
        // A QEMU that KVM breaks under aborts; its core file helps nobody.
        command.pre_exec(|| Ok(setrlimit(Resource::RLIMIT_CORE, 0, 0)?));
    }
    let child = command.spawn().map_err(|e| format!("cannot start QEMU: {e}"))?;
    let output = tokio::time::timeout(limit, child.wait_with_output()).await;
    let output = output
        .map_err(|_| format!("it hung for {} seconds", limit.as_secs()))?
        .map_err(|e| format!("cannot wait for QEMU: {e}"))?;
    if output.stdout.ends_with(MARKER) && output.status.code() == Some(i32::from(GOODBYE) * 2 + 1) {
        return Ok(());
    }
    // The first words are the cause; assertions and backtraces follow them.
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    let first = printed.lines().find(|line| !line.contains("warning:")).unwrap_or("without a word");
    let said = first.split_once(": ").map_or(first, |(_, rest)| rest).trim_start_matches("error: ");
    Err(format!("QEMU ended with {}: {said}", output.status))
}

/// Real-mode code at 0000:7c00.
#[rustfmt::skip]
const PROGRAM: [u8; 71] = [
    0xfa,                               // cli
    0x31, 0xc0,                         // xor ax, ax
    0x8e, 0xd8,                         // mov ds, ax
    0xfc,                               // cld
    0xdb, 0xe3,                         // fninit
    0xd9, 0xe8,                         // fld1
    0xd9, 0xe8,                         // fld1
    0xde, 0xc1,                         // faddp
    0xdf, 0x1e, 0x00, 0x7e,             // fistp word [7e00]
    0x9b,                               // fwait
    0x83, 0x3e, 0x00, 0x7e, 0x02,       // cmp word [7e00], 2
    0x75, 0x2a,                         // jne hang
    0x66, 0xb9, 0x00, 0x2d, 0x31, 0x01, // mov ecx, 20_000_000
    0x66, 0x49,                         // count: dec ecx
    0x75, 0xfc,                         // jnz count
    0xbe, 0x47, 0x7c,                   // mov si, text
    0xac,                               // next: lodsb
    0x84, 0xc0,                         // test al, al
    0x74, 0x12,                         // jz done
    0x88, 0xc3,                         // mov bl, al
    0xba, 0xfd, 0x03,                   // mov dx, 3fd
    0xec,                               // ready: in al, dx
    0xa8, 0x20,                         // test al, 20
    0x74, 0xfb,                         // jz ready
    0x88, 0xd8,                         // mov al, bl
    0xba, 0xf8, 0x03,                   // mov dx, 3f8
    0xee,                               // out dx, al
    0xeb, 0xe9,                         // jmp next
    0xba, 0xf4, 0x00,                   // done: mov dx, f4
    0xb0, GOODBYE,                      // mov al, GOODBYE
    0xee,                               // out dx, al
    0xf4,                               // hang: hlt
    0xeb, 0xfd,                         // jmp hang
];

/// A disk whose first sector is the program and its text. The firmware does not read from disks smaller than a cylinder.
fn boot_disk() -> Vec<u8> {
    let mut disk = [&PROGRAM[..], MARKER, &[0]].concat();
    disk.resize(510, 0);
    disk.extend([0x55, 0xaa]);
    disk.resize(1 << 20, 0);
    disk
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::{engine, tests::is_installed};

    #[test]
    fn each_state_of_the_device_has_its_own_way_out() {
        let said = |code| device_error(&io::Error::from_raw_os_error(code));
        assert!(said(libc::ENOENT).contains("nested virtualisation"));
        assert!(said(libc::EACCES).contains("group kvm"));
        assert!(said(libc::EBUSY).contains("VirtualBox"));
        assert!(said(libc::EIO).contains("cannot be used"));
    }

    #[tokio::test]
    async fn the_test_guest_runs_where_guests_can_run_and_fails_with_the_words_of_qemu() {
        let program = engine::program_name();
        if !is_installed(program) {
            return;
        }
        test_guest(program, "tcg", "max", Duration::from_secs(60)).await.unwrap();
        let why = test_guest(program, "tcg", "no-such-processor", Duration::from_secs(60)).await.unwrap_err();
        assert!(why.contains("no-such-processor"), "{why}");
    }

    #[tokio::test]
    async fn the_operator_has_the_last_word_and_a_kept_answer_is_used() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::open(root.path()).unwrap();
        let forced = decide(&host, AccelChoice::Tcg, "/no/such/qemu", "1.2.3").await;
        assert_eq!(forced.accel, Accel::Tcg);
        assert_eq!(decide(&host, AccelChoice::Kvm, "/no/such/qemu", "1.2.3").await.accel, Accel::Kvm);
        // Without QEMU no guest can run: emulation, with the reason, and the answer is kept.
        let first = decide(&host, AccelChoice::Auto, "/no/such/qemu", "1.2.3").await;
        assert_eq!(first.accel, Accel::Tcg);
        assert!(first.message.as_ref().unwrap().contains(SLOWER), "{first:?}");
        let file = host.state().join("vm-accel.json");
        let marked = std::fs::read_to_string(&file).unwrap().replace(SLOWER, "KEPT");
        std::fs::write(&file, marked).unwrap();
        assert!(decide(&host, AccelChoice::Auto, "/no/such/qemu", "1.2.3").await.message.unwrap().contains("KEPT"));
        assert!(!decide(&host, AccelChoice::Auto, "/no/such/qemu", "1.2.4").await.message.unwrap().contains("KEPT"));
        let _ = std::fs::remove_dir(host.run());
    }
}
