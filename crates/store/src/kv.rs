//! Keys, ranges of keys, stored pairs, and the events that a watch gives.

use crate::lease::LeaseId;
use crate::rev::Rev;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A key: text, ordered by its bytes. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(Arc<str>);

impl Key {
    /// The text of the key.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The smallest key that is greater than this one.
    pub fn successor(&self) -> Key {
        Key::from(format!("{}\0", self.0))
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Key(text.into())
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Key(text.into())
    }
}

impl Deref for Key {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

// `Borrow` needs equal order and hash: both sides compare the same text.
impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A half-open range of keys, `from <= key < to`; without `to` it has no upper end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    from: Key,
    to: Option<Key>,
}

impl KeyRange {
    /// Exactly one key.
    pub fn single(key: impl Into<Key>) -> Self {
        let from = key.into();
        let to = Some(from.successor());
        KeyRange { from, to }
    }

    /// All keys that start with `prefix`; all keys at all for the empty prefix.
    pub fn prefix(prefix: &str) -> Self {
        KeyRange { from: prefix.into(), to: prefix_end(prefix).map(Key::from) }
    }

    /// From `from` up to, without, `to`. Empty when `to <= from`.
    pub fn range(from: impl Into<Key>, to: impl Into<Key>) -> Self {
        KeyRange { from: from.into(), to: Some(to.into()) }
    }

    /// Every key.
    pub fn all() -> Self {
        KeyRange { from: "".into(), to: None }
    }

    /// The part of this range behind `key`: the next page after a page that ended with `key`.
    pub fn behind(&self, key: &Key) -> Self {
        KeyRange { from: key.successor().max(self.from.clone()), to: self.to.clone() }
    }

    /// First key that may be in the range.
    pub fn from(&self) -> &Key {
        &self.from
    }

    /// First key behind the range; `None` when nothing is behind it.
    pub fn to(&self) -> Option<&Key> {
        self.to.as_ref()
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &str) -> bool {
        key >= self.from.as_str() && self.to.as_ref().is_none_or(|to| key < to.as_str())
    }

    /// Whether no key can be in the range.
    pub fn is_empty(&self) -> bool {
        self.to.as_ref().is_some_and(|to| *to <= self.from)
    }

    /// Whether some key can be in both ranges.
    pub fn overlaps(&self, other: &KeyRange) -> bool {
        let below = |a: &KeyRange, b: &KeyRange| b.to.as_ref().is_none_or(|to| a.from < *to);
        !self.is_empty() && !other.is_empty() && below(self, other) && below(other, self)
    }
}

/// The smallest text that is greater than every text starting with `prefix`. The order of UTF-8 bytes is the order of code points, so the
/// last character that has a successor moves up by one.
fn prefix_end(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // A range of `char` steps over the gap of the surrogates.
        if let Some(next) = (last..=char::MAX).nth(1) {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// A stored pair with its history numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kv {
    /// The key.
    pub key: Key,
    /// The value, as it was put.
    pub value: Bytes,
    /// When this incarnation of the key was created. Serves as fencing token; not as identity, since a restore may change it.
    pub create_rev: Rev,
    /// When it was last put: what a compare-and-swap compares.
    pub mod_rev: Rev,
    /// How often it was put since its creation, 1 at first.
    pub version: u64,
    /// The lease that it dies with.
    pub lease: Option<LeaseId>,
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was created or changed to this.
    Put(Kv),
    /// It was deleted, by a transaction or with its lease.
    Delete(Key),
}

impl Event {
    /// The key that it happened to.
    pub fn key(&self) -> &Key {
        match self {
            Event::Put(kv) => &kv.key,
            Event::Delete(key) => key,
        }
    }
}

/// Everything that one revision did to the watched range. Without events it reports progress: nothing happened there up to `rev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The revision; strictly growing along a watch.
    pub rev: Rev,
    /// All its events in the range, in the order of the transaction; never split over two batches.
    pub events: Vec<Event>,
}

/// A part of a range in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The revision at which all pairs were read.
    pub rev: Rev,
    /// The pairs.
    pub kvs: Vec<Kv>,
    /// Whether the range has pairs behind the last one: go on with [`KeyRange::behind`] at `rev`.
    pub more: bool,
}
