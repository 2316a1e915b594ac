//! Rules about others, gangs and preemption, on 5,000 nodes in three zones and thirty racks.

use super::work::{Watch, basic, median, pod, vector};
use crate::measure::{Measure, Must};
use yun_plan::pool::{Affinity, Domain, Force, Gang, Labels, Request, Spread};

const RUNS: usize = 5;
const NODES: u64 = 5_000;

pub(super) fn run() -> Vec<Measure> {
    let green: Labels = [("color".to_owned(), "green".to_owned())].into();
    let affinity = |anti, domain, force| vec![Affinity { to: green.clone(), domain, anti, force }];
    let spread = |domain, skew, force| vec![Spread { of: green.clone(), domain, skew, force }];
    let base = || Request { labels: green.clone(), ..pod() };
    let soft = Force::Preferred(50);
    let cases: Vec<(&str, Option<f64>, Request)> = vec![
        ("affinity, zone", Some(35.0), Request { affinity: affinity(false, Domain::Zone, Force::Required), ..base() }),
        ("affinity, node", None, Request { affinity: affinity(false, Domain::Node, Force::Required), ..base() }),
        (
            "anti-affinity, node",
            Some(60.0),
            Request { affinity: affinity(true, Domain::Node, Force::Required), ..base() },
        ),
        ("preferred affinity, zone", Some(90.0), Request { affinity: affinity(false, Domain::Zone, soft), ..base() }),
        (
            "preferred anti-affinity, node",
            Some(90.0),
            Request { affinity: affinity(true, Domain::Node, soft), ..base() },
        ),
        (
            "spread over zones, hard",
            Some(460.0),
            Request { spread: spread(Domain::Zone, 1, Force::Required), ..base() },
        ),
        ("spread over racks, hard", None, Request { spread: spread(Domain::Rack, 1, Force::Required), ..base() }),
        ("spread over nodes, hard", None, Request { spread: spread(Domain::Node, 1, Force::Required), ..base() }),
        ("spread over zones, soft", Some(340.0), Request { spread: spread(Domain::Zone, 1, soft), ..base() }),
    ];
    let mut all: Vec<Measure> = cases
        .into_iter()
        .map(|(name, kube, request)| {
            let rate = median((0..RUNS).map(|_| rate(&request)).collect());
            let measure =
                Measure::new(format!("{name}, 5,000 nodes, a CPU second"), rate, "1/s").must(Must::AtLeast(10_000.0));
            match kube {
                Some(kube) => measure.against("kube's CI threshold", kube, None),
                None => measure,
            }
        })
        .collect();
    all.push(
        Measure::new(
            "many groups, each apart on nodes, a CPU second",
            median((0..RUNS).map(|_| groups()).collect()),
            "1/s",
        )
        .must(Must::AtLeast(10_000.0)),
    );
    all.push(
        Measure::new("gang of 1,000", median((0..RUNS).map(|_| gang(false)).collect()), "ms").must(Must::AtMost(10.0)),
    );
    all.push(
        Measure::new("gang of 1,000 on half full nodes", median((0..RUNS).map(|_| gang(true)).collect()), "ms")
            .must(Must::AtMost(10.0)),
    );
    all.push(Measure::new(
        "preemption on full nodes, a CPU second",
        median((0..RUNS).map(|_| preempt()).collect()),
        "1/s",
    ));
    all
}

/// 4,000 of them on nodes that hold 10,000 others already.
fn rate(request: &Request) -> f64 {
    let mut pool = basic(NODES);
    let others = pool.request(&Request { policy: yun_plan::pool::Policy::Spread, ..pod() });
    pool.place_many(others, 10_000, |_, _| {});
    let request = pool.request(request);
    let watch = Watch::start();
    let placed = pool.place_many(request, 4_000, |_, _| {});
    placed as f64 / watch.stop().1
}

/// 400 applications of ten, each of which wants its instances on different nodes and racks.
fn groups() -> f64 {
    let mut pool = basic(NODES);
    let apps: Vec<_> = (0..400)
        .map(|n| {
            let app: Labels = [("app".to_owned(), n.to_string())].into();
            let apart = |domain, force| Affinity { to: app.clone(), domain, anti: true, force };
            let affinity = vec![apart(Domain::Node, Force::Required), apart(Domain::Rack, Force::Preferred(10))];
            pool.request(&Request { labels: app.clone(), affinity, ..pod() })
        })
        .collect();
    let watch = Watch::start();
    let mut placed = 0;
    for round in 0..10 {
        for app in &apps {
            placed += usize::from(pool.place(*app).is_some());
        }
        assert_eq!(placed, (round + 1) * apps.len());
    }
    placed as f64 / watch.stop().1
}

fn gang(half_full: bool) -> f64 {
    let mut pool = basic(NODES);
    if half_full {
        let shapes = [[700, 900, 1], [1100, 4000, 1], [300, 2000, 1]]
            .map(|s| Request { policy: yun_plan::pool::Policy::Spread, ..Request::of(vector(&s)) });
        for shape in shapes {
            let id = pool.request(&shape);
            pool.place_many(id, 5_000, |_, _| {});
        }
    }
    let member = pool.request(&Request::of(vector(&[1000, 1000, 1])));
    let watch = Watch::start();
    let Gang::Placed { members, .. } = pool.place_gang(member, 1_000) else { return f64::NAN };
    assert_eq!(members.len(), 1000);
    watch.stop().1 * 1000.0
}

fn preempt() -> f64 {
    let mut pool = basic(NODES);
    let low = pool.request(&Request::of(vector(&[900, 3000, 1])));
    pool.place_many(low, 20_000, |_, _| {});
    let high = pool.request(&Request { priority: 5, ..Request::of(vector(&[3000, 3000, 1])) });
    let watch = Watch::start();
    let mut done = 0;
    for _ in 0..200 {
        if let Some(proposal) = pool.preemption(high) {
            pool.preempt(high, &proposal);
            done += 1;
        }
    }
    f64::from(done) / watch.stop().1
}
