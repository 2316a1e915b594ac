//! How much of what strangers try is recorded: enough to see that somebody tries, and not so much that it pushes out what others did.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How many tries are recorded in one span.
const MOST: u32 = 100;
/// How long a span is.
const SPAN: Duration = Duration::from_secs(60);

/// Counts the tries of callers without a valid token.
#[derive(Debug, Default)]
pub struct Strangers(Mutex<Span>);

#[derive(Debug, Default)]
struct Span {
    /// By the clock that never jumps.
    began: Duration,
    count: u32,
}

impl Strangers {
    /// Whether one more try is recorded now.
    pub fn admit(&self, now: Duration) -> bool {
        let mut span = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(span.began) >= SPAN {
            *span = Span { began: now, count: 0 };
        }
        span.count = span.count.saturating_add(1);
        if span.count == MOST + 1 {
            tracing::warn!("many requests come without a valid token: no more of them are recorded in this minute");
        }
        span.count <= MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_recorded_in_part_and_later_ones_again() {
        let strangers = Strangers::default();
        let admitted = |now: u64| (0..1000).filter(|_| strangers.admit(Duration::from_secs(now))).count();
        assert_eq!((admitted(5), admitted(59), admitted(70)), (100, 0, 100));
    }
}
