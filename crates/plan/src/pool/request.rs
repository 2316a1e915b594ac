//! What an instance asks for, and the classes of equal requests.

use super::{attributes::Attributes, vector::Vector};
use std::{collections::BTreeMap, fmt};

/// How many priorities there are: 0 is the lowest.
pub const PRIORITIES: usize = 8;

/// Labels of instances, or of which instances: all of them must be there.
pub type Labels = BTreeMap<String, String>;

/// What a node must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirement {
    /// `zone`, `rack`, or a label.
    pub key: String,
    /// What its value must be.
    pub test: Test,
}

/// What a value must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Test {
    /// One of these.
    In(Vec<String>),
    /// None of these, or absent.
    NotIn(Vec<String>),
    /// There.
    Exists,
    /// Not there.
    Absent,
}

impl Requirement {
    pub(super) fn holds(&self, attributes: &Attributes) -> bool {
        let value = attributes.get(&self.key);
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
            Test::NotIn(values) => value.is_none_or(|value| values.iter().all(|one| one != value)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.test {
            Test::In(values) => write!(f, "{} in {}", self.key, values.join("|")),
            Test::NotIn(values) => write!(f, "{} not in {}", self.key, values.join("|")),
            Test::Exists => write!(f, "{} there", self.key),
            Test::Absent => write!(f, "{} absent", self.key),
        }
    }
}

/// A taint that does not keep this out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Toleration {
    /// Its key.
    pub key: String,
    /// Its value; `None` tolerates each.
    pub value: Option<String>,
}

/// Where things are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Domain {
    /// One node.
    Node,
    /// One rack.
    Rack,
    /// One zone.
    Zone,
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Rack => "rack",
            Self::Zone => "zone",
        })
    }
}

/// How much a rule weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Force {
    /// It must hold.
    Required,
    /// It is worth 1 to 100.
    Preferred(u8),
}

/// Together with others, or apart from them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Affinity {
    /// Which others.
    pub to: Labels,
    /// In the same what.
    pub domain: Domain,
    /// True: in another one.
    pub anti: bool,
    /// How much it weighs.
    pub force: Force,
}

/// Evenly over domains.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spread {
    /// Which instances are counted.
    pub of: Labels,
    /// Over which domains.
    pub domain: Domain,
    /// How many more than in the emptiest domain there may be.
    pub skew: u32,
    /// How much it weighs.
    pub force: Force,
}

/// Where latency is measured from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Near {
    /// A zone: of a bucket, of clients.
    Zone(String),
    /// A node: of another instance. The node itself is nearest, then its rack, then its zone.
    Node(super::NodeIndex),
}

/// What makes a node good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Policy {
    /// The fullest: large rooms stay for large requests.
    #[default]
    Pack,
    /// The emptiest.
    Spread,
    /// The fastest by measure, and of those the emptiest.
    Performance,
    /// The nearest by measured round trip, and of those the fullest.
    Latency,
}

/// What an instance asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Request {
    /// How much.
    pub shape: Vector,
    /// What it is, for the rules of others.
    pub labels: Labels,
    /// What the node must be.
    pub wants: Vec<Requirement>,
    /// Taints that do not keep it out.
    pub tolerates: Vec<Toleration>,
    /// With whom, and apart from whom.
    pub affinity: Vec<Affinity>,
    /// Evenly over what.
    pub spread: Vec<Spread>,
    /// Near what.
    pub near: Option<Near>,
    /// What makes a node good.
    pub policy: Policy,
    /// 0 is the lowest, 7 the highest: it may take the place of lower ones.
    pub priority: u8,
    /// What is lost when it is ended: of equal victims the cheapest goes.
    pub cost: u32,
}

impl Request {
    /// A plain request for this much.
    pub fn of(shape: Vector) -> Self {
        Self { shape, ..Self::default() }
    }

    pub(super) fn tolerates(&self, attributes: &Attributes) -> bool {
        attributes.taints.iter().all(|taint| {
            self.tolerates
                .iter()
                .any(|t| t.key == taint.key && t.value.as_ref().is_none_or(|value| *value == taint.value))
        })
    }

    /// Whether these labels are all there.
    pub(super) fn is_one_of(&self, labels: &Labels) -> bool {
        labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }
}
