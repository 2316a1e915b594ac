//! One node: makes what the control plane wants here real, and says what it saw.
//!
//! ```text
//!  orders ──▶ node (registry) ──▶ one owner task an instance ──▶ drivers
//!                 │                   │        ▲
//!                 │                   ▼        └─ decide: (ledger, seen, now) -> one step; pure
//!                 │                ledger (disk)
//!                 ▼
//!     networks, images, volumes    outbox ──▶ reports to the control plane
//! ```
//!
//! The agent owns the *order* of the drivers' calls and the ledger. It never decides where something runs, and it never touches what it
//! has no ledger entry for and was not told to touch. Nothing that runs depends on it: it may be killed at any point, and a new one goes on from the ledger.
//!
//! Words: *desired* is what the control plane wants of an instance; *seen* is what the driver says of it; an *owner* is the one task that
//! may call the instance driver for one instance (sessions and logs only read, so they go past it); an *orphan* is an instance in the
//! ledger that the control plane does not name any more; a *fence* grows with each placement and makes old orders void.

mod agent;
mod config;
mod decide;
mod events;
mod halt;
mod health;
mod images;
mod keep;
mod ledger;
mod link;
mod meter;
mod networks;
mod node;
mod orders;
mod outbox;
mod owner;
mod status;
mod steps;
mod volumes;

pub use agent::{Agent, AgentHandle, InstanceView, StartError};
pub use config::{AgentConfig, Drivers, Inventory};
pub use halt::halt;
