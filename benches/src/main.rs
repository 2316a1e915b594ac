//! What is measured, against peers and limits in the same run: `cargo xtask bench [NAME …] [-o json]`.
//!
//! Machines are shared and noisy: medians and ratios count, single numbers do not. Nothing here fails because it is slow.
#![allow(clippy::disallowed_methods, reason = "measures the real program and its peers as processes")]

mod api;
mod cloud;
mod container;
mod crowd;
mod docker;
mod idle;
mod measure;
mod sched;
mod store;
mod vm;
mod wire;

use anyhow::Result;
use measure::Measure;

const ALL: [&str; 8] = ["store", "sched", "api", "container", "crowd", "docker", "vm", "idle"];

#[tokio::main]
async fn main() -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let json = words.windows(2).any(|w| w == ["-o", "json"]);
    let mut names: Vec<&str> = words.iter().map(String::as_str).filter(|w| ALL.contains(w)).collect();
    let unknown: Vec<&String> =
        words.iter().filter(|w| !ALL.contains(&w.as_str()) && *w != "-o" && *w != "json").collect();
    anyhow::ensure!(unknown.is_empty(), "there is no bench {unknown:?}: the benches are {}", ALL.join(", "));
    if names.is_empty() {
        names = ALL.to_vec();
    }
    let mut all: Vec<Measure> = Vec::new();
    for name in names {
        let measures = match name {
            "store" => store::run().await,
            "sched" => Ok(sched::run()),
            "api" => api::run().await,
            "container" => container::run().await,
            "crowd" => crowd::run().await,
            "docker" => docker::run().await,
            "vm" => vm::run().await,
            _ => idle::run().await,
        };
        match measures {
            Ok(measures) => {
                if !json {
                    measures.iter().for_each(|m| println!("{}", m.line()));
                }
                all.extend(measures);
            }
            Err(error) => eprintln!("bench {name}: {error:#}"),
        }
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(())
}
