//! The bodies of the endpoints about snapshots.

use super::{
    etag::tagged,
    idempotency::Turn,
    page::{self, Part},
    visit::{Request, Visit},
};
use crate::{instance, operation, rows::SnapshotRow, snapshot::ops, view::Noun};
use dropshot::{HttpError, HttpResponseAccepted, HttpResponseHeaders, HttpResponseOk};
use http::StatusCode;
use yun_api::cloud::{CreateHeaders, EtagHeader, ListQuery, Page, RestoreQuery, SnapshotCreate, SnapshotPath};
use yun_types::{Name, NameOrId, Operation, Snapshot};

type Accepted = Result<HttpResponseAccepted<Operation>, HttpError>;

pub(super) async fn list(
    rqctx: &Request,
    target: NameOrId,
    query: ListQuery,
) -> Result<HttpResponseOk<Page<Snapshot>>, HttpError> {
    let visit = Visit::of_project(rqctx, query.project.clone()).on(&target);
    let page = (|| {
        visit.enter()?;
        let part = Part::of(&query)?;
        let row = instance::locate(visit.control, &visit.project, &target)?;
        let id = row.value.0.metadata.id.to_string();
        let cache = &visit.control.snapshots.cache;
        let show = |row: &yun_store::Row<SnapshotRow>| SnapshotRow::show(visit.control, row);
        Ok(page::of_cache(cache, &[visit.project.as_str(), &id], &part, |row| &row.metadata().labels, |_| true, show))
    })();
    visit.end(page, StatusCode::OK).await.map(HttpResponseOk)
}

pub(super) async fn create(
    rqctx: &Request,
    target: NameOrId,
    project: Option<Name>,
    headers: CreateHeaders,
    body: SnapshotCreate,
) -> Accepted {
    let visit = Visit::of_project(rqctx, project).on(format_args!("{target}/{}", body.name));
    let work = async {
        let (control, mut caller) = (visit.control, visit.enter()?);
        let request = ("snapshot_create", &visit.project, &target, &body);
        let turn = Turn::wait(control, &mut caller, headers.idempotency_key, &request).await?;
        let operation = match turn.answered() {
            Some(id) => operation::ops::find(control, &caller, id.into()).await?,
            None => ops::create(control, &caller, &visit.project, &target, body).await?,
        };
        turn.end(control, &caller, operation.metadata.id).await.map(|()| operation)
    };
    visit.end(work.await, StatusCode::ACCEPTED).await.map(HttpResponseAccepted)
}

pub(super) async fn get(
    rqctx: &Request,
    path: SnapshotPath,
    project: Option<Name>,
) -> Result<HttpResponseHeaders<HttpResponseOk<Snapshot>, EtagHeader>, HttpError> {
    let visit = Visit::of_project(rqctx, project).on(format_args!("{}/{}", path.instance, path.snapshot));
    let found = visit.enter().and_then(|_| ops::find(visit.control, &visit.project, &path.instance, &path.snapshot));
    let row = visit.end(found, StatusCode::OK).await?;
    Ok(tagged(Noun::show(visit.control, &row), &row.rev.to_string()))
}

pub(super) async fn restore(
    rqctx: &Request,
    path: SnapshotPath,
    query: RestoreQuery,
    headers: CreateHeaders,
) -> Accepted {
    let SnapshotPath { instance, snapshot } = path;
    let disk_only = query.disk_only.unwrap_or_default();
    let visit = Visit::of_project(rqctx, query.project).on(format_args!("{instance}/{snapshot}"));
    let work = async {
        let (control, mut caller) = (visit.control, visit.enter()?);
        let request = ("snapshot_restore", &visit.project, &instance, &snapshot, disk_only);
        let turn = Turn::wait(control, &mut caller, headers.idempotency_key, &request).await?;
        let operation = match turn.answered() {
            Some(id) => operation::ops::find(control, &caller, id.into()).await?,
            None => ops::restore(control, &caller, &visit.project, &instance, &snapshot, disk_only).await?,
        };
        turn.end(control, &caller, operation.metadata.id).await.map(|()| operation)
    };
    visit.end(work.await, StatusCode::ACCEPTED).await.map(HttpResponseAccepted)
}

pub(super) async fn delete(rqctx: &Request, path: SnapshotPath, project: Option<Name>) -> Accepted {
    let SnapshotPath { instance, snapshot } = path;
    let visit = Visit::of_project(rqctx, project).on(format_args!("{instance}/{snapshot}"));
    let work = async { ops::delete(visit.control, &visit.enter()?, &visit.project, &instance, &snapshot).await };
    visit.end(work.await, StatusCode::ACCEPTED).await.map(HttpResponseAccepted)
}
