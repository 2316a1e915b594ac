//! One service of a Compose file.

use anyhow::Result;
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};
use yun_types::{Bytes, Cpu, Mount, Name, PublishedPort, RestartPolicy};

use super::{interpolate::dotenv, model::Dependency, node::Node};

/// Keys that are understood.
const KNOWN: &[&str] = &[
    "image",
    "command",
    "entrypoint",
    "environment",
    "env_file",
    "ports",
    "volumes",
    "networks",
    "depends_on",
    "healthcheck",
    "restart",
    "deploy",
    "labels",
    "user",
    "working_dir",
    "secrets",
    "configs",
    "profiles",
    "scale",
    "tmpfs",
    "stop_signal",
    "stop_grace_period",
    "tty",
    "stdin_open",
    "mem_limit",
    "cpus",
    "pids_limit",
    "storage_opt",
    "pull_policy",
    "privileged",
    "cap_add",
    "cap_drop",
    "read_only",
    "container_name",
];
/// Keys that change nothing here, and harm nothing.
const IGNORED: &[&str] = &[
    "expose",
    "logging",
    "init",
    "hostname",
    "domainname",
    "platform",
    "mem_reservation",
    "mem_swappiness",
    "memswap_limit",
    "shm_size",
    "ulimits",
    "annotations",
    "attach",
    "oom_score_adj",
    "cpu_shares",
    "stop_timeout",
    "develop",
    "isolation",
];
/// Keys that are refused, with the way out.
const REFUSED: &[(&str, &str)] = &[
    ("build", "build the image first (yun image build, or docker build and yun image import), and name it with image:"),
    ("extends", "copy the other service's keys here, or use a YAML anchor (<<: *name)"),
    ("network_mode", "leave it out: every service has an address of its own in the networks that it names"),
    ("links", "use the service's name: every service finds the others by it"),
    ("external_links", "put both into one network"),
    ("volumes_from", "name the volumes in each service"),
    ("devices", "run a VM, or ask an administrator of the cloud for a privileged container"),
    ("gpus", "this cloud hands out no GPUs yet"),
    ("dns", "leave it out: the network's own DNS answers"),
    ("extra_hosts", "use the names of services"),
    ("ipc", "each container has its own"),
    ("pid", "each container has its own"),
    ("uts", "each container has its own"),
    ("userns_mode", "leave it out"),
    ("security_opt", "leave it out"),
    ("sysctls", "leave it out"),
    ("cgroup_parent", "leave it out"),
    ("runtime", "leave it out"),
    ("provider", "leave it out"),
    ("post_start", "put it into the entrypoint"),
    ("pre_stop", "handle the stop signal in the entrypoint"),
    ("credential_spec", "leave it out"),
    ("group_add", "use user: with a group"),
];

/// When a dependency is good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It runs.
    Started,
    /// Its health check says so.
    Healthy,
    /// It ended, and well.
    Completed,
}

/// A directory or file of this machine in a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) source: PathBuf,
    pub(crate) target: String,
    pub(crate) read_only: bool,
}

/// Which volume is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// One that the file declares under this key.
    Named(String),
    /// One that lives as long as its instance.
    Anonymous,
}

/// A volume in a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) source: Source,
    pub(crate) target: String,
    pub(crate) read_only: bool,
    pub(crate) no_copy: bool,
}

/// A network that a service is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) key: String,
    /// More names by which others in it find the service.
    pub(crate) aliases: Vec<Name>,
    pub(crate) address: Option<Ipv4Addr>,
}

/// How health is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Check {
    pub(crate) command: Vec<String>,
    pub(crate) interval: Option<String>,
    pub(crate) timeout: Option<String>,
    pub(crate) start_period: Option<String>,
    pub(crate) retries: Option<u32>,
}

