//! Pages of lists: a limit, a token that says where to go on, and a filter by labels.
//!
//! The token holds the last key of the page before, so that a page costs the same wherever it is, and objects that come or go meanwhile
//! neither repeat nor hide others.

use crate::error::Refusal;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use std::sync::Arc;
use yun_api::cloud::{ListQuery, Page};
use yun_store::{Cache, Key, Row, Stored};
use yun_types::Labels;

const DEFAULT: u32 = 100;
const MOST: u32 = 1000;

/// What of a list is asked for.
#[derive(Debug)]
pub(crate) struct Part {
    limit: usize,
    after: Option<Key>,
    labels: Vec<(String, Option<String>)>,
}

impl Part {
    /// Reads it from the query.
    pub(crate) fn of(query: &ListQuery) -> Result<Self, Refusal> {
        Self::new(query.limit, query.page_token.as_deref(), query.label.as_deref())
    }

    /// Reads it from its parts.
    pub(crate) fn new(limit: Option<u32>, token: Option<&str>, labels: Option<&str>) -> Result<Self, Refusal> {
        if limit == Some(0) {
            return Err(Refusal::bad_request(
                "BadLimit",
                format!("limit 0 asks for nothing: use 1 to {MOST}, as in limit=100"),
            ));
        }
        let limit = limit.unwrap_or(DEFAULT).min(MOST) as usize;
        Ok(Self {
            limit,
            after: token.map(read_token).transpose()?,
            labels: labels.map_or_else(|| Ok(Vec::new()), selector)?,
        })
    }

    /// How many objects at most.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// The last key of the page before.
    pub(crate) fn after(&self) -> Option<&str> {
        self.after.as_ref().map(Key::as_str)
    }

    fn wants(&self, labels: &Labels) -> bool {
        self.labels
            .iter()
            .all(|(key, value)| labels.get(key).is_some_and(|has| value.as_ref().is_none_or(|wanted| wanted == has)))
    }
}

/// A page of what a cache has below `segments`: rows that `see` lets through, shown by `show`.
pub(crate) fn of_cache<T: Stored, V>(
    cache: &Cache<T>,
    segments: &[&str],
    part: &Part,
    labels: impl Fn(&T) -> &Labels,
    see: impl Fn(&T) -> bool,
    show: impl Fn(&Row<T>) -> V,
) -> Page<V> {
    let mut after = part.after.clone();
    let mut revision = None;
    let mut rows: Vec<Arc<Row<T>>> = Vec::new();
    // One more than is asked for tells whether there is a next page.
    while rows.len() <= part.limit {
        let found = cache.list(segments, after.as_ref(), (part.limit + 1 - rows.len()).max(DEFAULT as usize));
        // Objects of later chunks may be newer: a watch from here shows them again, and misses none.
        revision.get_or_insert(found.rev);
        rows.extend(found.rows.into_iter().filter(|row| see(&row.value) && part.wants(labels(&row.value))));
        after = found.next;
        if after.is_none() {
            break;
        }
    }
    let more = rows.len() > part.limit;
    rows.truncate(part.limit);
    let next_page = rows.last().filter(|_| more).map(|row| token(row.key.as_str()));
    Page {
        items: rows.iter().map(|row| show(row)).collect(),
        next_page,
        revision: revision.map_or_else(String::new, |rev| rev.to_string()),
    }
}

/// The same from the last key to the first, for lists whose keys are in the order of time.
pub(super) fn newest_first<T: Stored, V>(
    cache: &Cache<T>,
    part: &Part,
    labels: impl Fn(&T) -> &Labels,
    see: impl Fn(&T) -> bool,
    show: impl Fn(&Row<T>) -> V,
) -> Page<V> {
    let found = cache.list(&[], None, usize::MAX);
    let behind = |row: &&Arc<Row<T>>| part.after.as_ref().is_none_or(|after| row.key < *after);
    let mut rows =
        found.rows.iter().rev().filter(behind).filter(|row| see(&row.value) && part.wants(labels(&row.value)));
    let items: Vec<_> = rows.by_ref().take(part.limit).collect();
    let next_page = if rows.next().is_some() { items.last().map(|row| token(row.key.as_str())) } else { None };
    Page { items: items.iter().map(|row| show(row)).collect(), next_page, revision: found.rev.to_string() }
}

/// The token of a page whose last key is this.
pub(crate) fn token(key: &str) -> String {
    URL_SAFE_NO_PAD.encode(key)
}

fn read_token(token: &str) -> Result<Key, Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok().filter(|bytes| !bytes.is_empty() && bytes.len() <= 2048);
    let key = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    key.map(Key::from).ok_or_else(|| {
        Refusal::bad_request(
            "BadPageToken",
            "cannot read the page_token: use next_page exactly as the page before gave it, or leave it out",
        )
    })
}

fn selector(text: &str) -> Result<Vec<(String, Option<String>)>, Refusal> {
    let part = |part: &str| {
        let (key, value) = part.split_once('=').map_or((part, None), |(key, value)| (key, Some(value)));
        let key = key.trim();
        if key.is_empty() {
            return Err(Refusal::bad_request(
                "BadLabel",
                format!(
                    "cannot read the label filter {text:?}: write key or key=value, with commas between, as in tier=web,stage"
                ),
            ));
        }
        Ok((key.to_owned(), value.map(|value| value.trim().to_owned())))
    };
    text.split(',').map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn labels_filter_by_key_and_by_value() {
        let part = Part::new(None, None, Some("tier=web,stage")).unwrap();
        assert!(part.wants(&labels(&[("tier", "web"), ("stage", "x"), ("more", "y")])));
        assert!(!part.wants(&labels(&[("tier", "db"), ("stage", "x")])));
        assert!(!part.wants(&labels(&[("tier", "web")])));
        assert!(Part::new(None, None, Some("=web")).unwrap_err().message.contains("tier=web"));
    }

    #[test]
    fn limits_and_tokens_are_checked() {
        assert_eq!(Part::new(Some(5000), None, None).unwrap().limit(), 1000);
        assert_eq!(Part::new(None, None, None).unwrap().limit(), 100);
        assert_eq!(Part::new(Some(0), None, None).unwrap_err().code, "BadLimit");
        assert_eq!(Part::new(None, Some("no token!"), None).unwrap_err().code, "BadPageToken");
        let part = Part::new(None, Some(&token("instances/a/b")), None).unwrap();
        assert_eq!(part.after(), Some("instances/a/b"));
    }
}
