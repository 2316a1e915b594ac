//! Compressed streams: gzip, zstd and xz, with bounded memory and a guard against bombs.

use super::fault;
use sha2::{Digest as _, Sha256};
use std::{
    cell::Cell,
    io::{self, BufReader, Read},
    rc::Rc,
};
use yun_types::Digest;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Plain,
    Gzip,
    Zstd,
    Xz,
}

/// The largest window that a zstd stream may ask for: 128 MiB, what `zstd --ultra -22 --long=27` makes.
const ZSTD_WINDOW_LOG: u32 = 27;
/// The most memory that an xz stream may ask for, in KiB; `xz -9` needs 65 MiB.
const XZ_MEMORY_KIB: u32 = 256 << 10;
/// Nothing that people archive shrinks a hundredfold, but for the first few megabytes of zeros.
const BOMB_RATIO: u64 = 100;
const BOMB_FREE: u64 = 64 << 20;

impl Codec {
    /// By the first bytes.
    pub(super) fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::Plain,
        }
    }

    /// The stream without its compression.
    pub(super) fn open<'a>(self, reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Plain => Box::new(reader),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(reader)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(reader)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(BufReader::new(reader), true, XZ_MEMORY_KIB)),
        })
    }
}

/// Counts and hashes what is read through it.
#[derive(Debug)]
pub(super) struct Hashing<R> {
    reader: R,
    hasher: Sha256,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, hasher: Sha256::new(), count: Rc::default() }
    }
    /// The number of bytes so far, readable while the reader is lent out.
    pub(super) fn count(&self) -> Rc<Cell<u64>> {
        self.count.clone()
    }
    pub(super) fn digest(self) -> Digest {
        Digest::from_sha256(self.hasher.finalize().into())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(into)?;
        self.hasher.update(&into[..read]);
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}

/// Stops a stream that grows out of all proportion to what it was made from.
#[derive(Debug)]
pub(super) struct BombGuard<R> {
    reader: R,
    consumed: Rc<Cell<u64>>,
    produced: u64,
}

impl<R: Read> BombGuard<R> {
    /// `consumed` counts the compressed bytes.
    pub(super) fn new(reader: R, consumed: Rc<Cell<u64>>) -> Self {
        Self { reader, consumed, produced: 0 }
    }
}

impl<R: Read> Read for BombGuard<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(into)?;
        self.produced += read as u64;
        if self.produced > BOMB_FREE + self.consumed.get().saturating_mul(BOMB_RATIO) {
            let message = format!(
                "the archive is a decompression bomb: {} compressed bytes already made {}, more than {BOMB_RATIO} times as much; \
                 if it is meant to be so, decompress it before the import",
                self.consumed.get(),
                yun_types::Bytes(self.produced).human()
            );
            return Err(fault::into_io(yun_drivers::DriverError::bad_request("CompressionBomb", message)));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn each_codec_is_known_by_its_first_bytes_and_undone() {
        let text = b"layers all the way down".repeat(100);
        for (codec, bytes) in [
            (Codec::Gzip, gzip(&text)),
            (Codec::Zstd, zstd::encode_all(&text[..], 1).unwrap()),
            (Codec::Plain, text.clone()),
        ] {
            assert_eq!(Codec::of(&bytes), codec);
            let mut undone = vec![];
            codec.open(&bytes[..]).unwrap().read_to_end(&mut undone).unwrap();
            assert_eq!(undone, text);
        }
    }

    #[test]
    fn a_bomb_is_stopped_early_and_zeros_in_an_ordinary_file_are_not() {
        let run = |megabytes: usize| {
            let bytes = gzip(&vec![0; megabytes << 20]);
            let hashing = Hashing::new(&bytes[..]);
            let count = hashing.count();
            let mut guard = BombGuard::new(Codec::Gzip.open(hashing).unwrap(), count);
            io::copy(&mut guard, &mut io::sink())
        };
        assert_eq!(run(16).unwrap(), 16 << 20);
        let error = fault::reading("the archive", run(200).unwrap_err());
        assert_eq!(error.reason, "CompressionBomb");
    }
}
