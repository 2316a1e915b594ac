//! Talking to one repository of one registry: how to reach it, being let in, and what its refusals mean. Keeps credentials in memory only.

use super::challenge::Challenge;
use crate::image::{fault, job::Job};
use bytes::Bytes as Chunk;
use futures::StreamExt;
use reqwest::{
    Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use yun_drivers::{DriverError, ErrorKind, Result};
use yun_types::{Bytes, Digest, Reference, RegistryPull};

/// The most that is read of a refusal.
const LONGEST_REFUSAL: u64 = 64 << 10;
/// The most that an answer of the token service may take.
const LONGEST_TOKEN: u64 = 256 << 10;
/// How many tags a refusal names.
const NAMED_TAGS: usize = 8;

/// One repository.
#[derive(Debug)]
pub(super) struct Registry {
    http: reqwest::Client,
    pull: RegistryPull,
    /// `https://host/v2/`.
    base: Url,
    /// The header that lets us in, once we have it.
    entry: Mutex<Option<HeaderValue>>,
    /// How long it may say nothing.
    stall: Duration,
}

impl Registry {
    /// Finds out how the registry is reached: by TLS, or by plain HTTP where that is allowed and nothing else answers.
    pub(super) async fn open(pull: &RegistryPull, job: &Job) -> Result<Self> {
        // Some other part of the program may have chosen a provider before: then that one is used.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let stall = job.limits.stall;
        let http = reqwest::Client::builder()
            .connect_timeout(stall)
            .read_timeout(stall)
            .user_agent(concat!("yun/", env!("CARGO_PKG_VERSION")))
            // The registry of the node's own machine is not behind a proxy.
            .tls_danger_accept_invalid_certs(pull.insecure)
            .redirect(reqwest::redirect::Policy::custom(downhill))
            .build()
            .map_err(|e| DriverError::unavailable("DownloadFailed", format!("cannot set up TLS: {e}")).with(e))?;
        let plain = pull.insecure || pull.reference.is_loopback();
        let mut registry =
            Self { http, pull: pull.clone(), base: base("https", &pull.reference)?, entry: Mutex::default(), stall };
        match registry.ask(registry.base.clone(), HeaderMap::new(), job).await {
            Ok(_) => Ok(registry),
            Err(secure) if plain && secure.reason == "RegistryUnreachable" => {
                registry.base = base("http", &pull.reference)?;
                registry.ask(registry.base.clone(), HeaderMap::new(), job).await.map(drop)?;
                Ok(registry)
            }
            Err(e) => Err(e),
        }
    }

    pub(super) fn reference(&self) -> &Reference {
        &self.pull.reference
    }

    /// How it is called in messages.
    pub(super) fn name(&self) -> String {
        format!("registry {}", self.reference().registry())
    }

    /// A manifest, and the hash that the registry says it has.
    pub(super) async fn manifest(
        &self,
        version: &str,
        accept: &'static str,
        most: u64,
        job: &Job,
    ) -> Result<(Vec<u8>, Option<Digest>)> {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
        let answer = self.get(&format!("manifests/{version}"), &headers, job).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Err(self.not_there(answer, version, job).await);
        }
        let answer = self.successful(answer, job).await?;
        let said = answer.headers().get("docker-content-digest").and_then(|d| d.to_str().ok()?.parse().ok());
        Ok((self.whole(answer, most, "a manifest", job).await?, said))
    }

    /// A blob that is small enough for the memory.
    pub(super) async fn small_blob(&self, digest: &Digest, most: u64, job: &Job) -> Result<Vec<u8>> {
        let answer = self.get(&format!("blobs/{digest}"), &HeaderMap::new(), job).await?;
        let answer = self.successful(answer, job).await?;
        self.whole(answer, most, "a config", job).await
    }

    /// The bytes of a blob from an offset on, and whether they begin there: not every registry can do that.
    pub(super) async fn blob(&self, digest: &Digest, from: u64, job: &Job) -> Result<(Response, bool)> {
        let mut headers = HeaderMap::new();
        if from > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={from}-"))
        {
            headers.insert(RANGE, range);
        }
        let answer = self.get(&format!("blobs/{digest}"), &headers, job).await?;
        let answer = self.successful(answer, job).await?;
        let begins = format!("bytes {from}-");
        let partial = answer.status() == StatusCode::PARTIAL_CONTENT
            && answer
                .headers()
                .get(reqwest::header::CONTENT_RANGE)
                .and_then(|range| range.to_str().ok())
                .is_some_and(|range| range.starts_with(&begins));
        Ok((answer, partial))
    }

    /// Asks below the repository; is let in on the way if it has to be.
    async fn get(&self, path: &str, headers: &HeaderMap, job: &Job) -> Result<Response> {
        let url = self
            .base
            .join(&format!("{}/{path}", self.reference().repository()))
            .map_err(|e| DriverError::bad_request("BadReference", format!("cannot pull {}: {e}", self.reference())))?;
        let asking = |entry: Option<HeaderValue>| {
            let mut headers = headers.clone();
            headers.extend(entry.map(|entry| (AUTHORIZATION, entry)));
            self.ask(url.clone(), headers, job)
        };
        let held = self.entry.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let answer = asking(held).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let asked = answer.headers().get_all(WWW_AUTHENTICATE);
        let Some(challenge) = Challenge::of(asked.iter().filter_map(|header| header.to_str().ok())) else {
            return Err(self.shut_out(words(answer, self.stall, job).await));
        };
        let entry = self.enter(challenge, job).await?;
        *self.entry.lock().unwrap_or_else(PoisonError::into_inner) = Some(entry.clone());
        let answer = asking(Some(entry)).await?;
        match answer.status() {
            StatusCode::UNAUTHORIZED => Err(self.shut_out(words(answer, self.stall, job).await)),
            _ => Ok(answer),
        }
    }

    /// Gets what opens the door.
    async fn enter(&self, challenge: Challenge, job: &Job) -> Result<HeaderValue> {
        let mine = self.pull.credentials.as_ref().map(|c| basic(&c.user, c.password.reveal()));
        let (realm, service, scope) = match challenge {
            Challenge::Basic => return mine.flatten().ok_or_else(|| self.shut_out(None)),
            Challenge::Bearer { realm, service, scope } => (realm, service, scope),
        };
        let unusable = |why: &str| {
            let message = format!(
                "cannot pull {}: the registry sends us for a token to {}, {why}",
                self.reference(),
                fault::shown(realm.as_bytes())
            );
            DriverError::unavailable("RegistryUnreachable", message)
        };
        let mut url = Url::parse(&realm).map_err(|_| unusable("which is no address"))?;
        if url.scheme() != "https" && (url.scheme() != "http" || self.base.scheme() != "http") {
            return Err(unusable("where passwords could be read on the way; allow that with --insecure"));
        }
        let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.reference().repository()));
        url.query_pairs_mut().extend_pairs(service.iter().map(|s| ("service", s))).append_pair("scope", &scope);
        if let Some(credentials) = &self.pull.credentials {
            url.query_pairs_mut().append_pair("account", &credentials.user);
        }
        let headers = mine.flatten().map(|entry| (AUTHORIZATION, entry)).into_iter().collect();
        let answer = self.ask(url, headers, job).await?;
        if matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST) {
            return Err(self.shut_out(words(answer, self.stall, job).await));
        }
        let answer = self.successful(answer, job).await?;
        let bytes = self.whole(answer, LONGEST_TOKEN, "a token", job).await?;
        let given: Given = serde_json::from_slice(&bytes).map_err(|_| unusable("which gives something else"))?;
        let token = given.token.or(given.access_token).ok_or_else(|| unusable("which gives none"))?;
        let mut header =
            HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| unusable("which gives a strange one"))?;
        header.set_sensitive(true);
        Ok(header)
    }

    /// One request. Bounded by the silence that is allowed, ended when nobody waits any more.
    async fn ask(&self, url: Url, headers: HeaderMap, job: &Job) -> Result<Response> {
        let sent = self.http.get(url).headers(headers).send();
        tokio::select! {
            answer = tokio::time::timeout(self.stall, sent) => match answer {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(e)) if e.is_timeout() => Err(self.silent()),
                Ok(Err(e)) => Err(self.unreachable(e)),
                Err(_) => Err(self.silent()),
            },
            () = job.work.cancelled() => Err(fault::cancelled()),
        }
    }

    /// The whole of a small answer.
    async fn whole(&self, answer: Response, most: u64, what: &str, job: &Job) -> Result<Vec<u8>> {
        let url = answer.url().clone();
        read(answer, most, self.stall, job).await.map_err(|e| match e {
            Unread::Cancelled => fault::cancelled(),
            Unread::Silent => self.silent(),
            Unread::TooLong => fault::damaged(format!(
                "what {} gives at {url} is longer than {} and no {}",
                self.name(),
                Bytes(most).human(),
                what.trim_start_matches("a ")
            )),
            Unread::Broken(e) => self.unreachable(e),
        })
    }

    async fn successful(&self, answer: Response, job: &Job) -> Result<Response> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let said = words(answer, self.stall, job).await.unwrap_or_else(|| status.to_string());
        let (kind, reason, hint) = match status {
            StatusCode::FORBIDDEN => {
                (ErrorKind::BadRequest, "RegistryRefused", "check the repository and who you are there (--user)")
            }
            StatusCode::TOO_MANY_REQUESTS => {
                (ErrorKind::Unavailable, "RegistryBusy", "wait, or log in: registries give users more than strangers")
            }
            StatusCode::NOT_FOUND => {
                (ErrorKind::Damaged, "RegistryIncomplete", "a part of the image is gone there; push it again")
            }
            s if s.is_server_error() => {
                (ErrorKind::Unavailable, "RegistryFailed", "try again; what has arrived is kept")
            }
            _ => (ErrorKind::BadRequest, "RegistryRefused", "check the reference"),
        };
        let message = format!("cannot pull {}: the registry says {said:?}; {hint}", self.reference());
        Err(DriverError::new(kind, reason, message))
    }

    /// Neither the tag nor the digest is there; says what is.
    async fn not_there(&self, answer: Response, version: &str, job: &Job) -> DriverError {
        let said = words(answer, self.stall, job).await.unwrap_or_else(|| "not found".into());
        let reference = self.reference();
        let tags = self.tags(job).await.unwrap_or_default();
        let near = tags.iter().min_by_key(|tag| distance(tag, version)).filter(|tag| distance(tag, version) <= 2);
        let hint = match (near, tags.len()) {
            (Some(near), _) => format!("did you mean {}:{near}?", reference.repository()),
            (None, 0) => {
                format!("check the spelling of {} and {version}, and whether it needs --user", reference.repository())
            }
            (None, n) if n > NAMED_TAGS => format!("it has {n} tags, among them {}", tags[..NAMED_TAGS].join(", ")),
            (None, _) => format!("it has the tags {}", tags.join(", ")),
        };
        let message = format!("cannot pull {reference}: the registry says {said:?}; {hint}");
        DriverError::bad_request("ReferenceNotFound", message)
    }

    async fn tags(&self, job: &Job) -> Result<Vec<String>> {
        let answer = self.get("tags/list?n=1000", &HeaderMap::new(), job).await?;
        let answer = self.successful(answer, job).await?;
        let bytes = self.whole(answer, 1 << 20, "a list of tags", job).await?;
        let listed: Tags = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(listed
            .tags
            .unwrap_or_default()
            .into_iter()
            .filter(|tag| tag.len() <= 128 && !tag.chars().any(char::is_control))
            .collect())
    }

    /// It does not let us in.
    fn shut_out(&self, said: Option<String>) -> DriverError {
        let (reference, registry) = (self.reference(), self.reference().registry());
        let said = said.map(|said| format!(" ({said})")).unwrap_or_default();
        let message = match &self.pull.credentials {
            Some(credentials) => format!(
                "cannot pull {reference}: {registry} refuses the user {}{said}; check the name and the password",
                fault::shown(credentials.user.as_bytes())
            ),
            None => format!(
                "cannot pull {reference}: {registry} lets in only whom it knows{said}; say who you are with --user NAME --password-stdin, or yun image login {registry}"
            ),
        };
        DriverError::bad_request("RegistryCredentials", message)
    }

    /// It says nothing.
    pub(super) fn silent(&self) -> DriverError {
        let message = format!(
            "cannot pull {}: the registry sent next to nothing for {}s; what has arrived is kept, and the next pull goes on from there",
            self.reference(),
            self.stall.as_secs_f32()
        );
        DriverError::new(ErrorKind::Timeout, "RegistryStalled", message)
    }

    fn unreachable(&self, e: reqwest::Error) -> DriverError {
        let mut deepest: &dyn std::error::Error = &e;
        while let Some(next) = deepest.source() {
            deepest = next;
        }
        let why = deepest.to_string();
        let hint = if why.contains("certificate") {
            "nobody vouches for its certificate: add its authority to the system's (update-ca-certificates), or say --insecure"
        } else if why.contains("corrupt message") {
            "it seems to speak plain HTTP: if that is meant, say --insecure"
        } else {
            "check the name and this node's way to it"
        };
        let message = format!("cannot pull {}: {} cannot be reached: {why}; {hint}", self.reference(), self.name());
        DriverError::unavailable("RegistryUnreachable", message).with(e)
    }
}

