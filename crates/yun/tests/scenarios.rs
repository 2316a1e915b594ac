//! The scenario files, on the fakes and on the real thing. `cargo test -p yun --test scenarios` plays them all.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line")]

mod common;

use common::{Cloud, PROGRAM, text};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};
use yun_testkit::{
    cloud::FakeCloud,
    scenario::{Said, Scenario, Stage},
};

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "there are no scenarios");
    files
}

/// Plays every file that is not meant for the other stage, a few at a time, and tells all failures.
fn play_all(other: &str, play: impl Fn(&Scenario) -> Result<(), String> + Sync) {
    let files = files();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failures = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, std::sync::atomic::Ordering::SeqCst)) {
                    let name = file.file_name().unwrap().to_string_lossy().into_owned();
                    let result = Scenario::load(file)
                        .and_then(|s| if s.directive("only") == Some(other) { Ok(()) } else { play(&s) });
                    if let Err(error) = result {
                        failures.lock().unwrap().push(format!("{name} {error}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn scenarios_play_on_the_fakes() {
    play_all("real", |scenario| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let cloud = runtime.block_on(FakeCloud::start()).map_err(|e| e.to_string())?;
        let mut stage = OnFakes { cloud, directory: tempfile::tempdir().unwrap(), runtime };
        stage.write_context();
        scenario.play(&mut stage)
    });
}

#[test]
fn scenarios_play_on_the_real_thing() {
    if !common::real("the scenarios on the real thing") {
        return;
    }
    play_all("fake", |scenario| scenario.play(&mut OnTheRealThing(Cloud::start())));
}

struct OnFakes {
    cloud: FakeCloud,
    directory: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl OnFakes {
    fn write_context(&self) {
        let authority = std::fs::read_to_string(self.cloud.authority()).unwrap();
        let host = format!("https://{}", self.cloud.address().unwrap());
        let token = &self.cloud.token;
        let config = format!(
            "current = \"fake\"\n[contexts.fake]\nhost = \"{host}\"\ntoken = \"{token}\"\nca = '''{authority}'''\n"
        );
        std::fs::write(self.directory.path().join("config.toml"), config).unwrap();
    }

    fn instance(&self, name: &str) -> Result<yun_types::InstanceId, String> {
        let control = self.cloud.control().ok_or("the server does not run")?;
        let row = control.instances.cache.get(&["default", name]).ok_or(format!("there is no instance {name}"))?;
        Ok(yun_types::InstanceId(row.value.metadata.id))
    }
}

impl Stage for OnFakes {
    fn run(&mut self, words: &[String]) -> Said {
        let mut command = Command::new(PROGRAM);
        command
            .args(words)
            .env("YUN_CONFIG", self.directory.path().join("config.toml"))
            .env("NO_COLOR", "1")
            .env("HOME", self.directory.path());
        for name in ["YUN_HOST", "YUN_TOKEN", "YUN_PROJECT", "YUN_CONTEXT"] {
            command.env_remove(name);
        }
        said(&mut command)
    }

    fn world(&mut self, words: &[String]) -> Result<(), String> {
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["advance", seconds] => {
                let seconds = seconds.trim_end_matches('s').parse().map_err(|_| "advance wants seconds, as in 60s")?;
                self.runtime.block_on(self.cloud.advance(Duration::from_secs(seconds)));
                Ok(())
            }
            ["restart"] => self.runtime.block_on(self.cloud.restart()).map_err(|e| e.to_string()),
            ["reboot"] => self.runtime.block_on(self.cloud.reboot()).map_err(|e| e.to_string()),
            ["end", name, code] => {
                let code = code.parse().map_err(|_| "end wants an exit code")?;
                self.cloud.world.end(self.instance(name)?, code).then_some(()).ok_or("it does not run".to_owned())
            }
            ["oom", name] => self
                .cloud
                .world
                .end_out_of_memory(self.instance(name)?)
                .then_some(())
                .ok_or("it does not run".to_owned()),
            _ => Err("the fakes do not know that".into()),
        }
    }
}

struct OnTheRealThing(Cloud);

impl Stage for OnTheRealThing {
    fn run(&mut self, words: &[String]) -> Said {
        said(&mut self.0.command(words))
    }

    fn world(&mut self, words: &[String]) -> Result<(), String> {
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["restart"] => {
                self.0.kill();
                self.0.up();
                Ok(())
            }
            ["reboot"] => {
                self.0.ok(&["down"]);
                self.0.up();
                Ok(())
            }
            _ => Err("the real thing does not obey that".into()),
        }
    }
}

fn said(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Said { code: output.status.code().unwrap_or(-1), text: text(&output.stdout) + &text(&output.stderr) }
}
