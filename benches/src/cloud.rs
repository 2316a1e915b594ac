//! A real server on a root of its own, started and taken down for one bench.

use anyhow::{Context as _, Result, bail};
use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};
use yun_api::client::Client;
use yun_types::{Operation, OperationState};

/// The longest that anything here may take.
const LONGEST: Duration = Duration::from_secs(300);

/// A server that runs until this is dropped.
pub(crate) struct Cloud {
    directory: tempfile::TempDir,
    /// The client, as the administrator.
    pub(crate) client: Client,
}

/// The program that is measured.
fn program() -> PathBuf {
    std::env::var_os("YUN_BINARY").map_or_else(|| "target/release/yun".into(), PathBuf::from)
}

fn yun(root: &Path) -> Command {
    let mut command = Command::new(program());
    command
        .env("YUN_CONFIG", root.join("config.toml"))
        .env("YUN_ROOT", root)
        .env_remove("YUN_HOST")
        .env_remove("YUN_TOKEN")
        .stdin(Stdio::null());
    command
}

impl Cloud {
    /// Starts a server on a fresh root. `prepare` may fill the state first.
    pub(crate) async fn start(prepare: impl AsyncFnOnce(&Path) -> Result<()>) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("yb")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o711))
            .tempdir_in("/var/tmp")?;
        prepare(directory.path()).await?;
        checked(yun(directory.path()).args(["up", "--listen", "127.0.0.1:0", "--no-systemd"]))?;
        let text = std::fs::read_to_string(directory.path().join("config.toml"))?;
        let config: toml::Value = toml::from_str(&text)?;
        let context = config["contexts"].as_table().and_then(|t| t.values().next()).context("no context")?;
        let word = |key: &str| context[key].as_str().context("an incomplete context").map(str::to_owned);
        Ok(Self { client: client(&word("host")?, &word("ca")?, &word("token")?)?, directory })
    }

    /// The command line, on this cloud.
    pub(crate) fn yun(&self, words: &[&str]) -> Result<Output> {
        checked(yun(self.root()).args(words))
    }

    /// Where everything of it is.
    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    /// The server's pid.
    pub(crate) fn pid(&self) -> Result<u32> {
        let status: serde_json::Value = serde_json::from_slice(&self.yun(&["status", "-o", "json"])?.stdout)?;
        status["pid"].as_u64().and_then(|p| u32::try_from(p).ok()).context("the server names no pid")
    }

    /// Waits for the end of an operation.
    pub(crate) async fn ended(&self, operation: Operation) -> Result<Operation> {
        let mut operation = operation;
        let until = Instant::now() + LONGEST;
        while !operation.status.state.ended() {
            if Instant::now() > until {
                bail!(
                    "{} of {} has not ended in {} s: {:?}",
                    operation.spec.kind,
                    operation.spec.target,
                    LONGEST.as_secs(),
                    operation.status.progress.message
                );
            }
            operation =
                self.client.operation_get().operation(operation.metadata.id).wait(60).send().await?.into_inner();
        }
        if operation.status.state != OperationState::Succeeded {
            bail!(
                "{} of {} {}: {:?}",
                operation.spec.kind,
                operation.spec.target,
                operation.status.state,
                operation.status.error
            );
        }
        Ok(operation)
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if let Err(error) = checked(yun(self.root()).arg("down")) {
            eprintln!("bench: {error:#}");
        }
    }
}

/// A client for a server.
pub(crate) fn client(host: &str, ca: &str, token: &str) -> Result<Client> {
    let mut headers = reqwest::header::HeaderMap::new();
    headers.insert(reqwest::header::AUTHORIZATION, format!("Bearer {token}").parse()?);
    let certificate = reqwest::Certificate::from_pem(ca.as_bytes())?;
    let inner = reqwest::Client::builder()
        .default_headers(headers)
        .tls_certs_only([certificate])
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(10))
        .build()?;
    Ok(Client::new_with_client(host, inner))
}

/// Runs a program that must succeed.
pub(crate) fn checked(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{:?} failed: {}", command, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output)
}
