//! What some bytes are, by their first bytes. Pure.

use super::codec::Codec;
use std::fmt;

/// How many bytes are enough to tell.
pub(super) const HEAD: usize = 0x1_0050;

/// What the bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// One of the forms below, compressed.
    Compressed(Codec),
    Qcow2,
    /// A tar: of a root file system, an OCI layout or a docker archive.
    Tar,
    /// A plain disk, recognised by what is named.
    Disk(&'static str),
    /// Something that people take for an image, and what to do about it.
    Foreign(&'static str),
    Unknown,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compressed(Codec::Gzip) => f.write_str("gzip"),
            Self::Compressed(Codec::Zstd) => f.write_str("zstd"),
            Self::Compressed(_) => f.write_str("xz"),
            Self::Qcow2 => f.write_str("a qcow2 disk"),
            Self::Tar => f.write_str("a tar archive"),
            Self::Disk(what) => write!(f, "a plain disk ({what})"),
            Self::Foreign(what) => f.write_str(what),
            Self::Unknown => f.write_str("of no kind that is known here"),
        }
    }
}

impl Content {
    /// Looks at the first bytes, up to [`HEAD`] of them.
    pub(super) fn of(head: &[u8]) -> Self {
        match Codec::of(head) {
            Codec::Plain => {}
            codec => return Self::Compressed(codec),
        }
        let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
        if at(0, b"QFI\xfb") {
            return Self::Qcow2;
        }
        if at(257, b"ustar") || is_old_tar(head) {
            return Self::Tar;
        }
        if let Some(what) = FOREIGN.iter().find(|(offset, magic, _)| at(*offset, magic)) {
            return Self::Foreign(what.2);
        }
        DISKS.iter().find(|(offset, magic, _)| at(*offset, magic)).map_or(Self::Unknown, |d| Self::Disk(d.2))
    }
}

type Magic = (usize, &'static [u8], &'static str);

const DISKS: [Magic; 6] = [
    (512, b"EFI PART", "GPT partitions"),
    (510, b"\x55\xaa", "a boot sector"),
    (1080, b"\x53\xef", "an ext file system"),
    (0, b"XFSB", "an XFS file system"),
    (0x1_0040, b"_BHRfS_M", "a Btrfs file system"),
    (0x8001, b"CD001", "an ISO 9660 file system"),
];

const FOREIGN: [Magic; 12] = [
    (0, b"KDMV", "a VMware disk: convert it first with qemu-img convert -O qcow2"),
    (0, b"# Disk Descr", "the description of a VMware disk: convert the disk first with qemu-img convert -O qcow2"),
    (0, b"conectix", "a VHD disk: convert it first with qemu-img convert -O qcow2"),
    (0, b"vhdxfile", "a VHDX disk: convert it first with qemu-img convert -O qcow2"),
    (0x40, b"\x7f\x10\xda\xbe", "a VirtualBox disk: convert it first with qemu-img convert -O qcow2"),
    (0, b"hsqs", "a squashfs: unpack it and import a tar of its contents"),
    (0, b"PK\x03\x04", "a zip archive: unpack it first"),
    (0, b"BZh", "compressed with bzip2: decompress it first"),
    (0, b"\x7fELF", "a program, not an image"),
    (0, b"!<arch>", "a Debian package or a static library, not an image"),
    (0, b"<!DOCTYPE", "a web page: the address is probably that of a download page, not of the file"),
    (0, b"<html", "a web page: the address is probably that of a download page, not of the file"),
];

/// Tars from before POSIX have no magic, but their header's checksum fits.
fn is_old_tar(head: &[u8]) -> bool {
    let Some(block) = head.get(..512) else { return false };
    if block[0] == 0 || block[0] == b'/' {
        return false;
    }
    let stated = std::str::from_utf8(&block[148..156]).ok();
    let stated = stated.and_then(|t| u32::from_str_radix(t.trim_matches(['\0', ' ']), 8).ok());
    let sum: u32 =
        block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
    stated == Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(offset: usize, magic: &[u8]) -> Vec<u8> {
        let mut head = vec![0; HEAD];
        head[offset..offset + magic.len()].copy_from_slice(magic);
        head
    }

    #[test]
    fn each_kind_is_known() {
        assert_eq!(Content::of(b"QFI\xfb\0\0\0\x03"), Content::Qcow2);
        assert_eq!(Content::of(&with(257, b"ustar  ")), Content::Tar);
        assert_eq!(Content::of(&with(510, b"\x55\xaa")), Content::Disk("a boot sector"));
        assert_eq!(Content::of(&with(1080, b"\x53\xef")), Content::Disk("an ext file system"));
        assert_eq!(Content::of(b"\x1f\x8b\x08"), Content::Compressed(Codec::Gzip));
        assert!(matches!(Content::of(b"<!DOCTYPE html>"), Content::Foreign(_)));
        assert_eq!(Content::of(&vec![0; HEAD]), Content::Unknown);
        assert_eq!(Content::of(b""), Content::Unknown);
        assert_eq!(Content::of(b"hello"), Content::Unknown);
        let mut old = tar::Header::new_old();
        old.set_path("etc/passwd").unwrap();
        old.set_cksum();
        assert_eq!(Content::of(old.as_bytes()), Content::Tar);
    }
}
