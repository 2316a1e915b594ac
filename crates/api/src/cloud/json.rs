//! JSON bodies whose refusals are meant for people: the field, what is wrong, and a right value, as the nouns of `types` say it.

use async_trait::async_trait;
use dropshot::{
    ApiEndpointBodyContentType, ExclusiveExtractor, ExtractorMetadata, HttpError, RequestContext, ServerContext,
    TypedBody, UntypedBody,
};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

/// A JSON body. In the OpenAPI document it is like dropshot's `TypedBody`.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T> Json<T> {
    /// The value.
    pub fn into_inner(self) -> T {
        self.0
    }
}

#[async_trait]
impl<T: JsonSchema + DeserializeOwned + Send + Sync + 'static> ExclusiveExtractor for Json<T> {
    async fn from_request<Context: ServerContext>(
        rqctx: &RequestContext<Context>,
        request: http::Request<dropshot::Body>,
    ) -> Result<Self, HttpError> {
        let kind = request.headers().get(http::header::CONTENT_TYPE);
        let kind = kind.map_or("application/json", |kind| kind.to_str().unwrap_or_default());
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            return Err(refuse(format!(
                "the body is said to be {kind:?}: send JSON, with the header Content-Type: application/json"
            )));
        }
        let bytes = UntypedBody::from_request(rqctx, request).await?;
        read(bytes.as_bytes()).map(Self).map_err(refuse)
    }

    fn metadata(content_type: ApiEndpointBodyContentType) -> ExtractorMetadata {
        TypedBody::<T>::metadata(content_type)
    }
}

fn refuse(message: String) -> HttpError {
    HttpError::for_bad_request(Some("BadBody".to_owned()), message)
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        let text = error.to_string();
        if error.classify() != serde_json::error::Category::Data {
            return format!("the body is not JSON: {text}; send one JSON object");
        }
        // The place in the text means nothing to who did not write the text.
        let place = format!(" at line {} column {}", error.line(), error.column());
        let text = text.strip_suffix(&place).unwrap_or(&text);
        if path == "." { text.to_owned() } else { format!("{path}: {text}") }
    })?;
    json.end().map_err(|error| format!("the body goes on behind its JSON object ({error}); send one JSON object"))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::InstanceCreate;

    #[test]
    fn refusals_name_the_field_and_show_a_right_value() {
        let refused = |body: &str| read::<InstanceCreate>(body.as_bytes()).unwrap_err();
        assert_eq!(
            refused(r#"{"name":"web","spec":{"image":"none","size":"cpu:0"}}"#),
            "spec.size: size cpu:0 is too small: the least is cpu:10m, as in cpu:1,memory:512M,disk:2G"
        );
        assert!(refused(r#"{"name":"web"}"#).starts_with("missing field `spec`"));
        assert!(
            refused(r#"{"name":"web","spec":{"image":"none","colour":1}}"#)
                .starts_with("spec.colour: unknown field `colour`")
        );
        assert!(refused("{").contains("is not JSON") && refused("").contains("is not JSON"));
        assert!(refused(r#"{"name":"web","spec":{"image":"none"}} x"#).contains("goes on behind"));
    }
}
