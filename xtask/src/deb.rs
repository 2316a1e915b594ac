//! `deb`: the Debian package of yun, by cargo-deb.

use crate::run::{cargo, output, root, run, target};
use anyhow::{Context as _, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Where the set-up keeps cargo-deb.
const TOOLS: &str = "/opt/yun-tests/cargo";

/// The shells, and the files that complete their command lines.
const SHELLS: [(&str, &str); 3] = [("bash", "yun.bash"), ("zsh", "_yun"), ("fish", "yun.fish")];

/// Builds the package; `--dev` takes the program of a test build, which is larger, and `--no-build` takes it as it is.
pub(crate) fn deb(arguments: &[String]) -> Result<()> {
    let said = |flag: &str| arguments.iter().any(|a| a == flag);
    let dev = said("--dev");
    install()?;
    let profile = if dev { "dev" } else { "release" };
    if !said("--no-build") {
        println!("==> building yun ({profile})");
        run(cargo().args(["build", "--quiet", "--package", "yun", "--profile", profile]))?;
    }
    let program = target().join(if dev { "debug/yun" } else { "release/yun" });
    package(&program, profile)
}

/// Installs cargo-deb if it is not there.
pub(crate) fn install() -> Result<()> {
    if tool().exists() {
        return Ok(());
    }
    println!("setup: installing cargo-deb");
    run(cargo().args(["install", "cargo-deb@3.8.0", "--locked", "--quiet", "--root", TOOLS]))
}

fn tool() -> PathBuf {
    Path::new(TOOLS).join("bin/cargo-deb")
}

fn package(program: &Path, profile: &str) -> Result<()> {
    let out = root().join("packaging/out");
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    for (shell, file) in SHELLS {
        let text = output(Command::new(program).args(["completion", shell]))?;
        ensure!(!text.is_empty(), "yun completion {shell} says nothing");
        fs::write(out.join(file), text)?;
    }
    println!("==> packing");
    let mut command = Command::new(tool());
    command.current_dir(root()).args(["--package", "yun", "--no-build", "--profile", profile]);
    if profile == "dev" {
        command.arg("--fast");
    }
    run(&mut command)
}
