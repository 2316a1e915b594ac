//! Keys of typed objects: `table/segment/segment`.
//!
//! A segment may hold any text: `/`, `%` and control characters are written as `%2F`, so that a prefix never reaches into a neighbour
//! (`web` is not a prefix of `web2`) and no name can forge another path.

use crate::kv::{Key, KeyRange};
use std::fmt::Write;

/// The key of the object at `segments` of `table`.
pub fn key(table: &str, segments: &[&str]) -> Key {
    let mut text = String::with_capacity(table.len() + segments.iter().map(|s| s.len() + 1).sum::<usize>());
    text.push_str(table);
    for segment in segments {
        text.push('/');
        push_escaped(&mut text, segment);
    }
    text.into()
}

/// All keys below `segments` of `table`; the whole table without segments.
pub fn below(table: &str, segments: &[&str]) -> KeyRange {
    KeyRange::prefix(&format!("{}/", key(table, segments)))
}

/// The segments of a key, without its table.
pub fn segments(key: &str) -> Vec<String> {
    key.split('/').skip(1).map(unescape).collect()
}

fn push_escaped(text: &mut String, segment: &str) {
    for c in segment.chars() {
        if c == '/' || c == '%' || c.is_ascii_control() {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{:02X}", u32::from(c));
        } else {
            text.push(c);
        }
    }
}

fn unescape(segment: &str) -> String {
    let mut text = String::with_capacity(segment.len());
    let mut rest = segment;
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 3).and_then(|code| u8::from_str_radix(code, 16).ok());
        match code {
            Some(code) => {
                text.push(char::from(code));
                rest = &rest[at + 3..];
            }
            None => {
                text.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    text.push_str(rest);
    text
}
