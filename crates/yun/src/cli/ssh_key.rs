//! Commands on SSH keys: who may enter a project's instances through the SSH gateway.

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use std::{io::Read as _, path::Path};
use yun_api::cloud::SshKeyCreate;
use yun_types::{Name, NameOrId, PublicKey, Role, SshKey, SshKeySpec, Timestamp};

use super::{
    Code, complete,
    connect::{Cloud, Explained},
    output::{self, Listed, age},
    words,
};
use crate::cli::args::Format;

/// The largest file that is taken for a key.
const LARGEST: u64 = 64 << 10;

#[derive(Debug, Subcommand)]
pub(crate) enum SshKeyCommand {
    /// List the keys of the project
    Ls,
    /// Show a key in full
    Show {
        /// Its name or id
        #[arg(add = ArgValueCompleter::new(complete::ssh_keys))]
        key: String,
    },
    /// Let the holder of a key enter the project's instances: ssh INSTANCE.PROJECT@HOST -p 7422
    #[command(
        visible_alias = "create",
        after_help = "Examples:\n  yun ssh-key add laptop ~/.ssh/id_ed25519.pub\n  yun ssh-key add ci - < ci.pub\n  yun ssh-key add desk \"ssh-ed25519 AAAA… me@desk\" --project lab\n  ssh -p 7422 web.default@localhost       then: a shell in web\n  scp -P 7422 site.tar web.default@localhost:"
    )]
    Add(AddArgs),
    /// Remove keys: they are refused at once, and who is logged in with them is logged out
    #[command(visible_alias = "delete")]
    Rm {
        /// Names or ids
        #[arg(required = true, add = ArgValueCompleter::new(complete::ssh_keys))]
        keys: Vec<String>,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct AddArgs {
    /// Its name
    pub(crate) name: Name,
    /// The public key: a file, the line itself, or - for standard input
    #[arg(value_name = "FILE|KEY|-", value_hint = clap::ValueHint::FilePath)]
    pub(crate) key: String,
    /// editor enters instances, viewer does not
    #[arg(long, default_value = "editor")]
    pub(crate) role: Role,
    /// Free words, as in team=web
    #[arg(long, short = 'l', value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
}

/// The one public key that a word means. What may be a secret is not repeated.
fn public_key(word: &str) -> Result<PublicKey> {
    let looks_like_key =
        |text: &str| ["ssh-", "ecdsa-", "sk-", "-----BEGIN"].iter().any(|start| text.trim_start().starts_with(start));
    if looks_like_key(word) && !Path::new(word).exists() {
        return Ok(word.parse()?);
    }
    let (text, what) = if word == "-" {
        let mut text = String::new();
        std::io::stdin().take(LARGEST).read_to_string(&mut text).context("cannot read standard input")?;
        (text, "standard input".to_owned())
    } else {
        let shown: String = word.chars().take(200).collect();
        let missing = || format!("{shown:?} is neither a public key nor a file that can be read");
        let size = std::fs::metadata(word).with_context(missing)?.len();
        anyhow::ensure!(size <= LARGEST, "the file {shown} is no public key: it has {size} bytes");
        (std::fs::read_to_string(word).with_context(missing)?, format!("the file {shown}"))
    };
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#')).collect();
    let keys: Vec<&str> = lines.iter().copied().filter(|line| looks_like_key(line)).collect();
    let found = match keys[..] {
        [one] if lines.len() == 1 => one.parse::<PublicKey>(),
        [_, _, ..] if !text.contains("PRIVATE KEY") => {
            bail!("{what} holds {} keys: add each under a name of its own", keys.len())
        }
        _ => text.parse::<PublicKey>(),
    };
    found.map_err(|wrong| {
        let public = format!("{word}.pub");
        let hint = if Path::new(&public).is_file() { format!("; did you mean {public}?") } else { String::new() };
        anyhow::anyhow!("{what} cannot be added: {wrong}{hint}")
    })
}

/// Carries out a command on SSH keys.
pub(crate) async fn run(cloud: &Cloud, command: SshKeyCommand) -> Result<Code> {
    let project = || cloud.project.clone();
    let named = |word: &str| word.parse::<NameOrId>();
    match command {
        SshKeyCommand::Ls => {
            let page = cloud.client.ssh_key_list().project(project()).limit(1000).send().await.explained()?;
            output::list(
                &page.items,
                cloud.output,
                "no SSH keys: yun ssh-key add NAME ~/.ssh/id_ed25519.pub adds one",
            )?;
        }
        SshKeyCommand::Show { key } => {
            let key = cloud.client.ssh_key_get().project(project()).ssh_key(named(&key)?).send().await.explained()?;
            output::object(&key, cloud.output, key.metadata.name.as_str())?;
        }
        SshKeyCommand::Add(args) => {
            let AddArgs { name, key, role, label } = args;
            let spec = SshKeySpec { public_key: public_key(&key)?, role };
            let body = SshKeyCreate { name, labels: words::labels(&label)?, spec };
            let once = format!("ssh-key-{}", uuid::Uuid::new_v4());
            let request = cloud.client.ssh_key_create().project(project()).idempotency_key(once).body(body);
            let key = request.send().await.explained()?;
            match cloud.output {
                Format::Json | Format::Yaml => {
                    output::object(&key, cloud.output, key.metadata.name.as_str())?;
                }
                _ => output::print_line(key.metadata.name.as_str())?,
            }
        }
        SshKeyCommand::Rm { keys } => {
            for key in keys {
                cloud.client.ssh_key_delete().project(project()).ssh_key(named(&key)?).send().await.explained()?;
                output::print_line(&key)?;
            }
        }
    }
    Ok(0)
}

impl Listed for SshKey {
    const COLUMNS: &'static [&'static str] =
        &["NAME", "ROLE", "KIND", "FINGERPRINT", "COMMENT", "AGE", "PROJECT", "ID"];
    const NARROW: usize = 6;
    fn cells(&self, now: Timestamp) -> Vec<String> {
        let key = &self.spec.public_key;
        let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        vec![
            self.name(),
            self.spec.role.to_string(),
            key.kind().to_owned(),
            self.status.fingerprint.clone(),
            dash(key.comment()),
            age(self.metadata.created, now),
            dash(self.metadata.project.as_ref().map_or("", Name::as_str)),
            self.metadata.id.to_string(),
        ]
    }
    fn name(&self) -> String {
        self.metadata.name.to_string()
    }
}
