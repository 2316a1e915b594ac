//! Sessions, logs and connections: what a person waits for is asked of the instance's node at once.

use crate::{core::Control, error::Refusal, instance::locate, rows::InstanceRow};
use bytes::Bytes;
use futures::stream::BoxStream;
use std::{io, sync::Arc};
use yun_api::node::{LinkError, NodeLink, Stream};
use yun_engine::session::{AttachRequest, ExecRequest, LogLine, LogRequest, Session};
use yun_plan::lifecycle;
use yun_store::Row;
use yun_types::{InstanceId, InstanceKind, Name, NameOrId};

/// Runs a process in an instance: in a VM, its guest agent does.
pub async fn exec(
    c: &Arc<Control>,
    project: &Name,
    instance: &NameOrId,
    request: ExecRequest,
) -> Result<Session, Refusal> {
    let row = locate(c, project, instance)?;
    if request.command.first().is_none_or(String::is_empty) {
        let name = &row.value.0.metadata.name;
        return Err(Refusal::bad_request(
            "Invalid",
            format!("no command was given: name one, as in yun exec {name} -- /bin/sh"),
        ));
    }
    let (link, id) = running(c, &row, "run a command in")?;
    link.exec(id, request).await.map_err(|e| failed(e, "run a command in", &row))
}

/// Opens a session of SFTP with a container.
pub async fn sftp(
    c: &Arc<Control>,
    project: &Name,
    instance: &NameOrId,
    user: Option<String>,
) -> Result<Session, Refusal> {
    let row = of_kind(c, project, instance, InstanceKind::Container, |name| {
        format!("instance {name} is a VM, whose own SSH server has SFTP: use scp or sftp over yun ssh {name}")
    })?;
    let (link, id) = running(c, &row, "open an SFTP session with")?;
    link.sftp(id, user).await.map_err(|e| failed(e, "open an SFTP session with", &row))
}

/// Connects to the streams of a container's main process.
pub async fn attach(
    c: &Arc<Control>,
    project: &Name,
    instance: &NameOrId,
    request: AttachRequest,
) -> Result<Session, Refusal> {
    let row = of_kind(c, project, instance, InstanceKind::Container, |name| {
        format!("instance {name} is a VM and has no main process: use yun console {name} or yun ssh {name}")
    })?;
    let operation = "attach to";
    let (link, id) = if request.wait { connected(c, &row, operation)? } else { running(c, &row, operation)? };
    link.attach(id, request).await.map_err(|e| failed(e, operation, &row))
}

/// Opens the serial console of a VM.
pub async fn console(c: &Arc<Control>, project: &Name, instance: &NameOrId) -> Result<Session, Refusal> {
    let row = of_kind(c, project, instance, InstanceKind::Vm, |name| {
        format!("instance {name} is a container and has no console: use yun exec {name} -- /bin/sh or yun logs {name}")
    })?;
    let (link, id) = running(c, &row, "open the console of")?;
    link.console(id).await.map_err(|e| failed(e, "open the console of", &row))
}

/// What an instance wrote. It need not run any more.
pub async fn logs(
    c: &Arc<Control>,
    project: &Name,
    instance: &NameOrId,
    request: LogRequest,
) -> Result<BoxStream<'static, io::Result<LogLine>>, Refusal> {
    let row = locate(c, project, instance)?;
    let (link, id) = connected(c, &row, "read the log of")?;
    link.logs(id, request).await.map_err(|e| failed(e, "read the log of", &row))
}

/// Files of an instance, as a tar stream. It need not run.
pub async fn read_files(
    c: &Arc<Control>,
    project: &Name,
    instance: &NameOrId,
    path: String,
) -> Result<BoxStream<'static, io::Result<Bytes>>, Refusal> {
    let row = locate(c, project, instance)?;
    check_path(&path)?;
    let (link, id) = connected(c, &row, "read files of")?;
    link.read_files(id, path).await.map_err(|e| failed(e, "read files of", &row))
}

