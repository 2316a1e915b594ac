//! Errors of drivers: which operation, on what, why, and the way out.

use std::fmt;

/// What went wrong, as far as the caller decides by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request cannot work on any node: a bad entrypoint, a wrong architecture. Trying again is useless until the request changes.
    BadRequest,
    /// The thing is not here.
    NotFound,
    /// Somebody else has it: a port, a name, an address.
    Conflict,
    /// The content is not what its digest or its format says.
    Damaged,
    /// The disk is full.
    NoSpace,
    /// A program, a device or a right is missing on this node.
    Unavailable,
    /// It took too long.
    Timeout,
    /// The caller no longer wants it.
    Cancelled,
    /// Anything else; trying again may help.
    Internal,
}

/// An error of a driver.
#[derive(Debug, thiserror::Error)]
pub struct DriverError {
    /// What the caller decides by.
    pub kind: ErrorKind,
    /// One word for programs, shown as the instance's `reason`: `PortTaken`, `EntrypointNotFound`, `BootTimeout` …
    pub reason: &'static str,
    /// For people: the operation, the object, the cause and the way out, in one sentence or two.
    pub message: String,
    /// What it came from.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl DriverError {
    /// An error without a cause underneath.
    pub fn new(kind: ErrorKind, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, reason, message: message.into(), source: None }
    }

    /// Adds what it came from.
    pub fn with(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// An operation on the operating system that failed. A full disk is recognised.
    pub fn io(operation: impl Into<String>, source: std::io::Error) -> Self {
        let operation = operation.into();
        if matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) {
            let message = format!(
                "cannot {operation}: the disk is full; free some space, for example with yun image rm, and try again"
            );
            return Self::new(ErrorKind::NoSpace, "DiskFull", message).with(source);
        }
        Self::new(ErrorKind::Internal, "HostError", format!("cannot {operation}: {source}")).with(source)
    }

    /// Something of the host is missing.
    pub fn unavailable(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, reason, message)
    }

    /// The request can never work as it is.
    pub fn bad_request(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::BadRequest, reason, message)
    }
}

/// What drivers answer.
pub type Result<T, E = DriverError> = std::result::Result<T, E>;