/// One service.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) key: String,
    pub(crate) image: String,
    /// Whether an image that is not here is fetched.
    pub(crate) pulls: bool,
    pub(crate) container_name: Option<Name>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) command: Option<Vec<String>>,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) ports: Vec<PublishedPort>,
    pub(crate) binds: Vec<Bound>,
    pub(crate) tmpfs: Vec<Mount>,
    pub(crate) volumes: Vec<Stored>,
    /// The networks it names.
    pub(crate) networks: Vec<Joined>,
    pub(crate) depends_on: BTreeMap<String, Dependency>,
    pub(crate) health: Option<Check>,
    pub(crate) restart: RestartPolicy,
    pub(crate) replicas: Option<u32>,
    pub(crate) cpus: Option<Cpu>,
    pub(crate) memory: Option<Bytes>,
    pub(crate) pids: Option<u32>,
    pub(crate) disk: Option<Bytes>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) user: Option<String>,
    pub(crate) workdir: Option<String>,
    pub(crate) stop_signal: Option<String>,
    pub(crate) stop_timeout: Option<u32>,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    pub(crate) privileged: bool,
    pub(crate) read_only: bool,
    pub(crate) cap_add: Vec<String>,
    pub(crate) cap_drop: Vec<String>,
    /// Secrets and configurations with where they are mounted.
    pub(crate) secrets: Vec<(String, String)>,
    pub(crate) configs: Vec<(String, String)>,
    pub(crate) profiles: Vec<String>,
}

impl Service {
    /// Reads what stands under a service's key.
    pub(crate) fn read(key: &str, node: &Node<'_>, directory: &Path) -> Result<Self> {
        node.check(KNOWN, IGNORED, REFUSED)?;
        match super::model::named(key) {
            None => return Err(node.bad(format!("{key:?} makes no name: use letters, digits and hyphens"))),
            Some(name) if name.as_str() != key => {
                node.warn(format!("others find this service as {name}: names in DNS have letters, digits and hyphens"));
            }
            Some(_) => {}
        }
        let image = node.get("image").ok_or_else(|| node.bad("the service has no image: write image: NAME"))?;
        let text = |key: &str| node.get(key).map(|node| node.text()).transpose();
        let list = |key: &str| node.get(key).map(|node| node.words()).transpose().map(Option::unwrap_or_default);
        let flag = |key: &str| node.get(key).map(|node| node.flag()).transpose().map(Option::unwrap_or_default);
        let deploy = deploy(node)?;
        let mut mounted = Mounted::default();
        if let Some(all) = node.get("volumes") {
            for item in all.items()? {
                mounted.read(&item, directory)?;
            }
        }
        let Mounted { binds, volumes, mut tmpfs } = mounted;
        for word in list("tmpfs")? {
            let (target, options) =
                word.split_once(':').map_or((word.as_str(), ""), |(target, options)| (target, options));
            let size = options.split(',').find_map(|option| option.strip_prefix("size="));
            let size = size.map(str::parse).transpose().map_err(|e| node.bad(e))?;
            tmpfs.push(Mount::Tmpfs { target: target.to_owned(), size });
        }
        let mut labels = BTreeMap::new();
        for (key, value) in node.get("labels").map(|node| node.pairs()).transpose()?.unwrap_or_default() {
            labels.insert(key, value.unwrap_or_default());
        }
        let replicas = match node.get("scale") {
            Some(scale) => Some(scale.parse()?),
            None => deploy.replicas,
        };
        Ok(Self {
            key: key.to_owned(),
            image: image.text()?,
            pulls: !matches!(text("pull_policy")?.as_deref(), Some("never" | "build")),
            container_name: node.get("container_name").map(|node| node.parse()).transpose()?,
            entrypoint: node.get("entrypoint").map(|node| command(&node)).transpose()?,
            command: node.get("command").map(|node| command(&node)).transpose()?,
            environment: environment(node, directory)?,
            ports: ports(node)?,
            binds,
            tmpfs,
            volumes,
            networks: networks(node)?,
            depends_on: depends_on(node)?,
            health: node.get("healthcheck").map(|node| health(&node)).transpose()?.flatten(),
            restart: match node.get("restart") {
                Some(node) => node.parse()?,
                None => deploy.restart.unwrap_or(RestartPolicy::Never),
            },
            replicas,
            cpus: match node.get("cpus") {
                Some(node) => Some(node.parse()?),
                None => deploy.cpus,
            },
            memory: match node.get("mem_limit") {
                Some(node) => Some(bytes(&node)?),
                None => deploy.memory,
            },
            pids: match node.get("pids_limit") {
                Some(node) => Some(node.parse()?),
                None => deploy.pids,
            },
            disk: disk(node)?,
            labels,
            user: text("user")?,
            workdir: text("working_dir")?,
            stop_signal: text("stop_signal")?,
            stop_timeout: node.get("stop_grace_period").map(|node| seconds(&node)).transpose()?,
            tty: flag("tty")?,
            stdin: flag("stdin_open")?,
            privileged: flag("privileged")?,
            read_only: flag("read_only")?,
            cap_add: list("cap_add")?,
            cap_drop: list("cap_drop")?,
            secrets: files(node, "secrets", "/run/secrets/")?,
            configs: files(node, "configs", "/")?,
            profiles: list("profiles")?,
        })
    }
}

