//! Idempotency keys: the same request with the same key is carried out once, and answered alike for a day.
//!
//! The row that remembers the key is written in the transaction that creates the object, so that a crash loses both or none. Requests with
//! the same key wait for each other, so that the second finds the first one's row. A request that was refused is not remembered.

use crate::{
    auth::Caller,
    core::Control,
    error::Refusal,
    rows::{IdempotencyRow, StoredAnswer},
};
use async_trait::async_trait;
use chrono::TimeDelta;
use dropshot::ErrorStatusCode;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;
use yun_engine::reconcile::{PassReport, Reconcile, Schedule, Signal, run};
use yun_store::{StoreError, Table, Txn};
use yun_types::{Timestamp, TokenId};

/// How long a key is remembered.
const REMEMBERED: TimeDelta = TimeDelta::days(1);
/// The longest key.
const LONGEST: usize = 255;

/// A request that must be carried out once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// Whose key it is: two tokens may use the same word.
    pub token: TokenId,
    /// The caller's word.
    pub key: String,
    /// SHA-256 of the request, in hexadecimal.
    pub request_sha256: String,
    /// When it was asked.
    pub at: Timestamp,
}

impl Once {
    /// Adds to the transaction that creates the object or operation `created`: the transaction fails if the key was used meanwhile.
    pub fn add_to(&self, txn: Txn, created: Uuid) -> Result<Txn, StoreError> {
        let (token, row) = (self.token.to_string(), self.row(created));
        let segments = [token.as_str(), self.key.as_str()];
        Ok(txn
            .when(Table::<IdempotencyRow>::cmp_absent(&segments))
            .then(Table::<IdempotencyRow>::op_put(&segments, &row)?))
    }

    fn row(&self, created: Uuid) -> IdempotencyRow {
        IdempotencyRow(StoredAnswer { request_sha256: self.request_sha256.clone(), at: self.at, created })
    }
}

/// Who is at work on which key.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<(TokenId, String), Weak<Line>>>);

/// Where the requests with one key stand in line.
type Line = tokio::sync::Mutex<()>;

impl Turns {
    fn of(&self, key: (TokenId, String)) -> Arc<Line> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(key, Arc::downgrade(&turn));
        turn
    }
}

