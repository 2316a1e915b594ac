//! The stream of changes: of one kind of object or of all, from a revision on, cut down to what the caller may see.
//!
//! Changes of several kinds come in the order of their revisions, although each kind has a cache of its own: a change is sent when every
//! cache has reached its revision. The revision of a line is one to go on after: of several changes with one revision only the last one
//! carries it, the others that of the change before, so that a reader who was cut off between them sees some twice, and misses none.

use crate::{
    auth::{self, Caller},
    core::Control,
    error::Refusal,
    view::Noun,
};
use dropshot::ErrorStatusCode;
use futures::{FutureExt, Stream, future::BoxFuture, stream};
use std::{collections::VecDeque, io, sync::Arc, time::Duration};
use yun_api::cloud::{AnyObject, Change, WatchEvent, WatchQuery};
use yun_store::{Cache, Change as StoredChange, Changes, Rev, Row, WatchEnd};
use yun_types::{Name, ObjectKind, Role};

/// How often a quiet stream says how far it is.
const BOOKMARK: Duration = Duration::from_secs(30);

/// One change of an object.
struct Item {
    rev: Rev,
    kind: ObjectKind,
    change: Change,
    /// `None` if the caller may not see it: it still moves the stream on.
    object: Option<Box<AnyObject>>,
}

/// One kind of object, followed.
trait Feed: Send {
    /// What there is now, and the revision from which changes are followed.
    fn list(&mut self, sight: &Sight) -> (Rev, Vec<AnyObject>);
    /// Resolves when there is a change.
    fn next<'a>(&'a mut self, sight: &'a Sight) -> BoxFuture<'a, Result<Item, End>>;
    /// The changes that are there.
    fn drain(&mut self, sight: &Sight, into: &mut Vec<Item>) -> Result<(), End>;
    /// Resolves when everything up to this revision is there.
    fn reach(&self, rev: Rev) -> BoxFuture<'static, Result<(), End>>;
}

/// The stream cannot go on; the reader starts again.
struct End;

/// What a reader may see.
struct Sight {
    control: Arc<Control>,
    caller: Caller,
    project: Option<Name>,
}

impl Sight {
    fn sees<T: Noun>(&self, row: &T) -> bool {
        match row.owner() {
            Some(owner) => self.project.as_ref().is_none_or(|wanted| wanted == owner) && self.caller.sees(owner),
            None => self.project.is_none() && self.caller.has_cloud(Role::Viewer),
        }
    }

    fn show<T: Noun>(&self, row: &Row<T>) -> Option<AnyObject> {
        self.sees(&row.value).then(|| T::any(T::show(&self.control, row)))
    }
}

struct Source<T> {
    kind: ObjectKind,
    cache: Cache<T>,
    changes: Changes<T>,
}

impl<T: Noun> Source<T> {
    fn boxed(kind: ObjectKind, cache: &Cache<T>, after: Option<Rev>) -> Result<Box<dyn Feed>, WatchEnd> {
        let changes = match after {
            Some(rev) => cache.subscribe_from(rev)?,
            None => cache.subscribe(),
        };
        Ok(Box::new(Self { kind, cache: cache.clone(), changes }))
    }

    fn item(&self, sight: &Sight, change: &StoredChange<T>) -> Item {
        let (happened, row) = match (&change.old, &change.new) {
            (None, Some(new)) => (Change::Added, Some(new)),
            (_, Some(new)) => (Change::Modified, Some(new)),
            (old, None) => (Change::Deleted, old.as_ref()),
        };
        Item {
            rev: change.rev,
            kind: self.kind,
            change: happened,
            object: row.and_then(|row| sight.show(row)).map(Box::new),
        }
    }
}

impl<T: Noun> Feed for Source<T> {
    fn list(&mut self, sight: &Sight) -> (Rev, Vec<AnyObject>) {
        let page = self.cache.list(&[], None, usize::MAX);
        // Everything up to the list's revision is in the list.
        if let Ok(changes) = self.cache.subscribe_from(page.rev) {
            self.changes = changes;
        }
        (page.rev, page.rows.iter().filter_map(|row| sight.show(row)).collect())
    }

    fn next<'a>(&'a mut self, sight: &'a Sight) -> BoxFuture<'a, Result<Item, End>> {
        async {
            match self.changes.next().await {
                Some(Ok(change)) => Ok(self.item(sight, &change)),
                _ => Err(End),
            }
        }
        .boxed()
    }

    fn drain(&mut self, sight: &Sight, into: &mut Vec<Item>) -> Result<(), End> {
        while let Some(next) = self.changes.next().now_or_never() {
            match next {
                Some(Ok(change)) => into.push(self.item(sight, &change)),
                _ => return Err(End),
            }
        }
        Ok(())
    }

