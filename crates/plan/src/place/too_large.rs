//! What no node could ever take: refused at once, because waiting would not help.

use super::{Ask, NodeView};
use crate::amount::{self, Dimension};
use std::fmt;
use yun_types::{Arch, Name, Size};

/// Why no node of the cloud could ever take an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Never {
    /// It asks for more than the largest node has.
    TooLarge {
        /// The instance.
        instance: Name,
        /// What it asks for.
        asked: Size,
        /// The node that comes closest.
        node: Name,
        /// What that node has.
        capacity: Size,
        /// What is free of that.
        free: Size,
        /// True if the instance asks for this node by name.
        by_name: bool,
    },
    /// Its image is for a processor that no node has.
    Arch {
        /// The instance.
        instance: Name,
        /// The image's processor.
        image: Arch,
        /// Processors of the nodes.
        nodes: Vec<Arch>,
    },
}

impl Never {
    /// One word for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "TooLarge",
            Self::Arch { .. } => "WrongArch",
        }
    }
}

impl fmt::Display for Never {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { instance, asked, node, capacity, free, by_name } => {
                let over = amount::missing(*asked, *capacity);
                let what: Vec<&str> =
                    Dimension::ALL.into_iter().filter(|d| d.of(over) > 0).map(Dimension::name).collect();
                let (most, free) = (amount::rounded_down(*capacity), amount::rounded_down(*free));
                let whose = if *by_name {
                    format!("node {node} has")
                } else {
                    format!("any node has: the largest, {node}, has")
                };
                write!(
                    f,
                    "instance {instance} asks for {asked}, more {} than {whose} {most} ({free} free now); ask for at most {most}",
                    what.join(" and ")
                )
            }
            Self::Arch { instance, image, nodes } => {
                let have: Vec<String> = nodes.iter().map(Arch::to_string).collect();
                write!(
                    f,
                    "the image of instance {instance} is for {image} processors, and the cloud has only {}; use an image for {}, or add an {image} node",
                    have.join(" and "),
                    have.join(" or "),
                )
            }
        }
    }
}

/// Says if no node could take the instance even if it were empty. `None` if one could, or if there is no node to compare with.
pub fn never(nodes: &[NodeView], ask: &Ask) -> Option<Never> {
    let asked: Vec<&NodeView> =
        nodes.iter().filter(|node| ask.node.as_ref().is_none_or(|name| *name == node.name)).collect();
    let right: Vec<&NodeView> = asked.iter().copied().filter(|node| node.arch == ask.arch).collect();
    if right.is_empty() && !asked.is_empty() {
        let mut nodes: Vec<Arch> = asked.iter().map(|node| node.arch).collect();
        nodes.sort_by_key(Arch::to_string);
        nodes.dedup();
        return Some(Never::Arch { instance: ask.name.clone(), image: ask.arch, nodes });
    }
    let largest = right.into_iter().min_by_key(|node| lacking(node, ask))?;
    (lacking(largest, ask) > 0).then(|| Never::TooLarge {
        instance: ask.name.clone(),
        asked: ask.size,
        node: largest.name.clone(),
        capacity: largest.capacity,
        free: largest.free(),
        by_name: ask.node.is_some(),
    })
}

/// How far the empty node is from taking it: the worst dimension, in millionths of what is asked for. Zero if it could.
fn lacking(node: &NodeView, ask: &Ask) -> u128 {
    let over = amount::missing(ask.size, node.capacity);
    Dimension::ALL
        .into_iter()
        // Rounded up, so that one byte too many is not zero.
        .map(|d| (u128::from(d.of(over)) * 1_000_000).div_ceil(u128::from(d.of(ask.size).max(1))))
        .max()
        .unwrap_or_default()
}
