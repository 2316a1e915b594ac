//! What makes chunks unreadable for others, and damage visible: XChaCha20-Poly1305 under a random key, which a password locks (Argon2id,
//! RFC 9106). Without a password chunks are only compressed; their names, which are hashes of their content, show damage all the same.

use crate::error::{BackupError, Result};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce, aead::Aead};
use serde::{Deserialize, Serialize};

const NONCE: usize = 24;
/// Argon2id as RFC 9106 and OWASP have it for interactive use: 19 MiB, twice, in one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// The largest chunk, before compression: what a decompression may make.
pub(crate) const LARGEST: u32 = 4 << 20;
const LEVEL: i32 = 3;

/// The keys of a repository, as they are kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Locked {
    /// Makes the same password another key in each repository, hexadecimal.
    salt: String,
    memory_kib: u32,
    passes: u32,
    /// The keys, sealed by the password's key, hexadecimal.
    keys: String,
}

/// Opens and closes chunks.
#[derive(Clone)]
pub(crate) enum Seal {
    /// Compressed, and that is all.
    Plain,
    /// Compressed and sealed.
    Sealed {
        cipher: Box<XChaCha20Poly1305>,
        /// Makes names that tell nobody what is in a chunk.
        naming: [u8; 32],
    },
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Sealed { .. } => "Sealed",
        })
    }
}

impl Seal {
    /// New keys, locked by a password.
    pub(crate) fn new(password: &str) -> Result<(Self, Locked)> {
        let (salt, keys): ([u8; 16], [u8; 32]) = (rand::random(), rand::random());
        let naming: [u8; 32] = rand::random();
        let both = [keys, naming].concat();
        let sealed = close(&password_cipher(password, &salt, MEMORY_KIB, PASSES)?, &both)?;
        let locked =
            Locked { salt: hex::encode(salt), memory_kib: MEMORY_KIB, passes: PASSES, keys: hex::encode(sealed) };
        Ok((Self::of(&both)?, locked))
    }

    /// The keys that a password opens; nothing if it is another.
    pub(crate) fn unlock(locked: &Locked, password: &str) -> Result<Option<Self>> {
        // More than a repository of ours asks for would be a way to make us run out of memory.
        let (memory, passes) = (locked.memory_kib.min(256 * 1024), locked.passes.min(16));
        let (Ok(salt), Ok(sealed)) = (hex::decode(&locked.salt), hex::decode(&locked.keys)) else { return Ok(None) };
        let cipher = password_cipher(password, &salt, memory, passes)?;
        open(&cipher, &sealed).map(|keys| Self::of(&keys)).transpose()
    }

    fn of(both: &[u8]) -> Result<Self> {
        let (Some(key), Some(naming)) = (both.get(..32), both.get(32..64).and_then(|n| n.try_into().ok())) else {
            return Err(BackupError::CutOff("the keys are too short".into()));
        };
        Ok(Self::Sealed { cipher: Box::new(XChaCha20Poly1305::new(key.into())), naming })
    }

    /// The name of a content.
    pub(crate) fn name(&self, content: &[u8]) -> blake3::Hash {
        match self {
            Self::Plain => blake3::hash(content),
            Self::Sealed { naming, .. } => blake3::keyed_hash(naming, content),
        }
    }

    /// Compresses and seals.
    pub(crate) fn close(&self, content: &[u8]) -> Result<Vec<u8>> {
        let packed = zstd::bulk::compress(content, LEVEL)
            .map_err(|e| BackupError::CutOff(format!("compression failed: {e}")))?;
        match self {
            Self::Plain => Ok(packed),
            Self::Sealed { cipher, .. } => close(cipher, &packed),
        }
    }

    /// Opens and decompresses; says why not.
    pub(crate) fn open(&self, stored: &[u8], largest: usize) -> Result<Vec<u8>, String> {
        let packed = match self {
            Self::Plain => stored.to_vec(),
            Self::Sealed { cipher, .. } => open(cipher, stored).ok_or("it was changed, or cut short")?,
        };
        zstd::bulk::decompress(&packed, largest).map_err(|e| format!("it cannot be decompressed: {e}"))
    }
}

fn password_cipher(password: &str, salt: &[u8], memory: u32, passes: u32) -> Result<XChaCha20Poly1305> {
    let failed = |e: argon2::Error| BackupError::CutOff(format!("the password cannot be used: {e}"));
    let params = argon2::Params::new(memory, passes, 1, Some(32)).map_err(failed)?;
    let mut key = [0; 32];
    argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
        .hash_password_into(password.as_bytes(), salt, &mut key)
        .map_err(failed)?;
    Ok(XChaCha20Poly1305::new((&key).into()))
}

fn close(cipher: &XChaCha20Poly1305, plain: &[u8]) -> Result<Vec<u8>> {
    let nonce: [u8; NONCE] = rand::random();
    let sealed = cipher
        .encrypt(XNonce::from_slice(&nonce), plain)
        .map_err(|_| BackupError::CutOff("a chunk could not be sealed".into()))?;
    Ok([&nonce[..], &sealed].concat())
}

fn open(cipher: &XChaCha20Poly1305, sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE)?;
    cipher.decrypt(XNonce::from_slice(nonce), sealed).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_opens_and_any_change_shows() {
        let (seal, locked) = Seal::new("right").unwrap();
        assert!(Seal::unlock(&locked, "wrong").unwrap().is_none());
        let again = Seal::unlock(&locked, "right").unwrap().unwrap();
        let content = b"state of the cloud".repeat(100);
        let stored = seal.close(&content).unwrap();
        assert_eq!(again.open(&stored, 1 << 20).unwrap(), content);
        assert_eq!(again.name(&content), seal.name(&content));
        assert_ne!(Seal::Plain.name(&content), seal.name(&content));
        for at in [0, NONCE, stored.len() - 1] {
            let mut changed = stored.clone();
            changed[at] ^= 1;
            assert!(again.open(&changed, 1 << 20).is_err(), "{at}");
        }
        assert!(again.open(&stored[..10], 1 << 20).is_err());
        assert!(Seal::Plain.open(&zstd::bulk::compress(&vec![0; 9 << 20], 3).unwrap(), 4 << 20).is_err(), "a bomb");
    }
}
