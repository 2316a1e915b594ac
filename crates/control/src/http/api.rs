//! The endpoints: each one reads its request, lets the caller in, calls an op, and writes the answer.

use super::{
    background,
    body::{bytes, lines},
    etag::{tagged, wanted},
    idempotency::Turn,
    page::{self, Part},
    query, snapshots, socket,
    visit::{Request, Visit},
};
use crate::{
    backup,
    core::{Control, Resource},
    error::Refusal,
    events, group, image, instance, network, node, operation, project, ssh_key, token,
    usage::{self, door::Raw, prometheus::Ask},
    view::Noun,
    volume, watch,
};
use dropshot::{
    FreeformBody, Header, HttpError, HttpResponseAccepted, HttpResponseCreated, HttpResponseDeleted,
    HttpResponseHeaders, HttpResponseOk, HttpResponseUpdatedNoContent, Path, Query, StreamingBody, UntypedBody,
    WebsocketChannelResult, WebsocketConnection,
};
use futures::StreamExt;
use http::StatusCode;
use std::{sync::Arc, time::Duration};
use yun_api::cloud::*;
use yun_types::*;

/// The longest wait for an operation.
const LONGEST_WAIT: u32 = 60;

type Answer<T> = Result<HttpResponseOk<T>, HttpError>;
type Tagged<T> = Result<HttpResponseHeaders<HttpResponseOk<T>, EtagHeader>, HttpError>;
type Accepted = Result<HttpResponseAccepted<Operation>, HttpError>;

/// The server's side of the API.
pub(super) enum ApiImpl {}

/// A page of the objects of one kind.
async fn list<T: Noun>(
    rqctx: &Request,
    query: ListQuery,
    resource: impl Fn(&Control) -> &Resource<T>,
) -> Answer<Page<T::Shown>>
where
    Page<T::Shown>: schemars::JsonSchema + serde::Serialize + Send + Sync + 'static,
{
    let all = query.all_projects.unwrap_or_default();
    let visit = Visit::of_project(rqctx, query.project.clone());
    let page = (|| {
        let caller = visit.enter_list(all)?;
        let part = Part::of(&query)?;
        let (control, project) = (visit.control, visit.project.as_str());
        let segments: &[&str] = if all { &[] } else { &[project] };
        let see = |row: &T| row.owner().is_some_and(|owner| caller.sees(owner));
        Ok(page::of_cache(
            &resource(control).cache,
            segments,
            &part,
            |row| &row.metadata().labels,
            see,
            |row| T::show(control, row),
        ))
    })();
    visit.end(page, StatusCode::OK).await.map(HttpResponseOk)
}

/// A row that was found or changed, with its revision.
async fn shown<T: Noun>(
    visit: &Visit<'_>,
    row: Result<Arc<yun_store::Row<T>>, Refusal>,
) -> Result<HttpResponseHeaders<HttpResponseOk<T::Shown>, EtagHeader>, HttpError>
where
    T::Shown: schemars::JsonSchema + serde::Serialize + Send + Sync + 'static,
{
    let row = visit.end(row, StatusCode::OK).await?;
    Ok(tagged(Noun::show(visit.control, &row), &row.rev.to_string()))
}

impl CloudApi for ApiImpl {
    type Context = Arc<Control>;

    async fn ping(rqctx: Request) -> Answer<Ping> {
        Ok(HttpResponseOk(Ping { version: env!("CARGO_PKG_VERSION").to_owned(), cloud: rqctx.context().config.cloud }))
    }

    async fn whoami(rqctx: Request) -> Answer<Whoami> {
        let visit = Visit::of_cloud(&rqctx);
        let who =
            visit.enter().map(|caller| Whoami { name: caller.name, cloud: caller.cloud, projects: caller.projects });
        visit.end(who, StatusCode::OK).await.map(HttpResponseOk)
    }

    async fn watch(rqctx: Request, query: Query<WatchQuery>) -> Answer<FreeformBody> {
        let visit = Visit::of_cloud(&rqctx);
        let opened = visit.enter().and_then(|caller| watch::open(visit.control, caller, query.into_inner()));
        Ok(lines(visit.control, visit.end(opened, StatusCode::OK).await?))
    }

    async fn event_stream(rqctx: Request, query: Query<EventQuery>) -> Answer<FreeformBody> {
        let visit = Visit::of_cloud(&rqctx);
        let opened = visit.enter().and_then(|caller| events::open(visit.control, caller, query.into_inner()));
        Ok(lines(visit.control, visit.end(opened, StatusCode::OK).await?))
    }

    async fn audit_list(rqctx: Request, query: Query<AuditQuery>) -> Answer<Page<AuditRecord>> {
        let visit = Visit::of_cloud(&rqctx);
        let work = async {
            visit.enter()?;
            crate::journal::audit::page(&visit.control.audit, &query.into_inner()).await
        };
        visit.end(work.await, StatusCode::OK).await.map(HttpResponseOk)
    }

    async fn state_snapshot(rqctx: Request) -> Answer<FreeformBody> {
        let visit = Visit::of_cloud(&rqctx);
        let opened = visit.enter().map(|_| backup::snapshot(visit.control));
        Ok(bytes(visit.control, visit.end(opened, StatusCode::OK).await?))
    }

