//! What each step does. Each writes down what it is about to do before it does it, and may be dropped at any await: the entry is then
//! as it was written, and the step is done again.

use crate::{
    decide::{Cause, Rest, Seen, Settled, Step, with_limits},
    ledger::{Phase, Then},
    node::Node,
    owner::Owner,
};
use fail::fail_point;
use std::time::Duration;
use yun_drivers::{Attachment, DriverError, FittedVolume, Fittings, InstanceHandle, Observed, Result};
use yun_types::{DesiredInstance, InstanceKind, NetworkId, Nic, Severity};

impl Owner {
    /// Does one step.
    pub(crate) async fn act(&mut self, step: &Step) -> Result<()> {
        if matches!(
            step,
            Step::Gather
                | Step::Prepare
                | Step::Start
                | Step::Pause
                | Step::Resume
                | Step::Hibernate
                | Step::Stop { .. }
        ) {
            self.node.probed(self.entry.desired.kind).await;
        }
        match step {
            Step::Look => self.look().await,
            Step::Begin(cause) => self.begin(*cause),
            Step::Gather => self.gather().await,
            Step::Prepare => self.prepare().await,
            Step::Start => self.start().await,
            Step::Reattach => self.reattach().await,
            Step::Adjust => self.adjust().await,
            Step::Pause => self.pause(true).await,
            Step::Resume => self.pause(false).await,
            Step::Hibernate => self.hibernate().await,
            Step::Restore => self.restore().await,
            Step::Stop { then, grace } => self.stop(*then, *grace).await,
            Step::Settle(settled) => self.settle(settled),
            Step::Release => self.release().await,
            Step::Remove => self.remove().await,
            Step::Forget | Step::Rest { .. } => Ok(()),
        }
    }

    pub(crate) fn handle(&self) -> Result<InstanceHandle> {
        self.entry.handle.clone().ok_or_else(|| self.lacks("handle"))
    }

    fn lacks(&self, what: &str) -> DriverError {
        let name = &self.entry.desired.name;
        DriverError::new(
            yun_drivers::ErrorKind::Internal,
            "LedgerIncomplete",
            format!("the ledger entry of instance {name} has no {what}; it is made again"),
        )
    }

    /// Finds out what is true. The network is taken up first: a process that runs needs its names and its lease.
    async fn look(&mut self) -> Result<()> {
        if self.entry.boot_id == self.node.boot() {
            for attachment in
                self.entry.attachment.iter().chain(&self.entry.more_attachments).cloned().collect::<Vec<_>>()
            {
                if let Err(error) = take_up(&self.node, &attachment).await {
                    tracing::warn!(instance = %self.entry.id(), %error, "an attachment could not be taken up again; it will be made anew");
                    if self.entry.attachment.as_ref() == Some(&attachment) {
                        self.entry.attachment = None;
                    }
                    self.entry.more_attachments.retain(|other| *other != attachment);
                }
            }
        }
        let handle = self.handle()?;
        self.seen = match self.driver.recover(&handle).await? {
            Observed::Running { since } => {
                self.entry.started = self.entry.started.or(Some(since));
                Seen::Running
            }
            Observed::Paused { since } => {
                self.entry.started = self.entry.started.or(Some(since));
                Seen::Paused
            }
            Observed::Ended { exit } => Seen::Ended(exit),
            Observed::Absent => Seen::Absent,
        };
        Ok(())
    }

    fn begin(&mut self, cause: Cause) -> Result<()> {
        let entry = &mut self.entry;
        if let Seen::Ended(Some(exit)) = self.seen {
            // So that this end is not taken for one of the run that begins now.
            entry.exit = Some(exit);
        }
        match cause {
            Cause::User if entry.phase == Phase::New => {}
            Cause::User => (entry.restarts, entry.streak) = (0, 0),
            Cause::Policy => {
                entry.restarts = entry.restarts.saturating_add(1);
                entry.streak = entry.streak.saturating_add(1);
            }
            Cause::Reboot => {}
        }
        entry.phase = Phase::Starting;
        entry.health = None;
        entry.restart_count = entry.restart_count.max(entry.desired.spec.restart_count);
        (entry.next_restart, entry.ending) = (None, None);
        self.image = None;
        self.unwatch();
        self.save()
    }

