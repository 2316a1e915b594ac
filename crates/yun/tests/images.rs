//! Images at the command line of the real program: each form is taken in, runs, and can be removed when nobody needs it.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::{Cloud, busybox_root, run, tarred, text};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Writes an OCI image layout of one layer, by hand. Answers its directory.
fn oci_layout(directory: &Path, layer: &[u8], architecture: &str, command: &[&str]) -> PathBuf {
    let layout = directory.join("layout");
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8], kind: &str| {
        let digest = sha256(bytes);
        std::fs::write(blobs.join(&digest), bytes).unwrap();
        json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{digest}"), "size": bytes.len() })
    };
    let layer = put(layer, "layer.v1.tar");
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": { "Cmd": command, "Env": ["FROM=image"], "WorkingDir": "/tmp" },
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let config = put(config.to_string().as_bytes(), "config.v1+json");
    let manifest = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": [layer] });
    let manifest = put(manifest.to_string().as_bytes(), "manifest.v1+json");
    std::fs::write(layout.join("index.json"), json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string())
        .unwrap();
    std::fs::write(layout.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string()).unwrap();
    layout
}

#[test]
fn every_form_of_container_image_is_taken_in_and_runs() {
    if !common::real("container images") {
        return;
    }
    let cloud = Cloud::start();
    let work = cloud.root().join("work");
    let root = work.join("root");
    busybox_root(&root);
    let archive = tarred(&root);
    let layer = std::fs::read(&archive).unwrap();

    // A plain root file system: from a file, compressed, and from standard input.
    let said = cloud.ok(&["image", "import", "plain", &archive, "--", "sh", "-c", "echo hello from plain"]);
    assert!(said.contains("container for amd64"), "{said}");
    run("gzip", &["-k", &archive]);
    cloud.ok(&[
        "image",
        "import",
        "zipped",
        &format!("{archive}.gz"),
        "--entrypoint",
        "/bin/echo",
        "--",
        "hello",
        "from",
        "zipped",
    ]);
    let output =
        cloud.fed(&["image", "import", "piped", "-", "--format", "rootfs", "--", "echo", "hello from piped"], &layer);
    assert!(output.status.success(), "{}", text(&output.stderr));

    // Layouts, by hand and by skopeo.
    let layout = oci_layout(&work, &layer, "amd64", &["sh", "-c", "echo hello from $FROM in $PWD"]);
    let packed = tarred(&layout);
    cloud.ok(&["image", "import", "layout", &packed]);
    let source = format!("oci:{}", layout.display());
    let (docker, oci) = (work.join("docker.tar"), work.join("oci.tar"));
    run(
        "skopeo",
        &["--insecure-policy", "copy", "-q", &source, &format!("docker-archive:{}:docker:latest", docker.display())],
    );
    run("skopeo", &["--insecure-policy", "copy", "-q", &source, &format!("oci-archive:{}", oci.display())]);
    cloud.ok(&["image", "import", "docker", &docker.to_string_lossy()]);
    cloud.ok(&["image", "import", "oci", &oci.to_string_lossy(), "--format", "oci-layout"]);

    let hello = |image: &str| match image {
        "plain" | "zipped" | "piped" => format!("hello from {image}\n"),
        _ => "hello from image in /tmp\n".to_owned(),
    };
    for image in ["plain", "zipped", "piped", "layout", "docker", "oci"] {
        cloud.run(&[
            "launch",
            image,
            image,
            "--restart",
            "never",
            "--size",
            "cpu:0.05,memory:32M,disk:10M",
            "--wait",
            "60",
        ]);
        cloud.until("it has ended", || cloud.state_of(image) == "stopped");
        assert_eq!(cloud.ok(&["logs", image]), hello(image), "{image}");
        assert!(cloud.ok(&["image", "verify", image]).contains("the content is what its digest says"));
    }
    // Given out and taken in again, it runs as before.
    let out = work.join("out.tar").display().to_string();
    cloud.ok(&["image", "export", "layout", &out]);
    assert!(cloud.fails(&["image", "export", "layout", &out]).1.contains("is there already"));
    assert!(cloud.fails(&["image", "export", "layout", "x.raw", "--format", "raw"]).1.contains("choose oci-archive"));
    let piped = cloud.run(&["image", "export", "layout", "-", "--format", "docker-archive"]).stdout;
    assert_eq!(piped, std::fs::read(&out).unwrap());
    cloud.ok(&["image", "import", "again", &out]);
    cloud.run(&["launch", "again", "again", "--restart", "never", "--size", "cpu:0.05,memory:32M,disk:10M"]);
    cloud.until("it has ended", || cloud.state_of("again") == "stopped");
    assert_eq!(cloud.ok(&["logs", "again"]), hello("again"));
    cloud.ok(&["rm", "-f", "again"]);
    cloud.ok(&["image", "rm", "again"]);
    let ls = cloud.json(&["image", "ls"]);
    assert_eq!(ls.as_array().unwrap().len(), 6);
    // The same layer is kept once, whatever form it came in.
    let facts = |image: &str| cloud.json(&["image", "show", image])["status"]["facts"].clone();
    assert_eq!(facts("layout")["digest"], facts("oci")["digest"]);
    assert_eq!(facts("layout")["config"]["command"][0], "sh");
    let layers = std::fs::read_dir(cloud.state().join("images/layers")).unwrap().count();
    assert_eq!(layers, 1, "one content, one directory");
}

