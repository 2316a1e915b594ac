//! Looking things up in a container's file tree, as a process inside would find them: links are followed within the tree and never out of it.

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::{FileStat, SFlag, fstat},
};
use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

/// The most that is read of a file of the tree.
const LONGEST: u64 = 1 << 20;

/// A file tree.
#[derive(Debug)]
pub(super) struct Root {
    directory: OwnedFd,
}

/// Why a program cannot be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotRunnable {
    /// There is none of this name.
    Missing,
    /// This user may not execute it, or it is a directory.
    Forbidden(PathBuf),
    /// It is a script whose interpreter is not there.
    Interpreter { script: PathBuf, interpreter: String },
}

impl Root {
    /// Opens a tree by its top directory.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { directory: File::open(path)?.into() })
    }

    fn at(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&self.directory, path, how)
    }

    fn stat(&self, path: &Path) -> Option<FileStat> {
        fstat(self.at(path, OFlag::O_PATH).ok()?).ok()
    }

    /// The beginning of a file, at most 1 MiB; empty if it is not there or no ordinary file.
    pub(super) fn text(&self, path: &str) -> String {
        self.head(Path::new(path), LONGEST)
    }

    fn head(&self, path: &Path, most: u64) -> String {
        let mut bytes = Vec::new();
        // A FIFO put here by an image would block a plain open for ever.
        if let Ok(fd) = self.at(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)
            && fstat(&fd).is_ok_and(|stat| kind(&stat) == SFlag::S_IFREG)
        {
            // A file that cannot be read to its end is a file without that end.
            let _ = File::from(fd).take(most).read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A directory of the tree, open; `None` if there is none at this path.
    pub(super) fn directory(&self, path: &Path) -> Option<File> {
        self.at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).ok().map(File::from)
    }

    /// True if there is a directory.
    pub(super) fn has_directory(&self, path: &Path) -> bool {
        self.stat(path).is_some_and(|stat| kind(&stat) == SFlag::S_IFDIR)
    }

    /// Where a program is that this user can execute. With a slash in it, its name is a path (from `workdir` if it is relative); without
    /// one, it is looked for in `search`, as `execvp(3)` does.
    pub(super) fn find(
        &self,
        program: &str,
        search: &str,
        workdir: &str,
        uid: u32,
        groups: &[u32],
    ) -> Result<PathBuf, NotRunnable> {
        let candidates: Vec<PathBuf> = if program.contains('/') {
            vec![Path::new(workdir).join(program)]
        } else if program.is_empty() {
            return Err(NotRunnable::Missing);
        } else {
            search
                .split(':')
                .filter(|part| !part.is_empty())
                .map(|part| Path::new(workdir).join(part).join(program))
                .collect()
        };
        let mut worst = NotRunnable::Missing;
        for path in candidates {
            let Some(stat) = self.stat(&path) else { continue };
            if kind(&stat) != SFlag::S_IFREG || !may_execute(&stat, uid, groups) {
                worst = NotRunnable::Forbidden(path);
                continue;
            }
            return self.check_interpreter(&path).map(|()| path);
        }
        Err(worst)
    }

    /// A script without its interpreter fails with "no such file", which sends people looking for the script.
    fn check_interpreter(&self, path: &Path) -> Result<(), NotRunnable> {
        let head = self.head(path, 256);
        let Some(interpreter) = head.strip_prefix("#!").and_then(|line| line.lines().next()?.split_whitespace().next())
        else {
            return Ok(());
        };
        if self.stat(Path::new(interpreter)).is_some() {
            return Ok(());
        }
        Err(NotRunnable::Interpreter { script: path.to_owned(), interpreter: interpreter.to_owned() })
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn may_execute(stat: &FileStat, uid: u32, groups: &[u32]) -> bool {
    let bit = match uid {
        0 => 0o111,
        _ if uid == stat.st_uid => 0o100,
        _ if groups.contains(&stat.st_gid) => 0o010,
        _ => 0o001,
    };
    stat.st_mode & bit != 0
}

/// True if a path is absolute and stays below the root as it is written.
pub(super) fn is_plain_absolute(path: &str) -> bool {
    let path = Path::new(path);
    path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && path.parent().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn tree() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["bin", "opt/tools", "etc", "locked"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        for (name, text, mode) in [
            ("bin/sh", "\u{7f}ELF", 0o755),
            ("bin/plain", "x", 0o644),
            ("opt/tools/run", "#!/bin/sh -e\n", 0o755),
            ("opt/tools/broken", "#!/usr/bin/python\n", 0o755),
            ("bin/mine", "x", 0o700),
        ] {
            fs::write(path(name), text).unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        for (name, target) in
            [("bin/ash", "sh"), ("bin/out", "../../../../../../bin/sh"), ("etc/passwd", "/etc/real"), ("loop", "loop")]
        {
            std::os::unix::fs::symlink(target, path(name)).unwrap();
        }
        fs::write(path("etc/real"), "root:x:0:0::/r:\n").unwrap();
        let root = Root::open(directory.path()).unwrap();
        (directory, root)
    }

    #[test]
    fn programs_are_found_as_a_process_inside_would() {
        let (_keep, root) = tree();
        let find = |program: &str, uid| root.find(program, "/nope:/bin:/opt/tools", "/opt", uid, &[]);
        assert_eq!(find("sh", 0), Ok("/bin/sh".into()));
        assert_eq!(find("ash", 1000), Ok("/bin/ash".into()));
        assert_eq!(find("out", 0), Ok("/bin/out".into()), "a link that climbs too far ends at the tree's own root");
        assert_eq!(find("tools/run", 0), Ok("/opt/tools/run".into()), "relative to the working directory");
        assert_eq!(find("run", 0), Ok("/opt/tools/run".into()));
        assert_eq!(find("gone", 0), Err(NotRunnable::Missing));
        assert_eq!(find("", 0), Err(NotRunnable::Missing));
        assert_eq!(find("/loop", 0), Err(NotRunnable::Missing));
        assert_eq!(find("plain", 0), Err(NotRunnable::Forbidden("/bin/plain".into())));
        assert_eq!(find("/bin", 0), Err(NotRunnable::Forbidden("/bin".into())));
        assert_eq!(find("mine", 1000), Err(NotRunnable::Forbidden("/bin/mine".into())));
        let broken =
            NotRunnable::Interpreter { script: "/opt/tools/broken".into(), interpreter: "/usr/bin/python".into() };
        assert_eq!(find("broken", 0), Err(broken));
    }

    #[test]
    fn an_absolute_link_is_read_inside_the_tree() {
        let (_keep, root) = tree();
        assert_eq!(root.text("/etc/passwd"), "root:x:0:0::/r:\n");
        assert_eq!(root.text("/etc/group"), "");
        assert_eq!(root.text("/etc"), "");
        assert!(root.has_directory(Path::new("/opt/tools")) && !root.has_directory(Path::new("/bin/sh")));
    }

    #[test]
    fn mount_targets_are_plain() {
        for good in ["/data", "/a/b c"] {
            assert!(is_plain_absolute(good), "{good}");
        }
        for bad in ["", "/", "data", "/a/../b", ".."] {
            assert!(!is_plain_absolute(bad), "{bad}");
        }
    }
}
