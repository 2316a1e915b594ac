//! Requests on a tree of a test's own, with links that would like to lead out of it.

use super::*;
use std::{fs, os::unix::fs::symlink};

struct World {
    directory: tempfile::TempDir,
    tree: Tree,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("home/deep")).unwrap();
        fs::write(root.join("home/file"), "inside").unwrap();
        fs::write(directory.path().join("secret"), "outside").unwrap();
        symlink("../../../../../secret", root.join("home/out")).unwrap();
        symlink(directory.path(), root.join("host")).unwrap();
        let top = File::open(&root).unwrap().into();
        Self { directory, tree: Tree { top, base: 0 } }
    }

    fn server(&self) -> Server<'_> {
        Server { tree: &self.tree, home: "/home".into(), handles: HashMap::new(), next: 0 }
    }

    fn inside(&self, path: &str) -> PathBuf {
        self.directory.path().join("root").join(path)
    }
}

/// A request: a kind, an id, and then texts (with their length) and numbers.
fn request(kind: u8, parts: &[&dyn Part]) -> Bytes {
    let mut bytes = vec![kind, 0, 0, 0, 9];
    parts.iter().for_each(|part| part.put(&mut bytes));
    bytes.into()
}

trait Part {
    fn put(&self, into: &mut Vec<u8>);
}
impl Part for &str {
    fn put(&self, into: &mut Vec<u8>) {
        into.extend(u32::try_from(self.len()).unwrap().to_be_bytes());
        into.extend(self.as_bytes());
    }
}
impl Part for u32 {
    fn put(&self, into: &mut Vec<u8>) {
        into.extend(self.to_be_bytes());
    }
}
impl Part for u64 {
    fn put(&self, into: &mut Vec<u8>) {
        into.extend(self.to_be_bytes());
    }
}
impl Part for Vec<u8> {
    fn put(&self, into: &mut Vec<u8>) {
        into.extend(u32::try_from(self.len()).unwrap().to_be_bytes());
        into.extend(self);
    }
}

/// The kind of an answer, and what follows the id.
fn ask(server: &mut Server<'_>, kind: u8, parts: &[&dyn Part]) -> (u8, Vec<u8>) {
    let answer = server.answer(request(kind, parts)).unwrap();
    assert_eq!(answer[5..9], [0, 0, 0, 9], "the id of the request");
    (answer[4], answer[9..].to_vec())
}

/// The status of an answer.
fn code(answer: &(u8, Vec<u8>)) -> u32 {
    assert_eq!(answer.0, 101, "{answer:?}");
    u32::from_be_bytes(answer.1[..4].try_into().unwrap())
}

fn handle(answer: &(u8, Vec<u8>)) -> Vec<u8> {
    assert_eq!(answer.0, 102, "{answer:?}");
    answer.1[4..].to_vec()
}

const NONE: u32 = 0;

#[test]
fn files_are_written_read_renamed_and_removed() {
    let world = World::new();
    let mut server = world.server();
    let flags = open::WRITE | open::CREATE | open::TRUNCATE;
    // Rights are asked for with the new file: no more than others may have.
    let file = handle(&ask(&mut server, packet::OPEN, &[&"new", &flags, &4_u32, &0o777_u32]));
    assert_eq!(code(&ask(&mut server, packet::WRITE, &[&file, &0_u64, &"hello"])), 0);
    assert_eq!(code(&ask(&mut server, packet::WRITE, &[&file, &5_u64, &" there"])), 0);
    assert_eq!(code(&ask(&mut server, packet::CLOSE, &[&file])), 0);
    assert_eq!(code(&ask(&mut server, packet::CLOSE, &[&file])), 4, "a handle is closed once");
    assert_eq!(fs::read_to_string(world.inside("home/new")).unwrap(), "hello there");
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(world.inside("home/new")).unwrap());
    assert_eq!(mode & 0o022, 0, "{mode:o}");

    let file = handle(&ask(&mut server, packet::OPEN, &[&"/home/new", &open::READ, &NONE]));
    let (kind, data) = ask(&mut server, packet::READ, &[&file, &6_u64, &100_u32]);
    assert_eq!((kind, &data[4..]), (103, &b"there"[..]));
    assert_eq!(code(&ask(&mut server, packet::READ, &[&file, &11_u64, &100_u32])), 1);

    assert_eq!(code(&ask(&mut server, packet::RENAME, &[&"new", &"file"])), 4, "nothing is replaced unasked");
    assert_eq!(code(&ask(&mut server, packet::EXTENDED, &[&"posix-rename@openssh.com", &"new", &"file"])), 0);
    assert_eq!(fs::read_to_string(world.inside("home/file")).unwrap(), "hello there");
    assert_eq!(code(&ask(&mut server, packet::SETSTAT, &[&"file", &5_u32, &5_u64, &0o600_u32])), 0);
    assert_eq!(fs::read_to_string(world.inside("home/file")).unwrap(), "hello");
    assert_eq!(code(&ask(&mut server, packet::MKDIR, &[&"d", &NONE])), 0);
    assert_eq!(code(&ask(&mut server, packet::RMDIR, &[&"d"])), 0);
    assert_eq!(code(&ask(&mut server, packet::REMOVE, &[&"file"])), 0);
    assert_eq!(code(&ask(&mut server, packet::STAT, &[&"file"])), 2);
    assert_eq!(code(&ask(&mut server, packet::EXTENDED, &[&"unknown@example.org"])), 8);
}

