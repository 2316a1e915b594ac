//! Tests of the journals: order, bounds, rotation, damage.

use super::*;
use std::time::Duration;
use yun_engine::clock::TestClock;
use yun_types::{ObjectKind, ObjectRef, Severity};

fn open(directory: &tempfile::TempDir) -> Journal<Event> {
    Journal::open(directory.path().join("events.jsonl"), Arc::new(TestClock::default())).unwrap()
}

fn event(sequence: u64, at: Timestamp) -> Event {
    let object = ObjectRef { kind: ObjectKind::Instance, name: "web".into(), id: uuid::Uuid::nil(), project: None };
    Event {
        sequence,
        at,
        object,
        severity: Severity::Normal,
        reason: "Started".into(),
        message: format!("number {sequence}"),
    }
}

fn numbers(entries: &[Arc<Event>]) -> Vec<u64> {
    entries.iter().map(|entry| entry.sequence).collect()
}

#[tokio::test]
async fn entries_survive_a_restart_and_the_numbers_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory);
    for _ in 0..3 {
        journal.record(event);
    }
    journal.kept().await.unwrap();
    drop(journal);
    let journal = open(&directory);
    assert_eq!(journal.record(event), 4);
    assert_eq!(numbers(&journal.tail(10)), [1, 2, 3, 4]);
    assert_eq!(numbers(&journal.before(3, 10).await.unwrap()), [2, 1]);
}

#[tokio::test]
async fn half_a_line_is_dropped_and_the_next_one_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory);
    journal.record(event);
    journal.kept().await.unwrap();
    drop(journal);
    let path = directory.path().join("events.jsonl");
    let mut content = std::fs::read(&path).unwrap();
    content.extend_from_slice(b"{\"sequence\":2,\"at");
    std::fs::write(&path, content).unwrap();

    let journal = open(&directory);
    journal.record(event);
    journal.kept().await.unwrap();
    drop(journal);
    assert_eq!(numbers(&open(&directory).tail(10)), [1, 2]);
}

#[tokio::test]
async fn followers_get_every_entry_once_and_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Arc::new(open(&directory));
    journal.record(event);
    let mut from_start = journal.subscribe_after(0);
    let mut from_now = journal.subscribe();
    let writer = Arc::clone(&journal);
    let writing = tokio::task::spawn_blocking(move || (0..500).map(|_| writer.record(event)).max());
    let mut seen = Vec::new();
    while seen.last() != Some(&501) {
        let entry = tokio::time::timeout(Duration::from_secs(10), from_start.next()).await.unwrap().unwrap();
        seen.push(entry.sequence);
    }
    assert_eq!(seen, (1..=501).collect::<Vec<_>>());
    assert_eq!(from_now.next().await.unwrap().sequence, 2);
    assert_eq!(writing.await.unwrap(), Some(501));
    drop(journal);
}

#[tokio::test]
async fn large_files_are_set_aside_and_still_read() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(&directory);
    let padding = "x".repeat(4096);
    for _ in 0..IN_MEMORY + 500 {
        journal.record(|sequence, at| Event { message: padding.clone(), ..event(sequence, at) });
    }
    journal.kept().await.unwrap();
    assert!(directory.path().join("events.jsonl.1").exists());
    let oldest = journal.before(4, 10).await.unwrap();
    assert_eq!(numbers(&oldest), [3, 2, 1]);
    assert_eq!(journal.tail(usize::MAX).len(), IN_MEMORY);
    drop(journal);
    assert_eq!(open(&directory).head(), IN_MEMORY as u64 + 500);
}
