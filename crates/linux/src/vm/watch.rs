//! One task a running VM: waits for the end of its QEMU, writes down how it ended, and keeps its logs within bounds meanwhile.
//!
//! The VM needs no such task to live, and the record no such task to exist: without one, the end is read from QEMU's own journal.

use super::{
    files::{Files, Run},
    journal, log,
    process::Process,
};
use std::{process::ExitStatus, time::Duration};
use tokio::{process::Child, sync::watch, time::MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;
use yun_types::Exit;

/// How often logs are looked at. A guest that writes without pause fills the difference between bounds and reality in this time.
const LOOK: Duration = Duration::from_secs(2);

/// Follows one run.
#[derive(Debug)]
pub(super) struct Watch {
    process: Process,
    over: watch::Receiver<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Watch {
    /// Begins to follow. The child is there only if QEMU was started by this very process: then its signal is known at the end.
    pub(super) fn begin(files: Files, process: Process, child: Option<Child>) -> Self {
        let (sender, over) = watch::channel(false);
        let task = tokio::spawn(async move {
            let status = follow(&files, process, child).await;
            conclude(&files, process, status);
            sender.send_replace(true);
        });
        Self { process, over, _task: AbortOnDropHandle::new(task) }
    }

    /// Whom it follows.
    pub(super) fn process(&self) -> Process {
        self.process
    }

    /// Turns true at the end.
    pub(super) fn over(&self) -> watch::Receiver<bool> {
        self.over.clone()
    }
}

async fn follow(files: &Files, process: Process, child: Option<Child>) -> Option<ExitStatus> {
    let death = death(process, child);
    tokio::pin!(death);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            status = &mut death => return status,
            _ = look.tick() => log::bound(&[files.console_log(), files.journal()]),
        }
    }
}

async fn death(process: Process, child: Option<Child>) -> Option<ExitStatus> {
    if let Some(mut child) = child {
        return child.wait().await.ok();
    }
    let watched = match process.hold() {
        Ok(Some(held)) => held.ended().await,
        Ok(None) => return None,
        Err(error) => Err(error),
    };
    if let Err(error) = watched {
        // Out of descriptors, most likely: looking from time to time is worse and still right.
        tracing::warn!(pid = process.pid, %error, "cannot watch a QEMU; looking every second");
        while process.is_alive() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    None
}

/// How a run that is over ended. Reads only.
pub(super) fn how_it_ended(files: &Files, run: &Run, status: Option<ExitStatus>) -> Exit {
    run.exit.unwrap_or_else(|| {
        journal::exit(journal::shutdown(&files.journal()).as_ref(), status, &files.said(), chrono::Utc::now())
    })
}

/// Writes the end down, unless it is known or a newer run has begun.
fn conclude(files: &Files, process: Process, status: Option<ExitStatus>) {
    let Some(run) = files.last_run().filter(|run| run.process == process && run.exit.is_none()) else { return };
    let exit = Some(how_it_ended(files, &run, status));
    if let Err(error) = files.write_run(&Run { exit, ..run }) {
        // The journal still tells it; only the signal of a crash is lost.
        tracing::warn!(%error, "cannot write down how a VM ended");
    }
}
