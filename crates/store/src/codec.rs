//! The stored form of typed objects: `{"v":N,"o":...}`. Each type says how to read its ancestor, so every version ever written stays readable.

use crate::error::{Result, StoreError};
use crate::kv::Key;
use bytes::Bytes;
use serde::de::{self, DeserializeOwned};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// A type that is kept in a table.
///
/// To change its shape: keep the old struct under another name with its `VERSION`, raise `VERSION` of the new one, name the old one as
/// `Previous`, and write `migrate`. Old bytes belong into a test.
pub trait Stored: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// First segment of its keys. Never changes.
    const TABLE: &'static str;
    /// Version of its shape, from 1.
    const VERSION: u32;
    /// The shape of the version before; [`Never`] for the first.
    type Previous: Stored;
    /// Makes it from its ancestor. A first version writes `match previous {}`.
    fn migrate(previous: Self::Previous) -> Self;
}

/// The ancestor of a first version: there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Never {}

impl Serialize for Never {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        match *self {}
    }
}

impl<'de> Deserialize<'de> for Never {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(de::Error::custom("there is no version before the first"))
    }
}

impl Stored for Never {
    const TABLE: &'static str = "never";
    const VERSION: u32 = 0;
    type Previous = Never;
    fn migrate(previous: Never) -> Self {
        previous
    }
}

#[derive(Serialize)]
struct Envelope<'a, T> {
    v: u32,
    o: &'a T,
}

#[derive(Deserialize)]
struct RawEnvelope<'a> {
    v: u32,
    #[serde(borrow)]
    o: &'a RawValue,
}

/// The stored form of `object`. `key` only names it in errors.
pub fn encode<T: Stored>(key: &Key, object: &T) -> Result<Bytes> {
    serde_json::to_vec(&Envelope { v: T::VERSION, o: object })
        .map(Bytes::from)
        .map_err(|e| StoreError::Invalid { object: key.to_string(), reason: format!("it has no JSON form: {e}") })
}

/// Reads any version of `T` up to its own.
pub fn decode<T: Stored>(key: &Key, bytes: &[u8]) -> Result<T> {
    let envelope: RawEnvelope<'_> = serde_json::from_slice(bytes).map_err(|e| corrupt(key, &e))?;
    if envelope.v > T::VERSION {
        return Err(StoreError::ObjectNewer { key: key.clone(), found: envelope.v, known: T::VERSION });
    }
    walk(key, &envelope)
}

/// Goes down to the version that was written, then up by `migrate`.
fn walk<T: Stored>(key: &Key, envelope: &RawEnvelope<'_>) -> Result<T> {
    if envelope.v == T::VERSION {
        return serde_json::from_str(envelope.o.get()).map_err(|e| corrupt(key, &e));
    }
    if T::VERSION <= T::Previous::VERSION || envelope.v > T::Previous::VERSION {
        let detail = format!("its version {} was never written by a released yun", envelope.v);
        return Err(StoreError::Corrupt { object: key.to_string(), detail });
    }
    walk::<T::Previous>(key, envelope).map(T::migrate)
}

fn corrupt(key: &Key, error: &serde_json::Error) -> StoreError {
    StoreError::Corrupt { object: key.to_string(), detail: format!("its JSON does not fit ({error})") }
}
