//! From Docker's flags about health and about what sets a container apart to the cloud's words. Purely.

use super::{
    super::fault::{Answer, Fault},
    request::{Health, Host},
};
use std::time::Duration;
use yun_types::{Capability, HealthCheck, HealthProbe, Invalid, Security, Span};

/// `--health-*`, with Docker's usual times. `None` if nothing is checked.
pub(super) fn health(asked: Option<&Health>) -> Answer<Option<HealthCheck>> {
    let Some(asked) = asked else { return Ok(None) };
    let command = match asked.test.split_first() {
        None => return Ok(None),
        Some((kind, _)) if kind == "NONE" => return Ok(None),
        Some((kind, words)) if kind == "CMD" => words.to_vec(),
        Some((kind, [line])) if kind == "CMD-SHELL" => vec!["/bin/sh".into(), "-c".into(), line.clone()],
        Some((kind, _)) => {
            return Err(Fault::bad(format!("invalid health check {kind:?}: begin with CMD, CMD-SHELL or NONE")));
        }
    };
    let span = |nanoseconds: i64, usual: u32| match u64::try_from(nanoseconds) {
        Ok(0) => Ok(Span::seconds(usual)),
        Ok(n) => Span::try_from(Duration::from_nanos(n)).map_err(|e| Fault::bad(e.to_string())),
        Err(_) => Err(Fault::bad(format!("a time of a health check is {nanoseconds} ns: use 0 or more"))),
    };
    Ok(Some(HealthCheck {
        interval: span(asked.interval, 30)?,
        timeout: span(asked.timeout, 30)?,
        start_period: span(asked.start_period, 0)?,
        retries: u32::try_from(asked.retries).ok().filter(|n| *n > 0).unwrap_or(3),
        ..HealthCheck::new(HealthProbe::Command { command })
    }))
}

/// `--read-only`, `--cap-add`, `--cap-drop`, `--security-opt`, `--privileged`, `--userns`.
pub(super) fn security(host: &Host) -> Answer<Security> {
    let said = |e: Invalid| Fault::bad(e.to_string());
    let all =
        |words: &[String]| words.iter().map(|word| word.parse::<Capability>().map_err(said)).collect::<Answer<_>>();
    let mut security = Security {
        privileged: host.privileged,
        read_only: host.readonly_rootfs,
        cap_add: all(&host.cap_add)?,
        cap_drop: all(&host.cap_drop)?,
        ..Security::default()
    };
    for option in &host.security_opt {
        match option.split_once(['=', ':']).unwrap_or((option, "true")) {
            // There is nothing of these here to be relaxed.
            ("apparmor" | "label", _) => {}
            ("systempaths", "unconfined") => security.masks = false,
            ("seccomp", "unconfined") => security.seccomp = false,
            ("seccomp", "builtin") => {}
            ("seccomp", _) => {
                return Err(Fault::bad(
                    "--security-opt seccomp=FILE is not supported by yun: leave it out for the usual profile, or use seccomp=unconfined",
                ));
            }
            _ => security.set(option).map_err(said)?,
        }
    }
    if host.rest.get("UsernsMode").and_then(serde_json::Value::as_str) == Some("host") {
        security.userns = false;
    }
    Ok(security)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn health_checks_have_dockers_forms_and_times() {
        let check = |value: serde_json::Value| health(Some(&serde_json::from_value(value).unwrap()));
        let full = check(json!({ "Test": ["CMD-SHELL", "test -e /ok"], "Interval": 1_500_000_000_i64, "Retries": 2 }))
            .unwrap()
            .unwrap();
        assert_eq!(
            full.probe,
            HealthProbe::Command { command: vec!["/bin/sh".into(), "-c".into(), "test -e /ok".into()] }
        );
        assert_eq!(
            (full.interval.duration(), full.timeout, full.retries),
            (Duration::from_millis(1500), Span::seconds(30), 2)
        );
        assert_eq!(check(json!({ "Test": ["NONE"] })).unwrap(), None);
        assert_eq!(check(json!({})).unwrap(), None);
        assert!(check(json!({ "Test": ["true"] })).unwrap_err().message.contains("CMD-SHELL"));
        assert!(check(json!({ "Test": ["CMD", "true"], "Timeout": -1 })).unwrap_err().message.contains("0 or more"));
    }

    #[test]
    fn walls_are_relaxed_by_name_and_unknown_names_refused() {
        let of = |value: serde_json::Value| security(&serde_json::from_value(value).unwrap());
        assert!(of(json!({})).unwrap().is_default());
        let relaxed = of(json!({ "CapAdd": ["CAP_NET_ADMIN"], "CapDrop": ["all"], "ReadonlyRootfs": true,
            "SecurityOpt": ["seccomp=unconfined", "no-new-privileges:false", "apparmor=unconfined"] }))
        .unwrap();
        assert!(relaxed.read_only && !relaxed.seccomp && !relaxed.no_new_privileges);
        assert_eq!(relaxed.capabilities().iter().map(|c| c.name()).collect::<Vec<_>>(), ["NET_ADMIN"]);
        assert!(!of(json!({ "UsernsMode": "host" })).unwrap().userns);
        assert!(of(json!({ "CapAdd": ["FLY"] })).unwrap_err().message.contains("as in NET_ADMIN"));
        assert!(of(json!({ "SecurityOpt": ["seccomp=/x.json"] })).unwrap_err().message.contains("seccomp=unconfined"));
        assert!(of(json!({ "SecurityOpt": ["colour=off"] })).unwrap_err().message.contains("the parts are"));
    }
}
