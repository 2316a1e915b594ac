//! Who asks, and whether they may: tokens become callers, and one table says what each operation needs.

pub mod caller;
pub mod doors;
pub mod keys;
pub mod policy;
mod strangers;

pub use caller::Caller;
pub use doors::Doors;
pub use strangers::Strangers;

use crate::{core::Control, error::Refusal, rows::StoredToken};
use base64::Engine as _;
use http::{HeaderMap, header::AUTHORIZATION};
use std::net::IpAddr;
use yun_types::{Token, TokenId};

const WAY_IN: &str = "send `Authorization: Bearer <secret>`; `yun config show` tells which cloud and token the command line uses, and an admin makes new tokens with `yun token create`";

/// Finds out who sent a request.
pub fn authenticate(control: &Control, headers: &HeaderMap, from: IpAddr, request_id: &str) -> Result<Caller, Refusal> {
    let header = headers
        .get(AUTHORIZATION)
        .ok_or_else(|| Refusal::unauthorized(format!("the request has no token: {WAY_IN}")))?;
    let secret = header.to_str().ok().and_then(|text| {
        let (scheme, secret) = text.split_once(' ')?;
        match scheme.to_ascii_lowercase().as_str() {
            "bearer" => Some(secret.trim().to_owned()),
            // For programs that know only names and passwords: the token is the password, and the name is free.
            "basic" => {
                let pair = base64::engine::general_purpose::STANDARD.decode(secret.trim()).ok()?;
                let (_, password) = std::str::from_utf8(&pair).ok()?.split_once(':')?;
                (!password.is_empty()).then(|| password.to_owned())
            }
            _ => None,
        }
    });
    let secret = secret.ok_or_else(|| {
        Refusal::unauthorized(format!("the request's Authorization header has another form than expected: {WAY_IN}"))
    })?;
    if let Some(door) = control.doors.holder(&secret) {
        // A door that let somebody in knows better than the connection where they came from.
        let from = if door.from.is_empty() { from.to_string() } else { door.from };
        return Ok(Caller { from, request_id: request_id.to_owned(), ..door });
    }
    let row = control.keys.holder(&secret).ok_or_else(|| {
        Refusal::unauthorized(format!(
            "the request's token is not known here: it was revoked, or belongs to another cloud; {WAY_IN}"
        ))
    })?;
    let stored = &row.value.0;
    if !valid(control, stored) {
        let name = &stored.token.metadata.name;
        return Err(Refusal::unauthorized(format!(
            "token {name} has expired: ask an admin for another (yun token create)"
        )));
    }
    Ok(of_token(stored, from.to_string(), request_id.to_owned()))
}

/// Whether the caller's token still allows what it allowed when the request came. For streams, which outlive the request that opened them.
pub fn unchanged(control: &Control, caller: &Caller) -> bool {
    if control.doors.has(caller.token) {
        return true;
    }
    let row = control.tokens.cache.get(&[&caller.name]);
    row.is_some_and(|row| {
        let stored = &row.value.0;
        let Token { metadata, spec } = &stored.token;
        TokenId(metadata.id) == caller.token
            && valid(control, stored)
            && spec.cloud == caller.cloud
            && spec.projects == caller.projects
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::fixture::{Cloud, admin, name};
    use dropshot::ErrorStatusCode;
    use std::{collections::BTreeMap, time::Duration};
    use yun_api::cloud::TokenCreate;
    use yun_types::{Role, TokenSpec};

    fn ask(cloud: &Cloud, header: &str) -> Result<Caller, Refusal> {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, header.parse().unwrap())]);
        authenticate(&cloud.c, &headers, [127, 0, 0, 1].into(), "r")
    }

    /// The holder of the first admin's token.
    pub(crate) async fn first(cloud: &Cloud) -> Caller {
        let secret = crate::first_admin_token(&cloud.c).await.unwrap().unwrap();
        ask(cloud, &format!("Bearer {secret}")).unwrap()
    }

    #[tokio::test]
    async fn tokens_end_when_they_expire() {
        let cloud = Cloud::new().await;
        let expires = Some(cloud.c.clock.now() + Duration::from_secs(60));
        let projects = BTreeMap::from([(name("default"), Role::Viewer)]);
        let body = TokenCreate { name: name("t"), spec: TokenSpec { cloud: None, projects, expires } };
        let made = crate::token::ops::create(&cloud.c, &admin(), body).await.unwrap();
        let caller = ask(&cloud, &format!("bearer {}", made.secret)).unwrap();
        assert!(unchanged(&cloud.c, &caller));
        cloud.clock.advance(Duration::from_secs(61)).await;
        let refused = ask(&cloud, &format!("Bearer {}", made.secret)).unwrap_err();
        assert_eq!(refused.status, ErrorStatusCode::UNAUTHORIZED);
        assert!(refused.message.contains("token t has expired"), "{refused}");
        assert!(!unchanged(&cloud.c, &caller));
    }

    #[tokio::test]
    async fn other_headers_are_no_tokens() {
        let cloud = Cloud::new().await;
        for header in ["Basic YWRtaW46", "yun_x", "Bearer", "Bearer ", "Bearer admin"] {
            assert_eq!(ask(&cloud, header).unwrap_err().status, ErrorStatusCode::UNAUTHORIZED, "{header}");
        }
        assert_eq!(first(&cloud).await.cloud, Some(Role::Admin));
    }
}
