//! A month in a second: what is added, what becomes of it, what survives.

use super::*;
use crate::SubjectKind;
use yun_types::Metric;

const HOUR: Millis = 3_600_000;
const BEGIN: Millis = 1_790_000_000_000;

fn subject(n: u128) -> Subject {
    Subject {
        id: Uuid::from_u128(n),
        kind: SubjectKind::Container,
        name: format!("i{n}").parse().unwrap(),
        project: Some("default".parse().unwrap()),
        node: "one".parse().unwrap(),
    }
}

/// Half a core, some memory.
fn sample(at: Millis) -> Sample {
    let micros = u64::try_from(at - BEGIN).unwrap() * 500;
    Sample::default().with(Metric::Cpu, micros).with(Metric::Memory, 64 << 20)
}

fn open(path: &Path, limits: Limits) -> Measurements {
    let (opened, aside) = Measurements::open(path, limits).unwrap();
    assert_eq!(aside, None);
    opened
}

fn fill(store: &Measurements, subjects: &[Subject], from: Millis, to: Millis, step: Millis) {
    let mut at = from;
    while at < to {
        let samples: Vec<_> = subjects.iter().map(|subject| (subject.clone(), sample(at))).collect();
        store.add(at, &samples).unwrap();
        at += step;
    }
}

fn cpu(store: &Measurements, from: Millis, to: Millis, step: Millis) -> Vec<crate::Bucket> {
    let lines = store.range(Uuid::from_u128(1), &[Metric::Cpu], from, to, step).unwrap();
    lines.into_iter().flat_map(|line| line.buckets).collect()
}

#[test]
fn a_restart_loses_nothing_of_what_was_added() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m/measurements.db");
    let store = open(&path, Limits::default());
    fill(&store, &[subject(1), subject(2)], BEGIN, BEGIN + HOUR, 5000);
    let before = cpu(&store, BEGIN, BEGIN + HOUR, 60_000);
    assert_eq!(before.len(), 60);
    assert!(before.iter().all(|bucket| (bucket.avg - 0.5).abs() < 0.01 && bucket.max < 0.51), "{before:?}");
    // No orderly end: as a killed process leaves it.
    drop(store);
    let store = open(&path, Limits::default());
    assert_eq!(cpu(&store, BEGIN, BEGIN + HOUR, 60_000), before);
    assert_eq!(store.subjects(BEGIN), [subject(1), subject(2)]);
    let latest = store.newest(Uuid::from_u128(1)).unwrap();
    assert_eq!(latest.at(), BEGIN + HOUR - 5000);
    assert!((latest.values()[&Metric::Cpu] - 0.5).abs() < 0.01);
    assert!((latest.values()[&Metric::Memory] - f64::from(64 << 20)).abs() < 1.0);
    assert!(!latest.values().contains_key(&Metric::NetIn));
}

#[test]
fn a_day_is_kept_fine_and_a_month_coarse_and_then_it_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("measurements.db"), Limits::default());
    // Every minute, so that the test is quick.
    let days = 40 * 24 * HOUR;
    fill(&store, &[subject(1)], BEGIN, BEGIN + days, 60_000);
    let now = BEGIN + days;
    let points = |ago: Millis, span: Millis| {
        store
            .range(Uuid::from_u128(1), &[Metric::Cpu], now - ago, now - ago + span, 1000)
            .unwrap()
            .pop()
            .map_or(0, |l| l.buckets.len())
    };
    assert_eq!(points(23 * HOUR, HOUR), 61, "a day is fine");
    assert_eq!(points(10 * 24 * HOUR, HOUR), 12, "ten days ago is coarse");
    assert_eq!(points(30 * 24 * HOUR, HOUR), 12, "a month ago too");
    assert_eq!(points(34 * 24 * HOUR, HOUR), 0, "and before that nothing is");
    let old = cpu(&store, now - 20 * 24 * HOUR, now - 19 * 24 * HOUR, HOUR);
    assert!(old.len() == 24 && old.iter().all(|bucket| (bucket.avg - 0.5).abs() < 0.01), "{old:?}");
    assert!(store.footprint().unwrap().disk < 1 << 20);
}

#[test]
fn what_is_gone_for_a_month_is_forgotten_by_name_too() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("measurements.db"), Limits::default());
    fill(&store, &[subject(1), subject(2)], BEGIN, BEGIN + HOUR, 60_000);
    fill(&store, &[subject(1)], BEGIN + HOUR, BEGIN + 34 * 24 * HOUR, 10 * 60_000);
    let now = BEGIN + 34 * 24 * HOUR;
    assert_eq!(store.footprint().unwrap().subjects, 1);
    assert_eq!(store.subjects(now - HOUR), [subject(1)]);
}

