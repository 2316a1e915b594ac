//! A meter in memory: whatever runs, frozen or not, uses a quarter of a core, 64 MiB, and sends 1000 bytes a second.

use super::{Call, World};
use crate::{Meter, Result};
use async_trait::async_trait;
use yun_types::{InstanceId, InstanceKind, Measured, Metric, Sample};

/// Reads what the world's instances use.
#[derive(Debug, Clone)]
pub struct FakeMeter {
    world: World,
}

impl FakeMeter {
    /// The meter of a host.
    pub fn new(world: World) -> Self {
        Self { world }
    }
}

#[async_trait]
impl Meter for FakeMeter {
    async fn measure(&self, instances: &[(InstanceId, InstanceKind)]) -> Result<Measured> {
        self.world.enter(Call::Measure, None).await?;
        let now = self.world.inner.clock.now();
        let state = self.world.lock();
        let sample = |id: &InstanceId| {
            let run = state.bodies.get(id)?.run?;
            let micros = u64::try_from((now - run.since).num_microseconds()?).unwrap_or(0);
            Some(
                Sample::default()
                    .with(Metric::Cpu, micros / 4)
                    .with(Metric::Memory, 64 << 20)
                    .with(Metric::Processes, 1)
                    .with(Metric::NetOut, micros / 1000),
            )
        };
        let measured = instances.iter().filter_map(|(id, _)| Some((*id, sample(id)?))).collect();
        let node = Sample::default()
            .with(Metric::Memory, 1 << 30)
            .with(Metric::Cpu, now.timestamp_micros().unsigned_abs() / 4);
        Ok(Measured { node, instances: measured })
    }
}
