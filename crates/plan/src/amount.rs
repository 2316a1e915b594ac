//! Amounts of CPU, memory and disk: what is free, what is missing, and how people read it.
//!
//! An amount is a [`Size`] whose parts may be zero. Never decides anything.

use yun_types::{Bytes, Cpu, Reserved, Size};

/// The dimensions that are reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dimension {
    /// Processor time.
    Cpu,
    /// Memory.
    Memory,
    /// Disk.
    Disk,
}

impl Dimension {
    /// All of them, in the order in which they are checked.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Disk];

    /// As users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }

    /// This dimension of an amount, as a plain number for comparing.
    pub fn of(self, amount: Size) -> u64 {
        match self {
            Self::Cpu => u64::from(amount.cpu.0),
            Self::Memory => amount.memory.0,
            Self::Disk => amount.disk.0,
        }
    }

    /// This dimension of an amount, for people: `512 MiB memory`.
    pub fn text(self, amount: Size) -> String {
        match self {
            Self::Cpu => format!("{} cpu", amount.cpu),
            Self::Memory => format!("{} memory", amount.memory.human()),
            Self::Disk => format!("{} disk", amount.disk.human()),
        }
    }
}

/// Nothing of everything.
pub const NOTHING: Size = Size { cpu: Cpu(0), memory: Bytes(0), disk: Bytes(0) };

/// `capacity` less what is reserved of it; zero where more is reserved than there is.
pub fn free(capacity: Size, reserved: Reserved) -> Size {
    missing(capacity, Size { cpu: reserved.cpu, memory: reserved.memory, disk: reserved.disk })
}

/// What `have` lacks of `wanted`; zero where it has enough.
pub fn missing(wanted: Size, have: Size) -> Size {
    Size {
        cpu: wanted.cpu.saturating_sub(have.cpu),
        memory: wanted.memory.saturating_sub(have.memory),
        disk: wanted.disk.saturating_sub(have.disk),
    }
}

/// The first dimension of which something is missing.
pub fn first_missing(missing: Size) -> Option<Dimension> {
    Dimension::ALL.into_iter().find(|dimension| dimension.of(missing) > 0)
}

/// One more instance of this size.
pub fn add(reserved: Reserved, size: Size) -> Reserved {
    Reserved {
        cpu: reserved.cpu + size.cpu,
        memory: reserved.memory + size.memory,
        disk: reserved.disk + size.disk,
        instances: reserved.instances.saturating_add(1),
    }
}

/// One instance of this size less.
pub fn take(reserved: Reserved, size: Size) -> Reserved {
    Reserved {
        cpu: reserved.cpu.saturating_sub(size.cpu),
        memory: reserved.memory.saturating_sub(size.memory),
        disk: reserved.disk.saturating_sub(size.disk),
        instances: reserved.instances.saturating_sub(1),
    }
}

/// So much more disk, for volumes.
pub fn add_disk(reserved: Reserved, disk: Bytes) -> Reserved {
    Reserved { disk: reserved.disk + disk, ..reserved }
}

/// What instances of these sizes hold together.
pub fn total(sizes: impl IntoIterator<Item = Size>) -> Reserved {
    sizes.into_iter().fold(Reserved::default(), add)
}

/// The parts that are not zero, for people: `1 cpu and 512 MiB memory`.
pub fn text(amount: Size) -> String {
    let parts: Vec<String> = Dimension::ALL.into_iter().filter(|d| d.of(amount) > 0).map(|d| d.text(amount)).collect();
    match &parts[..] {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// The largest size within `amount` that reads well: whole mebibytes. May have parts that are zero.
pub fn rounded_down(amount: Size) -> Size {
    let whole = |bytes: Bytes| Bytes(bytes.0 >> 20 << 20);
    Size { cpu: amount.cpu, memory: whole(amount.memory), disk: whole(amount.disk) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(cpu: u32, memory: u64, disk: u64) -> Size {
        Size { cpu: Cpu(cpu), memory: Bytes(memory), disk: Bytes(disk) }
    }

    #[test]
    fn people_read_only_what_counts() {
        assert_eq!(text(size(1000, 512 << 20, 0)), "1 cpu and 512 MiB memory");
        assert_eq!(text(size(500, 1 << 30, 3 << 30)), "0.5 cpu, 1 GiB memory and 3 GiB disk");
        assert_eq!(text(size(0, 0, 1 << 20)), "1 MiB disk");
        assert_eq!(text(NOTHING), "nothing");
    }

    #[test]
    fn the_dimension_that_is_missing_first_is_named() {
        assert_eq!(first_missing(size(0, 1, 1)), Some(Dimension::Memory));
        assert_eq!(first_missing(size(1, 0, 1)), Some(Dimension::Cpu));
        assert_eq!(first_missing(NOTHING), None);
        assert_eq!(Dimension::ALL.map(Dimension::name), ["cpu", "memory", "disk"]);
    }

    #[test]
    fn whole_mebibytes_read_well() {
        assert_eq!(rounded_down(size(1500, (5 << 20) + 7, (1 << 20) - 1)), size(1500, 5 << 20, 0));
    }

    #[test]
    fn an_overcommitted_node_has_nothing_free() {
        let reserved = Reserved { cpu: Cpu(3000), memory: Bytes(1), disk: Bytes(0), instances: 1 };
        assert_eq!(free(size(2000, 10, 10), reserved), size(0, 9, 10));
    }

    proptest! {
        #[test]
        fn what_is_missing_completes_what_there_is(a in 0u32..5000, b in 0u32..5000, m in 0u64..5000, n in 0u64..5000) {
            let (wanted, have) = (size(a, m, n), size(b, n, m));
            let lacking = missing(wanted, have);
            for d in Dimension::ALL {
                prop_assert!(d.of(have) + d.of(lacking) >= d.of(wanted));
                prop_assert!(d.of(lacking) == 0 || d.of(have) + d.of(lacking) == d.of(wanted));
            }
        }

        #[test]
        fn adding_and_taking_back_leaves_nothing(sizes in proptest::collection::vec((1u32..9000, 1u64..1<<40, 1u64..1<<40), 0..20)) {
            let sizes: Vec<Size> = sizes.into_iter().map(|(c, m, d)| size(c, m, d)).collect();
            let all = total(sizes.iter().copied());
            prop_assert_eq!(all.instances as usize, sizes.len());
            prop_assert_eq!(sizes.into_iter().fold(all, take), Reserved::default());
        }
    }
}