    /// Opens the image, connects the networks and gets the volumes, side by side: neither needs the others.
    async fn gather(&mut self) -> Result<()> {
        fail_point!("agent::before_attach");
        self.leave_networks().await?;
        let connected = async {
            self.driver.enclose(&self.entry.desired).await?;
            plug(&self.node, &self.entry.desired).await
        };
        let (image, plugged) = tokio::join!(self.node.drivers.image.open(&self.entry.desired.image.digest), connected);
        let named = |mut error: DriverError| {
            error.message = format!("cannot open image {}: {}", self.entry.desired.image.name, error.message);
            error
        };
        let (image, Plugged { attachment, more, volumes }) = (image.map_err(named)?, plugged?);
        fail_point!("agent::after_attach");
        let changed = self.entry.more_attachments != more || self.entry.fitted != self.entry.desired.volumes;
        // Also when nothing changed, if there is anything: a crash may have come between writing it down here and there.
        if changed || !more.is_empty() || !volumes.is_empty() {
            let fittings = Fittings { volumes, interfaces: more.clone() };
            self.driver.fit(self.entry.id(), &fittings).await?;
        }
        fail_point!("agent::after_fit");
        let entry = &mut self.entry;
        if entry.boot_id != self.node.boot() {
            entry.boot_id = self.node.boot().to_owned();
            entry.prepared = None;
        }
        if entry.attachment.as_ref() != Some(&attachment) {
            entry.attachment = Some(attachment);
            entry.prepared = None;
        }
        if changed {
            (entry.more_attachments, entry.fitted) = (more, entry.desired.volumes.clone());
            entry.prepared = None;
        }
        self.image = Some(image);
        Ok(())
    }

    async fn prepare(&mut self) -> Result<()> {
        let image = self.image.clone().ok_or_else(|| self.lacks("image"))?;
        let desired = self.entry.desired.clone();
        let _permit = self.node.starts.acquire().await;
        if let Some(template) = desired.origin.template.as_ref().filter(|_| self.entry.handle.is_none()) {
            self.node.drivers.snapshots_of(desired.kind).seed(desired.id, template).await?;
        }
        let handle = self.driver.prepare(&desired, &image, self.entry.attachment.as_ref()).await?;
        fail_point!("agent::after_prepare");
        self.entry.handle = Some(handle);
        self.entry.prepared = Some(desired.generation);
        self.entry.runs_with = Some(desired.spec);
        (self.entry.adjusted, self.entry.adjust_note) = (None, None);
        // A first preparation has no process yet; a look would say the same.
        self.seen = if self.seen == Seen::Unknown { Seen::Absent } else { self.seen.clone() };
        self.save()
    }

    async fn start(&mut self) -> Result<()> {
        fail_point!("agent::before_start");
        let again = self.seen.live();
        let handle = self.handle()?;
        self.show();
        let permit = self.node.starts.acquire().await;
        let handle = self.driver.start(&handle).await?;
        drop(permit);
        fail_point!("agent::after_start");
        let entry = &mut self.entry;
        entry.handle = Some(handle);
        entry.phase = Phase::Running;
        (entry.ending, entry.next_restart) = (None, None);
        entry.hibernated = false;
        if !again {
            self.seen = Seen::Running;
            entry.started = Some(self.node.clock.now());
            entry.restart_count = entry.restart_count.max(entry.desired.spec.restart_count);
        }
        self.boot_failure = None;
        let guest = self.has_guest();
        self.entry.answered = !guest || (again && self.entry.answered);
        self.image = None;
        self.save()?;
        if !again {
            self.node.events.tell(self.entry.id(), Severity::Normal, "Started", "its process runs");
        }
        Ok(())
    }

