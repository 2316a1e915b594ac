//! Pulling from registries at the command line of the real program: against Debian's docker-registry, filled by skopeo, and against one
//! that stalls, breaks off and lies.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line and real registries")]

mod common;
#[path = "../../linux/tests/image/registry.rs"]
mod registry;

use common::{Cloud, busybox_root, tarred, text};
use registry::{Blob, Hostile, Registry, Spec, oci_layout};
use std::path::Path;

fn ready(what: &str) -> bool {
    if !common::real(what) {
        return false;
    }
    for program in ["/usr/bin/docker-registry", "/usr/bin/skopeo", "/usr/bin/htpasswd"] {
        if !Path::new(program).exists() {
            eprintln!("SKIPPED {what}: {program} is not there (cargo xtask setup installs it)");
            return false;
        }
    }
    true
}

/// Files in `images/downloads`.
fn downloads(cloud: &Cloud) -> usize {
    std::fs::read_dir(cloud.state().join("images/downloads")).into_iter().flatten().count()
}

fn layers(cloud: &Cloud) -> usize {
    std::fs::read_dir(cloud.state().join("images/layers")).into_iter().flatten().count()
}

#[test]
fn an_image_is_pulled_runs_is_renewed_and_shares_its_layers() {
    if !ready("pulling from docker-registry") {
        return;
    }
    let cloud = Cloud::start();
    let work = cloud.root().join("work");
    let root = work.join("root");
    busybox_root(&root);
    let base = std::fs::read(tarred(&root)).unwrap();
    let extra = work.join("extra");
    std::fs::create_dir_all(extra.join("etc")).unwrap();
    std::fs::write(extra.join("etc/extra"), "second layer\n").unwrap();
    let second = std::fs::read(tarred(&extra)).unwrap();
    let registry = Registry::start(&work, None);
    let echo =
        |n: u8| vec!["sh".to_owned(), "-c".into(), format!("echo version {n}; cat /etc/extra 2>/dev/null; true")];
    // One layer, gzipped by skopeo on its way; then two layers with zstd.
    registry.push(&oci_layout(&work.join("one"), &[&base], "amd64", &echo(1)), "team/web:1", &[]);
    let said = cloud.ok(&["image", "pull", &registry.name("team/web:1")]);
    assert!(said.starts_with("image web-1: container for amd64"), "{said}");
    assert_eq!(downloads(&cloud), 0, "downloads of an image that is here are left");
    registry.push(
        &oci_layout(&work.join("two"), &[&base, &second], "amd64", &echo(2)),
        "team/web:1",
        &["--dest-compress-format", "zstd"],
    );
    cloud.ok(&["image", "pull", &registry.name("team/web:1")]);
    let image = cloud.json(&["image", "show", "web-1"]);
    assert_eq!(image["metadata"]["generation"], 2, "{image}");
    assert_eq!(image["spec"]["source"], registry.name("team/web:1"));
    cloud.until("the old content is gone, and the shared layer is not", || layers(&cloud) == 2);
    // Once more: nothing is new.
    let before = registry.blobs_given();
    cloud.ok(&["image", "pull", &registry.name("team/web:1")]);
    assert_eq!(cloud.json(&["image", "show", "web-1"])["metadata"]["generation"], 2);
    // The config alone is asked for.
    assert!(registry.blobs_given() <= before + 1, "layers that are here were fetched again");
    // By digest, under a name of one's own.
    let digest = registry.digest("team/web:1");
    cloud.ok(&["image", "pull", "pinned", &registry.name(&format!("team/web@{digest}"))]);
    let content = |name: &str| cloud.json(&["image", "show", name])["status"]["facts"]["digest"].clone();
    assert_eq!(content("pinned"), content("web-1"));
    // A launch pulls what is not here, says so, and finds it the next time.
    registry.push(&oci_layout(&work.join("three"), &[&base], "amd64", &echo(3)), "job", &[]);
    for name in ["first", "second"] {
        let reference = registry.name("job");
        let output =
            cloud.run(&["launch", &reference, name, "--restart", "never", "--size", "cpu:0.05,memory:32M,disk:10M"]);
        let pulled = text(&output.stderr).contains(&format!("is not here: pulling {reference}:latest as image job"));
        assert_eq!(pulled, name == "first", "{}", text(&output.stderr));
        cloud.until("it has ended", || cloud.state_of(name) == "stopped");
        assert_eq!(cloud.ok(&["logs", name]), "version 3\n");
    }
    // What nobody uses goes, when it is said.
    let would = cloud.ok(&["image", "prune", "--dry-run", "--keep", "web-1"]);
    assert!(would.contains("would remove pinned") && !would.contains("web-1 ") && !would.contains("job"), "{would}");
    cloud.ok(&["image", "prune", "--keep", "web-1"]);
    assert_eq!(cloud.ok(&["image", "ls", "-o", "name"]), "job\nweb-1\n");
    assert!(cloud.fails(&["image", "prune", "--keep", "wep"]).1.contains("image wep does not exist"));
    // The name of another source is not taken over.
    let (code, why) = cloud.fails(&["image", "pull", "web-1", &registry.name("job")]);
    assert!(code == 5 && why.contains("image web-1 exists"), "{why}");
}

