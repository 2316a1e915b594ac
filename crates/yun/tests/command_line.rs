//! What belongs to the command line as a whole: forms of output, contexts, tokens and roles, projects and quotas, doctor, completion.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::{Cloud, launching, text};
use serde_json::Value;

#[test]
fn every_form_of_output_says_the_same() {
    if !common::real("forms of output") {
        return;
    }
    let cloud = Cloud::with_box();
    assert_eq!(cloud.ok(&["ls"]), "", "an empty list is no output, and a word for people beside it");
    assert_eq!(cloud.ok(&["ls", "-o", "json"]).trim(), "[]");
    cloud.launch("web", &["--label", "tier=web"], &["sleep", "1000"]);
    cloud.launch("db", &["--label", "tier=db"], &["sleep", "1000"]);
    assert_eq!(cloud.ok(&["ls", "-o", "name"]), "db\nweb\n");
    assert_eq!(cloud.ok(&["ls", "-o", "name", "-l", "tier=db"]), "db\n");
    let (narrow, wide) = (cloud.ok(&["ls"]), cloud.ok(&["ls", "-o", "wide"]));
    assert!(narrow.starts_with("NAME  KIND       STATE"), "{narrow}");
    assert!(wide.lines().next().unwrap().contains("PROJECT") && !narrow.contains("PROJECT"));
    let json = cloud.json(&["ls"]);
    assert_eq!(
        (json[0]["metadata"]["name"].as_str(), json[1]["spec"]["kind"].as_str()),
        (Some("db"), Some("container"))
    );
    let yaml = cloud.ok(&["show", "web", "-o", "yaml"]);
    assert!(yaml.starts_with("kind: instance\nmetadata:") && yaml.contains("\n  name: web\n"), "{yaml}");
    assert_eq!(cloud.ok(&["show", "web"]), yaml);
    let id = json[1]["metadata"]["id"].as_str().unwrap().to_owned();
    assert_eq!(cloud.ok(&["show", &id, "-o", "name"]), "web\n", "an id is as good as a name");
    // For programs, an error is data as well.
    let (code, why) = cloud.fails(&["show", "nobody", "-o", "json"]);
    let why: Value = serde_json::from_str(&why).unwrap();
    assert!(code == 3 && why["message"].as_str().unwrap().contains("nobody"), "{why}");
    for words in [
        &["node", "ls"][..],
        &["network", "ls"],
        &["project", "ls"],
        &["token", "ls"],
        &["operation", "ls"],
        &["audit"],
        &["tasks"],
        &["image", "ls"],
    ] {
        assert!(cloud.ok(words).lines().count() >= 2, "{words:?} lists nothing");
        assert!(cloud.json(words).as_array().is_some_and(|all| !all.is_empty()), "{words:?}");
    }
    let events = cloud.ok(&["events", "-o", "json"]);
    let first: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
    assert!(first["reason"].is_string() && first["sequence"].is_u64());
    assert!(cloud.ok(&["audit", "-o", "json"]).contains("instance_create"));
    let why = cloud.json(&["explain", "instance", "web"]);
    assert_eq!(why["candidates"].as_array().unwrap().len(), 1, "{why}");
    // A reader that leaves early is no error.
    let mut child = cloud.command(&["events", "-f"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 1]).unwrap();
    drop(child.stdout.take());
    cloud.launch("third", &[], &["sleep", "1000"]);
    assert!(child.wait().unwrap().success());
}

