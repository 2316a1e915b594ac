//! How a VM ended. QEMU itself keeps a journal of its events in the VM's directory, through a second monitor whose output is a file: so
//! the end is known also when no process of yun was there to see it.

use serde::Deserialize;
use std::{
    io::{Read, Seek, SeekFrom},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::ExitStatus,
};
use yun_types::{Exit, Timestamp};

/// What QEMU reads from the journal's input: without it a monitor keeps its events to itself.
pub(super) const HELLO: &str = "{\"execute\":\"qmp_capabilities\"}\n";

/// How much of a journal's end is read; the last event is what counts.
const TAIL: u64 = 64 << 10;

#[derive(Debug, Deserialize)]
struct Line {
    event: String,
    timestamp: Moment,
    #[serde(default)]
    data: Details,
}

#[derive(Debug, Deserialize)]
struct Moment {
    seconds: i64,
    microseconds: u32,
}

#[derive(Debug, Default, Deserialize)]
struct Details {
    #[serde(default)]
    reason: String,
}

/// The end that a journal tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shutdown {
    /// `guest-shutdown`, `host-qmp-quit`, `host-signal`, `guest-panic` …
    pub(super) reason: String,
    /// When.
    pub(super) at: Option<Timestamp>,
}

/// Reads the end from a journal. `None` if it tells of none: QEMU runs, or died without a word.
pub(super) fn shutdown(journal: &Path) -> Option<Shutdown> {
    let mut file = std::fs::File::open(journal).ok()?;
    let size = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    parse(&String::from_utf8_lossy(&bytes))
}

fn parse(text: &str) -> Option<Shutdown> {
    let events = text.lines().rev().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let last = events.into_iter().find(|line| line.event == "SHUTDOWN")?;
    let at = chrono::DateTime::from_timestamp(last.timestamp.seconds, last.timestamp.microseconds.saturating_mul(1000));
    Some(Shutdown { reason: last.data.reason, at })
}

/// The exit of a QEMU that is dead: from its journal, from how the kernel says it ended (known to its parent only), and from its last words.
pub(super) fn exit(shutdown: Option<&Shutdown>, status: Option<ExitStatus>, words: &str, now: Timestamp) -> Exit {
    let at = shutdown.and_then(|s| s.at).unwrap_or(now);
    let of_signal = |signal: i32| Exit { code: 128 + signal, signal: Some(signal), out_of_memory: false, at };
    let of_code = |code: i32| Exit { code, signal: None, out_of_memory: false, at };
    match (shutdown.map(|s| s.reason.as_str()), status.and_then(|s| s.signal())) {
        (Some("guest-shutdown" | "subsystem-reset"), _) => of_code(0),
        // `quit` is what we say to a guest that did not end in time: the plug is pulled, as SIGKILL does with a process.
        (Some("host-qmp-quit"), _) => of_signal(9),
        (Some("host-signal"), _) => of_signal(15),
        (Some(_), _) => of_code(1),
        (None, Some(signal)) => of_signal(signal),
        (None, None) => match status.and_then(|s| s.code()) {
            Some(0) => of_code(0),
            Some(code) => of_code(code),
            // Nobody saw the signal. An abort says why before it dies; SIGKILL is the one that leaves no word.
            None if last_words(words).is_empty() => of_signal(9),
            None => of_code(1),
        },
    }
}

/// What QEMU printed, without its warnings.
pub(super) fn last_words(log: &str) -> String {
    let said = log.lines().filter(|line| !line.contains("warning:"));
    crate::command::tail(&said.collect::<Vec<_>>().join("\n"), 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOURNAL: &str = r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}
{"return": {}}
{"timestamp": {"seconds": 1795239488, "microseconds": 317474}, "event": "STOP"}
{"timestamp": {"seconds": 1795239488, "microseconds": 519530}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}
{"timestamp": {"seconds": 1795239489, "microseconds": 0}, "event": "VSERPORT_CHANGE", "data": {"open": false, "id": "agent"}}
"#;

    fn now() -> Timestamp {
        chrono::DateTime::from_timestamp(2_000_000_000, 0).unwrap()
    }

    #[test]
    fn the_last_shutdown_is_the_end() {
        let end = parse(JOURNAL).unwrap();
        assert_eq!(end.reason, "guest-shutdown");
        assert_eq!(end.at.unwrap().timestamp_micros(), 1_795_239_488_519_530);
        assert_eq!(parse(&JOURNAL.replace("SHUTDOWN", "RESET")), None);
        // A line that was cut in half by a power failure is skipped.
        assert_eq!(parse(&JOURNAL[..JOURNAL.len() - 200]), None);
    }

    #[test]
    fn each_end_has_its_exit() {
        let end = |reason: &str| Some(Shutdown { reason: reason.into(), at: None });
        let code = |end: Option<Shutdown>, raw: Option<i32>, words: &str| {
            let exit = exit(end.as_ref(), raw.map(ExitStatus::from_raw), words, now());
            (exit.code, exit.signal)
        };
        assert_eq!(code(end("guest-shutdown"), Some(0), ""), (0, None));
        assert_eq!(code(end("host-qmp-quit"), Some(0), ""), (137, Some(9)));
        assert_eq!(code(end("host-signal"), Some(0), ""), (143, Some(15)));
        assert_eq!(code(end("guest-panic"), Some(0), ""), (1, None));
        assert_eq!(code(None, Some(9), ""), (137, Some(9)));
        assert_eq!(code(None, Some(6), "qemu: Assertion failed"), (134, Some(6)));
        assert_eq!(code(None, Some(1 << 8), "qemu: no"), (1, None));
        assert_eq!(code(None, None, "qemu: warning: slow\n"), (137, Some(9)));
        assert_eq!(code(None, None, "qemu: Assertion failed"), (1, None));
    }
}
