//! Examples that people can follow: each rule once, refusals in words, and replays.

use super::*;

fn vector(parts: &[i64]) -> Vector {
    Vector::new(parts).unwrap()
}

fn place(zone: &str, rack: &str) -> Attributes {
    Attributes { zone: zone.into(), rack: rack.into(), ..Attributes::default() }
}

/// Twelve nodes of 8 cpu and 32 memory: two zones, three racks in each.
fn twelve() -> Pool {
    let mut pool = Pool::new(["cpu", "memory"]);
    for n in 0..12u64 {
        pool.add_node(n, vector(&[8, 32]), &place(&format!("z{}", n % 2), &format!("r{}", n / 2 % 3)));
    }
    pool
}

fn want(key: &str, values: &[&str]) -> Requirement {
    Requirement { key: key.into(), test: Test::In(values.iter().map(|v| (*v).to_owned()).collect()) }
}

#[test]
fn pack_fills_one_node_and_spread_all() {
    for (policy, nodes) in [(Policy::Pack, 2), (Policy::Spread, 12)] {
        let mut pool = twelve();
        let request = pool.request(&Request { policy, ..Request::of(vector(&[1, 4])) });
        assert_eq!(pool.place_many(request, 16, |_, _| {}), 16);
        assert_eq!(pool.occupied(), nodes, "{policy:?}");
    }
}

#[test]
fn near_is_the_node_then_its_rack_then_the_smallest_round_trip() {
    let mut pool = twelve();
    pool.set_rtt("z0", "z1", 2_000);
    let there = NodeIndex(4);
    let near = Request { policy: Policy::Latency, near: Some(Near::Node(there)), ..Request::of(vector(&[8, 1])) };
    let request = pool.request(&near);
    let places: Vec<String> = (0..12)
        .map(|_| {
            let (node, _) = pool.place(request).unwrap();
            let at = pool.node(node).0;
            if node == there { "itself".to_owned() } else { format!("{}/{}", at.zone, at.rack) }
        })
        .collect();
    assert_eq!(places[..2], ["itself", "z0/r2"]);
    assert!(
        places[2..6].iter().all(|p| p.starts_with("z0")) && places[6..].iter().all(|p| p.starts_with("z1")),
        "{places:?}"
    );
    let clients = Request { near: Some(Near::Zone("z1".into())), ..Request { shape: vector(&[1, 1]), ..near } };
    let mut pool = twelve();
    pool.set_rtt("z0", "z1", 2_000);
    let request = pool.request(&clients);
    let node = pool.place(request).unwrap().0;
    assert_eq!(pool.node(node).0.zone, "z1");
}

#[test]
fn measured_speed_decides_for_performance() {
    let mut pool = Pool::new(["cpu"]);
    for n in 0..8u8 {
        pool.add_node(u64::from(n), vector(&[4]), &Attributes { performance: n % 4, ..Attributes::default() });
    }
    let request = pool.request(&Request { policy: Policy::Performance, ..Request::of(vector(&[4])) });
    let nodes: Vec<NodeIndex> = (0..8).map(|_| pool.place(request).unwrap().0).collect();
    let speeds: Vec<u8> = nodes.into_iter().map(|node| pool.node(node).0.performance).collect();
    assert_eq!(speeds, [3, 3, 2, 2, 1, 1, 0, 0]);
}

#[test]
fn reasons_are_exact_counts() {
    let mut pool = twelve();
    let tainted =
        Attributes { taints: [Taint { key: "gpu-only".into(), value: String::new() }].into(), ..place("z0", "r0") };
    pool.change_node(NodeIndex(0), vector(&[8, 32]), &tainted);
    pool.change_node(NodeIndex(1), vector(&[8, 32]), &Attributes { cordoned: true, ..place("z1", "r0") });
    let all = pool.request(&Request::of(vector(&[6, 8])));
    assert_eq!(pool.place_many(all, 99, |_, _| {}), 10);
    let wanted = pool.request(&Request { wants: vec![want("zone", &["z0"])], ..Request::of(vector(&[4, 30])) });
    assert_eq!(pool.place(wanted), None);
    let why = pool.why(wanted);
    let counts: Vec<(Reason, u32, i32)> =
        why.refused.iter().map(|(reason, (nodes, least))| (reason.clone(), *nodes, *least)).collect();
    assert_eq!(
        counts,
        [
            (Reason::Cordoned, 1, 0),
            (Reason::Want("zone in z0".into()), 5, 0),
            (Reason::Tainted("gpu-only".into()), 1, 0),
            (Reason::Short(0), 5, 2),
        ]
    );
    assert_eq!((why.nodes, why.fit), (12, 0));
    assert_eq!(why.nearest.unwrap().1, vector(&[2, 6]));
}

#[test]
fn who_waits_is_woken_only_by_what_helps() {
    let mut pool = twelve();
    let filler = pool.request(&Request::of(vector(&[8, 8])));
    let mut tickets = Vec::new();
    pool.place_many(filler, 12, |_, ticket| tickets.push(ticket));
    let large = pool.request(&Request::of(vector(&[8, 30])));
    let zone = pool.request(&Request { wants: vec![want("zone", &["z1"])], ..Request::of(vector(&[1, 1])) });
    assert_eq!((pool.place(large), pool.place(zone)), (None, None));
    assert_eq!(pool.woken(), []);
    let in_z0 = tickets.iter().find(|t| pool.node(pool.node_of(**t).unwrap()).0.zone == "z0").copied().unwrap();
    pool.release(in_z0);
    assert_eq!(pool.woken(), [large]);
}

