//! SSH keys by their ops: what is refused, what goes with a project, and who is let in.

use super::{gateway, ops};
use crate::fixture::{Cloud, admin, name, named};
use std::collections::BTreeMap;
use yun_api::cloud::{ProjectCreate, SshKeyCreate};
use yun_types::{InstanceKind, Name, ProjectSpec, PublicKey, Role, SshKey, SshKeySpec};

const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAswVXqfxOkOM1h9osfsETZbgKXK7xQ5XoOozfIXPGGG me@here";
const TWO: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAc8cabbEEV6r+QZToO47SJXjMH2K2CVyv80aZ7TCD1y";

fn body(key: &str, text: &str, role: Role) -> SshKeyCreate {
    let spec = SshKeySpec { public_key: text.parse().unwrap(), role };
    SshKeyCreate { name: name(key), labels: BTreeMap::new(), spec }
}

async fn add(cloud: &Cloud, project: &Name, key: &str, text: &str) -> Result<SshKey, crate::error::Refusal> {
    let row = ops::create(&cloud.c, &admin(), project, body(key, text, Role::Editor)).await?;
    Ok(super::view(&row))
}

#[tokio::test]
async fn a_project_has_a_name_and_a_key_once() {
    let cloud = Cloud::new().await;
    let project = Name::default_project();
    let key = add(&cloud, &project, "laptop", ONE).await.unwrap();
    assert_eq!(key.status.fingerprint, ONE.parse::<PublicKey>().unwrap().fingerprint());
    let again = add(&cloud, &project, "laptop", TWO).await.unwrap_err();
    assert!(again.code == "Exists" && again.message.contains("yun ssh-key rm laptop"), "{again}");
    let same = add(&cloud, &project, "other", &ONE.replace("me@here", "you")).await.unwrap_err();
    assert!(same.code == "SameKey" && same.message.contains("under the name laptop"), "{same}");
    let (one, two) = tokio::join!(add(&cloud, &project, "a", TWO), add(&cloud, &project, "b", TWO));
    assert_eq!(one.err().or(two.err()).expect("one of them comes late").code, "SameKey");
    let body = body("root", TWO, Role::Admin);
    let admin = ops::create(&cloud.c, &admin(), &project, body).await.unwrap_err();
    assert!(admin.message.contains("cannot have the role admin"), "{admin}");
    let near = ops::find(&cloud.c, &project, &named("labtop")).unwrap_err();
    assert!(near.message.contains("did you mean laptop?"), "{near}");
}

#[tokio::test]
async fn a_key_opens_its_project_until_it_is_removed() {
    let cloud = Cloud::new().await;
    let lab = ProjectCreate { name: name("lab"), labels: BTreeMap::new(), spec: ProjectSpec::default() };
    crate::project::ops::create(&cloud.c, &admin(), lab).await.unwrap();
    let key = add(&cloud, &name("lab"), "laptop", ONE).await.unwrap();
    let print = key.status.fingerprint.clone();
    assert!(ops::by_fingerprint(&cloud.c, &name("lab"), &print).is_some() && ops::is_there(&cloud.c, &key));
    assert!(ops::by_fingerprint(&cloud.c, &Name::default_project(), &print).is_none());
    ops::delete(&cloud.c, &name("lab"), &named("laptop")).await.unwrap();
    assert!(ops::by_fingerprint(&cloud.c, &name("lab"), &print).is_none() && !ops::is_there(&cloud.c, &key));
    // The same name again is another key; and all of them go with their project.
    let again = add(&cloud, &name("lab"), "laptop", ONE).await.unwrap();
    assert!(!ops::is_there(&cloud.c, &key) && ops::is_there(&cloud.c, &again));
    crate::project::ops::delete(&cloud.c, &admin(), &named("lab")).await.unwrap();
    assert!(cloud.c.ssh_keys.cache.all(&[]).is_empty());
}

#[tokio::test]
async fn the_gateway_stays_who_it_is() {
    let cloud = Cloud::new().await;
    let made = |word: &'static str| {
        move || {
            let (host_key, client_key) = (format!("{word} host"), format!("{word} client"));
            Ok(gateway::NewIdentity { host_key, client_key, client_public: TWO.into() })
        }
    };
    let before = cloud.c.clock.now() - chrono::Duration::seconds(1);
    let first = gateway::establish(&cloud.c, made("first")).await.unwrap();
    assert!(!format!("{first:?}").contains("first"), "a private key is in a log");
    let cloud = cloud.reopen().await;
    assert_eq!(gateway::establish(&cloud.c, made("second")).await.unwrap(), first);
    assert_eq!(cloud.c.gateway.key_for(InstanceKind::Vm, first.created), Some(TWO));
    assert_eq!(cloud.c.gateway.key_for(InstanceKind::Vm, before), None);
    assert_eq!(cloud.c.gateway.key_for(InstanceKind::Container, first.created), None);
}

#[tokio::test]
async fn a_guests_token_ends_with_the_guard() {
    let cloud = Cloud::new().await;
    let key = add(&cloud, &Name::default_project(), "laptop", ONE).await.unwrap();
    let (secret, guard) = gateway::admit(&cloud.c, &key, [192, 0, 2, 7].into()).unwrap();
    let ask = || {
        let value = format!("Bearer {secret}").parse().unwrap();
        let headers = http::HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]);
        crate::auth::authenticate(&cloud.c, &headers, [127, 0, 0, 1].into(), "r")
    };
    let caller = ask().unwrap();
    assert_eq!((caller.name.as_str(), caller.from.as_str()), ("door:ssh:laptop", "192.0.2.7"));
    assert_eq!((caller.cloud, caller.role_in(&Name::default_project())), (None, Some(Role::Editor)));
    drop(guard);
    assert!(ask().is_err());
}

#[tokio::test]
async fn a_vm_is_known_by_the_key_that_it_showed_first() {
    let cloud = Cloud::new().await;
    let id = yun_types::InstanceId(uuid::Uuid::from_u128(7));
    assert_eq!(gateway::guest_key(&cloud.c, id).await.unwrap(), None);
    gateway::keep_guest_key(&cloud.c, id, "one".into()).await.unwrap();
    assert_eq!(gateway::guest_key(&cloud.c, id).await.unwrap().as_deref(), Some("one"));
    // That instance is not there: with the next key it is forgotten.
    let other = yun_types::InstanceId(uuid::Uuid::from_u128(8));
    gateway::keep_guest_key(&cloud.c, other, "two".into()).await.unwrap();
    assert_eq!(gateway::guest_key(&cloud.c, id).await.unwrap(), None);
}

/// Rows that were written by the first release must be read for ever.
#[tokio::test]
async fn the_first_form_is_still_read() {
    let key: SshKey = serde_json::from_str(include_str!("../../tests/stored/ssh-key-v1.json")).unwrap();
    assert_eq!((key.metadata.name.as_str(), key.spec.role), ("laptop", Role::Viewer));
    assert_eq!(key.spec.public_key.comment(), "me@here");
    let gateway: crate::rows::StoredGateway =
        serde_json::from_str(include_str!("../../tests/stored/ssh-gateway-v1.json")).unwrap();
    assert_eq!(gateway.client_public, "ssh-ed25519 AAAA yun");
}