    async fn task_list(rqctx: Request) -> Answer<Vec<BackgroundTask>> {
        let visit = Visit::of_cloud(&rqctx);
        let tasks = visit.enter().map(|_| visit.control.tasks.list().into_iter().map(background::view).collect());
        visit.end(tasks, StatusCode::OK).await.map(HttpResponseOk)
    }

    async fn project_list(rqctx: Request, query: Query<ListQuery>) -> Answer<Page<Project>> {
        // Projects are in no project: every one that the caller sees.
        let query = ListQuery { all_projects: Some(true), ..query.into_inner() };
        list(&rqctx, query, |control| &control.projects).await
    }

    async fn project_create(
        rqctx: Request,
        headers: Header<CreateHeaders>,
        body: Json<ProjectCreate>,
    ) -> Result<HttpResponseCreated<Project>, HttpError> {
        let body = body.into_inner();
        let visit = Visit::of_cloud(&rqctx).on(&body.name);
        let work = async {
            let (control, mut caller) = (visit.control, visit.enter()?);
            let request = ("project_create", &body);
            let turn = Turn::wait(control, &mut caller, headers.into_inner().idempotency_key, &request).await?;
            let row = match turn.answered() {
                Some(id) => project::ops::find(control, &caller, &NameOrId::Id(id))?,
                None => project::ops::create(control, &caller, body).await?,
            };
            turn.end(control, &caller, row.value.0.metadata.id).await?;
            Ok(project::view(control, &row))
        };
        visit.end(work.await, StatusCode::CREATED).await.map(HttpResponseCreated)
    }

    async fn project_get(rqctx: Request, path: Path<ProjectPath>) -> Tagged<Project> {
        let wanted = path.into_inner().project;
        let visit = project_visit(&rqctx, &wanted);
        let found = visit.enter().and_then(|caller| project::ops::find(visit.control, &caller, &wanted));
        let project = project::view(visit.control, &*visit.end(found, StatusCode::OK).await?);
        let revision = project.metadata.revision.clone();
        Ok(tagged(project, &revision))
    }

    async fn project_update(
        rqctx: Request,
        path: Path<ProjectPath>,
        headers: Header<UpdateHeaders>,
        body: Json<ProjectSpec>,
    ) -> Tagged<Project> {
        let target = path.into_inner().project;
        let visit = project_visit(&rqctx, &target);
        let work = async {
            let caller = visit.enter()?;
            let if_match = wanted(headers.into_inner().if_match)?;
            project::ops::update(visit.control, &caller, &target, body.into_inner(), if_match).await
        };
        let row = visit.end(work.await, StatusCode::OK).await?;
        Ok(tagged(project::view(visit.control, &row), &row.rev.to_string()))
    }

    async fn project_delete(rqctx: Request, path: Path<ProjectPath>) -> Result<HttpResponseDeleted, HttpError> {
        let target = path.into_inner().project;
        let visit = Visit::of_cloud(&rqctx).on(&target);
        let work = async { project::ops::delete(visit.control, &visit.enter()?, &target).await };
        visit.end(work.await, StatusCode::NO_CONTENT).await.map(|()| HttpResponseDeleted())
    }

    async fn ssh_key_list(rqctx: Request, query: Query<ListQuery>) -> Answer<Page<SshKey>> {
        ssh_key::door::list(&rqctx, query.into_inner()).await
    }

    async fn ssh_key_create(
        rqctx: Request,
        query: Query<ScopeQuery>,
        headers: Header<CreateHeaders>,
        body: Json<SshKeyCreate>,
    ) -> Result<HttpResponseCreated<SshKey>, HttpError> {
        ssh_key::door::create(&rqctx, query.into_inner(), headers.into_inner(), body.into_inner()).await
    }

    async fn ssh_key_get(rqctx: Request, path: Path<SshKeyPath>, query: Query<ScopeQuery>) -> Answer<SshKey> {
        ssh_key::door::get(&rqctx, &path.into_inner().ssh_key, query.into_inner()).await
    }

    async fn ssh_key_delete(
        rqctx: Request,
        path: Path<SshKeyPath>,
        query: Query<ScopeQuery>,
    ) -> Result<HttpResponseDeleted, HttpError> {
        ssh_key::door::delete(&rqctx, &path.into_inner().ssh_key, query.into_inner()).await
    }

    async fn token_list(rqctx: Request, query: Query<ListQuery>) -> Answer<Page<Token>> {
        let visit = Visit::of_cloud(&rqctx);
        let page = (|| {
            let caller = visit.enter()?;
            let part = Part::of(&query.into_inner())?;
            let cache = &visit.control.tokens.cache;
            Ok(page::of_cache(
                cache,
                &[],
                &part,
                |row| &row.0.token.metadata.labels,
                |row| token::ops::shows(&caller, &row.0.token),
                token::view,
            ))
        })();
        visit.end(page, StatusCode::OK).await.map(HttpResponseOk)
    }

    async fn token_create(
        rqctx: Request,
        body: Json<TokenCreate>,
    ) -> Result<HttpResponseCreated<TokenCreated>, HttpError> {
        let body = body.into_inner();
        let visit = Visit::of_cloud(&rqctx).on(&body.name);
        let work = async { token::ops::create(visit.control, &visit.enter()?, body).await };
        visit.end(work.await, StatusCode::CREATED).await.map(HttpResponseCreated)
    }

