//! Endpoints of instances whose bodies are more than a line: each reads its request, lets the caller in, calls an op, and writes the answer.

use super::ops;
use crate::{
    http::{
        idempotency::Turn,
        visit::{Request, Visit},
    },
    operation,
};
use dropshot::{HttpError, HttpResponseAccepted};
use http::StatusCode;
use yun_api::cloud::{CreateHeaders, InstanceClone, ScopeQuery};
use yun_types::{NameOrId, Operation};

type Accepted = Result<HttpResponseAccepted<Operation>, HttpError>;

pub(crate) async fn clone(
    rqctx: &Request,
    target: NameOrId,
    query: ScopeQuery,
    headers: CreateHeaders,
    body: InstanceClone,
) -> Accepted {
    let visit = Visit::of_project(rqctx, query.project).on(format_args!("{target} as {}", body.name));
    let work = async {
        let (c, mut caller) = (visit.control, visit.enter()?);
        let request = ("instance_clone", &visit.project, &target, &body);
        let turn = Turn::wait(c, &mut caller, headers.idempotency_key, &request).await?;
        let operation = match turn.answered() {
            Some(id) => operation::ops::find(c, &caller, id.into()).await?,
            None => ops::clone(c, &caller, &visit.project, &target, body).await?,
        };
        turn.end(c, &caller, operation.metadata.id).await.map(|()| operation)
    };
    visit.end(work.await, StatusCode::ACCEPTED).await.map(HttpResponseAccepted)
}
