//! Jobs of a batch cluster, as in the SURF trace of OpenDC: first come, first served, and what does not fit lets others by.
//!
//! Only events are looked at: a job arrives, or one ends; then those classes of waiting jobs are asked that the freed room can help.

use crate::{Progress, TraceError, table};
use serde::Serialize;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    path::{Path, PathBuf},
};
use yun_plan::pool::{Attributes, Pool, Request, RequestId, Ticket, Vector};

/// A job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Job {
    submitted: u64,
    duration: u64,
    cores: u32,
    memory: u64,
}

/// Jobs by arrival.
#[derive(Debug, Clone)]
pub struct Surf {
    path: PathBuf,
    jobs: Vec<Job>,
}

/// Equal nodes.
#[derive(Debug, Clone, Copy)]
pub struct Cluster {
    /// How many.
    pub nodes: u32,
    /// Cores of each.
    pub cores: u32,
    /// MiB of each.
    pub memory_mib: u64,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Jobs that ran.
    pub jobs: usize,
    /// Jobs that no node could ever hold.
    pub never: usize,
    /// Seconds between arrival and start.
    pub mean_wait_seconds: f64,
    /// The same, of the job that waits longer than 99 % of all.
    pub p99_wait_seconds: f64,
    /// Cores in use, in the mean over the time until the last job arrived.
    pub mean_use_percent: f64,
    /// From the first arrival to the last end.
    pub makespan_hours: f64,
    /// Seconds of waiting by percentile.
    #[serde(skip)]
    pub waits: Vec<(u8, f64)>,
}

