//! What instances and this node use: reads cgroups, `/proc` and `/sys`, and changes nothing.
//!
//! One round reads a few small files for each instance, and the counters of all network cards at once. The size of an instance's files is
//! counted at most once a minute, and never for more than a hundredth of the time.

mod cards;
mod disk;
mod group;
mod kernel;
mod process;
mod small;

use crate::{container::cgroup::Layout, host::Host, vm::process_of};
use async_trait::async_trait;
use cards::Traffic;
use disk::Sizes;
use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use yun_drivers::{DriverError, Meter, Result};
use yun_types::{InstanceId, InstanceKind, Measured, Metric};

/// Reads what this host's kernel counts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LinuxMeter {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    host: Host,
    layout: Layout,
    sizes: Mutex<Sizes>,
    traffic: Mutex<Traffic>,
}

impl LinuxMeter {
    /// Looks where the kernel counts.
    pub fn new(host: Host) -> Result<Self> {
        let layout = Layout::detect().map_err(|e| DriverError::io("read the host's cgroups", e))?;
        Ok(Self { inner: Arc::new(Inner { host, layout, sizes: Mutex::default(), traffic: Mutex::default() }) })
    }
}

#[async_trait]
impl Meter for LinuxMeter {
    async fn measure(&self, instances: &[(InstanceId, InstanceKind)]) -> Result<Measured> {
        let (inner, instances) = (Arc::clone(&self.inner), instances.to_vec());
        let read = move || inner.measure(&instances, Instant::now());
        let measured = tokio::task::spawn_blocking(read).await.unwrap_or_else(|e| Err(io::Error::other(e)));
        measured.map_err(|e| DriverError::io("measure what is used on this node", e))
    }
}

impl Inner {
    fn measure(&self, instances: &[(InstanceId, InstanceKind)], now: Instant) -> io::Result<Measured> {
        let cards = kernel::Cards::read()?;
        let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        sizes.keep_only(instances);
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        traffic.keep_only(instances);
        let mut reader = small::Reader::default();
        let mut measured = Measured { node: kernel::node(self.host.state(), &cards)?, instances: Vec::new() };
        measured.instances.reserve(instances.len());
        for (id, kind) in instances {
            let (sample, card) = match kind {
                InstanceKind::Container => {
                    let path = format!("{}/{id}", self.host.cgroup());
                    (group::sample(&self.layout, &path, &mut reader), self.host.veth(*id, 0))
                }
                InstanceKind::Vm => {
                    let sample = process_of(&self.host, *id).and_then(process::sample);
                    (sample, self.host.tap(*id, 0))
                }
            };
            // It ended since the list was made.
            let Some(mut sample) = sample else { continue };
            traffic.note(*id, &card, &cards, &mut sample);
            sample.set(Metric::DiskUsed, sizes.of(*id, &self.host.instance_dir(*id), now));
            measured.instances.push((*id, sample));
        }
        Ok(measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_node_is_measured_and_what_does_not_run_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::open(folder.path()).unwrap();
        let meter = LinuxMeter::new(host.clone()).unwrap();
        let stranger = InstanceId(uuid::Uuid::new_v4());
        let asked = [(stranger, InstanceKind::Vm), (stranger, InstanceKind::Container)];
        let measured = meter.measure(&asked).await.unwrap();
        assert!(measured.instances.is_empty());
        for metric in [Metric::Cpu, Metric::Memory, Metric::DiskUsed, Metric::Processes] {
            assert!(measured.node.get(metric).is_some_and(|value| value > 0), "{metric}");
        }
        let later = meter.measure(&asked).await.unwrap();
        assert!(later.node.get(Metric::Cpu) >= measured.node.get(Metric::Cpu));
        let _ = std::fs::remove_dir(host.run());
    }
}
