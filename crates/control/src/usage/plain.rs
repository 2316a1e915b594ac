//! The older text form of Prometheus, made from the OpenMetrics form: what `promtool check metrics` and simple scrapers read. They differ in how
//! counters are announced, and in the last line.
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>

use std::collections::HashSet;

/// The form's name.
pub(super) const FORM: &str = "text/plain; version=0.0.4; charset=utf-8";

/// True if a request is to be answered in OpenMetrics: it names that form.
pub(super) fn wants_open(accept: Option<&str>) -> bool {
    accept.is_some_and(|accept| accept.contains("application/openmetrics-text"))
}

/// The same in the older form.
pub(super) fn plain(open: &str) -> String {
    let announced = |line: &str, what: &str| Some(line.strip_prefix(what)?.split_once(' ')?.0.to_owned());
    let counter = |line: &str| announced(line, "# TYPE ").filter(|_| line.ends_with(" counter"));
    let counters: HashSet<String> = open.lines().filter_map(counter).collect();
    let mut text = String::with_capacity(open.len() + 8 * counters.len());
    for line in open.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let named = ["# HELP ", "# TYPE "].into_iter().find_map(|what| Some((what, announced(line, what)?)));
        match named.filter(|(_, name)| counters.contains(name)) {
            Some((what, name)) => {
                // A counter bears here the name that its values have.
                text.extend([what, &name, "_total", &line[what.len() + name.len()..]]);
            }
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_bear_the_name_of_their_values_and_there_is_no_last_line() {
        let open = "# HELP up Is it up.\n# TYPE up gauge\nup 1\n# HELP seen What was seen.\n# TYPE seen counter\n# UNIT seen x\nseen_total{of=\"# TYPE up counter\"} 3\n# EOF\n";
        let want = "# HELP up Is it up.\n# TYPE up gauge\nup 1\n# HELP seen_total What was seen.\n# TYPE seen_total counter\nseen_total{of=\"# TYPE up counter\"} 3\n";
        assert_eq!(plain(open), want);
    }

    #[test]
    fn who_names_open_metrics_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert!(wants_open(Some(prometheus)));
        assert!(!wants_open(Some("*/*")) && !wants_open(Some("text/plain")) && !wants_open(None));
    }
}
