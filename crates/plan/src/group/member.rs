//! An instance of a group, as the decisions about the group see it.

use chrono::TimeDelta;
use uuid::Uuid;
use yun_types::{HealthState, Instance, InstanceState as State, Name, Power, Timestamp};

/// Where an instance stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// On its way to being ready; the text says where.
    Coming(String),
    /// It works.
    Ready {
        /// Since when it runs.
        since: Option<Timestamp>,
    },
    /// It runs and does not work.
    Unwell(String),
    /// It ended and will be started again by its policy.
    Restarting(String),
    /// It will not run again by itself.
    Dead {
        /// Why.
        why: String,
        /// Since when.
        since: Timestamp,
    },
    /// Its node is silent, and another one could take its place.
    Lost,
    /// It is being removed.
    Leaving,
    /// It is to be removed from a node that is silent.
    Stuck,
}

impl Standing {
    /// For people, behind the name: `web-1 runs`.
    pub fn text(&self) -> String {
        match self {
            Self::Coming(text) | Self::Unwell(text) | Self::Restarting(text) | Self::Dead { why: text, .. } => {
                text.clone()
            }
            Self::Ready { .. } => "is ready".to_owned(),
            Self::Lost => "is on a node that is silent".to_owned(),
            Self::Leaving => "is being removed".to_owned(),
            Self::Stuck => "waits to be removed from a node that is silent".to_owned(),
        }
    }
}

/// An instance of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: Name,
    /// Its slot.
    pub slot: u32,
    /// Its revision.
    pub revision: u64,
    /// Where it stands.
    pub standing: Standing,
    /// How often its policy has restarted it.
    pub restarts: u32,
}

impl Member {
    /// Whether it is on its way out.
    pub fn leaves(&self) -> bool {
        matches!(self.standing, Standing::Leaving | Standing::Stuck)
    }

    /// Whether it has been working for long enough.
    pub fn available(&self, wait: TimeDelta, now: Timestamp) -> bool {
        matches!(&self.standing, Standing::Ready { since } if since.is_none_or(|since| since + wait <= now))
    }

    /// When it will have been working for long enough.
    pub fn ripens(&self, wait: TimeDelta, now: Timestamp) -> Option<Timestamp> {
        match &self.standing {
            Standing::Ready { since: Some(since) } if *since + wait > now => Some(*since + wait),
            _ => None,
        }
    }

    /// Whether a new revision of which this is one should not be waited for.
    pub fn crashes(&self) -> bool {
        matches!(self.standing, Standing::Dead { .. })
            || self.restarts >= super::CRASHES && !matches!(self.standing, Standing::Leaving | Standing::Stuck)
    }
}

/// Whether the instance does what it is for.
pub fn ready(instance: &Instance) -> bool {
    instance.metadata.deleting.is_none() && instance.status.state == State::Running && well(instance).is_ok()
}

/// Whether its health check, if it has one, is content.
fn well(instance: &Instance) -> Result<(), String> {
    if instance.spec.container.health.is_none() {
        return Ok(());
    }
    let health = instance.status.health.as_ref();
    match health.map(|health| health.state).unwrap_or_default() {
        HealthState::Healthy => Ok(()),
        HealthState::Starting => Err("runs, and its health check has not succeeded yet".to_owned()),
        HealthState::Unhealthy => {
            let said = health.and_then(|health| health.output.as_ref()).map(|output| format!(": {output}"));
            Err(format!("is unhealthy{}", said.unwrap_or_default()))
        }
    }
}

/// The instance as a member of its group; `None` if it is in none. `node_silent`: its node does not answer. `elsewhere`: another node could take
/// its place.
pub fn member(instance: &Instance, node_silent: bool, elsewhere: bool) -> Option<Member> {
    let tie = instance.status.group.as_ref()?;
    Some(Member {
        id: instance.metadata.id,
        name: instance.metadata.name.clone(),
        slot: tie.slot,
        revision: tie.revision,
        standing: standing(instance, node_silent, elsewhere),
        restarts: instance.status.restarts,
    })
}

fn standing(instance: &Instance, node_silent: bool, elsewhere: bool) -> Standing {
    let status = &instance.status;
    if instance.metadata.deleting.is_some() {
        return if node_silent { Standing::Stuck } else { Standing::Leaving };
    }
    let said = |text: &str| match &status.message {
        Some(message) => format!("{text}: {message}"),
        None => text.to_owned(),
    };
    let since = status.exit.map_or(instance.metadata.created, |exit| exit.at);
    match status.state {
        State::Running => match well(instance) {
            Ok(()) => Standing::Ready { since: status.started },
            Err(why) => Standing::Unwell(why),
        },
        State::Failed | State::Stopped if status.next_restart.is_some() => {
            Standing::Restarting(format!("ended and is started again, {} times until now", status.restarts))
        }
        // Asked to end by somebody who could, or by itself: either way the group is short of it.
        State::Stopped if instance.spec.power == Power::Running => Standing::Dead { why: said("has ended"), since },
        State::Failed => Standing::Dead { why: said("has failed"), since },
        State::Lost if elsewhere => Standing::Lost,
        State::Lost => Standing::Unwell("is on a node that is silent, and no other could take its place".to_owned()),
        State::Pending => Standing::Coming(said("waits for a place")),
        state => Standing::Coming(format!("is {state}")),
    }
}