    async fn token_delete(rqctx: Request, path: Path<TokenPath>) -> Result<HttpResponseDeleted, HttpError> {
        let target = path.into_inner().token;
        let visit = Visit::of_cloud(&rqctx).on(&target);
        let work = async { token::ops::delete(visit.control, &visit.enter()?, &target).await };
        visit.end(work.await, StatusCode::NO_CONTENT).await.map(|()| HttpResponseDeleted())
    }

    async fn instance_list(rqctx: Request, query: Query<ListQuery>) -> Answer<Page<Instance>> {
        list(&rqctx, query.into_inner(), |control| &control.instances).await
    }

    async fn instance_create(
        rqctx: Request,
        query: Query<ScopeQuery>,
        headers: Header<CreateHeaders>,
        body: Json<InstanceCreate>,
    ) -> Accepted {
        let body = body.into_inner();
        let visit = Visit::of_project(&rqctx, query.into_inner().project).on(&body.name);
        let work = async {
            let (control, mut caller) = (visit.control, visit.enter()?);
            let request = ("instance_create", &visit.project, &body);
            let turn = Turn::wait(control, &mut caller, headers.into_inner().idempotency_key, &request).await?;
            let operation = match turn.answered() {
                Some(id) => operation::ops::find(control, &caller, id.into()).await?,
                None => instance::ops::create(control, &caller, &visit.project, body).await?,
            };
            turn.end(control, &caller, operation.metadata.id).await.map(|()| operation)
        };
        visit.end(work.await, StatusCode::ACCEPTED).await.map(HttpResponseAccepted)
    }

    async fn instance_clone(
        rqctx: Request,
        path: Path<InstancePath>,
        query: Query<ScopeQuery>,
        headers: Header<CreateHeaders>,
        body: Json<InstanceClone>,
    ) -> Accepted {
        let (target, query) = (path.into_inner().instance, query.into_inner());
        instance::door::clone(&rqctx, target, query, headers.into_inner(), body.into_inner()).await
    }

    async fn instance_get(rqctx: Request, path: Path<InstancePath>, query: Query<ScopeQuery>) -> Tagged<Instance> {
        let target = path.into_inner().instance;
        let visit = Visit::of_project(&rqctx, query.into_inner().project).on(&target);
        let work = async {
            visit.enter()?;
            instance::ops::find(visit.control, &visit.project, &target).await
        };
        let row = visit.end(work.await, StatusCode::OK).await?;
        Ok(tagged(Noun::show(visit.control, &row), &row.rev.to_string()))
    }

    async fn instance_update(
        rqctx: Request,
        path: Path<InstancePath>,
        query: Query<ScopeQuery>,
        headers: Header<UpdateHeaders>,
        body: Json<InstanceUpdate>,
    ) -> Accepted {
        let target = path.into_inner().instance;
        let visit = Visit::of_project(&rqctx, query.into_inner().project).on(&target);
        let work = async {
            let caller = visit.enter()?;
            let if_match = wanted(headers.into_inner().if_match)?;
            instance::ops::update(visit.control, &caller, &visit.project, &target, body.into_inner(), if_match).await
        };
        visit.end(work.await, StatusCode::ACCEPTED).await.map(HttpResponseAccepted)
    }

    async fn instance_delete(
        rqctx: Request,
        path: Path<InstancePath>,
        query: Query<ScopeQuery>,
        headers: Header<UpdateHeaders>,
    ) -> Accepted {
        let target = path.into_inner().instance;
        let visit = Visit::of_project(&rqctx, query.into_inner().project).on(&target);
        let work = async {
            let caller = visit.enter()?;
            let if_match = wanted(headers.into_inner().if_match)?;
            instance::ops::delete(visit.control, &caller, &visit.project, &target, if_match).await
        };
        visit.end(work.await, StatusCode::ACCEPTED).await.map(HttpResponseAccepted)
    }

    async fn instance_action(
        rqctx: Request,
        path: Path<InstanceActionPath>,
        query: Query<ActionQuery>,
        headers: Header<CreateHeaders>,
    ) -> Accepted {
        let InstanceActionPath { instance: target, action } = path.into_inner();
        let ActionQuery { project, timeout } = query.into_inner();
        let visit = Visit::of_project(&rqctx, project).on(format_args!("{target} {action}"));
        let work = async {
            let (control, mut caller) = (visit.control, visit.enter()?);
            let request = ("instance_action", &visit.project, &target, action, timeout);
            let turn = Turn::wait(control, &mut caller, headers.into_inner().idempotency_key, &request).await?;
            let operation = match turn.answered() {
                Some(id) => operation::ops::find(control, &caller, id.into()).await?,
                None => instance::ops::action(control, &caller, &visit.project, &target, action, timeout).await?,
            };
            turn.end(control, &caller, operation.metadata.id).await.map(|()| operation)
        };
        visit.end(work.await, StatusCode::ACCEPTED).await.map(HttpResponseAccepted)
    }

    async fn instance_explain(
        rqctx: Request,
        path: Path<InstancePath>,
        query: Query<ScopeQuery>,
    ) -> Answer<Explanation> {
        let target = path.into_inner().instance;
        let visit = Visit::of_project(&rqctx, query.into_inner().project).on(&target);
        let work = async {
            visit.enter()?;
            instance::ops::explain(visit.control, &visit.project, &target).await
        };
        visit.end(work.await, StatusCode::OK).await.map(HttpResponseOk)
    }

