//! A control plane over a real store, behind real TLS, on a port that the kernel chose.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol};
use yun_api::{client, cloud::TokenCreate};
use yun_control::{
    Running,
    auth::Caller,
    core::{Control, ControlConfig},
    token,
};
use yun_engine::{
    clock::{Clock, SystemClock},
    tasks::Tasks,
};
use yun_store::{Options, SqliteStore, StoreError};
use yun_types::{CloudId, Name, Role, TokenSpec};

/// A running control plane. `directory` outlives it, for a second one over the same files.
pub(crate) struct World {
    pub(crate) control: Arc<Control>,
    pub(crate) admin: String,
    pub(crate) running: Running,
    pub(crate) directory: Arc<tempfile::TempDir>,
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::over(Arc::new(tempfile::tempdir().unwrap()), None).await
    }

    async fn over(directory: Arc<tempfile::TempDir>, admin: Option<String>) -> Self {
        let deadline = Instant::now() + Duration::from_secs(10);
        let state = directory.path().join("state");
        let store = loop {
            match SqliteStore::open(&state, Options::default()) {
                // The last handle of the one before was dropped, and its files are being closed.
                Err(StoreError::Locked { .. }) if Instant::now() < deadline => tokio::task::yield_now().await,
                opened => break opened.unwrap(),
            }
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let config = ControlConfig {
            cloud: CloudId(uuid::Uuid::from_u128(7)),
            directory: directory.path().to_owned(),
            listen: "127.0.0.1:0".parse().unwrap(),
            names: vec!["cloud.example.org".into()],
            network_pool: "10.90.0.0/16".parse().unwrap(),
            network_prefix: 24,
        };
        let control = Control::open(config, Arc::new(store), Arc::clone(&clock), Tasks::new(clock)).await.unwrap();
        let control = Arc::new(control);
        let first = yun_control::first_admin_token(&control).await.unwrap();
        let running = yun_control::start(Arc::clone(&control)).await.unwrap();
        Self { control, admin: first.or(admin).unwrap(), running, directory }
    }

    /// Stops it and starts another over the same files.
    pub(crate) async fn restart(self) -> Self {
        let Self { control, admin, running, directory } = self;
        running.shutdown().await;
        drop(control);
        Self::over(directory, Some(admin)).await
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.running.address.port())
    }

    /// An HTTP client that trusts this cloud and nobody else.
    pub(crate) fn http(&self, secret: &str) -> reqwest::Client {
        let ca = std::fs::read(yun_control::tls::authority_path(self.directory.path())).unwrap();
        let mut headers = reqwest::header::HeaderMap::new();
        if !secret.is_empty() {
            headers.insert("authorization", format!("Bearer {secret}").parse().unwrap());
        }
        let builder = reqwest::Client::builder().tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()]);
        builder.default_headers(headers).build().unwrap()
    }

    /// The generated client.
    pub(crate) fn client(&self, secret: &str) -> client::Client {
        client::Client::new_with_client(&self.url(""), self.http(secret))
    }

    pub(crate) fn admin(&self) -> client::Client {
        self.client(&self.admin)
    }

    /// A caller who may do everything, for calls past the door.
    pub(crate) fn root(&self) -> Caller {
        let row = self.control.tokens.cache.get(&["admin"]).unwrap();
        Caller {
            name: "admin".into(),
            token: yun_types::TokenId(row.value.0.token.metadata.id),
            cloud: Some(Role::Admin),
            projects: BTreeMap::new(),
            from: "test".into(),
            request_id: "test".into(),
            once: None,
        }
    }

    /// Makes a token, and gives its secret.
    pub(crate) async fn token(&self, name: &str, cloud: Option<Role>, projects: &[(&str, Role)]) -> String {
        let projects = projects.iter().map(|(project, role)| (self::name(project), *role)).collect();
        let body = TokenCreate { name: self::name(name), spec: TokenSpec { cloud, projects, expires: None } };
        token::ops::create(&self.control, &self.root(), body).await.unwrap().secret
    }

    pub(crate) async fn project(&self, name: &str) {
        let body = yun_api::cloud::ProjectCreate {
            name: self::name(name),
            labels: BTreeMap::new(),
            spec: yun_types::ProjectSpec::default(),
        };
        yun_control::project::ops::create(&self.control, &self.root(), body).await.unwrap();
    }
}

/// What an answer says in its body.
pub(crate) async fn refusal(response: reqwest::Response) -> (u16, String, String) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap_or_default();
    let body: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let part = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    (status, part("error_code"), part("message"))
}

/// A WebSocket over an upgraded connection.
pub(crate) async fn socket(upgraded: reqwest::Upgraded) -> WebSocketStream<reqwest::Upgraded> {
    WebSocketStream::from_raw_socket(upgraded, protocol::Role::Client, None).await
}
