//! Users and groups by the image's own `/etc/passwd` and `/etc/group` (passwd(5), group(5)). Pure: the texts are given.

use std::fmt;

/// Who a process is, with everything that its user implies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The groups beside the first.
    pub(super) additional: Vec<u32>,
    pub(super) home: String,
}

/// Why a user cannot be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unknown {
    User(String),
    Group(String),
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user {name:?} is not in the image's /etc/passwd"),
            Self::Group(name) => write!(f, "group {name:?} is not in the image's /etc/group"),
        }
    }
}

struct PasswdLine<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct GroupLine<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Lines that are damaged are skipped, as every program that reads these files does.
fn passwd_lines(text: &str) -> impl Iterator<Item = PasswdLine<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(PasswdLine { name, uid, gid, home: fields.nth(1).unwrap_or("") })
    })
}

fn group_lines(text: &str) -> impl Iterator<Item = GroupLine<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        Some(GroupLine { name, gid: fields.nth(1)?.parse().ok()?, members: fields.next().unwrap_or("") })
    })
}

/// Resolves `user[:group]`, by name or number; nothing means root. As container engines do: a number needs no entry; a name must have one,
/// and a name wins over a number that looks the same; additional groups come with the user, unless a group was named.
pub(super) fn resolve(wanted: &str, passwd: &str, group: &str) -> Result<Identity, Unknown> {
    let (user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (wanted, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = number(user);
    let entry = passwd_lines(passwd)
        .find(|line| line.name == user)
        .or_else(|| passwd_lines(passwd).find(|line| Some(line.uid) == number));
    let (name, uid, first_gid, home) = match (entry, number) {
        (Some(entry), _) => (Some(entry.name), entry.uid, entry.gid, entry.home),
        (None, Some(uid)) => (None, uid, 0, ""),
        (None, None) => return Err(Unknown::User(user.to_owned())),
    };
    let home = if !home.is_empty() {
        home.to_owned()
    } else if uid == 0 {
        "/root".to_owned()
    } else {
        "/".to_owned()
    };
    let Some(wanted_group) = wanted_group else {
        let mut additional: Vec<u32> = match name {
            Some(name) => group_lines(group)
                .filter(|line| line.members.split(',').any(|m| m == name))
                .map(|line| line.gid)
                .collect(),
            None => Vec::new(),
        };
        additional.sort_unstable();
        additional.dedup();
        return Ok(Identity { uid, gid: first_gid, additional, home });
    };
    let gid = group_lines(group)
        .find(|line| line.name == wanted_group)
        .map(|line| line.gid)
        .or_else(|| self::number(wanted_group))
        .ok_or_else(|| Unknown::Group(wanted_group.to_owned()))?;
    Ok(Identity { uid, gid, additional: Vec::new(), home })
}

/// A user's or group's number. The largest one means "none" to the kernel.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken line\nweb:x:33:33::/var/www:/bin/false\nnohome:x:40:41\n1000:x:7:8::/odd:\n";
    const GROUP: &str = "root:x:0:\nweb:x:33:\nssl:x:110:web,root\nlogs:x:111:other,web\nbad\n";

    fn ids(wanted: &str) -> (u32, u32, Vec<u32>, String) {
        let identity = resolve(wanted, PASSWD, GROUP).unwrap();
        (identity.uid, identity.gid, identity.additional, identity.home)
    }

    #[test]
    fn every_form_is_resolved_inside_the_image() {
        assert_eq!(ids(""), (0, 0, vec![110], "/root".into()));
        assert_eq!(ids("web"), (33, 33, vec![110, 111], "/var/www".into()));
        assert_eq!(ids("33"), (33, 33, vec![110, 111], "/var/www".into()), "a number finds its entry");
        assert_eq!(ids("web:ssl"), (33, 110, vec![], "/var/www".into()));
        assert_eq!(ids("web:5"), (33, 5, vec![], "/var/www".into()));
        assert_eq!(ids("5000"), (5000, 0, vec![], "/".into()));
        assert_eq!(ids("5000:6000"), (5000, 6000, vec![], "/".into()));
        assert_eq!(ids("1000"), (7, 8, vec![], "/odd".into()), "a name wins over a number");
        assert_eq!(ids("nohome").3, "/");
        assert_eq!(ids(":ssl"), (0, 110, vec![], "/root".into()));
    }

    #[test]
    fn an_unknown_name_is_named() {
        assert_eq!(resolve("mysql", PASSWD, GROUP), Err(Unknown::User("mysql".into())));
        assert_eq!(resolve("web:nope", PASSWD, GROUP), Err(Unknown::Group("nope".into())));
        assert_eq!(resolve("4294967295", PASSWD, GROUP), Err(Unknown::User("4294967295".into())));
        assert_eq!(
            resolve("", "", ""),
            Ok(Identity { uid: 0, gid: 0, additional: vec![], home: "/root".into() }),
            "an image without files"
        );
    }

    proptest! {
        #[test]
        fn any_entry_is_found_by_its_name_among_any_others(
            before in "([a-z]{1,6}:x:[0-9]{1,4}:[0-9]{1,4}:::\n){0,4}", name in "[a-z]{7,9}", uid in 0u32..70_000, gid in 0u32..70_000,
        ) {
            let passwd = format!("{before}{name}:x:{uid}:{gid}:gecos:/h:/bin/sh\n");
            let identity = resolve(&name, &passwd, "").unwrap();
            prop_assert_eq!((identity.uid, identity.gid, identity.home.as_str()), (uid, gid, "/h"));
        }

        #[test]
        fn nothing_panics(wanted in ".{0,12}", passwd in "[a-z0-9:,\n]{0,60}", group in "[a-z0-9:,\n]{0,60}") {
            let _ = resolve(&wanted, &passwd, &group);
        }
    }
}
