//! Which backups are kept: the newest ones, and the newest of each day, week and month. Pure.

use chrono::{DateTime, Datelike as _, Utc};
use serde::{Deserialize, Serialize};

/// What to keep of one series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// The newest so many.
    pub last: u32,
    /// The newest of each of so many days that have one.
    pub daily: u32,
    /// Of so many weeks (ISO 8601).
    pub weekly: u32,
    /// Of so many months.
    pub monthly: u32,
}

impl Keep {
    /// Whether it keeps anything at all.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// A backup as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dated {
    /// Which.
    pub id: String,
    /// The series that it belongs to: the state, or one instance.
    pub series: String,
    /// When it was made.
    pub created: DateTime<Utc>,
}

/// What becomes of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which.
    pub id: String,
    /// Why it is kept; nothing keeps it if empty.
    pub kept_for: Vec<&'static str>,
}

/// Decides for each backup of each series. An empty rule keeps all: nobody asks for nothing.
pub fn decide(backups: &[Dated], keep: Keep) -> Vec<Verdict> {
    let mut newest_first: Vec<&Dated> = backups.iter().collect();
    newest_first.sort_by(|a, b| (&a.series, b.created, &b.id).cmp(&(&b.series, a.created, &a.id)));
    let mut verdicts = Vec::new();
    for series in newest_first.chunk_by(|a, b| a.series == b.series) {
        let mut day = Periods::new(keep.daily);
        let mut week = Periods::new(keep.weekly);
        let mut month = Periods::new(keep.monthly);
        for (place, backup) in series.iter().enumerate() {
            let (at, iso) = (backup.created, backup.created.iso_week());
            let rules = [
                ("last", place < keep.last as usize),
                ("daily", day.takes((at.year(), at.ordinal()))),
                ("weekly", week.takes((iso.year(), iso.week()))),
                ("monthly", month.takes((at.year(), at.month()))),
            ];
            let mut kept_for: Vec<&str> = rules.iter().filter(|(_, kept)| *kept).map(|(name, _)| *name).collect();
            if keep.is_empty() {
                kept_for.push("everything");
            }
            verdicts.push(Verdict { id: backup.id.clone(), kept_for });
        }
    }
    verdicts
}

/// Takes the first of each period, as long as periods are left.
struct Periods {
    left: u32,
    last: Option<(i32, u32)>,
}

impl Periods {
    fn new(count: u32) -> Self {
        Self { left: count, last: None }
    }
    fn takes(&mut self, period: (i32, u32)) -> bool {
        if self.last == Some(period) || self.left == 0 {
            return false;
        }
        self.last = Some(period);
        self.left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(day: i64, hour: i64) -> Dated {
        let created = DateTime::from_timestamp(1_735_689_600, 0).unwrap() + chrono::TimeDelta::hours(day * 24 + hour);
        Dated { id: format!("{day:03}-{hour:02}"), series: "state".into(), created }
    }

    fn kept(backups: &[Dated], keep: Keep) -> Vec<String> {
        let verdicts = decide(backups, keep);
        verdicts.into_iter().filter(|v| !v.kept_for.is_empty()).map(|v| v.id).collect()
    }

    #[test]
    fn the_newest_of_each_period_stay() {
        // Two a day for 40 days from 1 January 2025, a Wednesday.
        let all: Vec<Dated> = (0..40).flat_map(|day| [at(day, 2), at(day, 14)]).collect();
        assert_eq!(kept(&all, Keep { last: 3, ..Keep::default() }), ["039-14", "039-02", "038-14"]);
        assert_eq!(kept(&all, Keep { daily: 2, ..Keep::default() }), ["039-14", "038-14"]);
        // Sundays are the 5th, 12th …: days 4, 11, 18, 25, 32, 39.
        assert_eq!(kept(&all, Keep { weekly: 3, ..Keep::default() }), ["039-14", "032-14", "025-14"]);
        assert_eq!(kept(&all, Keep { monthly: 9, ..Keep::default() }), ["039-14", "030-14"]);
        assert_eq!(kept(&all, Keep::default()).len(), 80, "no rule removes nothing");
    }

    #[test]
    fn each_series_has_its_own() {
        let other = Dated { series: "web".into(), ..at(0, 0) };
        assert_eq!(kept(&[at(5, 0), other, at(6, 0)], Keep { last: 1, ..Keep::default() }), ["006-00", "000-00"]);
    }

    proptest! {
        #[test]
        fn the_newest_stays_and_nothing_is_kept_beyond_the_rules(
            hours in proptest::collection::btree_set(0_i64..2000, 1..60), last in 0_u32..4, daily in 0_u32..4, weekly in 0_u32..4, monthly in 0_u32..4,
        ) {
            let all: Vec<Dated> = hours.iter().map(|h| at(h / 24, h % 24)).collect();
            let keep = Keep { last, daily, weekly, monthly };
            let kept = kept(&all, keep);
            prop_assert!(kept.contains(&all.last().unwrap().id));
            if !keep.is_empty() {
                prop_assert!(kept.len() <= (last + daily + weekly + monthly) as usize);
            }
        }
    }
}
