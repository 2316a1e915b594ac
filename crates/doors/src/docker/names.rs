//! Docker's ids and names for the cloud's objects.
//!
//! An id is 64 hexadecimal digits: the 32 of the object's UUID, then 32 that follow from them. So the twelve digits that people see lead back
//! to the UUID, and nothing has to be remembered. Docker's names know more characters than the cloud's: a name that is none of the cloud's
//! is turned into one that is, with six digits of its hash, and kept as it was in the label [`NAME`].

use sha2::{Digest, Sha256};
use uuid::Uuid;
use yun_types::{Instance, Labels, Metadata, Name};

/// What the labels that the door keeps for itself begin with.
pub(super) const OWN: &str = "docker.yun/";
/// The label with the name as it was given.
pub(super) const NAME: &str = "docker.yun/name";
/// The label with the request that made the container, without what is empty.
pub(super) const REQUEST: &str = "docker.yun/request";
/// The label of containers that are removed when they have ended.
pub(super) const AUTO_REMOVE: &str = "docker.yun/auto-remove";

/// The id of an object.
pub(super) fn id(uuid: Uuid) -> String {
    let tail = hex::encode(Sha256::digest(uuid.as_bytes()));
    format!("{}{}", uuid.simple(), &tail[..32])
}

/// The object whose whole id this is.
pub(super) fn uuid_of(text: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(text.get(..32).filter(|_| text.len() == 64)?).ok()?;
    (id(uuid) == text).then_some(uuid)
}

/// Whether this may be the beginning of an id.
pub(super) fn is_prefix(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The name under which Docker knows an instance.
pub(super) fn of(instance: &Instance) -> &str {
    shown(&instance.metadata)
}

/// The name under which Docker knows an object.
pub(super) fn shown(metadata: &Metadata) -> &str {
    metadata.labels.get(NAME).map_or(metadata.name.as_str(), String::as_str)
}

/// The digits of an id that people see.
pub(super) fn short(uuid: Uuid) -> String {
    id(uuid)[..12].to_owned()
}

/// The labels that are the user's own.
pub(super) fn users(labels: &Labels) -> Labels {
    labels.iter().filter(|(key, _)| !key.starts_with(OWN)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Whether Docker would take this as a name.
pub(super) fn is_valid(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && !text.get(1..).unwrap_or_default().is_empty()
        && characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// The cloud's name for one of Docker's, and whether it is another.
pub(super) fn cloud_name(text: &str) -> (Name, bool) {
    if let Ok(name) = text.parse() {
        return (name, false);
    }
    (slug(text), true)
}

/// A name of the cloud for any text: what can be kept of it, and digits of its hash.
pub(super) fn slug(text: &str) -> Name {
    let mut stem = String::new();
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        match c {
            'a'..='z' | '0'..='9' => stem.push(c),
            _ if !stem.is_empty() && !stem.ends_with('-') => stem.push('-'),
            _ => {}
        }
    }
    let stem: String = stem.trim_start_matches(|c: char| !c.is_ascii_lowercase()).chars().take(50).collect();
    let stem = if stem.is_empty() { "x" } else { stem.trim_end_matches('-') };
    let hash = hex::encode(Sha256::digest(text.as_bytes()));
    format!("{stem}-{}", &hash[..6]).parse().unwrap_or_else(|_| Name::default_project())
}

/// A name for a container that was given none, from random numbers.
pub(super) fn invented(mut pick: impl FnMut(usize) -> usize) -> String {
    const MANNERS: [&str; 24] = [
        "bold", "brave", "bright", "calm", "clever", "eager", "fair", "fleet", "gentle", "glad", "keen", "kind",
        "lively", "merry", "mild", "neat", "nimble", "proud", "quick", "quiet", "steady", "swift", "warm", "wise",
    ];
    const CLOUDS: [&str; 20] = [
        "altus", "anvil", "billow", "cirrus", "cumulus", "drizzle", "fog", "gale", "haze", "mist", "nimbus", "plume",
        "rainbow", "shower", "squall", "storm", "stratus", "vapour", "virga", "zephyr",
    ];
    let (manner, cloud) = (MANNERS[pick(MANNERS.len())], CLOUDS[pick(CLOUDS.len())]);
    format!("{manner}-{cloud}-{:03}", pick(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_lead_back_and_foreign_ones_do_not() {
        let uuid = Uuid::from_u128(0x1234_5678_9abc_def0_1122_3344_5566_7788);
        let id = id(uuid);
        assert_eq!((id.len(), uuid_of(&id)), (64, Some(uuid)));
        assert!(id.starts_with("123456789abc"));
        assert_eq!(uuid_of(&"0".repeat(64)), None);
        assert!(is_prefix("12ab") && !is_prefix("web") && !is_prefix(""));
    }

    #[test]
    fn every_name_of_docker_becomes_one_of_the_cloud() {
        for good in ["web", "web_1", "Web.1", "9front", "project_db_1", "0a", &"x".repeat(200), "a--b"] {
            assert!(is_valid(good), "{good}");
            let (name, other) = cloud_name(good);
            assert_eq!(other, name.as_str() != good, "{good} {name}");
        }
        assert_eq!(cloud_name("web").0.as_str(), "web");
        assert_ne!(cloud_name("a_b").0, cloud_name("a.b").0);
        assert!(cloud_name("a_b").0.as_str().starts_with("a-b-"));
        for bad in ["", "a", "-a", "_a", "a b", "a/b", "ä1"] {
            assert!(!is_valid(bad), "{bad}");
        }
        assert_eq!(slug("___").as_str().len(), 8);
    }

    #[test]
    fn invented_names_are_names() {
        let mut n = 0;
        for _ in 0..100 {
            let name = invented(|most| {
                n += 7;
                n % most
            });
            assert!(name.parse::<Name>().is_ok(), "{name}");
        }
    }
}
