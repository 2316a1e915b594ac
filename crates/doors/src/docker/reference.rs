//! Which image of the catalogue a reference means, and how Docker writes references: without what goes without saying.

use super::{names, names::is_prefix};
use yun_types::{Image, Name, Reference};

/// What the source of an image says that was loaded through this door.
const LOADED: &str = "docker load: ";
/// The label of images that have a reference of their own.
const REFERENCE: &str = "docker.yun/reference";

/// A reference as Docker writes it: without `docker.io/library/`, and with its tag.
pub(super) fn familiar(reference: &Reference) -> String {
    let repository = reference.repository();
    let name = match reference.registry() {
        "docker.io" => repository.strip_prefix("library/").unwrap_or(repository).to_owned(),
        registry => format!("{registry}/{repository}"),
    };
    match (reference.tag(), reference.digest()) {
        (Some(tag), _) => format!("{name}:{tag}"),
        (None, Some(digest)) => format!("{name}@{digest}"),
        (None, None) => format!("{name}:latest"),
    }
}

/// The same for what people write; as it is if it is no reference.
pub(super) fn shown(text: &str) -> String {
    text.parse::<Reference>().map_or_else(|_| text.to_owned(), |reference| familiar(&reference))
}

/// The name of the catalogue entry that is made for a reference: a plain one, unless another image has it.
pub(super) fn image_name(reference: &Reference, images: &[Image]) -> Name {
    let shown = familiar(reference);
    let free = |name: &Name| images.iter().all(|image| image.metadata.name != *name || of(image) == shown);
    reference.suggested_name().filter(free).unwrap_or_else(|| names::slug(&shown))
}

/// The words to keep as the source of an image that was loaded under this reference.
pub(super) fn loaded(reference: &Reference) -> String {
    format!("{LOADED}{}", familiar(reference))
}

/// The reference under which Docker knows an image.
pub(super) fn of(image: &Image) -> String {
    let kept = image.metadata.labels.get(REFERENCE).cloned();
    let source = &image.spec.source;
    let loaded = || source.strip_prefix(LOADED).map(str::to_owned);
    let pulled = || Some(source).filter(|s| Reference::is_meant(s)).map(|source| shown(source));
    kept.or_else(loaded).or_else(pulled).unwrap_or_else(|| format!("{}:latest", image.metadata.name))
}

/// Whether this image is meant.
pub(super) fn means(text: &str, image: &Image) -> bool {
    let digest = &image.status.facts.digest;
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    if (text != digits || digits.len() >= 4) && is_prefix(digits) && digest.hex().starts_with(digits) {
        return true;
    }
    match text.parse::<Reference>() {
        Ok(wanted) => {
            wanted.digest().is_some_and(|wanted| wanted == digest)
                || of(image) == familiar(&wanted)
                || image.metadata.name.as_str() == text
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, source: &str) -> Image {
        serde_json::from_value(serde_json::json!({
            "metadata": { "id": uuid::Uuid::nil(), "name": name, "created": chrono::DateTime::UNIX_EPOCH, "generation": 1 },
            "spec": { "source": source },
            "status": { "facts": { "digest": format!("sha256:{}", "a".repeat(64)), "kind": "container", "arch": "amd64", "size": "1M", "min_disk": "1M" } },
        }))
        .unwrap()
    }

    #[test]
    fn an_image_is_known_by_what_it_came_from() {
        for (source, shown) in [
            ("docker.io/library/nginx:1.27", "nginx:1.27"),
            ("docker.io/grafana/grafana:latest", "grafana/grafana:latest"),
            ("localhost:5000/team/web:1", "localhost:5000/team/web:1"),
            ("docker load: box:2", "box:2"),
            ("https://example.org/x.tar", "web:latest"),
            ("recipe busybox", "web:latest"),
            ("upload", "web:latest"),
        ] {
            assert_eq!(of(&image("web", source)), shown);
            assert!(means(shown, &image("web", source)) && !means("other", &image("web", source)), "{source}");
        }
        assert!(means("aaaa", &image("web", "upload")) && means("sha256:aa", &image("web", "upload")));
        assert!(!means("UPPER", &image("web", "upload")));
    }

    #[test]
    fn names_of_the_catalogue_are_plain_unless_they_are_taken() {
        let name = |text: &str, images: &[Image]| image_name(&text.parse().unwrap(), images).to_string();
        assert_eq!(name("nginx:1.25", &[]), "nginx-1-25");
        assert_eq!(name("nginx:1.25", &[image("nginx-1-25", "docker.io/library/nginx:1.25")]), "nginx-1-25");
        let other = name("localhost:5000/nginx:1.25", &[image("nginx-1-25", "docker.io/library/nginx:1.25")]);
        assert!(other.starts_with("localhost-5000-nginx-1-25-"), "{other}");
    }
}