/// A list of words, or a text that is split as a shell would.
fn command(node: &Node<'_>) -> Result<Vec<String>> {
    if node.value().is_sequence() {
        return node.words();
    }
    let text = node.text()?;
    shlex::split(&text).ok_or_else(|| node.bad(format!("{text:?} has a quote without an end")))
}

fn environment(node: &Node<'_>, directory: &Path) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    if let Some(files) = node.get("env_file") {
        let items = if files.value().is_sequence() { files.items()? } else { vec![files.clone()] };
        for item in items {
            let (path, required) = if item.value().is_mapping() {
                item.check(&["path", "required"], &["format"], &[])?;
                let path = item.get("path").ok_or_else(|| item.bad("it has no path"))?.text()?;
                (path, item.get("required").map(|node| node.flag()).transpose()?.unwrap_or(true))
            } else {
                (item.text()?, true)
            };
            let path = directory.join(path);
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    all.extend(dotenv(&text).map_err(|e| item.bad(format!("{}: {e}", path.display())))?);
                }
                Err(_) if !required => {}
                Err(e) => return Err(item.bad(format!("cannot read {}: {e}", path.display()))),
            }
        }
    }
    for (name, value) in node.get("environment").map(|node| node.pairs()).transpose()?.unwrap_or_default() {
        match value.or_else(|| std::env::var(&name).ok()) {
            Some(value) => all.insert(name, value),
            None => all.remove(&name),
        };
    }
    Ok(all)
}

fn ports(node: &Node<'_>) -> Result<Vec<PublishedPort>> {
    let Some(section) = node.get("ports") else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for item in section.items()? {
        if item.value().is_mapping() {
            item.check(&["target", "published", "host_ip", "protocol"], &["mode", "name", "app_protocol"], &[])?;
            let target = item.get("target").ok_or_else(|| item.bad("the port has no target"))?.text()?;
            let published = item.get("published").ok_or_else(|| unpublished(&item, &target))?.text()?;
            let address = item.get("host_ip").map(|node| node.text()).transpose()?;
            let protocol = item.get("protocol").map(|node| node.text()).transpose()?.unwrap_or_else(|| "tcp".into());
            let address = address.map(|address| format!("{address}:")).unwrap_or_default();
            all.push(format!("{address}{published}:{target}/{protocol}").parse().map_err(|e| item.bad(e))?);
            continue;
        }
        let text = item.text()?;
        let (front, protocol) = text.rsplit_once('/').unwrap_or((&text, "tcp"));
        let Some((host, guest)) = front.rsplit_once(':') else { return Err(unpublished(&item, front)) };
        let (address, host) = match host.rsplit_once(':') {
            Some((address, host)) => (format!("{address}:"), host),
            None => (String::new(), host),
        };
        let (hosts, guests) = (range(&item, host)?, range(&item, guest)?);
        if hosts.len() != guests.len() {
            return Err(item.bad(format!(
                "{text:?} has {} ports on one side and {} on the other",
                hosts.len(),
                guests.len()
            )));
        }
        for (host, guest) in hosts.iter().zip(guests) {
            all.push(format!("{address}{host}:{guest}/{protocol}").parse().map_err(|e| item.bad(e))?);
        }
    }
    Ok(all)
}

