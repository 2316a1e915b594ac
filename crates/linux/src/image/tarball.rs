//! Reading tar (ustar, GNU and pax) from strangers: every length that the archive states is bounded before anything is allocated.
//!
//! The `tar` crate decodes the header fields; walking is done here, because its own walk keeps long names and pax records of any length in
//! memory and splits binary attributes at newlines. Sparse entries are refused: they state sizes that the archive does not have.

use super::{fault, job::Job};
use std::{
    collections::BTreeMap,
    io::{self, Read, Seek},
};
use tar::{EntryType, Header};
use yun_drivers::Result;

const BLOCK: u64 = 512;
/// The most that the long names and records before one entry may take; attributes hold at most 64 KiB each.
const LONGEST_RECORDS: u64 = 1 << 20;

/// Walks over the entries of a tar.
pub(super) struct Tarball<R> {
    reader: R,
    skip: fn(&mut R, u64) -> io::Result<()>,
    /// How the archive is called in messages.
    what: String,
    position: u64,
    /// What is left of the current entry, its padding included.
    rest: u64,
    body: u64,
}

/// An entry's header, with everything before it applied.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) kind: EntryType,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    /// Extended attributes, by name.
    pub(super) attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Where its bytes begin in the archive.
    pub(super) offset: u64,
}

#[derive(Debug, Default)]
struct Records {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl<R: Read> Tarball<R> {
    /// Over a stream: skipping reads.
    pub(super) fn stream(reader: R, what: impl Into<String>) -> Self {
        let skip = |reader: &mut R, bytes: u64| match io::copy(&mut reader.by_ref().take(bytes), &mut io::sink())? {
            skipped if skipped == bytes => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        };
        Self { reader, skip, what: what.into(), position: 0, rest: 0, body: 0 }
    }

    /// Goes to the next entry. `None` at the end.
    pub(super) fn next(&mut self, job: &Job) -> Result<Option<Entry>> {
        let mut records = Records::default();
        let mut budget = LONGEST_RECORDS;
        loop {
            job.check()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let kind = header.entry_type();
            let size = unless_blank(&header.as_old().size, header.entry_size()).map_err(|e| self.bad(&e))?;
            if !matches!(
                kind,
                EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader | EntryType::XGlobalHeader
            ) {
                return self.entry(&header, size, records).map(Some);
            }
            self.begin(size)?;
            budget = budget.checked_sub(size).ok_or_else(|| {
                fault::damaged(format!("{} has an entry with more than 1 MiB of names and attributes", self.what))
            })?;
            let mut bytes = Vec::new();
            self.body().read_to_end(&mut bytes).map_err(|e| fault::reading("the archive", e))?;
            if bytes.len() as u64 != size {
                return Err(fault::reading(&self.what, io::ErrorKind::UnexpectedEof.into()));
            }
            match kind {
                EntryType::GNULongName => records.name = Some(without_zeros(bytes)),
                EntryType::GNULongLink => records.link = Some(without_zeros(bytes)),
                EntryType::XHeader => {
                    records.pax.extend(pax(&bytes).ok_or_else(|| self.bad(&"its pax records are malformed"))?)
                }
                // Comments of git archive and the like: no attribute that we keep is global.
                _ => {}
            }
        }
    }

    /// The bytes of the current entry.
    pub(super) fn body(&mut self) -> impl Read + '_ {
        Body(self)
    }

