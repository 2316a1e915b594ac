//! Dynamic allocation: what an instance will need next, and how many instances a node can promise room to.
//!
//! Each instance has a *usage*: the mean and the spread of its measured use, newer samples counting more, and the peak of the last while. What is
//! reserved for it alone lies between its minimum and its maximum, at a quantile of what it will use. What a node can carry is judged for all its
//! instances together, since they do not all peak at once: the *predicted p99* of the sum of their uses must stay below the node's limit.
//!
//! Integers only, no clock: a sample is a step.

#[cfg(test)]
mod tests;

/// Fractions of a sample that are kept.
const SCALE: u64 = 1 << 10;
/// One in so many: how fast older samples are forgotten.
const MEMORY: u64 = 24;
/// The 99 % quantile of a normal distribution, in thousandths.
const P99: u64 = 2326;
/// How many standard deviations of the sum are kept free beside that, in thousandths: uses are neither normal nor independent.
const MARGIN: u64 = 1700;
/// How many samples are needed before an instance is known: until then it counts as its maximum.
pub const KNOWN_AFTER: u32 = 12;

/// What is known of an instance's use, in the caller's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The most that it may use.
    max: u64,
    samples: u32,
    /// Scaled.
    mean: u64,
    /// Scaled twice.
    variance: u64,
    /// A peak that fades, scaled.
    peak: u64,
}

impl Usage {
    /// Nothing is known yet.
    pub fn new(max: u64) -> Self {
        Self { max, samples: 0, mean: 0, variance: 0, peak: 0 }
    }

    /// It has used this much in the last step.
    pub fn saw(&mut self, used: u64) {
        let used = used.min(self.max).saturating_mul(SCALE);
        if self.samples == 0 {
            self.mean = used;
        }
        self.samples = self.samples.saturating_add(1);
        let memory = MEMORY.min(u64::from(self.samples));
        let off = used.abs_diff(self.mean);
        self.mean = if used >= self.mean { self.mean + off / memory } else { self.mean - off / memory };
        let square = off.saturating_mul(off);
        self.variance = self.variance - self.variance / memory + square / memory;
        self.peak = used.max(self.peak - self.peak / (MEMORY * 4));
    }

    /// Whether enough has been seen.
    pub fn known(&self) -> bool {
        self.samples >= KNOWN_AFTER
    }

    /// What to reserve for it alone: a high quantile of what it will use, at least its recent peak, between `min` and its maximum.
    pub fn reservation(&self, min: u64) -> u64 {
        if !self.known() {
            return self.max;
        }
        let quantile = self.mean + self.variance.isqrt() * P99 / 1000;
        (quantile.max(self.peak) / SCALE + 1).clamp(min.min(self.max), self.max)
    }
}

/// What a node's instances will use together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeUse {
    /// Scaled sums over known instances.
    mean: u64,
    variance: u64,
    /// Sum of the maxima of instances that are not known yet.
    unknown: u64,
    /// The largest gap between an instance's recent peak and its mean, scaled.
    jump: u64,
}

impl NodeUse {
    /// Of these instances.
    pub fn of<'a>(usages: impl IntoIterator<Item = &'a Usage>) -> Self {
        let mut sum = Self::default();
        for usage in usages {
            if usage.known() {
                sum.mean = sum.mean.saturating_add(usage.mean);
                sum.variance = sum.variance.saturating_add(usage.variance);
                sum.jump = sum.jump.max(usage.peak.saturating_sub(usage.mean));
            } else {
                sum.unknown = sum.unknown.saturating_add(usage.max);
            }
        }
        sum
    }

    /// What 99 of 100 steps will stay below, with a margin.
    pub fn predicted_p99(&self) -> u64 {
        let spread = self.variance.isqrt() * (P99 + MARGIN) / 1000;
        (self.mean + spread.max(self.jump)) / SCALE + 1 + self.unknown
    }

    /// Whether a node with this limit may promise room to one more that may use `max`. Else the predicted p99 with it.
    pub fn admits(&self, max: u64, limit: u64) -> Result<(), u64> {
        let with_it = self.predicted_p99().saturating_add(max);
        if with_it <= limit { Ok(()) } else { Err(with_it) }
    }
}

/// Takes back what was lent when a node's instances want more than there is: each keeps its minimum, and the rest is divided so that nobody gets more
/// than they want, and whoever gets less than they want gets as much as anybody else by weight (max-min fairness).
pub fn share_out(capacity: u64, wants: &[(u64, u64, u32)]) -> Vec<u64> {
    let mut given: Vec<u64> = wants.iter().map(|(min, want, _)| *min.min(want)).collect();
    let mut left = capacity.saturating_sub(given.iter().sum());
    loop {
        let open: Vec<usize> = (0..wants.len()).filter(|at| given[*at] < wants[*at].1).collect();
        let weights: u64 = open.iter().map(|at| u64::from(wants[*at].2.max(1))).sum();
        if left == 0 || open.is_empty() {
            return given;
        }
        let mut spent = 0;
        for at in &open {
            let part = left * u64::from(wants[*at].2.max(1)) / weights;
            let more = part.min(wants[*at].1 - given[*at]);
            given[*at] += more;
            spent += more;
        }
        if spent == 0 {
            // Less is left than there are weights: one each, in order.
            for at in open.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                given[at] += 1;
            }
            return given;
        }
        left -= spent;
    }
}
