//! `--filter`: which objects a list or a stream shows.

use super::{
    fault::{Answer, Fault},
    query::Query,
};
use serde_json::Value;
use std::collections::BTreeMap;
use yun_types::Labels;

/// What is asked for: any of the values of each word, and all of the words.
#[derive(Debug, Clone, Default)]
pub(super) struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads the query's `filters`, which may hold the words `known`. Old clients write `{"a":["b"]}`, new ones `{"a":{"b":true}}`.
    pub(super) fn read(query: &Query, known: &[&str]) -> Answer<Self> {
        let Some(text) = query.get("filters") else { return Ok(Self::default()) };
        let bad = || {
            Fault::bad(format!("filters {text:?} are not the JSON that was expected, as in {{\"label\":[\"a=b\"]}}"))
        };
        let all: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|_| bad())?;
        let mut read = BTreeMap::new();
        for (word, values) in all {
            if !known.contains(&word.as_str()) {
                return Err(Fault::bad(format!("invalid filter '{word}': use one of {}", known.join(", "))));
            }
            let values = match values {
                Value::Array(list) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
                Value::Object(map) => {
                    map.into_iter().filter(|(_, on)| on != &Value::Bool(false)).map(|(k, _)| k).collect()
                }
                _ => return Err(bad()),
            };
            read.insert(word, values);
        }
        Ok(Self(read))
    }

    /// The values of a word.
    pub(super) fn of(&self, word: &str) -> &[String] {
        self.0.get(word).map_or(&[], Vec::as_slice)
    }

    /// True if the word was not used, or one of its values fits.
    pub(super) fn any(&self, word: &str, fits: impl Fn(&str) -> bool) -> bool {
        self.of(word).is_empty() || self.of(word).iter().any(|value| fits(value))
    }

    /// True if all of the wanted labels are there: `key`, or `key=value`.
    pub(super) fn labels(&self, labels: &Labels) -> bool {
        self.of("label").iter().all(|wanted| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|has| has == value),
            None => labels.contains_key(wanted),
        })
    }

    /// True if the name fits: a part of it, or with `^` and `$` its beginning and end.
    pub(super) fn name(&self, name: &str) -> bool {
        self.any("name", |wanted| fits(wanted, name))
    }
}

fn fits(wanted: &str, name: &str) -> bool {
    let (begin, rest) = wanted.strip_prefix('^').map_or((false, wanted), |rest| (true, rest));
    let (end, rest) = rest.strip_suffix('$').map_or((false, rest), |rest| (true, rest));
    let rest = rest.strip_prefix('/').unwrap_or(rest);
    match (begin, end) {
        (true, true) => name == rest,
        (true, false) => name.starts_with(rest),
        (false, true) => name.ends_with(rest),
        (false, false) => name.contains(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(json: &str) -> Answer<Filters> {
        Filters::read(&Query::parse(&format!("filters={json}")), &["label", "name"])
    }

    #[test]
    fn both_forms_are_read_and_unknown_words_refused() {
        for json in [r#"{"name":["web"]}"#, r#"{"name":{"web":true}}"#] {
            let filters = filters(json).unwrap();
            assert!(filters.name("my-web-1") && !filters.name("db"));
        }
        assert!(filters(r#"{"colour":["red"]}"#).unwrap_err().message.contains("invalid filter 'colour'"));
        assert!(filters("x").unwrap_err().message.contains("JSON"));
    }

    #[test]
    fn names_and_labels_fit_as_dockers_do() {
        assert!(fits("^/web$", "web") && !fits("^/web$", "web1") && fits("^we", "web") && fits("eb$", "web"));
        let labels = Labels::from([("a".to_owned(), "b".to_owned())]);
        let has = |json: &str| filters(json).unwrap().labels(&labels);
        assert!(has(r#"{"label":["a"]}"#) && has(r#"{"label":["a=b"]}"#) && !has(r#"{"label":["a=c"]}"#));
        assert!(!has(r#"{"label":["a","x"]}"#));
    }
}
