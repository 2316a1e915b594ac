//! Scenario files: commands, and what they should print.
//!
//! ```text
//! # A comment. The first lines may hold directives:
//! #! needs: root            only on the real thing
//! #! only: fake             only on the fakes
//!
//! $ launch busybox web -- sleep 1000
//! container web running at [..]
//! $ show nobody
//! ! 3
//! yun: there is no instance nobody [..]
//! @ advance 60s
//! ```
//! `$` runs the command line of yun with these words (quoted as in a shell); the lines below it are its standard output and then its
//! standard error, where `[..]` stands for anything on a line and a line of `...` for any lines. `! N` is the exit code, 0 if absent.
//! `?` instead of `$` repeats the command until it prints what it should, for at most a minute. `@` speaks to the world behind the cloud.

use std::{
    fmt::Write as _,
    path::Path,
    time::{Duration, Instant},
};

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// Standard output, then standard error.
    pub text: String,
}

/// What a scenario is played on.
pub trait Stage {
    /// Runs the command line.
    fn run(&mut self, words: &[String]) -> Said;
    /// Does something behind the cloud's back: `advance 60s`, `kill server` … An error says that this stage cannot.
    fn world(&mut self, words: &[String]) -> Result<(), String>;
}

/// One step of a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A command, its exit code and its output.
    Command {
        /// The line in the file.
        line: usize,
        /// Its words.
        words: Vec<String>,
        /// Repeated until it prints what it should.
        patient: bool,
        /// What it should end with.
        code: i32,
        /// What it should print.
        expected: Vec<String>,
    },
    /// Something behind the cloud's back.
    World {
        /// The line in the file.
        line: usize,
        /// Its words.
        words: Vec<String>,
    },
}

/// A scenario file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scenario {
    /// `needs` and `only` directives, as they were written.
    pub directives: Vec<(String, String)>,
    /// The steps in order.
    pub steps: Vec<Step>,
}

/// How long a patient command may take.
const PATIENCE: Duration = Duration::from_secs(60);

impl Scenario {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text =
            std::fs::read_to_string(path).map_err(|e| format!("cannot read the scenario {}: {e}", path.display()))?;
        Self::parse(&text)
    }

    /// Reads a text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut scenario = Self::default();
        for (number, line) in text.lines().enumerate().map(|(n, l)| (n + 1, l.trim_end())) {
            if let Some(directive) = line.strip_prefix("#!") {
                let (key, value) =
                    directive.split_once(':').ok_or(format!("line {number}: a directive is written #! key: value"))?;
                scenario.directives.push((key.trim().to_owned(), value.trim().to_owned()));
            } else if line.is_empty() || line.starts_with('#') {
            } else if let Some(rest) = line.strip_prefix("$ ").or_else(|| line.strip_prefix("? ")) {
                let step = Step::Command {
                    line: number,
                    words: words(rest, number)?,
                    patient: line.starts_with('?'),
                    code: 0,
                    expected: Vec::new(),
                };
                scenario.steps.push(step);
            } else if let Some(rest) = line.strip_prefix("@ ") {
                scenario.steps.push(Step::World { line: number, words: words(rest, number)? });
            } else if let Some(Step::Command { code, expected, .. }) = scenario.steps.last_mut() {
                match line.strip_prefix("! ") {
                    Some(number) if expected.is_empty() => {
                        *code = number.parse().map_err(|_| format!("{number:?} is not an exit code"))?
                    }
                    _ => expected.push(line.to_owned()),
                }
            } else {
                return Err(format!("line {number}: output without a command above it"));
            }
        }
        Ok(scenario)
    }

    /// The value of a directive.
    pub fn directive(&self, key: &str) -> Option<&str> {
        self.directives.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Plays it. The error shows the step, what was expected and what came.
    pub fn play(&self, stage: &mut dyn Stage) -> Result<(), String> {
        self.steps.iter().try_for_each(|step| match step {
            Step::World { line, words } => {
                stage.world(words).map_err(|e| format!("line {line}: @ {}: {e}", words.join(" ")))
            }
            Step::Command { line, words, patient, code, expected } => {
                let until = Instant::now() + PATIENCE;
                loop {
                    let said = stage.run(words);
                    if said.code == *code && matches(expected, &said.text) {
                        return Ok(());
                    }
                    if !patient || Instant::now() > until {
                        return Err(difference(*line, words, *code, expected, &said));
                    }
                    std::thread::yield_now();
                }
            }
        })
    }
}

