//! The protocol on a small cluster made up for it.

use super::*;
use std::{fmt::Write as _, fs};

fn files(nodes: &str, tasks: &str) -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (n, t) = (folder.path().join("nodes.csv"), folder.path().join("tasks.csv"));
    fs::write(&n, nodes).unwrap();
    fs::write(&t, tasks).unwrap();
    (folder, n, t)
}

fn nodes() -> String {
    let mut text = "sn,cpu_milli,memory_mib,gpu,model\n".to_owned();
    for n in 0..20 {
        let _ = writeln!(text, "n{n},64000,262144,{},{}", [2, 4, 8][n % 3], ["T4", "P100"][n % 2]);
    }
    text + "c1,64000,262144,0,\n"
}

fn tasks() -> String {
    let mut text = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n".to_owned();
    for n in 0..60 {
        let (gpus, milli) = [(1, 500), (1, 1000), (2, 1000), (0, 0), (1, 230), (8, 1000)][n % 6];
        let _ =
            writeln!(text, "t{n},{},4096,{gpus},{milli},{}", 1000 + 500 * (n % 5), ["", "", "T4", "T4|P100"][n % 4]);
    }
    text
}

#[test]
fn the_same_seed_gives_the_same_curve_and_allocation_only_grows() {
    let (_folder, nodes, tasks) = files(&nodes(), &tasks());
    let trace = read(&nodes, &tasks).unwrap();
    assert_eq!((trace.nodes.len(), trace.tasks.len(), trace.capacity()), (21, 60, 90_000));
    for name in GpuPolicy::NAMES {
        let policy = GpuPolicy::named(name).unwrap();
        let play = |seed| Curve { seconds: 0.0, ..trace.play(policy, seed, &|_, _| ()).unwrap() };
        let curve = play(42);
        assert_eq!(curve, play(42), "{name}");
        assert_ne!(curve, play(43), "{name}");
        assert_eq!(curve.allocation.len(), UNTIL + 1);
        assert!(
            curve.allocation.is_sorted() && curve.at(130) <= 100.0 && curve.at(100) > 50.0,
            "{name}: {:?}",
            curve.at(100)
        );
    }
}

#[test]
fn lists_without_the_last_columns_are_read() {
    let (_folder, nodes, tasks) = files(&nodes(), "name,cpu_milli,memory_mib,num_gpu,gpu_milli\nt,1,1,1,460\n");
    assert_eq!(read(&nodes, &tasks).unwrap().tasks[0].models, 0);
}

#[test]
fn wrong_values_are_named_before_anything_is_played() {
    let broken = |nodes: &str, tasks: &str| {
        let (folder, nodes, tasks) = files(nodes, tasks);
        read(&nodes, &tasks).unwrap_err().to_string().replace(&folder.path().display().to_string(), "")
    };
    let header = "name,cpu_milli,memory_mib,num_gpu,gpu_milli\n";
    assert_eq!(
        broken(&nodes(), &format!("{header}t,1,1,1,460\nu,1,1,1,1460\n")),
        "/tasks.csv:3:5: gpu_milli: 1460 thousandths of a GPU are asked for: ask for 1 to 1000"
    );
    assert_eq!(
        broken(&nodes(), &format!("{header}t,-1,1,1,460\n")),
        "/tasks.csv:2:2: cpu_milli: \"-1\" is not thousandths of a core"
    );
    assert_eq!(
        broken("sn,cpu_milli,memory_mib,gpu,model\nn,1,1,9,T4\n", header),
        "/nodes.csv:2:4: gpu: 9 GPUs, and 8 is the most"
    );
    assert_eq!(
        broken(&nodes(), &format!("{header}t,1,1,0,0\n")),
        "/nodes.csv: no node has a GPU, or no task asks for one"
    );
}
