//! The language, on series that are easy to reckon with. `tests/promtool` compares with the real thing where it is installed.

use super::{source::matches, *};
use promql_parser::label::Matcher;

struct Fixed(Vec<Series>);

impl Source for Fixed {
    fn select(
        &self,
        alternatives: &[Vec<Matcher>],
        from: Millis,
        to: Millis,
        budget: &mut usize,
    ) -> Result<Vec<Series>, QueryError> {
        let mut found = Vec::new();
        for series in self.0.iter().filter(|series| matches(alternatives, &series.labels)) {
            let points: Vec<_> = series.points.iter().copied().filter(|(at, _)| (from..=to).contains(at)).collect();
            *budget = budget.checked_sub(points.len()).ok_or_else(|| QueryError::execution("too many samples"))?;
            found.push(Series { labels: series.labels.clone(), points });
        }
        Ok(found)
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const END: Millis = 1_700_000_100_000;

/// Ten minutes of samples every 5 s that end at `END`.
fn world() -> Fixed {
    let series = |pairs: &[(&str, &str)], of: &dyn Fn(f64) -> f64| Series {
        labels: labels(pairs),
        points: (0..=120).map(|n| (END - 600_000 + n * 5000, of(n as f64))).collect(),
    };
    Fixed(vec![
        series(&[("__name__", "cpu_total"), ("i", "a"), ("p", "x")], &|n| 5.0 * n),
        series(&[("__name__", "cpu_total"), ("i", "b"), ("p", "x")], &|n| 10.0 * n),
        series(&[("__name__", "cpu_total"), ("i", "c"), ("p", "y")], &|n| 2.5 * (n % 60.0)),
        series(&[("__name__", "mem"), ("i", "a"), ("p", "x")], &|_| 100.0),
        series(&[("__name__", "mem"), ("i", "b"), ("p", "x")], &|n| n),
        series(&[("__name__", "mem"), ("i", "c"), ("p", "y")], &|_| 7.0),
        series(&[("__name__", "info"), ("p", "x"), ("owner", "ann")], &|_| 1.0),
        series(&[("__name__", "info"), ("p", "y"), ("owner", "bob")], &|_| 1.0),
        series(&[("__name__", "h_bucket"), ("le", "1")], &|_| 10.0),
        series(&[("__name__", "h_bucket"), ("le", "2")], &|_| 20.0),
        series(&[("__name__", "h_bucket"), ("le", "+Inf")], &|_| 20.0),
    ])
}

/// The answer as text, as `promtool query instant` prints it.
fn ask(query: &str) -> String {
    let shown = |labels: &Labels| {
        let pairs: Vec<String> = labels.iter().filter(|(n, _)| *n != NAME).map(|(n, v)| format!("{n}={v:?}")).collect();
        let name = labels.get(NAME).map_or("", String::as_str);
        format!("{name}{{{}}}", pairs.join(","))
    };
    match instant(&world(), query, END) {
        Ok(Answer::Scalar(_, value)) => format!("{value}"),
        Ok(Answer::Text(_, text)) => text,
        Ok(Answer::Vector(vector)) => vector
            .iter()
            .map(|(labels, _, value)| format!("{} {}", shown(labels), (value * 1e6).round() / 1e6))
            .collect::<Vec<_>>()
            .join("\n"),
        Ok(Answer::Matrix(all)) => all
            .iter()
            .map(|series| format!("{} {}", shown(&series.labels), series.points.len()))
            .collect::<Vec<_>>()
            .join("\n"),
        Err(error) => format!("{}: {}", error.class.word(), error.message),
    }
}

#[test]
fn selectors_and_matchers() {
    assert_eq!(ask("mem{i=\"a\"}"), "mem{i=\"a\",p=\"x\"} 100");
    assert_eq!(ask("mem{i!=\"a\",p=~\"x|z\"}"), "mem{i=\"b\",p=\"x\"} 120");
    assert_eq!(ask("{__name__=~\"m.m\",i!~\"a|b\"}"), "mem{i=\"c\",p=\"y\"} 7");
    assert_eq!(ask("mem{i=\"a\",nothing=\"\"}"), "mem{i=\"a\",p=\"x\"} 100");
    assert_eq!(ask("unknown"), "");
    assert_eq!(ask("mem{i=\"b\"} offset 1m"), "mem{i=\"b\",p=\"x\"} 108");
    assert_eq!(ask("mem{i=\"b\"}[1m]"), "mem{i=\"b\",p=\"x\"} 12");
}

#[test]
fn rates() {
    assert_eq!(ask("rate(cpu_total{i=\"a\"}[1m])"), "{i=\"a\",p=\"x\"} 1");
    assert_eq!(ask("increase(cpu_total{i=\"a\"}[1m])"), "{i=\"a\",p=\"x\"} 60");
    assert_eq!(ask("irate(cpu_total{p=\"x\"}[1m])"), "{i=\"a\",p=\"x\"} 1\n{i=\"b\",p=\"x\"} 2");
    assert_eq!(ask("delta(mem{i=\"b\"}[1m])"), "{i=\"b\",p=\"x\"} 12");
    assert_eq!(ask("deriv(mem{i=\"b\"}[1m])"), "{i=\"b\",p=\"x\"} 0.2");
    // Began anew in the window: what was before it is not lost.
    assert_eq!(ask("resets(cpu_total{i=\"c\"}[10m])"), "{i=\"c\",p=\"y\"} 2");
    assert!(
        ask("rate(cpu_total{i=\"c\"}[10m])").starts_with("{i=\"c\",p=\"y\"} 0.4"),
        "{}",
        ask("rate(cpu_total{i=\"c\"}[10m])")
    );
    assert_eq!(ask("rate(cpu_total[3s])"), "", "one sample has no rate");
}

#[test]
fn over_time() {
    for (function, value) in
        [("avg", "114.5"), ("min", "109"), ("max", "120"), ("sum", "1374"), ("count", "12"), ("last", "120")]
    {
        let answer = ask(&format!("{function}_over_time(mem{{i=\"b\"}}[1m])"));
        assert!(answer.ends_with(&format!(" {value}")), "{function}: {answer}");
    }
    assert_eq!(ask("quantile_over_time(0.5, mem{i=\"b\"}[1m])"), "{i=\"b\",p=\"x\"} 114.5");
}

#[test]
fn aggregations() {
    assert_eq!(ask("sum by (p) (mem)"), "{p=\"x\"} 220\n{p=\"y\"} 7");
    assert_eq!(ask("sum without (i) (mem)"), "{p=\"x\"} 220\n{p=\"y\"} 7");
    assert_eq!(ask("avg(mem)"), format!("{{}} {}", (227.0f64 / 3.0 * 1e6).round() / 1e6));
    assert_eq!(ask("count(mem) + max(mem) - min(mem)"), "{} 116");
    assert_eq!(ask("topk(1, mem)"), "mem{i=\"b\",p=\"x\"} 120");
    assert_eq!(ask("bottomk by (p) (1, mem)"), "mem{i=\"a\",p=\"x\"} 100\nmem{i=\"c\",p=\"y\"} 7");
    assert_eq!(ask("quantile(0.5, mem)"), "{} 100");
    assert_eq!(ask("sum(rate(cpu_total{p=\"x\"}[1m])) by (p)"), "{p=\"x\"} 3");
}

#[test]
fn operations_and_matching() {
    assert_eq!(ask("1 + 2 * 3 ^ 2"), "19");
    assert_eq!(ask("-mem{i=\"a\"} / 2"), "{i=\"a\",p=\"x\"} -50");
    assert_eq!(ask("mem > 50"), "mem{i=\"a\",p=\"x\"} 100\nmem{i=\"b\",p=\"x\"} 120");
    assert_eq!(ask("mem > bool 50"), "{i=\"a\",p=\"x\"} 1\n{i=\"b\",p=\"x\"} 1\n{i=\"c\",p=\"y\"} 0");
    assert_eq!(ask("mem{i=\"a\"} / on (i) mem{i=\"a\"}"), "{i=\"a\"} 1");
    assert_eq!(
        ask("mem * on (p) group_left (owner) info"),
        "{i=\"a\",owner=\"ann\",p=\"x\"} 100\n{i=\"b\",owner=\"ann\",p=\"x\"} 120\n{i=\"c\",owner=\"bob\",p=\"y\"} 7"
    );
    assert_eq!(ask("info * on (p) group_right mem{p=\"y\"}"), "{i=\"c\",p=\"y\"} 7");
    assert!(ask("mem / on (p) info").contains("group_left"), "{}", ask("mem / on (p) info"));
    assert!(ask("info * on (p) mem").contains("duplicate series for the match group"));
    assert_eq!(ask("mem and cpu_total{i=\"a\"}"), "mem{i=\"a\",p=\"x\"} 100");
    assert_eq!(ask("mem unless on (p) info{p=\"x\"}"), "mem{i=\"c\",p=\"y\"} 7");
    assert_eq!(ask("mem{i=\"a\"} or mem{i=\"c\"}"), "mem{i=\"a\",p=\"x\"} 100\nmem{i=\"c\",p=\"y\"} 7");
    assert_eq!(ask("3 > bool 2"), "1");
}

#[test]
fn functions_of_values() {
    assert_eq!(ask("scalar(mem{i=\"a\"}) + 1"), "101");
    assert_eq!(ask("vector(3)"), "{} 3");
    assert_eq!(ask("time()"), "1700000100");
    assert_eq!(ask("round(mem{i=\"a\"} / 3, 0.5)"), "{i=\"a\",p=\"x\"} 33.5");
    assert_eq!(ask("clamp(mem{i=\"a\"}, 0, 9)"), "{i=\"a\",p=\"x\"} 9");
    assert_eq!(ask("histogram_quantile(0.75, h_bucket)"), "{} 1.5");
    assert_eq!(ask("absent(unknown{a=\"b\"})"), "{a=\"b\"} 1");
    assert_eq!(
        ask("label_replace(mem{i=\"a\"}, \"j\", \"$1-z\", \"i\", \"(.)\")"),
        "mem{i=\"a\",j=\"a-z\",p=\"x\"} 100"
    );
    assert_eq!(ask("label_join(mem{i=\"a\"}, \"j\", \"/\", \"i\", \"p\")"), "mem{i=\"a\",j=\"a/x\",p=\"x\"} 100");
    assert_eq!(ask("sort_desc(mem{p=\"x\"})"), "mem{i=\"b\",p=\"x\"} 120\nmem{i=\"a\",p=\"x\"} 100");
    assert_eq!(ask("timestamp(mem{i=\"a\"})"), "{i=\"a\",p=\"x\"} 1700000100");
}

#[test]
fn refusals_say_where_and_why() {
    assert_eq!(ask("sum(mem"), "bad_data: 1:4: parse error: unclosed left parenthesis");
    assert!(ask("mem )").starts_with("bad_data: 1:5: parse error"), "{}", ask("mem )"));
    let unknown = ask("sum(fooo(mem))");
    assert!(unknown.starts_with("bad_data: 1:5: parse error") && unknown.contains("fooo"), "{unknown}");
    assert!(ask("rate(mem)").starts_with("bad_data: "), "{}", ask("rate(mem)"));
    assert!(ask("").starts_with("bad_data: 1:1"), "{}", ask(""));
    assert!(ask("mem{i=~\"(\"}").starts_with("bad_data: "));
    assert!(ask("max_over_time(mem[5m:1m])").starts_with("execution: a subquery is not supported"));
    assert!(ask("mem @ 0").contains("@ is not supported"));
    assert!(ask("holt_winters(mem[5m], 0.5, 0.5)").contains("holt_winters"));
    assert!(ask(&"(".repeat(1000)).contains("nested deeper"));
    assert!(ask(&format!("mem{{i=\"{}\"}}", "x".repeat(20_000))).contains("are the most"));
}

#[test]
fn ranges_have_steps_and_limits() {
    let span = Span { from: END - 60_000, to: END, step: 15_000 };
    let Answer::Matrix(series) = range(&world(), "sum by (p) (mem)", span).unwrap() else { panic!() };
    assert_eq!((series.len(), series[0].points.len(), series[0].points[4]), (2, 5, (END, 220.0)));
    let Answer::Matrix(series) = range(&world(), "1", span).unwrap() else { panic!() };
    assert_eq!((series[0].labels.len(), series[0].points.len()), (0, 5));
    let refused = |query: &str, span| range(&world(), query, span).unwrap_err().message;
    assert!(refused("mem", Span { step: 0, ..span }).contains("\"step\""));
    assert!(refused("mem", Span { to: span.from - 1, ..span }).contains("\"end\""));
    assert!(refused("mem", Span { from: 0, to: END, step: 1000 }).contains("11,000 points"));
    assert!(refused("mem[5m]", span).contains("range vector"));
    // What ended does not go on for ever.
    let later = Span { from: END, to: END + 600_000, step: 30_000 };
    let Answer::Matrix(series) = range(&world(), "mem{i=\"a\"}", later).unwrap() else { panic!() };
    assert_eq!(series[0].points.len(), 2);
}
