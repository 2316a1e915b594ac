//! Instances in memory: a "process" is a number that the world remembers.

use super::{Body, Call, World, exec, sftp};
use crate::{
    Attachment, DriverError, ErrorKind, FileAccess, Fittings, InstanceDriver, InstanceHandle, LocalImage, Observed,
    Result,
};
use async_trait::async_trait;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use std::time::Duration;
use yun_engine::session::{AttachRequest, ExecRequest, LogLine, LogRequest, Session};
use yun_types::{Accel, DesiredInstance, DriverFacts, Exit, InstanceId, InstanceKind};

/// Instances of one kind.
#[derive(Debug, Clone)]
pub struct FakeInstances {
    pub(super) world: World,
    kind: InstanceKind,
}

impl FakeInstances {
    /// The driver of one kind on a host.
    pub fn new(world: World, kind: InstanceKind) -> Self {
        Self { world, kind }
    }

    fn handle(&self, id: InstanceId) -> Result<InstanceHandle> {
        let state = self.world.lock();
        let body = state.bodies.get(&id).ok_or_else(|| not_prepared(id))?;
        let run = body.run.map(|run| run.number);
        let driver = serde_json::json!({ "boot": state.boot, "run": run });
        Ok(InstanceHandle { id, kind: self.kind, generation: body.desired.generation, driver })
    }

    /// Begins a run, unless one is under way. Returns its number if it is new.
    fn begin(&self, id: InstanceId) -> Result<Option<u64>> {
        let now = self.world.inner.clock.now();
        self.world.change(|state| {
            let body = state.bodies.get_mut(&id).ok_or_else(|| not_prepared(id))?;
            if body.run.is_some() {
                return Ok(None);
            }
            if body.prepared.is_none() {
                return Err(not_prepared(id));
            }
            let number = state.next_run;
            state.next_run += 1;
            body.run = Some(super::Run { number, since: now, paused: false });
            body.ended = None;
            if std::mem::take(&mut body.holdings.memory) {
                body.holdings.resumed += 1;
            }
            *state.starts.entry(id).or_default() += 1;
            Ok(Some(number))
        })
    }

    /// Lets a run end by itself when its behaviour says so.
    fn live(&self, id: InstanceId, run: u64) {
        let behaviour = self.world.lock().behaviour(id);
        if behaviour.talks {
            self.world.write_log(id, "one");
            self.world.write_log(id, "two");
        }
        let Some((span, code)) = behaviour.exits else { return };
        let world = self.world.clone();
        let exit = move |world: &World| {
            let at = world.inner.clock.now();
            world.change(|state| {
                let body = state.bodies.get_mut(&id).filter(|body| body.run.is_some_and(|now| now.number == run));
                body.map(|body| {
                    body.end(Some(Exit { code, signal: (code > 128).then(|| code - 128), out_of_memory: false, at }))
                });
            });
        };
        if span.is_zero() {
            exit(&world);
            return;
        }
        self.world.inner.tasks.spawn(format!("run/{run}"), |_| async move {
            world.inner.clock.sleep(span).await;
            exit(&world);
        });
    }

    fn set_paused(&self, id: InstanceId, paused: bool) -> Result<()> {
        self.world.change(|state| match state.bodies.get_mut(&id).and_then(|body| body.run.as_mut()) {
            Some(run) => {
                run.paused = paused;
                Ok(())
            }
            None => Err(not_running(id)),
        })
    }

    fn exit(&self, id: InstanceId) -> Option<Exit> {
        self.world.lock().bodies.get(&id).and_then(|body| body.ended).flatten()
    }
}

fn not_prepared(id: InstanceId) -> DriverError {
    DriverError::new(
        ErrorKind::Internal,
        "NotPrepared",
        format!("cannot start instance {id}: it was not prepared since the last boot; prepare it first"),
    )
}

fn not_running(id: InstanceId) -> DriverError {
    DriverError::new(ErrorKind::Conflict, "NotRunning", format!("instance {id} does not run; start it with yun start"))
}

#[async_trait]
impl FileAccess for FakeInstances {
    async fn sftp(&self, handle: &InstanceHandle, user: Option<String>) -> Result<Session> {
        self.world.enter(Call::Exec, Some(handle.id)).await?;
        if self.kind == InstanceKind::Vm {
            return Err(DriverError::unavailable("NoFiles", "a VM has an SSH server of its own"));
        }
        if !self.world.is_running(handle.id) {
            return Err(not_running(handle.id));
        }
        if user.as_deref().is_some_and(|user| !matches!(user, "root" | "0")) {
            return Err(DriverError::bad_request("UserNotFound", "the fake has no user but root"));
        }
        Ok(sftp::run(&self.world))
    }
}