/// Reads the jobs: `submission_time` and `duration` in ms, `cpu_count`, `mem_capacity` in MB.
pub fn read(path: &Path) -> Result<Surf, TraceError> {
    if path.extension().is_some_and(|e| e == "parquet") {
        let how = "is parquet: convert it to CSV first (yun simulate surf --help shows how)";
        return Err(TraceError::senseless(path, how));
    }
    let mut jobs = table::rows(path, |row| {
        let cores: u32 = row.get("cpu_count", "a number of cores")?;
        if cores == 0 {
            return Err(row.wrong("cpu_count", "a job needs a core"));
        }
        let memory: f64 = row.get_or("mem_capacity", "MB", 0.0)?;
        if !(0.0..1e9).contains(&memory) {
            return Err(row.wrong("mem_capacity", &format!("{memory} MB")));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
        let memory = memory.ceil() as u64;
        Ok(Job {
            submitted: row.get("submission_time", "milliseconds (a whole number)")?,
            duration: row.get("duration", "milliseconds (a whole number)")?,
            cores,
            memory,
        })
    })?;
    jobs.sort_by_key(|job| job.submitted);
    Ok(Surf { path: path.to_owned(), jobs })
}

struct Waiting {
    pool: Pool,
    queues: BTreeMap<RequestId, VecDeque<Job>>,
    ends: BinaryHeap<Reverse<(u64, Ticket, u32)>>,
    waits: Vec<u64>,
    in_use: u64,
}

impl Waiting {
    /// Starts jobs of these classes, the oldest first, as long as there is room.
    fn start(&mut self, classes: &mut BTreeSet<RequestId>, now: u64) {
        loop {
            let heads =
                classes.iter().filter_map(|class| self.queues.get(class)?.front().map(|job| (job.submitted, *class)));
            let Some((_, class)) = heads.min() else { return };
            let Some((_, ticket)) = self.pool.place(class) else {
                classes.remove(&class);
                continue;
            };
            let Some(job) = self.queues.get_mut(&class).and_then(VecDeque::pop_front) else { return };
            self.waits.push(now - job.submitted);
            self.in_use += u64::from(job.cores);
            self.ends.push(Reverse((now + job.duration, ticket, job.cores)));
        }
    }
}

/// Plays all jobs.
pub fn play(trace: &Surf, cluster: Cluster, progress: Progress<'_>) -> Result<Outcome, TraceError> {
    let vector = |parts: &[i64]| Vector::new(parts).map_err(|e| TraceError::senseless(&trace.path, e.to_string()));
    let whole = [i64::from(cluster.cores), i64::try_from(cluster.memory_mib).unwrap_or(i64::MAX)];
    let mut pool = Pool::new(["cores", "memory"]);
    for node in 0..cluster.nodes {
        pool.add_node(u64::from(node), vector(&whole)?, &Attributes::default());
    }
    let mut w = Waiting { pool, queues: BTreeMap::new(), ends: BinaryHeap::new(), waits: Vec::new(), in_use: 0 };
    let (mut never, mut next) = (0, 0);
    let first = trace.jobs.first().map_or(0, |job| job.submitted);
    let last = trace.jobs.last().map_or(0, |job| job.submitted);
    let (mut used, mut then, mut end) = (0u128, first, first);
    while next < trace.jobs.len() || !w.ends.is_empty() {
        let arrival = trace.jobs.get(next).map(|job| job.submitted);
        let now = match (arrival, w.ends.peek()) {
            (Some(arrival), Some(Reverse((end, ..)))) => arrival.min(*end),
            (Some(arrival), None) => arrival,
            (None, Some(Reverse((end, ..)))) => *end,
            (None, None) => break,
        };
        used += u128::from(now.min(last).saturating_sub(then)) * u128::from(w.in_use);
        then = now.min(last).max(then);
        let mut helped = BTreeSet::new();
        let mut freed = false;
        while let Some(Reverse((_, ticket, cores))) = w.ends.peek().copied().filter(|Reverse((end, ..))| *end <= now) {
            w.ends.pop();
            w.pool.release(ticket);
            w.in_use -= u64::from(cores);
            freed = true;
            end = now;
        }
        if freed {
            helped.extend(w.pool.woken());
        }
        while let Some(job) = trace.jobs.get(next).filter(|job| job.submitted <= now) {
            next += 1;
            let shape = [i64::from(job.cores), i64::try_from(job.memory).unwrap_or(i64::MAX)];
            if shape[0] > whole[0] || shape[1] > whole[1] {
                never += 1;
                continue;
            }
            let class = w.pool.request(&Request::of(vector(&shape)?));
            let queue = w.queues.entry(class).or_default();
            queue.push_back(*job);
            if queue.len() == 1 {
                helped.insert(class);
            }
        }
        w.start(&mut helped, now);
        if next % 1024 == 0 {
            progress(w.waits.len() as u64, trace.jobs.len() as u64);
        }
    }
    let mut waits = w.waits;
    waits.sort_unstable();
    let at = |percent: usize| {
        waits
            .get((waits.len() * percent / 100).min(waits.len().saturating_sub(1)))
            .map_or(0.0, |ms| *ms as f64 / 1000.0)
    };
    let cores = u128::from(cluster.nodes) * u128::from(cluster.cores);
    Ok(Outcome {
        jobs: waits.len(),
        never,
        mean_wait_seconds: crate::mean(waits.iter().map(|ms| *ms as f64 / 1000.0)),
        p99_wait_seconds: at(99),
        mean_use_percent: used as f64 * 100.0 / (cores * u128::from((last - first).max(1))) as f64,
        makespan_hours: (end - first) as f64 / 3_600_000.0,
        waits: (0..=100u8).map(|percent| (percent, at(usize::from(percent)))).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn outcome(rows: &str, nodes: u32) -> Outcome {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobs.csv");
        fs::write(&path, format!("id,submission_time,duration,cpu_count,cpu_capacity,mem_capacity\n{rows}")).unwrap();
        play(&read(&path).unwrap(), Cluster { nodes, cores: 4, memory_mib: 1000 }, &|_, _| ()).unwrap()
    }

    #[test]
    fn jobs_wait_for_room_and_small_ones_go_by() {
        // Two fill the nodes for 10 s; a large one waits for a whole node; a small one that came later fits beside the second.
        let o =
            outcome("1,0,10000,4,1,10\n2,0,20000,3,1,10\n3,1000,5000,4,1,10\n4,2000,1000,1,1,10\n5,3000,1,9,1,10\n", 2);
        assert_eq!((o.jobs, o.never), (4, 1));
        assert_eq!(o.waits[100].1, 9.0);
        assert_eq!(o.waits[50].1, 0.0);
        assert_eq!(o.makespan_hours, 20.0 / 3600.0);
    }

    #[test]
    fn nobody_waits_where_there_is_room() {
        let rows: String = (0..50).map(|n| format!("{n},{},100,1,1,1\n", n * 50)).collect();
        let o = outcome(&rows, 3);
        assert_eq!((o.jobs, o.p99_wait_seconds), (50, 0.0));
        assert!(o.mean_use_percent > 15.0 && o.mean_use_percent < 18.0, "{}", o.mean_use_percent);
    }

    #[test]
    fn parquet_says_how_to_go_on() {
        assert!(read(Path::new("x.parquet")).unwrap_err().to_string().contains("convert it to CSV"));
    }
}
