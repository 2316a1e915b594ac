//! Refusals: why a request is not carried out, in words for the person who sent it.
//!
//! Words: a *refusal* is the answer to one request: a status, a code for programs, and a message that names the object, the reason and the
//! way out. What went wrong inside is logged, never sent.

use dropshot::{ErrorStatusCode, HttpError};
use std::{borrow::Cow, fmt};
use yun_store::StoreError;
use yun_types::{Failure, Invalid, ObjectKind};

/// Why a request is not carried out.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The HTTP status.
    pub status: ErrorStatusCode,
    /// One word for programs.
    pub code: Cow<'static, str>,
    /// For people: the object, the reason and the way out.
    pub message: String,
    /// For the log only.
    pub inside: Option<String>,
}

impl Refusal {
    /// From its parts.
    pub fn new(status: ErrorStatusCode, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { status, code: code.into(), message: message.into(), inside: None }
    }

    /// The object does not exist, or the caller may not know that it does. `near` is a name that may have been meant; see [`nearest`].
    pub fn not_found(kind: ObjectKind, name: impl fmt::Display, near: Option<String>) -> Self {
        let way_out = match (near, kind) {
            (Some(near), _) => format!("did you mean {near}?"),
            (None, ObjectKind::Cloud) => "check the address".to_owned(),
            (None, ObjectKind::Instance) => "list what there is with: yun ls".to_owned(),
            (None, ObjectKind::Operation) => {
                "list what there is with: yun operation ls (ended ones are forgotten after some time)".to_owned()
            }
            (None, kind) => format!("list what there is with: yun {kind} ls"),
        };
        Self::new(ErrorStatusCode::NOT_FOUND, "NotFound", format!("{kind} {name} does not exist; {way_out}"))
    }

    /// The request does not fit the object's present state.
    pub fn conflict(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(ErrorStatusCode::CONFLICT, code, message)
    }

    /// The request has no meaning.
    pub fn bad_request(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(ErrorStatusCode::BAD_REQUEST, code, message)
    }

    /// The caller may see it, and may not do this.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(ErrorStatusCode::FORBIDDEN, "Forbidden", message)
    }

    /// The caller is not known.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(ErrorStatusCode::UNAUTHORIZED, "Unauthorized", message)
    }

    /// The object changed since the caller read it.
    pub fn stale(kind: ObjectKind, name: impl fmt::Display) -> Self {
        Self::new(
            ErrorStatusCode::PRECONDITION_FAILED,
            "Stale",
            format!(
                "{kind} {name} has changed since you read it; read it again and repeat the change on what you find"
            ),
        )
    }

    /// It cannot be done now; the same request may succeed later.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorStatusCode::SERVICE_UNAVAILABLE, "Unavailable", message)
    }

    /// Something broke on our side. `context` says what was being done; the cause goes to the log only.
    pub fn internal(context: impl fmt::Display, source: impl fmt::Display) -> Self {
        let mut refusal = Self::new(
            ErrorStatusCode::INTERNAL_SERVER_ERROR,
            "Internal",
            format!(
                "cannot {context}: the server failed; look in its log for the request id of this answer, and try again"
            ),
        );
        refusal.inside = Some(format!("cannot {context}: {source}"));
        refusal
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            StoreError::Exists { .. } => Self::conflict("Exists", text),
            StoreError::Conflict { .. } => Self::conflict("Conflict", text),
            StoreError::Compacted { .. } => Self::new(ErrorStatusCode::GONE, "RevisionCompacted", text),
            StoreError::TooLarge { .. } => Self::bad_request("TooLarge", text),
            StoreError::Unknown { .. }
            | StoreError::NoSpace { .. }
            | StoreError::NoLeader
            | StoreError::Closed { .. } => Self::unavailable(text),
            other => Self::internal("use the state", chain(&other)),
        }
    }
}

impl From<Invalid> for Refusal {
    fn from(error: Invalid) -> Self {
        Self::bad_request("Invalid", error.0)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code.into_owned(), message: refusal.message }
    }
}

impl From<Refusal> for HttpError {
    fn from(refusal: Refusal) -> Self {
        let mut error = HttpError {
            status_code: refusal.status,
            error_code: Some(refusal.code.into_owned()),
            internal_message: refusal.inside.unwrap_or_else(|| refusal.message.clone()),
            external_message: refusal.message,
            headers: None,
        };
        if error.status_code == ErrorStatusCode::UNAUTHORIZED {
            let headers = error.headers.get_or_insert_default();
            headers.insert(http::header::WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer realm=\"yun\""));
        }
        error
    }
}

/// An error with its causes, for the log.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// The name among `known` that `asked` may have been meant for, if one is near enough.
pub fn nearest<'a>(asked: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    // A third of the letters may differ; beyond that a proposal confuses more than it helps.
    let most = (asked.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(asked, name), name))
        .filter(|(distance, name)| *distance <= most || (asked.len() >= 3 && name.starts_with(asked)))
        .min()
        .map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_proposed_and_far_ones_are_not() {
        let known = ["web", "database", "web-frontend"];
        assert_eq!(nearest("wbe", known), Some("web".into()));
        assert_eq!(nearest("databse", known), Some("database".into()));
        assert_eq!(nearest("web-f", known), Some("web-frontend".into()));
        assert_eq!(nearest("queue", known), None);
    }

    #[test]
    fn what_broke_inside_is_not_sent() {
        let error: HttpError = Refusal::internal("read the image", "password=hunter2").into();
        assert!(!error.external_message.contains("hunter2") && error.internal_message.contains("hunter2"));
        assert_eq!(error.status_code, ErrorStatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn who_is_unknown_learns_how_to_introduce_themselves() {
        let error: HttpError = Refusal::unauthorized("no token").into();
        assert!(error.headers.unwrap().contains_key("www-authenticate"));
    }
}
