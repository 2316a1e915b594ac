//! Image references: `registry:5000/name:tag@digest`, and which image of the catalogue one means.

use super::{names, names::is_prefix};
use std::fmt;
use yun_types::{Image, Name};

/// What the source of an image says that was loaded through this door.
const LOADED: &str = "docker load: ";
/// The label of images that have a reference of their own.
pub(super) const REFERENCE: &str = "docker.yun/reference";

/// A reference with a repository and a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    /// As people write it: without `docker.io/library/`.
    pub(super) repository: String,
    /// `latest` if there is none.
    pub(super) tag: String,
    /// The digest, if it names one.
    pub(super) digest: Option<String>,
}

impl Reference {
    /// Reads one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.to_owned())),
            None => (text, None),
        };
        let slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (repository, tag) = match rest[slash..].split_once(':') {
            Some((name, tag)) => (&rest[..slash + name.len()], tag),
            None => (rest, "latest"),
        };
        let repository = ["docker.io/library/", "index.docker.io/library/", "library/", "docker.io/"]
            .iter()
            .find_map(|prefix| repository.strip_prefix(prefix))
            .unwrap_or(repository);
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '/' | '.' | '-' | '_' | ':');
        let good_tag = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let plain = !repository.is_empty()
            && repository.chars().all(good)
            && !repository.starts_with('/')
            && !repository.ends_with('/')
            && !tag.is_empty()
            && tag.chars().all(good_tag);
        plain.then(|| Self { repository: repository.to_owned(), tag: tag.to_owned(), digest })
    }

    /// The name of the catalogue entry that is made for it.
    pub(super) fn image_name(&self) -> Name {
        match self.repository.parse() {
            Ok(name) if self.tag == "latest" => name,
            _ => names::slug(&self.to_string()),
        }
    }

    /// The words to keep as the source of an image that was loaded under this reference.
    pub(super) fn loaded(&self) -> String {
        format!("{LOADED}{self}")
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

/// A reference as Docker writes it; as it is if it is none.
pub(super) fn shown(text: &str) -> String {
    Reference::parse(text).map_or_else(|| text.to_owned(), |reference| reference.to_string())
}

/// The reference under which Docker knows an image.
pub(super) fn of(image: &Image) -> String {
    let kept = image.metadata.labels.get(REFERENCE).map(String::as_str);
    let source = &image.spec.source;
    let loaded = || source.strip_prefix(LOADED).map(str::to_owned);
    let pulled = || {
        let registry = source.split_once('/')?.0;
        let named = registry == "localhost" || (registry.contains(['.', ':']) && !registry.ends_with(':'));
        named.then(|| Reference::parse(source)).flatten().map(|reference| reference.to_string())
    };
    let named = kept.map(str::to_owned).or_else(loaded).or_else(pulled);
    named.unwrap_or_else(|| format!("{}:latest", image.metadata.name))
}

/// Whether this image is meant.
pub(super) fn means(text: &str, image: &Image) -> bool {
    let digest = image.status.facts.digest.hex();
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    if (text != digits || digits.len() >= 4) && is_prefix(digits) && digest.starts_with(digits) {
        return true;
    }
    let Some(wanted) = Reference::parse(text) else { return false };
    if let Some(digits) = wanted.digest.as_deref().and_then(|d| d.strip_prefix("sha256:")) {
        return digits == digest;
    }
    of(image) == wanted.to_string() || (image.metadata.name.as_str() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_docker_reads_them() {
        let read = |text: &str| Reference::parse(text).map(|r| r.to_string());
        assert_eq!(read("nginx").as_deref(), Some("nginx:latest"));
        assert_eq!(read("docker.io/library/nginx:1.25").as_deref(), Some("nginx:1.25"));
        assert_eq!(read("localhost:5000/a/b").as_deref(), Some("localhost:5000/a/b:latest"));
        assert_eq!(read("localhost:5000/a/b:t").as_deref(), Some("localhost:5000/a/b:t"));
        assert_eq!(Reference::parse("a@sha256:00").unwrap().digest.as_deref(), Some("sha256:00"));
        for bad in ["", "UPPER", ":tag", "a:", "/a", "a b"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_image_is_known_by_what_it_came_from() {
        let image = |source: &str| -> Image {
            serde_json::from_value(serde_json::json!({
                "metadata": { "id": uuid::Uuid::nil(), "name": "web", "created": chrono::DateTime::UNIX_EPOCH, "generation": 1 },
                "spec": { "source": source },
                "status": { "facts": { "digest": format!("sha256:{}", "a".repeat(64)), "kind": "container", "arch": "amd64", "size": "1M", "min_disk": "1M" } },
            }))
            .unwrap()
        };
        for (source, shown) in [
            ("docker.io/library/nginx:1.27", "nginx:1.27"),
            ("localhost:5000/team/web:1", "localhost:5000/team/web:1"),
            ("docker load: box:2", "box:2"),
            ("https://example.org/x.tar", "web:latest"),
            ("recipe busybox", "web:latest"),
        ] {
            assert_eq!(of(&image(source)), shown);
            assert!(means(shown, &image(source)) && !means("other", &image(source)));
        }
    }

    #[test]
    fn plain_references_keep_their_name_in_the_catalogue() {
        let name = |text: &str| Reference::parse(text).unwrap().image_name().to_string();
        assert_eq!(name("nginx"), "nginx");
        assert!(name("nginx:1.25").starts_with("nginx-1-25-"));
        assert_ne!(name("nginx:1.25"), name("nginx:1-25"));
        assert!(name("localhost:5000/a/b_c").starts_with("localhost-5000-a-b-c-latest-"));
    }
}
