//! What is used: nodes measure it every few seconds and tell; here it is kept, in a store of its own, and asked for.
//!
//! Measurements are not state: nobody decides by them, and the newest may be lost. They never go into the store of the cloud.

pub(crate) mod door;
pub(crate) mod exposition;
pub mod ops;
mod plain;
pub(crate) mod prometheus;
#[cfg(test)]
mod tests;

use crate::core::Control;
use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use yun_measure::{Limits, MeasureError, Measurements, Subject, SubjectKind};
use yun_types::{InstanceId, InstanceKind, Measured, NodeId, Sample};

/// How many questions in PromQL are answered at the same time.
const QUESTIONS: usize = 2;

/// The measurements of this cloud.
#[derive(Debug)]
pub struct Usage {
    /// The store of measurements.
    pub measurements: Arc<Measurements>,
    /// Turns of questions in PromQL.
    pub(crate) questions: tokio::sync::Semaphore,
    /// What the door counts.
    pub(crate) counted: exposition::Counted,
    /// The last try to keep them failed, and that was said.
    failing: AtomicBool,
}

impl Usage {
    /// Opens the measurements under the cloud's directory.
    pub fn open(directory: &Path) -> Result<Self, MeasureError> {
        let path = directory.join("metrics/measurements.db");
        let (measurements, aside) = Measurements::open(&path, Limits::default())?;
        if let Some(aside) = aside {
            tracing::warn!(aside = %aside.display(), "the file of measurements is damaged, or a newer yun made it: it is set aside, and a new one begins");
        }
        Ok(Self {
            measurements: Arc::new(measurements),
            questions: tokio::sync::Semaphore::new(QUESTIONS),
            counted: exposition::Counted::default(),
            failing: AtomicBool::new(false),
        })
    }

    /// Before an orderly end: the next start has less to read.
    pub(crate) async fn close(&self) {
        let measurements = Arc::clone(&self.measurements);
        let closed = tokio::task::spawn_blocking(move || measurements.close()).await;
        if let Ok(Err(error)) = closed {
            tracing::warn!(%error, "the newest measurements stay in the log of their file");
        }
    }
}

/// Keeps what a node measured. What cannot be kept is lost: that is said once.
pub(crate) async fn take(c: &Arc<Control>, node: NodeId, measured: Measured) {
    let Some(samples) = named(c, node, measured) else { return };
    let at = c.clock.now().timestamp_millis();
    let measurements = Arc::clone(&c.usage.measurements);
    let added = tokio::task::spawn_blocking(move || measurements.add(at, &samples)).await;
    match added {
        Ok(Ok(())) => c.usage.failing.store(false, Ordering::Relaxed),
        Ok(Err(error)) if !c.usage.failing.swap(true, Ordering::Relaxed) => {
            tracing::error!(
                error = crate::error::chain(&error),
                "measurements are lost until their file can be written again"
            );
        }
        _ => {}
    }
}

/// Names what a node measured. What we do not know, or know elsewhere, is left out: it is about to go.
fn named(c: &Control, node: NodeId, measured: Measured) -> Option<Vec<(Subject, Sample)>> {
    let nodes = c.nodes.cache.all(&[]);
    let metadata = &nodes.iter().find(|row| row.value.0.metadata.id == node.0)?.value.0.metadata;
    let rows = c.instances.cache.all(&[]);
    let here = rows.iter().filter(|row| row.value.0.status.node == Some(node));
    let known: HashMap<InstanceId, _> = here.map(|row| (InstanceId(row.value.0.metadata.id), &row.value.0)).collect();
    let of_node = Subject {
        id: node.0,
        kind: SubjectKind::Node,
        name: metadata.name.clone(),
        project: None,
        node: metadata.name.clone(),
    };
    let mut samples = vec![(of_node, measured.node)];
    samples.extend(measured.instances.into_iter().filter_map(|(id, sample)| {
        let instance = known.get(&id)?;
        let subject = Subject {
            id: id.0,
            kind: instance.spec.kind.unwrap_or(InstanceKind::Container).into(),
            name: instance.metadata.name.clone(),
            project: instance.metadata.project.clone(),
            node: metadata.name.clone(),
        };
        Some((subject, sample))
    }));
    Some(samples)
}
