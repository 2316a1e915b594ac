//! A YAML value with its place: what is read from it names the file, the line and the path when it is not right.

use anyhow::{Result, anyhow};
use serde_yaml_ng::{Mapping, Value};
use std::{cell::RefCell, fmt, str::FromStr};

use crate::cli::apply::manifest::nearest;

/// A file with what was said about it.
#[derive(Debug)]
pub(crate) struct Source {
    file: String,
    text: String,
    warnings: RefCell<Vec<String>>,
}

impl Source {
    pub(crate) fn new(file: impl Into<String>, text: impl Into<String>) -> Self {
        Self { file: file.into(), text: text.into(), warnings: RefCell::default() }
    }

    /// What people should know, in the order in which it was found.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.borrow().clone()
    }

    pub(crate) fn warn(&self, text: String) {
        let mut all = self.warnings.borrow_mut();
        if !all.contains(&text) {
            all.push(text);
        }
    }

    /// The line on which the key at this path stands: each key is looked for below the one before, deeper than it.
    fn line(&self, path: &[String]) -> Option<usize> {
        let lines: Vec<(usize, usize, &str)> = self
            .text
            .lines()
            .enumerate()
            .map(|(number, line)| (number, line.len() - line.trim_start().len(), line.trim_start()))
            .filter(|(_, _, line)| !line.is_empty() && !line.starts_with('#'))
            .collect();
        let (mut from, mut depth, mut found) = (0, None::<usize>, None);
        for key in path {
            let is = |line: &str| {
                let line = line.trim_start_matches("- ").trim_start_matches(['"', '\'']);
                line.strip_prefix(key.as_str())
                    .is_some_and(|rest| rest.trim_start_matches(['"', '\'']).starts_with(':'))
            };
            let inside: Vec<&(usize, usize, &str)> =
                lines[from..].iter().take_while(|(_, indent, _)| depth.is_none_or(|depth| *indent > depth)).collect();
            // What stands deeper than the first line in it belongs to something else in it.
            let level = inside.first().map_or(0, |(_, indent, _)| *indent);
            let here =
                inside.iter().position(|(_, indent, line)| is(line) && (*indent == level || line.starts_with("- ")));
            // Keys of a flow mapping and items of a list stand on the line of what they are in.
            let Some(here) = here else { break };
            let (number, indent, _) = lines[from + here];
            found = Some(number + 1);
            depth = Some(indent);
            from += here + 1;
        }
        found
    }
}

