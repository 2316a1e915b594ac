//! Bodies of streams: one JSON value a line, for as long as the stream goes on or until the server stops.

use crate::core::Control;
use bytes::Bytes;
use dropshot::{Body, FreeformBody, HttpResponseOk};
use futures::{Stream, StreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use serde::Serialize;
use std::io;
use sync_wrapper::SyncStream;

/// How many lines that are ready travel together.
const TOGETHER: usize = 64;

/// Sends bytes as they are. An error cuts the body off.
pub(super) fn bytes(
    control: &Control,
    pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> HttpResponseOk<FreeformBody> {
    let until_closed = pieces.map(|piece| piece.map(Frame::data)).take_until(control.closing.clone().cancelled_owned());
    HttpResponseOk(FreeformBody(Body::wrap(StreamBody::new(SyncStream::new(until_closed)))))
}

/// Sends the values as lines. An error cuts the body off, which the client notices; the end of the stream ends it well.
pub(super) fn lines<T: Serialize + Send + 'static>(
    control: &Control,
    values: impl Stream<Item = io::Result<T>> + Send + 'static,
) -> HttpResponseOk<FreeformBody> {
    let lines = values.map(|value| {
        let mut line = serde_json::to_vec(&value?)?;
        line.push(b'\n');
        io::Result::Ok(line)
    });
    let lines = lines.ready_chunks(TOGETHER).flat_map(|lines| {
        let (mut together, mut error) = (Vec::new(), None);
        for line in lines {
            match line {
                Ok(line) => together.extend(line),
                Err(e) => error = Some(e),
            }
        }
        // What came before the error still arrives.
        let whole = (!together.is_empty()).then(|| Ok(Frame::data(Bytes::from(together))));
        stream::iter(whole.into_iter().chain(error.map(Err)))
    });
    let until_closed = lines.take_until(control.closing.clone().cancelled_owned());
    HttpResponseOk(FreeformBody(Body::wrap(StreamBody::new(SyncStream::new(until_closed)))))
}
