//! `test`: the rules of the house, the lints, and every test. CI calls exactly this after the set-up.

use crate::{
    run::{cargo, output, root, run},
    tidy,
};
use anyhow::Result;

/// Runs everything. Words after `test` go to `cargo test`, and then only that is run.
pub(crate) fn test(arguments: &[String]) -> Result<()> {
    if !arguments.is_empty() {
        return run(cargo().arg("test").args(arguments));
    }
    println!("==> rules of the house");
    tidy::tidy()?;
    println!("==> format");
    run(cargo().args(["fmt", "--all", "--check"]))?;
    println!("==> lints");
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    println!("==> tests");
    run(cargo().args(["test", "--workspace", "--no-fail-fast"]))
}

/// Writes the golden file of the API.
pub(crate) fn write_openapi() -> Result<()> {
    let text = output(cargo().args(["run", "--quiet", "--package", "yun-api", "--example", "openapi"]))?;
    Ok(std::fs::write(root().join("openapi/yun.json"), text)?)
}