fn unpublished(item: &Node<'_>, guest: &str) -> anyhow::Error {
    item.bad(format!("port {guest} names no port of the host: write {guest}:{guest}, or leave it out, since services reach each other without"))
}

fn range(item: &Node<'_>, text: &str) -> Result<Vec<u16>> {
    let port = |text: &str| text.parse::<u16>().map_err(|_| item.bad(format!("{text:?} is no port")));
    match text.split_once('-') {
        None => Ok(vec![port(text)?]),
        Some((first, last)) => Ok((port(first)?..=port(last)?).collect()),
    }
}

/// What `-v` may say behind a path and changes nothing here.
const HARMLESS: &[&str] = &["rw", "z", "Z", "cached", "delegated", "consistent", "private", "rprivate"];

/// What is mounted in a service.
#[derive(Debug, Default)]
struct Mounted {
    binds: Vec<Bound>,
    volumes: Vec<Stored>,
    tmpfs: Vec<Mount>,
}

impl Mounted {
    fn read(&mut self, item: &Node<'_>, directory: &Path) -> Result<()> {
        if item.value().is_mapping() { self.long(item, directory) } else { self.short(item, directory) }
    }

    fn short(&mut self, item: &Node<'_>, directory: &Path) -> Result<()> {
        let text = item.text()?;
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, options) = match parts[..] {
            [target] => (None, target, ""),
            [source, target] => (Some(source), target, ""),
            [source, target, options] => (Some(source), target, options),
            _ => return Err(item.bad(format!("{text:?} is no volume: write it as in ./data:/var/lib/data"))),
        };
        if !target.starts_with('/') {
            return Err(item.bad(format!(
                "{target:?} is no path in the container: write it from the root, as in data:/var/lib/data"
            )));
        }
        let (mut read_only, mut no_copy) = (false, false);
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option {
                "ro" => read_only = true,
                "nocopy" => no_copy = true,
                other if HARMLESS.contains(&other) => {}
                other => return Err(item.bad(format!("the mode {other} is not supported: use ro, rw or nocopy"))),
            }
        }
        let target = target.to_owned();
        match source {
            Some(path) if path.starts_with(['/', '.', '~']) => {
                self.binds.push(Bound { source: placed(path, directory), target, read_only });
            }
            Some(name) => {
                self.volumes.push(Stored { source: Source::Named(name.to_owned()), target, read_only, no_copy });
            }
            None => self.volumes.push(Stored { source: Source::Anonymous, target, read_only, no_copy }),
        }
        Ok(())
    }

    fn long(&mut self, item: &Node<'_>, directory: &Path) -> Result<()> {
        item.check(&["type", "source", "target", "read_only", "tmpfs", "volume", "bind"], &["consistency"], &[])?;
        let target = item.get("target").ok_or_else(|| item.bad("the volume has no target"))?.text()?;
        let read_only = item.get("read_only").map(|node| node.flag()).transpose()?.unwrap_or_default();
        let source = item.get("source").map(|node| node.text()).transpose()?;
        match item.get("type").map(|node| node.text()).transpose()?.as_deref() {
            Some("tmpfs") => {
                let size = item.get("tmpfs").and_then(|node| node.get("size"));
                self.tmpfs.push(Mount::Tmpfs { target, size: size.map(|node| bytes(&node)).transpose()? });
            }
            Some("bind") => {
                if let Some(bind) = item.get("bind") {
                    bind.check(&[], &["create_host_path", "selinux"], &[("propagation", "leave it out")])?;
                }
                let source = source.ok_or_else(|| item.bad("the bind mount has no source"))?;
                self.binds.push(Bound { source: placed(&source, directory), target, read_only });
            }
            Some("volume") | None => {
                let mut no_copy = false;
                if let Some(volume) = item.get("volume") {
                    volume.check(&["nocopy"], &[], &[("subpath", "mount the whole volume")])?;
                    no_copy = volume.get("nocopy").map(|node| node.flag()).transpose()?.unwrap_or_default();
                }
                let source = source.map_or(Source::Anonymous, Source::Named);
                self.volumes.push(Stored { source, target, read_only, no_copy });
            }
            Some(other) => return Err(item.bad(format!("type {other} is not supported: use volume, bind or tmpfs"))),
        }
        Ok(())
    }
}

