//! How each noun looks in a list.

use super::output::{Listed, age, state_and_reason};
use yun_api::cloud::BackgroundTask;
use yun_types::{
    AuditRecord, Image, Instance, InstanceState, Network, Node, Operation, Project, Timestamp, Token, Volume,
};

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

/// What fits into a column: `yun operation show` has all of it.
fn shortened(text: &str) -> String {
    const WIDTH: usize = 50;
    if text.chars().count() <= WIDTH { text.to_owned() } else { text.chars().take(WIDTH - 1).chain(['…']).collect() }
}

/// The state, with the reason or the health.
fn state(instance: &Instance) -> String {
    let status = &instance.status;
    match &status.health {
        Some(health) if status.state == InstanceState::Running => format!("{} ({})", status.state, health.state),
        _ => state_and_reason(status.state, status.reason.as_deref()),
    }
}

impl Listed for Instance {
    const COLUMNS: &'static [&'static str] = &[
        "NAME", "KIND", "STATE", "ADDRESS", "PORTS", "IMAGE", "AGE", "PROJECT", "SIZE", "NODE", "ACCEL", "RESTARTS",
        "ID",
    ];
    const NARROW: usize = 7;
    const STATE: Option<usize> = Some(2);
    fn cells(&self, now: Timestamp) -> Vec<String> {
        let ports: Vec<String> = self.spec.publish.iter().map(ToString::to_string).collect();
        vec![
            self.name(),
            or_dash(self.spec.kind),
            state(self),
            or_dash(self.status.address),
            if ports.is_empty() { "-".into() } else { ports.join(",") },
            self.spec.image.clone(),
            age(self.metadata.created, now),
            or_dash(self.metadata.project.as_ref()),
            self.spec.size.to_string(),
            or_dash(self.status.node_name.as_ref()),
            or_dash(self.status.accel.as_ref()),
            self.status.restarts.to_string(),
            self.metadata.id.to_string(),
        ]
    }
    fn name(&self) -> String {
        self.metadata.name.to_string()
    }
}

impl Listed for Image {
    const COLUMNS: &'static [&'static str] =
        &["NAME", "KIND", "ARCH", "SIZE", "MIN DISK", "DIGEST", "AGE", "PROJECT", "SOURCE", "DESCRIPTION"];
    const NARROW: usize = 7;
    fn cells(&self, now: Timestamp) -> Vec<String> {
        let facts = &self.status.facts;
        vec![
            self.name(),
            facts.kind.to_string(),
            facts.arch.to_string(),
            facts.size.human(),
            facts.min_disk.human(),
            facts.digest.short().to_owned(),
            age(self.metadata.created, now),
            or_dash(self.metadata.project.as_ref()),
            self.spec.source.clone(),
            or_dash(facts.description.as_ref()),
        ]
    }
    fn name(&self) -> String {
        self.metadata.name.to_string()
    }
}

impl Listed for Node {
    const COLUMNS: &'static [&'static str] =
        &["NAME", "STATE", "CPU", "MEMORY", "DISK", "INSTANCES", "VMS", "ARCH", "KERNEL", "CGROUP", "OS"];
    const NARROW: usize = 7;
    const STATE: Option<usize> = Some(1);
    fn cells(&self, _now: Timestamp) -> Vec<String> {
        let (facts, reserved) = (&self.status.facts, &self.status.reserved);
        let accel = facts
            .drivers
            .iter()
            .find(|d| d.driver == "vm")
            .map_or_else(|| "-".into(), |d| if d.ready { or_dash(d.accel) } else { "no".into() });
        let state = if self.spec.cordoned {
            format!("{} (cordoned)", self.status.state)
        } else {
            self.status.state.to_string()
        };
        vec![
            self.name(),
            state,
            format!("{}/{}", reserved.cpu, facts.capacity.cpu),
            format!("{}/{}", reserved.memory.human(), facts.capacity.memory.human()),
            format!("{}/{}", reserved.disk.human(), facts.capacity.disk.human()),
            reserved.instances.to_string(),
            accel,
            facts.arch.to_string(),
            facts.kernel.clone(),
            format!("{:?}", facts.cgroup).to_lowercase(),
            facts.os.clone(),
        ]
    }
    fn name(&self) -> String {
        self.metadata.name.to_string()
    }
}

impl Listed for Network {
    const COLUMNS: &'static [&'static str] = &["NAME", "PROJECT", "RANGE", "GATEWAY", "ADDRESSES", "MTU", "ID"];
    const NARROW: usize = 6;
    fn cells(&self, _now: Timestamp) -> Vec<String> {
        vec![
            self.name(),
            or_dash(self.metadata.project.as_ref()),
            self.spec.cidr.to_string(),
            self.spec.gateway().to_string(),
            format!("{}/{}", self.status.addresses_used, self.status.addresses_total),
            self.spec.mtu.to_string(),
            self.metadata.id.to_string(),
        ]
    }
    fn name(&self) -> String {
        self.metadata.name.to_string()
    }
}