#[test]
fn what_a_registry_does_not_have_is_said_in_its_words() {
    if !ready("refusals of docker-registry") {
        return;
    }
    let cloud = Cloud::start();
    let work = cloud.root().join("work");
    let root = work.join("root");
    busybox_root(&root);
    let base = std::fs::read(tarred(&root)).unwrap();
    let registry = Registry::start(&work, Some(("ann", "right-word")));
    registry.push(&oci_layout(&work.join("one"), &[&base], "amd64", &["sh".to_owned()]), "web:1.27", &[]);
    registry.push(
        &oci_layout(&work.join("arm"), &[&base], "arm64", &["sh".to_owned()]),
        "arm:1",
        &["--override-arch", "arm64"],
    );
    let at = |path: &str| registry.name(path);
    let refused = |words: &[&str], word: &str, pieces: &[&str]| {
        let output = cloud.fed(&[&["image", "pull"], words].concat(), word.as_bytes());
        let why = text(&output.stderr);
        assert!(!output.status.success(), "{words:?} was pulled");
        for piece in pieces {
            assert!(why.contains(piece), "{piece:?} is not in: {why}");
        }
        assert!(!why.contains("wrong-word") && !cloud.log().contains("-word"), "a password is shown: {why}");
    };
    let ann = ["--user", "ann", "--password-stdin"];
    let as_ann = |reference: &'static str| [vec![at(reference)], ann.map(str::to_owned).to_vec()].concat();
    fn strs(words: &[String]) -> Vec<&str> {
        words.iter().map(String::as_str).collect()
    }
    refused(&[&at("web:1.27")], "", &["lets in only whom it knows", "--user"]);
    refused(
        &strs(&as_ann("web:1.27")),
        "wrong-word\n",
        &["refuses the user", "ann", "check the name and the password"],
    );
    refused(&strs(&as_ann("web:1.27")), "\n", &["password on standard input is empty"]);
    refused(&strs(&as_ann("web:1.28")), "right-word\n", &["manifest unknown", "did you mean web:1.27?"]);
    refused(&strs(&as_ann("wep:1.27")), "right-word\n", &["manifest unknown", "check the spelling of wep"]);
    refused(&strs(&as_ann("arm:1")), "right-word\n", &["arm64", "amd64"]);
    let absent = format!("web@sha256:{}", "0".repeat(64));
    refused(&[&at(&absent), "--user", "ann", "--password-stdin"], "right-word\n", &["manifest unknown"]);
    refused(&[&at("Web")], "", &["lower case"]);
    let port = common::free_port();
    refused(&[&format!("127.0.0.1:{port}/web")], "", &["cannot be reached", "check the name"]);
    // Remembered for the next time, in a file for one's own eyes.
    let output = cloud.fed(&["image", "login", registry.host(), "--user", "ann", "--password-stdin"], b"right-word\n");
    assert!(output.status.success(), "{}", text(&output.stderr));
    cloud.ok(&["image", "pull", &at("web:1.27")]);
    let file = cloud.root().join("registries.toml");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    cloud.ok(&["image", "logout", registry.host()]);
    refused(&[&at("web:1.27")], "", &["lets in only whom it knows"]);
    // Nowhere in what the server keeps.
    let kept = std::process::Command::new("grep").args(["-rlaF", "right-word"]).arg(cloud.state()).output().unwrap();
    assert_eq!(text(&kept.stdout), "", "the server keeps the password");
}

#[test]
fn a_registry_that_breaks_off_lies_or_stalls_is_bounded_and_gone_on_with() {
    if !common::real("hostile registries") {
        return;
    }
    let cloud = Cloud::start();
    let work = cloud.root().join("work");
    let root = work.join("root");
    busybox_root(&root);
    let base = std::fs::read(tarred(&root)).unwrap();
    let hostile = Hostile::start(&base);
    let refused = |blob: Blob, pieces: &[&str]| {
        hostile.will(blob);
        let (_, why) = cloud.fails(&["image", "pull", "bad", &hostile.name("web")]);
        for piece in pieces {
            assert!(why.contains(piece), "{piece:?} is not in: {why}");
        }
        assert_eq!(cloud.ok(&["image", "ls", "-o", "name"]), "", "a refused image is in the catalogue");
    };
    refused(Blob::Other, &["expected sha256:", "got sha256:"]);
    assert_eq!(downloads(&cloud), 0, "damaged bytes are gone on with");
    refused(Blob::Long, &["longer than its manifest says"]);
    // It always breaks off at the same place: given up, said, and what has arrived is kept.
    refused(Blob::BreaksAlwaysAt(1000), &["broke off after 1 KB", "is kept"]);
    assert_eq!(downloads(&cloud), 1);
    hostile.spec(Spec::Endless);
    refused(Blob::Whole, &["longer than", "no manifest"]);
    hostile.spec(Spec::Truncated);
    refused(Blob::Whole, &["manifest"]);
    hostile.spec(Spec::Right);
    // It breaks off every 200 kB: each connection goes on where the last one ended, from the kept 1000 bytes on.
    hostile.will(Blob::BreaksEvery(200_000));
    cloud.ok(&["image", "pull", "good", &hostile.name("web")]);
    let ranges = hostile.ranges();
    assert!(ranges.first() == Some(&1000) && ranges.len() > 2, "{ranges:?}");
    assert!(ranges.windows(2).all(|pair| pair[0] < pair[1]), "{ranges:?}");
    cloud.ok(&["image", "verify", "good"]);
    assert_eq!(downloads(&cloud), 0);
}
