//! Where repositories lie: directories and S3 buckets, behind one interface, with errors that say what to do.

use crate::error::{BackupError, Result};
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt as _, RetryConfig, aws::AmazonS3Builder, local::LocalFileSystem,
    path::Path, prefix::PrefixStore,
};
use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(60);
/// How long a request is tried again.
const RETRIES: Duration = Duration::from_secs(30);

/// Where a repository lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A directory.
    Directory(PathBuf),
    /// A bucket of an S3 server; the server and the keys come from `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`.
    S3 {
        /// The bucket.
        bucket: String,
        /// What the names of its objects begin with; may be empty.
        prefix: String,
    },
}

impl FromStr for Target {
    type Err = BackupError;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || BackupError::BadTarget(text.chars().take(200).collect());
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let named = bucket.len() >= 3
                && bucket.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b));
            let prefix = prefix.trim_matches('/').to_owned();
            return if named && Path::parse(&prefix).is_ok() {
                Ok(Self::S3 { bucket: bucket.into(), prefix })
            } else {
                Err(bad())
            };
        }
        if text.is_empty() || text.contains("://") || text.contains('\0') {
            return Err(bad());
        }
        Ok(Self::Directory(PathBuf::from(text)))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// The objects of a target.
#[derive(Debug, Clone)]
pub(crate) struct Objects {
    pub(crate) target: Target,
    pub(crate) store: Arc<dyn ObjectStore>,
}

impl Target {
    /// Opens it; makes the directory if it should be made.
    pub(crate) fn open(&self, make: bool) -> Result<Objects> {
        let failed = |why: String, hint| BackupError::Target { operation: "open", target: self.to_string(), why, hint };
        let store: Arc<dyn ObjectStore> = match self {
            Self::Directory(path) => {
                if make {
                    std::fs::create_dir_all(path)
                        .map_err(|e| failed(e.to_string(), "name a directory that can be made and written to"))?;
                } else if !path.is_dir() {
                    return Err(BackupError::NoRepository(self.to_string()));
                }
                let local = LocalFileSystem::new_with_prefix(path)
                    .map_err(|e| failed(e.to_string(), "name a directory that can be read"))?;
                Arc::new(local.with_fsync(true).with_automatic_cleanup(false))
            }
            Self::S3 { bucket, prefix } => {
                let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
                    .iter()
                    .find_map(|name| std::env::var(name).ok())
                    .unwrap_or_default();
                let loopback =
                    ["http://127.", "http://localhost", "http://[::1]"].iter().any(|at| endpoint.starts_with(at));
                let mut options =
                    ClientOptions::new().with_timeout(REQUEST).with_connect_timeout(Duration::from_secs(10));
                if loopback {
                    options = options.with_allow_http(true);
                }
                let retry = RetryConfig { max_retries: 5, retry_timeout: RETRIES, ..RetryConfig::default() };
                let mut builder =
                    AmazonS3Builder::from_env().with_bucket_name(bucket).with_client_options(options).with_retry(retry);
                if !endpoint.is_empty() {
                    builder = builder.with_endpoint(endpoint);
                }
                let s3 = builder.build().map_err(|e| {
                    failed(words(&e), "set AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION")
                })?;
                if prefix.is_empty() { Arc::new(s3) } else { Arc::new(PrefixStore::new(s3, prefix.as_str())) }
            }
        };
        Ok(Objects { target: self.clone(), store })
    }
}

impl Objects {
    /// An object; nothing if it is not there.
    pub(crate) async fn get(&self, at: &Path) -> Result<Option<bytes::Bytes>> {
        let read = async { self.store.get(at).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => {
                // An S3 server says the same of a bucket that does not exist.
                Ok(None)
            }
            Err(e) => Err(self.failed("read", &e)),
        }
    }

    /// Writes an object, all of it or nothing.
    pub(crate) async fn put(&self, at: &Path, bytes: impl Into<bytes::Bytes>) -> Result<()> {
        let bytes: bytes::Bytes = bytes.into();
        self.store.put(at, bytes.into()).await.map(drop).map_err(|e| self.failed("write to", &e))
    }

    /// Removes an object. Fine if it is not there.
    pub(crate) async fn delete(&self, at: &Path) -> Result<()> {
        match self.store.delete(at).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.failed("write to", &e)),
        }
    }

    /// The objects below a name, with their sizes.
    pub(crate) async fn list(&self, below: &str) -> Result<Vec<(Path, u64)>> {
        use futures::TryStreamExt as _;
        let listed =
            self.store.list(Some(&Path::from(below))).map_ok(|meta| (meta.location, meta.size)).try_collect().await;
        match listed {
            Ok(listed) => Ok(listed),
            Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
            Err(e) => Err(self.failed("list", &e)),
        }
    }

    pub(crate) fn failed(&self, operation: &'static str, error: &object_store::Error) -> BackupError {
        let why = words(error);
        let hint = match &self.target {
            Target::Directory(_) if why.contains("No space left") => {
                "free some space there, or name another target; what is stored already is kept"
            }
            Target::Directory(_) => "check that it is there and that root may write to it",
            Target::S3 { .. } if why.contains("NoSuchBucket") => "make the bucket first; yun makes none",
            Target::S3 { .. } => {
                "check AWS_ENDPOINT_URL, the keys, and that the server runs; what is stored already is kept"
            }
        };
        BackupError::Target { operation, target: self.target.to_string(), why, hint }
    }
}

/// The deepest cause: what the system or the server said.
fn words(error: &object_store::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(next) = deepest.source() {
        deepest = next;
    }
    let (outer, inner) = (error.to_string(), deepest.to_string());
    // S3 servers answer with a document whose code matters.
    if let Some((_, rest)) = outer.split_once("<Code>")
        && let Some((code, _)) = rest.split_once("</Code>")
    {
        return format!("the server says {code}");
    }
    inner.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_directories_and_buckets() {
        assert_eq!("/srv/backup".parse::<Target>().unwrap(), Target::Directory("/srv/backup".into()));
        assert_eq!(
            "s3://bucket/a/b/".parse::<Target>().unwrap(),
            Target::S3 { bucket: "bucket".into(), prefix: "a/b".into() }
        );
        assert_eq!("s3://bucket".parse::<Target>().unwrap().to_string(), "s3://bucket");
        for bad in ["", "ftp://x/y", "s3://", "s3://A/b", "s3://b"] {
            assert!(bad.parse::<Target>().unwrap_err().to_string().contains("s3://bucket/prefix"), "{bad}");
        }
    }
}
