//! What the command line knows of containers alone: health checks, limits and isolation, from flags to the spec.

pub(crate) mod args;
mod commit;
mod copy;

pub(crate) use commit::commit;
pub(crate) use copy::copy;

use anyhow::{Result, bail};
use args::{HealthArgs, IsolationArgs};
use yun_types::{HealthCheck, HealthProbe, IoLimits, Security};

/// The health check that flags ask for, beside one that is there.
pub(crate) fn health(args: &HealthArgs, before: Option<&HealthCheck>) -> Result<Option<HealthCheck>> {
    let probes: Vec<HealthProbe> = [
        args.health_cmd.as_ref().map(|words| HealthProbe::Command { command: shell(words) }),
        args.health_http.as_ref().map(|word| http(word)).transpose()?,
        args.health_tcp.map(|port| HealthProbe::Tcp { port }),
    ]
    .into_iter()
    .flatten()
    .collect();
    if args.no_health {
        return Ok(None);
    }
    let mut check = match (&probes[..], before) {
        ([], None) if args.times() => {
            bail!("there is no health check to set times for: give --health-cmd, --health-http or --health-tcp")
        }
        ([], None) => return Ok(None),
        ([], Some(before)) => before.clone(),
        ([probe], Some(before)) => HealthCheck { probe: probe.clone(), ..before.clone() },
        ([probe], None) => HealthCheck::new(probe.clone()),
        _ => bail!("an instance has one health check: give one of --health-cmd, --health-http and --health-tcp"),
    };
    check.interval = args.health_interval.unwrap_or(check.interval);
    check.timeout = args.health_timeout.unwrap_or(check.timeout);
    check.retries = args.health_retries.unwrap_or(check.retries);
    check.start_period = args.health_start_period.unwrap_or(check.start_period);
    check.when_unhealthy = args.when_unhealthy.unwrap_or(check.when_unhealthy);
    Ok(Some(check))
}

/// A command line as people write it is for a shell.
fn shell(words: &str) -> Vec<String> {
    ["/bin/sh", "-c", words].map(str::to_owned).to_vec()
}

/// `80` or `80/healthz`.
fn http(word: &str) -> Result<HealthProbe> {
    let (port, path) = word.split_once('/').map_or((word, "/".to_owned()), |(port, path)| (port, format!("/{path}")));
    match port.parse() {
        Ok(port) => Ok(HealthProbe::Http { port, path }),
        Err(_) => bail!("health check {word:?} names no port: write it as in 80 or 8080/healthz"),
    }
}

/// The isolation that flags ask for, beside what is there.
pub(crate) fn security(args: &IsolationArgs, before: Security) -> Result<Security> {
    let mut security = before;
    for word in &args.security {
        security.set(word)?;
    }
    security.privileged |= args.privileged;
    security.read_only |= args.read_only;
    security.cap_add.extend(&args.cap_add);
    security.cap_drop.extend(&args.cap_drop);
    Ok(security)
}

/// The limits of reading and writing.
pub(crate) fn io(args: &IsolationArgs, before: IoLimits) -> IoLimits {
    args.io.unwrap_or(before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        health: HealthArgs,
        #[command(flatten)]
        isolation: IsolationArgs,
    }

    fn line(words: &str) -> Line {
        Line::try_parse_from(std::iter::once("x").chain(words.split_whitespace())).unwrap()
    }

    #[test]
    fn flags_make_a_health_check_or_change_one() {
        let check = health(&line("--health-http 8080/healthz?x=1 --health-retries 5").health, None).unwrap().unwrap();
        assert_eq!(check.probe, HealthProbe::Http { port: 8080, path: "/healthz?x=1".into() });
        assert_eq!(check.retries, 5);
        let changed = health(&line("--health-interval 1m").health, Some(&check)).unwrap().unwrap();
        assert_eq!((changed.retries, changed.interval.to_string()), (5, "1m".into()));
        assert_eq!(health(&line("--no-health").health, Some(&check)).unwrap(), None);
        assert_eq!(health(&line("").health, None).unwrap(), None);
        let why = |words| health(&line(words).health, None).unwrap_err().to_string();
        assert!(why("--health-timeout 1s").contains("give --health-cmd"));
        assert!(why("--health-http web").contains("8080/healthz"));
        assert!(why("--health-tcp 1 --health-http 2").contains("one health check"));
    }

    #[test]
    fn flags_relax_and_tighten() {
        let words = "--security userns=off --cap-add net_admin --cap-drop ALL --read-only --io read=1M";
        let args = line(words).isolation;
        let security = security(&args, Security::default()).unwrap();
        assert!(!security.userns && security.read_only && security.cap_add.len() == 1);
        assert_eq!(io(&args, IoLimits::default()).read, Some("1M".parse().unwrap()));
    }
}
