//! Tests of what the API asks of instances, and what keeps them placed.

use super::*;
use crate::{auth::caller::tests::caller, error::Refusal, fixture::*};
use dropshot::ErrorStatusCode;
use futures::future::join_all;
use std::time::Duration;
use yun_api::cloud::{InstanceAction, InstanceUpdate};
use yun_types::*;

mod life;
mod refusals;
mod rooms;
mod speed;

/// An instance in this state on node `a`.
pub(crate) fn sample(text: &str, state: InstanceState) -> Instance {
    let metadata = Metadata {
        id: Uuid::nil(),
        name: name(text),
        project: Some(Name::default_project()),
        labels: Labels::new(),
        created: chrono::DateTime::UNIX_EPOCH,
        generation: Generation(1),
        revision: String::new(),
        deleting: None,
    };
    let status = InstanceStatus {
        state,
        node: Some(NodeId(Uuid::nil())),
        node_name: Some(name("a")),
        ..InstanceStatus::default()
    };
    Instance { metadata, spec: InstanceSpec { kind: Some(InstanceKind::Container), ..spec() }, status }
}

impl Cloud {
    async fn act(&self, text: &str, action: InstanceAction) -> Result<Operation, Refusal> {
        ops::action(&self.c, &admin(), &name("default"), &named(text), action, None).await
    }

    async fn delete(&self, text: &str) -> Result<Operation, Refusal> {
        ops::delete(&self.c, &admin(), &name("default"), &named(text), None).await
    }

    async fn update(&self, text: &str, change: impl FnOnce(&mut InstanceUpdate)) -> Result<Operation, Refusal> {
        self.update_as(&admin(), text, change).await
    }

    async fn update_as(
        &self,
        caller: &crate::auth::Caller,
        text: &str,
        change: impl FnOnce(&mut InstanceUpdate),
    ) -> Result<Operation, Refusal> {
        let before = self.instance(text).unwrap();
        let mut body = InstanceUpdate { labels: before.metadata.labels, spec: before.spec };
        change(&mut body);
        ops::update(&self.c, caller, &name("default"), &named(text), body, None).await
    }

    async fn explain(&self, text: &str) -> Explanation {
        ops::explain(&self.c, &name("default"), &named(text)).await.unwrap()
    }
}

fn text<T>(result: Result<T, Refusal>) -> String {
    result.err().expect("it should have been refused").message
}
