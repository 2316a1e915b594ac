//! Runs the benchmarks of the state alone: `cargo run --release -p yun-store --example bench`.

#[path = "../../../benches/src/store.rs"]
mod store;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    for measure in store::run().await? {
        println!("{:<60} {:>12.2} {}", measure.name, measure.value, measure.unit);
    }
    Ok(())
}
