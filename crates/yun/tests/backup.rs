//! Backups at the command line of the real program: made, listed, proved, restored, killed in the middle, by the clock, to a directory and to S3.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line and a real S3 server")]

mod common;

use common::{Cloud, text};
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Where `cargo xtask setup` puts the S3 server of the tests.
const MOTO: &str = "/opt/yun-tests/moto/bin/moto_server";

struct World {
    cloud: Cloud,
    to: String,
    word: String,
}

impl World {
    fn new() -> Self {
        let cloud = Cloud::with_box();
        let to = cloud.root().join("backups").display().to_string();
        let file = cloud.root().join("password");
        std::fs::write(&file, "a long word\n").unwrap();
        Self { cloud, to, word: file.display().to_string() }
    }

    /// A command on the repository with its password.
    fn words<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        [&["backup"], words, &["--to", &self.to, "--password-file", &self.word]].concat()
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        self.cloud.ok(&self.words(words))
    }

    #[track_caller]
    fn refused(&self, words: &[&str], pieces: &[&str]) {
        let (_, why) = self.cloud.fails(words);
        for piece in pieces {
            assert!(why.contains(piece), "{piece:?} is not in: {why}");
        }
    }

    fn list(&self) -> Vec<serde_json::Value> {
        serde_json::from_str(&self.ok(&["ls", "-o", "json"])).unwrap()
    }

    /// The ids of the backups of something, oldest first.
    fn ids(&self, of: &str) -> Vec<String> {
        let rows = self.list();
        rows.iter().filter(|row| row["subject"] == of).map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    }

    fn launch(&self, name: &str) {
        let size = "cpu:0.1,memory:64M,disk:200M";
        self.cloud.ok(&["launch", "box", name, "--size", size, "--wait", "60", "--", "sleep", "100000"]);
    }

    fn inside(&self, name: &str, script: &str) -> String {
        self.cloud.ok(&["exec", name, "--", "sh", "-c", script])
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn an_instance_comes_back_as_it_was_at_each_backup() {
    if !common::real("backups of instances") {
        return;
    }
    let world = World::new();
    world.launch("web");
    world.inside("web", "echo first > /note; rm /etc/group; dd if=/dev/urandom of=/blob bs=1M count=12 2>/dev/null");
    let sum = world.inside("web", "sha256sum /blob");
    world.ok(&["create"]);
    assert_eq!(world.cloud.state_of("web"), "running", "it goes on after its backup");
    world.inside("web", "echo second > /note");
    world.ok(&["create", "web"]);
    let (all, of) = (world.list(), "instance default/web");
    assert_eq!((all.len(), world.ids(of).len(), world.ids("state").len()), (3, 2, 1));
    let added = |id: &str| all.iter().find(|row| row["id"] == id).unwrap()["added"].as_u64().unwrap();
    let ids = world.ids(of);
    assert!(added(&ids[0]) > 12 << 20 && added(&ids[1]) < 5 << 20, "only what changed is stored: {all:?}");
    // Nothing of it can be read without the password.
    let blob = std::fs::read(world.cloud.root().join("box.tar")).unwrap();
    assert!(!blob.is_empty());
    for file in files(Path::new(&world.to)) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(11).any(|w| w == b"default/web"), "{} is readable", file.display());
    }
    let proof = world.ok(&["verify", "--restore"]);
    assert!(
        proof.contains("all is what its name says")
            && proof.contains("its files are whole")
            && proof.contains("a whole state"),
        "{proof}"
    );
    // Beside the living one, from each backup; the newest by name.
    world.ok(&["restore", &ids[0], "--as", "old"]);
    world.ok(&["restore", "web", "--as", "new"]);
    assert_eq!(
        world.inside("old", "cat /note; test -e /etc/group || echo gone; sha256sum /blob"),
        format!("first\ngone\n{sum}")
    );
    assert_eq!(world.inside("new", "cat /note"), "second\n");
    assert_eq!(world.inside("web", "cat /note"), "second\n");
    // Refusals.
    let with = |words: &[&str]| world.words(words).iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let strs = |words: &[String]| {
        words.iter().map(String::as_str).collect::<Vec<&str>>().iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()
    };
    let refused = |words: Vec<String>, pieces: &[&str]| {
        let words = strs(&words);
        world.refused(&words.iter().map(String::as_str).collect::<Vec<_>>(), pieces);
    };
    refused(with(&["restore", "web"]), &["web", "exists"]);
    refused(with(&["restore", "db"]), &["backup db does not exist", "the newest are"]);
    refused(with(&["rm", "web"]), &["backup web does not exist", "give an id"]);
    refused(with(&["create", "nobody"]), &["nobody"]);
    world.refused(&["backup", "ls", "--to", &world.to], &["locked by a password", "--password-file"]);
    let wrong = world.cloud.root().join("wrong");
    std::fs::write(&wrong, "another word\n").unwrap();
    world.refused(
        &["backup", "ls", "--to", &world.to, "--password-file", &wrong.display().to_string()],
        &["does not open"],
    );
    world.refused(
        &["backup", "ls", "--to", "/var/tmp/no-such-place"],
        &["no backup repository", "/var/tmp/no-such-place"],
    );
    world.refused(&["backup", "create", "--to", "/proc/nowhere"], &["/proc/nowhere", "can be made and written to"]);
    world.refused(&["backup", "ls", "--to", "ftp://x/y"], &["s3://bucket/prefix"]);
    world.refused(&["backup", "ls"], &["no backup target is named"]);
    // A chunk is damaged: it is named, with who needs it.
    let chunk = files(&Path::new(&world.to).join("chunks"))
        .into_iter()
        .max_by_key(|f| std::fs::metadata(f).unwrap().len())
        .unwrap();
    let whole = std::fs::read(&chunk).unwrap();
    let mut changed = whole.clone();
    changed[1000] ^= 1;
    std::fs::write(&chunk, &changed).unwrap();
    let name = chunk.file_name().unwrap().to_str().unwrap();
    refused(with(&["verify"]), &[&name[..12], &ids[0], "was changed, or cut short"]);
    refused(with(&["restore", &ids[0], "--as", "bad"]), &["cannot bring instance bad back", &name[..12]]);
    world.cloud.until("the half instance is gone", || world.cloud.state_of("bad") == "absent");
    std::fs::write(&chunk, &whole).unwrap();
    // What no rule keeps goes, and what is left is whole.
    let would = world.ok(&["prune", "--keep-last", "1", "--dry-run"]);
    assert!(would.contains("would remove") && would.contains(&ids[0]) && !would.contains(&ids[1]), "{would}");
    let said = world.ok(&["prune", "--keep-last", "1"]);
    assert!(said.contains("1 backups and"), "{said}");
    assert_eq!(world.ids(of), [ids[1].clone()]);
    world.ok(&["verify"]);
}