#[async_trait]
impl InstanceDriver for FakeInstances {
    async fn probe(&self) -> Result<DriverFacts> {
        self.world.enter(Call::Probe, None).await?;
        let accel = (self.kind == InstanceKind::Vm).then_some(Accel::Tcg);
        Ok(DriverFacts {
            driver: self.kind.to_string(),
            ready: true,
            engine: Some("fake".into()),
            accel,
            message: None,
        })
    }

    async fn prepare(
        &self,
        instance: &DesiredInstance,
        image: &LocalImage,
        network: Option<&Attachment>,
    ) -> Result<InstanceHandle> {
        let id = instance.id;
        self.world.enter(Call::Prepare, Some(id)).await?;
        if image.kind != self.kind || instance.kind != self.kind {
            let message = format!(
                "cannot prepare instance {}: image {} is for a {}",
                instance.name,
                image.digest.short(),
                image.kind
            );
            return Err(DriverError::bad_request("WrongKind", message));
        }
        if network.is_some_and(|attachment| attachment.instance != id) {
            return Err(DriverError::bad_request(
                "WrongAttachment",
                format!("the attachment is not that of instance {}", instance.name),
            ));
        }
        self.world.change(|state| {
            let seed = state.seeds.remove(&id);
            let body = state.bodies.entry(id).or_insert_with(|| Body {
                kind: self.kind,
                desired: instance.clone(),
                prepared: None,
                run: None,
                ended: None,
                log: Vec::new(),
                holdings: Default::default(),
            });
            if let Some((data, memory)) = seed {
                (body.holdings.data, body.holdings.memory) = (data, memory);
            }
            if body.desired.generation <= instance.generation {
                body.desired = instance.clone();
            }
            body.prepared = Some(body.desired.generation);
            if body.run.is_some() {
                *state.prepared_live.entry(id).or_default() += 1;
            }
        });
        self.world.leave(Call::Prepare, Some(id)).await?;
        self.handle(id)
    }

    async fn adjust(&self, _: &DesiredInstance) -> Result<bool> {
        Ok(true)
    }

    async fn fit(&self, id: InstanceId, fittings: &Fittings) -> Result<()> {
        self.world.enter(Call::Fit, Some(id)).await?;
        self.world.change(|state| state.fittings.insert(id, fittings.clone()));
        self.world.leave(Call::Fit, Some(id)).await
    }

    async fn start(&self, handle: &InstanceHandle) -> Result<InstanceHandle> {
        self.world.enter(Call::Start, Some(handle.id)).await?;
        if let Some(run) = self.begin(handle.id)? {
            self.live(handle.id, run);
        }
        self.world.leave(Call::Start, Some(handle.id)).await?;
        self.handle(handle.id)
    }

    async fn ready(&self, handle: &InstanceHandle, deadline: Duration) -> Result<()> {
        self.world.enter(Call::Ready, Some(handle.id)).await?;
        let (since, boots_after) = {
            let state = self.world.lock();
            let since = state
                .bodies
                .get(&handle.id)
                .and_then(|body| body.run)
                .map(|run| run.since)
                .ok_or_else(|| not_running(handle.id))?;
            (since, state.behaviour(handle.id).boots_after.unwrap_or_default())
        };
        let clock = &self.world.inner.clock;
        let left = yun_engine::clock::until(&**clock, yun_engine::clock::after(since, boots_after));
        clock.sleep(left.min(deadline)).await;
        if left <= deadline {
            return Ok(());
        }
        let message =
            format!("the guest did not answer within {} s; see yun logs. Last lines: Kernel panic", deadline.as_secs());
        Err(DriverError::new(ErrorKind::Timeout, "BootTimeout", message))
    }

    async fn recover(&self, handle: &InstanceHandle) -> Result<Observed> {
        self.world.enter(Call::Recover, Some(handle.id)).await?;
        let observed = match self.world.lock().bodies.get(&handle.id) {
            None => Observed::Absent,
            Some(Body { run: Some(run), .. }) if run.paused => Observed::Paused { since: run.since },
            Some(Body { run: Some(run), .. }) => Observed::Running { since: run.since },
            Some(Body { ended: Some(exit), .. }) => Observed::Ended { exit: *exit },
            Some(_) => Observed::Absent,
        };
        self.world.leave(Call::Recover, Some(handle.id)).await?;
        Ok(observed)
    }

