//! The rules that no compiler checks: who may depend on whom, where danger may live, how large files grow, and that promises name their proof.

use crate::run::{cargo, output, root};
use anyhow::{Context as _, Result, bail};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const LONGEST_FILE: usize = 1000;
const MEDIAN_FILE: usize = 250;

/// Checks every rule, and tells all that is broken.
pub(crate) fn tidy() -> Result<()> {
    let files = sources()?;
    let mut broken = Vec::new();
    broken.extend(edges()?);
    broken.extend(sizes_and_headers(&files));
    broken.extend(places(&files));
    broken.extend(promises(&files)?);
    broken.extend(front_page()?);
    if broken.is_empty() {
        println!("tidy: {} files, all rules hold", files.len());
        return Ok(());
    }
    for line in &broken {
        eprintln!("tidy: {line}");
    }
    bail!("{} rules of the house are broken", broken.len())
}

/// A source file: its path from the root, and its text.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn is_test(&self) -> bool {
        self.path.components().any(|c| matches!(c.as_os_str().to_str(), Some("tests" | "examples" | "benches")))
            || self.path.file_name().is_some_and(|n| n == "tests.rs")
    }

    fn is_in(&self, crates: &[&str]) -> bool {
        crates.iter().any(|c| self.path.starts_with(c))
    }

    /// The part before the unit tests.
    fn production(&self) -> &str {
        self.text.split("#[cfg(test)]").next().unwrap_or_default()
    }
}

fn sources() -> Result<Vec<Source>> {
    let base = root();
    let mut open = vec![base.join("crates"), base.join("xtask"), base.join("benches")];
    let mut files = Vec::new();
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))? {
            let path = entry?.path();
            if path.is_dir() && path.file_name().is_none_or(|n| n != "target") {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path)?;
                files.push(Source { path: path.strip_prefix(&base).unwrap_or(&path).to_owned(), text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Crate edges are those of `xtask/deps.expected`, and fenced crates stay behind their fence.
fn edges() -> Result<Vec<String>> {
    let metadata: serde_json::Value =
        serde_json::from_str(&output(cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?)?;
    let mut found = BTreeMap::new();
    let mut broken = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let normal = package["dependencies"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|d| d["kind"].is_null())
            .filter_map(|d| d["name"].as_str());
        let (ours, others): (BTreeSet<&str>, BTreeSet<&str>) = normal.partition(|d| d.starts_with("yun-"));
        if name == "yun-plan" {
            let impure = others
                .iter()
                .filter(|d| !matches!(**d, "chrono" | "ipnet" | "serde" | "strsim" | "thiserror" | "uuid"));
            broken.extend(
                impure.map(|d| format!("plan decides purely, and {d} is not among the crates that it may use")),
            );
        }
        if name != "yun-jobs" {
            let heavy = others.iter().filter(|d| d.starts_with("arrow") || d.starts_with("datafusion"));
            broken.extend(heavy.map(|d| format!("{name} links {d}: only jobs may")));
        }
        found.insert(
            name.trim_start_matches("yun-").to_owned(),
            ours.into_iter().map(|d| d.trim_start_matches("yun-")).collect::<Vec<_>>().join(" "),
        );
    }
    let found: String =
        found.iter().map(|(name, ours)| format!("{name}: {ours}").trim_end().to_owned() + "\n").collect();
    let path = root().join("xtask/deps.expected");
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if found != expected {
        broken.push(format!(
            "crate edges differ from xtask/deps.expected; if the new ones are meant, write this there:\n{found}"
        ));
    }
    Ok(broken)
}

fn sizes_and_headers(files: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut lengths: Vec<usize> = files.iter().map(|f| f.text.lines().count()).collect();
    for (file, length) in files.iter().zip(&lengths) {
        if *length > LONGEST_FILE {
            broken.push(format!("{} has {length} lines, and {LONGEST_FILE} is the most", file.path.display()));
        }
        if !file.text.lines().take(3).any(|l| l.starts_with("//!")) {
            broken.push(format!("{} does not say in a //! header what it owns", file.path.display()));
        }
    }
    lengths.sort_unstable();
    let median = lengths.get(lengths.len() / 2).copied().unwrap_or_default();
    if median > MEDIAN_FILE {
        broken.push(format!("the median file has {median} lines, and {MEDIAN_FILE} is the most"));
    }
    broken
}

/// What may stand only in some places.
fn places(files: &[Source]) -> Vec<String> {
    let rules: [(&str, &[&str], &[&str], &str); 5] = [
        (
            "unsafe",
            &["unsafe {", "unsafe fn ", "unsafe impl ", "unsafe extern"],
            &["crates/linux"],
            "only linux talks to the kernel without the compiler's checks",
        ),
        ("processes", &["Command::new("], &["crates/linux", "xtask", "benches"], "only linux starts processes"),
        (
            "purity",
            &["Utc::now", "SystemTime::", "Instant::now", "std::fs", "std::net::Tcp", "tokio::", "rand::"],
            &[],
            "plan has no clock, no I/O, no chance",
        ),
        (
            "clock",
            &["Utc::now(", "SystemTime::now("],
            &["crates/engine", "crates/store", "crates/linux", "crates/yun", "crates/testkit", "xtask", "benches"],
            "time comes from engine::clock",
        ),
        ("unfinished", &["todo!(", "unimplemented!(", "dbg!("], &["xtask"], "unfinished code does not land"),
    ];
    let mut broken = Vec::new();
    for (name, words, allowed, why) in rules {
        for file in files.iter().filter(|f| !f.is_test() && !f.is_in(allowed)) {
            if name == "purity" && !file.is_in(&["crates/plan"]) {
                continue;
            }
            let code = file.production().lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//"));
            for (number, line) in code.filter(|(_, l)| words.iter().any(|w| l.contains(w))) {
                broken.push(format!("{}:{}: {}: {why}", file.path.display(), number + 1, line.trim()));
            }
        }
    }
    broken
}

/// Each row of SPECIFICATION.md names a test or a bench that exists, or says `pending`.
fn promises(files: &[Source]) -> Result<Vec<String>> {
    let path = root().join("docs/SPECIFICATION.md");
    let text = fs::read_to_string(&path).context("docs/SPECIFICATION.md is missing")?;
    let mut broken = Vec::new();
    for row in text.lines().filter(|l| l.starts_with('|') && l.chars().nth(2).is_some_and(|c| c.is_ascii_digit())) {
        let proof = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default().trim();
        if proof == "pending" {
            continue;
        }
        let named: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            broken.push(format!("docs/SPECIFICATION.md: this row names no proof and is not pending: {row}"));
        }
        for name in named.iter().filter(|n| !exists(n, files)) {
            broken.push(format!("docs/SPECIFICATION.md: {name} is not a test, a bench or a file: {row}"));
        }
    }
    Ok(broken)
}

fn exists(name: &str, files: &[Source]) -> bool {
    if let Some(bench) = name.strip_prefix("cargo xtask bench ") {
        return root().join("benches/src").join(format!("{bench}.rs")).exists();
    }
    Path::new(name).components().count() > 1 && root().join(name).exists()
        || files.iter().any(|f| f.text.contains(&format!("fn {name}(")))
}

fn front_page() -> Result<Vec<String>> {
    let text = fs::read_to_string(root().join("README.md")).context("README.md is missing")?;
    let commands = ["cargo xtask up", "cargo xtask test"];
    Ok(commands.iter().filter(|c| !text.contains(**c)).map(|c| format!("README.md does not name {c}")).collect())
}
