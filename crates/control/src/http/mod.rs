//! The cloud API over HTTP: it reads requests, asks who may, calls the resources' ops, and writes answers. It decides nothing.
//!
//! Handlers run to their end even if the client leaves, so that what was begun is also recorded; streams end with their client.

mod api;
mod background;
mod body;
pub(crate) mod etag;
pub mod idempotency;
mod log;
pub(crate) mod page;
mod query;
mod snapshots;
mod socket;
pub(crate) mod visit;

use crate::{StartError, core::Control, tls::Certificates};
use dropshot::{BuildError, ConfigDropshot, ConfigTls, HandlerTaskMode, HttpServer, ServerBuilder};
use std::{error::Error, sync::Arc};

/// The largest body of requests that say nothing else: names, labels and small specs.
const LARGEST_BODY: usize = 64 << 10;

/// The server, as it is running.
pub(crate) type Server = HttpServer<Arc<Control>>;

/// Starts to answer requests.
pub(crate) fn start(control: &Arc<Control>, certificates: &Arc<Certificates>) -> Result<Server, StartError> {
    let api = yun_api::cloud::cloud_api_mod::api_description::<api::ApiImpl>();
    let api = api.map_err(|e| StartError::Listen { address: control.config.listen, cause: e.to_string() })?;
    let config = ConfigDropshot {
        bind_address: control.config.listen,
        default_request_body_max_bytes: LARGEST_BODY,
        // A change that was begun is carried out and recorded even if the client leaves.
        default_handler_task_mode: HandlerTaskMode::Detached,
        ..ConfigDropshot::default()
    };
    let server = ServerBuilder::new(api, Arc::clone(control), log::logger())
        .config(config)
        .tls(Some(ConfigTls::Dynamic(certificates.server_config())))
        .start();
    server.map_err(|e: BuildError| {
        let cause = e.source().map_or_else(|| e.to_string(), ToString::to_string);
        StartError::Listen { address: control.config.listen, cause }
    })
}
