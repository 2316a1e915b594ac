//! Backups by the clock: a plan in a file, carried out by the server of this machine, which also sets free what a killed backup held.

use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use yun_backup::{Keep, Repository, Target};
use yun_engine::{
    clock::Clock,
    reconcile::{PassReport, Reconcile, Schedule, Signal, run as reconcile},
    tasks::Tasks,
};
use yun_linux::host::Host;
use yun_types::{Name, Timestamp};

use super::{
    args::{ScheduleCommand, SetArgs},
    create, held, keep, unkept,
};
use crate::cli::{
    Cloud, Code,
    args::Format,
    client,
    context::{Contexts, admin_file, write_private},
    output,
};

/// How often the server looks whether something is due.
const LOOK: Duration = Duration::from_secs(10);
/// The least time between two backups.
const LEAST: Duration = Duration::from_secs(60);
/// How soon a backup that failed is tried again.
const RETRY: chrono::TimeDelta = chrono::TimeDelta::minutes(10);

/// What is done, and how it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    /// The target.
    pub(super) to: String,
    /// Seconds between two backups.
    pub(super) every: u64,
    /// The file with the password.
    #[serde(default)]
    pub(super) password_file: Option<PathBuf>,
    /// When the last one began.
    #[serde(default)]
    last: Option<Timestamp>,
    /// What came of it.
    #[serde(default)]
    result: Option<String>,
    /// Whether it failed.
    #[serde(default)]
    failed: bool,
    /// What is kept; nothing goes if absent.
    #[serde(default)]
    keep: Keep,
}

impl Plan {
    fn path(root: &Path) -> PathBuf {
        root.join("var/lib/yun/backup/schedule.toml")
    }

    /// The plan of a root.
    pub(super) fn load(root: &Path) -> Result<Option<Self>> {
        let path = Self::path(root);
        match std::fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map(Some).map_err(|e| {
                anyhow::anyhow!("the schedule {} cannot be read ({}): set it again", path.display(), e.message())
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot read the schedule {}", path.display())),
        }
    }

    fn save(&self, root: &Path) -> Result<()> {
        write_private(&Self::path(root), &toml::to_string(self)?)
    }

    fn is_due(&self, now: Timestamp) -> bool {
        let wait = chrono::TimeDelta::seconds(i64::try_from(self.every).unwrap_or(i64::MAX / 1000));
        let wait = if self.failed { wait.min(RETRY) } else { wait };
        self.last.is_none_or(|last| now - last >= wait)
    }
}

/// Shows, sets or removes the plan.
pub(super) async fn run(command: ScheduleCommand) -> Result<Code> {
    match command {
        ScheduleCommand::Show(root) => match Plan::load(&root.root)? {
            None => {
                output::print_line("no backup is made by the clock: yun backup schedule set --every 24h --to TARGET")?
            }
            Some(plan) => output::print_line(toml::to_string(&plan)?.trim_end())?,
        },
        ScheduleCommand::Set(args) => set(args).await?,
        ScheduleCommand::Off(root) => {
            crate::server::require_root()?;
            match std::fs::remove_file(Plan::path(&root.root)) {
                Ok(()) => output::print_line("no backup is made by the clock any more")?,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => bail!("there is no schedule"),
                Err(e) => return Err(e).context("cannot remove the schedule"),
            }
        }
    }
    Ok(0)
}

async fn set(args: SetArgs) -> Result<()> {
    crate::server::require_root()?;
    let every = span(&args.every)?;
    let to = args.place.target.clone().context("say where to: --to DIRECTORY or --to s3://BUCKET/PREFIX")?;
    let absolute =
        |path: &Path| std::path::absolute(path).with_context(|| format!("cannot use the path {}", path.display()));
    let to = match to.parse::<Target>()? {
        Target::Directory(path) => absolute(&path)?.display().to_string(),
        bucket => bucket.to_string(),
    };
    let password_file = args.place.password_file.as_deref().map(absolute).transpose()?;
    // Now is when a person can mend it.
    super::opened(&args.place, true).await?;
    let plan = Plan {
        to,
        every: every.as_secs(),
        password_file,
        last: None,
        result: None,
        failed: false,
        keep: keep(args.keep),
    };
    plan.save(&args.place.root.root)?;
    output::print_line(&format!("a backup to {} every {}, the first one now", plan.to, args.every))
}

fn span(text: &str) -> Result<Duration> {
    let bad = || anyhow::anyhow!("{text:?} is not how often: write a number and a unit, as in 30m, 6h or 7d");
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return Err(bad()),
    };
    let seconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(bad)?;
    let span = Duration::from_secs(seconds);
    anyhow::ensure!(span >= LEAST, "every {text} is too often: once a minute (1m) is the most");
    anyhow::ensure!(seconds <= 366 * 86400, "every {text} is too seldom: once a year (366d) is the least");
    Ok(span)
}