#[test]
fn a_machine_comes_back_with_its_disk_beside_the_one_that_goes_on() {
    if !common::real_vms("backups of machines") {
        return;
    }
    let world = World::new();
    let cloud = &world.cloud;
    cloud.ok(&["image", "build", "small-vm", "small"]);
    cloud.ok(&["launch", "small", "vm1", "--size", "cpu:0.5,memory:192Mi,disk:256Mi"]);
    let inside = |name: &str, script: &str| cloud.ok(&["ssh", name, "--wait", "90", "--", script]);
    inside("vm1", "echo kept > /root/note && sync");
    world.ok(&["create", "vm1"]);
    assert_eq!(cloud.state_of("vm1"), "running", "it goes on after its backup");
    assert!(world.list()[0]["held_ms"].as_u64().unwrap() > 0, "{:?}", world.list());
    inside("vm1", "echo changed > /root/note && sync");
    assert!(world.ok(&["verify", "--restore"]).contains("its disk is whole"));
    world.ok(&["restore", "vm1", "--as", "vm2"]);
    assert_eq!(inside("vm2", "cat /root/note; hostname"), "kept\nvm2\n");
    assert_eq!(inside("vm1", "cat /root/note"), "changed\n");
    // The image that it stands on is needed.
    cloud.ok(&["rm", "-f", "vm1", "vm2"]);
    cloud.ok(&["image", "rm", "small"]);
    let (_, why) = cloud.fails(&world.words(&["restore", "vm1"]));
    assert!(why.contains("stands on image small") && why.contains("import, pull or build"), "{why}");
}

#[test]
fn the_state_comes_back_and_what_came_later_is_gone() {
    if !common::real("backups of the state") {
        return;
    }
    let world = World::new();
    world.cloud.ok(&["project", "create", "before"]);
    world.ok(&["create", "--state"]);
    world.cloud.ok(&["project", "create", "after"]);
    let (_, why) = world.cloud.fails(&world.words(&["restore", "state"]));
    assert!(why.contains("the server runs") && why.contains("yun down"), "{why}");
    world.cloud.ok(&["down"]);
    let said = world.ok(&["restore", "state"]);
    assert!(said.contains("the state is that of"), "{said}");
    world.cloud.up();
    let projects = world.cloud.ok(&["project", "ls", "-o", "name"]);
    assert!(projects.contains("before") && !projects.contains("after"), "{projects}");
}

