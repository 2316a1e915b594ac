//! Reading the small languages of flags: `KEY=VALUE`, durations, quotas, mounts, environment files.

use anyhow::{Context as _, Result, anyhow, bail};
use chrono::{DateTime, Duration, Utc};
use std::{collections::BTreeMap, path::Path};
use yun_types::{Labels, Mount, Quota, Timestamp};

/// `KEY=VALUE` words as labels.
pub(crate) fn labels(words: &[String]) -> Result<Labels> {
    words.iter().map(|word| pair("label", word)).collect()
}

/// Splits `KEY=VALUE`.
pub(crate) fn pair(what: &str, word: &str) -> Result<(String, String)> {
    match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => bail!("{what} {word:?} is not KEY=VALUE: write it as in tier=web"),
    }
}

/// Environment variables from flags and files; flags win. A bare name takes the caller's own value, and is left out without one.
pub(crate) fn environment(flags: &[String], files: &[impl AsRef<Path>]) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for file in files {
        let path = file.as_ref();
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the environment file {}", path.display()))?;
        for (number, line) in
            text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.trim_start().starts_with('#'))
        {
            variable(line, &mut all).with_context(|| format!("{} line {}", path.display(), number + 1))?;
        }
    }
    flags.iter().try_for_each(|flag| variable(flag, &mut all))?;
    Ok(all)
}

/// Adds or replaces variables; `NAME-` removes one.
pub(crate) fn change_environment(all: &mut BTreeMap<String, String>, words: &[String]) -> Result<()> {
    for word in words {
        match word.strip_suffix('-') {
            Some(name) if !word.contains('=') => drop(all.remove(name)),
            _ => all.extend(environment(std::slice::from_ref(word), &[] as &[&str])?),
        }
    }
    Ok(())
}

fn variable(word: &str, into: &mut BTreeMap<String, String>) -> Result<()> {
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => match std::env::var(word) {
            Ok(value) => (word, value),
            Err(_) => return Ok(()),
        },
    };
    if name.is_empty() || name.contains(char::is_whitespace) {
        bail!("environment variable {word:?} has no name: write it as in PORT=80");
    }
    into.insert(name.to_owned(), value);
    Ok(())
}

/// `30s`, `10m`, `2h`, `1d` before now.
pub(crate) fn since(word: &str, now: DateTime<Utc>) -> Result<Timestamp> {
    moment(word, |d| now - d)
}

/// `12h`, `30d` from now.
pub(crate) fn until(word: &str, now: DateTime<Utc>) -> Result<Timestamp> {
    moment(word, |d| now + d)
}

fn moment(word: &str, from_now: impl Fn(Duration) -> DateTime<Utc>) -> Result<Timestamp> {
    if let Ok(time) = DateTime::parse_from_rfc3339(word) {
        return Ok(time.to_utc());
    }
    let bad =
        || anyhow!("time {word:?} is not understood: write 30s, 10m, 2h, 1d, or a time as in 2026-01-31T12:00:00Z");
    let unit = word.chars().last().ok_or_else(bad)?;
    let number: i64 = word[..word.len() - unit.len_utf8()].parse().map_err(|_| bad())?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(bad()),
    };
    let total = number.checked_mul(seconds).filter(|s| (0..=3_155_760_000).contains(s)).ok_or_else(bad)?;
    Ok(from_now(Duration::seconds(total)))
}

/// `cpu=8,memory=16G,disk=100G,instances=20`, or `none`.
pub(crate) fn quota(text: &str) -> Result<Quota> {
    let mut quota = Quota::default();
    if text == "none" {
        return Ok(quota);
    }
    for part in text.split(',') {
        let (key, value) = part.split_once(['=', ':']).unwrap_or((part, ""));
        match key.trim() {
            "cpu" => quota.cpu = Some(value.parse()?),
            "memory" => quota.memory = Some(value.parse()?),
            "disk" => quota.disk = Some(value.parse()?),
            "instances" => {
                quota.instances = Some(value.parse().map_err(|_| anyhow!("instances {value:?} is not a whole number"))?)
            }
            other => bail!(
                "quota has the unknown part {other:?}: the parts are cpu, memory, disk and instances, as in cpu=8,memory=16G,instances=20"
            ),
        }
    }
    Ok(quota)
}

/// `SOURCE:TARGET[:ro]`
pub(crate) fn bind(word: &str) -> Result<Mount> {
    let parts: Vec<&str> = word.split(':').collect();
    let (source, target, read_only) = match parts[..] {
        [source, target] => (source, target, false),
        [source, target, "ro"] => (source, target, true),
        [source, target, "rw"] => (source, target, false),
        _ => bail!("mount {word:?} is not SOURCE:TARGET[:ro]: write it as in /srv/www:/www:ro"),
    };
    Ok(Mount::Bind { source: source.to_owned(), target: target.to_owned(), read_only })
}

/// `TARGET[:SIZE]`
pub(crate) fn tmpfs(word: &str) -> Result<Mount> {
    let (target, size) = match word.split_once(':') {
        Some((target, size)) => (target, Some(size.strip_prefix("size=").unwrap_or(size).parse()?)),
        None => (word, None),
    };
    Ok(Mount::Tmpfs { target: target.to_owned(), size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_both_ways() {
        let now = DateTime::UNIX_EPOCH + Duration::days(10);
        assert_eq!(since("2h", now).unwrap(), now - Duration::hours(2));
        assert_eq!(until("30d", now).unwrap(), now + Duration::days(30));
        assert_eq!(since("1970-01-02T00:00:00Z", now).unwrap(), DateTime::UNIX_EPOCH + Duration::days(1));
        for bad in ["", "5", "h", "-5m", "5y", "9999999999999999999d", "é"] {
            assert!(since(bad, now).unwrap_err().to_string().contains("10m"), "{bad}");
        }
    }

    #[test]
    fn quotas_and_mounts_read_as_written() {
        assert_eq!(quota("cpu=8,instances=20").unwrap().instances, Some(20));
        assert!(quota("ram=1").unwrap_err().to_string().contains("unknown part \"ram\""));
        assert!(matches!(bind("/a:/b:ro").unwrap(), Mount::Bind { read_only: true, .. }));
        assert!(bind("/a").is_err());
        assert!(matches!(tmpfs("/t:64M").unwrap(), Mount::Tmpfs { size: Some(_), .. }));
    }

    #[test]
    fn flags_win_over_files() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("env");
        std::fs::write(&file, "# comment\nA=1\nB=2\n").unwrap();
        let all = environment(&["A=9".into()], &[&file]).unwrap();
        assert_eq!((all["A"].as_str(), all["B"].as_str()), ("9", "2"));
        assert!(environment(&["=x".into()], &[] as &[&Path]).is_err());
    }
}
