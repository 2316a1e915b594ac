//! Tests of placement: filters, scores, explanations, and what must never happen.

use super::*;
use crate::{amount::Dimension, samples};
use expect_test::{Expect, expect};
use proptest::prelude::*;
use yun_types::{Bytes, Cpu};

fn driver(name: &str, ready: bool, message: Option<&str>) -> DriverFacts {
    DriverFacts { driver: name.into(), ready, engine: None, accel: None, message: message.map(Into::into) }
}

pub(super) fn node(name: &str, capacity: &str, reserved: &str) -> NodeView {
    let reserved =
        if reserved.is_empty() { Reserved::default() } else { amount::total([reserved.parse::<Size>().unwrap()]) };
    NodeView {
        id: NodeId(samples::id(name)),
        name: samples::name(name),
        arch: Arch::Amd64,
        state: NodeState::Ready,
        cordoned: false,
        capacity: capacity.parse().unwrap(),
        reserved,
        drivers: vec![driver("vm", true, None), driver("container", true, None)],
    }
}

pub(super) fn ask(size: &str) -> Ask {
    Ask {
        instance: InstanceId(samples::id("web")),
        name: samples::name("web"),
        kind: InstanceKind::Container,
        arch: Arch::Amd64,
        size: size.parse().unwrap(),
        node: None,
        kin: BTreeMap::new(),
    }
}

fn decide(nodes: &[NodeView], ask: &Ask) -> Decision {
    place(nodes, std::slice::from_ref(ask)).remove(0)
}

fn winner(nodes: &[NodeView], ask: &Ask) -> String {
    match decide(nodes, ask).placement {
        Placement::On { name, .. } => name.to_string(),
        Placement::Waits { reason } => reason.to_owned(),
    }
}

fn check(decision: &Decision, expected: Expect) {
    let e = &decision.explanation;
    let mut text = format!("{}\n", e.summary);
    for f in &e.filtered {
        text += &format!("- {} {}: {}\n", f.nodes, f.rule, f.detail);
    }
    for c in &e.candidates {
        let terms: Vec<String> = c.terms.iter().map(|t| format!("{} {}", t.name, t.value)).collect();
        text += &format!("+ {} {} = {}\n", c.node, c.score, terms.join(", "));
    }
    if let Some(nearest) = &e.nearest {
        text += &format!("nearest: {nearest}\n");
    }
    for help in &e.unblock {
        text += &format!("> {help}\n");
    }
    expected.assert_eq(&text);
}

