//! Files of what is wanted: YAML documents, each one object, in the same words as the API.
//!
//! ```yaml
//! kind: group
//! name: web
//! spec:
//!   replicas: 3
//!   template: { spec: { image: nginx } }
//! ```
//! What `yun show -o yaml` prints is such a document too: `metadata` gives its name and labels, and `status` is passed over. Refusals name the
//! file, the line and the column, and the nearest word.

use anyhow::{Context as _, Result, anyhow, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned, de::IgnoredAny};
use serde_yaml_ng::Value;
use std::{fmt, io::Read as _, path::Path};
use yun_api::cloud::ImageOrigin;
use yun_types::{GroupSpec, InstanceSpec, Labels, Name, ProjectSpec};

/// Kinds in the order in which they are made: what others need comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Project,
    Image,
    Instance,
    Group,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Project, Self::Image, Self::Instance, Self::Group];

    fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.to_string() == word)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Project => "project",
            Self::Image => "image",
            Self::Instance => "instance",
            Self::Group => "group",
        })
    }
}

/// One document.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    /// Where it stands: `web.yaml:12`.
    pub(crate) place: String,
    /// Its kind.
    pub(crate) kind: Kind,
    /// Its name.
    pub(crate) name: Name,
    /// Its project, if it names one.
    pub(crate) project: Option<Name>,
    /// Its labels.
    pub(crate) labels: Labels,
    /// What is wanted.
    pub(crate) wanted: Wanted,
    /// The same as it was written, to tell what was left out.
    pub(crate) written: Value,
}

/// What is wanted of one object.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "there are a handful of documents")]
pub(crate) enum Wanted {
    Project(ProjectSpec),
    Image(ImageOrigin),
    Instance(InstanceSpec),
    Group(GroupSpec),
}

/// A document with a spec, as it is written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Document<S> {
    /// What it is.
    #[allow(dead_code, reason = "read before, to know which document this is")]
    kind: Kind,
    /// Its name.
    #[serde(default)]
    name: Option<Name>,
    /// Its project, if it is not that of the command.
    #[serde(default)]
    project: Option<Name>,
    /// Free words.
    #[serde(default)]
    labels: Labels,
    /// Name and labels, as `yun show -o yaml` prints them.
    #[serde(default)]
    metadata: Option<Told>,
    /// What is wanted.
    spec: S,
    /// Passed over.
    #[serde(default)]
    #[schemars(skip)]
    #[allow(dead_code, reason = "passed over")]
    status: Option<IgnoredAny>,
}

/// An image, as it is written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ImageDocument {
    /// What it is.
    #[allow(dead_code, reason = "read before, to know which document this is")]
    kind: Kind,
    /// Its name.
    name: Name,
    /// Its project, if it is not that of the command.
    #[serde(default)]
    project: Option<Name>,
    /// Free words.
    #[serde(default)]
    labels: Labels,
    /// Where its content comes from.
    source: ImageOrigin,
}

/// The parts of an object's metadata that people choose.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Told {
    /// Its name.
    name: Name,
    /// Its project.
    #[serde(default)]
    project: Option<Name>,
    /// Free words.
    #[serde(default)]
    labels: Labels,
}

/// The JSON schema of one document, for editors.
pub(crate) fn schema() -> serde_json::Value {
    let of = |kind: Kind| {
        let schema = match kind {
            Kind::Project => schemars::schema_for!(Document<ProjectSpec>),
            Kind::Image => schemars::schema_for!(ImageDocument),
            Kind::Instance => schemars::schema_for!(Document<InstanceSpec>),
            Kind::Group => schemars::schema_for!(Document<GroupSpec>),
        };
        serde_json::to_value(schema).unwrap_or_default()
    };
    let mut definitions = serde_json::Map::new();
    let one_of: Vec<serde_json::Value> = Kind::ALL
        .into_iter()
        .map(|kind| {
            let mut schema = of(kind);
            if let Some(object) = schema.as_object_mut() {
                if let Some(serde_json::Value::Object(own)) = object.remove("definitions") {
                    definitions.extend(own);
                }
                object.remove("$schema");
                object.insert("title".into(), serde_json::json!(kind.to_string()));
                if let Some(properties) = object.get_mut("properties").and_then(|p| p.as_object_mut()) {
                    properties.insert("kind".into(), serde_json::json!({ "const": kind.to_string() }));
                    properties.insert("status".into(), serde_json::json!({ "description": "Passed over." }));
                }
            }
            schema
        })
        .collect();
    serde_json::json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "yun",
        "description": "One document of a file for yun apply.",
        "oneOf": one_of,
        "definitions": definitions,
    })
}

