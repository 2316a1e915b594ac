//! Contexts: which cloud the command line talks to, and as whom. Kept in one file, readable by its owner alone.

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use yun_types::Name;

use super::args::Global;

/// One cloud, and who we are to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// `https://127.0.0.1:7443`
    pub(crate) host: String,
    /// The server's certificate authority, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
    /// The token's secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// The project of commands that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) project: Option<Name>,
}

/// The file of contexts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The name of the one in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// All of them.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// Where the server of this machine leaves the administrator's context.
pub(crate) fn admin_file(root: &Path) -> PathBuf {
    root.join("etc/yun/admin.toml")
}

/// The file of contexts that these flags mean.
pub(crate) fn file(global: &Global) -> Result<PathBuf> {
    if let Some(path) = &global.config {
        return Ok(path.clone());
    }
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| Path::new(&h).join(".config")));
    Ok(base
        .context("neither HOME nor XDG_CONFIG_HOME is set: name the file of contexts with --config")?
        .join("yun/config.toml"))
}

impl Contexts {
    /// Reads the file; an absent one has no contexts.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text)
                .map_err(|e| anyhow!("the file of contexts {} cannot be read: {}", path.display(), e.message())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e).with_context(|| format!("cannot read the file of contexts {}", path.display())),
        }
    }

    /// Writes the file, all of it or nothing, for the owner's eyes.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        write_private(path, &toml::to_string_pretty(self)?)
    }

    /// The context that these flags mean.
    pub(crate) fn pick(global: &Global) -> Result<Context> {
        let path = file(global)?;
        let mut all = Self::load(&path)?;
        let wanted = global.context.clone().or_else(|| all.current.clone());
        let mut context = match wanted {
            Some(name) => match all.contexts.remove(&name) {
                Some(context) => context,
                None => {
                    let known: Vec<String> = all.contexts.keys().cloned().collect();
                    bail!(
                        "there is no context {name:?} in {}: choose one of {} with yun config use",
                        path.display(),
                        list_or_none(&known)
                    );
                }
            },
            // On the machine of the cloud itself, its administrator needs no file of their own.
            None => match Self::load(&admin_file(Path::new("/"))) {
                Ok(mut admin) => admin.contexts.remove("local").unwrap_or_default(),
                Err(_) => Context::default(),
            },
        };
        if let Some(host) = &global.host {
            context.host.clone_from(host);
        }
        if let Some(token) = &global.token {
            context.token = Some(token.clone());
        }
        if let Some(project) = &global.project {
            context.project = Some(project.clone());
        }
        if context.host.is_empty() {
            bail!(
                "no cloud is known here: start one with yun up, or name one with yun config set NAME --host https://HOST:7443"
            );
        }
        Ok(context)
    }
}

fn list_or_none(names: &[String]) -> String {
    if names.is_empty() { "(none)".to_owned() } else { names.join(", ") }
}

/// Writes a file that only its owner may read, by one rename.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    let directory = path.parent().context("a file needs a directory")?;
    fs::create_dir_all(directory).with_context(|| format!("cannot make the directory {}", directory.display()))?;
    let draft = path.with_extension(format!("new-{}", std::process::id()));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_kept_private_and_read_back() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/config.toml");
        let mut all = Contexts { current: Some("lab".into()), ..Default::default() };
        all.contexts.insert(
            "lab".into(),
            Context { host: "https://lab:7443".into(), token: Some("yun_x".into()), ..Default::default() },
        );
        all.save(&path).unwrap();
        assert_eq!(Contexts::load(&path).unwrap(), all);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_missing_context_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let global = Global {
            host: None,
            token: None,
            context: Some("lab".into()),
            config: Some(directory.path().join("config.toml")),
            project: None,
            output: super::super::args::Format::Table,
            quiet: false,
        };
        let error = Contexts::pick(&global).unwrap_err().to_string();
        assert!(error.contains("no context \"lab\"") && error.contains("yun config use"), "{error}");
    }
}
