//! The stream of what happened, cut down to what the caller may see.

use crate::{
    auth::{self, Caller},
    core::Control,
    error::Refusal,
};
use futures::{Stream, StreamExt, stream};
use std::{io, sync::Arc, time::Duration};
use yun_api::cloud::EventQuery;
use yun_types::{Event, Role, Severity};

/// How many events are shown if the request does not say.
const TAIL: u32 = 100;
/// How often a quiet stream looks whether its reader may still read.
const LOOK: Duration = Duration::from_secs(30);

struct Sight {
    caller: Caller,
    query: EventQuery,
}

impl Sight {
    fn sees(&self, event: &Event) -> bool {
        let seen = match &event.object.project {
            Some(project) => {
                self.caller.sees(project) && self.query.project.as_ref().is_none_or(|wanted| wanted == project)
            }
            None => self.query.project.is_none() && self.caller.has_cloud(Role::Viewer),
        };
        seen && self.wants(event)
    }

    fn wants(&self, event: &Event) -> bool {
        let EventQuery { object, kind, severity, reason, since, .. } = &self.query;
        let named = |wanted: &String| *wanted == event.object.name || *wanted == event.object.id.to_string();
        object.as_ref().is_none_or(named)
            && kind.is_none_or(|wanted| wanted == event.object.kind)
            // What asks for attention is wanted by who wants all.
            && (*severity != Some(Severity::Warning) || event.severity == Severity::Warning)
            && reason.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(&event.reason))
            && since.is_none_or(|since| event.at >= since)
    }
}

/// Opens a stream of events: the last ones (or those after a number) first, then, if asked, what comes.
pub fn open(
    control: &Arc<Control>,
    caller: Caller,
    query: EventQuery,
) -> Result<impl Stream<Item = io::Result<Arc<Event>>> + Send + use<>, Refusal> {
    if let Some(project) = &query.project {
        caller.require(project, Role::Viewer)?;
    }
    let head = control.events.head();
    let (after, tail, follows) = (query.after, query.tail, query.follow.unwrap_or_default());
    let tail = tail.or((after.is_none() && query.since.is_none()).then_some(TAIL));
    let sight = Sight { caller, query };
    let mut past: Vec<Arc<Event>> = control.events.tail(usize::MAX);
    past.retain(|event| {
        event.sequence <= head && after.is_none_or(|after| event.sequence > after) && sight.sees(event)
    });
    if let Some(tail) = tail {
        past.drain(..past.len().saturating_sub(tail as usize));
    }
    let followed = follows.then(|| follow(Arc::clone(control), sight, head));
    let past = stream::iter(past.into_iter().map(Ok));
    Ok(past.chain(stream::iter(followed).flatten()))
}

fn follow(control: Arc<Control>, sight: Sight, head: u64) -> impl Stream<Item = io::Result<Arc<Event>>> + Send {
    let follower = control.events.subscribe_after(head);
    stream::unfold((control, sight, follower), |(control, sight, mut follower)| async move {
        loop {
            let next = tokio::select! {
                next = follower.next() => Some(next?),
                () = control.clock.sleep(LOOK) => None,
            };
            if !auth::unchanged(&control, &sight.caller) {
                return None;
            }
            if let Some(event) = next.filter(|event| sight.sees(event)) {
                return Some((Ok(event), (control, sight, follower)));
            }
        }
    })
}
