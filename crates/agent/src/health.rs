//! Asking a container whether what it is for works, and what the answers mean. When it is asked is the owner's affair; what follows from
//! being unhealthy is decided in `decide`.

use crate::node::Node;
use std::{sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use yun_drivers::{InstanceDriver, InstanceHandle, Result};
use yun_engine::{
    clock::{after, within},
    session::{ExecRequest, Input, Output},
};
use yun_types::{HealthCheck, HealthProbe, HealthState, HealthStatus, Timestamp};

/// The most of an answer that is kept.
const MOST: usize = 1024;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) good: bool,
    pub(crate) output: String,
}

impl Answer {
    fn bad(output: impl Into<String>) -> Self {
        Self { good: false, output: output.into() }
    }
}

/// What an answer makes of the status. Pure.
pub(crate) fn judge(
    check: &HealthCheck,
    before: &HealthStatus,
    started: Option<Timestamp>,
    answer: Answer,
    now: Timestamp,
) -> HealthStatus {
    let within_start = before.state == HealthState::Starting
        && started.is_some_and(|at| now < after(at, check.start_period.duration()));
    let failures = match answer.good {
        true => 0,
        false if within_start => before.failures,
        false => before.failures.saturating_add(1),
    };
    let state = match (answer.good, before.state) {
        (true, _) => HealthState::Healthy,
        (false, _) if failures >= check.retries => HealthState::Unhealthy,
        (false, state) => state,
    };
    HealthStatus { state, failures, checked: Some(now), output: Some(answer.output) }
}

/// Everything that a question needs.
pub(crate) struct Asker {
    pub(crate) node: Arc<Node>,
    pub(crate) driver: Arc<dyn InstanceDriver>,
    pub(crate) handle: InstanceHandle,
    pub(crate) check: HealthCheck,
    /// The name for HTTP servers.
    pub(crate) host: String,
}

impl Asker {
    /// Waits for the moment, then asks. Whatever goes wrong is an answer, too.
    pub(crate) async fn ask(self, pause: Duration) -> Answer {
        let clock = self.node.clock.clone();
        clock.sleep(pause).await;
        let limit = self.check.timeout;
        let asked = async {
            match &self.check.probe {
                HealthProbe::Command { command } => self.command(command).await,
                HealthProbe::Http { port, path } => self.http(*port, path).await,
                HealthProbe::Tcp { port } => self.tcp(*port).await,
            }
        };
        match within(&*clock, limit.duration(), asked).await {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => Answer::bad(error.message),
            None => Answer::bad(format!("no answer within {limit}")),
        }
    }

    async fn command(&self, command: &[String]) -> Result<Answer> {
        let request = ExecRequest { command: command.to_vec(), ..ExecRequest::default() };
        let mut session = self.driver.exec(&self.handle, request).await?;
        // Gone already if it reads nothing. Dropping the whole session at a timeout ends the program.
        let _ = session.input.send(Input::StdinClosed).await;
        let mut said = Vec::new();
        while let Some(output) = session.output.recv().await {
            match output {
                Output::Stdout(bytes) | Output::Stderr(bytes) => {
                    said.extend_from_slice(&bytes);
                    // Its end says why.
                    said.drain(..said.len().saturating_sub(MOST));
                }
                Output::Exit(exit) => {
                    let text = String::from_utf8_lossy(&said).trim().to_owned();
                    let good = exit.success();
                    let output =
                        if good || !text.is_empty() { text } else { format!("it ended with code {}", exit.code) };
                    return Ok(Answer { good, output });
                }
                Output::Error(why) => return Ok(Answer::bad(why)),
            }
        }
        Ok(Answer::bad("the program ended without saying how"))
    }

    async fn tcp(&self, port: u16) -> Result<Answer> {
        self.node.drivers.network.dial(self.handle.id, port).await?;
        Ok(Answer { good: true, output: format!("port {port} accepts connections") })
    }

