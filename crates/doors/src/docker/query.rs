//! The query of a request: `?all=1&filters=…`.

use super::fault::{Answer, Fault};
use std::collections::BTreeMap;

/// The query's words.
#[derive(Debug, Clone, Default)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    /// Reads it.
    pub(super) fn parse(text: &str) -> Self {
        let mut all = BTreeMap::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            // The first counts.
            all.entry(plain(name)).or_insert_with(|| plain(value));
        }
        Self(all)
    }

    /// A word that is there and not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// Whether a switch is on, as Docker counts: anything but nothing, 0, no, false and none.
    pub(super) fn on(&self, name: &str) -> bool {
        self.get(name).is_some_and(|text| !matches!(text, "0" | "no" | "false" | "False" | "none"))
    }

    /// A number.
    pub(super) fn number(&self, name: &str) -> Answer<Option<i64>> {
        let parse = |text: &str| {
            text.parse()
                .map_err(|_| Fault::bad(format!("{name} {text:?} is not a number: write a whole one, as in 10")))
        };
        self.get(name).map(parse).transpose()
    }
}

/// A word without its percent signs and pluses.
pub(super) fn plain(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => match tail.get(..2).and_then(|two| hex::decode(two).ok()) {
                Some(byte) => {
                    bytes.extend(byte);
                    rest = &tail[2..];
                }
                None => bytes.push(b'%'),
            },
            other => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A path's segment without its percent signs.
pub(super) fn plain_path(text: &str) -> String {
    plain(&text.replace('+', "%2B"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_docker_writes_them() {
        let query = Query::parse("all=1&name=a%2Fb+c&size=0&name=d&t=100%");
        assert!(query.on("all") && !query.on("size") && !query.on("absent"));
        assert_eq!(query.get("name"), Some("a/b c"));
        assert_eq!(query.get("t"), Some("100%"));
        assert!(Query::parse("t=x").number("t").unwrap_err().message.contains("as in 10"));
        assert_eq!(plain_path("a+b%3A1"), "a+b:1");
    }
}
