//! One writer at a time. The lock says who writes and is renewed while that one lives; a lock whose holder is provably gone, or that nobody
//! renewed for long, is taken over.

use crate::{
    error::{BackupError, Result},
    target::Objects,
};
use chrono::{DateTime, TimeDelta, Utc};
use object_store::{PutMode, PutOptions, path::Path};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use yun_engine::clock::{Clock as _, SystemClock};

/// How often the lock is renewed.
const RENEWED: Duration = Duration::from_secs(60);
/// A lock that is older belongs to nobody.
const STALE: TimeDelta = TimeDelta::minutes(15);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    host: String,
    pid: u32,
    what: String,
    at: DateTime<Utc>,
    /// Tells two holders apart.
    nonce: u64,
}

/// The right to write.
#[derive(Debug)]
pub struct Lock {
    objects: Objects,
    renewing: tokio::task::JoinHandle<()>,
}

fn path() -> Path {
    Path::from("lock")
}

impl Lock {
    /// Takes the lock, or says who has it.
    pub(crate) async fn take(objects: &Objects, what: &str) -> Result<Self> {
        let mine =
            Holder { host: host(), pid: std::process::id(), what: what.into(), at: now(), nonce: rand::random() };
        for _ in 0..3 {
            let bytes = serde_json::to_vec(&mine).unwrap_or_default();
            match objects.store.put_opts(&path(), bytes.into(), PutOptions::from(PutMode::Create)).await {
                Ok(_) => return Ok(Self { objects: objects.clone(), renewing: renew(objects.clone(), mine) }),
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {}
                Err(e) => return Err(objects.failed("write to", &e)),
            }
            let Some(bytes) = objects.get(&path()).await? else { continue };
            if let Ok(holder) = serde_json::from_slice::<Holder>(&bytes)
                && !holder.is_gone()
            {
                return Err(BackupError::Locked {
                    target: objects.target.to_string(),
                    who: format!("pid {} on host {} ({})", holder.pid, holder.host, holder.what),
                    since: holder.at.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
                    object: format!("{}/lock", objects.target),
                });
            }
            tracing::warn!(target_of = %objects.target, "taking over the lock of a backup whose process is gone");
            objects.delete(&path()).await?;
        }
        Err(BackupError::CutOff("others were always faster with the lock".into()))
    }

    /// Lets go of it.
    pub async fn release(self) -> Result<()> {
        self.renewing.abort();
        self.objects.delete(&path()).await
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

impl Holder {
    fn is_gone(&self) -> bool {
        let dead = self.host == host() && !std::path::Path::new("/proc").join(self.pid.to_string()).exists();
        // A process never meets a lock of its own that it did not lose.
        dead || self.pid == std::process::id() && self.host == host() || now() - self.at > STALE
    }
}

#[allow(clippy::disallowed_methods, reason = "the one task of this crate: it ends with the lock that owns it")]
fn renew(objects: Objects, mut mine: Holder) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(RENEWED).await;
            mine.at = now();
            if let Err(error) = objects.put(&path(), serde_json::to_vec(&mine).unwrap_or_default()).await {
                tracing::warn!(%error, "cannot renew the lock of the backup repository");
            }
        }
    })
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Locks of other machines are told by the wall clock.
fn now() -> DateTime<Utc> {
    SystemClock::default().now()
}