/// A value in a file.
#[derive(Clone)]
pub(crate) struct Node<'a> {
    source: &'a Source,
    value: &'a Value,
    path: Vec<String>,
}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<'a> Node<'a> {
    pub(crate) fn new(source: &'a Source, value: &'a Value) -> Self {
        Self { source, value, path: Vec::new() }
    }

    pub(crate) fn value(&self) -> &'a Value {
        self.value
    }

    /// The same at another path.
    pub(crate) fn at_path(mut self, path: &[String]) -> Self {
        self.path = path.to_vec();
        self
    }

    fn place(&self) -> String {
        let line = self.source.line(&self.path).map(|line| format!(":{line}")).unwrap_or_default();
        let path = if self.path.is_empty() { String::new() } else { format!(" {}:", self.path.join(".")) };
        format!("{}{line}:{path}", self.source.file)
    }

    /// A refusal that says where.
    pub(crate) fn bad(&self, text: impl fmt::Display) -> anyhow::Error {
        anyhow!("{} {text}", self.place())
    }

    /// A warning that says where.
    pub(crate) fn warn(&self, text: impl fmt::Display) {
        self.source.warn(format!("{} {text}", self.place()));
    }

    /// What stands under a key; `None` if nothing does.
    pub(crate) fn get(&self, key: &str) -> Option<Node<'a>> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        Some(self.child(key, value))
    }

    fn child(&self, key: &str, value: &'a Value) -> Node<'a> {
        let mut path = self.path.clone();
        path.push(key.to_owned());
        Node { source: self.source, value, path }
    }

    /// Keys and what stands under them, in the order of the file.
    pub(crate) fn entries(&self) -> Result<Vec<(String, Node<'a>)>> {
        let Value::Mapping(map) = self.value else {
            return Err(self.bad("this is not a mapping: write KEY: VALUE lines"));
        };
        self.of(map)
    }

    fn of(&self, map: &'a Mapping) -> Result<Vec<(String, Node<'a>)>> {
        map.iter()
            .map(|(key, value)| {
                let key = scalar(key).ok_or_else(|| self.bad("a key is not a word"))?;
                let child = self.child(&key, value);
                Ok((key, child))
            })
            .collect()
    }

    /// The items of a list.
    pub(crate) fn items(&self) -> Result<Vec<Node<'a>>> {
        match self.value {
            Value::Sequence(items) => {
                Ok(items.iter().map(|value| Node { source: self.source, value, path: self.path.clone() }).collect())
            }
            _ => Err(self.bad("this is not a list: write - ITEM lines, or [a, b]")),
        }
    }

    /// A list, or one word that stands for a list of one.
    pub(crate) fn words(&self) -> Result<Vec<String>> {
        match self.value {
            Value::Sequence(_) => self.items()?.iter().map(Node::text).collect(),
            _ => Ok(vec![self.text()?]),
        }
    }

    /// A word; numbers and booleans are words too.
    pub(crate) fn text(&self) -> Result<String> {
        scalar(self.value).ok_or_else(|| self.bad("this is not a word"))
    }

    /// A word that means something.
    pub(crate) fn parse<T: FromStr>(&self) -> Result<T>
    where
        T::Err: fmt::Display,
    {
        self.text()?.parse().map_err(|e| self.bad(e))
    }

    pub(crate) fn flag(&self) -> Result<bool> {
        match self.text()?.as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(self.bad(format!("{other:?} is neither true nor false"))),
        }
    }

    /// A mapping of words, or a list of `KEY=VALUE` words. `None` for a key without a value.
    pub(crate) fn pairs(&self) -> Result<Vec<(String, Option<String>)>> {
        match self.value {
            Value::Sequence(_) => self
                .items()?
                .iter()
                .map(|item| {
                    let text = item.text()?;
                    Ok(match text.split_once('=') {
                        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                        None => (text, None),
                    })
                })
                .collect(),
            _ => self
                .entries()?
                .into_iter()
                .map(|(key, node)| match node.value {
                    Value::Null => Ok((key, None)),
                    _ => Ok((key, Some(node.text()?))),
                })
                .collect(),
        }
    }

    /// Looks at every key: those in `refused` are refused with their way out, those in `ignored` are warned about, `x-…` are passed over, and
    /// unknown ones are refused with the nearest known one.
    pub(crate) fn check(&self, known: &[&str], ignored: &[&str], refused: &[(&str, &str)]) -> Result<()> {
        for (key, node) in self.entries()? {
            if key.starts_with("x-") || known.contains(&key.as_str()) {
                continue;
            }
            if let Some((_, way_out)) = refused.iter().find(|(name, _)| *name == key) {
                return Err(node.bad(format!("{key} is not supported: {way_out}")));
            }
            if ignored.contains(&key.as_str()) {
                node.warn(format!("{key} has no effect here"));
                continue;
            }
            let near = nearest(&key, known.iter().copied());
            let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            return Err(node.bad(format!("{key} is unknown{near}")));
        }
        Ok(())
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_file() {
        let text = "# top\nservices:\n  db:\n    web: a\n  web:\n    image: b\n    ports:\n      - \"80\"\n    deploy: { replicas: x }\n";
        let source = Source::new("c.yaml", text);
        let value: Value = serde_yaml_ng::from_str(text).unwrap();
        let web = Node::new(&source, &value).get("services").unwrap().get("web").unwrap();
        assert_eq!(web.get("image").unwrap().bad("x").to_string(), "c.yaml:6: services.web.image: x");
        let replicas = web.get("deploy").unwrap().get("replicas").unwrap();
        assert_eq!(replicas.bad("x").to_string(), "c.yaml:9: services.web.deploy.replicas: x");
        let unknown = web.check(&["image", "port", "deploy"], &[], &[]).unwrap_err().to_string();
        assert_eq!(unknown, "c.yaml:7: services.web.ports: ports is unknown; did you mean port?");
    }
}