fn base(scheme: &str, reference: &Reference) -> Result<Url> {
    Url::parse(&format!("{scheme}://{}/v2/", reference.host())).map_err(|e| {
        DriverError::bad_request(
            "BadReference",
            format!("cannot pull {reference}: {} is no host: {e}", reference.registry()),
        )
    })
}

/// Follows redirections, but not from TLS to plain HTTP, nor for ever.
fn downhill(attempt: reqwest::redirect::Attempt<'_>) -> reqwest::redirect::Action {
    let was_secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if was_secure && attempt.url().scheme() != "https" {
        return attempt.error("it leads from an encrypted connection to a plain one");
    }
    if attempt.previous().len() > 10 {
        return attempt.error("it leads in a circle");
    }
    attempt.follow()
}

fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    use base64::Engine as _;
    let word = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let mut header = HeaderValue::from_str(&format!("Basic {word}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[derive(Deserialize)]
struct Given {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

/// Why an answer could not be read.
enum Unread {
    Cancelled,
    Silent,
    TooLong,
    Broken(reqwest::Error),
}

async fn read(answer: Response, most: u64, stall: Duration, job: &Job) -> std::result::Result<Vec<u8>, Unread> {
    let mut bytes = Vec::new();
    let mut chunks = answer.bytes_stream();
    // A small answer that trickles in is as good as none.
    let reading = async {
        while let Some(chunk) = chunks.next().await {
            let chunk: Chunk = chunk.map_err(|e| if e.is_timeout() { Unread::Silent } else { Unread::Broken(e) })?;
            if (bytes.len() + chunk.len()) as u64 > most {
                return Err(Unread::TooLong);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(())
    };
    tokio::select! {
        read = tokio::time::timeout(stall, reading) => read.unwrap_or(Err(Unread::Silent))?,
        () = job.work.cancelled() => return Err(Unread::Cancelled),
    }
    Ok(bytes)
}

/// What a registry says in a refusal: `manifest unknown`.
async fn words(answer: Response, stall: Duration, job: &Job) -> Option<String> {
    let bytes = read(answer, LONGEST_REFUSAL, stall, job).await.ok()?;
    said(&bytes)
}

fn said(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Refusal {
        #[serde(default)]
        errors: Vec<Said>,
        #[serde(default)]
        details: Option<String>,
    }
    #[derive(Deserialize)]
    struct Said {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let refusal: Refusal = serde_json::from_slice(bytes).ok()?;
    let all = refusal
        .errors
        .into_iter()
        .map(|e| if e.message.is_empty() { e.code } else { e.message })
        .chain(refusal.details);
    let text: String = all.filter(|t| !t.is_empty()).collect::<Vec<_>>().join("; ");
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    (!text.is_empty()).then_some(text)
}

/// How many letters to change (Levenshtein), for short words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_read_in_the_registrys_words() {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#;
        assert_eq!(said(body).unwrap(), "manifest unknown");
        assert_eq!(said(br#"{"details":"incorrect username or password"}"#).unwrap(), "incorrect username or password");
        assert_eq!(said(b"<html>"), None);
        assert_eq!(said(b"{\"errors\":[{\"message\":\"a\\u001b[31m\"}]}").unwrap(), "a [31m");
    }

    #[test]
    fn near_tags_are_near() {
        assert_eq!(distance("latest", "lastest"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("1.27", "1.27"), 0);
    }
}
