//! The difference of two short texts, line by line.

use similar::{ChangeTag, TextDiff};

/// Lines with `+`, `-` or a space in front; unchanged ones only near changes.
pub(crate) fn lines(before: &str, after: &str) -> Vec<String> {
    let diff = TextDiff::from_lines(before, after);
    let mut lines = Vec::new();
    for (number, group) in diff.grouped_ops(3).iter().enumerate() {
        if number > 0 {
            lines.push("  ...".to_owned());
        }
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let sign = match change.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => ' ',
            };
            lines.push(format!("{sign} {}", change.value().trim_end_matches('\n')));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    #[test]
    fn changed_lines_are_marked() {
        let lines = super::lines("a: 1\nb: 2\n", "a: 1\nb: 3\nc: 4\n");
        assert_eq!(lines, ["  a: 1", "- b: 2", "+ b: 3", "+ c: 4"]);
        assert!(super::lines("a\n", "a\n").is_empty());
    }
}