    async fn instance_logs(rqctx: Request, path: Path<InstancePath>, query: Query<LogQuery>) -> Answer<FreeformBody> {
        let (target, query) = (path.into_inner().instance, query.into_inner());
        let visit = Visit::of_project(&rqctx, query.project.clone()).on(&target);
        let work = async {
            visit.enter()?;
            instance::ops::logs(visit.control, &visit.project, &target, query::log_request(&query)).await
        };
        let log = visit.end(work.await, StatusCode::OK).await?;
        Ok(lines(visit.control, log.map(|line| line.map(|line| query::log_record(&line)))))
    }

    async fn instance_files_read(
        rqctx: Request,
        path: Path<InstancePath>,
        query: Query<FilesQuery>,
    ) -> Answer<FreeformBody> {
        let (target, query) = (path.into_inner().instance, query.into_inner());
        let visit = Visit::of_project(&rqctx, query.project.clone()).on(&target);
        let work = async {
            visit.enter()?;
            instance::ops::read_files(visit.control, &visit.project, &target, query.path).await
        };
        let archive = visit.end(work.await, StatusCode::OK).await?;
        Ok(bytes(visit.control, archive))
    }

    async fn instance_files_write(
        rqctx: Request,
        path: Path<InstancePath>,
        query: Query<FilesQuery>,
        body: StreamingBody,
    ) -> Result<HttpResponseUpdatedNoContent, HttpError> {
        let (target, query) = (path.into_inner().instance, query.into_inner());
        let visit = Visit::of_project(&rqctx, query.project.clone()).on(&target);
        let (archive, rest) = query::upload(visit.control, body);
        let work = async {
            visit.enter()?;
            instance::ops::write_files(visit.control, &visit.project, &target, query.path, archive).await
        };
        let answer = visit.end(work.await, StatusCode::NO_CONTENT).await.map(|()| HttpResponseUpdatedNoContent());
        rest.pass().await;
        answer
    }

    async fn instance_exec(
        rqctx: Request,
        path: Path<InstancePath>,
        query: Query<ExecQuery>,
        upgraded: WebsocketConnection,
    ) -> WebsocketChannelResult {
        let (target, query) = (path.into_inner().instance, query.into_inner());
        let visit = Visit::of_project(&rqctx, query.project.clone()).on(&target);
        let work = async {
            visit.enter()?;
            instance::ops::exec(visit.control, &visit.project, &target, query::exec_request(query)?).await
        };
        let session = visit.end_session(work.await, StatusCode::SWITCHING_PROTOCOLS).await;
        socket::carry_session(visit.control, upgraded, session).await
    }

    async fn instance_sftp(
        rqctx: Request,
        path: Path<InstancePath>,
        query: Query<SftpQuery>,
        upgraded: WebsocketConnection,
    ) -> WebsocketChannelResult {
        let (target, query) = (path.into_inner().instance, query.into_inner());
        let visit = Visit::of_project(&rqctx, query.project).on(&target);
        let work = async {
            visit.enter()?;
            instance::ops::sftp(visit.control, &visit.project, &target, query.user).await
        };
        let session = visit.end_session(work.await, StatusCode::SWITCHING_PROTOCOLS).await;
        socket::carry_session(visit.control, upgraded, session).await
    }

    async fn instance_attach(
        rqctx: Request,
        path: Path<InstancePath>,
        query: Query<AttachQuery>,
        upgraded: WebsocketConnection,
    ) -> WebsocketChannelResult {
        let (target, query) = (path.into_inner().instance, query.into_inner());
        let visit = Visit::of_project(&rqctx, query.project.clone()).on(&target);
        let work = async {
            visit.enter()?;
            instance::ops::attach(visit.control, &visit.project, &target, query::attach_request(&query)?).await
        };
        let session = visit.end_session(work.await, StatusCode::SWITCHING_PROTOCOLS).await;
        socket::carry_session(visit.control, upgraded, session).await
    }

    async fn instance_console(
        rqctx: Request,
        path: Path<InstancePath>,
        query: Query<ScopeQuery>,
        upgraded: WebsocketConnection,
    ) -> WebsocketChannelResult {
        let target = path.into_inner().instance;
        let visit = Visit::of_project(&rqctx, query.into_inner().project).on(&target);
        let work = async {
            visit.enter()?;
            instance::ops::console(visit.control, &visit.project, &target).await
        };
        let session = visit.end_session(work.await, StatusCode::SWITCHING_PROTOCOLS).await;
        socket::carry_session(visit.control, upgraded, session).await
    }

    async fn instance_dial(
        rqctx: Request,
        path: Path<InstancePortPath>,
        query: Query<ScopeQuery>,
        upgraded: WebsocketConnection,
    ) -> WebsocketChannelResult {
        let InstancePortPath { instance: target, port } = path.into_inner();
        let visit = Visit::of_project(&rqctx, query.into_inner().project).on(format_args!("{target} port {port}"));
        let work = async {
            visit.enter()?;
            instance::ops::dial(visit.control, &visit.project, &target, port).await
        };
        let stream = visit.end_session(work.await, StatusCode::SWITCHING_PROTOCOLS).await;
        socket::carry_stream(visit.control, upgraded, stream).await
    }

