//! A Compose file as it is understood: every key is known, warned about, or refused by name with its line.

use anyhow::{Context as _, Result, anyhow, bail};
use serde_yaml_ng::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};
use yun_types::Name;

use super::{
    ground::{self, Net, Store},
    interpolate::{self, Variables},
    node::{self, Node},
    service::{Condition, Service, Source},
};

/// File names in the order in which they are looked for.
const NAMES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];

/// Where the file is, and what belongs to it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    /// The file; looked for in the directory if absent.
    pub(crate) file: Option<PathBuf>,
    /// The project's name; that of the file or its directory if absent.
    pub(crate) name: Option<Name>,
    /// Profiles that are on.
    pub(crate) profiles: Vec<String>,
    /// Instead of `.env`.
    pub(crate) env_file: Option<PathBuf>,
}

/// A file that is mounted: a secret or a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    /// Where it is on this machine.
    pub(crate) file: PathBuf,
}

/// A whole file.
#[derive(Debug, Clone)]
pub(crate) struct Compose {
    /// The project's name: a prefix of all names.
    pub(crate) name: Name,
    /// In the order in which they are started.
    pub(crate) services: Vec<Service>,
    pub(crate) networks: BTreeMap<String, Net>,
    pub(crate) volumes: BTreeMap<String, Store>,
    pub(crate) secrets: BTreeMap<String, Content>,
    pub(crate) configs: BTreeMap<String, Content>,
    /// What people should know.
    pub(crate) warnings: Vec<String>,
    /// The file with its variables replaced.
    pub(crate) resolved: Value,
}

impl Compose {
    /// Finds and reads the file that is meant.
    pub(crate) fn load(asked: &Asked) -> Result<Self> {
        let file = match &asked.file {
            Some(file) => file.clone(),
            None => NAMES.iter().map(PathBuf::from).find(|file| file.exists()).with_context(|| {
                format!("there is no {} here: change to its directory, or name it with -f", NAMES.join(", "))
            })?,
        };
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let file = std::path::absolute(&file).with_context(|| format!("cannot tell where {} is", file.display()))?;
        let directory = file.parent().unwrap_or(Path::new("/")).to_owned();
        let dotenv = asked.env_file.clone().unwrap_or_else(|| directory.join(".env"));
        let dotenv = match std::fs::read_to_string(&dotenv) {
            Ok(text) => interpolate::dotenv(&text).map_err(|e| anyhow!("{}: {e}", dotenv.display()))?,
            Err(_) if asked.env_file.is_none() => BTreeMap::new(),
            Err(e) => return Err(anyhow!("cannot read {}: {e}", dotenv.display())),
        };
        let process =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let variables = Variables::new(process, dotenv);
        let shown =
            file.file_name().map_or_else(|| file.display().to_string(), |name| name.to_string_lossy().into_owned());
        Self::read(&shown, &text, &directory, &variables, asked)
    }

    /// Reads a text.
    pub(crate) fn read(file: &str, text: &str, directory: &Path, variables: &Variables, asked: &Asked) -> Result<Self> {
        let source = node::Source::new(file, text);
        let mut value: Value = serde_yaml_ng::from_str(text).map_err(|e| crate::cli::apply::manifest::at(file, &e))?;
        value.apply_merge().map_err(|e| anyhow!("{file}: cannot merge <<: {e}"))?;
        let mut missing = Vec::new();
        fill(&mut value, variables, &mut missing, &Node::new(&source, &Value::Null), &mut Vec::new(), file)?;
        for name in missing.into_iter().collect::<BTreeSet<_>>() {
            source.warn(format!("{file}: variable {name} has no value and is taken as empty"));
        }
        let top = Node::new(&source, &value);
        if !value.is_mapping() {
            bail!("{file}: this is no Compose file: it has no services");
        }
        let include = "put the services into this file, or run yun compose -f for each file";
        top.check(
            &["name", "services", "networks", "volumes", "secrets", "configs"],
            &["version"],
            &[("include", include), ("models", "run models as services")],
        )?;
        let name = project_name(asked, &top, variables, directory)?;
        let (networks, volumes) = (ground::networks(&top, &name)?, ground::volumes(&top, &name)?);
        let (secrets, configs) = (contents(&top, "secrets", directory)?, contents(&top, "configs", directory)?);
        let services = top.get("services").ok_or_else(|| top.bad("the file has no services: write services:"))?;
        let mut all = Vec::new();
        for (key, node) in services.entries()? {
            let service = Service::read(&key, &node, directory)?;
            let undeclared = |what: &str, name: &str| {
                Err(node.bad(format!("{what} {name} is used and not declared: add it under {what}s:")))
            };
            if let Some(joined) = service.networks.iter().find(|joined| !networks.contains_key(&joined.key)) {
                return undeclared("network", &joined.key);
            }
            for mount in &service.volumes {
                if let Source::Named(key) = &mount.source
                    && !volumes.contains_key(key)
                {
                    return undeclared("volume", key);
                }
            }
            for (what, used, known) in [("secret", &service.secrets, &secrets), ("config", &service.configs, &configs)]
            {
                if let Some((name, _)) = used.iter().find(|(name, _)| !known.contains_key(name.as_str())) {
                    return undeclared(what, name);
                }
            }
            all.push((service, node));
        }
        let known: BTreeSet<String> = all.iter().map(|(service, _)| service.key.clone()).collect();
        for (service, node) in &all {
            if let Some(unknown) = service.depends_on.keys().find(|key| !known.contains(*key)) {
                return Err(node.bad(format!("it depends on service {unknown}, which is not in the file")));
            }
        }
        let services = ordered(all.into_iter().map(|(service, _)| service).collect())?;
        let services = with_profiles(services, &asked.profiles);
        if services.is_empty() {
            bail!("{file}: every service has a profile that is off: turn one on with --profile");
        }
        let warnings = source.warnings();
        Ok(Self { name, services, networks, volumes, secrets, configs, warnings, resolved: value })
    }

