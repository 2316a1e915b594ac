//! `up`: from a bare machine to a VM that answers SSH and a container that answers HTTP. `down`: back again.

use crate::{
    packages::{Wanted, setup},
    run::{as_root, cargo, output, run, target},
};
use anyhow::{Context as _, Result, bail};
use std::{
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

const VM: &str = "vm1";
const WEB: &str = "web";
/// Tried in order: a port of the host may be taken by somebody else.
const PORTS: [u16; 4] = [8080, 8081, 8088, 18080];

/// Installs, builds, starts, launches, shows.
pub(crate) fn up(arguments: &[String]) -> Result<()> {
    let begun = Instant::now();
    setup(Wanted::Cloud)?;
    step("building yun (release)");
    run(cargo().args(["build", "--release", "--package", "yun", "--bin", "yun"]))?;
    step("starting the cloud");
    run(yun().arg("up").args(arguments))?;
    images()?;
    let port = instances()?;
    step("waiting for SSH in the VM and HTTP in the container");
    let kernel = output(yun().args(["ssh", VM, "--wait", "240", "--", "uname -sr"]))?;
    println!("  {VM} answers SSH: {}", kernel.trim());
    let page = http(port, Duration::from_secs(30))?;
    println!("  {WEB} answers HTTP on 127.0.0.1:{port}: {}", page.lines().last().unwrap_or_default().trim());
    println!("\nThe cloud is up after {:.0} s. What there is:\n", begun.elapsed().as_secs_f64());
    run(yun().arg("ls"))?;
    let path = binary();
    println!("\nFive commands to try next ({} is the program; put it into your PATH):", path.display());
    for (command, what) in [
        (format!("yun ssh {VM}"), "log in to the VM"),
        (format!("yun exec -it {WEB} -- sh"), "look inside the container"),
        (format!("curl http://127.0.0.1:{port}/"), "see the container's page"),
        (format!("yun explain instance {VM}"), "ask why the VM is where it is"),
        ("yun node show".to_owned(), "see what this machine lends"),
    ] {
        println!("  {command:38} {what}");
    }
    Ok(())
}

/// Stops everything.
pub(crate) fn down(arguments: &[String]) -> Result<()> {
    if !binary().exists() {
        bail!("yun is not built: there is nothing that cargo xtask up started");
    }
    run(yun().arg("down").args(arguments))
}

fn step(what: &str) {
    println!("==> {what}");
}

fn binary() -> PathBuf {
    target().join("release/yun")
}

fn yun() -> Command {
    as_root(binary())
}

fn names(noun: &[&str]) -> Result<Vec<String>> {
    Ok(output(yun().args(noun).args(["-o", "name"]))?.lines().map(str::to_owned).collect())
}

fn images() -> Result<()> {
    let have = names(&["image", "ls"])?;
    if !have.iter().any(|n| n == "small") {
        step("building a VM image from Debian packages");
        run(yun().args(["image", "build", "small-vm", "small"]))?;
    }
    if !have.iter().any(|n| n == WEB) {
        step("building a container image from Debian packages");
        run(yun().args(["image", "build", "busybox", WEB, "--", "httpd", "-f", "-p", "80", "-h", "/www"]))?;
    }
    Ok(())
}

/// Launches what is not there, starts what does not run, and gives the port of the web server.
fn instances() -> Result<u16> {
    let have = names(&["ls"])?;
    if have.iter().any(|n| n == VM) {
        run(yun().args(["start", "-q", VM]))?;
    } else {
        step("launching a VM");
        run(yun().args(["launch", "small", VM, "--size", "cpu:1,memory:512M,disk:2G"]))?;
    }
    if have.iter().any(|n| n == WEB) {
        run(yun().args(["start", "-q", WEB]))?;
        return published();
    }
    step("launching a container");
    let mut refused = None;
    for port in PORTS {
        let publish = format!("{port}:80");
        match run(yun().args(["launch", WEB, WEB, "--size", "cpu:0.5,memory:64M,disk:100M", "--publish", &publish])) {
            Ok(()) => return Ok(port),
            Err(error) => {
                let _ = yun().args(["rm", "-f", "-q", WEB]).output();
                refused = Some(error);
            }
        }
    }
    Err(refused.context("no port to try")?)
}

fn published() -> Result<u16> {
    let shown = output(yun().args(["show", WEB, "-o", "json"]))?;
    let instance: serde_json::Value = serde_json::from_str(&shown)?;
    let port = instance["spec"]["publish"][0].as_str().and_then(|p| p.split(':').nth_back(1));
    port.and_then(|p| p.parse().ok()).context("the container publishes no port")
}

/// The web server's answer, as soon as there is one.
fn http(port: u16, limit: Duration) -> Result<String> {
    let until = Instant::now() + limit;
    loop {
        match ask(port) {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= until => {
                return Err(error.context(format!("no HTTP answer from 127.0.0.1:{port}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn ask(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if !answer.starts_with("HTTP/1") || !answer.contains(" 200 ") {
        bail!("the answer was {:?}", answer.lines().next().unwrap_or_default());
    }
    Ok(answer)
}