    fn reach(&self, rev: Rev) -> BoxFuture<'static, Result<(), End>> {
        let cache = self.cache.clone();
        async move { cache.wait_for(rev).await.map_err(|_| End) }.boxed()
    }
}

/// Opens a stream of changes.
pub fn open(
    control: &Arc<Control>,
    caller: Caller,
    query: WatchQuery,
) -> Result<impl Stream<Item = io::Result<WatchEvent>> + Send + use<>, Refusal> {
    let WatchQuery { kind, project, after } = query;
    if let Some(project) = &project {
        caller.require(project, Role::Viewer)?;
    }
    let kinds = kinds(&caller, kind, project.is_some())?;
    let after = after
        .map(|text| text.parse::<Rev>())
        .transpose()
        .map_err(|e| Refusal::bad_request("BadRevision", e.to_string()))?;
    let feeds = kinds.iter().map(|kind| feed(control, *kind, after)).collect::<Result<Vec<_>, WatchEnd>>();
    let feeds = feeds.map_err(|end| {
        Refusal::new(ErrorStatusCode::GONE, "RevisionCompacted", format!("cannot go on after this revision: {end}"))
    })?;
    let sight = Sight { control: Arc::clone(control), caller, project };
    let sent = control.clock.monotonic();
    let mut watch = Watch { sight, feeds, pending: Vec::new(), ready: VecDeque::new(), at: after, sent };
    if after.is_none() {
        watch.list();
    }
    Ok(stream::unfold(watch, |mut watch| async move {
        let event = watch.next().await?;
        Some((Ok(event), watch))
    }))
}

const ALL: [ObjectKind; 9] = [
    ObjectKind::Project,
    ObjectKind::Network,
    ObjectKind::Volume,
    ObjectKind::Node,
    ObjectKind::Image,
    ObjectKind::Group,
    ObjectKind::Instance,
    ObjectKind::Snapshot,
    ObjectKind::Operation,
];

fn kinds(caller: &Caller, kind: Option<ObjectKind>, in_project: bool) -> Result<Vec<ObjectKind>, Refusal> {
    match kind {
        Some(ObjectKind::Node) => caller.require_cloud(Role::Viewer).map(|()| vec![ObjectKind::Node]),
        Some(kind) if ALL.contains(&kind) => Ok(vec![kind]),
        Some(kind) => Err(Refusal::bad_request(
            "BadKind",
            format!(
                "objects of kind {kind} cannot be watched: use instance, group, image, network, node, operation, project or volume"
            ),
        )),
        None => Ok(ALL
            .into_iter()
            .filter(|kind| *kind != ObjectKind::Node || (!in_project && caller.has_cloud(Role::Viewer)))
            .collect()),
    }
}

fn feed(control: &Control, kind: ObjectKind, after: Option<Rev>) -> Result<Box<dyn Feed>, WatchEnd> {
    match kind {
        ObjectKind::Group => Source::boxed(kind, &control.groups.cache, after),
        ObjectKind::Image => Source::boxed(kind, &control.images.cache, after),
        ObjectKind::Instance => Source::boxed(kind, &control.instances.cache, after),
        ObjectKind::Network => Source::boxed(kind, &control.networks.cache, after),
        ObjectKind::Node => Source::boxed(kind, &control.nodes.cache, after),
        ObjectKind::Volume => Source::boxed(kind, &control.volumes.cache, after),
        ObjectKind::Operation => Source::boxed(kind, &control.operations.cache, after),
        ObjectKind::Snapshot => Source::boxed(kind, &control.snapshots.cache, after),
        // `kinds` lets no other kind through.
        ObjectKind::Project | ObjectKind::Cloud | ObjectKind::SshKey | ObjectKind::Token => {
            Source::boxed(kind, &control.projects.cache, after)
        }
    }
}

struct Watch {
    sight: Sight,
    feeds: Vec<Box<dyn Feed>>,
    /// Changes whose revision not every feed has reached.
    pending: Vec<Item>,
    /// Lines to send.
    ready: VecDeque<WatchEvent>,
    /// Everything up to here was sent.
    at: Option<Rev>,
    /// When the last line was sent.
    sent: Duration,
}

impl Watch {
    /// Sends everything there is, then a bookmark.
    fn list(&mut self) {
        let mut lists: Vec<(Rev, Vec<AnyObject>)> = self.feeds.iter_mut().map(|feed| feed.list(&self.sight)).collect();
        // The lists may be of different moments: changes after the earliest come again.
        let rev = lists.iter().map(|(rev, _)| *rev).min();
        self.at = rev;
        let revision = rev.map_or_else(String::new, |rev| rev.to_string());
        let objects = lists.drain(..).flat_map(|(_, objects)| objects);
        self.ready.extend(objects.map(|object| WatchEvent {
            change: Change::Added,
            revision: revision.clone(),
            object: Some(object),
        }));
        self.ready.push_back(WatchEvent { change: Change::Bookmark, revision, object: None });
    }

