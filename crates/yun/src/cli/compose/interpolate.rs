//! Variables in Compose files: `$VAR`, `${VAR}`, `${VAR:-default}`, `${VAR-default}`, `${VAR:?message}`, `${VAR?message}`, `${VAR:+other}`,
//! `${VAR+other}`, and `$$` for a dollar sign (Compose specification, "Interpolation"). The environment wins over `.env`.

use std::collections::BTreeMap;

/// Where values come from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Variables {
    values: BTreeMap<String, String>,
}

impl Variables {
    /// From the process and a `.env` file's text.
    pub(crate) fn new(process: impl IntoIterator<Item = (String, String)>, dotenv: BTreeMap<String, String>) -> Self {
        let mut values = dotenv;
        values.extend(process);
        Self { values }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The text with its variables replaced; names that have no value are added to `missing`.
    pub(crate) fn fill(&self, text: &str, missing: &mut Vec<String>) -> Result<String, String> {
        let (mut out, mut rest) = (String::with_capacity(text.len()), text);
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            if let Some(after) = after.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some(after) = after.strip_prefix('{') {
                let end = closing(after).ok_or_else(|| format!("{text:?} has a ${{ without a }}"))?;
                out.push_str(&self.expression(&after[..end], text, missing)?);
                rest = &after[end + 1..];
            } else {
                let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
                if end == 0 || after.starts_with(|c: char| c.is_ascii_digit()) {
                    return Err(format!("{text:?} has a $ that begins no variable: write $$ for a dollar sign"));
                }
                out.push_str(&self.plain(&after[..end], missing));
                rest = &after[end..];
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    fn plain(&self, name: &str, missing: &mut Vec<String>) -> String {
        self.get(name).map_or_else(
            || {
                missing.push(name.to_owned());
                String::new()
            },
            str::to_owned,
        )
    }

    fn expression(&self, expression: &str, whole: &str, missing: &mut Vec<String>) -> Result<String, String> {
        let end = expression.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(expression.len());
        let (name, rest) = expression.split_at(end);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(format!("{whole:?} has ${{{expression}}}, which names no variable"));
        }
        // With a colon, an empty value counts as none.
        let (strict, rest) = match rest.strip_prefix(':') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let value = self.get(name).filter(|value| !strict || !value.is_empty());
        match (rest.chars().next(), value) {
            (None, _) if !strict => Ok(self.plain(name, missing)),
            (Some('-'), Some(value)) => Ok(value.to_owned()),
            (Some('-'), None) => self.fill(&rest[1..], missing),
            (Some('+'), Some(_)) => self.fill(&rest[1..], missing),
            (Some('+'), None) => Ok(String::new()),
            (Some('?'), Some(value)) => Ok(value.to_owned()),
            (Some('?'), None) => {
                let said = self.fill(&rest[1..], missing)?;
                let said = if said.is_empty() { "it is required".to_owned() } else { said };
                Err(format!("variable {name} has no value: {said}; set it in the environment or in .env"))
            }
            _ => Err(format!(
                "{whole:?} has ${{{expression}}}, which is not understood: write it as in ${{{name}:-default}}"
            )),
        }
    }
}

/// The place of the brace that closes, with those inside closed before.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '{' if before == '$' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
        before = c;
    }
    None
}

/// The variables of a `.env` or `env_file`: `NAME=VALUE` lines, `#` comments, quotes, and `export` in front.
pub(crate) fn dotenv(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name.trim(), value.trim()),
            // A bare name takes the caller's own value.
            None => match std::env::var(line) {
                Ok(value) => {
                    all.insert(line.to_owned(), value);
                    continue;
                }
                Err(_) => continue,
            },
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(format!("line {}: {line:?} has no name: write it as in PORT=80", number + 1));
        }
        all.insert(name.to_owned(), unquoted(value));
    }
    Ok(all)
}

fn unquoted(value: &str) -> String {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote)
            && let Some(end) = rest.find(quote)
        {
            let inner = &rest[..end];
            return if quote == '"' { inner.replace("\\n", "\n").replace("\\\"", "\"") } else { inner.to_owned() };
        }
    }
    // A comment needs a space before it.
    value.find(" #").map_or(value, |at| value[..at].trim_end()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<String, String> {
        let process = [("A", "1"), ("EMPTY", "")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let dotenv = dotenv("A=9\nB=\"two words\"\nexport C=3 # three\n# no\n").unwrap();
        Variables::new(process, dotenv).fill(text, &mut Vec::new())
    }

    #[test]
    fn every_form_of_the_specification_is_read() {
        for (text, expected) in [
            ("$A-${A}-$$A", "1-1-$A"),
            ("$B/$C", "two words/3"),
            ("${X:-d}${X-d}${EMPTY:-d}${EMPTY-d}", "ddd"),
            ("${A:+set}${X:+set}${EMPTY:+set}${EMPTY+set}", "setset"),
            ("${X:-${Y:-${A}}}", "1"),
            ("${A:?no}", "1"),
            ("$X", ""),
            ("plain", "plain"),
            ("{$A}", "{1}"),
        ] {
            assert_eq!(filled(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_way_out() {
        assert!(filled("${X:?choose a port}").unwrap_err().contains("variable X has no value: choose a port; set it"));
        assert!(filled("${EMPTY:?}").unwrap_err().contains("it is required"));
        assert!(filled("${A").unwrap_err().contains("without a }"));
        assert!(filled("5$").unwrap_err().contains("write $$"));
        assert!(filled("${1}").unwrap_err().contains("names no variable"));
        assert!(filled("${A/b/c}").unwrap_err().contains("is not understood"));
        assert!(dotenv("a b=c").unwrap_err().contains("line 1"));
        let mut missing = Vec::new();
        Variables::default().fill("$X ${Y}", &mut missing).unwrap();
        assert_eq!(missing, ["X", "Y"]);
    }
}