    async fn wait(&self, handle: &InstanceHandle) -> Result<Option<Exit>> {
        let id = handle.id;
        self.world.enter(Call::Wait, Some(id)).await?;
        self.world.until(|state| state.bodies.get(&id).is_none_or(|body| body.run.is_none())).await;
        Ok(self.exit(id))
    }

    async fn stop(&self, handle: &InstanceHandle, grace: Duration) -> Result<Option<Exit>> {
        let id = handle.id;
        self.world.enter(Call::Stop, Some(id)).await?;
        // Who stops wants no memory of before.
        self.world.change(|state| {
            if let Some(body) = state.bodies.get_mut(&id) {
                body.holdings.memory = false;
            }
        });
        if self.world.is_running(id) {
            let deaf = self.world.lock().behaviour(id).deaf;
            let mut code = 143;
            if deaf || grace.is_zero() {
                tokio::select! {
                    biased;
                    () = self.world.until(|state| state.bodies.get(&id).is_none_or(|body| body.run.is_none())) => {}
                    () = self.world.inner.clock.sleep(grace) => code = 137,
                }
            }
            self.world.end(id, code);
        }
        self.world.leave(Call::Stop, Some(id)).await?;
        Ok(self.exit(id))
    }

    async fn pause(&self, handle: &InstanceHandle) -> Result<()> {
        self.world.enter(Call::Pause, Some(handle.id)).await?;
        self.set_paused(handle.id, true)?;
        self.world.leave(Call::Pause, Some(handle.id)).await
    }

    async fn resume(&self, handle: &InstanceHandle) -> Result<()> {
        self.world.enter(Call::Resume, Some(handle.id)).await?;
        self.set_paused(handle.id, false)?;
        self.world.leave(Call::Resume, Some(handle.id)).await
    }

    async fn remove(&self, id: InstanceId) -> Result<()> {
        self.world.enter(Call::Remove, Some(id)).await?;
        self.world.change(|state| {
            state.seeds.remove(&id);
            if state.bodies.get(&id).is_some_and(|body| body.kind == self.kind) {
                state.bodies.remove(&id);
            }
        });
        self.world.leave(Call::Remove, Some(id)).await
    }

    async fn exec(&self, handle: &InstanceHandle, request: ExecRequest) -> Result<Session> {
        self.world.enter(Call::Exec, Some(handle.id)).await?;
        if self.kind == InstanceKind::Vm {
            return Err(DriverError::unavailable("NotForVms", "a VM has no exec; log in with yun ssh"));
        }
        if !self.world.is_running(handle.id) {
            return Err(not_running(handle.id));
        }
        Ok(exec::run(&self.world, request))
    }

    async fn attach(&self, id: InstanceId, request: AttachRequest) -> Result<Session> {
        self.world.enter(Call::Attach, Some(id)).await?;
        if self.kind == InstanceKind::Vm {
            return Err(DriverError::unavailable("NotForVms", "a VM has no main process; use yun console"));
        }
        if !self.world.is_running(id) && !request.wait {
            return Err(not_running(id));
        }
        Ok(exec::attach(&self.world, id, request))
    }

    async fn console(&self, handle: &InstanceHandle) -> Result<Session> {
        self.world.enter(Call::Console, Some(handle.id)).await?;
        if self.kind == InstanceKind::Container {
            return Err(DriverError::unavailable("NotForContainers", "a container has no console; use yun exec"));
        }
        if !self.world.is_running(handle.id) {
            return Err(not_running(handle.id));
        }
        Ok(exec::console(&self.world))
    }

    async fn logs(&self, id: InstanceId, request: LogRequest) -> Result<BoxStream<'static, std::io::Result<LogLine>>> {
        self.world.enter(Call::Logs, Some(id)).await?;
        let written = self.world.lock().bodies.get(&id).map_or(0, |body| body.log.len());
        let tail = request.tail.and_then(|tail| usize::try_from(tail).ok()).unwrap_or(usize::MAX);
        let first = written.saturating_sub(tail);
        let world = self.world.clone();
        let lines = stream::unfold((world, first), move |(world, next)| async move {
            if request.follow {
                let more = |state: &super::State| {
                    state.bodies.get(&id).is_none_or(|body| body.log.len() > next || body.run.is_none())
                };
                world.until(more).await;
            }
            let line = world.lock().bodies.get(&id).and_then(|body| body.log.get(next).cloned())?;
            Some((line, (world, next + 1)))
        });
        let since = request.since;
        Ok(lines
            .filter(move |line| std::future::ready(since.is_none_or(|since| line.at.is_none_or(|at| at >= since))))
            .map(Ok)
            .boxed())
    }
}
