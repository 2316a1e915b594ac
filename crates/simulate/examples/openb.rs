//! Allocation at 100 and 130 % of some policies on some lists: `openb NODES SEEDS POLICY[,POLICY] TASKS…`.

use std::{path::Path, process::ExitCode};
use yun_plan::gpu::GpuPolicy;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [nodes, seeds, policies, lists @ ..] = &words[..] else {
        eprintln!("openb NODES SEEDS POLICY[,POLICY] TASKS…");
        return ExitCode::FAILURE;
    };
    let seeds: u64 = seeds.parse().unwrap_or(5);
    for list in lists {
        let trace = match yun_simulate::openb::read(Path::new(nodes), Path::new(list)) {
            Ok(trace) => trace,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        };
        for name in policies.split(',') {
            let Some(policy) = GpuPolicy::named(name) else { continue };
            let curves: Vec<_> =
                (42..42 + seeds).filter_map(|seed| trace.play(policy, seed, &|_, _| ()).ok()).collect();
            let at = |x| yun_simulate::mean(curves.iter().map(|c| c.at(x)));
            let rate =
                curves.iter().map(|c| c.tasks as f64).sum::<f64>() / curves.iter().map(|c| c.seconds).sum::<f64>();
            let list = Path::new(list).file_name().and_then(|n| n.to_str()).unwrap_or_default();
            println!("{list:40} {name:16} {:.2} {:.2} {:.2}  {rate:.0}/s", at(90), at(100), at(130));
        }
    }
    ExitCode::SUCCESS
}
