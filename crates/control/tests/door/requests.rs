//! Single requests: who is let in, how often something is carried out, what a refusal says, and what is recorded.

use crate::world::{World, name, refusal};
use serde_json::{Value, json};
use yun_control::rows::InstanceRow;
use yun_types::{Generation, Instance, InstanceStatus, Metadata, Role};

async fn send(
    world: &World,
    secret: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Value,
) -> reqwest::Response {
    let mut request = world.http(secret).request(method.parse().unwrap(), world.url(path));
    for (key, value) in headers {
        request = request.header(*key, *value);
    }
    if !body.is_null() {
        request = request.json(&body);
    }
    request.send().await.unwrap()
}

async fn json(response: reqwest::Response) -> Value {
    let status = response.status();
    let text = response.text().await.unwrap();
    assert!(status.is_success(), "{status}: {text}");
    serde_json::from_str(&text).unwrap_or_default()
}

/// Puts an instance into the state, past the ops: nothing runs it.
async fn plant(world: &World, project: &str, instance: &str, labels: &[(&str, &str)]) {
    let spec = serde_json::from_value(json!({"kind": "container", "image": "none"})).unwrap();
    let metadata = Metadata {
        id: uuid::Uuid::new_v4(),
        name: name(instance),
        project: Some(name(project)),
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        created: chrono::DateTime::UNIX_EPOCH,
        generation: Generation(1),
        revision: String::new(),
        deleting: None,
    };
    let row = InstanceRow(Instance { metadata, spec, status: InstanceStatus::default() });
    let rev = world.control.instances.table.create(&[project, instance], &row).await.unwrap();
    world.control.instances.cache.wait_for(rev).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_trusts_our_authority_connects_and_it_survives_a_restart() {
    let world = World::new().await;
    let strangers = reqwest::Client::new();
    let refused = strangers.get(world.url("/v1/ping")).send().await.unwrap_err();
    assert!(refused.is_connect(), "{refused:?}");
    let before = world.http("");
    assert_eq!(before.get(world.url("/v1/ping")).send().await.unwrap().status(), 200);

    let world = world.restart().await;
    let ping = world.client("").ping().send().await.unwrap().into_inner();
    assert_eq!(ping.cloud, world.control.config.cloud);
    assert_eq!(
        before.get(world.url("/v1/ping")).send().await.unwrap().status(),
        200,
        "a client from before the restart still trusts"
    );
    // The names that the operator gave are in the certificate.
    let ca = std::fs::read(yun_control::tls::authority_path(world.directory.path())).unwrap();
    let other = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()])
        .resolve("cloud.example.org", world.running.address)
        .build()
        .unwrap();
    let url = format!("https://cloud.example.org:{}/v1/ping", world.running.address.port());
    assert_eq!(other.get(url).send().await.unwrap().status(), 200);
    world.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_token_learns_how_to_get_one() {
    let world = World::new().await;
    for (secret, word) in [("", "has no token"), ("yun_wrong", "not known here")] {
        let (status, code, message) = refusal(send(&world, secret, "GET", "/v1/whoami", &[], Value::Null).await).await;
        assert_eq!((status, code.as_str()), (401, "Unauthorized"));
        assert!(message.contains(word) && message.contains("yun token create"), "{message}");
    }
    let who = world.admin().whoami().send().await.unwrap().into_inner();
    assert_eq!((who.name.as_str(), who.cloud), ("admin", Some(Role::Admin)));
    world.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_reach_no_further_than_their_makers_and_end_at_once() {
    let world = World::new().await;
    world.project("alpha").await;
    world.project("beta").await;
    let alpha = world.token("alpha-admin", None, &[("alpha", Role::Admin)]).await;
    let make = async |spec: Value| {
        refusal(send(&world, &alpha, "POST", "/v1/tokens", &[], json!({"name": "t", "spec": spec})).await).await
    };
    assert_eq!(make(json!({"cloud": "viewer"})).await.0, 403);
    assert_eq!(make(json!({"projects": {"beta": "viewer"}})).await.0, 404);
    assert_eq!(make(json!({"projects": {}})).await.1, "NoRole");
    assert_eq!(make(json!({"projects": {"alpha": "viewer"}, "expires": "2001-01-01T00:00:00Z"})).await.1, "Expired");

    let made = json(
        send(
            &world,
            &alpha,
            "POST",
            "/v1/tokens",
            &[],
            json!({"name": "t", "spec": {"projects": {"alpha": "viewer"}}}),
        )
        .await,
    )
    .await;
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert_eq!(send(&world, &secret, "GET", "/v1/instances?project=alpha", &[], Value::Null).await.status(), 200);
    assert_eq!(make(json!({"projects": {"alpha": "viewer"}})).await.1, "Exists");
    // The list shows each caller their own reach, and never a hash.
    let list = send(&world, &alpha, "GET", "/v1/tokens", &[], Value::Null).await.text().await.unwrap();
    assert!(
        list.contains("\"t\"")
            && list.contains("alpha-admin")
            && !list.contains("\"admin\":")
            && !list.contains("sha256"),
        "{list}"
    );
    assert_eq!(
        json(send(&world, &secret, "GET", "/v1/tokens", &[], Value::Null).await).await["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    assert_eq!(send(&world, &alpha, "DELETE", "/v1/tokens/t", &[], Value::Null).await.status(), 204);
    assert_eq!(send(&world, &secret, "GET", "/v1/whoami", &[], Value::Null).await.status(), 401);
    let (status, code, _) =
        refusal(send(&world, &world.admin, "DELETE", "/v1/tokens/admin", &[], Value::Null).await).await;
    assert_eq!((status, code.as_str()), (409, "LastAdmin"));

    // The owner of the machine can always come back in.
    let again = yun_control::reissue_admin_token(&world.control).await.unwrap();
    assert_eq!(send(&world, &world.admin, "GET", "/v1/whoami", &[], Value::Null).await.status(), 401);
    assert_eq!(send(&world, &again, "GET", "/v1/whoami", &[], Value::Null).await.status(), 200);
    world.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_nowhere_on_the_disk() {
    let world = World::new().await;
    world.project("alpha").await;
    let secret = world.token("t", None, &[("alpha", Role::Editor)]).await;
    let body = json!({"name": "web", "spec": {"kind": "container", "image": "none", "container": {"env": {"PASSWORD": "hunter2-in-env"}}}});
    send(&world, &secret, "POST", "/v1/instances?project=alpha", &[], body).await;
    send(&world, "", "POST", "/v1/projects", &[], json!({"name": "x"})).await;
    let (directory, admin) = (std::sync::Arc::clone(&world.directory), world.admin.clone());
    world.running.shutdown().await;
    let mut files = vec![directory.path().to_owned()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let content = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        assert!(!content.contains(&admin) && !content.contains(&secret), "a token's secret is in {}", path.display());
        let journal = path.extension().is_some_and(|extension| extension == "jsonl");
        assert!(
            !journal || !content.contains("hunter2-in-env"),
            "the environment of an instance is in {}",
            path.display()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_recorded_also_those_that_were_refused() {
    let world = World::new().await;
    world.project("alpha").await;
    let viewer = world.token("viewer", None, &[("alpha", Role::Viewer)]).await;
    send(&world, &world.admin, "POST", "/v1/projects", &[], json!({"name": "gamma"})).await;
    send(&world, &viewer, "DELETE", "/v1/instances/web?project=alpha", &[], Value::Null).await;
    send(&world, "", "POST", "/v1/projects", &[], json!({"name": "delta"})).await;
    send(&world, &viewer, "GET", "/v1/instances?project=alpha", &[], Value::Null).await;
    let page = json(send(&world, &world.admin, "GET", "/v1/audit?limit=2", &[], Value::Null).await).await;
    let next = page["next_page"].as_str().unwrap();
    let rest = json(
        send(&world, &world.admin, "GET", &format!("/v1/audit?limit=2&page_token={next}"), &[], Value::Null).await,
    )
    .await;
    let records: Vec<Value> =
        [&page, &rest].iter().flat_map(|page| page["items"].as_array().unwrap().clone()).collect();
    let told = |record: &Value| {
        let text = |key: &str| record[key].as_str().unwrap_or("-").to_owned();
        format!("{} {} {} {} {}", text("by"), text("action"), text("project"), text("object"), record["status"])
    };
    let told: Vec<String> = records.iter().map(told).collect();
    assert_eq!(
        told,
        [
            "anonymous project_create - delta 401",
            "viewer instance_delete alpha web 403",
            "admin project_create - gamma 201"
        ]
    );
    assert!(
        records
            .iter()
            .all(|record| record["from"] == "127.0.0.1" && record["request_id"].as_str().unwrap().len() == 36)
    );

    let world = world.restart().await;
    let kept = json(send(&world, &world.admin, "GET", "/v1/audit", &[], Value::Null).await).await;
    assert_eq!(kept["items"].as_array().unwrap(), &records);
    world.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_makes_a_request_happen_once() {
    let world = World::new().await;
    let make = async |world: &World, key: &str, project: &str| {
        send(world, &world.admin, "POST", "/v1/projects", &[("idempotency-key", key)], json!({"name": project})).await
    };
    let both = tokio::join!(make(&world, "k1", "gamma"), make(&world, "k1", "gamma"));
    let (one, two) = (json(both.0).await, json(both.1).await);
    assert_eq!(one["metadata"]["id"], two["metadata"]["id"]);

    let (status, code, message) = refusal(make(&world, "k1", "delta").await).await;
    assert_eq!((status, code.as_str()), (422, "IdempotencyKeyReused"), "{message}");
    assert_eq!(refusal(make(&world, "k2", "gamma").await).await.1, "Exists");
    assert_eq!(refusal(make(&world, "no spaces", "delta").await).await.1, "BadIdempotencyKey");
    // What was refused is not remembered: with the same key it may succeed later.
    assert_eq!(make(&world, "k2", "epsilon").await.status(), 201);

    let world = world.restart().await;
    let three = json(make(&world, "k1", "gamma").await).await;
    assert_eq!(one["metadata"]["id"], three["metadata"]["id"]);
    world.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_from_an_old_reading_are_refused() {
    let world = World::new().await;
    world.project("alpha").await;
    let project_admin = world.token("alpha-admin", None, &[("alpha", Role::Admin)]).await;
    let read = send(&world, &world.admin, "GET", "/v1/projects/alpha", &[], Value::Null).await;
    let etag = read.headers()["etag"].to_str().unwrap().to_owned();
    let id = json(read).await["metadata"]["id"].as_str().unwrap().to_owned();
    let change = async |secret: &str, etag: &str, text: &str| {
        send(&world, secret, "PUT", &format!("/v1/projects/{id}"), &[("if-match", etag)], json!({"description": text}))
            .await
    };
    let changed = change(&project_admin, &etag, "one").await;
    assert_eq!(changed.status(), 200);
    assert_ne!(changed.headers()["etag"].to_str().unwrap(), etag);
    let (status, code, message) = refusal(change(&project_admin, &etag, "two").await).await;
    assert_eq!((status, code.as_str()), (412, "Stale"));
    assert!(message.contains("read it again"), "{message}");
    assert_eq!(change(&project_admin, "*", "three").await.status(), 200);

    let quota = json!({"quota": {"instances": 5}});
    let (status, _, message) =
        refusal(send(&world, &project_admin, "PUT", "/v1/projects/alpha", &[], quota.clone()).await).await;
    assert!(status == 403 && message.contains("quota"), "{message}");
    assert_eq!(send(&world, &world.admin, "PUT", "/v1/projects/alpha", &[], quota).await.status(), 200);
    world.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_comes_with_its_network_and_goes_when_it_is_empty() {
    let world = World::new().await;
    world.project("alpha").await;
    let ranges: Vec<ipnet::Ipv4Net> =
        world.control.networks.cache.all(&[]).iter().map(|row| row.value.0.spec.cidr).collect();
    assert_eq!(ranges.len(), 2, "default and alpha have one each");
    assert!(!ranges[0].contains(&ranges[1]) && !ranges[1].contains(&ranges[0]), "{ranges:?}");
    let network =
        json(send(&world, &world.admin, "GET", "/v1/networks/default?project=alpha", &[], Value::Null).await).await;
    assert_eq!(network["status"]["addresses_total"], 253);

    plant(&world, "alpha", "web", &[]).await;
    let delete = async |project: &str| {
        refusal(send(&world, &world.admin, "DELETE", &format!("/v1/projects/{project}"), &[], Value::Null).await).await
    };
    let (status, code, message) = delete("alpha").await;
    assert_eq!((status, code.as_str()), (409, "ProjectInUse"));
    assert!(message.contains("instance web") && message.contains("yun rm -p alpha"), "{message}");
    let (_, _, message) = delete("alhpa").await;
    assert!(message.contains("did you mean alpha?"), "{message}");
    assert_eq!(delete("default").await.1, "ProjectNeeded");

    let both = world.token("both", None, &[("alpha", Role::Viewer), ("default", Role::Viewer)]).await;
    let row = world.control.instances.table.get(&["alpha", "web"]).await.unwrap().unwrap();
    let rev = world.control.instances.table.delete(&["alpha", "web"], row.rev).await.unwrap();
    world.control.instances.cache.wait_for(rev).await.unwrap();
    assert_eq!(delete("alpha").await.0, 204);
    assert!(world.control.networks.table.list(&["alpha"], None, None, 1).await.unwrap().rows.is_empty());
    // Whoever makes a project of that name again has not the old one's people in it.
    world.project("alpha").await;
    assert_eq!(send(&world, &both, "GET", "/v1/instances?project=alpha", &[], Value::Null).await.status(), 404);
    assert_eq!(send(&world, &both, "GET", "/v1/instances", &[], Value::Null).await.status(), 200);
    world.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_and_show_only_what_may_be_seen() {
    let world = World::new().await;
    for project in ["alpha", "beta"] {
        world.project(project).await;
        for number in 0..25 {
            plant(
                &world,
                project,
                &format!("web-{number}"),
                &[("tier", if number % 5 == 0 { "five" } else { "other" })],
            )
            .await;
        }
    }
    let alpha = world.token("alpha-viewer", None, &[("alpha", Role::Viewer)]).await;
    let all = async |secret: &str, query: &str| {
        let (mut names, mut token, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page =
                json(send(&world, secret, "GET", &format!("/v1/instances?{query}{token}"), &[], Value::Null).await)
                    .await;
            let items = page["items"].as_array().unwrap();
            names.extend(items.iter().map(|item| {
                format!(
                    "{}/{}",
                    item["metadata"]["project"].as_str().unwrap(),
                    item["metadata"]["name"].as_str().unwrap()
                )
            }));
            pages += 1;
            assert!(!page["revision"].as_str().unwrap().is_empty());
            match page["next_page"].as_str() {
                Some(next) => token = format!("&page_token={next}"),
                None => return (names, pages),
            }
        }
    };
    let (names, pages) = all(&alpha, "project=alpha&limit=10").await;
    let mut unique: Vec<String> = names.clone();
    unique.sort();
    unique.dedup();
    assert_eq!((names.len(), unique.len(), pages), (25, 25, 3));
    assert_eq!(all(&alpha, "all_projects=true&limit=10").await.0, names, "other projects are not shown");
    let (every, pages) = all(&world.admin, "all_projects=true&limit=10").await;
    assert_eq!((every.len(), pages), (50, 5));
    let (five, pages) = all(&world.admin, "all_projects=true&limit=5&label=tier=five").await;
    assert_eq!((five.len(), pages), (10, 2), "a full last page has no next");
    for (query, code) in [("limit=0", "BadLimit"), ("page_token=!", "BadPageToken"), ("label==x", "BadLabel")] {
        let refused = refusal(
            send(&world, &alpha, "GET", &format!("/v1/instances?project=alpha&{query}"), &[], Value::Null).await,
        )
        .await;
        assert_eq!((refused.0, refused.1.as_str()), (400, code), "{query}");
    }
    world.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_told_what_is_bad_and_what_is_right() {
    let world = World::new().await;
    let post = async |body: &str| {
        let request = world
            .http(&world.admin)
            .post(world.url("/v1/instances"))
            .header("content-type", "application/json")
            .body(body.to_owned());
        refusal(request.send().await.unwrap()).await
    };
    for (body, words) in [
        (
            r#"{"name":"web","spec":{"kind":"container","image":"none","size":"cpu:0"}}"#,
            &["spec.size", "too small", "cpu:1,memory:512M"][..],
        ),
        (r#"{"name":"Web","spec":{"kind":"container","image":"none"}}"#, &["name", "use lower case", "web-1"]),
        (r#"{"name":"web","spec":{"kind":"container","image":"none","colour":1}}"#, &["unknown field `colour`"]),
        ("{", &["not JSON", "EOF"]),
    ] {
        let (status, _, message) = post(body).await;
        assert!(status == 400 && words.iter().all(|word| message.contains(word)), "{status} {message}");
    }
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(3 << 20));
    let (status, _, message) = post(&large).await;
    assert!(status == 400 && message.contains("maximum size"), "{status} {message}");
    let (status, _, message) =
        refusal(send(&world, &world.admin, "GET", "/v1/instances/Web", &[], Value::Null).await).await;
    assert!(status == 400 && message.contains("use lower case"), "{message}");
    let (status, _, message) =
        refusal(send(&world, &world.admin, "GET", "/v1/instances/a%2Fb", &[], Value::Null).await).await;
    assert!(status == 400 && message.contains("'/'"), "{message}");
    let (_, _, message) =
        refusal(send(&world, &world.admin, "GET", "/v1/instances?project=defualt", &[], Value::Null).await).await;
    assert!(message.contains("did you mean default?"), "{message}");
    world.running.shutdown().await;
}
