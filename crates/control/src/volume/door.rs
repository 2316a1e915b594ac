//! The endpoints of volumes: each reads its request, lets the caller in, calls an op, and writes the answer.

use super::{ops, view};
use crate::http::{
    etag::{tagged, wanted},
    idempotency::Turn,
    visit::{Request, Visit},
};
use dropshot::{
    HttpError, HttpResponseAccepted, HttpResponseCreated, HttpResponseDeleted, HttpResponseHeaders, HttpResponseOk,
};
use http::StatusCode;
use yun_api::cloud::{
    CreateHeaders, Detach, EtagHeader, ScopeQuery, UpdateHeaders, VolumeAttach, VolumeCreate, VolumeUpdate,
};
use yun_types::{NameOrId, Operation, Volume};

type Tagged = Result<HttpResponseHeaders<HttpResponseOk<Volume>, EtagHeader>, HttpError>;
type Accepted = Result<HttpResponseAccepted<Operation>, HttpError>;

pub(crate) async fn create(
    rqctx: &Request,
    query: ScopeQuery,
    headers: CreateHeaders,
    body: VolumeCreate,
) -> Result<HttpResponseCreated<Volume>, HttpError> {
    let visit = Visit::of_project(rqctx, query.project).on(&body.name);
    let work = async {
        let (c, mut caller) = (visit.control, visit.enter()?);
        let request = ("volume_create", &visit.project, &body);
        let turn = Turn::wait(c, &mut caller, headers.idempotency_key, &request).await?;
        let volume = match turn.answered() {
            Some(id) => view(c, &*ops::find(c, &visit.project, &NameOrId::Id(id))?),
            None => ops::create(c, &caller, &visit.project, body).await?,
        };
        turn.end(c, &caller, volume.metadata.id).await.map(|()| volume)
    };
    visit.end(work.await, StatusCode::CREATED).await.map(HttpResponseCreated)
}

pub(crate) async fn get(rqctx: &Request, target: NameOrId, query: ScopeQuery) -> Tagged {
    let visit = Visit::of_project(rqctx, query.project).on(&target);
    let found = visit.enter().and_then(|_| ops::find(visit.control, &visit.project, &target));
    let row = visit.end(found, StatusCode::OK).await?;
    Ok(tagged(view(visit.control, &row), &row.rev.to_string()))
}

pub(crate) async fn update(
    rqctx: &Request,
    target: NameOrId,
    query: ScopeQuery,
    headers: UpdateHeaders,
    body: VolumeUpdate,
) -> Tagged {
    let visit = Visit::of_project(rqctx, query.project).on(&target);
    let work = async {
        visit.enter()?;
        ops::update(visit.control, &visit.project, &target, body, wanted(headers.if_match)?).await
    };
    let row = visit.end(work.await, StatusCode::OK).await?;
    Ok(tagged(view(visit.control, &row), &row.rev.to_string()))
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

pub(crate) async fn attach(rqctx: &Request, target: NameOrId, query: ScopeQuery, body: VolumeAttach) -> Accepted {
    let visit = Visit::of_project(rqctx, query.project).on(format_args!("{target} to {}", body.instance));
    let work = async { ops::attach(visit.control, &visit.enter()?, &visit.project, &target, body).await };
    visit.end(work.await, StatusCode::ACCEPTED).await.map(HttpResponseAccepted)
}

pub(crate) async fn detach(rqctx: &Request, target: NameOrId, query: ScopeQuery, body: Detach) -> Accepted {
    let visit = Visit::of_project(rqctx, query.project).on(format_args!("{target} from {}", body.instance));
    let work = async { ops::detach(visit.control, &visit.enter()?, &visit.project, &target, &body.instance).await };
    visit.end(work.await, StatusCode::ACCEPTED).await.map(HttpResponseAccepted)
}
