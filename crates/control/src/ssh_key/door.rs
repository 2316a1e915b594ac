//! The endpoints of SSH keys: each reads its request, lets the caller in, calls an op, and writes the answer.

use super::{ops, view};
use crate::http::{
    idempotency::Turn,
    page::{self, Part},
    visit::{Request, Visit},
};
use crate::rows::SshKeyRow;
use dropshot::{HttpError, HttpResponseCreated, HttpResponseDeleted, HttpResponseOk};
use http::StatusCode;
use yun_api::cloud::{CreateHeaders, ListQuery, Page, ScopeQuery, SshKeyCreate};
use yun_types::{NameOrId, SshKey};

pub(crate) async fn list(rqctx: &Request, query: ListQuery) -> Result<HttpResponseOk<Page<SshKey>>, HttpError> {
    let all = query.all_projects.unwrap_or_default();
    let visit = Visit::of_project(rqctx, query.project.clone());
    let page = (|| {
        let caller = visit.enter_list(all)?;
        let part = Part::of(&query)?;
        let project = [visit.project.as_str()];
        let see = |row: &SshKeyRow| row.0.metadata.project.as_ref().is_some_and(|owner| caller.sees(owner));
        let segments: &[&str] = if all { &[] } else { &project };
        let cache = &visit.control.ssh_keys.cache;
        Ok(page::of_cache(cache, segments, &part, |row| &row.0.metadata.labels, see, view))
    })();
    visit.end(page, StatusCode::OK).await.map(HttpResponseOk)
}

pub(crate) async fn create(
    rqctx: &Request,
    query: ScopeQuery,
    headers: CreateHeaders,
    body: SshKeyCreate,
) -> Result<HttpResponseCreated<SshKey>, HttpError> {
    let visit = Visit::of_project(rqctx, query.project).on(&body.name);
    let work = async {
        let (c, mut caller) = (visit.control, visit.enter()?);
        let request = ("ssh_key_create", &visit.project, &body);
        let turn = Turn::wait(c, &mut caller, headers.idempotency_key, &request).await?;
        let row = match turn.answered() {
            Some(id) => ops::find(c, &visit.project, &NameOrId::Id(id))?,
            None => ops::create(c, &caller, &visit.project, body).await?,
        };
        turn.end(c, &caller, row.value.0.metadata.id).await?;
        Ok(view(&row))
    };
    visit.end(work.await, StatusCode::CREATED).await.map(HttpResponseCreated)
}

pub(crate) async fn get(
    rqctx: &Request,
    target: &NameOrId,
    query: ScopeQuery,
) -> Result<HttpResponseOk<SshKey>, HttpError> {
    let visit = Visit::of_project(rqctx, query.project).on(target);
    let found = visit.enter().and_then(|_| ops::find(visit.control, &visit.project, target));
    let row = visit.end(found, StatusCode::OK).await?;
    Ok(HttpResponseOk(view(&row)))
}

pub(crate) async fn delete(
    rqctx: &Request,
    target: &NameOrId,
    query: ScopeQuery,
) -> Result<HttpResponseDeleted, HttpError> {
    let visit = Visit::of_project(rqctx, query.project).on(target);
    let work = async {
        visit.enter()?;
        ops::delete(visit.control, &visit.project, target).await
    };
    visit.end(work.await, StatusCode::NO_CONTENT).await.map(|()| HttpResponseDeleted())
}