/// Unpacks a tar stream in an instance. It need not run.
pub async fn write_files(
    c: &Arc<Control>,
    project: &Name,
    instance: &NameOrId,
    path: String,
    archive: BoxStream<'static, io::Result<Bytes>>,
) -> Result<(), Refusal> {
    let row = locate(c, project, instance)?;
    check_path(&path)?;
    let (link, id) = connected(c, &row, "write files of")?;
    link.write_files(id, path, archive).await.map_err(|e| failed(e, "write files of", &row))
}

fn check_path(path: &str) -> Result<(), Refusal> {
    if path.starts_with('/') && !path.contains('\0') {
        return Ok(());
    }
    Err(Refusal::bad_request(
        "Invalid",
        format!("path {path:?} is not absolute: write it from the root, as in /etc/hosts"),
    ))
}

/// A TCP connection to a port of an instance.
pub async fn dial(
    c: &Arc<Control>,
    project: &Name,
    instance: &NameOrId,
    port: u16,
) -> Result<Box<dyn Stream>, Refusal> {
    let row = locate(c, project, instance)?;
    if port == 0 {
        return Err(Refusal::bad_request("Invalid", "port 0 is no port: use 1 to 65535"));
    }
    let (link, id) = running(c, &row, "connect to")?;
    link.dial(id, port).await.map_err(|e| failed(e, &format!("connect to port {port} of"), &row))
}

fn of_kind(
    c: &Control,
    project: &Name,
    instance: &NameOrId,
    kind: InstanceKind,
    otherwise: impl FnOnce(&Name) -> String,
) -> Result<Arc<Row<InstanceRow>>, Refusal> {
    let row = locate(c, project, instance)?;
    if row.value.0.spec.kind == Some(kind) {
        return Ok(row);
    }
    Err(Refusal::conflict("WrongKind", otherwise(&row.value.0.metadata.name)))
}

type Link = (Arc<dyn NodeLink>, InstanceId);

/// The link to the node of an instance that runs.
fn running(c: &Control, row: &Row<InstanceRow>, operation: &str) -> Result<Link, Refusal> {
    lifecycle::reachable(&row.value.0, operation).map_err(super::refuse)?;
    connected(c, row, operation)
}

/// The link to an instance's node.
fn connected(c: &Control, row: &Row<InstanceRow>, operation: &str) -> Result<Link, Refusal> {
    let instance = &row.value.0;
    let name = &instance.metadata.name;
    let Some(node) = instance.status.node else {
        let message =
            format!("cannot {operation} instance {name}: it waits for a place; see yun explain instance {name}");
        return Err(Refusal::conflict("NotPlaced", message));
    };
    match c.live.link(node) {
        Some(link) => Ok((link, InstanceId(instance.metadata.id))),
        None => {
            let node = instance.status.node_name.as_ref().map_or("", |node| node.as_str());
            Err(Refusal::unavailable(format!(
                "cannot {operation} instance {name}: its node {node} is not connected now; try again in some seconds"
            )))
        }
    }
}

fn failed(error: LinkError, operation: &str, row: &Row<InstanceRow>) -> Refusal {
    let name = &row.value.0.metadata.name;
    link_failed(error, &format!("{operation} instance {name}"))
}

/// What a node answered, as the API's refusal.
pub(crate) fn link_failed(error: LinkError, operation: &str) -> Refusal {
    match error {
        LinkError::Unreachable(why) => Refusal::unavailable(format!(
            "cannot {operation}: its node cannot be reached now ({why}); try again in some seconds"
        )),
        LinkError::Refused(failure) => Refusal::conflict(failure.code, failure.message),
        LinkError::NotFound(why) => Refusal::new(dropshot::ErrorStatusCode::NOT_FOUND, "NotFound", why),
        LinkError::Cancelled => Refusal::conflict("Cancelled", format!("cannot {operation}: it was cancelled")),
    }
}
