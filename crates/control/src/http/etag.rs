//! `ETag` and `If-Match`: the revision of an object, in quotes.

use crate::error::Refusal;
use dropshot::{HttpResponseHeaders, HttpResponseOk};
use schemars::JsonSchema;
use serde::Serialize;
use yun_api::cloud::EtagHeader;

/// An answer with its tag.
pub(crate) fn tagged<T>(object: T, revision: &str) -> HttpResponseHeaders<HttpResponseOk<T>, EtagHeader>
where
    T: JsonSchema + Serialize + Send + Sync + 'static,
{
    let etag = format!("\"{revision}\"");
    HttpResponseHeaders::new(HttpResponseOk(object), EtagHeader { etag })
}

/// The revision that an `If-Match` header asks for; `None` if any will do.
pub(crate) fn wanted(if_match: Option<String>) -> Result<Option<String>, Refusal> {
    let Some(text) = if_match else { return Ok(None) };
    let text = text.trim();
    if text == "*" {
        return Ok(None);
    }
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    if inner.is_empty() || inner.contains(['"', ',', ' ']) || inner.starts_with("W/") {
        let shown: String = text.chars().take(80).collect();
        let message =
            format!("cannot read the If-Match header {shown}: use one ETag, exactly as an earlier answer gave it");
        return Err(Refusal::bad_request("BadIfMatch", message));
    }
    Ok(Some(inner.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tag_is_read_with_and_without_quotes() {
        for text in ["\"1.7\"", "1.7", " \"1.7\" "] {
            assert_eq!(wanted(Some(text.into())).unwrap(), Some("1.7".into()), "{text}");
        }
        assert_eq!(wanted(None).unwrap(), None);
        assert_eq!(wanted(Some("*".into())).unwrap(), None);
        for bad in ["", "\"\"", "\"1.7\", \"1.8\"", "W/\"1.7\""] {
            assert_eq!(wanted(Some(bad.into())).unwrap_err().code, "BadIfMatch", "{bad}");
        }
    }
}