fn difference(line: usize, words: &[String], code: i32, expected: &[String], said: &Said) -> String {
    let mut text = format!("line {line}: $ {}\n", words.join(" "));
    if said.code != code {
        let _ = writeln!(text, "  exit code {}, expected {code}", said.code);
    }
    for line in expected {
        let _ = writeln!(text, "  expected  {line}");
    }
    for line in said.text.lines() {
        let _ = writeln!(text, "  came      {line}");
    }
    text
}

/// Words as a shell would split them: single and double quotes, no expansion.
fn words(line: &str, number: usize) -> Result<Vec<String>, String> {
    let (mut all, mut word, mut quote, mut begun) = (Vec::new(), String::new(), None, false);
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), c) => word.push(c),
            (None, '\'' | '"') => (quote, begun) = (Some(c), true),
            (None, ' ') => {
                if begun || !word.is_empty() {
                    all.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            (None, c) => word.push(c),
        }
    }
    if quote.is_some() {
        return Err(format!("line {number}: a quote is not closed"));
    }
    if begun || !word.is_empty() {
        all.push(word);
    }
    Ok(all)
}

/// Whether a text is what the patterns say.
fn matches(patterns: &[String], text: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|l| !l.is_empty()).collect();
    all_match(patterns, &lines)
}

fn all_match(patterns: &[String], lines: &[&str]) -> bool {
    match (patterns.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "..." => {
            all_match(rest, lines) || (!lines.is_empty() && all_match(patterns, &lines[1..]))
        }
        (Some((first, rest)), Some((line, others))) => line_matches(first, line) && all_match(rest, others),
        _ => false,
    }
}

/// `[..]` stands for any part of a line; runs of spaces are as good as one, because columns grow with their content.
fn line_matches(pattern: &str, line: &str) -> bool {
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (pattern, line) = (squeeze(pattern), squeeze(line));
    let parts: Vec<&str> = pattern.split("[..]").collect();
    let Some((first, rest)) = parts.split_first() else { return false };
    let Some(mut left) = line.strip_prefix(first) else { return false };
    let Some((last, middle)) = rest.split_last() else { return left.is_empty() };
    for part in middle {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(u32);

    impl Stage for Echo {
        fn run(&mut self, words: &[String]) -> Said {
            self.0 += 1;
            match words[0].as_str() {
                "count" => Said { code: 0, text: self.0.to_string() },
                "fail" => Said { code: 3, text: "yun: no".into() },
                _ => Said { code: 0, text: words.join("\n") },
            }
        }
        fn world(&mut self, words: &[String]) -> Result<(), String> {
            if words == ["stop"] { Ok(()) } else { Err("unknown".into()) }
        }
    }

    #[test]
    fn a_scenario_plays() {
        let text = "#! only: fake\n# note\n$ say 'two words' x\nsay\ntwo [..]\n...\n\n$ fail\n! 3\nyun: no\n? count\n5\n@ stop\n";
        let scenario = Scenario::parse(text).unwrap();
        assert_eq!(scenario.directive("only"), Some("fake"));
        scenario.play(&mut Echo(0)).unwrap();
    }

    #[test]
    fn a_difference_shows_both_sides() {
        let error = Scenario::parse("$ a b\na\nc\n").unwrap().play(&mut Echo(0)).unwrap_err();
        assert!(error.contains("line 1") && error.contains("expected  c") && error.contains("came      b"), "{error}");
        assert!(Scenario::parse("$ fail\nyun: no\n").unwrap().play(&mut Echo(0)).unwrap_err().contains("exit code 3"));
        assert!(Scenario::parse("@ jump\n").unwrap().play(&mut Echo(0)).unwrap_err().contains("unknown"));
        assert!(Scenario::parse("lost\n").is_err() && Scenario::parse("$ 'open\n").is_err());
    }

    #[test]
    fn wildcards_match_parts_of_lines() {
        for (pattern, line, fits) in [
            ("a[..]c", "abc", true),
            ("a[..]c", "ac", true),
            ("a[..]c", "abd", false),
            ("[..]", "", true),
            ("NAME KIND", "NAME    KIND", true),
            ("a[..]b[..]b", "ab", false),
            ("a", "ab", false),
        ] {
            assert_eq!(line_matches(pattern, line), fits, "{pattern} {line}");
        }
    }
}
