//! Debian packages: found and fetched by apt (which checks signatures), kept in a bounded cache, unpacked without being installed.
//!
//! The node's own package lists are used. When they are out of date (the mirror no longer has what they name) or another release is asked
//! for, lists of our own are fetched into the cache, and the node's are left alone.

use crate::image::{fault, job::Job, manifest::digest_of, tool::Tool};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use yun_drivers::{DriverError, ErrorKind, Result};
use yun_types::{Arch, Digest};

/// A question to apt's lists takes a moment; a download depends on the mirror.
const ASK: Duration = Duration::from_secs(120);
const FETCH: Duration = Duration::from_secs(1800);
const MIRROR: &str = "http://deb.debian.org/debian";
const SECURITY_MIRROR: &str = "http://security.debian.org/debian-security";

/// Fetches packages.
#[derive(Debug)]
pub(super) struct Packages {
    cache: PathBuf,
    /// The release, if it is not the node's own.
    suite: Option<String>,
    /// The release's name, whichever it is.
    pub(super) release: String,
    /// Our own lists are used from now on.
    private: std::sync::atomic::AtomicBool,
}

/// A package that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) file: PathBuf,
    pub(super) version: String,
}

/// What apt would fetch for a package.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Offer {
    file: String,
    sha256: Option<Digest>,
}

impl Packages {
    pub(super) async fn new(cache: PathBuf, suite: Option<String>, job: &Job) -> Result<Self> {
        let own = own_release();
        let release = suite.clone().or_else(|| own.clone()).unwrap_or_else(|| "stable".into());
        let other = own.as_ref() != Some(&release);
        let packages = Self {
            suite: other.then(|| release.clone()),
            cache,
            release,
            private: std::sync::atomic::AtomicBool::new(false),
        };
        for dir in [packages.debs(), packages.cache.join("apt")] {
            tokio::fs::create_dir_all(&dir)
                .await
                .map_err(|e| DriverError::io(format!("make the directory {}", dir.display()), e))?;
        }
        let nothing = packages.nothing_installed();
        tokio::fs::write(&nothing, "").await.map_err(|e| DriverError::io(format!("write {}", nothing.display()), e))?;
        if packages.suite.is_some() {
            packages.refresh(job).await?;
        }
        Ok(packages)
    }

    fn debs(&self) -> PathBuf {
        self.cache.join("debs")
    }

    /// Packages that whole systems were made from: mmdebstrap is handed all of a release's at once.
    pub(super) fn systems(&self) -> PathBuf {
        self.cache.join(format!("systems-{}", self.release))
    }

    fn lists(&self) -> PathBuf {
        self.cache.join("apt").join(&self.release)
    }

    /// An empty list of installed packages. What the node has installed is no business of an image: it may be newer than anything that
    /// its lists offer, and then apt would look for that version and find it nowhere.
    fn nothing_installed(&self) -> PathBuf {
        self.cache.join("apt/status")
    }