#[test]
fn roles_say_what_a_token_may() {
    if !common::real("roles") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.launch("web", &[], &["sleep", "1000"]);
    let token = |words: &[&str]| cloud.ok(&[&["token", "create"], words].concat()).trim().to_owned();
    let viewer = token(&["looker", "--role", "viewer", "--in", "default"]);
    let editor = token(&["worker", "--role", "editor", "--in", "default"]);
    assert_eq!(text(&cloud.as_token(&viewer, &["ls", "-o", "name"]).stdout), "web\n");
    for words in [
        &launching("mine", &[], &["sleep", "1"])[..],
        &["stop", "web"],
        &["rm", "-f", "web"],
        &["exec", "web", "--", "id"],
        &["set", "web", "--label", "a=b"],
        &["image", "rm", "box"],
        &["token", "create", "more", "--role", "viewer"],
        &["project", "create", "mine"],
        &["node", "cordon", "vm"],
    ] {
        let output = cloud.as_token(&viewer, words);
        assert_eq!(output.status.code(), Some(4), "viewer {words:?}: {}{}", text(&output.stdout), text(&output.stderr));
        assert!(
            text(&output.stderr).contains("looker") || text(&output.stderr).contains("viewer"),
            "{}",
            text(&output.stderr)
        );
    }
    assert_eq!(cloud.state_of("web"), "running");
    assert!(cloud.as_token(&editor, &["exec", "web", "--", "true"]).status.success());
    assert_eq!(cloud.as_token(&editor, &["token", "create", "more", "--role", "admin"]).status.code(), Some(4));

    // Another project's objects are as if they did not exist.
    cloud.ok(&["project", "create", "lab"]);
    let outsider = token(&["outsider", "--role", "admin", "--in", "lab"]);
    for words in [&["show", "web"][..], &["exec", "web", "--", "id"], &["rm", "-f", "web"], &["logs", "web"]] {
        let (there, nowhere) =
            (cloud.as_token(&outsider, words), cloud.as_token(&outsider, &[&["-p", "nowhere"], words].concat()));
        assert_eq!(
            (there.status.code(), nowhere.status.code()),
            (Some(3), Some(3)),
            "{words:?}: {}",
            text(&there.stderr)
        );
        assert_eq!(
            text(&there.stderr).replace("default", "X"),
            text(&nowhere.stderr).replace("nowhere", "X"),
            "the answers can be told apart"
        );
    }
    let id = cloud.show("web")["metadata"]["id"].as_str().unwrap().to_owned();
    assert_eq!(cloud.as_token(&outsider, &["-p", "lab", "show", &id]).status.code(), Some(3), "nor by its id");
    assert!(!text(&cloud.as_token(&outsider, &["-p", "lab", "events"]).stdout).contains("web"));

    // A wrong, an absent and a revoked token.
    for secret in ["yun_0000000000000000000000000000", "x"] {
        let output = cloud.as_token(secret, &["ls"]);
        assert_eq!(output.status.code(), Some(4));
        assert!(text(&output.stderr).contains("token"), "{}", text(&output.stderr));
    }
    cloud.ok(&["token", "rm", "looker"]);
    assert_eq!(cloud.as_token(&viewer, &["ls"]).status.code(), Some(4), "a revoked token works no more");
    let brief = token(&["brief", "--role", "viewer", "--expires", "1s"]);
    cloud.until("an expired token works no more", || cloud.as_token(&brief, &["ls"]).status.code() == Some(4));
    assert!(cloud.ok(&["token", "whoami"]).contains("admin"));
    let audit = cloud.ok(&["audit", "-n", "200"]);
    assert!(audit.contains("looker") && audit.contains("403"), "{audit}");
    assert!(
        ![&viewer, &editor, &outsider].iter().any(|secret| audit.contains(secret.as_str())),
        "a secret is in the audit log"
    );
}

#[test]
fn a_quota_holds_and_says_what_is_left() {
    if !common::real("quotas") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.ok(&["project", "create", "lab", "--quota", "instances=1,memory=64M"]);
    let archive = cloud.root().join("box.tar").display().to_string();
    cloud.ok(&["-p", "lab", "image", "import", "box", &archive]);
    let lab = |words: Vec<&str>| cloud.run(&[&["-p", "lab"][..], &words].concat());
    assert!(lab(launching("one", &[], &["sleep", "1000"])).status.success());
    let refused = lab(launching("two", &[], &["sleep", "1000"]));
    let why = text(&refused.stderr);
    assert!(refused.status.code() == Some(5) && why.contains("lab") && why.contains("instances"), "{why}");
    let refused = lab(vec!["set", "one", "--size", "cpu:0.05,memory:65M,disk:10M"]);
    let why = text(&refused.stderr);
    assert!(!refused.status.success() && why.contains("memory") && why.contains("64 MB"), "{why}");
    assert!(cloud.ok(&["project", "ls"]).contains("1/1"));
    let (code, why) = cloud.fails(&["project", "rm", "lab"]);
    assert!(code == 5 && why.contains("one"), "{why}");
    cloud.ok(&["project", "quota", "lab", "none"]);
    assert!(lab(launching("two", &[], &["sleep", "1000"])).status.success());
    cloud.ok(&["-p", "lab", "rm", "-f", "one", "two"]);
    cloud.ok(&["-p", "lab", "image", "rm", "box"]);
    cloud.ok(&["project", "rm", "lab"]);
    let (_, why) = cloud.fails(&["project", "create", "lab", "--quota", "ram=1"]);
    assert!(why.contains("ram") && why.contains("memory"), "{why}");
}

