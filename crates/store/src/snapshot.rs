//! The file form of a state, the same for every engine: the present pairs and leases, without history, closed by a checksum.
//!
//! ```text
//! "yunstate" u32 format | u32 epoch, u64 n, u64 last lease number
//! then records: 1 lease  i64 id, u64 ttl in ms
//!               2 pair   u32 length of key, u32 of value, u64 create, u64 mod, u64 version, i64 lease or 0, key, value
//!               0 end    u64 number of records, SHA-256 of everything before the checksum
//! ```
//! All numbers are little-endian.

use crate::error::{Result, StoreError};
use crate::kv::Kv;
use crate::lease::LeaseId;
use crate::limits;
use crate::rev::Rev;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::time::Duration;

const MAGIC: &[u8; 8] = b"yunstate";
const FORMAT: u32 = 1;
const END: u8 = 0;
const LEASE: u8 = 1;
const PAIR: u8 = 2;

/// What stands at the front of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The revision of the state.
    pub rev: Rev,
    /// Number of the last granted lease.
    pub last_lease: u64,
}

/// One record of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A living lease.
    Lease(LeaseId, Duration),
    /// A pair. Its revisions carry the epoch of the header.
    Pair(Kv),
}

/// Writes a snapshot piece by piece.
#[derive(Debug)]
pub struct Encoder {
    out: Vec<u8>,
    digest: Sha256,
    records: u64,
}

impl Encoder {
    /// Starts with the header.
    pub fn new(header: Header) -> Self {
        let mut out = MAGIC.to_vec();
        out.extend(FORMAT.to_le_bytes());
        out.extend(header.rev.epoch.to_le_bytes());
        out.extend(header.rev.n.to_le_bytes());
        out.extend(header.last_lease.to_le_bytes());
        Encoder { out, digest: Sha256::new(), records: 0 }
    }

    /// Adds a lease.
    pub fn lease(&mut self, id: LeaseId, ttl: Duration) {
        self.records += 1;
        self.out.push(LEASE);
        self.out.extend(id.0.to_le_bytes());
        self.out.extend(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).to_le_bytes());
    }

    /// Adds a pair.
    pub fn pair(&mut self, kv: &Kv) {
        // The limits of keys and values are far below 4 GiB.
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        self.records += 1;
        self.out.push(PAIR);
        self.out.extend(length(kv.key.as_bytes()));
        self.out.extend(length(&kv.value));
        for number in [kv.create_rev.n, kv.mod_rev.n, kv.version] {
            self.out.extend(number.to_le_bytes());
        }
        self.out.extend(kv.lease.map_or(0, |lease| lease.0).to_le_bytes());
        self.out.extend(kv.key.as_bytes());
        self.out.extend(&kv.value[..]);
    }

    /// Bytes that wait to be taken.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether no bytes wait.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Takes the bytes so far.
    pub fn take(&mut self) -> Vec<u8> {
        self.digest.update(&self.out);
        std::mem::take(&mut self.out)
    }

    /// Closes the snapshot and gives its last bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.out.push(END);
        self.out.extend(self.records.to_le_bytes());
        self.digest.update(&self.out);
        self.out.extend(self.digest.finalize());
        self.out
    }
}

/// Reads a snapshot record by record, and refuses a damaged one at its end at the latest: apply nothing for good before `next` gave `None`.
#[derive(Debug)]
pub struct Decoder<R> {
    from: R,
    digest: Sha256,
    records: u64,
    header: Header,
    ended: bool,
}

impl<R: Read> Decoder<R> {
    /// Reads the header.
    pub fn new(from: R) -> Result<Self> {
        let header = Header { rev: Rev::new(0, 0), last_lease: 0 };
        let mut decoder = Decoder { from, digest: Sha256::new(), records: 0, header, ended: false };
        if &decoder.bytes::<8>()? != MAGIC {
            return Err(corrupt("it does not start as a snapshot of a yun state"));
        }
        let format = u32::from_le_bytes(decoder.bytes()?);
        if format != FORMAT {
            return Err(corrupt(&format!(
                "its format is {format}, this yun reads {FORMAT}; use the yun that wrote it"
            )));
        }
        let epoch = u32::from_le_bytes(decoder.bytes()?);
        let n = decoder.number()?;
        decoder.header = Header { rev: Rev::new(epoch, n), last_lease: decoder.number()? };
        Ok(decoder)
    }

    /// The header.
    pub fn header(&self) -> Header {
        self.header
    }

    /// The next record; `None` at the end of a snapshot that is whole.
    #[allow(clippy::should_implement_trait, reason = "an iterator would hide that an error ends it")]
    pub fn next(&mut self) -> Result<Option<Record>> {
        if self.ended {
            return Ok(None);
        }
        let [kind] = self.bytes()?;
        self.records += u64::from(kind != END);
        match kind {
            LEASE => {
                let id = LeaseId(i64::from_le_bytes(self.bytes()?));
                Ok(Some(Record::Lease(id, Duration::from_millis(self.number()?))))
            }
            PAIR => self.pair().map(|kv| Some(Record::Pair(kv))),
            END => self.end().map(|()| None),
            _ => Err(corrupt("it has a record of an unknown kind")),
        }
    }

    fn pair(&mut self) -> Result<Kv> {
        let key = u32::from_le_bytes(self.bytes()?) as usize;
        let value = u32::from_le_bytes(self.bytes()?) as usize;
        if key > limits::MAX_KEY || value > limits::MAX_VALUE {
            return Err(corrupt("a pair in it is larger than allowed"));
        }
        let epoch = self.header.rev.epoch;
        let (create, modified, version) = (self.number()?, self.number()?, self.number()?);
        let lease = i64::from_le_bytes(self.bytes()?);
        let key = String::from_utf8(self.vec(key)?).map_err(|_| corrupt("a key in it is not text"))?;
        if create > modified || modified > self.header.rev.n {
            return Err(corrupt(&format!("the revisions of {key} in it do not fit")));
        }
        Ok(Kv {
            key: key.into(),
            value: Bytes::from(self.vec(value)?),
            create_rev: Rev::new(epoch, create),
            mod_rev: Rev::new(epoch, modified),
            version,
            lease: (lease != 0).then_some(LeaseId(lease)),
        })
    }

    fn end(&mut self) -> Result<()> {
        let records = self.number()?;
        let expected = self.digest.clone().finalize();
        let found: [u8; 32] = self.bytes()?;
        if records != self.records || expected[..] != found {
            return Err(corrupt("its checksum does not match"));
        }
        self.ended = true;
        Ok(())
    }

    fn number(&mut self) -> Result<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn vec(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.from.read_exact(bytes).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => corrupt("it ends too early"),
            _ => StoreError::io("read", "the snapshot", e),
        })?;
        self.digest.update(&bytes[..]);
        Ok(())
    }
}

fn corrupt(detail: &str) -> StoreError {
    StoreError::Invalid { object: "the snapshot".into(), reason: format!("{detail}; choose another file") }
}
