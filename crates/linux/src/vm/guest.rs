//! The way into a guest that runs the QEMU guest agent: used to ask for a shutdown where nothing in the guest listens to the power button.
//! <https://www.qemu.org/docs/master/interop/qemu-ga-ref.html>

use serde_json::{Value, json};
use std::{io, path::Path, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    time::timeout,
};

/// How long an agent may take to show that it is there.
const LIMIT: Duration = Duration::from_secs(2);

/// Asks the agent to shut the guest down. False if no agent answers.
pub(super) async fn shut_down(socket: &Path) -> bool {
    timeout(LIMIT, ask(socket)).await.is_ok_and(|answer| answer.is_ok())
}

async fn ask(socket: &Path) -> io::Result<()> {
    let (reader, mut writer) = super::socket::connect(socket).await?.into_split();
    let mut lines = BufReader::new(reader).lines();
    // The answer carries our number: what an earlier conversation left in the channel does not.
    let number = std::process::id();
    let hello = json!({"execute": "guest-sync", "arguments": {"id": number}});
    writer.write_all(format!("{hello}\n").as_bytes()).await?;
    loop {
        let line = lines.next_line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let answer: Value = serde_json::from_str(line.trim_start_matches('\u{ff}')).unwrap_or_default();
        if answer.get("return").and_then(Value::as_u64) == Some(u64::from(number)) {
            break;
        }
    }
    // Success has no answer: the guest is on its way down.
    writer.write_all(b"{\"execute\":\"guest-shutdown\",\"arguments\":{\"mode\":\"powerdown\"}}\n").await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn an_agent_is_asked_only_after_it_has_answered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent");
        assert!(!shut_down(&path).await);
        let listener = UnixListener::bind(&path).unwrap();
        let agent = async {
            let (reader, mut writer) = listener.accept().await.unwrap().0.into_split();
            let mut lines = BufReader::new(reader).lines();
            let hello: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
            let answer = json!({"return": hello["arguments"]["id"]});
            writer.write_all(format!("{{\"return\": 1}}\n{answer}\n").as_bytes()).await.unwrap();
            lines.next_line().await.unwrap().unwrap()
        };
        let (asked, request) = tokio::join!(shut_down(&path), agent);
        assert!(asked && request.contains("guest-shutdown"), "{request}");
    }
}