#[test]
fn an_image_is_removed_only_when_nobody_uses_it() {
    if !common::real("image removal") {
        return;
    }
    let cloud = Cloud::with_box();
    let checksum = format!("sha256:{}", sha256(&std::fs::read(cloud.root().join("box.tar")).unwrap()));
    let archive = cloud.root().join("box.tar").display().to_string();
    cloud.ok(&["image", "import", "checked", &archive, "--checksum", &checksum]);
    cloud.launch("web", &[], &["sleep", "1000"]);
    let (code, why) = cloud.fails(&["image", "rm", "box"]);
    assert_eq!(code, 5);
    assert!(why.contains("image box") && why.contains("instance web"), "{why}");
    // Its name is taken, and the digest is as good as the name.
    let (code, why) = cloud.fails(&["image", "import", "box", &archive]);
    assert!(code == 5 && why.contains("image box exists"), "{why}");
    let digest = cloud.json(&["image", "show", "box"])["status"]["facts"]["digest"].as_str().unwrap().to_owned();
    assert_eq!(cloud.ok(&["image", "show", &digest[..20], "-o", "name"]).lines().count(), 1);
    cloud.ok(&["rm", "-f", "web"]);
    cloud.ok(&["image", "rm", "box", "checked"]);
    let content =
        |part: &str| std::fs::read_dir(cloud.state().join("images").join(part)).into_iter().flatten().flatten().count();
    cloud.until("the content is gone", || {
        content("blobs/sha256") + content("layers") + content("manifests") + content("staging") == 0
    });
    assert_eq!(cloud.fails(&["image", "show", "box"]).0, 3);
}

#[test]
fn recipes_make_containers_and_virtual_machines_differ_from_them() {
    if !common::real("recipes") {
        return;
    }
    let cloud = Cloud::start();
    let id = cloud.ok(&["image", "build", "busybox", "tools", "--detach", "--", "sh", "-c", "echo built"]);
    assert_eq!(cloud.ok(&["operation", "wait", id.trim()]), "succeeded\n");
    cloud.run(&["launch", "tools", "job", "--restart", "never", "--size", "cpu:0.05,memory:32M,disk:10M"]);
    cloud.until("it has ended", || cloud.state_of("job") == "stopped");
    assert_eq!(cloud.ok(&["logs", "job"]), "built\n");
    let (code, why) = cloud.fails(&["image", "build", "windows"]);
    assert!(code == 2 && why.contains("windows") && why.contains("small-vm"), "{why}");
    let (_, why) = cloud.fails(&["image", "build", "busybox", "more", "--packages", "no-such-package-xyz"]);
    assert!(why.contains("no-such-package-xyz") || why.contains("packages"), "{why}");
    assert_eq!(cloud.json(&["image", "ls"]).as_array().unwrap().len(), 1, "a failed build leaves no image");
    // An import from a place that cannot be reached says so.
    let port = common::free_port();
    let (_, why) = cloud.fails(&["image", "import", "far", &format!("http://127.0.0.1:{port}/image.tar")]);
    assert!(why.contains(&format!("127.0.0.1:{port}")), "{why}");
}
