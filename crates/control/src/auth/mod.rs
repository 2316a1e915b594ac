//! Who asks, and whether they may: tokens become callers, and one table says what each operation needs.

pub mod caller;
pub mod keys;
pub mod policy;

pub use caller::Caller;

use crate::{core::Control, error::Refusal, rows::StoredToken};
use http::{HeaderMap, header::AUTHORIZATION};
use std::net::IpAddr;
use yun_types::{Token, TokenId};

const WAY_IN: &str =
    "send `Authorization: Bearer <secret>`; `yun config` shows which token the command line uses, and an admin makes new ones with `yun token create`";

/// Finds out who sent a request.
pub fn authenticate(control: &Control, headers: &HeaderMap, from: IpAddr, request_id: &str) -> Result<Caller, Refusal> {
    let header = headers.get(AUTHORIZATION).ok_or_else(|| Refusal::unauthorized(format!("the request has no token: {WAY_IN}")))?;
    let secret = header.to_str().ok().and_then(|text| {
        let (scheme, secret) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
    });
    let secret = secret.ok_or_else(|| Refusal::unauthorized(format!("the request's Authorization header has another form than expected: {WAY_IN}")))?;
    let row = control.keys.holder(secret).ok_or_else(|| {
        Refusal::unauthorized(format!("the request's token is not known here: it was revoked, or belongs to another cloud; {WAY_IN}"))
    })?;
    let stored = &row.value.0;
    if !valid(control, stored) {
        let name = &stored.token.metadata.name;
        return Err(Refusal::unauthorized(format!("token {name} has expired: ask an admin for another (yun token create)")));
    }
    Ok(of_token(stored, from.to_string(), request_id.to_owned()))
}

/// Whether the caller's token still allows what it allowed when the request came. For streams, which outlive the request that opened them.
pub fn unchanged(control: &Control, caller: &Caller) -> bool {
    let row = control.tokens.cache.get(&[&caller.name]);
    row.is_some_and(|row| {
        let stored = &row.value.0;
        let Token { metadata, spec } = &stored.token;
        TokenId(metadata.id) == caller.token && valid(control, stored) && spec.cloud == caller.cloud && spec.projects == caller.projects
    })
}

fn valid(control: &Control, stored: &StoredToken) -> bool {
    stored.token.spec.expires.is_none_or(|end| control.clock.now() < end)
}

fn of_token(stored: &StoredToken, from: String, request_id: String) -> Caller {
    let StoredToken { token, .. } = stored;
    Caller {
        name: token.metadata.name.to_string(),
        token: TokenId(token.metadata.id),
        cloud: token.spec.cloud,
        projects: token.spec.projects.clone(),
        from,
        request_id,
        once: None,
    }
}
