//! The errors of images, each with its reason word in one place, so that the same fault always reads the same.

use std::io;
use yun_drivers::{DriverError, ErrorKind};
use yun_types::{Arch, Bytes, Digest};

/// The content is not what its format or its digest says.
pub(super) fn damaged(message: impl Into<String>) -> DriverError {
    DriverError::new(ErrorKind::Damaged, "ImageDamaged", message)
}

/// An archive has an entry that could reach outside the image, or that an image may not have.
pub(super) fn unsafe_entry(entry: &[u8], why: &str) -> DriverError {
    DriverError::bad_request("UnsafeEntry", format!("cannot unpack the archive: entry {} {why}", shown(entry)))
}

/// A limit of this node was passed.
pub(super) fn too_large(message: impl Into<String>) -> DriverError {
    DriverError::bad_request("ImageTooLarge", message)
}

/// The bytes are of no kind that can be imported, or not of the kind that was promised.
pub(super) fn unknown_format(message: impl Into<String>) -> DriverError {
    DriverError::bad_request("UnknownFormat", message)
}

/// Nobody wants the result any more.
pub(super) fn cancelled() -> DriverError {
    DriverError::new(ErrorKind::Cancelled, "Cancelled", "the image operation was cancelled; nothing of it is left")
}

/// The bytes are not those that were expected.
pub(super) fn checksum(what: &str, expected: &Digest, actual: &Digest) -> DriverError {
    let message = format!(
        "{what} is damaged or not what was meant: expected {expected}, got {actual}; fetch it again or correct the checksum"
    );
    DriverError::new(ErrorKind::Damaged, "ChecksumMismatch", message)
}

/// The image cannot run here.
pub(super) fn wrong_architecture(image: &str) -> DriverError {
    let host = Arch::host();
    let message = format!("the image is made for {image}, but this node is {host}; import an image made for {host}");
    DriverError::bad_request("WrongArchitecture", message)
}

/// The disk would be too full to go on.
pub(super) fn no_space(needed: &str, free: Bytes) -> DriverError {
    let free = free.human();
    let message = format!(
        "cannot {needed}: only {free} of disk are left; free some space, for example with yun image rm, and try again"
    );
    DriverError::new(ErrorKind::NoSpace, "DiskFull", message)
}

/// An error that came out of a chain of readers: one of ours, an early end, or damaged compressed bytes.
pub(super) fn reading(what: &str, error: io::Error) -> DriverError {
    let error = match error.downcast::<DriverError>() {
        Ok(ours) => return ours,
        Err(error) => error,
    };
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            damaged(format!("{what} is truncated: it ends in the middle; fetch it again")).with(error)
        }
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
            damaged(format!("{what} is damaged: {error}; fetch it again")).with(error)
        }
        _ => DriverError::io(format!("read {what}"), error),
    }
}

/// Puts one of our errors into a chain of readers; [`reading`] takes it out again.
pub(super) fn into_io(error: DriverError) -> io::Error {
    io::Error::other(error)
}

/// A name out of an archive, safe for a terminal.
pub(super) fn shown(name: &[u8]) -> String {
    let short = &name[..name.len().min(200)];
    let text: String =
        String::from_utf8_lossy(short).chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    format!("{text:?}")
}
