//! The endpoints that change networks: each reads its request, lets the caller in, calls an op, and writes the answer.

use super::{ops, view};
use crate::http::{
    idempotency::Turn,
    visit::{Request, Visit},
};
use dropshot::{HttpError, HttpResponseAccepted, HttpResponseCreated, HttpResponseDeleted};
use http::StatusCode;
use yun_api::cloud::{CreateHeaders, Detach, NetworkAttach, NetworkCreate, ScopeQuery};
use yun_types::{NameOrId, Network, Operation};

type Accepted = Result<HttpResponseAccepted<Operation>, HttpError>;

pub(crate) async fn create(
    rqctx: &Request,
    query: ScopeQuery,
    headers: CreateHeaders,
    body: NetworkCreate,
) -> Result<HttpResponseCreated<Network>, HttpError> {
    let visit = Visit::of_project(rqctx, query.project).on(&body.name);
    let work = async {
        let (c, mut caller) = (visit.control, visit.enter()?);
        let request = ("network_create", &visit.project, &body);
        let turn = Turn::wait(c, &mut caller, headers.idempotency_key, &request).await?;
        let row = match turn.answered() {
            Some(id) => ops::find(c, &visit.project, &NameOrId::Id(id))?,
            None => ops::create(c, &caller, &visit.project, body).await?,
        };
        turn.end(c, &caller, row.value.0.metadata.id).await?;
        Ok(view(c, &row))
    };
    visit.end(work.await, StatusCode::CREATED).await.map(HttpResponseCreated)
}

pub(crate) async fn delete(
    rqctx: &Request,
    target: NameOrId,
    query: ScopeQuery,
) -> Result<HttpResponseDeleted, HttpError> {
    let visit = Visit::of_project(rqctx, query.project).on(&target);
    let work = async {
        visit.enter()?;
        ops::delete(visit.control, &visit.project, &target).await
    };
    visit.end(work.await, StatusCode::NO_CONTENT).await.map(|()| HttpResponseDeleted())
}

pub(crate) async fn attach(rqctx: &Request, target: NameOrId, query: ScopeQuery, body: NetworkAttach) -> Accepted {
    let visit = Visit::of_project(rqctx, query.project).on(format_args!("{target} to {}", body.instance));
    let work = async { ops::attach(visit.control, &visit.enter()?, &visit.project, &target, body).await };
    visit.end(work.await, StatusCode::ACCEPTED).await.map(HttpResponseAccepted)
}

pub(crate) async fn detach(rqctx: &Request, target: NameOrId, query: ScopeQuery, body: Detach) -> Accepted {
    let visit = Visit::of_project(rqctx, query.project).on(format_args!("{target} from {}", body.instance));
    let work = async { ops::detach(visit.control, &visit.enter()?, &visit.project, &target, &body.instance).await };
    visit.end(work.await, StatusCode::ACCEPTED).await.map(HttpResponseAccepted)
}
