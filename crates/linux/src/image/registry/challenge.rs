//! What a registry asks for before it answers (RFC 7235, RFC 6750; "Token Authentication" of the distribution project). Pure.

use http_auth::ChallengeRef;

/// How to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// With a token that somebody else gives.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
    /// With a name and a password.
    Basic,
}

impl Challenge {
    /// Reads the `WWW-Authenticate` headers of an answer; a token goes before a password.
    pub(super) fn of<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut basic = None;
        for header in headers {
            for challenge in http_auth::parse_challenges(header).unwrap_or_default() {
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    if let Some(bearer) = bearer(&challenge) {
                        return Some(bearer);
                    }
                } else if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                }
            }
        }
        basic
    }
}

fn bearer(challenge: &ChallengeRef<'_>) -> Option<Challenge> {
    let value = |name: &str| {
        challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_unescaped())
    };
    Some(Challenge::Bearer { realm: value("realm")?, service: value("service"), scope: value("scope") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_go_before_passwords_and_rubbish_is_no_challenge() {
        let header = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull,push""#;
        let bearer = Challenge::Bearer {
            realm: "https://auth.docker.io/token".into(),
            service: Some("registry.docker.io".into()),
            scope: Some("repository:library/nginx:pull,push".into()),
        };
        assert_eq!(Challenge::of([header].into_iter()), Some(bearer.clone()));
        assert_eq!(Challenge::of([r#"Basic realm="x""#, header].into_iter()), Some(bearer));
        assert_eq!(Challenge::of([r#"Basic realm="Registry Realm""#].into_iter()), Some(Challenge::Basic));
        assert_eq!(Challenge::of(["", "=,=", "Negotiate", "Bearer error=\"x\""].into_iter()), None);
    }
}
