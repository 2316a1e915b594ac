//! Secrets of tokens: how they are made, and whose a secret is.
//!
//! A secret has 256 random bits, so that its SHA-256 can neither be guessed nor turned back, and the hash may be looked up like any key.
//! The index follows the cache of tokens: a token that was revoked stops working with the cache's next revision.

use crate::rows::TokenRow;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::FutureExt;
use rand::TryRngCore;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};
use subtle::ConstantTimeEq;
use yun_store::{Cache, Changes, Row};

/// What every secret begins with, so that scanners of source code find leaked ones.
const PREFIX: &str = "yun_";

/// A new secret.
pub fn new_secret() -> Result<String, rand::rand_core::OsError> {
    let mut bytes = [0; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes)?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// What is kept of a secret: its SHA-256, in hexadecimal.
pub fn hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret.as_bytes()))
}

/// Tokens by the hashes of their secrets.
pub struct Keys {
    cache: Cache<TokenRow>,
    index: Mutex<Index>,
}

struct Index {
    changes: Changes<TokenRow>,
    by_hash: HashMap<String, Arc<Row<TokenRow>>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Keys {
    /// An index over the tokens.
    pub fn new(cache: Cache<TokenRow>) -> Self {
        let index = Mutex::new(Index::build(&cache));
        Self { cache, index }
    }

    /// The token with this secret.
    pub fn holder(&self, secret: &str) -> Option<Arc<Row<TokenRow>>> {
        if !secret.starts_with(PREFIX) {
            return None;
        }
        let hash = hash(secret);
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        index.catch_up(&self.cache);
        let row = index.by_hash.get(&hash)?;
        // The lookup compares hashes, whose timing tells nothing about the secret; this keeps it so if the index changes.
        bool::from(row.value.0.secret_sha256.as_bytes().ct_eq(hash.as_bytes())).then(|| Arc::clone(row))
    }
}

impl Index {
    fn build(cache: &Cache<TokenRow>) -> Self {
        // Subscribed before listing: what changes in between is seen twice, never missed.
        let changes = cache.subscribe();
        let by_hash = cache.all(&[]).into_iter().map(|row| (row.value.0.secret_sha256.clone(), row)).collect();
        Self { changes, by_hash }
    }

    fn catch_up(&mut self, cache: &Cache<TokenRow>) {
        while let Some(next) = self.changes.next().now_or_never() {
            match next {
                Some(Ok(change)) => {
                    if let Some(old) = &change.old {
                        self.by_hash.remove(&old.value.0.secret_sha256);
                    }
                    if let Some(new) = &change.new {
                        self.by_hash.insert(new.value.0.secret_sha256.clone(), Arc::clone(new));
                    }
                }
                // More changed than is remembered.
                Some(Err(_)) => {
                    *self = Self::build(cache);
                    return;
                }
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_differ_and_are_long() {
        let (a, b) = (new_secret().unwrap(), new_secret().unwrap());
        assert!(a != b && a.starts_with("yun_") && a.len() == 47, "{a}");
        assert_ne!(hash(&a), hash(&b));
    }
}