    /// Brings what is plugged into a running instance to what is wanted.
    async fn reattach(&mut self) -> Result<()> {
        fail_point!("agent::before_reattach");
        self.pull_interfaces().await?;
        fail_point!("agent::after_pull");
        let Plugged { attachment, more, volumes } = plug(&self.node, &self.entry.desired).await?;
        let changed = self.entry.more_attachments != more || self.entry.fitted != self.entry.desired.volumes;
        if changed || !more.is_empty() || !volumes.is_empty() {
            let fittings = Fittings { volumes, interfaces: more.clone() };
            self.driver.fit(self.entry.id(), &fittings).await?;
        }
        fail_point!("agent::after_fit");
        let entry = &mut self.entry;
        (entry.attachment, entry.more_attachments) = (Some(attachment), more);
        entry.fitted.clone_from(&entry.desired.volumes);
        self.save()
    }

    /// Changes the limits of what runs.
    async fn adjust(&mut self) -> Result<()> {
        let desired = self.entry.desired.clone();
        if desired.kind == InstanceKind::Vm {
            return self.resize().await;
        }
        let done = self.driver.adjust(&desired).await?;
        let Some(with) = self.entry.runs_with.take() else { return Ok(()) };
        self.entry.runs_with = Some(with_limits(with, &desired.spec));
        if done {
            let message = format!("its limits are {} now", desired.spec.size);
            self.node.events.tell(self.entry.id(), Severity::Normal, "Adjusted", message);
        }
        self.save()
    }

    /// Takes interfaces away that are not wanted any more: out of the instance first, then off the network, so that their numbers are free.
    async fn pull_interfaces(&mut self) -> Result<()> {
        let desired = &self.entry.desired;
        let wanted = |had: &Attachment| {
            let same = |nic: &Nic| {
                (nic.network, nic.index, nic.address, &nic.mac)
                    == (had.network, had.nic.index, had.nic.address, &had.nic.mac)
            };
            desired.more_nics.iter().any(same)
        };
        let (kept, gone): (Vec<_>, Vec<_>) = self.entry.more_attachments.iter().cloned().partition(wanted);
        if gone.is_empty() {
            return Ok(());
        }
        let mut volumes = Vec::new();
        for mount in &self.entry.fitted {
            volumes.push(FittedVolume::new(mount, &self.node.drivers.volume.ensure(&mount.volume).await?));
        }
        self.driver.fit(self.entry.id(), &Fittings { volumes, interfaces: kept.clone() }).await?;
        for attachment in gone {
            self.node.drivers.network.detach_from(self.entry.id(), attachment.network).await?;
            self.node.networks.released(attachment.network);
        }
        self.entry.more_attachments = kept;
        self.save()
    }

    /// Disconnects it from networks that it should not be in (any more).
    async fn leave_networks(&mut self) -> Result<()> {
        let entry = &self.entry;
        let wanted = |network: NetworkId| entry.desired.nics().any(|nic| nic.network == network);
        let had = entry.attachment.iter().chain(&entry.more_attachments).map(|attachment| attachment.network);
        for network in had.filter(|network| !wanted(*network)).collect::<Vec<_>>() {
            self.node.drivers.network.detach_from(self.entry.id(), network).await?;
            self.node.networks.released(network);
        }
        Ok(())
    }

    async fn pause(&mut self, freeze: bool) -> Result<()> {
        let handle = self.handle()?;
        if freeze {
            self.driver.pause(&handle).await?;
            self.seen = Seen::Paused;
        } else {
            self.driver.resume(&handle).await?;
            self.seen = Seen::Running;
        }
        Ok(())
    }

    async fn stop(&mut self, then: Then, grace: Duration) -> Result<()> {
        if then == Then::Policy {
            self.entry.ending = crate::decide::unhealthy(&self.entry).or(self.entry.ending.take());
        }
        if then == Then::Fail {
            self.entry.ending = self.boot_failure.take().or(self.entry.ending.take());
        }
        self.entry.phase = Phase::Stopping(then);
        self.save()?;
        self.show();
        let handle = self.handle()?;
        fail_point!("agent::before_stop");
        let exit = self.driver.stop(&handle, grace).await?;
        fail_point!("agent::after_stop");
        self.unwatch();
        self.entry.exit = exit.or(self.entry.exit);
        self.entry.hibernated = false;
        self.seen = Seen::Ended(exit);
        Ok(())
    }