#[test]
fn the_file_stays_below_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { bytes: 400 << 10, ..Limits::default() };
    let store = open(&folder.path().join("measurements.db"), limits);
    let many: Vec<Subject> = (1..40).map(subject).collect();
    for round in 0..200 {
        fill(&store, &many, BEGIN + round * SEAL, BEGIN + (round + 1) * SEAL, 30_000);
    }
    let used = store.footprint().unwrap().disk;
    assert!(used <= limits.bytes + (100 << 10), "{used}");
    assert!(!cpu(&store, BEGIN + 199 * SEAL, BEGIN + 200 * SEAL, SEAL).is_empty(), "the newest is there");
}

#[test]
fn a_clock_that_jumps_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("measurements.db"), Limits::default());
    fill(&store, &[subject(1)], BEGIN + 10 * HOUR, BEGIN + 11 * HOUR, 5000);
    // Back by hours: it is measured on from there.
    fill(&store, &[subject(1)], BEGIN + HOUR, BEGIN + 2 * HOUR, 5000);
    assert_eq!(cpu(&store, BEGIN + HOUR, BEGIN + 2 * HOUR, 600_000).len(), 6);
    // And far into the future.
    fill(&store, &[subject(1)], BEGIN + 1000 * HOUR, BEGIN + 1001 * HOUR, 5000);
    assert_eq!(cpu(&store, BEGIN + 1000 * HOUR, BEGIN + 1001 * HOUR, 600_000).len(), 6);
}

#[test]
fn a_damaged_file_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("measurements.db");
    std::fs::write(&path, vec![b'x'; 100_000]).unwrap();
    let (store, aside) = Measurements::open(&path, Limits::default()).unwrap();
    assert_eq!(std::fs::metadata(aside.unwrap()).unwrap().len(), 100_000);
    fill(&store, &[subject(1)], BEGIN, BEGIN + 60_000, 5000);
    assert!(!cpu(&store, BEGIN, BEGIN + HOUR, HOUR).is_empty());
}

#[test]
fn a_file_of_a_newer_yun_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("measurements.db");
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer.execute_batch("CREATE TABLE fine (other); PRAGMA user_version = 99").unwrap();
    drop(newer);
    let (store, aside) = Measurements::open(&path, Limits::default()).unwrap();
    fill(&store, &[subject(1)], BEGIN, BEGIN + 60_000, 5000);
    assert!(!cpu(&store, BEGIN, BEGIN + HOUR, HOUR).is_empty());
    let kept = rusqlite::Connection::open(aside.unwrap()).unwrap();
    let tables: i64 = kept.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 1);
}

/// Busy instances: an hour of noise in most metrics.
#[test]
fn busy_instances_cost_about_a_byte_a_sample() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("measurements.db"), Limits::default());
    let many: Vec<Subject> = (1..=20).map(subject).collect();
    let mut noise = 1u64;
    let mut next = move |most: u64| {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (noise >> 33) % most
    };
    let mut counters = vec![[0u64; 4]; many.len()];
    let rounds = 720;
    for round in 0..rounds {
        let mut samples = Vec::new();
        for (subject, [cpu, net, written, pressure]) in many.iter().zip(&mut counters) {
            *cpu += 1_000_000 + next(3_000_000);
            *net += next(5_000_000);
            *written += next(100) * 4096;
            *pressure += next(200_000);
            let sample = Sample::default()
                .with(Metric::Cpu, *cpu)
                .with(Metric::Memory, (100 << 20) + next(2000) * 4096)
                .with(Metric::Processes, 12)
                .with(Metric::NetIn, *net)
                .with(Metric::NetOut, *net / 7)
                .with(Metric::PacketsIn, *net / 1400)
                .with(Metric::PacketsOut, *net / 9000)
                .with(Metric::DiskWritten, *written)
                .with(Metric::DiskUsed, 9 << 20)
                .with(Metric::CpuPressure, *pressure);
            samples.push((subject.clone(), sample));
        }
        store.add(BEGIN + round * 5000, &samples).unwrap();
    }
    store.close().unwrap();
    let disk = store.footprint().unwrap().disk;
    let samples = u64::try_from(rounds).unwrap() * many.len() as u64 * 12;
    let tenths = disk * 10 / samples;
    eprintln!("{disk} bytes for {samples} samples of busy instances: {}.{} bytes each", tenths / 10, tenths % 10);
    assert!(tenths < 25, "{tenths} tenths of a byte a sample");
}
