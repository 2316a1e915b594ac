//! Bodies of answers: whole, JSON, or streams.

use super::fault::{Answer, Fault};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use serde::{Serialize, de::DeserializeOwned};
use std::io;

/// The body of every answer.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The most JSON that a request may carry.
const LARGEST_JSON: usize = 1 << 20;

/// A whole body.
pub(super) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// A JSON answer.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    let mut response = Response::new(whole(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A JSON answer with status 200.
pub(super) fn ok(value: &impl Serialize) -> Response<Body> {
    json(StatusCode::OK, value)
}

/// An answer that comes in pieces; its head is sent at once.
pub(super) fn streamed<S>(content_type: &'static str, pieces: S) -> Response<Body>
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let mut response = Response::new(StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A line of a JSON stream.
pub(super) fn line(value: &impl Serialize) -> Bytes {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.extend_from_slice(b"\r\n");
    bytes.into()
}

/// Reads a request's JSON. No body at all counts as an empty object.
pub(super) async fn read<T: DeserializeOwned>(body: &mut Incoming) -> Answer<T> {
    let bytes = Limited::new(body, LARGEST_JSON)
        .collect()
        .await
        .map_err(|e| Fault::bad(format!("cannot read the request: {e}")))?
        .to_bytes();
    let text: &[u8] = if bytes.trim_ascii().is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(text).map_err(|e| Fault::bad(format!("the request is not the JSON that was expected: {e}")))
}

/// Reads a request's body to its end and forgets it, so that a client that sends first and listens then hears the answer.
pub(super) async fn drain(body: &mut Incoming) {
    while let Some(Ok(_)) = body.frame().await {}
}