/// Reads files, directories and standard input, in the order in which they are to be made.
pub(crate) fn read(files: &[String]) -> Result<Vec<Manifest>> {
    let mut all = Vec::new();
    for file in files {
        if file == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            all.extend(parse("stdin", &text)?);
            continue;
        }
        let path = Path::new(file);
        if path.is_dir() {
            for path in within(path)? {
                all.extend(one(&path)?);
            }
        } else {
            all.extend(one(path)?);
        }
    }
    if all.is_empty() {
        bail!(
            "there is no document in {}: write one, as in kind: instance (yun schema describes them)",
            files.join(", ")
        );
    }
    let mut seen = std::collections::BTreeMap::new();
    for manifest in &all {
        let key = (manifest.kind, manifest.project.clone(), manifest.name.clone());
        if let Some(before) = seen.insert(key, manifest.place.clone()) {
            bail!("{}: {} {} is in {before} already: keep one of them", manifest.place, manifest.kind, manifest.name);
        }
    }
    all.sort_by_key(|manifest| manifest.kind);
    Ok(all)
}

fn within(directory: &Path) -> Result<Vec<std::path::PathBuf>> {
    let entries =
        std::fs::read_dir(directory).with_context(|| format!("cannot read the directory {}", directory.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read the directory {}", directory.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        bail!("the directory {} holds no *.yaml or *.yml", directory.display());
    }
    Ok(paths)
}

fn one(path: &Path) -> Result<Vec<Manifest>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&path.display().to_string(), &text)
}

/// Reads the documents of one text.
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Manifest>> {
    let mut values = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        values.push(Value::deserialize(document).map_err(|e| at(file, &e))?);
    }
    let starts = starts(text);
    let mut all = Vec::new();
    for (number, (document, value)) in serde_yaml_ng::Deserializer::from_str(text).zip(values).enumerate() {
        // Nothing between two separators is no document.
        if value.is_null() {
            continue;
        }
        let place = format!("{file}:{}", starts.get(number).copied().unwrap_or(1));
        let Some(word) = value.get("kind").and_then(Value::as_str) else {
            bail!("{place}: the document has no kind: write one of {}", kinds());
        };
        let kind = Kind::read(word).ok_or_else(|| {
            let all = Kind::ALL.map(|kind| kind.to_string());
            let near = nearest(word, all.iter().map(String::as_str));
            let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            anyhow!("{place}: kind {word:?} is unknown: write one of {}{near}", kinds())
        })?;
        all.push(typed(file, place, kind, document, value)?);
    }
    Ok(all)
}

fn kinds() -> String {
    Kind::ALL.map(|kind| kind.to_string()).join(", ")
}

fn typed(
    file: &str,
    place: String,
    kind: Kind,
    document: serde_yaml_ng::Deserializer<'_>,
    written: Value,
) -> Result<Manifest> {
    fn with<S: DeserializeOwned>(
        file: &str,
        document: serde_yaml_ng::Deserializer<'_>,
    ) -> Result<(Option<Name>, Option<Name>, Labels, S)> {
        let read: Document<S> = Document::deserialize(document).map_err(|e| at(file, &e))?;
        let told = read.metadata;
        let name = read.name.or_else(|| told.as_ref().map(|told| told.name.clone()));
        let project = read.project.or_else(|| told.as_ref().and_then(|told| told.project.clone()));
        let mut labels = told.map(|told| told.labels).unwrap_or_default();
        labels.extend(read.labels);
        Ok((name, project, labels, read.spec))
    }
    let (name, project, labels, wanted) = match kind {
        Kind::Project => {
            let (name, project, labels, spec) = with(file, document)?;
            (name, project, labels, Wanted::Project(spec))
        }
        Kind::Instance => {
            let (name, project, labels, spec) = with(file, document)?;
            (name, project, labels, Wanted::Instance(spec))
        }
        Kind::Group => {
            let (name, project, labels, spec) = with(file, document)?;
            (name, project, labels, Wanted::Group(spec))
        }
        Kind::Image => {
            let read = ImageDocument::deserialize(document).map_err(|e| at(file, &e))?;
            (Some(read.name), read.project, read.labels, Wanted::Image(read.source))
        }
    };
    let name = name.with_context(|| format!("{place}: the {kind} has no name: write name: web"))?;
    Ok(Manifest { place, kind, name, project, labels, wanted, written })
}

