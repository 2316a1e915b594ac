//! The packets of SFTP version 3 (draft-ietf-secsh-filexfer-02) and of OpenSSH's extensions (its PROTOCOL file, section 4): bytes to values
//! and back. Reads no file.

use bytes::{Buf, Bytes, BytesMut};
use nix::sys::stat::FileStat;

/// The longest packet that is read: what OpenSSH sends at most.
pub(super) const LONGEST: usize = 256 << 10;

pub(super) const INIT: u8 = 1;
pub(super) const OPEN: u8 = 3;
pub(super) const CLOSE: u8 = 4;
pub(super) const READ: u8 = 5;
pub(super) const WRITE: u8 = 6;
pub(super) const LSTAT: u8 = 7;
pub(super) const FSTAT: u8 = 8;
pub(super) const SETSTAT: u8 = 9;
pub(super) const FSETSTAT: u8 = 10;
pub(super) const OPENDIR: u8 = 11;
pub(super) const READDIR: u8 = 12;
pub(super) const REMOVE: u8 = 13;
pub(super) const MKDIR: u8 = 14;
pub(super) const RMDIR: u8 = 15;
pub(super) const REALPATH: u8 = 16;
pub(super) const STAT: u8 = 17;
pub(super) const RENAME: u8 = 18;
pub(super) const READLINK: u8 = 19;
pub(super) const SYMLINK: u8 = 20;
pub(super) const EXTENDED: u8 = 200;
const VERSION: u8 = 2;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED_REPLY: u8 = 201;

/// What `OPEN` may ask for.
pub(super) mod open {
    pub(crate) const READ: u32 = 1;
    pub(crate) const WRITE: u32 = 2;
    pub(crate) const APPEND: u32 = 4;
    pub(crate) const CREATE: u32 = 8;
    pub(crate) const TRUNCATE: u32 = 16;
    pub(crate) const EXCLUSIVE: u32 = 32;
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Code {
    Ok = 0,
    Eof = 1,
    NoSuchFile = 2,
    PermissionDenied = 3,
    Failure = 4,
    BadMessage = 5,
    Unsupported = 8,
}

/// A packet that does not follow the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// What a request says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    pub(super) owner: Option<(u32, u32)>,
    pub(super) mode: Option<u32>,
    /// Of access and of change, in seconds.
    pub(super) times: Option<(u32, u32)>,
}

/// Takes the next whole packet off the bytes that came.
pub(super) fn next(bytes: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
    let Some(length) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Malformed)?;
    if length == 0 || length > LONGEST {
        return Err(Malformed);
    }
    if bytes.len() < 4 + length {
        return Ok(None);
    }
    bytes.advance(4);
    Ok(Some(bytes.split_to(length).freeze()))
}

/// Reads a packet from its front.
#[derive(Debug)]
pub(super) struct Reader(pub(super) Bytes);

impl Reader {
    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        self.0.try_get_u8().map_err(|_| Malformed)
    }
    pub(super) fn number(&mut self) -> Result<u32, Malformed> {
        self.0.try_get_u32().map_err(|_| Malformed)
    }
    pub(super) fn long(&mut self) -> Result<u64, Malformed> {
        self.0.try_get_u64().map_err(|_| Malformed)
    }
    pub(super) fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = usize::try_from(self.number()?).map_err(|_| Malformed)?;
        if length > self.0.len() { Err(Malformed) } else { Ok(self.0.split_to(length)) }
    }
    pub(super) fn attributes(&mut self) -> Result<Attributes, Malformed> {
        let flags = self.number()?;
        let mut attributes = Attributes::default();
        if flags & 1 != 0 {
            attributes.size = Some(self.long()?);
        }
        if flags & 2 != 0 {
            attributes.owner = Some((self.number()?, self.number()?));
        }
        if flags & 4 != 0 {
            attributes.mode = Some(self.number()?);
        }
        if flags & 8 != 0 {
            attributes.times = Some((self.number()?, self.number()?));
        }
        if flags & 0x8000_0000 != 0 {
            for _ in 0..self.number()? {
                self.bytes()?;
                self.bytes()?;
            }
        }
        Ok(attributes)
    }
}

