//! Seeing: what is used now and over time, by the command line, by promtool and by a real Prometheus that scrapes.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "runs the real command line and programs beside it")]

mod common;

use common::{Cloud, free_port, text};
use serde_json::Value;
use std::{
    io::{Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

/// The address and the certificate authority of a cloud, and its administrator's token.
struct Door {
    host: String,
    ca: std::path::PathBuf,
    token: String,
}

fn door(cloud: &Cloud) -> Door {
    let config: toml::Value =
        std::fs::read_to_string(cloud.root().join("config.toml")).unwrap().parse::<toml::Table>().unwrap().into();
    let context = config["contexts"].as_table().unwrap().values().next().unwrap().clone();
    let ca = cloud.root().join("ca.pem");
    std::fs::write(&ca, context["ca"].as_str().unwrap()).unwrap();
    Door { host: context["host"].as_str().unwrap().into(), ca, token: context["token"].as_str().unwrap().into() }
}

impl Door {
    /// The address with the token as the password of anybody.
    fn with_password(&self, token: &str) -> String {
        self.host.replace("https://", &format!("https://any:{token}@"))
    }

    fn promtool(&self, token: &str, words: &[&str], rest: &[&str]) -> std::process::Output {
        let mut command = Command::new("promtool");
        command.arg("query").args(words).arg(self.with_password(token)).args(rest).env("SSL_CERT_FILE", &self.ca);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// What `curl` gets, and the status.
    fn get(&self, path: &str, words: &[&str]) -> (u16, String) {
        let authorization = format!("Authorization: Bearer {}", self.token);
        let mut command = Command::new("curl");
        command.args(["-sS", "-w", "\n%{http_code}", "--cacert"]).arg(&self.ca).args(["-H", &authorization]);
        let output = command.args(words).arg(format!("{}{path}", self.host)).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let all = text(&output.stdout);
        let (body, status) = all.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }
}

fn has(program: &str, what: &str) -> bool {
    let there = Path::new("/usr/bin").join(program).exists();
    if !there {
        eprintln!("SKIPPED {what}: {program} is not installed (cargo xtask setup installs it)");
    }
    there
}

/// A cloud with one busy container and one that rests, both measured at least twice.
fn measured() -> Cloud {
    let cloud = Cloud::with_box();
    cloud.launch("busy", &[], &["sh", "-c", "while :; do :; done"]);
    cloud.launch("idle", &[], &["sleep", "1000"]);
    let used = |name: &str, metric: &str| {
        let all = cloud.json(&["top", "--once"]);
        let one = all.as_array().unwrap().iter().find(|one| one["name"] == name).cloned();
        one.and_then(|one| one["used"][metric].as_f64())
    };
    cloud.until("both are measured", || {
        used("busy", "cpu").is_some_and(|cpu| cpu > 0.005) && used("idle", "cpu").is_some()
    });
    cloud
}

#[test]
fn what_is_used_is_shown_now_and_over_time() {
    if !common::real("measurements") {
        return;
    }
    let cloud = measured();
    let all = cloud.json(&["top", "--once"]);
    assert_eq!(all[0]["name"], "busy", "the busiest is first: {all}");
    let (busy, idle) = (&all[0]["used"], &all[1]["used"]);
    // It was given a twentieth of a core.
    assert!(busy["cpu"].as_f64().unwrap() < 0.2, "{busy}");
    assert!(idle["cpu"].as_f64().unwrap() < busy["cpu"].as_f64().unwrap(), "{all}");
    for metric in ["memory", "processes", "net-in", "net-out", "disk-used"] {
        assert!(idle[metric].is_number(), "{metric} is not measured: {idle}");
    }
    assert!(idle["memory"].as_f64().unwrap() > 0.0);
    let table = cloud.ok(&["top", "--once", "--sort", "name"]);
    assert!(table.starts_with("NAME  KIND") && table.lines().nth(1).unwrap().starts_with("busy"), "{table}");
    assert!(cloud.ok(&["top", "--once", "-A"]).starts_with("PROJECT"));
    let nodes = cloud.json(&["top", "--once", "--nodes"]);
    assert!(nodes[0]["used"]["memory"].as_f64().unwrap() > 1e6, "{nodes}");

    let stats = cloud.ok(&["stats", "busy", "--since", "10m"]);
    assert!(stats.contains("METRIC") && stats.lines().any(|line| line.starts_with("cpu ")), "{stats}");
    let history = cloud.json(&["stats", "busy", "--since", "10m", "-m", "cpu"]);
    assert_eq!((history["lines"].as_array().unwrap().len(), &history["step"]), (1, &Value::from(6)));
    let node = nodes[0]["name"].as_str().unwrap();
    assert!(cloud.ok(&["stats", "--node", node]).contains("memory"));
    // What was measured is not lost with the process.
    let points = |cloud: &Cloud| {
        cloud.json(&["stats", "busy", "-m", "memory", "--step", "5"])["lines"][0]["points"].as_array().unwrap().len()
    };
    let before = points(&cloud);
    cloud.kill();
    cloud.up();
    assert!(points(&cloud) >= before);

    for (words, why) in [
        (&["stats", "nobody"][..], "instance nobody does not exist"),
        (&["stats", "busy", "--since", "tomorrow"], "time \"tomorrow\" is not understood"),
        (&["stats", "busy", "--since", "99d"], "32 days"),
        (&["stats", "busy", "--since", "10d", "--step", "1"], "step="),
        (&["stats", "busy", "--step", "0"], "step=60"),
        (&["stats", "busy", "-m", "cups"], "metric \"cups\" is unknown"),
        (&["stats", "busy", "--since", "1h", "--until", "2h"], "since must be before until"),
        (&["stats", "--node", "nowhere"], "node nowhere does not exist"),
        (&["stats"], "required"),
        (&["top", "--sort", "weight"], "possible values"),
    ] {
        let (_, said) = cloud.fails(words);
        assert!(said.contains(why), "{words:?}: {said}");
    }
    // Another project sees nothing of it.
    cloud.ok(&["project", "create", "other"]);
    let secret = cloud.json(&["token", "create", "ann", "--role", "viewer", "--in", "other"])["secret"]
        .as_str()
        .unwrap()
        .to_owned();
    let seen = cloud.as_token(&secret, &["top", "--once", "-A", "-o", "json"]);
    assert_eq!(text(&seen.stdout).trim(), "[]", "{}", text(&seen.stderr));
    assert!(!cloud.as_token(&secret, &["top", "--once", "--nodes"]).status.success());
}

#[test]
fn traffic_is_that_of_all_interfaces_and_never_shrinks() {
    if !common::real("traffic") {
        return;
    }
    let cloud = Cloud::with_box();
    cloud.ok(&["network", "create", "back"]);
    cloud.launch("peer", &["--network", "back"], &["sleep", "1000"]);
    cloud.launch("web", &["--network", "default", "--network", "back"], &["sleep", "1000"]);
    let door = door(&cloud);
    let sent = || {
        let query = "query=yun_instance_network_transmit_bytes_total{instance=\"web\"}";
        let (_, said) = door.get("/api/v1/query", &["-G", "--data-urlencode", query]);
        let said: Value = serde_json::from_str(&said).unwrap();
        said["data"]["result"][0]["value"][1].as_str().and_then(|value| value.parse::<f64>().ok())
    };
    cloud.until("it is measured", || sent().is_some());
    let peer = cloud.show("peer")["status"]["address"].as_str().unwrap().to_owned();
    cloud.ok(&["exec", "web", "--", "ping", "-c", "50", "-i", "0.01", "-s", "1400", &peer]);
    cloud.until("what went through the second interface is counted", || sent() >= Some(50.0 * 1400.0));
    let before = sent().unwrap();
    cloud.ok(&["network", "detach", "back", "web"]);
    let node = || cloud.json(&["top", "--once", "--nodes"])[0]["at"].clone();
    for _ in 0..2 {
        let last = node();
        cloud.until("there is a newer measurement", || node() != last);
    }
    assert!(sent().unwrap() >= before, "what went through the interface that is gone is forgotten");
}

/// A program with a terminal of its own, and what it has shown there so far.
struct Terminal {
    child: std::process::Child,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    fn open(cloud: &Cloud, words: &str) -> Self {
        let line = format!("stty rows 30 cols 150; {} {words}", common::PROGRAM);
        let mut command = cloud.command(&["unused"]);
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-c", &line, "/dev/null"]).env("TERM", "xterm");
        for (name, value) in command.stdin(Stdio::null()).get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut out, shown) = (child.stdout.take().unwrap(), Arc::new(Mutex::new(String::new())));
        let seen = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length) = out.read(&mut bytes)
                && length > 0
            {
                seen.lock().unwrap().push_str(&text(&bytes[..length]));
            }
        });
        Self { child, shown }
    }

    /// How often something was shown.
    fn count(&self, what: &str) -> usize {
        self.shown.lock().unwrap().matches(what).count()
    }

    fn press(&mut self, keys: &str) {
        self.child.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn top_is_live_on_a_terminal_and_gives_it_back() {
    if !common::real("yun top") || !has("script", "yun top") {
        return;
    }
    let cloud = measured();
    let address = door(&cloud).host.trim_start_matches("https://").to_owned();
    let mut top = Terminal::open(&cloud, "top --interval 1");
    cloud.until("both are shown", || top.count("busy") > 0 && top.count("idle") > 0);
    assert!(top.count("project default: 2 instances") > 0, "{}", top.shown.lock().unwrap());
    let before = top.count("yun top");
    cloud.until("it is shown again", || top.count("yun top") > before + 1);
    top.press("o");
    cloud.until("nodes are shown", || top.count("NODE") > 0);
    cloud.kill();
    cloud.until("the silence of the server is said", || top.count("not of now") > 0);
    // At the address that it had.
    cloud.ok(&["up", "--listen", &address, "--no-systemd"]);
    let before = top.count("yun top");
    cloud.until("the new server is asked", || top.count("yun top") > before + 1);
    assert_eq!(top.count("\u{1b}[?1049l"), 0, "it left by itself");
    top.press("q");
    let mut left = None;
    cloud.until("it has left", || {
        left = top.child.try_wait().unwrap();
        left.is_some()
    });
    assert!(left.unwrap().success());
    cloud.until("the terminal is given back", || top.count("\u{1b}[?1049l") == 1 && top.count("\u{1b}[?25h") == 1);
}

#[test]
fn promtool_and_grafana_ask_yun_as_if_it_were_prometheus() {
    if !common::real("promtool") || !has("promtool", "promtool") {
        return;
    }
    let cloud = measured();
    let door = door(&cloud);
    let ok = |words: &[&str], rest: &[&str]| {
        let output = door.promtool(&door.token, words, rest);
        assert!(output.status.success(), "{words:?} {rest:?}: {}{}", text(&output.stderr), cloud.log());
        text(&output.stdout)
    };
    let busy = ok(&["instant"], &["yun_instance_memory_working_set_bytes{instance=\"busy\"}"]);
    assert!(busy.contains("project=\"default\"") && busy.contains("=>"), "{busy}");
    let rate = ok(&["instant"], &["topk(1, sum by (instance) (rate(yun_instance_cpu_seconds_total[1m])))"]);
    assert!(rate.starts_with("{instance=\"busy\"} =>"), "{rate}");
    let range = ok(&["range", "--step=5s"], &["sum(yun_instance_processes)"]);
    assert!(range.lines().count() > 1, "{range}");
    let series = ok(&["series", "--match=yun_node_memory_used_bytes"], &[]);
    assert!(series.contains("yun_node_memory_used_bytes"), "{series}");
    assert!(ok(&["labels"], &["instance"]).contains("idle"));

    let (code, said) = door.get("/api/v1/query", &["-G", "--data-urlencode", "query=sum(x"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, said["errorType"].as_str()), (400, Some("bad_data")));
    assert!(said["error"].as_str().unwrap().starts_with("1:4: parse error"), "{said}");
    for (path, status, why) in [
        ("/api/v1/query_range?query=1&start=0&end=100000&step=1", 400, "11,000 points"),
        ("/api/v1/query_range?query=1&start=10&end=5&step=1", 400, "end timestamp"),
        ("/api/v1/query_range?query=1&start=0&end=5&step=0", 400, "step"),
        ("/api/v1/query_range?query=1&start=0&end=5", 400, "missing"),
        ("/api/v1/query?query=1&time=noon", 400, "valid timestamp"),
        ("/api/v1/query?query=max_over_time(x%5B5m:1m%5D)", 422, "subquery is not supported"),
        ("/api/v1/series", 400, "match[]"),
        ("/api/v1/label/a-b/values", 400, "invalid label name"),
    ] {
        let (code, said) = door.get(path, &[]);
        assert!(code == status && said.contains(why), "{path}: {code} {said}");
    }
    // What Grafana sends: forms, and the questions of its editor.
    let (code, said) = door.get("/api/v1/query", &["--data-urlencode", "query=count(yun_instance_processes)"]);
    assert!(code == 200 && said.contains(",\"2\"]"), "{said}");
    assert!(door.get("/api/v1/status/buildinfo", &[]).1.contains("2.42.0"));
    assert!(door.get("/api/v1/metadata", &[]).1.contains("yun_instance_cpu_seconds_total"));
    assert!(door.get("/api/v1/labels", &[]).1.contains("project"));

    // A stranger finds nothing; a viewer of another project finds nothing of this one.
    assert!(!door.promtool("wrong", &["instant"], &["1"]).status.success());
    cloud.ok(&["project", "create", "other"]);
    let secret = cloud.json(&["token", "create", "ann", "--role", "viewer", "--in", "other"])["secret"]
        .as_str()
        .unwrap()
        .to_owned();
    let seen = door.promtool(&secret, &["instant"], &["{__name__=~\"yun_.*\"}"]);
    assert!(seen.status.success() && text(&seen.stdout).trim().is_empty(), "{}", text(&seen.stdout));
}

#[test]
fn a_real_prometheus_scrapes_and_agrees_with_us() {
    if !common::real("Prometheus") || !has("prometheus", "Prometheus") || !has("promtool", "Prometheus") {
        return;
    }
    let cloud = measured();
    let door = door(&cloud);
    let (code, metrics) = door.get("/metrics", &["-H", "Accept: application/openmetrics-text;version=1.0.0"]);
    assert!(code == 200 && metrics.ends_with("# EOF\n"), "{metrics}");
    for family in [
        "yun_instance_cpu_seconds_total{",
        "yun_node_up{",
        "yun_api_requests_total{",
        "yun_store_size_bytes ",
        "yun_task_runs_total{",
    ] {
        assert!(metrics.contains(family), "{family} is not exported: {metrics}");
    }
    // What does not ask for OpenMetrics gets the older form; promtool has nothing against it.
    let (code, older) = door.get("/metrics", &["-H", "Accept: text/plain"]);
    assert!(code == 200 && !older.contains("# EOF") && older.contains("# TYPE yun_instance_cpu_seconds_total counter"));
    let file = cloud.root().join("metrics.txt");
    std::fs::write(&file, &older).unwrap();
    let input = std::fs::File::open(&file).unwrap();
    let checked = Command::new("promtool").args(["check", "metrics"]).stdin(input).output().unwrap();
    assert!(checked.status.success(), "{}{}", text(&checked.stdout), text(&checked.stderr));
    assert_eq!(text(&checked.stderr).trim(), "", "promtool has advice");
    let directory = cloud.root().join("prometheus");
    std::fs::create_dir_all(&directory).unwrap();
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: yun\n  scheme: https\n  honor_labels: true\n  authorization: {{credentials: {:?}}}\n  tls_config: {{ca_file: {:?}}}\n  static_configs: [{{targets: [{:?}]}}]\n",
        door.token,
        door.ca,
        door.host.trim_start_matches("https://")
    );
    let file = directory.join("prometheus.yml");
    std::fs::write(&file, config).unwrap();
    let checked = Command::new("promtool").args(["check", "config"]).arg(&file).output().unwrap();
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    let port = free_port();
    let mut server = Ended(
        Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(directory.join("log")).unwrap())
            .spawn()
            .unwrap(),
    );
    let theirs = |query: &str| {
        let url = format!("http://127.0.0.1:{port}");
        let output = Command::new("promtool").args(["query", "instant", &url, query]).output().unwrap();
        text(&output.stdout)
    };
    cloud.until("Prometheus has scraped", || theirs("yun_instance_processes{instance=\"idle\"}").contains("idle"));
    // The same question, the same answer, where time does not matter.
    let query = "sum by (instance, kind) (yun_instance_processes{instance=\"idle\"})";
    let ours = text(&door.promtool(&door.token, &["instant"], &[query]).stdout);
    let value = |line: &str| line.split(" @").next().unwrap_or_default().to_owned();
    assert_eq!(value(&ours), value(&theirs(query)));
    assert!(theirs("up{job=\"yun\"}").contains("=> 1 "), "{}", theirs("up"));
    server.0.kill().unwrap();
}

/// A program that ends with the test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
