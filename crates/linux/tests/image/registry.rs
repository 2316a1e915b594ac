//! Registries for tests: Debian's docker-registry on a port of its own, and a small one that misbehaves on demand.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "shared by several test programs"
)]

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The SHA-256 of some bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Writes an OCI image layout with these layers. Answers its directory.
pub fn oci_layout(layout: &Path, layers: &[&[u8]], architecture: &str, command: &[String]) -> PathBuf {
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8], kind: &str| {
        let digest = sha256(bytes);
        std::fs::write(blobs.join(&digest), bytes).unwrap();
        json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{digest}"), "size": bytes.len() })
    };
    let layers: Vec<Value> = layers.iter().map(|layer| put(layer, "layer.v1.tar")).collect();
    let diff_ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
    let config = json!({
        "architecture": architecture, "os": "linux", "config": { "Cmd": command },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = put(config.to_string().as_bytes(), "config.v1+json");
    let manifest = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers });
    let mut manifest = put(manifest.to_string().as_bytes(), "manifest.v1+json");
    manifest["platform"] = json!({ "os": "linux", "architecture": architecture });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    std::fs::write(layout.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string()).unwrap();
    layout.to_owned()
}

/// Debian's registry on a port of its own; ended when it is dropped.
pub struct Registry {
    child: Child,
    host: String,
    log: PathBuf,
    user: Option<(String, String)>,
}

