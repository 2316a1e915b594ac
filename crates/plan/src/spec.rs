//! What can be said about an instance's spec without looking at anything else: forms, limits, and what belongs to which kind.

mod isolation;

use crate::{Refused, interface, ports, volume};
use std::collections::BTreeSet;
use yun_types::{Bytes, ContainerOptions, InstanceKind, InstanceSpec, Mount, Power, VmOptions};

/// The most user data, as EC2 and OpenStack have it in order of magnitude.
pub const MAX_USER_DATA: Bytes = Bytes(64 << 10);
/// The longest wait for a polite end.
pub const MAX_STOP_TIMEOUT: u32 = 3600;

/// What the person who asks may do beside the usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// A user of a project.
    Project,
    /// An administrator of the cloud, who may mount paths of the host.
    Cloud,
}

/// Checks a spec for an instance of this kind.
pub fn check(spec: &InstanceSpec, kind: InstanceKind, trust: Trust) -> Result<(), Refused> {
    if let Some(seconds) = spec.stop_timeout
        && seconds > MAX_STOP_TIMEOUT
    {
        return bad(format!("stop_timeout {seconds} is too long: use at most {MAX_STOP_TIMEOUT} seconds"));
    }
    ports::check_list(&spec.publish).map_err(|e| Refused::new("Invalid", e.0))?;
    interface::check(&spec.networks)?;
    volume::check(&spec.volumes, kind)?;
    if kind == InstanceKind::Container && spec.power == Power::Hibernated {
        return bad("this is a container, and power hibernated is for VMs: use paused or stopped");
    }
    match kind {
        InstanceKind::Vm if !spec.container.is_default() => bad(
            "this is a VM, and env, command, mounts and the like are for containers: use user_data (cloud-init) instead, or a container image",
        ),
        InstanceKind::Container if !spec.vm.is_default() => bad(
            "this is a container, and ssh_keys, user_data and boot_timeout are for VMs: use yun exec and env instead, or a VM image",
        ),
        InstanceKind::Vm => check_vm(&spec.vm),
        InstanceKind::Container => {
            check_container(&spec.container, trust)?;
            check_targets(spec)
        }
    }
}

fn bad<T>(message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::new("Invalid", message))
}

fn check_vm(vm: &VmOptions) -> Result<(), Refused> {
    vm.ssh_keys.iter().try_for_each(|key| check_ssh_key(key))?;
    let size = vm.user_data.as_ref().map_or(0, String::len) as u64;
    if size > MAX_USER_DATA.0 {
        return bad(format!(
            "user_data has {size} bytes, and {} is the most: let it fetch what is large from a server",
            MAX_USER_DATA.human()
        ));
    }
    match vm.boot_timeout {
        Some(0) => bad("boot_timeout 0 would fail every VM: use at least 1 second, or leave it out for 300"),
        _ => Ok(()),
    }
}

/// The key types of OpenSSH.
const KEY_TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

fn check_ssh_key(key: &str) -> Result<(), Refused> {
    let shown: String = key.chars().take(40).collect();
    let wrong = |why: &str| {
        bad(format!("ssh key {shown:?} {why}: give one line as in ~/.ssh/id_ed25519.pub, ssh-ed25519 AAAA… comment"))
    };
    if key.contains("PRIVATE KEY") {
        return bad(
            "this ssh key is a private key: keep it to yourself and give the public one, as in ~/.ssh/id_ed25519.pub",
        );
    }
    if key.trim().chars().any(char::is_control) {
        return wrong("has more than one line");
    }
    let mut words = key.split_whitespace();
    match (words.next(), words.next()) {
        (Some(kind), _) if !KEY_TYPES.contains(&kind) => wrong("has an unknown type"),
        (Some(_), Some(body)) if body.starts_with("AAAA") && body.len() >= 40 && body.bytes().all(base64) => Ok(()),
        _ => wrong("is damaged"),
    }
}

fn base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