/// The lines on which documents begin.
fn starts(text: &str) -> Vec<usize> {
    let (mut starts, mut begun) = (Vec::new(), false);
    for (number, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            if !begun && !starts.is_empty() {
                starts.push(number);
            }
            begun = false;
        } else if !begun && !line.trim().is_empty() && !line.trim_start().starts_with('#') {
            starts.push(number + 1);
            begun = true;
        }
    }
    starts
}

/// An error of the reader, with its place, and the nearest word for one that is unknown.
pub(crate) fn at(file: &str, error: &serde_yaml_ng::Error) -> anyhow::Error {
    let text = error.to_string();
    let (place, text) = match error.location() {
        Some(location) => {
            let end = format!(" at line {} column {}", location.line(), location.column());
            (format!("{file}:{}:{}", location.line(), location.column()), text.replace(&end, ""))
        }
        None => (file.to_owned(), text),
    };
    let near = unknown(&text).and_then(|(word, known)| nearest(word, known));
    match near {
        Some(near) => anyhow!("{place}: {text}; did you mean {near}?"),
        None => anyhow!("{place}: {text}"),
    }
}

/// The word that serde does not know, and those that it does.
fn unknown(text: &str) -> Option<(&str, Vec<&str>)> {
    let rest = &text[text.find("unknown field `").or_else(|| text.find("unknown variant `"))?..];
    let mut words = rest.split('`').skip(1).step_by(2);
    Some((words.next()?, words.collect()))
}

/// The known word that this one may have been meant for.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = (word.chars().count() / 3).max(1);
    let near = known.into_iter().map(|name| (strsim::damerau_levenshtein(word, name), name));
    near.filter(|(distance, _)| *distance <= most).min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "# both\nkind: group\nname: web\nspec:\n  replicas: 2\n  template:\n    spec:\n      image: box\n---\nkind: project\nname: lab\nspec: {}\n";

    #[test]
    fn several_documents_are_read_with_their_places() {
        let all = parse("a.yaml", TWO).unwrap();
        let seen: Vec<String> = all.iter().map(|m| format!("{} {} {}", m.place, m.kind, m.name)).collect();
        assert_eq!(seen, ["a.yaml:2 group web", "a.yaml:10 project lab"]);
        assert!(parse("a.yaml", "---\n---\n# nothing\n").unwrap().is_empty());
    }

    #[test]
    fn refusals_name_the_place_and_the_nearest_word() {
        let refused = |text: &str| parse("a.yaml", text).unwrap_err().to_string();
        let unknown = refused(&TWO.replace("replicas", "replcas"));
        assert!(unknown.starts_with("a.yaml:5:3: spec: unknown field `replcas`"), "{unknown}");
        assert!(unknown.ends_with("did you mean replicas?"), "{unknown}");
        let second = refused(&TWO.replace("spec: {}", "spec: { quotta: {} }"));
        assert!(second.starts_with("a.yaml:12:") && second.ends_with("did you mean quota?"), "{second}");
        assert!(refused("kind: grup\nname: a\n").contains("a.yaml:1: kind \"grup\" is unknown: write one of"));
        assert!(refused("name: a\n").contains("the document has no kind"));
        assert!(refused("kind: instance\nspec: { image: box }\n").contains("the instance has no name"));
        assert!(refused("kind: instance\nname: Web\nspec: { image: box }\n").contains("use lower case"));
        assert!(refused("kind: instance\nname: web\nspec: { image: box, size: 'cpu:0' }\n").contains("too small"));
        assert!(refused("kind: [\n").starts_with("a.yaml:"));
    }

    #[test]
    fn what_is_shown_can_be_applied() {
        let text = "kind: instance\nmetadata:\n  id: 00000000-0000-0000-0000-000000000000\n  name: web\n  project: lab\n  labels: { a: b }\n  created: 2026-01-01T00:00:00Z\n  generation: 1\nspec:\n  image: box\nstatus:\n  state: running\n";
        let all = parse("a.yaml", text).unwrap();
        assert_eq!((all[0].name.as_str(), all[0].project.as_ref().unwrap().as_str()), ("web", "lab"));
        assert_eq!(all[0].labels["a"], "b");
    }

    #[test]
    fn the_schema_knows_every_kind_and_refers_to_nothing_that_is_missing() {
        let schema = schema();
        assert_eq!(schema["oneOf"].as_array().unwrap().len(), Kind::ALL.len());
        let text = schema.to_string();
        for reference in text.split("#/definitions/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(schema["definitions"].get(name).is_some(), "{name} is missing");
        }
    }
}