    async fn group_list(rqctx: Request, query: Query<ListQuery>) -> Answer<Page<Group>> {
        list(&rqctx, query.into_inner(), |control| &control.groups).await
    }

    async fn group_create(
        rqctx: Request,
        query: Query<ScopeQuery>,
        headers: Header<CreateHeaders>,
        body: Json<GroupCreate>,
    ) -> Result<HttpResponseCreated<Group>, HttpError> {
        let body = body.into_inner();
        let visit = Visit::of_project(&rqctx, query.into_inner().project).on(&body.name);
        let work = async {
            let (control, mut caller) = (visit.control, visit.enter()?);
            let request = ("group_create", &visit.project, &body);
            let turn = Turn::wait(control, &mut caller, headers.into_inner().idempotency_key, &request).await?;
            let row = match turn.answered() {
                Some(id) => group::locate(control, &visit.project, &NameOrId::Id(id))?,
                None => group::ops::create(control, &caller, &visit.project, body).await?,
            };
            turn.end(control, &caller, row.value.0.metadata.id).await?;
            Ok(Noun::show(control, &row))
        };
        visit.end(work.await, StatusCode::CREATED).await.map(HttpResponseCreated)
    }

    async fn group_get(rqctx: Request, path: Path<GroupPath>, query: Query<ScopeQuery>) -> Tagged<Group> {
        let target = path.into_inner().group;
        let visit = Visit::of_project(&rqctx, query.into_inner().project).on(&target);
        let found = visit.enter().and_then(|_| group::locate(visit.control, &visit.project, &target));
        shown(&visit, found).await
    }

    async fn group_update(
        rqctx: Request,
        path: Path<GroupPath>,
        query: Query<ScopeQuery>,
        headers: Header<UpdateHeaders>,
        body: Json<GroupUpdate>,
    ) -> Tagged<Group> {
        let target = path.into_inner().group;
        let visit = Visit::of_project(&rqctx, query.into_inner().project).on(&target);
        let work = async {
            let caller = visit.enter()?;
            let if_match = wanted(headers.into_inner().if_match)?;
            group::ops::update(visit.control, &caller, &visit.project, &target, body.into_inner(), if_match).await
        };
        shown(&visit, work.await).await
    }

    async fn group_delete(
        rqctx: Request,
        path: Path<GroupPath>,
        query: Query<ScopeQuery>,
        headers: Header<UpdateHeaders>,
    ) -> Result<HttpResponseAccepted<Group>, HttpError> {
        let target = path.into_inner().group;
        let visit = Visit::of_project(&rqctx, query.into_inner().project).on(&target);
        let work = async {
            visit.enter()?;
            let if_match = wanted(headers.into_inner().if_match)?;
            group::ops::delete(visit.control, &visit.project, &target, if_match).await
        };
        let row = visit.end(work.await, StatusCode::ACCEPTED).await?;
        Ok(HttpResponseAccepted(Noun::show(visit.control, &row)))
    }

    async fn group_undo(rqctx: Request, path: Path<GroupPath>, query: Query<UndoQuery>) -> Tagged<Group> {
        let (target, UndoQuery { project, to }) = (path.into_inner().group, query.into_inner());
        let visit = Visit::of_project(&rqctx, project).on(&target);
        let work = async {
            visit.enter()?;
            group::ops::undo(visit.control, &visit.project, &target, to).await
        };
        shown(&visit, work.await).await
    }

    async fn group_explain(
        rqctx: Request,
        path: Path<GroupPath>,
        query: Query<ScopeQuery>,
    ) -> Answer<GroupExplanation> {
        let target = path.into_inner().group;
        let visit = Visit::of_project(&rqctx, query.into_inner().project).on(&target);
        let why = visit.enter().and_then(|_| group::ops::explain(visit.control, &visit.project, &target));
        visit.end(why, StatusCode::OK).await.map(HttpResponseOk)
    }

    async fn snapshot_list(rqctx: Request, query: Query<ListQuery>) -> Answer<Page<Snapshot>> {
        list(&rqctx, query.into_inner(), |control| &control.snapshots).await
    }

    async fn instance_snapshot_list(
        rqctx: Request,
        path: Path<InstancePath>,
        query: Query<ListQuery>,
    ) -> Answer<Page<Snapshot>> {
        snapshots::list(&rqctx, path.into_inner().instance, query.into_inner()).await
    }

    async fn snapshot_create(
        rqctx: Request,
        path: Path<InstancePath>,
        query: Query<ScopeQuery>,
        headers: Header<CreateHeaders>,
        body: Json<SnapshotCreate>,
    ) -> Accepted {
        let (target, project) = (path.into_inner().instance, query.into_inner().project);
        snapshots::create(&rqctx, target, project, headers.into_inner(), body.into_inner()).await
    }

    async fn snapshot_get(rqctx: Request, path: Path<SnapshotPath>, query: Query<ScopeQuery>) -> Tagged<Snapshot> {
        snapshots::get(&rqctx, path.into_inner(), query.into_inner().project).await
    }

    async fn snapshot_restore(
        rqctx: Request,
        path: Path<SnapshotPath>,
        query: Query<RestoreQuery>,
        headers: Header<CreateHeaders>,
    ) -> Accepted {
        snapshots::restore(&rqctx, path.into_inner(), query.into_inner(), headers.into_inner()).await
    }