    async fn http(&self, port: u16, path: &str) -> Result<Answer> {
        let mut stream = self.node.drivers.network.dial(self.handle.id, port).await?;
        let host = &self.host;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: yun-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        let mut head = Vec::new();
        let talk = async {
            stream.write_all(request.as_bytes()).await?;
            let mut buffer = [0; 256];
            while head.len() < MOST && !head.contains(&b'\n') {
                match stream.read(&mut buffer).await? {
                    0 => break,
                    count => head.extend_from_slice(&buffer[..count]),
                }
            }
            std::io::Result::Ok(())
        };
        if let Err(e) = talk.await {
            return Ok(Answer::bad(format!("port {port} broke the connection: {e}")));
        }
        Ok(status_line(&head))
    }
}

/// Judges the first line of an HTTP answer (RFC 9112, section 4).
fn status_line(head: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(head);
    let line: String = text.lines().next().unwrap_or_default().trim().chars().take(200).collect();
    let code = line.strip_prefix("HTTP/").and_then(|rest| rest.split(' ').nth(1)?.parse::<u16>().ok());
    match code {
        Some(code) => Answer { good: (200..400).contains(&code), output: line },
        None if line.is_empty() => Answer::bad("the connection was closed without an answer"),
        None => Answer::bad(format!("this is no HTTP answer: {line}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yun_types::Span;

    fn at(second: u32) -> Timestamp {
        after(Timestamp::UNIX_EPOCH, Duration::from_secs(u64::from(second)))
    }

    fn check() -> HealthCheck {
        HealthCheck { start_period: Span::seconds(10), ..HealthCheck::new(HealthProbe::Tcp { port: 80 }) }
    }

    fn after_answers(answers: &[(u32, bool)]) -> HealthStatus {
        answers.iter().fold(HealthStatus::default(), |before, (second, good)| {
            let answer = Answer { good: *good, output: "said".into() };
            judge(&check(), &before, Some(at(0)), answer, at(*second))
        })
    }

    #[test]
    fn failures_count_after_the_start_period_and_in_a_row() {
        assert_eq!(after_answers(&[(1, false), (5, false), (9, false)]).state, HealthState::Starting);
        assert_eq!(after_answers(&[(9, false), (11, false), (12, false)]).state, HealthState::Starting);
        assert_eq!(after_answers(&[(11, false), (12, false), (13, false)]).state, HealthState::Unhealthy);
        assert_eq!(after_answers(&[(11, false), (12, false), (13, true), (14, false)]).state, HealthState::Healthy);
    }

    #[test]
    fn one_success_ends_the_start_and_every_illness() {
        assert_eq!(after_answers(&[(1, true)]).state, HealthState::Healthy);
        let ill = after_answers(&[(1, true), (2, false), (3, false), (4, false)]);
        assert_eq!((ill.state, ill.failures), (HealthState::Unhealthy, 3));
        let well = after_answers(&[(1, true), (2, false), (3, false), (4, false), (5, true)]);
        assert_eq!((well.state, well.failures, well.output.as_deref()), (HealthState::Healthy, 0, Some("said")));
    }

    #[test]
    fn http_answers_are_judged_by_their_first_line() {
        for (head, good) in [
            ("HTTP/1.1 200 OK\r\nServer: x", true),
            ("HTTP/1.0 302 Found\r\n", true),
            ("HTTP/1.1 404 Not Found\r\n", false),
            ("HTTP/1.1 500\r\n", false),
            ("SSH-2.0-OpenSSH\r\n", false),
            ("", false),
            ("HTTP/1.1 abc\r\n", false),
        ] {
            assert_eq!(status_line(head.as_bytes()).good, good, "{head}");
        }
        assert_eq!(status_line(b"HTTP/1.1 404 Not Found\r\n").output, "HTTP/1.1 404 Not Found");
        assert!(status_line(b"SSH-2.0\r\n").output.contains("no HTTP answer: SSH-2.0"));
    }
}
