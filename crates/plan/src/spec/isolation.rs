//! What may be asked of a container's health check, its limits and its isolation, and by whom.

use super::{Trust, bad};
use crate::Refused;
use yun_types::{Capability, ContainerOptions, HealthCheck, HealthProbe, IoLimits, Security, Span};

/// Capabilities beyond the usual ones that act only on what belongs to the container's own user namespace.
const HARMLESS: [&str; 6] = ["IPC_LOCK", "LEASE", "NET_ADMIN", "NET_BROADCAST", "SYS_NICE", "SYS_PTRACE"];

/// The shortest pause between two questions: a host with hundreds of containers answers them all.
const SHORTEST: Span = Span::seconds(1);

pub(super) fn check_health(check: &HealthCheck) -> Result<(), Refused> {
    match &check.probe {
        HealthProbe::Command { command } if command.first().is_none_or(String::is_empty) => {
            return bad("the health check names no program: give one, as in --health-cmd 'wget -q -O- localhost'");
        }
        HealthProbe::Command { command } if command.iter().any(|word| word.contains('\0')) => {
            return bad("the health check contains a zero byte, which no process can get");
        }
        HealthProbe::Http { port: 0, .. } | HealthProbe::Tcp { port: 0 } => {
            return bad("the health check asks port 0, where nothing can listen: use 1 to 65535");
        }
        HealthProbe::Http { path, .. }
            if !path.starts_with('/') || path.contains(|c: char| c.is_control() || c == ' ') =>
        {
            return bad(format!(
                "the health check's path {path:?} is not usable: begin it with a slash and escape spaces, as in /healthz"
            ));
        }
        _ => {}
    }
    if check.interval < SHORTEST {
        return bad(format!("the health check's interval {} is too short: use at least {SHORTEST}", check.interval));
    }
    if check.timeout.is_zero() {
        return bad("the health check's timeout 0s would fail every answer: use at least 1ms, or leave it out for 5s");
    }
    if !(1..=100).contains(&check.retries) {
        return bad(format!("the health check's retries {} are not usable: use 1 to 100", check.retries));
    }
    Ok(())
}

pub(super) fn check_io(io: &IoLimits) -> Result<(), Refused> {
    let bytes = [("read", io.read), ("write", io.write)];
    if let Some((what, value)) = bytes.into_iter().find(|(_, value)| value.is_some_and(|bytes| bytes.0 < 4096)) {
        let value = value.unwrap_or_default();
        return bad(format!("io limit {what}={value} would stop it: use at least 4Ki a second, or leave it out"));
    }
    if io.read_iops == Some(0) || io.write_iops == Some(0) {
        return bad("an io limit of 0 operations would stop it: use at least 1 a second, or leave it out");
    }
    Ok(())
}

/// An init inside needs rights that are harmless only in a user namespace of its own.
pub(super) fn check_system(options: &ContainerOptions) -> Result<(), Refused> {
    if options.system && !options.security.userns {
        return bad("a system container runs in a user namespace: leave userns=off out, or make it privileged instead");
    }
    if options.system && options.security.read_only {
        return bad("a system container writes to its file tree: leave read_only out");
    }
    Ok(())
}

