//! References to images in OCI registries, as people write them: `registry.example:5000/team/web:1.2@sha256:…`, and what opens a registry.
//!
//! Short forms mean what they mean to Docker: `nginx` is `docker.io/library/nginx:latest` (OCI distribution spec 1.1, "Pulling manifests").

use crate::{Digest, Invalid, Name, string_serde};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, str::FromStr};

/// The registry that short references mean.
const DOCKER: &str = "docker.io";
/// The longest `registry/repository`, as Docker has it.
const LONGEST: usize = 255;

/// Which image of which registry. Printed whole: what was left out is filled in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: Box<str>,
    repository: Box<str>,
    tag: Option<Box<str>>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry as it is written: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }
    /// Who answers for the registry.
    pub fn host(&self) -> &str {
        if &*self.registry == DOCKER { "registry-1.docker.io" } else { &self.registry }
    }
    /// `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }
    /// `latest`, unless only a digest was written.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }
    /// What the manifest must hash to.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }
    /// The word that asks a registry for it: its digest, or else its tag.
    pub fn version(&self) -> String {
        self.digest.as_ref().map_or_else(|| self.tag().unwrap_or("latest").to_owned(), ToString::to_string)
    }
    /// Whether the registry is on the machine itself.
    pub fn is_loopback(&self) -> bool {
        let host = match self.registry.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.registry.split(':').next().unwrap_or_default(),
        };
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
    /// Whether `text` can only be a reference, and not the name of an image.
    pub fn is_meant(text: &str) -> bool {
        let names_registry = text.split_once('/').is_some_and(|(first, _)| is_registry(first));
        let has_version = !text.starts_with("sha256:") && text.contains([':', '@']);
        (names_registry || has_version) && text.parse::<Self>().is_ok()
    }
    /// A name for the image: the last part of the repository, and the tag if it says something.
    pub fn suggested_name(&self) -> Option<Name> {
        let last = self.repository.rsplit('/').next().unwrap_or_default();
        let tag = self.tag().filter(|tag| *tag != "latest").map(|tag| format!("-{tag}")).unwrap_or_default();
        let plain: String = format!("{last}{tag}")
            .to_ascii_lowercase()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let words: Vec<&str> = plain.split('-').filter(|word| !word.is_empty()).collect();
        let name: String =
            words.join("-").trim_start_matches(|c: char| !c.is_ascii_lowercase()).chars().take(63).collect();
        name.trim_end_matches('-').parse().ok()
    }
}

fn is_registry(word: &str) -> bool {
    word == "localhost" || word.contains(['.', ':'])
}

impl FromStr for Reference {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let shown: String = text.chars().take(120).collect();
        let bad = |why: String| {
            Invalid(format!(
                "reference {shown:?} {why}: write it as in docker.io/library/nginx:1.27 or localhost:5000/team/web@sha256:..."
            ))
        };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) if digest.starts_with("sha256:") => {
                (name, Some(digest.parse::<Digest>().map_err(|e| bad(format!("ends badly ({e})")))?))
            }
            Some((_, digest)) => {
                let kind: String = digest.chars().take(20).collect();
                return Err(bad(format!("has the digest {kind:?}, and only sha256 is known")));
            }
            None => (text, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest),
            _ => (DOCKER, name),
        };
        let registry = if matches!(registry, "index.docker.io" | "registry-1.docker.io") { DOCKER } else { registry };
        let (path, tag) = match path.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (path, None),
        };
        if path.is_empty() {
            return Err(bad("names no repository".into()));
        }
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(bad(format!(
                "has the tag {tag:?}, which is none (letters, digits, '_', '.' and '-', 128 at most)"
            )));
        }
        if let Some(part) = path.split('/').find(|part| !is_part(part)) {
            let hint =
                if part.chars().any(|c| c.is_ascii_uppercase()) { " (repositories are in lower case)" } else { "" };
            return Err(bad(format!("has the part {part:?}, which no repository has{hint}")));
        }
        if !is_host(registry) {
            return Err(bad(format!("names the registry {registry:?}, which is no host")));
        }
        let path = if registry == DOCKER && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
        if registry.len() + path.len() >= LONGEST {
            return Err(bad(format!("is longer than {LONGEST} characters")));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some("latest"),
            (tag, _) => tag,
        };
        Ok(Self { registry: registry.into(), repository: path.into(), tag: tag.map(Into::into), digest })
    }
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn is_part(part: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = part.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(b))
        && !part.contains("..")
}

