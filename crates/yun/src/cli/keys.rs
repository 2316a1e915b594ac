//! The SSH keys of the person at this command line: their own, and one of yun's that makes `yun ssh` work without any.

use anyhow::{Context as _, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};
use yun_linux::command::Program;

/// The key pair of `yun ssh`, made at its first use. Answers the path of the private half.
pub(crate) async fn own_key(directory: &Path) -> Result<PathBuf> {
    let private = directory.join("id_ed25519");
    if !private.exists() {
        fs::create_dir_all(directory).with_context(|| format!("cannot make the directory {}", directory.display()))?;
        let keygen =
            Program { name: "ssh-keygen", package: "openssh-client", limit: std::time::Duration::from_secs(20) };
        // Two first launches may race: each makes a draft of its own, and the first rename wins.
        let draft = directory.join(format!(".id_ed25519.{}", std::process::id()));
        let arguments = ["-q", "-t", "ed25519", "-N", "", "-C", "yun", "-f"].map(std::ffi::OsStr::new);
        keygen.run(&[&arguments[..], &[draft.as_os_str()]].concat(), None).await?;
        let public = |path: &Path| PathBuf::from(format!("{}.pub", path.display()));
        fs::hard_link(public(&draft), public(&private)).ok();
        fs::hard_link(&draft, &private).ok();
        let _ = fs::remove_file(public(&draft));
        let _ = fs::remove_file(&draft);
    }
    Ok(private)
}

/// The public keys that a new VM should let in: those given, or all that this person has.
pub(crate) async fn authorized(given: &[String], directory: &Path) -> Result<Vec<String>> {
    let private = own_key(directory).await?;
    let own =
        fs::read_to_string(format!("{}.pub", private.display())).context("cannot read the public key of yun ssh")?;
    let mut keys = vec![own.trim().to_owned()];
    if given.is_empty() {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let files = fs::read_dir(home.join(".ssh")).into_iter().flatten().flatten().map(|e| e.path());
        for file in files.filter(|p| p.extension().is_some_and(|e| e == "pub")) {
            keys.extend(
                fs::read_to_string(file)
                    .unwrap_or_default()
                    .lines()
                    .filter(|l| looks_like_key(l))
                    .map(|l| l.trim().to_owned()),
            );
        }
    }
    for word in given {
        if looks_like_key(word) {
            keys.push(word.trim().to_owned());
        } else {
            let text = fs::read_to_string(word)
                .with_context(|| format!("{word:?} is neither a public key nor a file that can be read"))?;
            let found: Vec<_> = text.lines().filter(|l| looks_like_key(l)).map(|l| l.trim().to_owned()).collect();
            anyhow::ensure!(!found.is_empty(), "the file {word} holds no public key: give the .pub half of a key pair");
            keys.extend(found);
        }
    }
    keys.dedup();
    Ok(keys)
}

fn looks_like_key(line: &str) -> bool {
    let line = line.trim_start();
    ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"].iter().any(|kind| line.starts_with(kind))
        && line.split_whitespace().nth(1).is_some()
}

/// Where this person's keys and known hosts of yun are: beside the file of contexts.
pub(crate) fn directory() -> PathBuf {
    let base = std::env::var_os("YUN_CONFIG").and_then(|f| Path::new(&f).parent().map(Path::to_owned));
    let config = || {
        std::env::var_os("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|h| Path::new(&h).join(".config")))
    };
    base.unwrap_or_else(|| config().unwrap_or_else(|| PathBuf::from("/root/.config")).join("yun"))
}
