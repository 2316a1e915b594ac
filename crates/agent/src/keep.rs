//! The steps that keep what an instance is and bring it back, and those that change a machine while it runs.

use crate::{
    decide::{Rest, Seen, Settled},
    ledger::{Ending, Phase},
    owner::Owner,
};
use yun_drivers::{DriverError, ErrorKind, Result};
use yun_types::Severity;

impl Owner {
    /// Saves a machine with its memory. One that ended before has none to save: then it is stopped.
    pub(crate) async fn hibernate(&mut self) -> Result<()> {
        let handle = self.handle()?;
        match self.node.drivers.machines.hibernate(&handle).await {
            Ok(()) => {}
            Err(error) if error.reason == "NotRunning" => {
                let exit = if let Seen::Ended(exit) = self.seen { exit } else { None };
                return self.settle(&Settled { to: Rest::Stopped, ending: None, exit, streak: 0 });
            }
            Err(error) => return Err(error),
        }
        self.unwatch();
        self.seen = Seen::Ended(None);
        let entry = &mut self.entry;
        (entry.phase, entry.hibernated) = (Phase::Stopped, true);
        (entry.ending, entry.next_restart) = (None, None);
        entry.caught_up = entry.desired.generation;
        self.save()?;
        self.node.events.tell(
            self.entry.id(),
            Severity::Normal,
            "Hibernated",
            "its memory is on disk; yun start lets it go on",
        );
        Ok(())
    }

    /// Gives a machine that runs another size, as far as it can take it on.
    pub(crate) async fn resize(&mut self) -> Result<()> {
        let (handle, wanted) = (self.handle()?, self.entry.desired.spec.size);
        let resized = self.node.drivers.machines.resize(&handle, wanted).await?;
        let entry = &mut self.entry;
        if let Some(with) = &mut entry.runs_with {
            with.size = resized.size;
        }
        (entry.adjusted, entry.adjust_note) = (Some(entry.desired.generation), resized.why.clone());
        self.save()?;
        let why = resized.why.map_or_else(String::new, |why| format!("; {why}"));
        let (severity, message) = if resized.size == wanted {
            (Severity::Normal, format!("its size is {wanted} now{why}"))
        } else {
            (Severity::Warning, format!("its size is {} now, and {wanted} after a restart{why}", resized.size))
        };
        self.node.events.tell(self.entry.id(), severity, "Adjusted", message);
        Ok(())
    }

    /// Brings the data of an instance that does not run back to the snapshot that is wished for.
    pub(crate) async fn restore(&mut self) -> Result<()> {
        let Some(wish) = self.entry.desired.origin.restore.clone() else { return Ok(()) };
        let (id, kind) = (self.entry.id(), self.entry.desired.kind);
        let restored = self.node.drivers.snapshots_of(kind).restore(id, wish.snapshot, wish.memory).await;
        match restored {
            Ok(()) => {}
            Err(error) if hopeless(&error) => {
                // The wish is answered; the data are as they were.
                self.entry.restores = wish.count;
                let message =
                    format!("cannot restore snapshot {}: {}; its data are as they were", wish.name, error.message);
                let ending = Ending { failed: true, ran: false, reason: error.reason.to_owned(), message };
                return self.settle(&Settled { to: Rest::Finished, ending: Some(ending), exit: None, streak: 0 });
            }
            Err(error) => return Err(error),
        }
        let entry = &mut self.entry;
        entry.restores = wish.count;
        entry.hibernated = false;
        if !matches!(entry.phase, Phase::New | Phase::Starting) {
            // What became of the run before is of no interest any more.
            (entry.phase, entry.ending, entry.next_restart) = (Phase::Stopped, None, None);
        }
        // What the restored data look like is for the next preparation to find out.
        entry.prepared = None;
        self.save()?;
        let message = format!("its data are those of snapshot {}", wish.name);
        self.node.events.tell(id, Severity::Normal, "Restored", message);
        Ok(())
    }
}

/// Trying again would not help.
fn hopeless(error: &DriverError) -> bool {
    matches!(error.kind, ErrorKind::BadRequest | ErrorKind::Damaged | ErrorKind::NotFound | ErrorKind::Unavailable)
}
