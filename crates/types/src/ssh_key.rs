//! SSH keys of a project: who may enter its instances through the SSH gateway. Only public halves are ever here.

use crate::{Invalid, Metadata, Role, string_serde};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{fmt, str::FromStr};

/// The longest line that is looked at: an RSA key of 16384 bits with a long comment fits.
const LONGEST: usize = 8192;
/// The fewest bits of an RSA key that still count as safe (NIST SP 800-57).
const LEAST_RSA: usize = 2048;

/// A public key, as in one line of `~/.ssh/id_ed25519.pub`: its kind, its bytes (RFC 4253 section 6.6) and a comment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    kind: Box<str>,
    blob: Box<[u8]>,
    comment: Box<str>,
}

impl PublicKey {
    /// As in `ssh-ed25519`.
    pub fn kind(&self) -> &str {
        &self.kind
    }
    /// What follows the key: who or what it belongs to, in the words of whoever made it.
    pub fn comment(&self) -> &str {
        &self.comment
    }
    /// `SHA256:` and the hash of its bytes, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&self.blob)))
    }
    /// Whether both are the same key, whatever their comments say.
    pub fn is_same(&self, other: &Self) -> bool {
        self.blob == other.blob
    }
}

impl FromStr for PublicKey {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        const RIGHT: &str = "give one line as in ~/.ssh/id_ed25519.pub: ssh-ed25519 AAAA… comment";
        let text = text.trim();
        // Nothing of what was given may be repeated before it is known that it is no secret.
        if text.contains("PRIVATE KEY") || text.contains("PuTTY-User-Key-File") {
            return Err(Invalid::new(
                "this is a private key: it must never leave your machine, and it was not kept; give the public half, as in ~/.ssh/id_ed25519.pub",
            ));
        }
        let wrong = |why: String| Err(Invalid(format!("the SSH key {why}: {RIGHT}")));
        if text.is_empty() {
            return wrong("is empty".into());
        }
        if text.len() > LONGEST || text.chars().any(|c| c.is_control() && c != '\t') {
            return wrong("is no single line of text".into());
        }
        let mut words = text.splitn(3, [' ', '\t']).filter(|word| !word.is_empty());
        let (kind, body) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if kind.contains("-cert-v01@") {
            return wrong("is a certificate, and certificates are not checked here".into());
        }
        if kind == "ssh-dss" {
            return wrong("is of the kind ssh-dss, which is broken (make another with ssh-keygen -t ed25519)".into());
        }
        if !KINDS.contains(&kind) {
            return wrong("has a kind that is unknown here, or options before it, which are not supported".into());
        }
        let Ok(blob) = STANDARD.decode(body) else { return wrong("is damaged".into()) };
        if let Err(why) = check(kind, &blob) {
            return wrong(why);
        }
        let comment = words.next().unwrap_or_default().trim();
        Ok(Self { kind: kind.into(), blob: blob.into(), comment: comment.into() })
    }
}

/// The kinds that are let in.
const KINDS: [&str; 7] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// Whether the bytes are a key of the kind (RFC 4253, RFC 5656, RFC 8709, PROTOCOL.u2f of OpenSSH).
fn check(kind: &str, blob: &[u8]) -> Result<(), String> {
    let damaged = || "is damaged".to_owned();
    let mut rest = blob;
    let mut next = || field(&mut rest).ok_or_else(damaged);
    if next()? != kind.as_bytes() {
        return Err(damaged());
    }
    let whole = match kind {
        "ssh-ed25519" => next()?.len() == 32,
        "sk-ssh-ed25519@openssh.com" => next()?.len() == 32 && !next()?.is_empty(),
        "ssh-rsa" => {
            let (exponent, modulus) = (next()?, next()?);
            let bits = bits(modulus);
            if bits < LEAST_RSA {
                return Err(format!(
                    "is an RSA key of {bits} bits, and {LEAST_RSA} is the least (better: ssh-keygen -t ed25519)"
                ));
            }
            !exponent.is_empty()
        }
        curve => {
            let name = curve.trim_start_matches("sk-").trim_start_matches("ecdsa-sha2-");
            let name = name.trim_end_matches("@openssh.com");
            let point = match name {
                "nistp256" => 65,
                "nistp384" => 97,
                _ => 133,
            };
            let same = next()? == name.as_bytes();
            let body = next()?;
            let full = same && body.len() == point && body[0] == 4;
            full && (!kind.starts_with("sk-") || !next()?.is_empty())
        }
    };
    if whole && rest.is_empty() { Ok(()) } else { Err(damaged()) }
}