#[test]
fn the_fullest_node_that_fits_wins_and_the_runners_up_are_shown() {
    let nodes = [
        node("empty", "cpu:4,memory:8Gi,disk:100Gi", ""),
        node("half", "cpu:4,memory:8Gi,disk:100Gi", "cpu:2,memory:4Gi,disk:50Gi"),
        node("full", "cpu:4,memory:8Gi,disk:100Gi", "cpu:4,memory:8Gi,disk:90Gi"),
        node("crooked", "cpu:4,memory:8Gi,disk:100Gi", "cpu:3,memory:1Gi,disk:50Gi"),
    ];
    check(
        &decide(&nodes, &ask("cpu:1,memory:2Gi,disk:10Gi")),
        expect![[r#"
            on node half, the best fit of 3 nodes that could take it
            - 1 cpu: short of 1 cpu
            + half 2100 = cpu fit 750, memory fit 750, disk fit 600, balance 0
            + crooked 1663 = cpu fit 1000, memory fit 375, disk fit 600, balance -312
            + empty 600 = cpu fit 250, memory fit 250, disk fit 100, balance 0
        "#]],
    );
}

#[test]
fn waiting_names_every_rule_the_nearest_miss_and_the_ways_out() {
    let mut cordoned = node("cordoned", "cpu:4,memory:8Gi,disk:100Gi", "");
    cordoned.cordoned = true;
    let mut lost = node("lost", "cpu:4,memory:8Gi,disk:100Gi", "");
    lost.state = NodeState::Lost;
    let nodes = [
        cordoned,
        lost,
        node("a", "cpu:4,memory:2Gi,disk:100Gi", "cpu:1,memory:512Mi,disk:1Gi"),
        node("b", "cpu:4,memory:2Gi,disk:100Gi", "cpu:1,memory:1Gi,disk:1Gi"),
    ];
    let decision = decide(&nodes, &ask("cpu:1,memory:2Gi,disk:10Gi"));
    assert_eq!(decision.placement, Placement::Waits { reason: "NoRoom" });
    check(
        &decision,
        expect![[r#"
            waits: 1 node lost, 1 node cordoned, 2 nodes are short of at least 512 MiB memory
            - 1 lost: silent for more than 10 s
            - 1 cordoned: takes no new instances
            - 2 memory: short of at least 512 MiB memory
            nearest: node a: short of 512 MiB memory
            > free 512 MiB memory on node a: delete instances there, or give them a smaller size
            > ask for at most cpu:3,memory:1536Mi,disk:99Gi, which is free on node a
            > let node cordoned take instances again: yun node uncordon cordoned
            > bring node lost back: it is silent
        "#]],
    );
}

#[test]
fn a_missing_driver_says_what_the_node_said() {
    let mut a = node("a", "cpu:4,memory:8Gi,disk:100Gi", "");
    a.drivers = vec![driver("vm", false, Some("QEMU is not installed: apt install qemu-system-x86"))];
    let vm = Ask { kind: InstanceKind::Vm, ..ask("cpu:1") };
    check(
        &decide(std::slice::from_ref(&a), &vm),
        expect![[r#"
            waits: 1 node no driver
            - 1 no driver: node a runs no vm: QEMU is not installed: apt install qemu-system-x86
            nearest: node a: QEMU is not installed: apt install qemu-system-x86
            > node a runs no vm: QEMU is not installed: apt install qemu-system-x86
        "#]],
    );
    assert_eq!(winner(&[a], &vm), "NoDriver");
}

#[test]
fn a_node_that_is_asked_for_by_name_is_the_only_one_that_counts() {
    let nodes = [node("a", "cpu:4,memory:8Gi,disk:100Gi", ""), node("b", "cpu:4,memory:8Gi,disk:100Gi", "cpu:4")];
    let on = |name: &str| Ask { node: Some(samples::name(name)), ..ask("cpu:1") };
    assert_eq!(winner(&nodes, &on("a")), "a");
    assert_eq!(winner(&nodes, &on("b")), "NoRoom");
    assert_eq!(decide(&nodes, &on("b")).explanation.nearest.unwrap(), "node b: short of 1 cpu");
    assert_eq!(winner(&nodes, &on("c")), "NoSuchNode");
}

#[test]
fn an_empty_cloud_and_a_foreign_processor_say_so() {
    assert_eq!(winner(&[], &ask("cpu:1")), "NoNode");
    let decision = decide(&[], &ask("cpu:1"));
    assert_eq!((decision.explanation.nodes, decision.explanation.unblock.len()), (0, 1));
    let arm = Ask { arch: Arch::Arm64, ..ask("cpu:1") };
    let nodes = [node("a", "cpu:4,memory:8Gi,disk:100Gi", "")];
    assert_eq!(winner(&nodes, &arm), "WrongArch");
    assert_eq!(
        decide(&nodes, &arm).explanation.nearest.unwrap(),
        "node a: its processor is amd64, and the image is for arm64"
    );
}

#[test]
fn those_before_reserve_for_those_after() {
    let nodes = [node("a", "cpu:2,memory:8Gi,disk:100Gi", ""), node("b", "cpu:1,memory:8Gi,disk:100Gi", "")];
    let asks = vec![ask("cpu:1,memory:1Gi,disk:1Gi"); 4];
    let placed: Vec<String> = place(&nodes, &asks)
        .into_iter()
        .map(|d| if let Placement::On { name, .. } = d.placement { name.to_string() } else { "-".into() })
        .collect();
    assert_eq!(placed, ["b", "a", "a", "-"]);
}

#[test]
fn instances_of_one_group_are_kept_apart() {
    let nodes = [
        node("a", "cpu:4,memory:8Gi,disk:100Gi", "cpu:3,memory:6Gi,disk:50Gi"),
        node("b", "cpu:64,memory:512Gi,disk:4Ti", ""),
    ];
    let mut member = ask("cpu:1,memory:1Gi,disk:1Gi");
    assert_eq!(winner(&nodes, &member), "a", "the fullest one that fits");
    member.kin = BTreeMap::from([(nodes[0].id, 1)]);
    assert_eq!(winner(&nodes, &member), "b");
    assert!(decide(&nodes, &member).explanation.candidates[1].terms.iter().any(|t| t.name == "spread" && t.value < 0));
    member.kin.insert(nodes[1].id, 2);
    assert_eq!(winner(&nodes, &member), "a", "where there are fewest");
}

#[test]
fn equal_nodes_are_told_apart_by_rank_and_not_by_order() {
    let mut nodes: Vec<NodeView> = (0..9).map(|n| node(&format!("n{n}"), "cpu:4,memory:8Gi,disk:100Gi", "")).collect();
    let first = winner(&nodes, &ask("cpu:1"));
    nodes.reverse();
    assert_eq!(winner(&nodes, &ask("cpu:1")), first);
}

fn never_text(nodes: &[NodeView], ask: &Ask) -> Option<(&'static str, String)> {
    never(nodes, ask).map(|n| (n.code(), n.to_string()))
}

#[test]
fn what_no_node_could_ever_take_is_refused_with_what_would_fit() {
    let nodes = [
        node("a", "cpu:2,memory:3Gi,disk:20Gi", "cpu:1,memory:1Gi,disk:5Gi"),
        node("b", "cpu:1,memory:1Gi,disk:10Gi", ""),
    ];
    expect![[r#"
        instance web asks for cpu:64,memory:4Gi,disk:2Gi, more cpu and memory than any node has: the largest, a, has cpu:2,memory:3Gi,disk:20Gi (cpu:1,memory:2Gi,disk:15Gi free now); ask for at most cpu:2,memory:3Gi,disk:20Gi"#]]
    .assert_eq(&never_text(&nodes, &ask("cpu:64,memory:4Gi,disk:2Gi")).unwrap().1);
    assert_eq!(never(&nodes, &ask("cpu:2,memory:3Gi,disk:20Gi")), None, "it would fit into an empty a");
    let on_b = Ask { node: Some(samples::name("b")), ..ask("cpu:2,memory:1Gi,disk:1Gi") };
    assert!(never_text(&nodes, &on_b).unwrap().1.contains("more cpu than node b has cpu:1"));
    assert_eq!(never(&[], &ask("cpu:64")), None, "a node may come");
}

#[test]
fn an_image_for_a_processor_that_nobody_has_is_refused() {
    let nodes = [node("a", "cpu:2,memory:3Gi,disk:20Gi", "")];
    let (code, text) = never_text(&nodes, &Ask { arch: Arch::Riscv64, ..ask("cpu:1") }).unwrap();
    assert_eq!(code, "WrongArch");
    assert_eq!(
        text,
        "the image of instance web is for riscv64 processors, and the cloud has only amd64; use an image for amd64, or add an riscv64 node"
    );
}

fn any_node() -> impl Strategy<Value = NodeView> {
    (0u32..64, 1u32..9, 1u64..33, 1u64..65, 0u32..9, 0u64..33, any::<[bool; 4]>()).prop_map(
        |(n, cpu, memory, disk, held, held_memory, flags)| NodeView {
            cordoned: flags[0] && flags[1],
            state: if flags[1] && flags[2] { NodeState::Lost } else { NodeState::Ready },
            arch: if flags[2] && flags[3] { Arch::Arm64 } else { Arch::Amd64 },
            drivers: vec![driver("container", !(flags[0] && flags[3]), None)],
            reserved: Reserved { cpu: Cpu(held * 500), memory: Bytes::gib(held_memory), disk: Bytes(0), instances: 1 },
            capacity: Size { cpu: Cpu::cores(cpu), memory: Bytes::gib(memory), disk: Bytes::gib(disk) },
            ..node(&format!("n{n}"), "cpu:1", "")
        },
    )
}

fn any_nodes() -> impl Strategy<Value = Vec<NodeView>> {
    proptest::collection::vec(any_node(), 0..12).prop_map(|mut nodes| {
        nodes.sort_by_key(|n| n.id);
        nodes.dedup_by_key(|n| n.id);
        nodes
    })
}

fn any_ask() -> impl Strategy<Value = Ask> {
    (1u32..10, 1u64..40, 1u64..70).prop_map(|(cpu, memory, disk)| Ask {
        size: Size { cpu: Cpu(cpu * 500), memory: Bytes::gib(memory), disk: Bytes::gib(disk) },
        ..ask("cpu:1")
    })
}

proptest! {
    #[test]
    fn no_node_is_ever_promised_more_than_it_has(nodes in any_nodes(), asks in proptest::collection::vec(any_ask(), 0..20)) {
        let mut after = nodes.clone();
        for (decision, ask) in place(&nodes, &asks).iter().zip(&asks) {
            if let Placement::On { node, .. } = &decision.placement {
                let node = after.iter_mut().find(|n| n.id == *node).unwrap();
                prop_assert!(node.state == NodeState::Ready && !node.cordoned && node.arch == ask.arch && node.drivers[0].ready);
                node.reserved = amount::add(node.reserved, ask.size);
                prop_assert!(node.reserved.cpu <= node.capacity.cpu && node.reserved.memory <= node.capacity.memory && node.reserved.disk <= node.capacity.disk);
            }
        }
    }

    #[test]
    fn counts_add_up_and_every_wait_has_a_way_out(nodes in any_nodes(), ask in any_ask()) {
        let decision = decide(&nodes, &ask);
        let e = &decision.explanation;
        let out: u32 = e.filtered.iter().map(|f| f.nodes).sum();
        prop_assert_eq!(e.nodes as usize, nodes.len());
        match decision.placement {
            Placement::On { name, .. } => {
                prop_assert!(out < e.nodes && !e.candidates.is_empty() && e.candidates.len() <= 3);
                prop_assert_eq!(&e.candidates[0].node, &name);
                prop_assert!(e.candidates.windows(2).all(|w| w[0].score >= w[1].score));
                prop_assert!(e.candidates.iter().all(|c| c.score == c.terms.iter().map(|t| t.value).sum::<i64>()));
                prop_assert!(never(&nodes, &ask).is_none());
            }
            Placement::Waits { .. } => {
                prop_assert_eq!(out, e.nodes);
                prop_assert!(e.candidates.is_empty() && !e.unblock.is_empty());
                prop_assert_eq!(e.nearest.is_none(), nodes.is_empty());
            }
        }
    }

    #[test]
    fn a_wait_means_that_no_node_had_room(nodes in any_nodes(), ask in any_ask()) {
        if matches!(decide(&nodes, &ask).placement, Placement::Waits { .. }) {
            let fits = |n: &NodeView| Dimension::ALL.into_iter().all(|d| d.of(n.free()) >= d.of(ask.size));
            prop_assert!(!nodes.iter().any(|n| n.state == NodeState::Ready && !n.cordoned && n.arch == ask.arch && n.drivers[0].ready && fits(n)));
        }
    }

    #[test]
    fn the_order_of_the_snapshot_does_not_matter(nodes in any_nodes(), ask in any_ask()) {
        let mut turned = nodes.clone();
        turned.reverse();
        prop_assert_eq!(decide(&nodes, &ask).placement, decide(&turned, &ask).placement);
    }

    #[test]
    fn never_means_never(nodes in any_nodes(), ask in any_ask()) {
        if never(&nodes, &ask).is_some() {
            let empty: Vec<NodeView> = nodes.into_iter().map(|n| NodeView {
                reserved: Reserved::default(), cordoned: false, state: NodeState::Ready, drivers: vec![driver("container", true, None)], ..n
            }).collect();
            let waits = matches!(decide(&empty, &ask).placement, Placement::Waits { .. });
            prop_assert!(waits);
        }
    }
}
