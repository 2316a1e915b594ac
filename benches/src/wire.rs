//! Clients that cost little: kept connections that send one prepared request after another. What is measured with them is the server, not the
//! library that a program would use.

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::net::TcpStream;

/// Where a server is, and what it wants to see.
#[derive(Clone)]
pub(crate) struct Server {
    address: String,
    token: String,
    tls: tokio_rustls::TlsConnector,
}

impl Server {
    /// From the words of a context of the command line.
    pub(crate) fn new(host: &str, ca: &str, token: &str) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(certificate.context("the context's CA is not a certificate")?)?;
        }
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Self {
            address: host.strip_prefix("https://").context("a server without TLS")?.trim_end_matches('/').to_owned(),
            token: token.to_owned(),
            tls: Arc::new(config).into(),
        })
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        let stream = self.tls.connect(ServerName::try_from(host.to_owned())?, stream).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn get(&self, connection: &mut SendRequest<Empty<Bytes>>, path: &str) -> Result<usize> {
        let request = Request::get(path)
            .header("host", &self.address)
            .header("authorization", format!("Bearer {}", self.token))
            .body(Empty::new())?;
        connection.ready().await?;
        let answer = connection.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        anyhow::ensure!(status.is_success(), "{path} was answered {status}: {}", String::from_utf8_lossy(&body));
        Ok(body.len())
    }
}

/// A closed loop of clients with a connection each; the times of all requests. `path` says what a turn asks for.
pub(crate) async fn load(
    server: &Server,
    clients: usize,
    pause: Duration,
    time: Duration,
    path: fn(usize) -> String,
) -> Result<Vec<Duration>> {
    let until = Instant::now() + time;
    let loops = (0..clients).map(|client| {
        let server = server.clone();
        tokio::spawn(async move {
            let mut connection = server.connect().await?;
            let mut samples = Vec::new();
            let mut turn = client;
            // The first request of a connection is not one of a client that has worked for a while.
            server.get(&mut connection, &path(turn)).await?;
            while Instant::now() < until {
                let begun = Instant::now();
                server.get(&mut connection, &path(turn)).await?;
                samples.push(begun.elapsed());
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                turn += clients;
            }
            anyhow::Ok(samples)
        })
    });
    let mut all = Vec::new();
    for one in loops.collect::<Vec<_>>() {
        all.extend(one.await??);
    }
    Ok(all)
}
