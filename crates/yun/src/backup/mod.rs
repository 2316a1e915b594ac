//! Backups of this machine: the state and the instances, into a repository of `yun_backup`. Runs beside the server, as root, because it
//! reads what lies on the disk; what must be asked or changed goes through the API like any other request.

pub(crate) mod args;
mod create;
mod held;
mod restore;
mod schedule;
mod shown;
mod verify;

pub(crate) use schedule::start;

use anyhow::{Context as _, Result, bail};
use std::{
    io::{IsTerminal as _, Write as _},
    path::Path,
};
use yun_backup::{Backup, Keep, Repository, Target, decide};
use yun_linux::host::Host;

use crate::cli::{Cloud, Code, args::Global, output};
use args::{BackupCommand, KeepArgs, WhereArgs};

/// Carries out a command on backups.
pub(crate) async fn run(global: &Global, command: BackupCommand) -> Result<Code> {
    match command {
        BackupCommand::Create(args) => {
            crate::server::require_root()?;
            let (host, repository) = (host(&args.place)?, opened(&args.place, true).await?);
            let cloud = Cloud::connect(global)?;
            let what = create::What { instances: args.instances, state: args.state };
            let progress = |text: &str| say(global.quiet, text);
            let done = create::create(&cloud, &host, &repository, &what, &progress).await?;
            clear(global.quiet);
            shown::list(&done.made, global.output)?;
            if done.failed.is_empty() {
                return Ok(0);
            }
            bail!(done.failed.join("\n"))
        }
        BackupCommand::Ls(place) => {
            let repository = opened(&place, false).await?;
            shown::list(&repository.backups().await?, global.output)?;
        }
        BackupCommand::Show(args) => {
            let backup = opened(&args.place, false).await?.find(&args.backup).await?;
            output::object(&shown::Whole::of(&backup), global.output, &backup.id)?;
        }
        BackupCommand::Restore(args) => {
            crate::server::require_root()?;
            let (host, repository) = (host(&args.place)?, opened(&args.place, false).await?);
            return restore::restore(global, &host, &repository, args).await;
        }
        BackupCommand::Verify(args) => {
            let repository = opened(&args.place, false).await?;
            return verify::verify(&repository, &args.backups, args.restore).await;
        }
        BackupCommand::Rm(args) => {
            let repository = opened(&args.place, false).await?;
            let lock = repository.lock("rm").await?;
            let result = remove(&repository, &args.backups).await;
            lock.release().await?;
            result?;
        }
        BackupCommand::Prune(args) => {
            let repository = opened(&args.place, false).await?;
            let lock = repository.lock("prune").await?;
            let result = prune(&repository, &lock, keep(args.keep), args.dry_run).await;
            lock.release().await?;
            result?;
        }
        BackupCommand::Schedule(command) => return schedule::run(command).await,
    }
    Ok(0)
}

async fn remove(repository: &Repository, words: &[String]) -> Result<()> {
    let all = repository.backups().await?;
    for word in words {
        // Whoever removes names what goes: "the newest of web" is too easily another one than was meant.
        let found: Vec<&Backup> =
            all.iter().filter(|b| b.id == *word || word.len() >= 8 && b.id.starts_with(word.as_str())).collect();
        match found.as_slice() {
            [one] => {
                repository.forget(&one.id).await?;
                output::print_line(&one.id)?;
            }
            [] => bail!("backup {word} does not exist: give an id of yun backup ls, or 8 characters of it at least"),
            several => bail!("{word} begins the ids of {} backups: give more of it", several.len()),
        }
    }
    Ok(())
}

/// Removes what no rule keeps, then the chunks that nothing needs.
async fn prune(repository: &Repository, lock: &yun_backup::Lock, keep: Keep, dry_run: bool) -> Result<()> {
    let gone = unkept(&repository.backups().await?, keep);
    for backup in &gone {
        output::print_line(&format!(
            "{} {} ({})",
            if dry_run { "would remove" } else { "removed" },
            backup.id,
            backup.subject
        ))?;
    }
    if dry_run {
        return Ok(());
    }
    for backup in &gone {
        repository.forget(&backup.id).await?;
    }
    let pruned = repository.prune(lock).await?;
    output::print_line(&format!(
        "{} backups and {} chunks removed, {} freed",
        gone.len(),
        pruned.chunks,
        human(pruned.bytes)
    ))
}

fn unkept(backups: &[Backup], keep: Keep) -> Vec<Backup> {
    let dated: Vec<yun_backup::Dated> = backups
        .iter()
        .map(|b| yun_backup::Dated { id: b.id.clone(), series: b.series.clone(), created: b.created })
        .collect();
    let verdicts = decide(&dated, keep);
    let goes = |id: &str| verdicts.iter().any(|v| v.id == id && v.kept_for.is_empty());
    backups.iter().filter(|b| goes(&b.id)).cloned().collect()
}

fn keep(args: KeepArgs) -> Keep {
    Keep { last: args.keep_last, daily: args.keep_daily, weekly: args.keep_weekly, monthly: args.keep_monthly }
}

fn host(place: &WhereArgs) -> Result<Host> {
    let root = &place.root.root;
    Host::open(root).with_context(|| format!("cannot use {} as the root of a cloud", root.display()))
}

/// The repository that the flags, the environment or the schedule name.
async fn opened(place: &WhereArgs, make: bool) -> Result<Repository> {
    let scheduled = schedule::Plan::load(&place.root.root).ok().flatten();
    let target = place.target.clone().or_else(|| scheduled.as_ref().map(|plan| plan.to.clone())).context(
        "no backup target is named: say --to DIRECTORY or --to s3://BUCKET/PREFIX, set YUN_BACKUP_TARGET, or make a schedule",
    )?;
    let from_schedule = scheduled.filter(|plan| plan.to == target).and_then(|plan| plan.password_file);
    let file = place.password_file.clone().or(from_schedule);
    let password = file.as_deref().map(password).transpose()?;
    crate::cli::install_crypto();
    Ok(Repository::open(&target.parse::<Target>()?, password.as_deref(), make).await?)
}

/// The first line of a file.
fn password(file: &Path) -> Result<String> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read the password file {}", file.display()))?;
    let word = text.lines().next().unwrap_or_default();
    anyhow::ensure!(
        !word.is_empty(),
        "the password file {} is empty: write the password in its first line",
        file.display()
    );
    Ok(word.to_owned())
}

/// Bytes for people.
fn human(bytes: u64) -> String {
    yun_types::Bytes(bytes).human()
}

/// A line that is written over by the next one, on a terminal.
fn say(quiet: bool, text: &str) {
    if !quiet && std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{text}");
        let _ = std::io::stderr().flush();
    }
}

fn clear(quiet: bool) {
    say(quiet, "");
}
