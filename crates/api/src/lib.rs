//! The contracts between the parts of yun, as traits without code behind them.
//!
//! * [`cloud`]: what users and their programs call, as an HTTP API; `openapi/yun.json` is its golden file, and [`client`] is generated from it.
//! * [`node`]: what the control plane and a node's agent call on each other.
//! * [`frames`]: how interactive sessions travel over a WebSocket.
//!
//! Nothing here decides or stores anything.

pub mod client;
pub mod cloud;
pub mod frames;
pub mod node;
