//! `yun apply` on the real thing: several documents, a second time that changes nothing, differences, pruning, refusals with their place.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::{Cloud, real, text};

const FILE: &str = "kind: group
name: web
spec:
  replicas: 2
  template:
    labels: { tier: front }
    spec:
      image: box
      size: cpu:0.05,memory:32M,disk:10M
      container: { command: [sleep, '1000'] }
---
# Instances come before groups, wherever they stand.
kind: instance
name: db
labels: { tier: back }
spec:
  image: box
  size: cpu:0.05,memory:32M,disk:10M
  container: { command: [sleep, '1000'] }
---
kind: project
name: lab
spec: { quota: { instances: 3 } }
";

#[test]
fn files_are_made_so_and_a_second_time_changes_nothing() {
    if !real("apply on the real thing") {
        return;
    }
    let cloud = Cloud::with_box();
    let file = cloud.root().join("shop.yaml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, FILE).unwrap();
    let (code, diff) = {
        let output = cloud.run(&["diff", "-f", path]);
        (output.status.code(), text(&output.stdout))
    };
    assert_eq!(code, Some(1));
    assert!(diff.contains("--- group web (project default): created") && diff.contains("+   replicas: 2"), "{diff}");
    let dry = cloud.ok(&["apply", "-f", path, "--dry-run"]);
    assert_eq!(dry, "project lab created (dry run)\ninstance db created (dry run)\ngroup web created (dry run)\n");
    assert_eq!(cloud.ok(&["ls", "-o", "name"]), "", "a dry run does nothing");

    let apply = |extra: &[&str]| cloud.ok(&[&["apply", "-f", path], extra].concat());
    assert_eq!(apply(&[]), "project lab created\ninstance db created\ngroup web created\n");
    assert_eq!(cloud.ok(&["ls", "-o", "name"]), "db\nweb-1\nweb-2\n");
    assert_eq!(apply(&[]), "project lab unchanged\ninstance db unchanged\ngroup web unchanged\n");
    assert_eq!(cloud.run(&["diff", "-f", path]).status.code(), Some(0));
    assert_eq!(cloud.show("web-1")["metadata"]["labels"]["tier"], "front");

    // What is shown can be applied, and changes nothing.
    for words in [
        &["show", "db", "-o", "yaml"][..],
        &["group", "show", "web", "-o", "yaml"],
        &["project", "show", "lab", "-o", "yaml"],
    ] {
        let shown = cloud.ok(words);
        let output = cloud.fed(&["apply", "-f", "-"], shown.as_bytes());
        let said = text(&output.stdout);
        assert!(output.status.success() && said.trim_end().ends_with(" unchanged"), "{said}{}", text(&output.stderr));
    }

    // A change is rolled out; what is scaled by hand and left out of the file stays.
    cloud.ok(&["group", "scale", "web", "3"]);
    std::fs::write(&file, FILE.replace("  replicas: 2\n", "").replace("'1000'] }\n---", "'2000'] }\n---")).unwrap();
    assert_eq!(apply(&["--set", "shop"]), "project lab unchanged\ninstance db changed\ngroup web changed\n");
    assert_eq!(cloud.show("web-3")["spec"]["container"]["command"][1], "2000");

    // What is in the set and in no file any more goes; what never was in it stays.
    cloud.launch("mine", &[], &["sleep", "1000"]);
    let group_only = FILE.split("---").next().unwrap();
    std::fs::write(&file, group_only).unwrap();
    let pruned = apply(&["--set", "shop", "--prune"]);
    assert!(pruned.contains("instance db removed\n") && !pruned.contains("mine"), "{pruned}");
    assert_eq!(cloud.ok(&["ls", "-o", "name"]), "mine\nweb-1\nweb-2\n");
}

#[test]
fn refusals_name_the_place_and_change_nothing() {
    if !real("refusals of apply") {
        return;
    }
    let cloud = Cloud::start();
    let refused = |text_of_file: &str, wanted: &str| {
        let output = cloud.fed(&["apply", "-f", "-"], text_of_file.as_bytes());
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(wanted), "{wanted:?} is not in {said:?}");
    };
    refused(&FILE.replace("replicas", "replcas"), "stdin:4:3: spec: unknown field `replcas`");
    refused(&FILE.replace("replicas", "replcas"), "did you mean replicas?");
    refused(
        "kind: grup\nname: a\n",
        "stdin:1: kind \"grup\" is unknown: write one of project, image, instance, group; did you mean group?",
    );
    refused("a: [\n", "stdin:");
    refused("", "there is no document in -");
    refused(&format!("{FILE}---\nkind: project\nname: lab\nspec: {{}}\n"), "project lab is in stdin:21 already");
    // The server's own refusals come with the place too.
    refused(FILE, "stdin:13: instance db: image box does not exist");
    let (code, said) = cloud.fails(&["apply", "-f", "/nowhere.yaml"]);
    assert!(code == 1 && said.contains("cannot read /nowhere.yaml"), "{said}");
    let (code, said) = cloud.fails(&["apply", "-f", "x.yaml", "--prune"]);
    assert!(code == 2 && said.contains("--set"), "{said}");
    let empty = tempfile::tempdir().unwrap();
    let (_, said) = cloud.fails(&["apply", "-f", empty.path().to_str().unwrap()]);
    assert!(said.contains("holds no *.yaml"), "{said}");
    let schema: serde_json::Value = serde_json::from_str(&cloud.ok(&["schema"])).unwrap();
    assert!(schema["definitions"]["GroupSpec"]["properties"]["replicas"].is_object());
}
