//! Why a question is not answered, in the classes that Prometheus has.

/// What kind of refusal it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The question is wrong.
    BadData,
    /// The question cannot be answered.
    Execution,
    /// Our side failed.
    Internal,
}

impl Class {
    /// Its word in answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::BadData => "bad_data",
            Self::Execution => "execution",
            Self::Internal => "internal",
        }
    }
}

/// Why a question is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct QueryError {
    /// What kind of refusal.
    pub class: Class,
    /// For people.
    pub message: String,
}

impl QueryError {
    /// The question is wrong.
    pub fn bad(message: impl Into<String>) -> Self {
        Self { class: Class::BadData, message: message.into() }
    }

    /// The question cannot be answered.
    pub fn execution(message: impl Into<String>) -> Self {
        Self { class: Class::Execution, message: message.into() }
    }

    /// Something of PromQL that we do not have.
    pub(crate) fn unsupported(what: &str) -> Self {
        Self::execution(format!(
            "{what} is not supported by yun; let a Prometheus scrape /metrics if you need all of PromQL"
        ))
    }
}
