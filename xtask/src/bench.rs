//! `bench`: builds the measuring program in release and runs it as root.

use crate::run::{as_root, cargo, run, target};
use anyhow::Result;

/// Runs all benches, or those whose name is given.
pub(crate) fn bench(arguments: &[String]) -> Result<()> {
    run(cargo().args(["build", "--release", "--quiet", "--package", "yun", "--package", "yun-benches"]))?;
    run(as_root(target().join("release/yun-benches")).args(arguments).env("YUN_BINARY", target().join("release/yun")))
}
