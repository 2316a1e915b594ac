//! SFTP into a running container: a server of the protocol that works in the container's own file tree.
//!
//! Each session has a thread of its own that works on files as the container's user does: root of the container with its rights over files,
//! everybody else with no more than their own. Paths are resolved inside the tree as a process inside would; only what has storage is
//! read or written, never a device or a file of the kernel (`/proc`, `/sys`), where the host's rights could be felt.

mod packet;
mod server;

use super::{
    copy::{self, Tree},
    driver::Inner,
    exec,
    files::Files,
    idmap,
    rootfs::Root,
    users::{self, Identity},
};
use bytes::Bytes;
use std::{fs, io, path::Path, sync::Arc, time::Duration};
use tokio::sync::mpsc;
use yun_drivers::{DriverError, Result};
use yun_engine::session::{Input, Output, Session, SessionEnd, session};
use yun_types::Exit;

/// How often it is looked whether the container still runs: its files are held until then.
const LOOK: Duration = Duration::from_secs(1);

/// Opens a session.
pub(super) async fn open(inner: &Arc<Inner>, files: &Files, user: Option<String>) -> Result<Session> {
    let main = inner.main_process(files).await?;
    let tree = copy::tree(inner, files).await?;
    let (files, id) = (files.clone(), files.id);
    let identity = inner
        .blocking("look up a user of a container", move || {
            let config: serde_json::Value = serde_json::from_slice(&fs::read(files.crun_state().join("config.json"))?)?;
            let root = Root::open(Path::new(&format!("/proc/{}/root", main.pid)))?;
            Ok(exec::identity(&config["process"], &root, user.as_deref()).map(|found| with_home(found, &config, &root)))
        })
        .await??;
    let (person, end) = session();
    let (to_server, from_person) = mpsc::channel::<Bytes>(8);
    let SessionEnd { mut input, output } = end;
    let answers = output.clone();
    let work = move || {
        let served = act_as(&tree, &identity).and_then(|()| server::serve(&tree, &identity, from_person, &answers));
        let last = match served {
            Ok(()) => Output::Exit(Exit { code: 0, signal: None, out_of_memory: false, at: chrono::Utc::now() }),
            Err(e) => Output::Error(format!("the SFTP session with container {id} broke: {e}")),
        };
        // Who has gone needs no last word.
        let _ = answers.blocking_send(last);
    };
    std::thread::Builder::new()
        .name("yun-sftp".to_owned())
        .spawn(work)
        .map_err(|e| DriverError::io(format!("open an SFTP session with container {id}"), e))?;
    tokio::spawn(async move {
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                frame = input.recv() => match frame {
                    Some(Input::Stdin(bytes)) => if to_server.send(bytes).await.is_err() { return },
                    Some(Input::StdinClosed) | None => return,
                    Some(Input::Resize(_) | Input::Signal(_)) => {}
                },
                _ = look.tick() => if !main.is_alive() { return },
                () = output.closed() => return,
            }
        }
    });
    Ok(person)
}

/// The home directory as the user's own processes know it.
fn with_home(mut identity: Identity, config: &serde_json::Value, root: &Root) -> Identity {
    if identity.home.is_empty() {
        let env = config["process"]["env"].as_array().into_iter().flatten().filter_map(|text| text.as_str());
        let told = env.filter_map(|text| text.strip_prefix("HOME=")).next_back().map(str::to_owned);
        let known = || users::resolve(&identity.uid.to_string(), &root.text("/etc/passwd"), &root.text("/etc/group"));
        identity.home = told.or_else(|| known().ok().map(|user| user.home)).unwrap_or_default();
    }
    if !root.has_directory(Path::new(&identity.home)) || !identity.home.starts_with('/') {
        "/".clone_into(&mut identity.home);
    }
    identity
}

/// Makes this thread work on files as the user of the container.
fn act_as(tree: &Tree, identity: &Identity) -> io::Result<()> {
    let outside = |id: u32| tree.outside(id.into());
    let groups: Vec<u32> = identity.additional.iter().map(|id| outside(*id)).collect();
    idmap::become_user(outside(identity.uid), outside(identity.gid), &groups, identity.uid == 0)
}
