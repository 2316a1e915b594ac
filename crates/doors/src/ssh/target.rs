//! What a user name means: `[USER+]INSTANCE[.PROJECT]`.

use yun_types::{Name, NameOrId};

/// Where somebody wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// The user inside; what is usual there if absent.
    pub(super) user: Option<String>,
    /// The instance, by name or id.
    pub(super) instance: NameOrId,
    /// Its project.
    pub(super) project: Name,
}

impl Target {
    /// Reads a user name. `None` if it can mean nothing.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (user, place) = match text.rsplit_once('+') {
            Some((user, place)) => (Some(user), place),
            None => (None, text),
        };
        let (instance, project) = match place.split_once('.') {
            Some((instance, project)) => (instance, project.parse().ok()?),
            None => (place, Name::default_project()),
        };
        // A user of a guest's own: what passwd(5) may hold, and no control characters.
        let plain = |user: &str| {
            !user.is_empty()
                && user.len() <= 64
                && !user.starts_with('-')
                && user.chars().all(|c| c.is_ascii_alphanumeric() || "._-:$@".contains(c))
        };
        if user.is_some_and(|user| !plain(user)) {
            return None;
        }
        Some(Self { user: user.map(str::to_owned), instance: instance.parse().ok()?, project })
    }

    /// Whether a host name that is asked for from here means an instance of the project: its name, or the name with the project, as in
    /// `db`, `db.lab`, `db.lab.yun`.
    pub(super) fn instance_named(&self, host: &str) -> Option<NameOrId> {
        if matches!(host, "localhost" | "127.0.0.1" | "::1" | "") {
            return Some(self.instance.clone());
        }
        let host = host.trim_end_matches('.');
        let name = match host.split_once('.') {
            None => host,
            Some((name, domain)) => {
                (domain.strip_suffix(".yun").unwrap_or(domain) == self.project.as_str()).then_some(name)?
            }
        };
        name.parse::<Name>().ok().map(NameOrId::Name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Option<String> {
        let target = Target::parse(text)?;
        Some(format!("{}@{}/{}", target.user.as_deref().unwrap_or("-"), target.project, target.instance))
    }

    #[test]
    fn a_user_name_says_where_to_go() {
        for (text, meant) in [
            ("web", "-@default/web"),
            ("web.lab", "-@lab/web"),
            ("debian+vm1.default", "debian@default/vm1"),
            ("1000:1000+web", "1000:1000@default/web"),
            ("0190aaaa-0000-4000-8000-000000000003.lab", "-@lab/0190aaaa-0000-4000-8000-000000000003"),
        ] {
            assert_eq!(shown(text).as_deref(), Some(meant), "{text}");
        }
        for text in ["", ".", "web.", ".lab", "Web", "+web", "-l+web", "a b+web", "web.lab.more", "root\n+web"] {
            assert_eq!(shown(text), None, "{text:?}");
        }
    }

    #[test]
    fn hosts_that_are_instances_of_the_project() {
        let target = Target::parse("web.lab").unwrap();
        let named = |host: &str| target.instance_named(host).map(|name| name.to_string());
        for host in ["localhost", "127.0.0.1", "::1", "web", "web.lab", "web.lab.yun"] {
            assert_eq!(named(host).as_deref(), Some("web"), "{host}");
        }
        assert_eq!(named("db.lab.yun").as_deref(), Some("db"));
        for host in ["10.0.0.1", "db.other", "example.org", "db.other.yun"] {
            assert_eq!(named(host), None, "{host}");
        }
    }
}
