//! Docker's command line, pointed at a cloud.

use crate::common::{self, Cloud, text};
use serde_json::Value;
use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
};

/// The command line of Docker that is tested.
pub(crate) fn client() -> PathBuf {
    std::env::var_os("YUN_TEST_DOCKER").map_or_else(|| "/usr/bin/docker".into(), PathBuf::from)
}

pub(crate) fn real(what: &str) -> bool {
    if !common::real(what) {
        return false;
    }
    let there = client().exists();
    if !there {
        eprintln!("SKIPPED {what}: {} is not installed (cargo xtask setup installs it)", client().display());
    }
    there
}

/// `docker`, on a cloud.
pub(crate) struct Docker<'a>(pub(crate) &'a Cloud);

impl Docker<'_> {
    pub(crate) fn socket(&self) -> String {
        format!("unix://{}", self.0.root().join("run/yun/docker.sock").display())
    }

    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("DOCKER_HOST", self.socket())
            .env("DOCKER_CONFIG", self.0.root().join("docker"))
            .stdin(Stdio::null());
        for name in ["DOCKER_CONTEXT", "DOCKER_API_VERSION", "DOCKER_TLS_VERIFY"] {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.command(client()).args(words).output().unwrap()
    }

    /// Must succeed; what it says.
    #[track_caller]
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "docker {}: {}\n{}", words.join(" "), text(&output.stderr), self.0.log());
        text(&output.stdout).trim_end().to_owned()
    }

    /// Must fail; the code, and why.
    #[track_caller]
    pub(crate) fn fails(&self, words: &[&str]) -> (i32, String) {
        let output = self.run(words);
        assert!(!output.status.success(), "docker {} succeeded: {}", words.join(" "), text(&output.stdout));
        (output.status.code().unwrap_or(-1), text(&output.stderr))
    }

    #[track_caller]
    pub(crate) fn inspect(&self, name: &str) -> Value {
        let all: Value = serde_json::from_str(&self.ok(&["inspect", name])).unwrap();
        all[0].clone()
    }
}
