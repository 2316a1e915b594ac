//! Names that people give to things: DNS labels, because a name becomes a host name.

use crate::{Invalid, string_serde};
use std::{fmt, str::FromStr};

/// A name: 1 to 63 lower-case letters, digits and single hyphens, starting with a letter and not ending with a hyphen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

impl Name {
    /// The longest name, as RFC 1035 has it for a label.
    pub const MAX: usize = 63;

    /// The project that exists from the start.
    pub fn default_project() -> Self {
        Self("default".into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let problem = if text.is_empty() {
            "is empty".to_owned()
        } else if text.len() > Self::MAX {
            format!("has {} characters, and {} is the most", text.chars().count(), Self::MAX)
        } else if let Some(c) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
            let hint = if c.is_ascii_uppercase() { " (use lower case)" } else { "" };
            format!("contains {c:?}{hint}")
        } else if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
            "does not start with a letter".to_owned()
        } else if text.ends_with('-') {
            "ends with a hyphen".to_owned()
        } else if text.contains("--") {
            "contains two hyphens in a row".to_owned()
        } else {
            return Ok(Self(text.into()));
        };
        let shown: String = text.chars().take(80).collect();
        Err(Invalid(format!(
            "name {shown:?} {problem}: use lower-case letters, digits and single hyphens, starting with a letter, as in web-1"
        )))
    }
}

impl TryFrom<&str> for Name {
    type Error = Invalid;
    fn try_from(text: &str) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl TryFrom<String> for Name {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

string_serde!(
    Name,
    "Name",
    "1 to 63 lower-case letters, digits and single hyphens; starts with a letter, does not end with a hyphen."
);

/// What a path or a flag accepts: an object's name, or its UUID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NameOrId {
    /// A name, looked up in the project.
    Name(Name),
    /// An id, valid whatever the name is now.
    Id(uuid::Uuid),
}

impl FromStr for NameOrId {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        // The text of a UUID may begin with a letter and so look like a name; hyphenated UUIDs are ids.
        if text.len() == 36
            && let Ok(id) = text.parse()
        {
            return Ok(Self::Id(id));
        }
        text.parse().map(Self::Name)
    }
}

impl fmt::Display for NameOrId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Id(id) => id.fmt(f),
        }
    }
}

impl From<Name> for NameOrId {
    fn from(name: Name) -> Self {
        Self::Name(name)
    }
}

string_serde!(NameOrId, "NameOrId", "A name, or a UUID.");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refusals_say_what_is_wrong_and_show_a_right_name() {
        for (bad, why) in [
            ("", "is empty"),
            (&"a".repeat(64), "has 64 characters"),
            ("web.1", "contains '.'"),
            ("Web", "use lower case"),
            ("wéb", "contains 'é'"),
            ("a--b", "two hyphens"),
            ("--", "does not start with a letter"),
            ("1a", "does not start with a letter"),
            ("a-", "ends with a hyphen"),
        ] {
            let error = bad.parse::<Name>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("web-1"), "{bad}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_good_name_survives_json(text in "[a-z]([a-z0-9]|-[a-z0-9]){0,30}") {
            let name: Name = text.parse().unwrap();
            let json = serde_json::to_string(&name).unwrap();
            prop_assert_eq!(serde_json::from_str::<Name>(&json).unwrap(), name);
        }

        #[test]
        fn no_text_is_accepted_that_dns_would_refuse(text in ".{0,70}") {
            if let Ok(name) = text.parse::<Name>() {
                prop_assert!(name.as_str().len() <= 63 && !name.as_str().contains(|c: char| !c.is_ascii_alphanumeric() && c != '-'));
            }
        }
    }
}
