//! The one binary of yun: the command line, and the server that it starts.
//!
//! Everything that decides or acts lives in the other crates; here they are configured, wired together and shown to people.

mod backup;
mod cli;
mod server;

use anyhow::Result;
use clap::{CommandFactory, Parser};
use std::process::ExitCode;

fn main() -> ExitCode {
    // In builds for tests the environment may name a place at which to die; in others this compiles to nothing.
    let _places = fail::has_failpoints().then(die_where_told);
    clap_complete::CompleteEnv::with_factory(cli::args::Cli::command).complete();
    let cli = cli::args::Cli::parse();
    let quiet_json = matches!(cli.global.output, cli::args::Format::Json);
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let (code, word) = match error.downcast_ref::<cli::Refused>() {
                Some(refused) => (refused.exit as u8, refused.code.clone()),
                None => (cli::ExitCode::Failure as u8, None),
            };
            if quiet_json {
                eprintln!("{}", serde_json::json!({ "error_code": word, "message": format!("{error:#}") }));
            } else {
                eprintln!("yun: {error:#}");
            }
            ExitCode::from(code)
        }
    }
}

/// Makes a panic at a fail point the end of the process, as a crash would be.
fn die_where_told() -> fail::FailScenario<'static> {
    if std::env::var_os("FAILPOINTS").is_some() {
        std::panic::set_hook(Box::new(|panic| {
            eprintln!("{panic}");
            std::process::abort();
        }));
    }
    fail::FailScenario::setup()
}

fn run(cli: cli::args::Cli) -> Result<u8> {
    use cli::args::Command;
    let server = matches!(cli.command, Command::Server(_));
    // Two threads serve a thousand instances; the command line needs one.
    let mut builder = if server {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    if server {
        builder.worker_threads(2).max_blocking_threads(64).thread_stack_size(1 << 20);
    }
    let runtime = builder.enable_all().build()?;
    let code = runtime.block_on(async {
        match &cli.command {
            Command::Server(args) => server::run(args).await.map(|()| 0),
            Command::Up(args) => server::lifecycle::up(&cli.global, args).await,
            Command::Down(args) => server::lifecycle::down(&cli.global, args).await,
            Command::Status(args) => server::lifecycle::status(&cli.global, args).await,
            Command::Doctor(args) => server::doctor::doctor(&cli.global, args).await,
            _ => cli::run(cli).await,
        }
    });
    // Reading standard input blocks a thread for good; it must not hold the program back.
    runtime.shutdown_background();
    code
}
