//! The endpoints of what is used: each reads its request, lets the caller in, asks, and writes the answer.

use super::{
    exposition, ops,
    prometheus::{self, Ask, Params},
};
use crate::http::visit::{Request, Visit};
use dropshot::{Body, HttpError, HttpResponseOk};
use http::{Response, StatusCode, header::ACCEPT};
use yun_api::cloud::{HistoryQuery, InstanceUsage, NodeUsageNow, UsageHistory, UsageQuery};
use yun_types::NameOrId;

type Answer<T> = Result<HttpResponseOk<T>, HttpError>;
/// An answer in a form that others made.
pub(crate) type Raw = Result<Response<Body>, HttpError>;

pub(crate) async fn of_instance(rqctx: &Request, target: NameOrId, query: HistoryQuery) -> Answer<UsageHistory> {
    let visit = Visit::of_project(rqctx, query.project.clone()).on(&target);
    let work = async {
        visit.enter()?;
        ops::of_instance(visit.control, &visit.project, &target, &query).await
    };
    visit.end(work.await, StatusCode::OK).await.map(HttpResponseOk)
}

pub(crate) async fn of_node(rqctx: &Request, target: NameOrId, query: HistoryQuery) -> Answer<UsageHistory> {
    let visit = Visit::of_cloud(rqctx).on(&target);
    let work = async {
        visit.enter()?;
        ops::of_node(visit.control, &target, &query).await
    };
    visit.end(work.await, StatusCode::OK).await.map(HttpResponseOk)
}

pub(crate) async fn instances(rqctx: &Request, query: UsageQuery) -> Answer<Vec<InstanceUsage>> {
    let all = query.all_projects.unwrap_or_default();
    let visit = Visit::of_project(rqctx, query.project);
    let work = async {
        let caller = visit.enter_list(all)?;
        let project = (!all).then(|| visit.project.clone());
        Ok(ops::instances(visit.control, &caller, project.as_ref()).await)
    };
    visit.end(work.await, StatusCode::OK).await.map(HttpResponseOk)
}

pub(crate) async fn nodes(rqctx: &Request) -> Answer<Vec<NodeUsageNow>> {
    let visit = Visit::of_cloud(rqctx);
    let work = async {
        visit.enter()?;
        Ok(ops::nodes(visit.control).await)
    };
    visit.end(work.await, StatusCode::OK).await.map(HttpResponseOk)
}

pub(crate) async fn metrics(rqctx: &Request) -> Raw {
    let visit = Visit::of_cloud(rqctx);
    let accept = rqctx.request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
    let work = async { exposition::metrics(visit.control, &visit.enter()?, accept).await };
    visit.end(work.await, StatusCode::OK).await
}

/// A question of Prometheus.
pub(crate) async fn question(rqctx: &Request, ask: Ask, body: &[u8]) -> Raw {
    let visit = Visit::of_cloud(rqctx);
    let params = Params::new(rqctx.request.uri().query(), body);
    let work = async { prometheus::answer(visit.control, visit.enter()?, ask, params).await };
    visit.end(work.await, StatusCode::OK).await
}