    async fn snapshot_delete(rqctx: Request, path: Path<SnapshotPath>, query: Query<ScopeQuery>) -> Accepted {
        snapshots::delete(&rqctx, path.into_inner(), query.into_inner().project).await
    }

    async fn image_list(rqctx: Request, query: Query<ListQuery>) -> Answer<Page<Image>> {
        list(&rqctx, query.into_inner(), |control| &control.images).await
    }

    async fn image_create(
        rqctx: Request,
        query: Query<ScopeQuery>,
        headers: Header<CreateHeaders>,
        body: Json<ImageCreate>,
    ) -> Accepted {
        let body = body.into_inner();
        let visit = Visit::of_project(&rqctx, query.into_inner().project).on(&body.name);
        let work = async {
            let (control, mut caller) = (visit.control, visit.enter()?);
            let request = ("image_create", &visit.project, &body.without_secrets());
            let turn = Turn::wait(control, &mut caller, headers.into_inner().idempotency_key, &request).await?;
            let operation = match turn.answered() {
                Some(id) => operation::ops::find(control, &caller, id.into()).await?,
                None => image::ops::create(control, &caller, &visit.project, body).await?,
            };
            turn.end(control, &caller, operation.metadata.id).await.map(|()| operation)
        };
        visit.end(work.await, StatusCode::ACCEPTED).await.map(HttpResponseAccepted)
    }

    async fn image_upload(rqctx: Request, query: Query<UploadQuery>, body: StreamingBody) -> Accepted {
        let query = query.into_inner();
        let visit = Visit::of_project(&rqctx, query.project.clone()).on(&query.name);
        let (bytes, rest) = query::upload(visit.control, body);
        let work = async {
            let caller = visit.enter()?;
            image::ops::upload(visit.control, &caller, &visit.project, query, bytes).await
        };
        let answer = visit.end(work.await, StatusCode::ACCEPTED).await.map(HttpResponseAccepted);
        rest.pass().await;
        answer
    }

    async fn image_get(rqctx: Request, path: Path<ImagePath>, query: Query<ScopeQuery>) -> Tagged<Image> {
        let target = path.into_inner().image;
        let visit = Visit::of_project(&rqctx, query.into_inner().project).on(&target);
        let work = async {
            visit.enter()?;
            image::ops::find(visit.control, &visit.project, &target).await
        };
        let row = visit.end(work.await, StatusCode::OK).await?;
        Ok(tagged(Noun::show(visit.control, &row), &row.rev.to_string()))
    }

    async fn image_export(rqctx: Request, path: Path<ImagePath>, query: Query<ExportQuery>) -> Answer<FreeformBody> {
        let (target, query) = (path.into_inner().image, query.into_inner());
        let visit = Visit::of_project(&rqctx, query.project).on(&target);
        let work = async {
            visit.enter()?;
            image::ops::export(visit.control, &visit.project, &target, query.format).await
        };
        Ok(bytes(visit.control, visit.end(work.await, StatusCode::OK).await?))
    }

    async fn image_verify(rqctx: Request, path: Path<ImagePath>, query: Query<ScopeQuery>) -> Answer<Image> {
        let target = path.into_inner().image;
        let visit = Visit::of_project(&rqctx, query.into_inner().project).on(&target);
        let work = async { image::ops::verify(visit.control, &visit.enter()?, &visit.project, &target).await };
        visit.end(work.await, StatusCode::OK).await.map(HttpResponseOk)
    }

    async fn image_delete(
        rqctx: Request,
        path: Path<ImagePath>,
        query: Query<ScopeQuery>,
    ) -> Result<HttpResponseDeleted, HttpError> {
        let target = path.into_inner().image;
        let visit = Visit::of_project(&rqctx, query.into_inner().project).on(&target);
        let work = async { image::ops::delete(visit.control, &visit.enter()?, &visit.project, &target).await };
        visit.end(work.await, StatusCode::NO_CONTENT).await.map(|()| HttpResponseDeleted())
    }

    async fn network_list(rqctx: Request, query: Query<ListQuery>) -> Answer<Page<Network>> {
        list(&rqctx, query.into_inner(), |control| &control.networks).await
    }

    async fn network_get(rqctx: Request, path: Path<NetworkPath>, query: Query<ScopeQuery>) -> Tagged<Network> {
        let target = path.into_inner().network;
        let visit = Visit::of_project(&rqctx, query.into_inner().project).on(&target);
        let found = visit.enter().and_then(|_| network::ops::find(visit.control, &visit.project, &target));
        let row = visit.end(found, StatusCode::OK).await?;
        Ok(tagged(network::view(visit.control, &row), &row.rev.to_string()))
    }

    async fn network_create(
        rqctx: Request,
        query: Query<ScopeQuery>,
        headers: Header<CreateHeaders>,
        body: Json<NetworkCreate>,
    ) -> Result<HttpResponseCreated<Network>, HttpError> {
        network::door::create(&rqctx, query.into_inner(), headers.into_inner(), body.into_inner()).await
    }

    async fn network_delete(
        rqctx: Request,
        path: Path<NetworkPath>,
        query: Query<ScopeQuery>,
    ) -> Result<HttpResponseDeleted, HttpError> {
        network::door::delete(&rqctx, path.into_inner().network, query.into_inner()).await
    }

