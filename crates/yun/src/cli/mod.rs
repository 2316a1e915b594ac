//! The command line: parses, calls the API, prints. It decides nothing that the server should decide.

mod apply;
pub(crate) mod args;
mod attach;
mod clone;
pub(crate) mod complete;
mod compose;
mod connect;
mod container;
pub(crate) mod context;
mod events;
mod follow;
mod group;
mod image;
mod instance;
mod keys;
mod launch;
mod network;
pub(crate) mod output;
mod pool;
mod session;
mod settings;
pub(crate) mod simulate;
mod snapshot;
mod ssh_key;
mod terminal;
mod usage;
mod view;
mod volume;
mod words;

use anyhow::Result;
use args::{Cli, Command};
pub(crate) use connect::{Cloud, ExitCode, Explained, Refused, client, explain, install_crypto};
pub(crate) use follow::{follow, line};

/// The exit code of a program that ran inside and ended with this one, or 0.
pub(crate) type Code = u8;

/// Carries out a command that talks to a server.
pub(crate) async fn run(cli: Cli) -> Result<Code> {
    let global = &cli.global;
    match cli.command {
        Command::Config(command) => settings::config(global, command),
        Command::Project(args::ProjectCommand::Use { name }) => settings::use_project(global, name).await,
        Command::Image(image::args::ImageCommand::Login(args)) => image::registries::login(global, &args),
        Command::Image(image::args::ImageCommand::Logout { registry }) => image::registries::logout(global, &registry),
        Command::Backup(command) => crate::backup::run(global, *command).await,
        Command::Completion { shell } => settings::completion(shell),
        Command::Schema => apply::schema(),
        Command::Simulate(command) => simulate::run(global, command),
        command => on_cloud(connect::Cloud::connect(global)?, command).await,
    }
}

async fn on_cloud(cloud: connect::Cloud, command: Command) -> Result<Code> {
    let cloud = &cloud;
    match command {
        Command::Launch(args) => launch::launch(cloud, *args).await,
        Command::Ls(args) => instance::ls(cloud, args).await,
        Command::Show(args) => instance::show(cloud, &args.instance).await,
        Command::Start(args) => instance::act(cloud, args, yun_api::cloud::InstanceAction::Start, None).await,
        Command::Stop(args) => {
            instance::act(cloud, args.many, yun_api::cloud::InstanceAction::Stop, args.timeout).await
        }
        Command::Restart(args) => {
            instance::act(cloud, args.many, yun_api::cloud::InstanceAction::Restart, args.timeout).await
        }
        Command::Pause(args) => instance::act(cloud, args, yun_api::cloud::InstanceAction::Pause, None).await,
        Command::Resume(args) => instance::act(cloud, args, yun_api::cloud::InstanceAction::Resume, None).await,
        Command::Hibernate(args) => instance::act(cloud, args, yun_api::cloud::InstanceAction::Hibernate, None).await,
        Command::Clone(args) => clone::clone(cloud, args).await,
        Command::Rm(args) => instance::rm(cloud, args).await,
        Command::Set(args) => instance::set(cloud, args).await,
        Command::Explain(args) => match args.kind {
            args::Explainable::Instance => instance::explain(cloud, &args.name).await,
            args::Explainable::Group => group::explain(cloud, &args.name).await,
        },
        Command::Apply(args) => apply::apply(cloud, args).await,
        Command::Compose(args) => compose::run(cloud, args).await,
        Command::Diff(args) => apply::diff(cloud, &args).await,
        Command::Group(command) => group::run(cloud, command).await,
        Command::Commit(args) => container::commit(cloud, args).await,
        Command::Cp(args) => container::copy(cloud, args).await,
        Command::Attach(args) => attach::attach(cloud, args).await,
        Command::Exec(args) => session::exec(cloud, args).await,
        Command::Ssh(args) => session::ssh(cloud, args).await,
        Command::Console(args) => session::console(cloud, &args.instance).await,
        Command::Dial { instance, port } => session::dial(cloud, &instance, port).await,
        Command::Logs(args) => events::logs(cloud, args).await,
        Command::Top(args) => usage::top(cloud, args).await,
        Command::Stats(args) => usage::stats(cloud, args).await,
        Command::Events(args) => events::events(cloud, args).await,
        Command::Audit(args) => events::audit(cloud, args).await,
        Command::Tasks => events::tasks(cloud).await,
        Command::Image(command) => image::run(cloud, command).await,
        Command::Pool => pool::run(cloud).await,
        Command::Snapshot(command) => snapshot::run(cloud, command).await,
        Command::Node(command) => settings::node(cloud, command).await,
        Command::Network(command) => network::run(cloud, command).await,
        Command::Volume(command) => volume::run(cloud, command).await,
        Command::SshKey(command) => ssh_key::run(cloud, command).await,
        Command::Project(command) => settings::project(cloud, command).await,
        Command::Token(command) => settings::token(cloud, command).await,
        Command::Operation(command) => settings::operation(cloud, command).await,
        Command::Up(_)
        | Command::Down(_)
        | Command::Status(_)
        | Command::Server(_)
        | Command::Doctor(_)
        | Command::Backup(_)
        | Command::Config(_)
        | Command::Schema
        | Command::Simulate(_)
        | Command::Completion { .. } => {
            unreachable!("carried out before a connection is needed")
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_command_contradicts_itself() {
        <super::args::Cli as clap::CommandFactory>::command().debug_assert();
    }
}
