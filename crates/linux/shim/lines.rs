//! Turns what a process writes into log lines: `<RFC 3339 time> <o|e> <P|F> text`. `o` and `e` name the stream; `P` is a part of a line that goes
//! on in the next record of the same stream, `F` the end of a line.
//!
//! Pure: the time is given. The time has a fixed width, so that a reader finds the fields without parsing it.

/// The most text in one record.
pub const LONGEST: usize = 16 << 10;

/// One stream, with the beginning of a line that has no end yet.
pub struct Stream {
    tag: u8,
    held: Vec<u8>,
}

impl Stream {
    /// A stream; `tag` is `o` or `e`.
    pub const fn new(tag: u8) -> Self {
        Self { tag, held: Vec::new() }
    }

    /// True if an unfinished line waits here.
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes bytes in, and appends the records that they complete.
    pub fn push(&mut self, mut bytes: &[u8], stamp: &str, out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = LONGEST - self.held.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                self.record(b'F', &window[..end], stamp, out);
                bytes = &bytes[end + 1..];
            } else if window.len() == room {
                self.record(b'P', window, stamp, out);
                bytes = &bytes[room..];
            } else {
                self.held.extend_from_slice(window);
                return;
            }
        }
    }

    /// Gives out the unfinished line: as a part (`P`) if more may come, as a whole line (`F`) if not.
    pub fn flush(&mut self, kind: u8, stamp: &str, out: &mut Vec<u8>) {
        if self.holds() {
            self.record(kind, &[], stamp, out);
        }
    }

    fn record(&mut self, kind: u8, rest: &[u8], stamp: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(stamp.as_bytes());
        out.extend_from_slice(&[b' ', self.tag, b' ', kind, b' ']);
        out.extend_from_slice(&self.held);
        out.extend_from_slice(rest);
        out.push(b'\n');
        self.held.clear();
    }
}

/// A moment as `2026-11-21T05:43:30.349209123Z`. The date follows from the days since 1970 by counting in years that begin on 1 March, so
/// that the leap day is the last of its year.
pub fn stamp(seconds: u64, nanos: u32) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, wraps) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + wraps;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}