#[test]
fn a_killed_backup_leaves_a_valid_repository_and_its_instance_goes_on() {
    if !common::real("killed backups") {
        return;
    }
    let world = World::new();
    world.launch("web");
    world.inside("web", "dd if=/dev/urandom of=/blob bs=1M count=96 2>/dev/null");
    let held = world.cloud.state().join("backup/held");
    let mut child = world
        .cloud
        .command(&world.words(&["create", "web"]))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    world.cloud.until("the instance is held and data arrive", || {
        files(&held).len() == 1 && files(&Path::new(&world.to).join("chunks")).len() > 2
            || child.try_wait().unwrap().is_some()
    });
    child.kill().unwrap();
    child.wait().unwrap();
    world.cloud.until("the server sets the instance free", || {
        world.cloud.state_of("web") == "running" && files(&held).is_empty()
    });
    let stored = files(&Path::new(&world.to).join("chunks")).len();
    assert!(world.list().is_empty() && stored > 0, "a backup that was killed is listed");
    // The next one takes over the lock and stores only the rest.
    world.ok(&["create", "web"]);
    let added = world.list()[0]["added"].as_u64().unwrap();
    assert!(added < 96 << 20, "what was stored is stored again: {added}");
    world.ok(&["verify"]);
    world.ok(&["prune"]);
    world.ok(&["verify", "--restore"]);
}

#[test]
fn backups_are_made_by_the_clock() {
    if !common::real("backups by the clock") {
        return;
    }
    let world = World::new();
    let (_, why) = world.cloud.fails(&["backup", "schedule", "set", "--every", "5s", "--to", &world.to]);
    assert!(why.contains("too often"), "{why}");
    world.ok(&["schedule", "set", "--every", "24h", "--keep-last", "2"]);
    let shown = || world.cloud.ok(&["backup", "schedule", "show"]);
    world.cloud.until("the first backup is made", || shown().contains("1 backups made"));
    assert_eq!(world.ids("state").len(), 1);
    assert!(shown().contains("every = 86400") && shown().contains("failed = false"), "{}", shown());
    // The schedule says where; the command line need not.
    assert!(world.cloud.ok(&["backup", "ls"]).contains("state"));
    world.cloud.ok(&["backup", "schedule", "off"]);
    assert!(shown().contains("no backup is made by the clock"));
}

/// An S3 server; ended when it is dropped.
struct S3 {
    child: Child,
    port: u16,
}

impl S3 {
    fn start() -> Self {
        let port = common::free_port();
        let child = Command::new(MOTO)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, port }
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn backups_go_to_s3_and_come_back() {
    if !common::real("backups to S3") {
        return;
    }
    if !Path::new(MOTO).exists() {
        eprintln!("SKIPPED backups to S3: {MOTO} is not there (cargo xtask setup installs it)");
        return;
    }
    let s3 = S3::start();
    let world = World::new();
    world.launch("web");
    world.inside("web", "echo in a bucket > /note");
    let run = |words: &[&str], to: &str| {
        let mut command =
            world.cloud.command(&[&["backup"], words, &["--to", to, "--password-file", &world.word]].concat());
        command
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", s3.port))
            .env("AWS_ACCESS_KEY_ID", "key")
            .env("AWS_SECRET_ACCESS_KEY", "secret-key-of-the-test")
            .env("AWS_REGION", "us-east-1");
        command.output().unwrap()
    };
    world.cloud.until("the S3 server answers", || common::http("127.0.0.1", s3.port).is_some());
    let made = Command::new("curl")
        .args(["-sf", "-X", "PUT", &format!("http://127.0.0.1:{}/yun-backups", s3.port)])
        .args(["--user", "key:secret", "--aws-sigv4", "aws:amz:us-east-1:s3"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    let to = "s3://yun-backups/lab";
    for words in [&["create"][..], &["verify", "--restore"], &["restore", "web", "--as", "back"]] {
        let output = run(words, to);
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
    }
    assert_eq!(world.inside("back", "cat /note"), "in a bucket\n");
    let none = text(&run(&["create"], "s3://no-such-bucket/x").stderr);
    assert!(none.contains("make the bucket first"), "{none}");
    drop(s3);
}
