//! The HTTP listener of operators and probes, apart from every listener of devices.
//!
//! | Path | Answer |
//! |---|---|
//! | `GET /livez` | 200 while the process can answer at all, and [`Admin::alive_while`] says that it lives, else 503 |
//! | `GET /readyz` | 200 when it may be sent work, else 503; `?verbose` adds a line per latch, condition and check |
//! | `GET /metrics` | metrics in the text format of Prometheus |
//! | `GET /log`, `PUT /log` | the log filter; from loopback, or with the token |

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use axum::extract::{ConnectInfo, DefaultBodyLimit, RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use zeroize::Zeroizing;

use crate::admin_listener::{Limited, Peer};
use crate::bind::BindError;
use crate::readiness::Readiness;
use crate::telemetry::Telemetry;

/// Longest body of a request, in bytes: a log filter, or a message to a device.
const MAX_BODY: usize = 4096;
/// Longest token, in bytes.
const MAX_TOKEN: u64 = 4096;

/// Where operators and probes connect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Address and port of the admin listener. Port 0 lets the system choose. Default `127.0.0.1:9090`. Probes from
    /// outside the machine need `0.0.0.0:9090`. Never expose it to the Internet.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// File with a token. With it, requests that change something are also taken from other machines, with the header
    /// `Authorization: Bearer TOKEN`. Without it, from this machine only. Default: none.
    pub token_file: Option<PathBuf>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9090)), token_file: None }
    }
}

/// The admin listener cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The token cannot be used.
    #[error("cannot use the file {path} of `admin.token_file`: {reason}", path = path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Whether the process lives, or why not.
type Alive = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// A bound admin listener.
pub struct Admin {
    listener: std::net::TcpListener,
    address: SocketAddr,
    guard: Guard,
    alive: Alive,
    routes: Router,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Admin {
    /// Binds the listener; it answers once it serves.
    ///
    /// # Errors
    /// The address cannot be bound (the text names the setting to change), or the token file cannot be used.
    pub fn bind(config: &AdminConfig) -> Result<Self, AdminError> {
        let guard = Guard { token: config.token_file.clone().map(read_token).transpose()?.map(Arc::new) };
        let failed = |source| BindError::new("admin.listen", config.listen, source);
        let listener = std::net::TcpListener::bind(config.listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, guard, alive: Arc::new(|| Ok(())), routes: Router::new() })
    }

    /// The address in use, with the port the system chose.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Adds the routes above.
    #[must_use]
    pub fn with(mut self, telemetry: Telemetry, readiness: Readiness) -> Self {
        let open = Router::new()
            .route("/readyz", get(ready).with_state(readiness))
            .route("/metrics", get(metrics).with_state(telemetry.clone()));
        self.routes = self.routes.merge(open);
        self.with_guarded(
            Router::new().route("/log", get(log_filter).put(set_log_filter)).with_state(telemetry),
        )
    }

    /// `/livez` answers 503 with the reason when this says that the process does not live, instead of 200 always. It is asked by
    /// whoever ends processes: what another process would not do better is no reason.
    #[must_use]
    pub fn alive_while(self, alive: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self { alive: Arc::new(alive), ..self }
    }

    /// Adds routes that only this machine, or who has the token, may use.
    #[must_use]
    pub fn with_guarded(mut self, routes: Router) -> Self {
        self.routes =
            self.routes.merge(routes.route_layer(middleware::from_fn_with_state(self.guard.clone(), check)));
        self
    }

    /// Answers until it is dropped: run it by [`crate::tasks::Tasks::accompany`], so that probes hear "not ready"
    /// during the drain.
    ///
    /// # Errors
    /// The listener cannot be used by the runtime.
    pub async fn serve(self) -> std::io::Result<()> {
        let listener = Limited::new(TcpListener::from_std(self.listener)?);
        tracing::info!(address = %self.address, "admin listener");
        let routes = self
            .routes
            .route("/livez", get(livez).with_state(self.alive))
            .layer(DefaultBodyLimit::max(MAX_BODY));
        let service: IntoMakeServiceWithConnectInfo<Router, Peer> =
            routes.into_make_service_with_connect_info();
        axum::serve(listener, service).await
    }
}

async fn livez(State(alive): State<Alive>) -> Response {
    match alive() {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn ready(State(readiness): State<Readiness>, RawQuery(query): RawQuery) -> Response {
    let report = readiness.report();
    let code = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if report.ready { "ready\n" } else { "not ready\n" };
    let verbose = query.is_some_and(|q| q.split('&').any(|p| p == "verbose" || p.starts_with("verbose=")));
    let lines = if verbose { report.lines.iter().map(|l| format!("{l}\n")).collect() } else { String::new() };
    (code, format!("{lines}{word}")).into_response()
}

async fn metrics(State(telemetry): State<Telemetry>) -> Response {
    match telemetry.render_metrics() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "cannot write the metrics");
            (StatusCode::INTERNAL_SERVER_ERROR, "cannot write the metrics\n").into_response()
        }
    }
}

async fn log_filter(State(telemetry): State<Telemetry>) -> String {
    telemetry.log_filter() + "\n"
}

async fn set_log_filter(State(telemetry): State<Telemetry>, body: Bytes) -> Response {
    let Ok(text) = std::str::from_utf8(&body) else {
        return (StatusCode::BAD_REQUEST, "the filter is not UTF-8\n").into_response();
    };
    match telemetry.set_log_filter(text) {
        Ok(()) => {
            tracing::info!(filter = text.trim(), "log filter changed");
            log_filter(State(telemetry)).await.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

#[derive(Clone)]
struct Guard {
    token: Option<Arc<Zeroizing<String>>>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("token", &self.token.as_ref().map(|_| crate::config::HIDDEN)).finish()
    }
}

async fn check(
    State(guard): State<Guard>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    // A page in a browser on this machine also comes from loopback; no client of ours sends an Origin.
    if request.headers().contains_key(header::ORIGIN) {
        return (StatusCode::FORBIDDEN, "not for browsers\n").into_response();
    }
    if peer.ip().to_canonical().is_loopback() || guard.accepts(request.headers()) {
        return next.run(request).await;
    }
    let text = match guard.token {
        Some(_) => "this needs the token of `admin.token_file`\n",
        None => "this is answered on the machine itself only; set `admin.token_file` to allow more\n",
    };
    (StatusCode::FORBIDDEN, text).into_response()
}

impl Guard {
    fn accepts(&self, headers: &HeaderMap) -> bool {
        let Some(expected) = &self.token else { return false };
        let given = headers.get(header::AUTHORIZATION).map(|v| v.as_bytes());
        given.and_then(|v| v.strip_prefix(b"Bearer ")).is_some_and(|v| v.ct_eq(expected.as_bytes()).into())
    }
}

fn read_token(path: PathBuf) -> Result<Zeroizing<String>, AdminError> {
    use std::io::Read as _;
    let refuse = |reason: String| AdminError::Token { path: path.clone(), reason };
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(&path).map_err(|e| refuse(e.to_string()))?;
    file.take(MAX_TOKEN + 1).read_to_string(&mut text).map_err(|e| refuse(e.to_string()))?;
    let token = Zeroizing::new(text.trim().to_owned());
    if token.len() < 16 {
        return Err(refuse("the token is shorter than 16 characters".to_owned()));
    }
    if text.len() > MAX_TOKEN as usize || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(refuse("a token is at most 4096 printable ASCII characters without spaces".to_owned()));
    }
    Ok(token)
}

#[cfg(test)]
mod tests;
