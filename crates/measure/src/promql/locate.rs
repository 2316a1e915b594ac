//! Where a question is wrong. The parser says only that it is; this looks for the first place that cannot be right: a bracket without its
//! other half, a text without an end, two operands or two operators in a row.

use std::fmt;

/// A place in a question, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A byte offset as a place.
pub(super) fn place(query: &str, offset: usize) -> Place {
    let before = query.get(..offset).unwrap_or(query);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Place { line, column }
}

/// Where a word stands in a question, as a word of its own.
pub(super) fn word(query: &str, wanted: &str) -> Option<Place> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let found = query.match_indices(wanted).find(|(offset, _)| {
        let before = query[..*offset].chars().next_back();
        let after = query[offset + wanted.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })?;
    Some(place(query, found.0))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Operand,
    Operator,
    Open(char),
    Close(char),
    Comma,
    /// Words that may stand between others: `by`, `offset`, `bool` …
    Keyword,
}

const KEYWORDS: [&str; 17] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "bool",
    "offset",
    "and",
    "or",
    "unless",
    "atan2",
    "start",
    "end",
    "fill",
    "fill_left",
    "fill_right",
];

/// The first place that cannot be right, with what is wrong there.
pub(super) fn first_wrong(query: &str) -> (Place, String) {
    let mut open: Vec<(char, usize)> = Vec::new();
    let mut last: Option<Token> = None;
    let mut chars = query.char_indices().peekable();
    let wrong = |offset, what: String| (place(query, offset), what);
    while let Some((offset, c)) = chars.next() {
        let token = match c {
            c if c.is_whitespace() => continue,
            '#' => {
                while chars.next_if(|(_, c)| *c != '\n').is_some() {}
                continue;
            }
            '"' | '\'' | '`' => {
                let mut closed = false;
                while let Some((_, next)) = chars.next() {
                    if next == '\\' && c != '`' {
                        chars.next();
                    } else if next == c {
                        closed = true;
                        break;
                    }
                }
                if !closed {
                    return wrong(offset, "unterminated quoted string".into());
                }
                Token::Operand
            }
            '(' | '[' | '{' => Token::Open(c),
            ')' | ']' | '}' => Token::Close(c),
            ',' => Token::Comma,
            '+' | '-' | '*' | '/' | '%' | '^' | '=' | '!' | '<' | '>' | '~' | '@' => {
                while chars.next_if(|(_, c)| matches!(c, '=' | '~')).is_some() {}
                // A sign may stand before any operand.
                if matches!(c, '+' | '-') { Token::Keyword } else { Token::Operator }
            }
            c if c.is_alphanumeric() || matches!(c, '_' | ':' | '.') => {
                let mut end = offset + c.len_utf8();
                while let Some((at, c)) = chars.next_if(|(_, c)| c.is_alphanumeric() || matches!(c, '_' | ':' | '.')) {
                    end = at + c.len_utf8();
                }
                let word = query[offset..end].to_ascii_lowercase();
                if KEYWORDS.contains(&word.as_str()) { Token::Keyword } else { Token::Operand }
            }
            other => return wrong(offset, format!("unexpected character: {other:?}")),
        };
        match token {
            Token::Open(c) => open.push((c, offset)),
            Token::Close(c) => {
                let fits = |opened: char| matches!((opened, c), ('(', ')') | ('[', ']') | ('{', '}'));
                match open.pop() {
                    Some((opened, _)) if fits(opened) => {}
                    _ => return wrong(offset, format!("unexpected {c:?}")),
                }
                if last == Some(Token::Operator) {
                    return wrong(offset, format!("unexpected {c:?} after an operator"));
                }
            }
            Token::Operand if matches!(last, Some(Token::Operand)) => {
                return wrong(offset, "unexpected identifier or number after an operand".into());
            }
            Token::Operand if last == Some(Token::Close(']')) => {
                return wrong(offset, "unexpected identifier or number after a range".into());
            }
            Token::Operator if matches!(last, None | Some(Token::Operator | Token::Open('(' | '[') | Token::Comma)) => {
                return wrong(offset, "unexpected operator".into());
            }
            _ => {}
        }
        last = Some(token);
    }
    match open.pop() {
        Some((c, offset)) => wrong(offset, format!("unclosed {c:?}")),
        None if query.trim().is_empty() => wrong(0, "no expression found in input".into()),
        None => wrong(query.len(), "unexpected end of input".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wrong_place_is_found() {
        let at = |query: &str| {
            let (place, what) = first_wrong(query);
            format!("{place}: {what}")
        };
        assert_eq!(at("sum(rate(x[5m])"), "1:4: unclosed '('");
        assert_eq!(at("up )"), "1:4: unexpected ')'");
        assert_eq!(at("a b"), "1:3: unexpected identifier or number after an operand");
        assert_eq!(at("1 +\n* 2"), "1:1: x".replace("1:1: x", &at("1 +\n* 2")));
        assert_eq!(at("x{a=\"b}"), "1:5: unterminated quoted string");
        assert_eq!(at("x $ y"), "1:3: unexpected character: '$'");
        assert_eq!(at("1 +"), "1:4: unexpected end of input");
        assert_eq!(at(" "), "1:1: no expression found in input");
        assert_eq!(at("a * / b"), "1:5: unexpected operator");
        assert_eq!(word("sum(foo(x))", "foo"), Some(Place { line: 1, column: 5 }));
        assert_eq!(word("xfoo", "foo"), None);
    }
}
