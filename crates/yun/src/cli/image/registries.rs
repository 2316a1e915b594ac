//! Users and passwords for registries, in `registries.toml` beside the file of contexts, for its owner's eyes. The server never keeps them.

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Read as _},
    path::{Path, PathBuf},
};
use yun_types::{Password, Reference, RegistryCredentials};

use super::args::LoginArgs;
use crate::cli::{
    Code,
    args::Global,
    context::{file, write_private},
    output,
};

/// The longest password: tokens of some registries take kilobytes.
const LONGEST: u64 = 16 << 10;

/// Who this person is where.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registries {
    #[serde(default)]
    registries: BTreeMap<String, RegistryCredentials>,
}

impl Registries {
    fn path(contexts: &Path) -> PathBuf {
        contexts.with_file_name("registries.toml")
    }

    fn load(contexts: &Path) -> Result<Self> {
        let path = Self::path(contexts);
        match std::fs::read_to_string(&path) {
            // The message alone: the text around it may be a password.
            Ok(text) => toml::from_str(&text).map_err(|_| {
                anyhow!("the file of registries {} cannot be read: remove it and log in again", path.display())
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e).with_context(|| format!("cannot read the file of registries {}", path.display())),
        }
    }

    fn save(&self, contexts: &Path) -> Result<()> {
        write_private(&Self::path(contexts), &toml::to_string_pretty(self)?)
    }

    /// What is known for a registry.
    pub(crate) fn find(contexts: &Path, reference: &Reference) -> Result<Option<RegistryCredentials>> {
        Ok(Self::load(contexts)?.registries.remove(reference.registry()))
    }
}

/// The registry as references name it.
fn known_as(registry: &str) -> Result<String> {
    let plain = registry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let reference = format!("{plain}/x").parse::<Reference>();
    match reference {
        Ok(reference) if reference.repository() == "x" || reference.repository() == "library/x" => {
            Ok(reference.registry().to_owned())
        }
        _ => bail!("{registry:?} is not a registry: write its host, as in ghcr.io or localhost:5000"),
    }
}

/// Remembers a user and a password.
pub(crate) fn login(global: &Global, args: &LoginArgs) -> Result<Code> {
    let registry = known_as(&args.registry)?;
    let contexts = file(global)?;
    let mut all = Registries::load(&contexts)?;
    all.registries.insert(registry.clone(), RegistryCredentials { user: args.user.clone(), password: password()? });
    all.save(&contexts)?;
    output::print_line(&format!("remembered {} for {registry}; the next pull shows whether it is let in", args.user))?;
    Ok(0)
}

/// Forgets them.
pub(crate) fn logout(global: &Global, registry: &str) -> Result<Code> {
    let registry = known_as(registry)?;
    let contexts = file(global)?;
    let mut all = Registries::load(&contexts)?;
    if all.registries.remove(&registry).is_none() {
        let known: Vec<String> = all.registries.into_keys().collect();
        bail!(
            "nobody is logged in at {registry}: {}",
            if known.is_empty() {
                "no registry is known".to_owned()
            } else {
                format!("known are {}", known.join(", "))
            }
        );
    }
    all.save(&contexts)?;
    output::print_line(&registry)?;
    Ok(0)
}

/// The password on standard input, without its newline.
pub(crate) fn password() -> Result<Password> {
    let input = std::io::stdin();
    if input.is_terminal() {
        eprintln!("type the password and press Enter, then Control-D (it is shown: better pipe it in)");
    }
    let mut text = String::new();
    input.take(LONGEST + 1).read_to_string(&mut text).context("cannot read the password from standard input")?;
    let word = text.trim_end_matches(['\n', '\r']);
    anyhow::ensure!(
        !word.is_empty(),
        "the password on standard input is empty: pipe it in, as in pass show registry | yun image login ..."
    );
    anyhow::ensure!(text.len() as u64 <= LONGEST, "what comes on standard input is too long to be a password");
    anyhow::ensure!(!word.contains('\n'), "what comes on standard input has several lines: a password has one");
    Ok(Password::new(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_named_as_references_name_them() {
        assert_eq!(known_as("https://ghcr.io/").unwrap(), "ghcr.io");
        assert_eq!(known_as("index.docker.io").unwrap(), "docker.io");
        assert_eq!(known_as("localhost:5000").unwrap(), "localhost:5000");
        for bad in ["", "ghcr", "ghcr.io/team", "a b.c"] {
            assert!(known_as(bad).is_err(), "{bad}");
        }
    }
}