#[test]
fn what_can_never_be_is_refused_in_words() {
    let mut pool = twelve();
    let mut refusal = |request: Request| {
        let id = pool.request(&request);
        pool.impossible(id).map(|i| i.to_string())
    };
    let plain = || Request::of(vector(&[1, 1]));
    assert_eq!(refusal(plain()), None);
    assert_eq!(
        refusal(Request::of(vector(&[9, 64]))).unwrap(),
        "asks for <9, 64>, more cpu and memory than any node that the rules allow has; the largest that would fit is <8, 32>"
    );
    let wants = vec![want("zone", &["z0"]), want("rack", &["r0", "r1"]), want("zone", &["z1"])];
    assert_eq!(
        refusal(Request { wants, ..plain() }).unwrap(),
        "no node can keep both rules: zone in z0; and zone in z1: drop or loosen one of them"
    );
    assert_eq!(
        refusal(Request { wants: vec![want("gpu", &["a100"])], ..plain() }).unwrap(),
        "no node keeps the rule: gpu in a100; drop it, or add such a node"
    );
    let rule = |anti, domain| Affinity { to: labels(1), domain, anti, force: Force::Required };
    assert_eq!(
        refusal(Request { affinity: vec![rule(false, Domain::Node), rule(true, Domain::Rack)], ..plain() }).unwrap(),
        "no node can keep both rules: together with app=1 in the same node; and apart from app=1 in the same rack: drop or loosen one of them"
    );
    let other_nodes_of_the_rack = vec![rule(false, Domain::Rack), rule(true, Domain::Node)];
    assert_eq!(refusal(Request { affinity: other_nodes_of_the_rack, ..plain() }), None);
}

#[test]
fn a_gang_takes_the_tightest_rack_that_holds_it() {
    let mut pool = twelve();
    let filler = pool.request(&Request {
        wants: vec![want("zone", &["z1"]), want("rack", &["r1"])],
        ..Request::of(vector(&[4, 1]))
    });
    pool.place(filler).unwrap();
    let member = pool.request(&Request::of(vector(&[2, 1])));
    let Gang::Placed { members, within } = pool.place_gang(member, 5) else { panic!("there is room") };
    assert_eq!(within, Some((Domain::Rack, "r1".into())));
    assert!(members.iter().all(|(node, _)| pool.node(*node).0.zone == "z1"));
    let big = pool.request(&Request::of(vector(&[8, 1])));
    assert_eq!(
        pool.place_gang(big, 99),
        Gang::Waits { placeable: 10, within: None },
        "ten of the twelve nodes are empty"
    );
    assert_eq!(pool.instances(), 6);
}

#[test]
fn the_lowest_then_the_fewest_then_the_cheapest_give_way() {
    let mut pool = Pool::new(["cpu"]);
    for n in 0..3 {
        pool.add_node(n, vector(&[4]), &Attributes::default());
    }
    let mut fill = |node: u32, shape: i64, priority: u8, cost: u32, n: usize| {
        let id = pool.request(&Request { priority, cost, ..Request::of(vector(&[shape])) });
        (0..n).map(|_| pool.place_on(id, NodeIndex(node)).unwrap()).collect::<Vec<_>>()
    };
    fill(0, 4, 2, 1, 1);
    fill(1, 1, 1, 1, 4);
    let cheap = fill(2, 2, 1, 0, 1);
    fill(2, 2, 1, 9, 1);
    let id = pool.request(&Request { priority: 5, ..Request::of(vector(&[2])) });
    assert_eq!(pool.place(id), None);
    let proposal = pool.preemption(id).unwrap();
    assert_eq!(proposal, Preemption { node: NodeIndex(2), victims: cheap });
    let (_, homeless) = pool.preempt(id, &proposal);
    assert_eq!(homeless.len(), 1);
    let lowest = pool.request(&Request::of(vector(&[4])));
    assert_eq!(pool.preemption(lowest), None, "nobody is below the lowest");
}

/// The same inputs give the same decisions, and equal states decide equally whatever led there.
#[test]
fn a_replay_comes_to_the_same_hash() {
    let run = |extra: bool| {
        let mut pool = twelve();
        let shapes = [[1, 2], [2, 3], [1, 7], [4, 4]].map(|s| pool.request(&Request::of(vector(&s))));
        if extra {
            // A detour that leaves the same state with other cells.
            let mut tickets = Vec::new();
            pool.place_many(shapes[1], 30, |_, ticket| tickets.push(ticket));
            tickets.into_iter().rev().for_each(|ticket| pool.release(ticket));
        }
        let (mut seed, mut hash, mut live) = (1u64, 0u64, Vec::new());
        for _ in 0..20_000 {
            seed = crate::mix(seed);
            if seed % 5 < 3 {
                let placed = pool.place(shapes[(seed >> 8) as usize % 4]);
                hash = crate::mix(hash ^ placed.map_or(0, |(node, _)| u64::from(node.0) + 1));
                live.extend(placed.map(|(_, ticket)| ticket));
            } else if !live.is_empty() {
                pool.release(live.swap_remove((seed >> 8) as usize % live.len()));
            }
        }
        hash
    };
    assert_eq!(run(false), run(false));
    assert_eq!(run(false), run(true));
}
