//! Events and audit records are found by what operators ask: which object, what kind, how bad, since when, by whom.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::Cloud;
use serde_json::Value;

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn events_and_audit_records_are_found_by_what_operators_ask() {
    if !common::real("events and audit") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.launch("web", &["--restart", "never"], &["sleep", "1000"]);
    let _ = cloud.run(&common::launching("broken", &["--restart", "never"], &["/nothing"]));
    let events = |flags: &[&str]| lines(&cloud.ok(&[&["events", "-o", "json"], flags].concat()));
    let all = events(&[]);
    let warnings = events(&["--warnings"]);
    assert!(!warnings.is_empty() && warnings.len() < all.len(), "{all:?}");
    assert!(warnings.iter().all(|event| event["severity"] == "warning"));
    assert!(warnings.iter().any(|event| event["object"]["name"] == "broken"), "{warnings:?}");
    let images = events(&["--kind", "image"]);
    assert!(images.iter().all(|event| event["object"]["kind"] == "image"));
    assert!(events(&["--object", "web"]).iter().all(|event| event["object"]["name"] == "web"));
    let reason = all[0]["reason"].as_str().unwrap();
    assert!(events(&["--reason", reason]).iter().all(|event| event["reason"] == reason));
    assert_eq!(events(&["--since", "1h"]).len(), all.len());
    let future = events(&["--since", "2099-01-01T00:00:00Z"]);
    assert!(future.is_empty());

    let audit = |flags: &[&str]| cloud.json(&[&["audit"], flags].concat()).as_array().unwrap().clone();
    assert!(audit(&["--action", "instance_create"]).iter().all(|record| record["action"] == "instance_create"));
    let ann = cloud.json(&["token", "create", "ann", "--role", "viewer", "--in", "default"]);
    assert!(!cloud.as_token(ann["secret"].as_str().unwrap(), &["stop", "web"]).status.success());
    let refused = audit(&["--refused", "--by", "ann"]);
    assert!(refused.iter().any(|record| record["object"] == "web stop" && record["status"] == 403), "{refused:?}");
    assert!(audit(&["--refused", "--object", "web"]).len() <= audit(&["--object", "web"]).len());
    assert!(!audit(&["--object", "web"]).is_empty() && audit(&["--by", "nobody"]).is_empty());
    for (words, why) in [
        (&["events", "--kind", "cake"][..], "possible values"),
        (&["events", "--since", "soon"], "is not understood"),
        (&["audit", "--since", "soon"], "is not understood"),
    ] {
        assert!(cloud.fails(words).1.contains(why), "{words:?}");
    }
}