/// A path of this machine, as the file means it.
fn placed(source: &str, directory: &Path) -> PathBuf {
    match (source.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => directory.join(source.strip_prefix("./").unwrap_or(source)),
    }
}

/// The networks that a service names; the usual one if none.
fn networks(node: &Node<'_>) -> Result<Vec<Joined>> {
    let joined = |key: String| Joined { key, aliases: Vec::new(), address: None };
    let Some(section) = node.get("networks") else { return Ok(vec![joined(super::ground::USUAL.to_owned())]) };
    if section.value().is_sequence() {
        return Ok(section.words()?.into_iter().map(joined).collect());
    }
    let mut all = Vec::new();
    for (key, node) in section.entries()? {
        let mut network = joined(key);
        if !node.value().is_null() {
            let four = "leave it out: networks have IPv4 only";
            node.check(
                &["aliases", "ipv4_address"],
                &["priority", "gw_priority", "interface_name"],
                &[
                    ("ipv6_address", four),
                    ("link_local_ips", four),
                    ("mac_address", "leave it out"),
                    ("driver_opts", "leave it out"),
                ],
            )?;
            for alias in node.get("aliases").map(|node| node.words()).transpose()?.unwrap_or_default() {
                network.aliases.push(alias.parse().map_err(|e| node.bad(format!("alias {alias:?}: {e}")))?);
            }
            network.address = node.get("ipv4_address").map(|node| node.parse()).transpose()?;
        }
        all.push(network);
    }
    Ok(all)
}

fn depends_on(node: &Node<'_>) -> Result<BTreeMap<String, Dependency>> {
    let Some(section) = node.get("depends_on") else { return Ok(BTreeMap::new()) };
    let started = Dependency { condition: Condition::Started, required: true };
    if section.value().is_sequence() {
        return Ok(section.words()?.into_iter().map(|key| (key, started)).collect());
    }
    let mut all = BTreeMap::new();
    for (key, node) in section.entries()? {
        node.check(&["condition", "required"], &["restart"], &[])?;
        let condition = match node.get("condition").map(|node| node.text()).transpose()?.as_deref() {
            None | Some("service_started") => Condition::Started,
            Some("service_healthy") => Condition::Healthy,
            Some("service_completed_successfully") => Condition::Completed,
            Some(other) => {
                return Err(node.bad(format!(
                    "condition {other} is unknown: use service_started, service_healthy or service_completed_successfully"
                )));
            }
        };
        let required = node.get("required").map(|node| node.flag()).transpose()?.unwrap_or(true);
        all.insert(key, Dependency { condition, required });
    }
    Ok(all)
}

fn health(node: &Node<'_>) -> Result<Option<Check>> {
    node.check(&["test", "interval", "timeout", "retries", "start_period", "disable"], &["start_interval"], &[])?;
    if node.get("disable").map(|node| node.flag()).transpose()?.unwrap_or_default() {
        return Ok(None);
    }
    let test = node.get("test").ok_or_else(|| node.bad("the health check has no test: write test: [CMD, …]"))?;
    let shell = |script: String| vec!["/bin/sh".to_owned(), "-c".to_owned(), script];
    let command = if test.value().is_sequence() {
        let mut words = test.words()?;
        if words.is_empty() {
            return Err(test.bad("the test is empty: write test: [CMD, …]"));
        }
        match words.remove(0).as_str() {
            "NONE" => return Ok(None),
            "CMD" => words,
            "CMD-SHELL" => shell(words.join(" ")),
            other => return Err(test.bad(format!("the test begins with {other:?}: use CMD, CMD-SHELL or NONE"))),
        }
    } else {
        shell(test.text()?)
    };
    let text = |key: &str| node.get(key).map(|node| node.text()).transpose();
    Ok(Some(Check {
        command,
        interval: text("interval")?,
        timeout: text("timeout")?,
        start_period: text("start_period")?,
        retries: node.get("retries").map(|node| node.parse()).transpose()?,
    }))
}

