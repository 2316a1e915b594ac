//! Refusals, as Docker's clients read them: a status, and `{"message": …}`.

use http::StatusCode;
use std::fmt;
use yun_api::client::{Error, types};

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Clients tell by it what to do next: pull an image that is 404, take a start that is 304 for done.
    pub(super) status: StatusCode,
    /// For people.
    pub(super) message: String,
}

pub(super) type Answer<T> = Result<T, Fault>;

impl Fault {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// The request is wrong.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// There is no such thing.
    pub(super) fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// Something is in the way.
    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// yun does not do this; the text says what to do instead.
    pub(super) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// Something broke here.
    pub(super) fn broken(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

/// The cloud's refusals keep their status and their words.
impl From<Error<types::Error>> for Fault {
    fn from(error: Error<types::Error>) -> Self {
        match error {
            Error::ErrorResponse(answer) => {
                let status = answer.status();
                Self::new(status, answer.into_inner().message)
            }
            other => Self::broken(format!("the cloud did not answer as expected: {other}; try again")),
        }
    }
}