    /// Reads to the end of the stream, so that a hash over it covers what follows the last entry.
    pub(super) fn drain(mut self, job: &Job) -> Result<()> {
        let mut chunk = vec![0; 1 << 16];
        loop {
            job.check()?;
            match self.reader.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(fault::reading(&self.what, e)),
            }
        }
    }

    fn header(&mut self) -> Result<Option<Header>> {
        let rest = std::mem::take(&mut self.rest);
        (self.skip)(&mut self.reader, rest).map_err(|e| fault::reading(&self.what, e))?;
        self.position += rest;
        self.body = 0;
        let mut block = [0; 512];
        let read = read_full(&mut self.reader, &mut block).map_err(|e| fault::reading(&self.what, e))?;
        // Old programs leave out the zero blocks at the end; half a header is an archive that was cut.
        if read == 0 || block.iter().all(|b| *b == 0) && read == 512 {
            return Ok(None);
        }
        if read < 512 {
            return Err(fault::reading(&self.what, io::ErrorKind::UnexpectedEof.into()));
        }
        self.position += BLOCK;
        let header = Header::from_byte_slice(&block).clone();
        let sum: u32 =
            block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
        match header.cksum() {
            Ok(stated) if stated == sum => Ok(Some(header)),
            _ => Err(self.bad(&format!("the header at byte {} has a wrong checksum", self.position - BLOCK))),
        }
    }

    fn begin(&mut self, size: u64) -> Result<()> {
        let padded = size.checked_next_multiple_of(BLOCK).filter(|p| self.position.checked_add(*p).is_some());
        self.rest = padded.ok_or_else(|| self.bad(&"an entry states an impossible size"))?;
        self.body = size;
        Ok(())
    }

    fn entry(&mut self, header: &Header, size: u64, mut records: Records) -> Result<Entry> {
        let name = records
            .name
            .or_else(|| records.pax.remove(&b"path"[..]))
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let sparse =
            header.entry_type() == EntryType::GNUSparse || records.pax.keys().any(|k| k.starts_with(b"GNU.sparse."));
        if sparse {
            return Err(fault::unsafe_entry(&name, "is stored as a sparse file; make the archive without --sparse"));
        }
        let link = records
            .link
            .or_else(|| records.pax.remove(&b"linkpath"[..]))
            .or_else(|| header.link_name_bytes().map(|l| l.into_owned()));
        let number = |key: &str, field: io::Result<u64>| match records.pax.get(key.as_bytes()) {
            Some(text) => std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()),
            None => field.ok(),
        };
        let bad = |field: &str| {
            fault::damaged(format!("{} is damaged: entry {} has a bad {field}", self.what, fault::shown(&name)))
        };
        let owner = |key: &str, field| number(key, field).and_then(|n| u32::try_from(n).ok()).ok_or_else(|| bad(key));
        // Links and directories have no bytes, whatever old programs write into the field.
        let has_bytes =
            matches!(header.entry_type(), EntryType::Regular | EntryType::Continuous) || !known(header.entry_type());
        let size = if has_bytes { number("size", Ok(size)).ok_or_else(|| bad("size"))? } else { 0 };
        let entry = Entry {
            kind: header.entry_type(),
            link: link.unwrap_or_default(),
            size,
            mode: unless_blank(&header.as_old().mode, header.mode()).map_err(|_| bad("mode"))? & 0o7777,
            uid: owner("uid", unless_blank(&header.as_old().uid, header.uid()))?,
            gid: owner("gid", unless_blank(&header.as_old().gid, header.gid()))?,
            mtime: mtime(header, &records.pax),
            attributes: records
                .pax
                .iter()
                .filter_map(|(k, v)| Some((k.strip_prefix(b"SCHILY.xattr.")?.to_vec(), v.clone())))
                .collect(),
            offset: self.position,
            name,
        };
        self.begin(size)?;
        Ok(entry)
    }

    fn bad(&self, why: &dyn std::fmt::Display) -> yun_drivers::DriverError {
        fault::damaged(format!("{} is damaged: {why}; fetch it again", self.what))
    }
}

impl<R: Read + Seek> Tarball<R> {
    /// Over a file: skipping seeks.
    pub(super) fn seekable(reader: R, what: impl Into<String>) -> Self {
        let skip = |reader: &mut R, bytes: u64| {
            let bytes = i64::try_from(bytes).map_err(|_| io::ErrorKind::UnexpectedEof)?;
            reader.seek_relative(bytes)
        };
        Self { skip, ..Self::stream(reader, what) }
    }
}

struct Body<'a, R>(&'a mut Tarball<R>);

impl<R: Read> Read for Body<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let want = into.len().min(usize::try_from(self.0.body).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let read = self.0.reader.read(&mut into[..want])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.body -= read as u64;
        self.0.rest -= read as u64;
        self.0.position += read as u64;
        Ok(read)
    }
}

/// A field that was left blank counts as zero, as in other readers.
fn unless_blank<T: Default>(field: &[u8], read: io::Result<T>) -> io::Result<T> {
    if field.iter().all(|b| matches!(b, 0 | b' ')) { Ok(T::default()) } else { read }
}