#[test]
fn nothing_leads_out_of_the_tree() {
    let world = World::new();
    let mut server = world.server();
    for path in ["out", "/host/secret", "/../secret", "../../secret", "/home/deep/../../../secret"] {
        let read = ask(&mut server, packet::OPEN, &[&path, &open::READ, &NONE]);
        assert_eq!(code(&read), 2, "{path} leads out");
        assert_eq!(code(&ask(&mut server, packet::STAT, &[&path])), 2, "{path} leads out");
        assert_ne!(code(&ask(&mut server, packet::SETSTAT, &[&path, &4_u32, &0o777_u32])), 0, "{path} leads out");
    }
    // A link that is made here leads nowhere else either.
    assert_eq!(code(&ask(&mut server, packet::SYMLINK, &[&"/../..", &"up"])), 0);
    let made = ask(&mut server, packet::OPEN, &[&"up/made", &(open::WRITE | open::CREATE), &NONE]);
    assert_eq!(made.0, 102, "it is the root of the tree");
    assert!(world.inside("made").exists() && !world.directory.path().join("made").exists());
    assert_ne!(code(&ask(&mut server, packet::REMOVE, &[&"/host/secret"])), 0);
    assert_ne!(code(&ask(&mut server, packet::RENAME, &[&"/home/file", &"/host/secret"])), 0);
    assert_ne!(code(&ask(&mut server, packet::EXTENDED, &[&"hardlink@openssh.com", &"/host/secret", &"x"])), 0);
    assert_eq!(fs::read_to_string(world.directory.path().join("secret")).unwrap(), "outside");
    // Paths are told as they are inside.
    let (_, name) = ask(&mut server, packet::REALPATH, &[&"../../../etc/./x/.."]);
    assert_eq!(name[4..12], [0, 0, 0, 4, b'/', b'e', b't', b'c']);
}

#[test]
fn what_has_no_storage_is_neither_read_nor_written() {
    let world = World::new();
    let mut server = world.server();
    nix::unistd::mkfifo(&world.inside("home/pipe"), Mode::from_bits_truncate(0o666)).unwrap();
    let refused = ask(&mut server, packet::OPEN, &[&"pipe", &open::READ, &NONE]);
    assert_eq!(code(&refused), 3);
    assert!(String::from_utf8_lossy(&refused.1).contains("not an ordinary file"));
    assert_eq!(code(&ask(&mut server, packet::OPEN, &[&"deep", &open::READ, &NONE])), 4);
    // The kernel's own files, seen from a tree that has them.
    let tree = Tree { top: File::open("/").unwrap().into(), base: 0 };
    let mut server = Server { tree: &tree, home: "/".into(), handles: HashMap::new(), next: 0 };
    for (path, flags) in [("/proc/self/oom_score_adj", open::WRITE), ("/proc/version", open::READ)] {
        assert_eq!(code(&ask(&mut server, packet::OPEN, &[&path, &flags, &NONE])), 3, "{path}");
    }
    for change in [&[&2_u32 as &dyn Part, &0_u32, &0_u32][..], &[&4_u32, &0o777_u32], &[&8_u32, &0_u32, &0_u32]] {
        let parts = [&[&"/proc/version" as &dyn Part], change].concat();
        assert_eq!(code(&ask(&mut server, packet::SETSTAT, &parts)), 3);
    }
    assert_eq!(code(&ask(&mut server, packet::MKDIR, &[&"/proc/none", &NONE])), 3);
    assert_eq!(code(&ask(&mut server, packet::RENAME, &[&"/proc/version", &"/proc/other"])), 3);
}

#[test]
fn directories_are_listed_in_parts() {
    let world = World::new();
    for number in 0..150 {
        fs::write(world.inside("home/deep").join(number.to_string()), "").unwrap();
    }
    let mut server = world.server();
    let directory = handle(&ask(&mut server, packet::OPENDIR, &[&"deep"]));
    let mut seen = 0;
    loop {
        let answer = ask(&mut server, packet::READDIR, &[&directory]);
        if answer.0 == 101 {
            assert_eq!(code(&answer), 1);
            break;
        }
        seen += u32::from_be_bytes(answer.1[..4].try_into().unwrap());
    }
    assert_eq!(seen, 150);
    assert_eq!(code(&ask(&mut server, packet::OPENDIR, &[&"file"])), 4);
}

#[test]
fn damaged_requests_and_too_many_files_are_refused() {
    let world = World::new();
    let mut server = world.server();
    assert_eq!(code(&ask(&mut server, packet::OPEN, &[&"file"])), 5);
    assert_eq!(code(&ask(&mut server, packet::STAT, &[&"a\0b"])), 4);
    assert_eq!(code(&ask(&mut server, 99, &[])), 8);
    assert!(server.answer(Bytes::from_static(&[7, 0])).is_err());
    for _ in 0..HANDLES {
        handle(&ask(&mut server, packet::OPEN, &[&"file", &open::READ, &NONE]));
    }
    assert_eq!(code(&ask(&mut server, packet::OPEN, &[&"file", &open::READ, &NONE])), 4);
}