    fn is_private(&self) -> bool {
        self.private.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// One of apt's programs, on the node's lists or on ours.
    fn apt(&self, name: &'static str, limit: Duration) -> Tool {
        let tool =
            Tool::new(name, "apt", limit).args(["-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=2"]);
        if !self.is_private() {
            // Some hosts keep no index of their lists, and apt would read all of them each time.
            let index = |kind: &str| {
                format!("Dir::Cache::{kind}={}", self.cache.join("apt").join(format!("{kind}.bin")).display())
            };
            let status = format!("Dir::State::Status={}", self.nothing_installed().display());
            return tool.args(["-o", &index("pkgcache"), "-o", &index("srcpkgcache"), "-o", &status]);
        }
        let lists = self.lists();
        let set = |key: &str, name: &str| format!("{key}={}", lists.join(name).display());
        tool.args(["-o", "Dir::Etc::SourceParts=-", "-o", "Dir::Etc::PreferencesParts=-"])
            .args(["-o", &set("Dir::Etc::SourceList", "sources.list"), "-o", &set("Dir::State::Lists", "lists")])
            .args(["-o", &set("Dir::Cache", "cache"), "-o", &set("Dir::State::Status", "status")])
    }

    /// Fetches lists of our own and uses them from now on.
    async fn refresh(&self, job: &Job) -> Result<()> {
        job.work.report(None, format!("fetching the package lists of Debian {}", self.release));
        let (lists, release) = (self.lists(), &self.release);
        let signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
        let mut sources = format!("deb {signed} {MIRROR} {release} main\n");
        if !matches!(release.as_str(), "sid" | "unstable") {
            sources += &format!(
                "deb {signed} {MIRROR} {release}-updates main\ndeb {signed} {SECURITY_MIRROR} {release}-security main\n"
            );
        }
        let written = async {
            tokio::fs::create_dir_all(lists.join("lists/partial")).await?;
            tokio::fs::create_dir_all(lists.join("cache/archives/partial")).await?;
            tokio::fs::write(lists.join("sources.list"), sources).await?;
            tokio::fs::write(lists.join("status"), "").await
        };
        written.await.map_err(|e| DriverError::io(format!("write {}", lists.display()), e))?;
        self.private.store(true, std::sync::atomic::Ordering::Relaxed);
        self.apt("apt-get", FETCH).args(["--error-on=any", "update"]).run(job).await.map(drop)
    }

    /// Fetches packages, and gives them in the order of their names. What the cache has is not fetched again; lists that are out of date are
    /// refreshed once.
    pub(super) async fn fetch(&self, names: &[String], job: &Job) -> Result<Vec<Package>> {
        match self.try_fetch(names, job).await {
            Err(e)
                if !self.is_private()
                    && matches!(e.reason, "MirrorUnreachable" | "PackageNotFound" | "PackagesOutOfDate") =>
            {
                tracing::info!(error = %e, "the node's package lists do not serve; fetching lists of our own");
                // If that fails too, the first failure is the one that says what is wrong.
                self.refresh(job)
                    .await
                    .map_err(|second| if second.kind == ErrorKind::Cancelled { second } else { e })?;
                self.try_fetch(names, job).await
            }
            fetched => fetched,
        }
    }

    async fn try_fetch(&self, names: &[String], job: &Job) -> Result<Vec<Package>> {
        let printed = self.apt("apt-get", ASK).args(["--print-uris", "download"]).args(names).run(job).await?;
        let offered = offers(&printed);
        let mut offers = Vec::new();
        for name in names {
            let offer = offered.iter().find(|o| o.file.split('_').next() == Some(name)).cloned();
            let missing = || {
                DriverError::unavailable(
                    "PackagesOutOfDate",
                    format!("apt offers no file for the package {name}; run apt-get update"),
                )
            };
            offers.push(offer.ok_or_else(missing)?);
        }
        let dir = self.debs();
        let checked = {
            let (offers, dir) = (offers.clone(), dir.clone());
            job.blocking(move |_| Ok(offers.iter().all(|o| is_whole(&dir, o)))).await?
        };
        if !checked {
            job.work.report(None, format!("fetching {}", named(names)));
            // Into a directory of its own, so that two builds do not write into one file.
            let draft = tempfile::Builder::new()
                .prefix("fetch-")
                .tempdir_in(&self.cache)
                .map_err(|e| DriverError::io("make a download directory", e))?;
            self.apt("apt-get", FETCH).arg("download").args(names).dir(draft.path()).run(job).await?;
            let (offers, dir) = (offers.clone(), dir.clone());
            job.blocking(move |_| move_into(draft.path(), &dir, &offers)).await?;
        }
        let found = |offer: &Offer| Package { file: dir.join(&offer.file), version: version_of(&offer.file) };
        Ok(offers.iter().map(found).collect())
    }

    /// One field of a package's record.
    pub(super) async fn field(&self, name: &str, field: &str, job: &Job) -> Result<Option<String>> {
        let text = self.apt("apt-cache", ASK).args(["--no-all-versions", "show", name]).run(job).await?;
        Ok(text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": ").map(str::to_owned)))
    }

    /// The names of these packages and of all that they need.
    pub(super) async fn closure(&self, names: &[String], job: &Job) -> Result<Vec<String>> {
        let without = ["recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"]
            .map(|kind| format!("--no-{kind}"));
        let text = self.apt("apt-cache", ASK).args(["depends", "--recurse"]).args(without).args(names).run(job).await?;
        let lines: BTreeSet<&str> = text.lines().filter(|l| !l.starts_with([' ', '<', '|'])).collect();
        Ok(lines.into_iter().filter(|l| !l.is_empty() && !l.contains(':')).map(str::to_owned).collect())
    }

    /// Unpacks packages into a directory, in order. Nothing of them is run.
    pub(super) async fn unpack(&self, packages: &[Package], into: &Path, job: &Job) -> Result<()> {
        for package in packages {
            Tool::new("dpkg-deb", "dpkg", FETCH).arg("-x").arg(&package.file).arg(into).run(job).await?;
        }
        Ok(())
    }

    /// Removes the packages that were used longest ago until the cache is within its limit.
    pub(super) async fn trim(&self, job: &Job) {
        let (dirs, most) = ([self.debs(), self.systems()], job.limits.max_cache.0);
        let trimmed =
            tokio::task::spawn_blocking(move || dirs.iter().filter(|d| d.exists()).try_for_each(|d| trim(d, most / 2)))
                .await;
        if let Ok(Err(e)) = trimmed {
            tracing::warn!(error = %e, "cannot trim the package cache");
        }
    }
}

