//! The scheduler's bench without anything else of yun: `cargo run --release -p yun-plan --example sched`.
#![allow(dead_code, reason = "a part of the bench program is used")]

#[path = "../../../benches/src"]
mod bench {
    pub(crate) mod measure;
    pub(crate) mod sched;
}

use bench::measure;

fn main() {
    bench::sched::run().iter().for_each(|measure| println!("{}", measure.line()));
}
