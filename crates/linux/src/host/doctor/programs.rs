//! The programs that yun starts.

use std::time::Duration;

use super::Finding;
use crate::command::Program;

/// A program and what it is for.
struct Needed {
    check: &'static str,
    /// Names it may have, best first.
    names: &'static [&'static str],
    package: &'static str,
    /// What does not work without it.
    purpose: &'static str,
    /// False if one can live without it.
    vital: bool,
    /// The least version that is known to work.
    least: Option<(u32, u32)>,
}

#[cfg(target_arch = "aarch64")]
const QEMU: (&str, &str) = ("qemu-system-aarch64", "qemu-system-arm");
#[cfg(not(target_arch = "aarch64"))]
const QEMU: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");

const NEEDED: [Needed; 6] = [
    Needed {
        check: "qemu",
        names: &[QEMU.0],
        package: QEMU.1,
        purpose: "virtual machines",
        vital: false,
        least: Some((7, 0)),
    },
    Needed {
        check: "qemu-img",
        names: &["qemu-img"],
        package: "qemu-utils",
        purpose: "disk images",
        vital: false,
        least: None,
    },
    Needed {
        check: "crun",
        names: &["crun", "runc"],
        package: "crun",
        purpose: "containers",
        vital: false,
        least: Some((1, 0)),
    },
    Needed {
        check: "nft",
        names: &["nft"],
        package: "nftables",
        purpose: "networks",
        vital: true,
        least: Some((1, 0)),
    },
    Needed {
        check: "mmdebstrap",
        names: &["mmdebstrap"],
        package: "mmdebstrap",
        purpose: "building images from packages",
        vital: false,
        least: None,
    },
    Needed {
        check: "mkfs.ext4",
        names: &["mkfs.ext4"],
        package: "e2fsprogs",
        purpose: "disks of virtual machines",
        vital: false,
        least: None,
    },
];

pub(super) async fn check() -> Vec<Finding> {
    futures::future::join_all(NEEDED.iter().map(look)).await
}

async fn look(needed: &Needed) -> Finding {
    let mend = format!("apt-get install {}", needed.package);
    for name in needed.names {
        let program = Program { name, package: needed.package, limit: Duration::from_secs(10) };
        // mkfs has no long option, and prints its version where others print errors.
        let option = if name.starts_with("mkfs") { "-V" } else { "--version" };
        match program.run(&[option], None).await {
            Ok(printed) => {
                let text = if printed.out.trim().is_empty() { printed.err } else { printed.out };
                return judge(needed, text.lines().next().unwrap_or_default().trim(), &mend);
            }
            Err(e) if e.reason == "ProgramMissing" => {}
            Err(e) => {
                return Finding::problem(
                    needed.check,
                    format!("it does not run: {e}"),
                    format!("apt-get install --reinstall {}", needed.package),
                );
            }
        }
    }
    let found = format!("{} is not installed; no {} without it", needed.names[0], needed.purpose);
    if needed.vital { Finding::problem(needed.check, found, mend) } else { Finding::warning(needed.check, found, mend) }
}

fn judge(needed: &Needed, line: &str, mend: &str) -> Finding {
    match (needed.least, version(line)) {
        (Some(least), Some(is)) if is < least => {
            let found = format!("{line} is too old: {}.{} is the least", least.0, least.1);
            Finding::warning(needed.check, found, format!("{mend} from a newer release, for example from backports"))
        }
        _ => Finding::ok(needed.check, line),
    }
}

/// The first `major.minor` in a line.
fn version(line: &str) -> Option<(u32, u32)> {
    line.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| {
        let mut parts = word.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::doctor::Level;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        for (line, is) in [
            ("QEMU emulator version 10.0.2 (Debian 1:10.0.2)", (10, 0)),
            ("nftables v1.0.6 (Lester Gooch #5)", (1, 0)),
            ("crun version 1.8.1", (1, 8)),
        ] {
            assert_eq!(version(line), Some(is), "{line}");
        }
        assert_eq!(version("no number"), None);
    }

    #[test]
    fn old_programs_are_told() {
        assert_eq!(judge(&NEEDED[0], "QEMU emulator version 5.2.0", "x").level, Level::Warning);
        assert_eq!(judge(&NEEDED[0], "QEMU emulator version 10.0.2", "x").level, Level::Ok);
    }
}
