//! The check of a history.

use super::{Call, History, Model, What};
use crate::kv::{Batch, Event, KeyRange};
use crate::rev::Rev;
use crate::txn::{Op, OpResult, Txn, TxnOut};
use std::collections::BTreeMap;

/// Says what cannot be explained, if anything. Every writing transaction must put a value of its own: so a batch of the log tells whose it is.
pub fn check(history: &History) -> Result<(), String> {
    let mut revs = vec![None; history.calls.len()];
    replay(history, &mut revs)?;
    real_time(history, &revs)?;
    watches(history)
}

/// Whether an answered transaction changed something.
fn wrote(txn: &Txn, out: &TxnOut) -> bool {
    let ops = if out.succeeded { &txn.then } else { &txn.or_else };
    ops.iter().zip(&out.results).any(|(op, result)| match (op, result) {
        (Op::Put { .. }, _) => true,
        (_, OpResult::Del(count)) => *count > 0,
        _ => false,
    })
}

/// Replays the log and holds all answers against it. Fills in the revision of each call, `None` for what never happened.
fn replay(history: &History, revs: &mut [Option<Rev>]) -> Result<(), String> {
    let (start, kvs) = &history.start;
    let mut writers: BTreeMap<Rev, usize> = BTreeMap::new();
    let mut readers: BTreeMap<Rev, Vec<usize>> = BTreeMap::new();
    let mut unknown = Vec::new();
    for (i, call) in history.calls.iter().enumerate() {
        match &call.what {
            What::Txn(txn, out) if wrote(txn, out) => {
                if let Some(other) = writers.insert(out.rev, i) {
                    return Err(format!(
                        "two writes got revision {}: {:?} and {:?}",
                        out.rev, history.calls[other], call
                    ));
                }
                revs[i] = Some(out.rev);
            }
            What::Txn(_, out) => {
                readers.entry(out.rev).or_default().push(i);
                revs[i] = Some(out.rev);
            }
            What::List(_, at, page) => {
                if at.is_some_and(|at| at != page.rev) {
                    return Err(format!("a list of the past is not of the revision that was asked for: {call:?}"));
                }
                readers.entry(page.rev).or_default().push(i);
                // What it saw of the past says nothing about the order of now.
                revs[i] = at.is_none().then_some(page.rev);
            }
            What::Unknown(_) => unknown.push(i),
        }
    }
    let mut model = Model::new(kvs);
    let mut head = *start;
    answer_readers(history, &model, head, &mut readers)?;
    for batch in &history.log {
        let next = Rev::new(head.epoch, head.n + 1);
        if batch.rev != next {
            return Err(format!("the log goes from revision {head} to {}", batch.rev));
        }
        match writers.remove(&next) {
            Some(i) => acknowledged(&history.calls[i], &mut model, head, batch)?,
            None => {
                let Some(at) = unknown.iter().position(|i| explains(&history.calls[*i], &mut model, head, batch))
                else {
                    return Err(format!("nobody wrote {batch:?}"));
                };
                revs[unknown.swap_remove(at)] = Some(next);
            }
        }
        head = next;
        answer_readers(history, &model, head, &mut readers)?;
    }
    if let Some((rev, i)) = writers.first_key_value() {
        return Err(format!("the write at {rev} was acknowledged and is not in the log: {:?}", history.calls[*i]));
    }
    match readers.first_key_value() {
        Some((rev, calls)) => {
            Err(format!("an answer is from revision {rev} that never was: {:?}", history.calls[calls[0]]))
        }
        None => Ok(()),
    }
}

fn acknowledged(call: &Call, model: &mut Model, head: Rev, batch: &Batch) -> Result<(), String> {
    let What::Txn(txn, out) = &call.what else { return Err(format!("not a write: {call:?}")) };
    let (expected, events) = model.run(txn, head, batch.rev);
    if expected != *out {
        return Err(format!("{call:?}\nshould have been answered {expected:?}"));
    }
    if events != batch.events {
        return Err(format!("{call:?}\nmade the events {:?}\ninstead of {events:?}", batch.events));
    }
    Ok(())
}

/// Whether a write with unknown outcome made exactly this batch; if so the model moves on.
fn explains(call: &Call, model: &mut Model, head: Rev, batch: &Batch) -> bool {
    let What::Unknown(txn) = &call.what else { return false };
    let mut after = model.clone();
    let (_, events) = after.run(txn, head, batch.rev);
    let fits = events == batch.events;
    if fits {
        *model = after;
    }
    fits
}

fn answer_readers(
    history: &History,
    model: &Model,
    head: Rev,
    readers: &mut BTreeMap<Rev, Vec<usize>>,
) -> Result<(), String> {
    for i in readers.remove(&head).unwrap_or_default() {
        let call = &history.calls[i];
        let (found, expected) = match &call.what {
            What::Txn(txn, out) => {
                let (expected, _) = model.clone().run(txn, head, Rev::new(head.epoch, head.n + 1));
                (format!("{out:?}"), format!("{expected:?}"))
            }
            What::List(range, _, page) => {
                let mut expected = model.list(range);
                let more = page.more && expected.len() > page.kvs.len();
                if page.more {
                    expected.truncate(page.kvs.len());
                }
                (format!("{:?} {}", page.kvs, page.more), format!("{expected:?} {more}"))
            }
            What::Unknown(_) => continue,
        };
        if found != expected {
            return Err(format!("{call:?}\nanswered {found}\ninstead of {expected}"));
        }
    }
    Ok(())
}

/// A call that began after another was answered must not be ordered before it.
fn real_time(history: &History, revs: &[Option<Rev>]) -> Result<(), String> {
    let mut moments: Vec<(u64, bool, usize)> = Vec::new();
    for (i, call) in history.calls.iter().enumerate() {
        moments.push((call.asked, false, i));
        // What was never answered bounds nothing later.
        if !matches!(call.what, What::Unknown(_)) {
            moments.push((call.heard, true, i));
        }
    }
    moments.sort_unstable();
    let mut answered = history.start.0;
    let mut floors = vec![history.start.0; history.calls.len()];
    for (_, heard, i) in moments {
        let Some(rev) = revs[i] else { continue };
        if !heard {
            floors[i] = answered;
            continue;
        }
        answered = answered.max(rev);
    }
    for (i, call) in history.calls.iter().enumerate() {
        let Some(rev) = revs[i] else { continue };
        let writes = match &call.what {
            What::Txn(txn, out) => wrote(txn, out),
            What::Unknown(_) => true,
            What::List(..) => false,
        };
        if rev < floors[i] || (writes && rev == floors[i]) {
            return Err(format!("{call:?}\nis at {rev} although {} was answered before it began", floors[i]));
        }
    }
    Ok(())
}

/// Each watcher saw exactly its slice of the log.
fn watches(history: &History) -> Result<(), String> {
    for watched in &history.watched {
        let expected: Vec<Batch> = history
            .log
            .iter()
            .filter(|batch| batch.rev > watched.after)
            .filter_map(|batch| slice(batch, &watched.range))
            .collect();
        if expected != watched.batches {
            let (after, range) = (watched.after, &watched.range);
            return Err(format!(
                "the watch of {range:?} after {after} saw\n{:?}\ninstead of\n{expected:?}",
                watched.batches
            ));
        }
    }
    Ok(())
}

fn slice(batch: &Batch, range: &KeyRange) -> Option<Batch> {
    let events: Vec<Event> = batch.events.iter().filter(|event| range.contains(event.key())).cloned().collect();
    if events.is_empty() { None } else { Some(Batch { rev: batch.rev, events }) }
}