    /// The next line; `None` when the stream cannot go on.
    async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.sent = self.sight.control.clock.monotonic();
                return Some(event);
            }
            let due = !self.gather().await.ok()?;
            // A token that was revoked or lost a role must not go on seeing; with other roles the reader comes back by a new request.
            if !auth::unchanged(&self.sight.control, &self.sight.caller) {
                return None;
            }
            if due {
                self.ready.push_back(self.bookmark());
            }
        }
    }

    fn bookmark(&self) -> WatchEvent {
        WatchEvent {
            change: Change::Bookmark,
            revision: self.at.map_or_else(String::new, |rev| rev.to_string()),
            object: None,
        }
    }

    /// Waits for changes and makes lines of them. `false` if no line was sent for so long that a bookmark is due.
    async fn gather(&mut self) -> Result<bool, End> {
        if self.pending.is_empty() {
            let Self { feeds, sight, pending, sent, .. } = self;
            let clock = &sight.control.clock;
            let quiet = clock.sleep(BOOKMARK.saturating_sub(clock.monotonic().saturating_sub(*sent)));
            let next = futures::future::select_all(feeds.iter_mut().map(|feed| feed.next(sight)));
            tokio::select! {
                (item, _, _) = next => pending.push(item?),
                () = quiet => return Ok(false),
            }
        }
        let Some(rev) = self.pending.iter().map(|item| item.rev).max() else { return Ok(true) };
        let reached: Vec<_> = self.feeds.iter().map(|feed| feed.reach(rev)).collect();
        futures::future::try_join_all(reached).await?;
        for feed in &mut self.feeds {
            feed.drain(&self.sight, &mut self.pending)?;
        }
        // What one transaction changed comes with owners before what they own, as in the list.
        self.pending.sort_by_key(|item| (item.rev, ALL.iter().position(|kind| *kind == item.kind)));
        let complete = self.pending.partition_point(|item| item.rev <= rev);
        let items: Vec<Item> = self.pending.drain(..complete).collect();
        self.send(items);
        Ok(true)
    }

    fn send(&mut self, items: Vec<Item>) {
        let from = self.at;
        let mut items = items.into_iter().filter(|item| from.is_none_or(|at| item.rev > at)).peekable();
        while let Some(item) = items.next() {
            if items.peek().is_none_or(|next| next.rev > item.rev) {
                self.at = Some(item.rev);
            }
            if let Some(object) = item.object {
                let revision = self.at.map_or_else(String::new, |rev| rev.to_string());
                self.ready.push_back(WatchEvent { change: item.change, revision, object: Some(*object) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        auth::tests::first,
        fixture::{Cloud, name},
    };
    use futures::StreamExt;
    use yun_types::ProjectSpec;

    #[tokio::test]
    async fn a_quiet_stream_says_how_far_it_is() {
        let cloud = Cloud::new().await;
        let caller = first(&cloud).await;
        let query = WatchQuery { kind: Some(ObjectKind::Project), ..WatchQuery::default() };
        let mut lines = Box::pin(open(&cloud.c, caller, query).unwrap());
        assert_eq!(lines.next().await.unwrap().unwrap().change, Change::Added);
        let listed = lines.next().await.unwrap().unwrap();
        assert_eq!(listed.change, Change::Bookmark);

        let (bookmark, ()) = tokio::join!(lines.next(), async {
            cloud.clock.wait_for_sleepers(1).await;
            cloud.clock.advance(BOOKMARK).await;
        });
        let bookmark = bookmark.unwrap().unwrap();
        assert_eq!((bookmark.change, &bookmark.revision), (Change::Bookmark, &listed.revision));

        cloud.project("alpha", ProjectSpec::default()).await;
        let added = lines.next().await.unwrap().unwrap();
        assert_eq!(added.change, Change::Added);
        assert!(added.revision.parse::<Rev>().unwrap() > listed.revision.parse().unwrap());
    }

    #[tokio::test]
    async fn one_project_is_watched_alone() {
        let cloud = Cloud::new().await;
        let caller = first(&cloud).await;
        cloud.project("alpha", ProjectSpec::default()).await;
        let query = WatchQuery { project: Some(name("alpha")), ..WatchQuery::default() };
        let lines = Box::pin(open(&cloud.c, caller, query).unwrap());
        let seen: Vec<WatchEvent> = lines.take(3).map(Result::unwrap).collect().await;
        let changes: Vec<Change> = seen.iter().map(|line| line.change).collect();
        assert_eq!(changes, [Change::Added, Change::Added, Change::Bookmark], "the project, its network, and no more");
    }
}