fn is_host(registry: &str) -> bool {
    let (host, port) = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, rest)) if v6.parse::<std::net::Ipv6Addr>().is_ok() => {
            ("v6", rest.strip_prefix(':').or(rest.is_empty().then_some("443")))
        }
        Some(_) => return false,
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, Some("443")),
        },
    };
    port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
        && host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
        f.pad(&format!("{}/{}{tag}{digest}", self.registry, self.repository))
    }
}

string_serde!(
    Reference,
    "Reference",
    "An image of an OCI registry, as in docker.io/library/nginx:1.27 or localhost:5000/web@sha256:..."
);

/// A word that is not shown: not in logs, events, audit records or debug output.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    /// Keeps a word to itself.
    pub fn new(word: impl Into<String>) -> Self {
        Self(word.into())
    }
    /// The word, for whom it is meant.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Who asks a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistryCredentials {
    /// The user's name there.
    pub user: String,
    /// The password, or an access token in its place. Used for this request and kept nowhere.
    pub password: Password,
}

/// An image to fetch from a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistryPull {
    /// Which.
    pub reference: Reference,
    /// Asks as this user; as nobody if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<RegistryCredentials>,
    /// Allows plain HTTP and certificates that nobody vouches for. A registry on the node itself may always use plain HTTP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_docker_reads_them_and_printed_whole() {
        let hex = "a".repeat(64);
        for (text, whole, name) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned(), "nginx"),
            ("nginx:1.27-alpine", "docker.io/library/nginx:1.27-alpine".into(), "nginx-1-27-alpine"),
            ("grafana/grafana", "docker.io/grafana/grafana:latest".into(), "grafana"),
            ("docker.io/library/nginx", "docker.io/library/nginx:latest".into(), "nginx"),
            ("localhost/web", "localhost/web:latest".into(), "web"),
            ("localhost:5000/team/web:1", "localhost:5000/team/web:1".into(), "web-1"),
            ("[::1]:5000/web:V_2", "[::1]:5000/web:V_2".into(), "web-v-2"),
            ("127.0.0.1:5000/7zip", "127.0.0.1:5000/7zip:latest".into(), "zip"),
            (&format!("ghcr.io/a/b@sha256:{hex}"), format!("ghcr.io/a/b@sha256:{hex}"), "b"),
            (&format!("ghcr.io/a/b:1@sha256:{hex}"), format!("ghcr.io/a/b:1@sha256:{hex}"), "b-1"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), whole);
            assert_eq!(whole.parse::<Reference>().unwrap(), reference, "{text}");
            assert_eq!(reference.suggested_name().unwrap().as_str(), name);
        }
        assert_eq!("nginx".parse::<Reference>().unwrap().host(), "registry-1.docker.io");
    }

    #[test]
    fn bad_references_are_refused_with_a_right_one() {
        for (text, piece) in [
            ("", "names no repository"),
            ("localhost:5000/", "names no repository"),
            ("Nginx", "lower case"),
            ("a//b", "which no repository has"),
            ("../etc/passwd", "which is no host"),
            ("nginx:", "has the tag"),
            ("nginx:a b", "has the tag"),
            ("nginx@md5:00", "only sha256"),
            ("nginx@sha256:00", "ends badly"),
            ("host:0/x", "is no host"),
            ("-a.b/x", "is no host"),
        ] {
            let why = text.parse::<Reference>().unwrap_err().to_string();
            assert!(why.contains(piece) && why.contains("localhost:5000/team/web"), "{text}: {why}");
        }
    }

    #[test]
    fn only_what_cannot_be_a_name_is_meant_as_a_reference() {
        for text in ["nginx:1", "docker.io/library/nginx", "localhost:5000/web", "localhost/web"] {
            assert!(Reference::is_meant(text), "{text}");
        }
        for text in ["nginx", "default/web", "sha256:0123456789", "0123456789ab"] {
            assert!(!Reference::is_meant(text), "{text}");
        }
        let loopback = |text: &str| text.parse::<Reference>().unwrap().is_loopback();
        assert!(loopback("localhost:5000/a") && loopback("127.0.0.1:5000/a") && loopback("[::1]:1/a"));
        assert!(!loopback("10.0.0.1:5000/a") && !loopback("nginx") && !loopback("localhost.example.org/a"));
    }

    #[test]
    fn a_password_is_not_shown() {
        let credentials = RegistryCredentials { user: "ann".into(), password: Password::new("hunter2") };
        let shown = format!("{credentials:?}");
        assert!(shown.contains("ann") && !shown.contains("hunter2"), "{shown}");
    }
}
