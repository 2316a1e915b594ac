//! The one way to the kernel's packet filter: text through `nft -f -`. Everything in one text happens, or nothing of it.
//!
//! A process takes some milliseconds, so texts that arrive while one runs wait and go together in the next: whoever gets the turn takes
//! all that wait. If a common text is refused, each part is tried alone, so that only the culprit fails.

use std::{collections::VecDeque, sync::Mutex, time::Duration};
use tokio::sync::oneshot;
use yun_drivers::{DriverError, ErrorKind, Result};

use crate::command::Program;

const NFT: Program<'static> = Program { name: "nft", package: "nftables", limit: Duration::from_secs(30) };

type Waiting = (String, oneshot::Sender<Result<()>>);

/// The queue before `nft`.
#[derive(Debug, Default)]
pub(super) struct Nft {
    waiting: Mutex<VecDeque<Waiting>>,
    turn: tokio::sync::Mutex<()>,
}

impl Nft {
    /// Carries out a text, perhaps together with others.
    pub(super) async fn apply(&self, text: String) -> Result<()> {
        let (done, mut answer) = oneshot::channel();
        lock(&self.waiting).push_back((text, done));
        let _turn = self.turn.lock().await;
        if let Ok(result) = answer.try_recv() {
            return result;
        }
        let batch: Vec<Waiting> = lock(&self.waiting).drain(..).collect();
        run_all(batch).await;
        answer.try_recv().unwrap_or_else(|_| {
            Err(DriverError::new(
                ErrorKind::Cancelled,
                "Interrupted",
                "the change of the packet filter was interrupted; try again",
            ))
        })
    }

    /// What `nft` prints for these arguments; `None` if what they name does not exist.
    pub(super) async fn list(&self, args: &[&str]) -> Result<Option<String>> {
        match NFT.run(args, None).await {
            Ok(printed) => Ok(Some(printed.out)),
            Err(e) if e.reason == "ProgramFailed" && e.message.contains("No such file or directory") => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Asks the kernel whether it would take a text, and changes nothing.
    pub(super) async fn check(&self, text: &str) -> Result<()> {
        NFT.run(&["--check", "-f", "-"], Some(text.as_bytes())).await.map(drop)
    }
}

async fn run_all(batch: Vec<Waiting>) {
    let text: String = batch.iter().map(|(text, _)| text.as_str()).collect();
    let alone = batch.len() == 1;
    match run(&text).await {
        Err(_) if !alone => {
            for (text, done) in batch {
                let _ = done.send(run(&text).await);
            }
        }
        Ok(()) => batch.into_iter().for_each(|(_, done)| drop(done.send(Ok(())))),
        Err(e) => {
            let mut error = Some(e);
            batch.into_iter().for_each(|(_, done)| drop(done.send(error.take().map_or(Ok(()), Err))));
        }
    }
}

async fn run(text: &str) -> Result<()> {
    NFT.run(&["-f", "-"], Some(text.as_bytes())).await.map(drop)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