#[test]
fn contexts_choose_the_cloud_and_the_project() {
    if !common::real("contexts") {
        return;
    }
    let cloud = Cloud::start();
    let shown = cloud.ok(&["config", "show"]);
    assert!(shown.contains("(set)") && !shown.contains("yun_"), "a secret is shown: {shown}");
    cloud.ok(&["config", "set", "lab", "--host", "https://127.0.0.1:1"]);
    assert!(cloud.ok(&["config", "ls"]).contains("lab"));
    cloud.ok(&["config", "use", "lab"]);
    let (code, why) = cloud.fails(&["ls"]);
    assert!(code == 6 && why.contains("https://127.0.0.1:1") && why.contains("yun status"), "{why}");
    let (_, why) = cloud.fails(&["--context", "nowhere", "ls"]);
    assert!(why.contains("nowhere") && why.contains("lab"), "{why}");
    cloud.ok(&["config", "rm", "lab"]);
    let name = format!("local:{}", cloud.root().display());
    cloud.ok(&["config", "use", &name]);
    cloud.ok(&["project", "create", "lab"]);
    assert!(cloud.ok(&["project", "use", "lab"]).contains("lab"));
    assert_eq!(cloud.json(&["network", "ls"])[0]["metadata"]["project"], "lab");
    // `up` on a running cloud changes nothing.
    let pid = cloud.pid();
    assert!(cloud.ok(&["up", "--no-systemd"]).contains("runs already"));
    assert_eq!(cloud.pid(), pid);
    assert_eq!(cloud.json(&["network", "ls"])[0]["metadata"]["project"], "lab", "the project of the context stays");
    let said = cloud.ok(&["down"]);
    assert!(said.contains("the server has stopped"), "{said}");
    assert_eq!(cloud.fails(&["status"]).0, 6);
    assert!(cloud.ok(&["down"]).contains("no server ran"));
}

#[test]
fn the_doctor_looks_and_completion_knows_the_commands() {
    if !common::real("the doctor") {
        return;
    }
    let cloud = Cloud::start();
    let output = cloud.run(&["doctor"]);
    let said = text(&output.stdout);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{said}{}", text(&output.stderr));
    for check in ["kernel", "cgroups", "disk", "crun", "nft", "containers"] {
        assert!(said.contains(check), "{check} is not looked at:\n{said}");
    }
    let findings: Value = serde_json::from_slice(&cloud.run(&["doctor", "-o", "json"]).stdout).unwrap();
    for finding in findings.as_array().unwrap() {
        assert!(finding["level"] == "ok" || finding["mend"].is_string(), "no way out: {finding}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(cloud.ok(&["completion", shell]).contains("yun"), "{shell}");
    }
    // Live names: what the shell asks at a Tab.
    cloud.ok(&["project", "create", "laboratory"]);
    let mut ask = cloud.command(&["--", "yun", "project", "show", "lab"]);
    ask.env("COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", "3")
        .env("_CLAP_COMPLETE_COMP_TYPE", "9")
        .env("_CLAP_IFS", "\n");
    let output = ask.output().unwrap();
    assert!(text(&output.stdout).contains("laboratory"), "{}{}", text(&output.stdout), text(&output.stderr));
    let help = cloud.ok(&["launch", "--help"]);
    assert!(help.contains("Examples:") && help.contains("--publish"), "{help}");
}
