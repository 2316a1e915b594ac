//! The Docker Engine API on a Unix socket, for the `docker` and `docker compose` that people have.
//!
//! What Docker calls a container is an instance of kind container in one project; images, networks and volumes are those of that project.
//! Docker's ids are derived from the cloud's (see `names`). What Docker remembers of a container and the cloud has no word for (the name as it was
//! typed, flags that only `inspect` shows, `--rm`) is kept in labels of the instance that begin with `docker.yun/`, so that it
//! outlives the server.
//!
//! The door calls the API over loopback HTTPS with tokens that the server mints for it at start. That costs about a millisecond a call, and
//! in return there is one place that checks roles, quotas and specs and writes the audit journal. Root's connections use a token of an
//! administrator of the cloud, as Docker's socket is root's; those of the group `yun` use an editor's, who may not mount the host's paths.

mod body;
mod cloud;
mod container;
mod events;
mod fault;
mod filters;
mod follow;
mod image;
mod names;
mod network;
mod query;
mod reference;
mod route;
mod server;
mod stream;
mod system;
mod volume;
mod words;

pub use server::{Door, bind};

use std::sync::Arc;
use yun_api::client::Client;
use yun_engine::clock::Clock;
use yun_types::{Name, Size};

/// The newest version of the protocol that is spoken.
pub const API_VERSION: &str = "1.44";
/// The oldest version of the protocol that is spoken.
pub const OLDEST_API_VERSION: &str = "1.24";

/// What the door works with.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// The project whose containers are shown and made.
    pub project: Name,
    /// The size of containers that are made without `--cpus` and `--memory`.
    pub size: Size,
    /// The client for root's requests.
    pub admin: Client,
    /// The client for everybody else's.
    pub member: Client,
    /// The only source of time.
    pub clock: Arc<dyn Clock>,
    /// The version of yun.
    pub version: String,
}