/// Whoever relaxes what keeps projects apart must be trusted with all of them.
pub(super) fn check_security(security: &Security, trust: Trust) -> Result<(), Refused> {
    if security.privileged && *security != (Security { privileged: true, ..Security::default() }) {
        return bad("privileged switches all isolation off: leave the other parts of security out");
    }
    if let Some(both) = security.cap_add.iter().find(|one| **one != Capability::ALL && security.cap_drop.contains(one))
    {
        return bad(format!("capability {both} is both added and dropped: name it once"));
    }
    if trust == Trust::Cloud {
        return Ok(());
    }
    let forbidden = |what: &str, way_out: &str| {
        let message =
            format!("{what} weakens what keeps projects apart, so only admins of the cloud may ask for it: {way_out}");
        Err(Refused::new("Forbidden", message))
    };
    let leave = "leave it out, or ask one of them";
    if security.privileged {
        return forbidden("privileged", "add single capabilities (--cap-add), or ask one of them");
    }
    for (part, on) in [("userns", security.userns), ("seccomp", security.seccomp), ("masks", security.masks)] {
        if !on {
            return forbidden(&format!("security {part}=off"), leave);
        }
    }
    match security.cap_add.iter().find(|one| !one.is_default() && !HARMLESS.contains(&one.name())) {
        Some(one) => forbidden(&format!("capability {one}"), leave),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(change: impl FnOnce(&mut HealthCheck)) -> String {
        let mut check = HealthCheck::new(HealthProbe::Tcp { port: 80 });
        change(&mut check);
        check_health(&check).map_or_else(|e| e.message, |()| "ok".into())
    }

    #[test]
    fn health_checks_that_cannot_work_are_named() {
        assert_eq!(health(|_| ()), "ok");
        let command =
            |words: &[&str]| HealthProbe::Command { command: words.iter().map(|w| (*w).to_owned()).collect() };
        let http = |path: &str| HealthProbe::Http { port: 80, path: path.into() };
        assert_eq!(health(|c| c.probe = http("/a?b=c")), "ok");
        for (probe, why) in [
            (command(&[]), "names no program"),
            (command(&[""]), "names no program"),
            (command(&["a\0"]), "zero byte"),
            (HealthProbe::Tcp { port: 0 }, "port 0"),
            (http("healthz"), "begin it with a slash"),
            (http("/a b"), "escape spaces"),
            (http("/\r\nHost: x"), "not usable"),
        ] {
            let said = health(|c| c.probe = probe);
            assert!(said.contains(why), "{said}");
        }
        assert!(health(|c| c.interval = "500ms".parse().unwrap()).contains("at least 1s"));
        assert!(health(|c| c.timeout = Span::seconds(0)).contains("timeout 0s"));
        assert!(health(|c| c.retries = 0).contains("use 1 to 100"));
    }

    #[test]
    fn io_limits_that_stop_everything_are_refused() {
        let check = |text: &str| check_io(&text.parse().unwrap()).map_err(|e| e.message);
        assert_eq!(check("read=1M,write-iops=10"), Ok(()));
        assert!(check("write=100").unwrap_err().contains("at least 4Ki"));
        assert!(check("read-iops=0").unwrap_err().contains("at least 1"));
    }

    fn security(words: &[&str], add: &[&str], trust: Trust) -> String {
        let mut security = Security::default();
        words.iter().for_each(|word| security.set(word).unwrap());
        security.cap_add = add.iter().map(|one| one.parse().unwrap()).collect();
        check_security(&security, trust).map_or_else(|e| e.message, |()| "ok".into())
    }

    #[test]
    fn only_admins_of_the_cloud_weaken_the_walls() {
        for part in ["userns=off", "seccomp=off", "masks=off"] {
            let said = security(&[part], &[], Trust::Project);
            assert!(said.contains(part) && said.contains("only admins of the cloud"), "{said}");
            assert_eq!(security(&[part], &[], Trust::Cloud), "ok");
        }
        assert_eq!(security(&["no-new-privileges=off", "read-only"], &["NET_ADMIN", "CHOWN"], Trust::Project), "ok");
        assert!(security(&[], &["SYS_ADMIN"], Trust::Project).contains("capability SYS_ADMIN"));
        assert!(security(&[], &["ALL"], Trust::Project).contains("capability ALL"));
        assert_eq!(security(&[], &["ALL"], Trust::Cloud), "ok");
    }

    #[test]
    fn a_system_inside_needs_its_walls() {
        let mut options = ContainerOptions { system: true, ..ContainerOptions::default() };
        assert_eq!(check_system(&options), Ok(()));
        options.security.userns = false;
        assert!(check_system(&options).unwrap_err().message.contains("leave userns=off out"));
        options.security = Security { read_only: true, ..Security::default() };
        assert!(check_system(&options).unwrap_err().message.contains("leave read_only out"));
    }

    #[test]
    fn contradictions_are_named() {
        let mut both = Security { privileged: true, ..Security::default() };
        assert!(check_security(&both, Trust::Project).unwrap_err().message.contains("--cap-add"));
        assert_eq!(check_security(&both, Trust::Cloud), Ok(()));
        both.read_only = true;
        assert!(check_security(&both, Trust::Cloud).unwrap_err().message.contains("leave the other parts"));
        let mut twice = Security::default();
        twice.cap_add.insert("CHOWN".parse().unwrap());
        twice.cap_drop.insert("CHOWN".parse().unwrap());
        assert!(check_security(&twice, Trust::Cloud).unwrap_err().message.contains("both added and dropped"));
    }
}
