//! The connection to a server: the generated client with our certificate authority and token, and errors that a person can act on.

use anyhow::{Context as _, Result, anyhow};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use std::time::Duration;
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};
use yun_api::client::{Client, Error, types};
use yun_types::Name;

use super::{
    args::{Format, Global},
    context::{Context, Contexts},
};

/// Everything a command needs.
#[derive(Debug, Clone)]
pub(crate) struct Cloud {
    /// The generated client.
    pub(crate) client: Client,
    /// The project of this command.
    pub(crate) project: Name,
    /// How to print.
    pub(crate) output: Format,
    /// Print less.
    pub(crate) quiet: bool,
    /// The file of contexts; other files of this person lie beside it.
    pub(crate) config: std::path::PathBuf,
}

impl Cloud {
    /// Connects as the flags and the context say. No request is made yet.
    pub(crate) fn connect(global: &Global) -> Result<Self> {
        let context = Contexts::pick(global)?;
        Ok(Self {
            client: client(&context)?,
            project: context.project.clone().unwrap_or_else(Name::default_project),
            output: global.output,
            quiet: global.quiet,
            config: super::context::file(global)?,
        })
    }
}

/// The client for a context.
pub(crate) fn client(context: &Context) -> Result<Client> {
    install_crypto();
    let mut headers = HeaderMap::new();
    if let Some(token) = &context.token {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
            .context("the token holds characters that no token has")?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    let mut builder =
        reqwest::Client::builder().default_headers(headers).connect_timeout(Duration::from_secs(10)).tcp_nodelay(true);
    if let Some(pem) = &context.ca {
        let authority =
            reqwest::Certificate::from_pem(pem.as_bytes()).context("the context's certificate authority is not PEM")?;
        builder = builder.tls_certs_only([authority]);
    }
    let inner = builder.build().context("cannot set up TLS")?;
    Ok(Client::new_with_client(context.host.trim_end_matches('/'), inner))
}

/// Chooses the cryptography of TLS for the process. More calls change nothing.
pub(crate) fn install_crypto() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Exit codes, so that scripts can tell what went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitCode {
    /// Anything without a code of its own.
    Failure = 1,
    /// The object does not exist.
    NotFound = 3,
    /// The token is missing, wrong, or may not do this.
    Refused = 4,
    /// The object is in the way, or has changed meanwhile.
    Conflict = 5,
    /// The server does not answer.
    Unreachable = 6,
    /// It took too long.
    Timeout = 124,
}

/// An error with the exit code that it ends the program with.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The exit code.
    pub(crate) exit: ExitCode,
    /// What the server said.
    pub(crate) message: String,
    /// One word for programs.
    pub(crate) code: Option<String>,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refused {}

/// Turns the client's errors into sentences.
pub(crate) trait Explained<T> {
    /// The answer, or what went wrong.
    fn explained(self) -> Result<T>;
}

impl<T> Explained<T> for Result<progenitor_answer::ResponseValue<T>, Error<types::Error>> {
    fn explained(self) -> Result<T> {
        self.map(progenitor_answer::ResponseValue::into_inner).map_err(explain)
    }
}

/// The client's answer type, under a name of our own.
pub(crate) mod progenitor_answer {
    pub(crate) use yun_api::client::ResponseValue;
}

/// One of the client's errors as a sentence with an exit code.
pub(crate) fn explain(error: Error<types::Error>) -> anyhow::Error {
    match error {
        Error::ErrorResponse(answer) => {
            let status = answer.status();
            let body = answer.into_inner();
            refused(status.as_u16(), body.message, body.error_code)
        }
        Error::CommunicationError(e) => unreachable_server(&e),
        Error::UnexpectedResponse(answer) => {
            anyhow!(
                "the server answered {} in a form that this version of yun does not know: are both of the same version?",
                answer.status()
            )
        }
        Error::InvalidRequest(what) => anyhow!("the request could not be made: {what}"),
        other => anyhow!("{other}"),
    }
}

/// An answer of the server that is an error.
pub(crate) fn refused(status: u16, message: String, code: Option<String>) -> anyhow::Error {
    let exit = match status {
        404 => ExitCode::NotFound,
        401 | 403 => ExitCode::Refused,
        409 | 412 => ExitCode::Conflict,
        503 => ExitCode::Unreachable,
        _ => ExitCode::Failure,
    };
    Refused { exit, message, code }.into()
}

fn unreachable_server(e: &reqwest::Error) -> anyhow::Error {
    let host = e.url().map(|u| u.origin().ascii_serialization()).unwrap_or_default();
    let mut deepest: &dyn std::error::Error = e;
    while let Some(next) = deepest.source() {
        deepest = next;
    }
    let way_out = if e.is_connect() {
        "is it running (yun status, yun up), and is this the right context (yun config ls)?"
    } else if e.is_timeout() {
        "it took too long; try again"
    } else {
        "try again"
    };
    Refused {
        exit: ExitCode::Unreachable,
        message: format!("no answer from the server {host}: {deepest}; {way_out}"),
        code: None,
    }
    .into()
}

/// The WebSocket in an upgraded answer. A refusal arrives as an ordinary error.
pub(crate) async fn websocket(
    answer: Result<progenitor_answer::ResponseValue<reqwest::Upgraded>, Error<types::Error>>,
) -> Result<WebSocketStream<reqwest::Upgraded>> {
    let upgraded = answer.explained()?;
    Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await)
}