    /// The service with this key.
    pub(crate) fn service(&self, key: &str) -> Result<&Service> {
        self.services.iter().find(|service| service.key == key).with_context(|| {
            let all: Vec<&str> = self.services.iter().map(|service| service.key.as_str()).collect();
            format!("there is no service {key} in the file: it has {}", all.join(", "))
        })
    }
}

/// Replaces the variables in every word that is a value.
fn fill(
    value: &mut Value,
    variables: &Variables,
    missing: &mut Vec<String>,
    root: &Node<'_>,
    path: &mut Vec<String>,
    file: &str,
) -> Result<()> {
    match value {
        Value::String(text) if text.contains('$') => {
            *text = variables
                .fill(text, missing)
                .map_err(|e| root.clone().at_path(path).bad(e))
                .with_context(|| format!("cannot read {file}"))?;
        }
        Value::Sequence(items) => {
            for item in items {
                fill(item, variables, missing, root, path, file)?;
            }
        }
        Value::Mapping(map) => {
            for (key, value) in map.iter_mut() {
                path.push(key.as_str().unwrap_or_default().to_owned());
                fill(value, variables, missing, root, path, file)?;
                path.pop();
            }
        }
        _ => {}
    }
    Ok(())
}

fn project_name(asked: &Asked, top: &Node<'_>, variables: &Variables, directory: &Path) -> Result<Name> {
    if let Some(name) = &asked.name {
        return Ok(name.clone());
    }
    if let Some(name) = variables.get("COMPOSE_PROJECT_NAME").filter(|name| !name.is_empty()) {
        return name.parse().map_err(|e| anyhow!("COMPOSE_PROJECT_NAME: {e}"));
    }
    if let Some(node) = top.get("name") {
        return node.parse();
    }
    let directory = directory.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    named(&directory)
        .with_context(|| format!("the directory {directory:?} makes no name for the project: give one with -n"))
}

/// The nearest thing to a name that a word makes.
pub(crate) fn named(word: &str) -> Option<Name> {
    let lower = word.to_ascii_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.join("-").trim_start_matches(|c: char| !c.is_ascii_lowercase()).parse().ok()
}

fn contents(top: &Node<'_>, key: &str, directory: &Path) -> Result<BTreeMap<String, Content>> {
    let Some(section) = top.get(key) else { return Ok(BTreeMap::new()) };
    let way_out = "write the content into a file, and name it with file:";
    let mut all = BTreeMap::new();
    for (name, node) in section.entries()? {
        node.check(&["file", "name"], &[], &[("environment", way_out), ("content", way_out), ("external", way_out)])?;
        let file = node.get("file").ok_or_else(|| node.bad(format!("{name} has no file: {way_out}")))?;
        let path = directory.join(file.text()?);
        if !path.exists() {
            return Err(file.bad(format!("{} does not exist", path.display())));
        }
        all.insert(name, Content { file: path });
    }
    Ok(all)
}

/// Services in an order in which each comes after those that it depends on.
fn ordered(mut rest: Vec<Service>) -> Result<Vec<Service>> {
    let mut done: Vec<Service> = Vec::new();
    while !rest.is_empty() {
        let ready = rest
            .iter()
            .position(|service| service.depends_on.keys().all(|key| done.iter().any(|before| before.key == *key)));
        match ready {
            Some(at) => done.push(rest.remove(at)),
            None => {
                let all: Vec<&str> = rest.iter().map(|service| service.key.as_str()).collect();
                bail!("services depend on each other in a circle: {}; take one depends_on away", all.join(", "));
            }
        }
    }
    Ok(done)
}

/// Services without profiles, those whose profile is on, and what they depend on.
fn with_profiles(services: Vec<Service>, on: &[String]) -> Vec<Service> {
    let is_on = |service: &Service| {
        service.profiles.is_empty() || service.profiles.iter().any(|p| on.contains(p) || on.iter().any(|p| p == "*"))
    };
    let mut wanted: BTreeSet<String> = services.iter().filter(|s| is_on(s)).map(|s| s.key.clone()).collect();
    // What others depend on comes last in the reverse order.
    for service in services.iter().rev() {
        if wanted.contains(&service.key) {
            wanted.extend(service.depends_on.iter().filter(|(_, d)| d.required).map(|(key, _)| key.clone()));
        }
    }
    services
        .into_iter()
        .filter(|service| wanted.contains(&service.key))
        .map(|mut service| {
            service.depends_on.retain(|key, _| wanted.contains(key));
            service
        })
        .collect()
}

/// What a service waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dependency {
    pub(crate) condition: Condition,
    pub(crate) required: bool,
}
