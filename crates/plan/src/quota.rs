//! Quotas: the most that a project may hold at once. What an instance asks for counts from its creation, placed or not.

use crate::amount;
use std::fmt;
use yun_types::{Bytes, Name, Quota, Reserved, Size};

/// A quota does not allow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverQuota {
    /// The project.
    pub project: Name,
    /// `cpu`, `memory`, `disk` or `instances`.
    pub dimension: &'static str,
    /// What it holds.
    pub used: String,
    /// What is asked for beside that.
    pub asked: String,
    /// The most.
    pub limit: String,
}

impl fmt::Display for OverQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { project, dimension, used, asked, limit } = self;
        write!(
            f,
            "the {dimension} quota of project {project} does not allow it: {limit} is the most, {used} is used, and {asked} more is asked for; \
             delete or shrink instances or volumes, or ask an admin of the cloud to raise the quota"
        )
    }
}

impl std::error::Error for OverQuota {}

/// Checks one more instance of this size.
pub fn check(project: &Name, quota: &Quota, held: Reserved, size: Size) -> Result<(), OverQuota> {
    within(project, quota, held, amount::add(held, size))
}

/// Checks an instance that changes its size.
pub fn check_resize(project: &Name, quota: &Quota, held: Reserved, before: Size, after: Size) -> Result<(), OverQuota> {
    within(project, quota, held, amount::add(amount::take(held, before), after))
}

/// Checks so much more disk for a volume.
pub fn check_disk(project: &Name, quota: &Quota, held: Reserved, more: Bytes) -> Result<(), OverQuota> {
    within(project, quota, held, amount::add_disk(held, more))
}

/// What grows must stay under its limit; what does not grow may be over it (the quota may have been lowered since).
fn within(project: &Name, quota: &Quota, held: Reserved, after: Reserved) -> Result<(), OverQuota> {
    let over = |dimension, used: String, asked: String, limit: String| {
        Err(OverQuota { project: project.clone(), dimension, used, asked, limit })
    };
    if let Some(limit) = quota.cpu.filter(|limit| after.cpu > *limit && after.cpu > held.cpu) {
        return over("cpu", held.cpu.to_string(), after.cpu.saturating_sub(held.cpu).to_string(), limit.to_string());
    }
    if let Some(limit) = quota.memory.filter(|limit| after.memory > *limit && after.memory > held.memory) {
        return over("memory", held.memory.human(), after.memory.saturating_sub(held.memory).human(), limit.human());
    }
    if let Some(limit) = quota.disk.filter(|limit| after.disk > *limit && after.disk > held.disk) {
        return over("disk", held.disk.human(), after.disk.saturating_sub(held.disk).human(), limit.human());
    }
    if let Some(limit) = quota.instances.filter(|limit| after.instances > *limit && after.instances > held.instances) {
        return over(
            "instances",
            held.instances.to_string(),
            (after.instances - held.instances).to_string(),
            limit.to_string(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use yun_types::Cpu;

    fn project() -> Name {
        "team-a".parse().unwrap()
    }

    fn size(text: &str) -> Size {
        text.parse().unwrap()
    }

    #[test]
    fn each_dimension_is_guarded_and_named() {
        let quota = Quota {
            cpu: Some(Cpu::cores(2)),
            memory: Some(Bytes::gib(1)),
            disk: Some(Bytes::gib(10)),
            instances: Some(3),
        };
        let held = amount::total([size("cpu:1,memory:512Mi,disk:2Gi")]);
        let error = |text: &str| check(&project(), &quota, held, size(text)).unwrap_err();
        assert_eq!(error("cpu:1.5,memory:4Mi").dimension, "cpu");
        assert_eq!(error("cpu:1,memory:1Gi").dimension, "memory");
        assert_eq!(error("cpu:1,memory:4Mi,disk:9Gi").dimension, "disk");
        assert!(check(&project(), &quota, held, size("cpu:1,memory:512Mi,disk:8Gi")).is_ok());
        let three = Reserved { instances: 3, ..Reserved::default() };
        assert_eq!(
            check(&project(), &quota, three, size("cpu:1,memory:4Mi,disk:1Mi")).unwrap_err().dimension,
            "instances"
        );
        let text = error("cpu:1,memory:1Gi").to_string();
        for part in [
            "memory quota of project team-a",
            "1 GiB is the most",
            "512 MiB is used",
            "1 GiB more is asked for",
            "raise the quota",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn volumes_count_as_disk() {
        let quota = Quota { disk: Some(Bytes::gib(10)), ..Quota::default() };
        let held = amount::add_disk(amount::total([size("disk:2Gi")]), Bytes::gib(5));
        assert!(check_disk(&project(), &quota, held, Bytes::gib(3)).is_ok());
        let over = check_disk(&project(), &quota, held, Bytes::gib(4)).unwrap_err();
        assert_eq!((over.dimension, over.used.as_str(), over.asked.as_str()), ("disk", "7 GiB", "4 GiB"));
    }

    #[test]
    fn no_quota_is_no_limit() {
        assert!(check(&project(), &Quota::default(), Reserved::default(), size("cpu:4096,memory:1P,disk:1P")).is_ok());
    }

    #[test]
    fn who_is_over_a_lowered_quota_may_still_shrink() {
        let quota = Quota { memory: Some(Bytes::gib(1)), ..Quota::default() };
        let held = amount::total([size("memory:4Gi"), size("memory:1Gi")]);
        assert!(check_resize(&project(), &quota, held, size("memory:4Gi"), size("memory:2Gi")).is_ok());
        assert!(check_resize(&project(), &quota, held, size("memory:4Gi"), size("memory:4Gi")).is_ok());
        let error = check_resize(&project(), &quota, held, size("memory:4Gi"), size("memory:5Gi")).unwrap_err();
        assert_eq!((error.used.as_str(), error.asked.as_str()), ("5 GiB", "1 GiB"));
    }

    proptest! {
        #[test]
        fn whatever_is_allowed_stays_within_the_quota(limit in 0u32..10_000, asks in proptest::collection::vec(10u32..2000, 1..20)) {
            let quota = Quota { cpu: Some(Cpu(limit)), ..Quota::default() };
            let mut held = Reserved::default();
            for ask in asks {
                let size = Size { cpu: Cpu(ask), ..Size::default() };
                match check(&project(), &quota, held, size) {
                    Ok(()) => held = amount::add(held, size),
                    Err(_) => prop_assert!(held.cpu.0 + ask > limit),
                }
                prop_assert!(held.cpu.0 <= limit);
            }
        }
    }
}