/// Builds an answer.
#[derive(Debug)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn of(kind: u8) -> Self {
        Self(vec![0, 0, 0, 0, kind])
    }
    fn number(mut self, number: u32) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }
    fn long(mut self, number: u64) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }
    fn bytes(self, bytes: &[u8]) -> Self {
        let mut this = self.number(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        this.0.extend_from_slice(bytes);
        this
    }
    /// Size, owner, mode and times of a file.
    fn stat(self, stat: &Seen) -> Self {
        self.number(1 | 2 | 4 | 8)
            .long(stat.size)
            .number(stat.owner.0)
            .number(stat.owner.1)
            .number(stat.mode)
            .number(stat.times.0)
            .number(stat.times.1)
    }
    fn end(mut self) -> Bytes {
        let length = u32::try_from(self.0.len() - 4).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0.into()
    }
}

/// What is told of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) size: u64,
    pub(super) owner: (u32, u32),
    pub(super) mode: u32,
    pub(super) times: (u32, u32),
}

impl Seen {
    /// As the kernel has it, with owners as they are called inside.
    pub(super) fn of(stat: &FileStat, owner: (u32, u32)) -> Self {
        let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
        Self {
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            owner,
            mode: stat.st_mode,
            times: (seconds(stat.st_atime), seconds(stat.st_mtime)),
        }
    }
}

pub(super) fn version(extensions: &[(&str, &str)]) -> Bytes {
    let writer = Writer::of(VERSION).number(3);
    extensions.iter().fold(writer, |w, (name, data)| w.bytes(name.as_bytes()).bytes(data.as_bytes())).end()
}

pub(super) fn status(id: u32, code: Code, message: &str) -> Bytes {
    Writer::of(STATUS).number(id).number(u32::from(code as u8)).bytes(message.as_bytes()).bytes(b"en").end()
}

pub(super) fn handle(id: u32, handle: u32) -> Bytes {
    Writer::of(HANDLE).number(id).bytes(&handle.to_be_bytes()).end()
}

pub(super) fn data(id: u32, data: &[u8]) -> Bytes {
    Writer::of(DATA).number(id).bytes(data).end()
}

/// Names with how `ls -l` would show them.
pub(super) fn names(id: u32, names: &[(Vec<u8>, Vec<u8>, Seen)]) -> Bytes {
    let writer = Writer::of(NAME).number(id).number(u32::try_from(names.len()).unwrap_or(u32::MAX));
    names.iter().fold(writer, |w, (name, long, seen)| w.bytes(name).bytes(long).stat(seen)).end()
}

/// A name alone.
pub(super) fn name(id: u32, name: &[u8]) -> Bytes {
    Writer::of(NAME).number(id).number(1).bytes(name).bytes(name).number(0).end()
}

pub(super) fn attributes(id: u32, seen: &Seen) -> Bytes {
    Writer::of(ATTRS).number(id).stat(seen).end()
}

/// The answer to `limits@openssh.com`.
pub(super) fn limits(id: u32, packet: u64, data: u64, handles: u64) -> Bytes {
    Writer::of(EXTENDED_REPLY).number(id).long(packet).long(data).long(data).long(handles).end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_in_pieces_and_bad_ones_end_it() {
        let mut bytes = BytesMut::from(&[0, 0, 0, 2, 7, 9, 0, 0, 0][..]);
        assert_eq!(next(&mut bytes).unwrap().as_deref(), Some(&[7, 9][..]));
        assert_eq!(next(&mut bytes).unwrap(), None);
        bytes.extend_from_slice(&[1, 5]);
        assert_eq!(next(&mut bytes).unwrap().as_deref(), Some(&[5][..]));
        for bad in [[0, 0, 0, 0], [0xff; 4], [0, 4, 0, 1]] {
            assert_eq!(next(&mut BytesMut::from(&bad[..])), Err(Malformed), "{bad:?}");
        }
    }

    #[test]
    fn strings_that_are_longer_than_their_packet_are_refused() {
        let mut reader = Reader(Bytes::from_static(&[0, 0, 0, 5, b'a']));
        assert_eq!(reader.bytes(), Err(Malformed));
        let mut reader = Reader(Bytes::from_static(&[0, 0, 0, 4, 0, 0, 1]));
        assert_eq!(reader.attributes(), Err(Malformed));
        let mut reader = Reader(Bytes::from_static(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]));
        assert_eq!(reader.attributes(), Err(Malformed));
    }

    #[test]
    fn answers_say_how_long_they_are() {
        let answer = status(7, Code::NoSuchFile, "gone");
        assert_eq!(answer[..4], u32::try_from(answer.len() - 4).unwrap().to_be_bytes());
        assert_eq!(answer[4..13], [STATUS, 0, 0, 0, 7, 0, 0, 0, 2]);
    }
}
