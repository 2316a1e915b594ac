//! The server's configuration, `/etc/yun/yun.toml`. Everything has a default; a typo is refused with its line and the nearest right word.

use anyhow::{Context as _, Result, bail};
use ipnet::Ipv4Net;
use serde::Deserialize;
use std::{net::SocketAddr, path::Path};
use yun_types::{Name, Size};

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// The API's door.
    pub(crate) api: Api,
    /// The door for Docker's clients.
    pub(crate) docker: Docker,
    /// The door for SSH clients.
    pub(crate) ssh: Ssh,
    /// Networks of projects.
    pub(crate) network: Network,
    /// This machine in the pool.
    pub(crate) node: Node,
    /// VMs.
    pub(crate) vm: Vm,
    /// What the server writes about itself.
    pub(crate) log: Log,
}

/// `[api]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Api {
    /// Where to listen.
    pub(crate) listen: SocketAddr,
    /// Names and addresses that the certificate is for, beside those of this host.
    pub(crate) names: Vec<String>,
}

/// `[docker]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Docker {
    /// Whether `run/yun/docker.sock` answers.
    pub(crate) enable: bool,
    /// The project whose containers Docker's clients see and make.
    pub(crate) project: Name,
    /// The size of containers that are made without `--cpus` and `--memory`.
    pub(crate) size: Size,
}

/// `[ssh]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Ssh {
    /// Whether SSH clients are answered.
    pub(crate) enable: bool,
    /// Where to listen.
    pub(crate) listen: SocketAddr,
}

/// `[network]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Network {
    /// The range that projects' networks are cut from.
    pub(crate) pool: Ipv4Net,
    /// The prefix length of each.
    pub(crate) prefix: u8,
}

/// `[node]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Node {
    /// How often each core is lent. Where instances want more than there is, each gets its part in proportion to its size.
    pub(crate) cpu_overcommit: u32,
}

/// `[vm]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Vm {
    /// `auto`, `kvm` or `tcg`.
    pub(crate) accel: AccelChoice,
}

/// How VMs should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AccelChoice {
    /// By the processor where a test guest proves that it works, else emulated.
    Auto,
    /// By the processor, without a test.
    Kvm,
    /// Emulated.
    Tcg,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// `error`, `warn`, `info`, `debug`, or a filter as in `info,yun_agent=debug`.
    pub(crate) level: String,
    /// `text` or `json`.
    pub(crate) format: LogFormat,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Default for Api {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 7443)), names: Vec::new() }
    }
}

impl Default for Docker {
    fn default() -> Self {
        let size =
            Size { cpu: yun_types::Cpu(250), memory: yun_types::Bytes::mib(256), disk: yun_types::Bytes::gib(2) };
        Self { enable: true, project: Name::default_project(), size }
    }
}

impl Default for Ssh {
    fn default() -> Self {
        Self { enable: true, listen: SocketAddr::from(([127, 0, 0, 1], 7422)) }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self { pool: Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 64, 0, 0), 10), prefix: 24 }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self { cpu_overcommit: 1 }
    }
}

impl Default for Vm {
    fn default() -> Self {
        Self { accel: AccelChoice::Auto }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

impl Config {
    /// Reads the file; an absent one has the defaults.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, &path.display().to_string()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e).with_context(|| format!("cannot read the configuration {}", path.display())),
        }
    }

    fn parse(text: &str, name: &str) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|e| anyhow::anyhow!("{}", told(text, name, &e)))?;
        let Network { pool, prefix } = &config.network;
        if *prefix < pool.prefix_len() || *prefix > 29 {
            bail!(
                "{name}: network.prefix is {prefix}, which does not cut networks from {pool}: use a number from {} to 29",
                pool.prefix_len()
            );
        }
        if !(1..=1000).contains(&config.node.cpu_overcommit) {
            bail!(
                "{name}: node.cpu_overcommit is {}: use a number from 1 (each core is lent once) to 1000",
                config.node.cpu_overcommit
            );
        }
        Ok(config)
    }
}

/// What is wrong, where, and what was probably meant.
fn told(text: &str, name: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let message = error.message().trim();
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let hint = match (message.starts_with("unknown"), quoted.split_first()) {
        (true, Some((wrong, known))) => known
            .iter()
            .min_by_key(|k| strsim::damerau_levenshtein(wrong, k))
            .map(|near| format!("; did you mean `{near}`?"))
            .unwrap_or_default(),
        _ => String::new(),
    };
    format!("{name} line {line}: {message}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_told_with_its_line_and_the_nearest_word() {
        let error = Config::parse("[api]\n# where\nlisen = \"127.0.0.1:1\"\n", "yun.toml").unwrap_err().to_string();
        assert!(error.contains("yun.toml line 3") && error.contains("did you mean `listen`?"), "{error}");
        let error = Config::parse("[vm]\naccel = \"kvn\"\n", "yun.toml").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("did you mean `kvm`?"), "{error}");
        let error = Config::parse("[network]\nprefix = 30\n", "yun.toml").unwrap_err().to_string();
        assert!(error.contains("from 10 to 29"), "{error}");
        let error = Config::parse("[node]\ncpu_overcommit = 0\n", "yun.toml").unwrap_err().to_string();
        assert!(error.contains("node.cpu_overcommit is 0: use a number from 1"), "{error}");
    }

    #[test]
    fn the_ssh_gateway_is_opened_by_its_address() {
        let config = Config::parse("[ssh]\nlisten = \"0.0.0.0:7422\"\n", "x").unwrap();
        assert!(config.ssh.enable && config.ssh.listen.ip().is_unspecified());
        assert!(Config::default().ssh.listen.ip().is_loopback());
        let error = Config::parse("[ssh]\nenabled = true\n", "yun.toml").unwrap_err().to_string();
        assert!(error.contains("did you mean `enable`?"), "{error}");
    }

    #[test]
    fn an_empty_file_has_the_defaults() {
        assert_eq!(Config::parse("", "x").unwrap(), Config::default());
    }
}