#[derive(Debug, Default)]
struct Deploy {
    replicas: Option<u32>,
    cpus: Option<Cpu>,
    memory: Option<Bytes>,
    pids: Option<u32>,
    restart: Option<RestartPolicy>,
}

fn deploy(service: &Node<'_>) -> Result<Deploy> {
    let mut all = Deploy::default();
    let Some(node) = service.get("deploy") else { return Ok(all) };
    node.check(
        &["replicas", "resources", "restart_policy", "mode"],
        &["labels", "update_config", "rollback_config", "placement", "endpoint_mode"],
        &[],
    )?;
    if let Some(mode) = node.get("mode")
        && mode.text()? != "replicated"
    {
        return Err(mode.bad("only mode: replicated is supported"));
    }
    all.replicas = node.get("replicas").map(|node| node.parse()).transpose()?;
    if let Some(limits) = node.get("resources").and_then(|node| node.get("limits")) {
        limits.check(&["cpus", "memory", "pids"], &["devices"], &[])?;
        all.cpus = limits.get("cpus").map(|node| node.parse()).transpose()?;
        all.memory = limits.get("memory").map(|node| bytes(&node)).transpose()?;
        all.pids = limits.get("pids").map(|node| node.parse()).transpose()?;
    }
    if let Some(policy) = node.get("restart_policy") {
        policy.check(&["condition", "max_attempts"], &["delay", "window"], &[])?;
        let max = policy.get("max_attempts").map(|node| node.parse()).transpose()?;
        all.restart = Some(match policy.get("condition").map(|node| node.text()).transpose()?.as_deref() {
            Some("none") => RestartPolicy::Never,
            Some("on-failure") => RestartPolicy::OnFailure { max },
            _ => RestartPolicy::Always,
        });
    }
    Ok(all)
}

fn disk(service: &Node<'_>) -> Result<Option<Bytes>> {
    let Some(node) = service.get("storage_opt") else { return Ok(None) };
    node.check(&["size"], &[], &[])?;
    node.get("size").map(|node| bytes(&node)).transpose()
}

/// `64m`, `1gb`, `512M` or bytes, as Compose writes them.
pub(crate) fn bytes(node: &Node<'_>) -> Result<Bytes> {
    let text = node.text()?;
    let upper = text.trim().to_ascii_uppercase();
    let plain = upper.strip_suffix('B').filter(|rest| rest.ends_with(['K', 'M', 'G', 'T'])).unwrap_or(&upper);
    let plain = plain.strip_suffix('B').unwrap_or(plain);
    // Compose counts in powers of two.
    let number = match plain.chars().last() {
        Some(unit @ ('K' | 'M' | 'G' | 'T')) => format!("{}{unit}i", &plain[..plain.len() - 1]),
        _ => plain.to_owned(),
    };
    number.parse().map_err(|e| node.bad(format!("{text:?} is no size: {e}")))
}

/// `30s`, `1m30s`: whole seconds.
fn seconds(node: &Node<'_>) -> Result<u32> {
    let span: yun_types::Span = node.parse()?;
    u32::try_from(span.duration().as_secs()).map_err(|_| node.bad("it is too long"))
}

fn files(node: &Node<'_>, key: &str, directory: &str) -> Result<Vec<(String, String)>> {
    let Some(section) = node.get(key) else { return Ok(Vec::new()) };
    section
        .items()?
        .into_iter()
        .map(|item| {
            if !item.value().is_mapping() {
                let name = item.text()?;
                let target = format!("{directory}{name}");
                return Ok((name, target));
            }
            item.check(&["source", "target"], &["uid", "gid", "mode"], &[])?;
            let name = item.get("source").ok_or_else(|| item.bad("it has no source"))?.text()?;
            let target = item.get("target").map(|node| node.text()).transpose()?.unwrap_or_else(|| name.clone());
            let target = if target.starts_with('/') { target } else { format!("{directory}{target}") };
            Ok((name, target))
        })
        .collect()
}