    /// Writes down what an end means.
    pub(crate) fn settle(&mut self, settled: &Settled) -> Result<()> {
        let entry = &mut self.entry;
        (entry.phase, entry.next_restart) = match settled.to {
            Rest::Stopped => (Phase::Stopped, None),
            Rest::Finished => (Phase::Finished, None),
            Rest::Waiting(moment) => (Phase::Waiting, Some(moment)),
        };
        entry.ending = settled.ending.clone();
        entry.exit = settled.exit.or(entry.exit);
        entry.streak = settled.streak;
        entry.caught_up = entry.desired.generation;
        if settled.to == Rest::Stopped {
            entry.restart_count = entry.restart_count.max(entry.desired.spec.restart_count);
        }
        self.boot_failure = None;
        self.save()?;
        let (severity, reason, message) = match &self.entry.ending {
            None => (Severity::Normal, "Stopped", "it was stopped"),
            Some(ending) if ending.failed => (Severity::Warning, ending.reason.as_str(), ending.message.as_str()),
            Some(ending) => (Severity::Normal, ending.reason.as_str(), ending.message.as_str()),
        };
        self.node.events.tell(self.entry.id(), severity, reason, message);
        Ok(())
    }

    async fn release(&mut self) -> Result<()> {
        self.node.drivers.network.detach(self.entry.id()).await?;
        self.released();
        self.entry.attachment = None;
        self.entry.more_attachments.clear();
        self.save()
    }

    /// Tells its networks that it has left them.
    fn released(&self) {
        let had = self.entry.attachment.iter().chain(&self.entry.more_attachments).map(|attachment| attachment.network);
        let wanted = self.entry.desired.nics().map(|nic| nic.network);
        had.chain(wanted).for_each(|network| self.node.networks.released(network));
    }

    async fn remove(&mut self) -> Result<()> {
        // Written also into the order: an orphan stays one for the next agent.
        self.entry.desired.deleting = true;
        self.entry.phase = Phase::Removing;
        self.unwatch();
        self.save()?;
        self.show();
        fail_point!("agent::before_remove");
        let id = self.entry.id();
        // Side by side: neither needs the other, and the kernel takes its time with both.
        let (removed, detached) = tokio::join!(self.driver.remove(id), self.node.drivers.network.detach(id));
        removed.and(detached)?;
        self.released();
        fail_point!("agent::after_remove");
        self.entry.phase = Phase::Removed;
        self.node.events.tell(id, Severity::Normal, "Removed", "nothing of it is left on the node");
        Ok(())
    }
}

/// Takes an attachment up again after a restart of the agent.
async fn take_up(node: &Node, attachment: &Attachment) -> Result<()> {
    node.networks.ready(node, attachment.network).await?;
    node.drivers.network.recover(attachment).await
}

/// What an instance is to have.
struct Plugged {
    attachment: Attachment,
    more: Vec<Attachment>,
    volumes: Vec<FittedVolume>,
}

/// Connects an instance to its networks, once they are there, and gets its volumes.
async fn plug(node: &Node, desired: &DesiredInstance) -> Result<Plugged> {
    let attachment = attach(node, desired, &desired.nic).await?;
    let mut more = Vec::new();
    for nic in &desired.more_nics {
        more.push(attach(node, desired, nic).await?);
    }
    let mut volumes = Vec::new();
    for mount in &desired.volumes {
        volumes.push(FittedVolume::new(mount, &node.drivers.volume.ensure(&mount.volume).await?));
    }
    Ok(Plugged { attachment, more, volumes })
}

async fn attach(node: &Node, desired: &DesiredInstance, nic: &Nic) -> Result<Attachment> {
    node.networks.ready(node, nic.network).await?;
    node.drivers.network.attach(desired.id, desired.kind, nic).await
}