    async fn network_attach(
        rqctx: Request,
        path: Path<NetworkPath>,
        query: Query<ScopeQuery>,
        body: Json<NetworkAttach>,
    ) -> Accepted {
        network::door::attach(&rqctx, path.into_inner().network, query.into_inner(), body.into_inner()).await
    }

    async fn network_detach(
        rqctx: Request,
        path: Path<NetworkPath>,
        query: Query<ScopeQuery>,
        body: Json<Detach>,
    ) -> Accepted {
        network::door::detach(&rqctx, path.into_inner().network, query.into_inner(), body.into_inner()).await
    }

    async fn volume_list(rqctx: Request, query: Query<ListQuery>) -> Answer<Page<Volume>> {
        list(&rqctx, query.into_inner(), |control| &control.volumes).await
    }

    async fn volume_create(
        rqctx: Request,
        query: Query<ScopeQuery>,
        headers: Header<CreateHeaders>,
        body: Json<VolumeCreate>,
    ) -> Result<HttpResponseCreated<Volume>, HttpError> {
        volume::door::create(&rqctx, query.into_inner(), headers.into_inner(), body.into_inner()).await
    }

    async fn volume_get(rqctx: Request, path: Path<VolumePath>, query: Query<ScopeQuery>) -> Tagged<Volume> {
        volume::door::get(&rqctx, path.into_inner().volume, query.into_inner()).await
    }

    async fn volume_update(
        rqctx: Request,
        path: Path<VolumePath>,
        query: Query<ScopeQuery>,
        headers: Header<UpdateHeaders>,
        body: Json<VolumeUpdate>,
    ) -> Tagged<Volume> {
        let (target, headers) = (path.into_inner().volume, headers.into_inner());
        volume::door::update(&rqctx, target, query.into_inner(), headers, body.into_inner()).await
    }

    async fn volume_delete(
        rqctx: Request,
        path: Path<VolumePath>,
        query: Query<ScopeQuery>,
    ) -> Result<HttpResponseDeleted, HttpError> {
        volume::door::delete(&rqctx, path.into_inner().volume, query.into_inner()).await
    }

    async fn volume_attach(
        rqctx: Request,
        path: Path<VolumePath>,
        query: Query<ScopeQuery>,
        body: Json<VolumeAttach>,
    ) -> Accepted {
        volume::door::attach(&rqctx, path.into_inner().volume, query.into_inner(), body.into_inner()).await
    }

    async fn volume_detach(
        rqctx: Request,
        path: Path<VolumePath>,
        query: Query<ScopeQuery>,
        body: Json<Detach>,
    ) -> Accepted {
        volume::door::detach(&rqctx, path.into_inner().volume, query.into_inner(), body.into_inner()).await
    }

    async fn pool_get(rqctx: Request) -> Answer<Pool> {
        let visit = Visit::of_cloud(&rqctx);
        let pool = visit.enter().map(|_| node::pool::view(visit.control));
        visit.end(pool, StatusCode::OK).await.map(HttpResponseOk)
    }

    async fn node_list(rqctx: Request, query: Query<ListQuery>) -> Answer<Page<Node>> {
        let visit = Visit::of_cloud(&rqctx);
        let page = (|| {
            visit.enter()?;
            let part = Part::of(&query.into_inner())?;
            let cache = &visit.control.nodes.cache;
            Ok(page::of_cache(
                cache,
                &[],
                &part,
                |row| &row.0.metadata.labels,
                |_| true,
                |row| Noun::show(visit.control, row),
            ))
        })();
        visit.end(page, StatusCode::OK).await.map(HttpResponseOk)
    }

    async fn node_get(rqctx: Request, path: Path<NodePath>) -> Tagged<Node> {
        let target = path.into_inner().node;
        let visit = Visit::of_cloud(&rqctx).on(&target);
        let work = async {
            visit.enter()?;
            node::ops::find(visit.control, &target).await
        };
        let row = visit.end(work.await, StatusCode::OK).await?;
        Ok(tagged(Noun::show(visit.control, &row), &row.rev.to_string()))
    }

    async fn node_update(
        rqctx: Request,
        path: Path<NodePath>,
        headers: Header<UpdateHeaders>,
        body: Json<NodeSpec>,
    ) -> Tagged<Node> {
        let target = path.into_inner().node;
        let visit = Visit::of_cloud(&rqctx).on(&target);
        let work = async {
            let caller = visit.enter()?;
            let if_match = wanted(headers.into_inner().if_match)?;
            node::ops::update(visit.control, &caller, &target, body.into_inner(), if_match).await
        };
        let row = visit.end(work.await, StatusCode::OK).await?;
        Ok(tagged(Noun::show(visit.control, &row), &row.rev.to_string()))
    }

    async fn instance_usage(
        rqctx: Request,
        path: Path<InstancePath>,
        query: Query<HistoryQuery>,
    ) -> Answer<UsageHistory> {
        usage::door::of_instance(&rqctx, path.into_inner().instance, query.into_inner()).await
    }

    async fn node_usage(rqctx: Request, path: Path<NodePath>, query: Query<HistoryQuery>) -> Answer<UsageHistory> {
        usage::door::of_node(&rqctx, path.into_inner().node, query.into_inner()).await
    }

    async fn usage_instances(rqctx: Request, query: Query<UsageQuery>) -> Answer<Vec<InstanceUsage>> {
        usage::door::instances(&rqctx, query.into_inner()).await
    }

