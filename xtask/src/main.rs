//! The developer's tool: `cargo xtask COMMAND`. It installs, builds, starts, stops, tests, measures and tidies. Nothing of it is shipped.
#![allow(clippy::disallowed_methods, reason = "a developer's tool starts programs and waits for them")]

mod bench;
mod deb;
mod packages;
mod run;
mod test;
mod tidy;
mod up;

use std::process::ExitCode;

const USAGE: &str = "cargo xtask COMMAND

  up            install what is missing, build, start the cloud, launch a VM and a container, show what there is
  down          stop the cloud and everything that it runs
  test          tidy, lints, and every test
  deb           build the Debian package (target/debian/yun_*.deb)
  bench [NAME]  measure against peers and limits; -o json for programs
  setup         only install what is missing (what CI does first)
  tidy          only check the rules of the house
  openapi       write openapi/yun.json from the API trait";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    let result = match arguments.first().map(String::as_str) {
        Some("up") => up::up(rest),
        Some("down") => up::down(rest),
        Some("test") => test::test(rest),
        Some("deb") => deb::deb(rest),
        Some("bench") => bench::bench(rest),
        Some("setup") => packages::setup(packages::Wanted::Tests),
        Some("tidy") => tidy::tidy(),
        Some("openapi") => test::write_openapi(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