/// Types whose entries have no bytes of their own.
fn known(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::Link
            | EntryType::Symlink
            | EntryType::Char
            | EntryType::Block
            | EntryType::Directory
            | EntryType::Fifo
    )
}

fn mtime(header: &Header, pax: &BTreeMap<Vec<u8>, Vec<u8>>) -> i64 {
    let whole = |text: &[u8]| std::str::from_utf8(text).ok()?.split('.').next()?.parse().ok();
    let stated = pax.get(&b"mtime"[..]).and_then(|t| whole(t));
    stated.or_else(|| header.mtime().ok().and_then(|t| i64::try_from(t).ok())).unwrap_or(0).clamp(0, 1 << 40)
}

fn without_zeros(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

/// Pax records, `LENGTH KEY=VALUE\n` each; the length counts all of it (POSIX pax, "Extended Header").
fn pax(mut bytes: &[u8]) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut records = BTreeMap::new();
    while !bytes.is_empty() {
        let space = bytes.iter().take(20).position(|b| *b == b' ')?;
        let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
        let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|b| *b == b'=')?;
        records.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        bytes = &bytes[length..];
    }
    Some(records)
}

fn read_full(reader: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match reader.read(&mut into[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageLimits;
    use proptest::prelude::*;
    use yun_engine::work::Followed;

    fn walk(bytes: &[u8]) -> Result<Vec<Entry>> {
        let (job, _waiting) = Job::new(&Followed::default(), ImageLimits::default());
        let mut tarball = Tarball::stream(bytes, "the archive");
        let mut entries = vec![];
        while let Some(entry) = tarball.next(&job)? {
            let mut body = vec![];
            tarball.body().read_to_end(&mut body).map_err(|e| fault::reading("the archive", e))?;
            assert_eq!(body.len() as u64, entry.size);
            entries.push(entry);
        }
        Ok(entries)
    }

    fn archive(names: &[&str]) -> Vec<u8> {
        let mut builder = tar::Builder::new(vec![]);
        for name in names {
            let mut header = Header::new_gnu();
            header.set_size(5);
            header.set_mode(0o4755);
            builder.append_data(&mut header, name, &b"hello"[..]).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn names_of_any_length_are_read() {
        let long = "d/".repeat(120) + "f";
        let entries = walk(&archive(&["a", &long])).unwrap();
        assert_eq!(entries[0].name, b"a");
        assert_eq!(entries[0].mode, 0o4755);
        assert_eq!(entries[1].name, long.as_bytes());
    }

    #[test]
    fn an_attribute_may_hold_any_byte() {
        let mut builder = tar::Builder::new(vec![]);
        builder.append_pax_extensions([("SCHILY.xattr.user.x", &b"a\nb=c\0"[..])]).unwrap();
        let mut header = Header::new_ustar();
        header.set_size(0);
        builder.append_data(&mut header, "f", &b""[..]).unwrap();
        let entries = walk(&builder.into_inner().unwrap()).unwrap();
        assert_eq!(entries[0].attributes[&b"user.x"[..]], b"a\nb=c\0");
    }

    #[test]
    fn endless_names_are_refused_before_they_are_read() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        let error = walk(header.as_bytes()).unwrap_err();
        assert!(error.message.contains("more than 1 MiB"), "{error}");
    }

    #[test]
    fn a_cut_archive_is_truncated_and_a_flipped_one_damaged() {
        let whole = archive(&["a", "b"]);
        assert!(walk(&whole[..700]).unwrap_err().message.contains("truncated"));
        assert!(walk(&whole[..514]).unwrap_err().message.contains("truncated"));
        let mut flipped = whole.clone();
        flipped[3] ^= 1;
        assert!(walk(&flipped).unwrap_err().message.contains("checksum"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..2048), at in 0usize..1024) {
            let _ = walk(&bytes);
            // With a right checksum, so that the fields are looked at.
            let mut whole = archive(&["a"]);
            let end = (at + bytes.len()).min(500);
            if at < end {
                whole[at..end].copy_from_slice(&bytes[..end - at]);
            }
            let mut header = Header::from_byte_slice(&whole[..512]).clone();
            header.set_cksum();
            whole[..512].copy_from_slice(header.as_bytes());
            let _ = walk(&whole);
            bytes.clear();
        }
    }
}