    async fn usage_nodes(rqctx: Request) -> Answer<Vec<NodeUsageNow>> {
        usage::door::nodes(&rqctx).await
    }

    async fn operation_list(rqctx: Request, query: Query<ListQuery>) -> Answer<Page<Operation>> {
        let query = query.into_inner();
        let all = query.all_projects.unwrap_or_default();
        let visit = Visit::of_project(&rqctx, query.project.clone());
        let page = (|| {
            let caller = visit.enter_list(all)?;
            let part = Part::of(&query)?;
            let see = |row: &crate::rows::OperationRow| {
                row.owner().is_some_and(|owner| caller.sees(owner) && (all || *owner == visit.project))
            };
            let cache = &visit.control.operations.cache;
            Ok(page::newest_first(
                cache,
                &part,
                |row| &row.0.metadata.labels,
                see,
                |row| Noun::show(visit.control, row),
            ))
        })();
        visit.end(page, StatusCode::OK).await.map(HttpResponseOk)
    }

    async fn operation_get(
        rqctx: Request,
        path: Path<OperationPath>,
        query: Query<OperationQuery>,
    ) -> Answer<Operation> {
        let (target, query) = (OperationId(path.into_inner().operation), query.into_inner());
        let visit = Visit::of_cloud(&rqctx).on(target);
        let work = async {
            let (control, caller) = (visit.control, visit.enter()?);
            let found = operation::ops::find(control, &caller, target).await?;
            visit.require_owner(&caller, &owner(&found)?)?;
            let Some(seconds) = query.wait else { return Ok(found) };
            let limit = Duration::from_secs(u64::from(seconds.min(LONGEST_WAIT)));
            tokio::select! {
                waited = operation::ops::wait(control, &caller, target, query.seen, limit) => waited,
                () = control.closing.cancelled() => Ok(found),
            }
        };
        visit.end(work.await, StatusCode::OK).await.map(HttpResponseOk)
    }

    async fn operation_cancel(rqctx: Request, path: Path<OperationPath>) -> Answer<Operation> {
        let target = OperationId(path.into_inner().operation);
        let visit = Visit::of_cloud(&rqctx).on(target);
        let work = async {
            let (control, caller) = (visit.control, visit.enter()?);
            let found = operation::ops::find(control, &caller, target).await?;
            visit.require_owner(&caller, &owner(&found)?)?;
            operation::ops::cancel(control, &caller, target).await
        };
        visit.end(work.await, StatusCode::OK).await.map(HttpResponseOk)
    }

    async fn metrics(rqctx: Request) -> Raw {
        usage::door::metrics(&rqctx).await
    }

    async fn prom_query(rqctx: Request) -> Raw {
        usage::door::question(&rqctx, Ask::Query, &[]).await
    }

    async fn prom_query_post(rqctx: Request, body: UntypedBody) -> Raw {
        usage::door::question(&rqctx, Ask::Query, body.as_bytes()).await
    }

    async fn prom_query_range(rqctx: Request) -> Raw {
        usage::door::question(&rqctx, Ask::QueryRange, &[]).await
    }

    async fn prom_query_range_post(rqctx: Request, body: UntypedBody) -> Raw {
        usage::door::question(&rqctx, Ask::QueryRange, body.as_bytes()).await
    }

    async fn prom_series(rqctx: Request) -> Raw {
        usage::door::question(&rqctx, Ask::Series, &[]).await
    }

    async fn prom_series_post(rqctx: Request, body: UntypedBody) -> Raw {
        usage::door::question(&rqctx, Ask::Series, body.as_bytes()).await
    }

    async fn prom_labels(rqctx: Request) -> Raw {
        usage::door::question(&rqctx, Ask::Labels, &[]).await
    }

    async fn prom_labels_post(rqctx: Request, body: UntypedBody) -> Raw {
        usage::door::question(&rqctx, Ask::Labels, body.as_bytes()).await
    }

    async fn prom_metadata(rqctx: Request) -> Raw {
        usage::door::question(&rqctx, Ask::Metadata, &[]).await
    }

    async fn prom_buildinfo(rqctx: Request) -> Raw {
        usage::door::question(&rqctx, Ask::BuildInfo, &[]).await
    }

    async fn prom_label_values(rqctx: Request, path: Path<LabelPath>) -> Raw {
        usage::door::question(&rqctx, Ask::Values(path.into_inner().label), &[]).await
    }
}

/// A visit to a project that the path names by its name or its id.
fn project_visit<'r>(rqctx: &'r Request, project: &NameOrId) -> Visit<'r> {
    let visit = Visit::of_cloud(rqctx).on(project);
    match project {
        NameOrId::Name(name) => visit.in_project(name.clone()),
        NameOrId::Id(id) => {
            let rows = rqctx.context().projects.cache.all(&[]);
            match rows.iter().find(|row| row.value.0.metadata.id == *id) {
                Some(row) => visit.in_project(row.value.0.metadata.name.clone()),
                None => visit.in_no_project(),
            }
        }
    }
}

fn owner(operation: &Operation) -> Result<Name, Refusal> {
    operation.metadata.project.clone().ok_or_else(|| {
        Refusal::internal("find the project of an operation", format!("{} has none", operation.metadata.id))
    })
}