fn check_container(options: &ContainerOptions, trust: Trust) -> Result<(), Refused> {
    for (name, value) in &options.env {
        let shown: String = name.chars().take(40).collect();
        if name.is_empty()
            || name.starts_with(|c: char| c.is_ascii_digit())
            || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        {
            return bad(format!(
                "env name {shown:?} is not usable: use letters, digits and underscores, not beginning with a digit, as in DATABASE_URL=…"
            ));
        }
        if value.contains('\0') {
            return bad(format!("env {shown} contains a zero byte, which no process can get"));
        }
    }
    for (what, list) in [("entrypoint", &options.entrypoint), ("command", &options.command)] {
        if list.as_ref().is_some_and(|words| words.iter().any(|word| word.contains('\0'))) {
            return bad(format!("{what} contains a zero byte, which no process can get"));
        }
    }
    if options.entrypoint.as_ref().is_some_and(|words| words.first().is_some_and(String::is_empty)) {
        return bad("entrypoint begins with an empty word: name a program of the image, as in /bin/sh");
    }
    if let Some(workdir) = options.workdir.as_ref().filter(|path| !path.starts_with('/')) {
        return bad(format!("workdir {workdir:?} is not absolute: write it from the root, as in /srv"));
    }
    if options.pids == Some(0) {
        return bad("pids 0 would allow no process: use at least 1, or leave it out for 4096");
    }
    if let Some(signal) = options.stop_signal.as_ref().filter(|signal| !is_signal(signal)) {
        return bad(format!("stop_signal {signal:?} is unknown: use a name or a number, as in SIGTERM, TERM or 15"));
    }
    if let Some(health) = &options.health {
        isolation::check_health(health)?;
    }
    isolation::check_io(&options.io)?;
    isolation::check_system(options)?;
    isolation::check_security(&options.security, trust)?;
    check_mounts(&options.mounts, trust)
}

/// The signals that can ask a process to end; KILL works too, without politeness.
const SIGNALS: [&str; 14] =
    ["HUP", "INT", "QUIT", "ABRT", "KILL", "USR1", "USR2", "PIPE", "ALRM", "TERM", "WINCH", "PWR", "CONT", "STOP"];

fn is_signal(text: &str) -> bool {
    let name = text.strip_prefix("SIG").unwrap_or(text);
    let real_time = name.strip_prefix("RTMIN+").and_then(|n| n.parse::<u8>().ok()).is_some_and(|n| n <= 30);
    SIGNALS.contains(&name) || real_time || name.parse::<u8>().is_ok_and(|number| (1..=64).contains(&number))
}

/// Everything that is mounted has a path of its own.
fn check_targets(spec: &InstanceSpec) -> Result<(), Refused> {
    let mut seen = BTreeSet::new();
    let volumes = spec.volumes.iter().filter_map(|mount| mount.target.as_deref());
    for target in spec.container.mounts.iter().map(Mount::target).chain(volumes) {
        absolute("target", target)?;
        let plain = target.trim_end_matches('/');
        if plain.is_empty() {
            return bad("a mount on / would hide the whole image: choose a directory below it, as in /data");
        }
        if !seen.insert(plain) {
            return bad(format!("two mounts have the target {plain}: give each its own"));
        }
    }
    Ok(())
}

fn check_mounts(mounts: &[Mount], trust: Trust) -> Result<(), Refused> {
    for mount in mounts {
        let target = mount.target();
        let Mount::Bind { source, .. } = mount else { continue };
        absolute("source", source)?;
        if trust != Trust::Cloud {
            return Err(Refused::new(
                "Forbidden",
                format!(
                    "cannot mount {source} of the host at {target}: only admins of the cloud may mount paths of the host; use a tmpfs, or ask one of them"
                ),
            ));
        }
    }
    Ok(())
}

fn absolute(what: &str, path: &str) -> Result<(), Refused> {
    if !path.starts_with('/') {
        return bad(format!("mount {what} {path:?} is not absolute: write it from the root, as in /data"));
    }
    if path.contains('\0') || path.split('/').any(|part| part == "..") {
        return bad(format!("mount {what} {path:?} contains .. or a zero byte: write the path as it is, as in /data"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