/// The next `string` of RFC 4251 section 5.
fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (field, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *rest = after;
    Some(field)
}

/// How many bits a number has, without zeros in front.
fn bits(number: &[u8]) -> usize {
    let number = &number[number.iter().take_while(|byte| **byte == 0).count()..];
    number.first().map_or(0, |first| number.len() * 8 - usize::try_from(first.leading_zeros()).unwrap_or(0))
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, STANDARD.encode(&self.blob))?;
        if self.comment.is_empty() { Ok(()) } else { write!(f, " {}", self.comment) }
    }
}

string_serde!(PublicKey, "PublicKey", "One line as in ~/.ssh/id_ed25519.pub: the kind, the key in base64, a comment.");

/// What is wanted of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SshKeySpec {
    /// The public half.
    pub public_key: PublicKey,
    /// `editor` enters instances; `viewer` proves who somebody is and enters nothing.
    #[serde(default = "editor")]
    pub role: Role,
}

fn editor() -> Role {
    Role::Editor
}

/// What follows from the key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct SshKeyStatus {
    /// `SHA256:` and the hash of the key, as `ssh-keygen -l` prints it.
    #[serde(default)]
    pub fingerprint: String,
}

/// A key that opens a project's instances to SSH.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SshKey {
    /// Identity and history.
    pub metadata: Metadata,
    /// Wanted.
    pub spec: SshKeySpec,
    /// What follows from it.
    #[serde(default)]
    pub status: SshKeyStatus,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `ssh-keygen -t ed25519 -C me@here`; its private half is nowhere.
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAswVXqfxOkOM1h9osfsETZbgKXK7xQ5XoOozfIXPGGG me@here";

    fn made(kind: &str, fields: &[&[u8]]) -> String {
        let mut blob = Vec::new();
        for field in [&[kind.as_bytes()], fields].concat() {
            blob.extend(u32::try_from(field.len()).unwrap().to_be_bytes());
            blob.extend(field);
        }
        format!("{kind} {}", STANDARD.encode(blob))
    }

    #[test]
    fn a_key_is_read_and_written() {
        let key: PublicKey = KEY.parse().unwrap();
        assert_eq!((key.to_string().as_str(), key.kind(), key.comment()), (KEY, "ssh-ed25519", "me@here"));
        assert!(key.fingerprint().starts_with("SHA256:") && key.fingerprint().len() == 50, "{}", key.fingerprint());
        let other: PublicKey = format!("  {} \n", KEY.replace("me@here", "two words")).parse().unwrap();
        assert!(other.is_same(&key) && other != key && other.comment() == "two words");
        for (kind, fields) in [
            ("ecdsa-sha2-nistp256", [&b"nistp256"[..], &[4; 65]]),
            ("ecdsa-sha2-nistp521", [&b"nistp521"[..], &[4; 133]]),
            ("ssh-rsa", [&b"\x01\x00\x01"[..], &[0xff; 256]]),
            ("sk-ssh-ed25519@openssh.com", [&[7; 32][..], b"ssh:"]),
        ] {
            assert_eq!(made(kind, &fields).parse::<PublicKey>().unwrap().kind(), kind);
        }
    }

    #[test]
    fn what_is_no_public_key_is_refused_and_not_repeated() {
        let ed25519 = |bytes: &[u8]| made("ssh-ed25519", &[bytes]);
        let cut = KEY.replace(" me@here", "").replace(&KEY[70..75], "");
        for (text, why) in [
            ("", "is empty"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----", "is a private key"),
            ("PuTTY-User-Key-File-3: ssh-ed25519 c2VjcmV0", "is a private key"),
            ("from=\"10.0.0.1\" ssh-ed25519 AAAA", "options"),
            ("c2VjcmV0", "unknown"),
            ("ssh-dss AAAA", "broken"),
            ("ssh-ed25519-cert-v01@openssh.com AAAA", "certificate"),
            ("ssh-ed25519", "damaged"),
            ("ssh-ed25519 c2VjcmV0", "damaged"),
            (&cut, "damaged"),
            (&ed25519(&[1; 31]), "damaged"),
            (&format!("{KEY}\n{KEY}"), "single line"),
            (&made("ssh-rsa", &[b"\x01\x00\x01", &[0xff; 128]]), "1024 bits"),
            (&made("ecdsa-sha2-nistp256", &[b"nistp384", &[4; 65]]), "damaged"),
        ] {
            let refused = text.parse::<PublicKey>().unwrap_err().0;
            assert!(refused.contains(why), "{text}: {refused}");
            assert!(!refused.contains("c2VjcmV0"), "{refused}");
        }
    }
}