impl Listed for Volume {
    const COLUMNS: &'static [&'static str] =
        &["NAME", "KIND", "STATE", "SIZE", "USED BY", "AGE", "PROJECT", "TAKES", "KEPT TO SIZE", "NODE", "ID"];
    const NARROW: usize = 6;
    fn cells(&self, now: Timestamp) -> Vec<String> {
        let users: Vec<&str> = self.status.users.iter().map(|user| user.instance.as_str()).collect();
        vec![
            self.name(),
            self.spec.kind.to_string(),
            self.status.state.to_string(),
            self.spec.size.human(),
            if users.is_empty() { "-".into() } else { users.join(",") },
            age(self.metadata.created, now),
            or_dash(self.metadata.project.as_ref()),
            self.status.used.map_or_else(|| "-".into(), |used| used.human()),
            if self.status.enforced { "yes".into() } else { "no".into() },
            or_dash(self.status.node_name.as_ref()),
            self.metadata.id.to_string(),
        ]
    }
    fn name(&self) -> String {
        self.metadata.name.to_string()
    }
}

impl Listed for Project {
    const COLUMNS: &'static [&'static str] = &["NAME", "INSTANCES", "CPU", "MEMORY", "DISK", "AGE", "DESCRIPTION"];
    const NARROW: usize = 7;
    fn cells(&self, now: Timestamp) -> Vec<String> {
        let (used, quota) = (&self.status.reserved, &self.spec.quota);
        let of = |used: String, most: Option<String>| most.map_or(used.clone(), |m| format!("{used}/{m}"));
        vec![
            self.name(),
            of(used.instances.to_string(), quota.instances.map(|n| n.to_string())),
            of(used.cpu.to_string(), quota.cpu.map(|n| n.to_string())),
            of(used.memory.human(), quota.memory.map(|n| n.human())),
            of(used.disk.human(), quota.disk.map(|n| n.human())),
            age(self.metadata.created, now),
            or_dash(self.spec.description.as_ref()),
        ]
    }
    fn name(&self) -> String {
        self.metadata.name.to_string()
    }
}

impl Listed for Token {
    const COLUMNS: &'static [&'static str] = &["NAME", "CLOUD", "PROJECTS", "EXPIRES", "AGE"];
    const NARROW: usize = 5;
    fn cells(&self, now: Timestamp) -> Vec<String> {
        let projects: Vec<String> =
            self.spec.projects.iter().map(|(project, role)| format!("{project}:{role}")).collect();
        vec![
            self.name(),
            or_dash(self.spec.cloud),
            if projects.is_empty() { "-".into() } else { projects.join(",") },
            self.spec.expires.map_or_else(|| "never".into(), |t| t.format("%Y-%m-%d %H:%M").to_string()),
            age(self.metadata.created, now),
        ]
    }
    fn name(&self) -> String {
        self.metadata.name.to_string()
    }
}

impl Listed for Operation {
    const COLUMNS: &'static [&'static str] = &["ID", "WHAT", "STATE", "PROGRESS", "BY", "AGE", "PROJECT", "ERROR"];
    const NARROW: usize = 6;
    const STATE: Option<usize> = Some(2);
    fn cells(&self, now: Timestamp) -> Vec<String> {
        vec![
            self.name(),
            format!("{} {}", self.spec.kind, self.spec.target),
            self.status.state.to_string(),
            self.status.progress.percent.map_or_else(|| shortened(&self.status.progress.message), |p| format!("{p}%")),
            self.spec.by.clone(),
            age(self.metadata.created, now),
            or_dash(self.metadata.project.as_ref()),
            or_dash(self.status.error.as_ref().map(|e| &e.message)),
        ]
    }
    fn name(&self) -> String {
        self.metadata.id.to_string()
    }
}

impl Listed for AuditRecord {
    const COLUMNS: &'static [&'static str] =
        &["TIME", "BY", "ACTION", "OBJECT", "STATUS", "PROJECT", "FROM", "REQUEST"];
    const NARROW: usize = 6;
    fn cells(&self, _now: Timestamp) -> Vec<String> {
        vec![
            self.at.format("%Y-%m-%d %H:%M:%S").to_string(),
            self.by.clone(),
            self.action.clone(),
            or_dash(self.object.as_ref()),
            self.status.to_string(),
            or_dash(self.project.as_ref()),
            self.from.clone(),
            self.request_id.clone(),
        ]
    }
    fn name(&self) -> String {
        self.sequence.to_string()
    }
}

impl Listed for BackgroundTask {
    const COLUMNS: &'static [&'static str] = &["TASK", "STATE", "RUNS", "LAST RUN", "NEXT RUN", "LAST RESULT"];
    const NARROW: usize = 6;
    const STATE: Option<usize> = Some(1);
    fn cells(&self, now: Timestamp) -> Vec<String> {
        vec![
            self.name.clone(),
            self.state.clone(),
            self.runs.to_string(),
            self.last_run.map_or_else(|| "-".into(), |t| format!("{} ago", age(t, now))),
            self.next_run.map_or_else(|| "-".into(), |t| format!("in {}", age(now, t))),
            or_dash(self.last_result.as_ref()),
        ]
    }
    fn name(&self) -> String {
        self.name.clone()
    }
}