/// One request's place among those with the same key. Held until the request was answered.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    answered: Option<Uuid>,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Turn {
    /// Waits for the turn, and looks whether the request was carried out before. Marks the caller, so that what is created remembers the key.
    pub(crate) async fn wait(
        control: &Control,
        caller: &mut Caller,
        key: Option<String>,
        request: &impl Serialize,
    ) -> Result<Self, Refusal> {
        let Some(key) = key else { return Ok(Self::default()) };
        if key.is_empty() || key.len() > LONGEST || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Refusal::bad_request(
                "BadIdempotencyKey",
                format!(
                    "the Idempotency-Key must be 1 to {LONGEST} visible ASCII characters, for example a random UUID"
                ),
            ));
        }
        let turn = control.turns.of((caller.token, key.clone())).lock_owned().await;
        let request = serde_json::to_vec(request).map_err(|e| Refusal::internal("read the request again", e))?;
        let once = Once {
            token: caller.token,
            key,
            request_sha256: hex::encode(Sha256::digest(request)),
            at: control.clock.now(),
        };
        let token = once.token.to_string();
        let segments = [token.as_str(), once.key.as_str()];
        let known = control.idempotency.get(&segments).await?;
        let mut answered = None;
        if let Some(row) = known {
            let old = once.at - row.value.0.at >= REMEMBERED;
            if old {
                control.idempotency.delete(&segments, row.rev).await?;
            } else if row.value.0.request_sha256 == once.request_sha256 {
                answered = Some(row.value.0.created);
            } else {
                return Err(Refusal::new(
                    ErrorStatusCode::UNPROCESSABLE_ENTITY,
                    "IdempotencyKeyReused",
                    format!(
                        "the Idempotency-Key {} was used for another request: send each request with a key of its own",
                        once.key
                    ),
                ));
            }
        }
        caller.once = Some(once);
        Ok(Self { answered, _turn: Some(turn) })
    }

    /// What the first request with this key created.
    pub(crate) fn answered(&self) -> Option<Uuid> {
        self.answered
    }

    /// Remembers the key if the transaction that created the object did not.
    pub(crate) async fn end(self, control: &Control, caller: &Caller, created: Uuid) -> Result<(), Refusal> {
        let (Some(once), None) = (&caller.once, self.answered) else { return Ok(()) };
        match control.idempotency.create(&[&once.token.to_string(), &once.key], &once.row(created)).await {
            Ok(_) | Err(StoreError::Exists { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// Starts what forgets old keys.
pub(crate) fn start(control: &Arc<Control>) {
    let forget = Forget { control: Arc::clone(control) };
    let schedule = Schedule::every(Duration::from_secs(3600));
    let _runs_until_shutdown =
        run(&control.tasks, Arc::clone(&control.clock), "idempotency/forget", schedule, Signal::default(), forget);
}

struct Forget {
    control: Arc<Control>,
}

#[async_trait]
impl Reconcile for Forget {
    async fn pass(&mut self) -> PassReport {
        match forget(&self.control).await {
            Ok(0) => PassReport::nothing(),
            Ok(count) => PassReport::changed(format!("forgot {count} old keys")),
            Err(e) => PassReport::failed(e),
        }
    }
}

async fn forget(control: &Control) -> Result<usize, StoreError> {
    let (mut after, mut forgotten) = (None, 0);
    loop {
        let page = control.idempotency.list(&[], after.as_ref(), None, 500).await?;
        for row in page.rows.iter().filter(|row| control.clock.now() - row.value.0.at >= REMEMBERED) {
            let segments = yun_store::path::segments(row.key.as_str());
            let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
            match control.idempotency.delete(&segments, row.rev).await {
                Ok(_) => forgotten += 1,
                Err(e) if e.is_conflict() => {}
                Err(e) => return Err(e),
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(forgotten);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Cloud, admin};

    async fn ask(cloud: &Cloud, request: &str) -> Result<Option<Uuid>, Refusal> {
        let mut caller = admin();
        let turn = Turn::wait(&cloud.c, &mut caller, Some("key".into()), &request).await?;
        let answered = turn.answered();
        turn.end(&cloud.c, &caller, answered.unwrap_or_else(Uuid::new_v4)).await?;
        Ok(answered)
    }

    #[tokio::test]
    async fn a_key_is_remembered_for_a_day() {
        let cloud = Cloud::new().await;
        assert_eq!(ask(&cloud, "one").await.unwrap(), None);
        let first = ask(&cloud, "one").await.unwrap();
        assert!(first.is_some());
        cloud.clock.advance(Duration::from_secs(23 * 3600)).await;
        assert_eq!(ask(&cloud, "one").await.unwrap(), first);
        assert_eq!(ask(&cloud, "two").await.unwrap_err().code, "IdempotencyKeyReused");
        cloud.clock.advance(Duration::from_secs(2 * 3600)).await;
        assert_eq!(ask(&cloud, "two").await.unwrap(), None, "after a day the word is free again");
        assert!(ask(&cloud, "two").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn old_keys_are_forgotten_and_young_ones_are_not() {
        let cloud = Cloud::new().await;
        ask(&cloud, "one").await.unwrap();
        cloud.clock.advance(Duration::from_secs(3600)).await;
        assert_eq!(forget(&cloud.c).await.unwrap(), 0);
        cloud.clock.advance(Duration::from_secs(24 * 3600)).await;
        assert_eq!(forget(&cloud.c).await.unwrap(), 1);
        assert!(cloud.c.idempotency.list(&[], None, None, 1).await.unwrap().rows.is_empty());
    }

    #[tokio::test]
    async fn two_tokens_may_use_the_same_word() {
        let cloud = Cloud::new().await;
        ask(&cloud, "one").await.unwrap();
        let mut other = admin();
        other.token = TokenId(Uuid::from_u128(9));
        let turn = Turn::wait(&cloud.c, &mut other, Some("key".into()), &"another").await.unwrap();
        assert_eq!(turn.answered(), None);
    }
}