/// The name of the node's own Debian release (os-release(5)).
fn own_release() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let debian = text.lines().any(|l| matches!(l.trim_matches('"'), "ID=debian" | "ID=\"debian"));
    let name = text.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME="))?;
    debian.then(|| name.trim_matches('"').to_owned())
}

/// What `apt-get --print-uris` prints: `'URL' FILE SIZE SHA256:HEX`.
fn offers(text: &str) -> Vec<Offer> {
    let parse = |line: &str| {
        let mut words = line.strip_prefix('\'')?.split_once("' ")?.1.split(' ');
        let file = words.next().filter(|f| f.ends_with(".deb") && !f.contains('/'))?;
        let sha256 = words.nth(1).and_then(|w| w.strip_prefix("SHA256:")?.parse().ok());
        Some(Offer { file: file.to_owned(), sha256 })
    };
    text.lines().filter_map(parse).collect()
}

/// True if the cache has what apt would fetch.
fn is_whole(dir: &Path, offer: &Offer) -> bool {
    let path = dir.join(&offer.file);
    let Some(expected) = &offer.sha256 else { return false };
    let whole = fs::read(&path).is_ok_and(|bytes| digest_of(&bytes) == *expected);
    if whole && let Ok(file) = fs::File::open(&path) {
        // Marks it as used, for the trimming.
        let _ = file.set_modified(SystemTime::now());
    }
    whole
}

fn move_into(from: &Path, to: &Path, offers: &[Offer]) -> Result<()> {
    for offer in offers {
        if !is_whole(from, offer) && offer.sha256.is_some() {
            return Err(fault::damaged(format!(
                "the package {} is not what the package lists say; run apt-get update and try again",
                offer.file
            )));
        }
        fs::rename(from.join(&offer.file), to.join(&offer.file))
            .map_err(|e| DriverError::io(format!("keep the package {}", offer.file), e))?;
    }
    Ok(())
}

/// The version in a package's file name, `NAME_VERSION_ARCH.deb`; `%3a` is the colon of an epoch.
fn version_of(file: &str) -> String {
    file.split('_').nth(1).unwrap_or_default().replace("%3a", ":")
}

fn named(names: &[String]) -> String {
    match names {
        [first, second, third, _, rest @ ..] => {
            format!("{first}, {second}, {third} and {} more packages", rest.len() + 1)
        }
        few => few.join(", "),
    }
}

fn trim(dir: &Path, most: u64) -> std::io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)?.flatten() {
        let meta = entry.metadata()?;
        files.push((meta.modified()?, meta.len(), entry.path()));
    }
    files.sort();
    let mut total: u64 = files.iter().map(|f| f.1).sum();
    for (_, size, path) in files {
        if total <= most {
            break;
        }
        fs::remove_file(path)?;
        total -= size;
    }
    Ok(())
}

/// The name that Debian gives to this host's architecture.
pub(super) fn debian_arch() -> String {
    // The three that are known have the same names in Debian and OCI.
    Arch::host().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_read() {
        let hash = "e7d02b943971edcb8790e256c02cfab3bca6c3d37c1bf25392a57c71300615ee";
        let text = format!(
            "'http://mirror/pool/b/busybox_1%3a1.35_amd64.deb' busybox-static_1%3a1.35.0-4_amd64.deb 928 SHA256:{hash}\nrubbish\n"
        );
        let offers = offers(&text);
        assert_eq!(offers, [Offer { file: "busybox-static_1%3a1.35.0-4_amd64.deb".into(), sha256: hash.parse().ok() }]);
        assert_eq!(version_of(&offers[0].file), "1:1.35.0-4");
    }

    #[test]
    fn the_cache_keeps_what_was_used_last() {
        let dir = tempfile::tempdir().unwrap();
        for (age, name) in [(30, "old"), (20, "middle"), (10, "new")] {
            fs::write(dir.path().join(name), [0; 100]).unwrap();
            let file = fs::File::open(dir.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        trim(dir.path(), 200).unwrap();
        assert!(
            !dir.path().join("old").exists() && dir.path().join("middle").exists() && dir.path().join("new").exists()
        );
    }
}