impl Registry {
    /// Starts one, for everybody or for one user.
    pub fn start(work: &Path, user: Option<(&str, &str)>) -> Self {
        std::fs::create_dir_all(work).unwrap();
        let host = format!("127.0.0.1:{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
        let (config, log) = (work.join("registry.yml"), work.join("registry.log"));
        let auth = user.map(|(name, word)| {
            let line = run("htpasswd", &["-nbB", name, word]);
            std::fs::write(work.join("htpasswd"), line).unwrap();
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", work.join("htpasswd").display())
        });
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\nlog:\n  accesslog:\n    disabled: false\n{}",
            work.join("registry").display(),
            auth.unwrap_or_default()
        );
        std::fs::write(&config, text).unwrap();
        let out = std::fs::File::create(&log).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        let registry = Self { child, host, log, user: user.map(|(name, word)| (name.into(), word.into())) };
        let limit = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(&registry.host).is_err() {
            assert!(
                Instant::now() < limit,
                "docker-registry does not answer: {}",
                std::fs::read_to_string(&registry.log).unwrap()
            );
            std::thread::yield_now();
        }
        registry
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// A reference into it.
    pub fn name(&self, path: &str) -> String {
        format!("{}/{path}", self.host)
    }

    /// Puts a layout in, under a name.
    pub fn push(&self, layout: &Path, path: &str, flags: &[&str]) {
        let (from, to) = (format!("oci:{}", layout.display()), format!("docker://{}", self.name(path)));
        let user = self.user.as_ref().map(|(name, word)| format!("{name}:{word}"));
        let mut words = vec!["--insecure-policy"];
        let (overrides, others): (Vec<&[&str]>, Vec<&[&str]>) =
            flags.chunks(2).partition(|pair| pair[0].starts_with("--override"));
        words.extend(overrides.concat());
        words.extend(["copy", "-q", "--dest-tls-verify=false"]);
        words.extend(others.concat());
        words.extend(user.iter().flat_map(|user| ["--dest-creds", user]));
        words.extend([from.as_str(), to.as_str()]);
        run("skopeo", &words);
    }

    /// The digest that it has for a name.
    pub fn digest(&self, path: &str) -> String {
        let text = run("skopeo", &["inspect", "--tls-verify=false", "--raw", &format!("docker://{}", self.name(path))]);
        format!("sha256:{}", sha256(text.as_bytes()))
    }

    /// How many blobs it gave so far.
    pub fn blobs_given(&self) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap();
        log.lines()
            .filter(|line| line.contains("GET /v2/") && line.contains("/blobs/") && line.contains("yun/"))
            .count()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a hostile registry gives its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blob {
    /// As it should.
    Whole,
    /// Other bytes of the same length.
    Other,
    /// More bytes than there are.
    Long,
    /// The connection ends at this byte, every time.
    BreaksAlwaysAt(usize),
    /// The connection ends after so many bytes; ranges are honoured.
    BreaksEvery(usize),
    /// Nothing after the headers.
    Stalls,
    /// A byte now and then.
    Trickles,
}

/// How it gives its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spec {
    /// As it should.
    Right,
    /// Without end.
    Endless,
    /// Half of it.
    Truncated,
    /// Nothing at all.
    Silent,
}

/// A registry of one image that misbehaves on demand.
pub struct Hostile {
    port: u16,
    inner: Arc<Inner>,
}

struct Inner {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
    blob: Mutex<Blob>,
    spec: Mutex<Spec>,
    ranges: Mutex<Vec<usize>>,
    over: AtomicBool,
}

impl Hostile {
    /// Starts one with an image of this layer.
    pub fn start(layer: &[u8]) -> Self {
        let named = |bytes: &[u8], kind: &str| json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len() });
        let part = named(layer, "layer.v1.tar");
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": { "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": [part["digest"]] },
        })
        .to_string();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": named(config.as_bytes(), "config.v1+json"), "layers": [part],
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let inner = Arc::new(Inner {
            layer: layer.to_vec(),
            config: config.into_bytes(),
            manifest: manifest.to_string().into_bytes(),
            blob: Mutex::new(Blob::Whole),
            spec: Mutex::new(Spec::Right),
            ranges: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let served = Arc::clone(&inner);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if served.over.load(Ordering::Relaxed) {
                    return;
                }
                let served = Arc::clone(&served);
                std::thread::spawn(move || {
                    let _ = served.answer(stream);
                });
            }
        });
        Self { port, inner }
    }

    /// A reference into it.
    pub fn name(&self, path: &str) -> String {
        format!("127.0.0.1:{}/{path}", self.port)
    }

    /// How it gives its layer from now on. Forgets the ranges that were asked for.
    pub fn will(&self, blob: Blob) {
        *self.inner.blob.lock().unwrap() = blob;
        self.inner.ranges.lock().unwrap().clear();
    }

    /// How it gives its manifest from now on.
    pub fn spec(&self, spec: Spec) {
        *self.inner.spec.lock().unwrap() = spec;
    }

    /// From which bytes on the layer was asked for.
    pub fn ranges(&self) -> Vec<usize> {
        self.inner.ranges.lock().unwrap().clone()
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.inner.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Inner {
    fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let (mut path, mut from) = (String::new(), None);
        loop {
            let mut line = String::new();
            // A TLS greeting is no line.
            let mut bytes = Vec::new();
            reader.by_ref().take(8192).read_until(b'\n', &mut bytes)?;
            line.push_str(&String::from_utf8_lossy(&bytes));
            match line.trim_end() {
                "" => break,
                line if path.is_empty() => {
                    let Some(asked) = line.strip_prefix("GET ") else { return Ok(()) };
                    path = asked.split(' ').next().unwrap_or_default().to_owned();
                }
                line => {
                    if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                        from = range.trim_end_matches('-').parse().ok();
                    }
                }
            }
        }
        let mut out = stream;
        if path.contains("/manifests/") {
            return self.manifest(&mut out);
        }
        if path.ends_with(&sha256(&self.config)) {
            return plain(&mut out, &self.config);
        }
        if path.ends_with(&sha256(&self.layer)) {
            return self.layer(&mut out, from);
        }
        plain(&mut out, b"{}")
    }

    fn manifest(&self, out: &mut TcpStream) -> std::io::Result<()> {
        let spec = *self.spec.lock().unwrap();
        match spec {
            Spec::Right => plain(out, &self.manifest),
            Spec::Truncated => plain(out, &self.manifest[..self.manifest.len() / 2]),
            Spec::Endless => {
                out.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
                loop {
                    out.write_all(&[b' '; 65536])?;
                }
            }
            Spec::Silent => self.hang(out),
        }
    }

    fn layer(&self, out: &mut TcpStream, from: Option<usize>) -> std::io::Result<()> {
        let blob = *self.blob.lock().unwrap();
        let start = from.unwrap_or(0);
        self.ranges.lock().unwrap().push(start);
        let size = self.layer.len();
        let rest = &self.layer[start.min(size)..];
        let length = if blob == Blob::Long { rest.len() + 10 } else { rest.len() };
        if from.is_some() {
            write!(out, "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{size}\r\n", size - 1)?;
        } else {
            write!(out, "HTTP/1.1 200 OK\r\n")?;
        }
        write!(out, "Content-Length: {length}\r\nConnection: close\r\n\r\n")?;
        match blob {
            Blob::Whole => out.write_all(rest),
            Blob::Other => out.write_all(&vec![b'x'; rest.len()]),
            Blob::Long => out.write_all(&[rest, &[0; 10]].concat()),
            Blob::BreaksAlwaysAt(end) => out.write_all(&self.layer[start.min(end)..end]),
            Blob::BreaksEvery(most) => out.write_all(&rest[..most.min(rest.len())]),
            Blob::Stalls => self.hang(out),
            Blob::Trickles => {
                for byte in rest {
                    if self.over.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    out.write_all(&[*byte])?;
                    std::thread::sleep(Duration::from_millis(50));
                }
                Ok(())
            }
        }
    }

    /// Says nothing until the other side gives up.
    fn hang(&self, out: &mut TcpStream) -> std::io::Result<()> {
        let mut nothing = [0];
        out.read(&mut nothing).map(drop)
    }
}

fn plain(out: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", bytes.len())?;
    out.write_all(bytes)
}
