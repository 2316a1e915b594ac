//! Runs the benchmarks of the state alone: `cargo run --release -p yun-store --example bench`.

#[allow(dead_code, reason = "the other benchmarks use the rest")]
#[path = "../../../benches/src/measure.rs"]
mod measure;
#[path = "../../../benches/src/store.rs"]
mod store;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    for measure in store::run().await? {
        println!("{}", measure.line());
    }
    Ok(())
}
