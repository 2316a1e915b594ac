//! Names in archives, made safe. A name that passes is a list of plain components under the image's root; everything else is refused with
//! the name in the message. Pure.

use super::fault;
use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};
use yun_drivers::Result;

/// The longest name that an entry may have; Linux opens no longer ones.
const LONGEST: usize = 4095;
/// The longest component that file systems keep.
const LONGEST_COMPONENT: usize = 255;

/// A name of an entry below the image's root. The root itself is the empty path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntryName(PathBuf);

impl EntryName {
    /// Checks a name as an archive has it: `etc/passwd`, `./etc/passwd`, `etc/`.
    pub(super) fn parse(raw: &[u8]) -> Result<Self> {
        if raw.first() == Some(&b'/') {
            return Err(fault::unsafe_entry(
                raw,
                "has an absolute name; make the archive with relative names, as tar -C DIR . does",
            ));
        }
        Self::below_root(raw)
    }

    /// Checks the target of a hard link: the name of another entry, which some programs write with a slash in front.
    pub(super) fn parse_link(raw: &[u8]) -> Result<Self> {
        Self::below_root(raw.strip_prefix(b"/").unwrap_or(raw))
    }

    fn below_root(raw: &[u8]) -> Result<Self> {
        if raw.len() > LONGEST {
            return Err(fault::unsafe_entry(raw, "has a name of more than 4095 bytes"));
        }
        if raw.contains(&0) {
            return Err(fault::unsafe_entry(raw, "has a zero byte in its name"));
        }
        let mut path = PathBuf::new();
        for part in raw.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    return Err(fault::unsafe_entry(raw, "climbs out with \"..\"; nothing of the archive was kept"));
                }
                part if part.len() > LONGEST_COMPONENT => {
                    return Err(fault::unsafe_entry(raw, "has a component of more than 255 bytes"));
                }
                part => path.push(OsStr::from_bytes(part)),
            }
        }
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
    /// True for the root of the image.
    pub(super) fn is_root(&self) -> bool {
        self.0.as_os_str().is_empty()
    }
    /// The directory that it is in; the empty path for the root.
    pub(super) fn parent(&self) -> &Path {
        self.0.parent().unwrap_or(Path::new(""))
    }
    /// Its last component.
    pub(super) fn last(&self) -> &OsStr {
        self.0.file_name().unwrap_or_default()
    }
}

/// What a layer says about lower layers through an entry's last component (OCI image spec, "Whiteouts").
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whiteout<'a> {
    /// The lower layers' contents of this directory are hidden.
    Opaque,
    /// The lower layers' entry of this name is hidden.
    Hide(&'a OsStr),
    /// Bookkeeping of AUFS, of no meaning here.
    Bookkeeping,
}

impl<'a> Whiteout<'a> {
    /// Reads the last component of an entry's name.
    pub(super) fn of(name: &'a EntryName) -> Result<Option<Self>> {
        let last = name.last().as_bytes();
        let Some(hidden) = last.strip_prefix(b".wh.") else { return Ok(None) };
        match hidden {
            b".wh..opq" => Ok(Some(Self::Opaque)),
            b"" | b"." | b".." => {
                Err(fault::unsafe_entry(name.path().as_os_str().as_bytes(), "hides a name that cannot exist"))
            }
            hidden if hidden.starts_with(b".wh.") => Ok(Some(Self::Bookkeeping)),
            hidden => Ok(Some(Self::Hide(OsStr::from_bytes(hidden)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Component;

    #[test]
    fn ordinary_names_pass() {
        for (raw, path) in [
            ("etc/passwd", "etc/passwd"),
            ("./a//b/", "a/b"),
            ("./", ""),
            ("", ""),
            ("a/./b", "a/b"),
            ("..a/...", "..a/..."),
        ] {
            assert_eq!(EntryName::parse(raw.as_bytes()).unwrap().path(), Path::new(path), "{raw}");
        }
    }

    #[test]
    fn names_that_lead_out_are_refused_by_name() {
        for raw in ["/etc/passwd", "../x", "a/../../x", "a/..", "a\0b"] {
            let error = EntryName::parse(raw.as_bytes()).unwrap_err();
            assert_eq!(error.reason, "UnsafeEntry", "{raw:?}");
            assert!(error.message.contains("entry \""), "{}", error.message);
        }
        assert!(EntryName::parse(&[b'a'; 256]).is_err());
        assert_eq!(EntryName::parse_link(b"/bin/sh").unwrap().path(), Path::new("bin/sh"));
        assert!(EntryName::parse_link(b"/../bin/sh").is_err());
    }

    #[test]
    fn whiteouts_are_told_apart() {
        let of = |raw: &str| {
            Whiteout::of(&EntryName::parse(raw.as_bytes()).unwrap()).map(|w| format!("{w:?}")).map_err(|e| e.reason)
        };
        assert_eq!(of("a/.wh.b").unwrap(), r#"Some(Hide("b"))"#);
        assert_eq!(of("a/.wh..wh..opq").unwrap(), "Some(Opaque)");
        assert_eq!(of(".wh..wh.plnk").unwrap(), "Some(Bookkeeping)");
        assert_eq!(of("a/wh.b").unwrap(), "None");
        for bad in [".wh.", ".wh..", ".wh..."] {
            assert_eq!(of(bad).unwrap_err(), "UnsafeEntry", "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_passes_stays_below_the_root(raw in proptest::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), any::<u8>()], 0..300)) {
            if let Ok(name) = EntryName::parse(&raw) {
                prop_assert!(name.path().components().all(|c| matches!(c, Component::Normal(_))));
                let joined = Path::new("/root/of/image").join(name.path());
                prop_assert!(joined.starts_with("/root/of/image"));
                if let Ok(Some(Whiteout::Hide(hidden))) = Whiteout::of(&name) {
                    prop_assert!(Path::new(hidden).components().eq([Component::Normal(hidden)]));
                }
            }
        }
    }
}