/// Starts what carries the plan out.
pub(crate) fn start(tasks: &Tasks, clock: Arc<dyn Clock>, host: &Host, root: &Path) {
    let work = ByTheClock { clock: Arc::clone(&clock), host: host.clone(), root: root.to_owned() };
    let _runs_until_shutdown = reconcile(tasks, clock, "backups", Schedule::every(LOOK), Signal::default(), work);
}

struct ByTheClock {
    clock: Arc<dyn Clock>,
    host: Host,
    root: PathBuf,
}

#[async_trait]
impl Reconcile for ByTheClock {
    async fn pass(&mut self) -> PassReport {
        match self.look().await {
            Ok(None) => PassReport::nothing(),
            Ok(Some(done)) => PassReport::changed(done),
            Err(e) => PassReport::failed(format!("{e:#}")),
        }
    }
}

impl ByTheClock {
    async fn look(&self) -> Result<Option<String>> {
        let plan = Plan::load(&self.root)?;
        let orphans = std::fs::read_dir(self.host.state().join("backup/held")).is_ok_and(|mut d| d.next().is_some());
        let due = plan.filter(|plan| plan.is_due(self.clock.now()));
        if due.is_none() && !orphans {
            return Ok(None);
        }
        let cloud = self.cloud()?;
        let freed = held::set_free(&cloud, &self.host).await?;
        let Some(mut plan) = due else {
            return Ok((freed > 0).then(|| format!("set {freed} instances free that a backup had held")));
        };
        plan.last = Some(self.clock.now());
        let result = self.back_up(&cloud, &plan).await;
        plan.failed = result.is_err();
        plan.result = Some(match &result {
            Ok(text) => text.clone(),
            Err(e) => format!("{e:#}"),
        });
        // Somebody may have set another one, or none, meanwhile.
        if Plan::load(&self.root)?.is_some_and(|now| now.to == plan.to && now.every == plan.every) {
            plan.save(&self.root)?;
        }
        result.map(Some)
    }

    fn cloud(&self) -> Result<Cloud> {
        let contexts = Contexts::load(&admin_file(&self.root))?;
        let context =
            contexts.contexts.get("local").context("the administrator's context is gone: restart the server")?;
        Ok(Cloud {
            client: client(context)?,
            project: Name::default_project(),
            output: Format::Json,
            quiet: true,
            config: admin_file(&self.root),
        })
    }

    async fn back_up(&self, cloud: &Cloud, plan: &Plan) -> Result<String> {
        let password = plan.password_file.as_deref().map(super::password).transpose()?;
        let repository = Repository::open(&plan.to.parse::<Target>()?, password.as_deref(), true).await?;
        let done = create::create(cloud, &self.host, &repository, &create::What::default(), &|_| {}).await?;
        let mut text = format!("{} backups made", done.made.len());
        if !plan.keep.is_empty() {
            let lock = repository.lock("prune").await?;
            let gone = unkept(&repository.backups().await?, plan.keep);
            let pruning = async {
                for backup in &gone {
                    repository.forget(&backup.id).await?;
                }
                repository.prune(&lock).await
            };
            let pruned = pruning.await;
            lock.release().await?;
            text = format!("{text}, {} removed, {} freed", gone.len(), super::human(pruned?.bytes));
        }
        if done.failed.is_empty() {
            return Ok(text);
        }
        bail!("{text}; {}", done.failed.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_numbers_and_units() {
        assert_eq!(span("90m").unwrap(), Duration::from_secs(5400));
        for bad in ["", "h", "5", "5x", "30s", "-1h", "400d", "99999999999999999999d"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_backup_is_due_by_its_span_and_sooner_after_a_failure() {
        let at = |minutes: i64| Timestamp::from_timestamp(1_800_000_000 + minutes * 60, 0).unwrap();
        let mut plan = Plan {
            to: "/x".into(),
            every: 3600,
            password_file: None,
            last: None,
            result: None,
            failed: false,
            keep: Keep::default(),
        };
        assert!(plan.is_due(at(0)));
        plan.last = Some(at(0));
        assert!(!plan.is_due(at(59)) && plan.is_due(at(60)));
        plan.failed = true;
        assert!(!plan.is_due(at(9)) && plan.is_due(at(10)));
    }
}
