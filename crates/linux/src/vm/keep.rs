//! What only machines can do: hibernation, another size while they run, and a move into a fresh QEMU.

use super::{
    VmDriver,
    files::write_json,
    hand_over,
    machine::Machine,
    memory::{self, Resume},
    plug, resize,
    snapshot::finished,
};
use async_trait::async_trait;
use serde_json::Value;
use std::sync::Arc;
use yun_drivers::{DriverError, ErrorKind, InstanceHandle, MachineDriver, Renewed, Resized, Result};
use yun_engine::work::Followed;
use yun_types::Size;

async fn hibernate(machine: &Machine) -> Result<()> {
    let (files, verb) = (&machine.files, "hibernate");
    let plan = memory::fit(files, files.plan()?);
    if machine.current().is_none() {
        if files.resume().exists() {
            return Ok(());
        }
        let message = format!("cannot hibernate VM {}: it does not run", plan.name);
        return Err(DriverError::new(ErrorKind::Conflict, "NotRunning", message));
    }
    let status = machine.status().await.map_err(|e| machine.failed(verb, e))?;
    // A process that went away in the middle may have left it with its memory written and nothing done since.
    if !(status == "postmigrate" && files.resume().exists()) {
        memory::spend(files)?;
        let resume = Resume::of(&plan, plug::layout(machine, &plan).await?);
        machine.command("stop", Value::Null).await.map_err(|e| machine.failed(verb, e))?;
        if let Err(error) = written(machine, &resume).await {
            let _ = memory::spend(files);
            if status != "paused"
                && let Err(more) = machine.command("cont", Value::Null).await
            {
                tracing::warn!(vm = %plan.name, error = %more, "a VM that could not be hibernated stands still; it is let go on as soon as it answers");
            }
            return Err(error);
        }
    }
    machine.end().await?;
    machine.ended().await;
    Ok(())
}

async fn written(machine: &Machine, resume: &Resume) -> Result<()> {
    let (files, draft) = (&machine.files, machine.files.dir.join("memory.draft"));
    memory::save(machine, &draft, &Followed::default()).await?;
    std::fs::rename(&draft, files.memory()).map_err(|e| DriverError::io("keep the memory of a VM", e))?;
    write_json(&files.resume(), resume)?;
    memory::sync(files.resume()).await
}

#[async_trait]
impl MachineDriver for VmDriver {
    async fn hibernate(&self, handle: &InstanceHandle) -> Result<()> {
        let machine = self.machine(handle.id);
        let turn = Arc::clone(&machine.change).lock_owned().await;
        finished(tokio::spawn(async move {
            let _turn = turn;
            hibernate(&machine).await
        }))
        .await
    }

    async fn resize(&self, handle: &InstanceHandle, size: Size) -> Result<Resized> {
        let machine = self.machine(handle.id);
        let _turn = machine.change.lock().await;
        resize::resize(&self.host, &machine, size).await
    }

    async fn renew(&self, handle: &InstanceHandle) -> Result<Renewed> {
        let machine = self.machine(handle.id);
        let turn = Arc::clone(&machine.change).lock_owned().await;
        let (qemu, verdict) = self.facts().await?;
        let (host, program, accel, qemu) = (self.host.clone(), self.program().to_owned(), verdict.accel, *qemu);
        let moving = Arc::clone(&machine);
        let downtime = finished(tokio::spawn(async move {
            let _turn = turn;
            hand_over::hand_over(&host, &moving, &program, accel, qemu).await
        }))
        .await?;
        Ok(Renewed { handle: self.handle(&machine.files.plan()?, machine.current().as_ref()), downtime })
    }
}
