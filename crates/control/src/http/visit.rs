//! One request on its way through the door: who sent it, whether they may, what came of it, and the record it leaves.

use crate::{
    auth::{
        self, Caller,
        policy::{self, Need},
    },
    core::Control,
    error::Refusal,
};
use dropshot::{HttpError, RequestContext};
use http::StatusCode;
use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};
use yun_types::{AuditRecord, Name, ObjectKind, Role};

/// What handlers get from the server.
pub(crate) type Request = RequestContext<Arc<Control>>;

/// Where the object of a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Cloud,
    Project,
    /// In a project that does not exist, named by an id that nothing has.
    Nowhere,
}

/// One request.
pub(crate) struct Visit<'r> {
    /// What the handler works with.
    pub(crate) control: &'r Arc<Control>,
    /// The project that the request is about; `default` if it names none.
    pub(crate) project: Name,
    request: &'r Request,
    scope: Scope,
    object: Option<String>,
    /// Name and origin of the caller.
    by: OnceLock<(String, String)>,
    /// When it came, by the clock that never jumps.
    came: Duration,
}

impl<'r> Visit<'r> {
    /// A request about the cloud, or about objects that name their project themselves.
    pub(crate) fn of_cloud(request: &'r Request) -> Self {
        let project = Name::default_project();
        let (control, came) = (request.context(), request.context().clock.monotonic());
        Self { control, project, request, scope: Scope::Cloud, object: None, by: OnceLock::new(), came }
    }

    /// A request about a project.
    pub(crate) fn of_project(request: &'r Request, project: Option<Name>) -> Self {
        Self::of_cloud(request).in_project(project.unwrap_or_else(Name::default_project))
    }

    /// Says which project the request is about.
    pub(crate) fn in_project(self, project: Name) -> Self {
        Self { project, scope: Scope::Project, ..self }
    }

    /// Says that the request is about a project that does not exist.
    pub(crate) fn in_no_project(self) -> Self {
        Self { scope: Scope::Nowhere, ..self }
    }

    /// Says which object the request is about.
    pub(crate) fn on(self, object: impl fmt::Display) -> Self {
        Self { object: Some(object.to_string()), ..self }
    }

    /// Lets the caller in, or refuses.
    pub(crate) fn enter(&self) -> Result<Caller, Refusal> {
        let need = self.need()?;
        let caller = self.authenticate()?;
        match need {
            Need::Nothing | Need::AnyToken | Need::Owner(_) => {}
            Need::Project(role) => self.require(&caller, role)?,
            Need::Cloud(role) => caller.require_cloud(role)?,
            Need::AdminSomewhere => {
                if !caller.has_cloud(Role::Admin) && !caller.projects.values().any(|role| *role == Role::Admin) {
                    return Err(Refusal::forbidden(format!(
                        "token {} is no admin, neither of the cloud nor of a project; ask an admin for it",
                        caller.name
                    )));
                }
            }
        }
        Ok(caller)
    }

    /// Lets the caller in to a list of one project or, with `all`, of every project that the caller sees.
    pub(crate) fn enter_list(&self, all: bool) -> Result<Caller, Refusal> {
        if all { self.authenticate() } else { self.enter() }
    }

    /// The role that the operation needs in the project of the object that the request names by its id.
    pub(crate) fn require_owner(&self, caller: &Caller, project: &Name) -> Result<(), Refusal> {
        match self.need()? {
            Need::Owner(role) => caller.require(project, role),
            _ => Err(Refusal::internal(
                "check who may do this",
                format!("{} is not of the kind Owner", self.operation()),
            )),
        }
    }

    fn need(&self) -> Result<Need, Refusal> {
        // What the policy does not know is refused.
        let rule = policy::required(self.operation());
        rule.map(|rule| rule.need)
            .ok_or_else(|| Refusal::internal("check who may do this", format!("{} has no rule", self.operation())))
    }

    fn operation(&self) -> &str {
        &self.request.endpoint.operation_id
    }

    fn authenticate(&self) -> Result<Caller, Refusal> {
        let from = self.request.request.remote_addr().ip();
        let caller = auth::authenticate(self.control, self.request.request.headers(), from, &self.request.request_id)?;
        let _set_once = self.by.set((caller.name.clone(), caller.from.clone()));
        Ok(caller)
    }

    fn require(&self, caller: &Caller, role: Role) -> Result<(), Refusal> {
        if self.scope == Scope::Nowhere {
            return Err(Refusal::not_found(ObjectKind::Project, self.object.as_deref().unwrap_or_default(), None));
        }
        caller.require(&self.project, role)?;
        if self.control.projects.cache.get(&[self.project.as_str()]).is_none() {
            return Err(crate::project::not_found(self.control, caller, &self.project));
        }
        Ok(())
    }

    /// Ends the request: what changes leaves its record, which is kept before the answer is sent.
    pub(crate) async fn end<T>(&self, result: Result<T, Refusal>, success: StatusCode) -> Result<T, HttpError> {
        let result = self.end_session(result, success).await;
        result.map_err(HttpError::from)
    }

    /// The same for a request whose refusal is not an HTTP answer.
    pub(crate) async fn end_session<T>(&self, result: Result<T, Refusal>, success: StatusCode) -> Result<T, Refusal> {
        let status = result.as_ref().map_or_else(|refusal| refusal.status.as_status(), |_| success);
        let took = self.control.clock.monotonic().saturating_sub(self.came);
        self.control.usage.counted.request(self.operation(), status.as_u16(), took);
        if let Err(refusal) = &result
            && let Some(inside) = &refusal.inside
        {
            tracing::error!(operation = self.operation(), request = %self.request.request_id, error = inside, "a request failed");
        }
        if !policy::required(self.operation()).is_none_or(|rule| rule.audited) {
            return result;
        }
        let known = self.by.get().is_some();
        if !known && !self.control.strangers.admit(self.control.clock.monotonic()) {
            return result;
        }
        self.record(status);
        match result {
            // What strangers try is recorded too, but they do not get to make the disk work for each try.
            Err(refusal) if !known => Err(refusal),
            result => match self.control.audit.kept().await {
                Ok(()) => result,
                Err(e) => {
                    tracing::error!(error = %e, request = %self.request.request_id, "a change is not in the audit journal");
                    Err(Refusal::unavailable(format!(
                        "the request was carried out (status {}), but not recorded: {e}",
                        status.as_u16()
                    )))
                }
            },
        }
    }

    fn record(&self, status: StatusCode) {
        let unknown = || ("anonymous".to_owned(), self.request.request.remote_addr().ip().to_string());
        let (by, from) = self.by.get().cloned().unwrap_or_else(unknown);
        self.control.audit.record(|sequence, at| AuditRecord {
            sequence,
            at,
            by,
            from,
            action: self.operation().to_owned(),
            project: (self.scope == Scope::Project).then(|| self.project.clone()),
            object: self.object.clone(),
            status: status.as_u16(),
            request_id: self.request.request_id.clone(),
        });
    }
}
