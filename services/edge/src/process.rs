//! The edge as a process of its own: settings, telemetry, admin listener, back ends, then the edge itself, and all of it back.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::routing::post;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_bus::{BusConfig, BusError};
use sluice_store::{OpenError, Store, StoreConfig};
use sluice_svc::admin::{Admin, AdminConfig, AdminError};
use sluice_svc::config::{LoadError, Loaded, Sources};
use sluice_svc::readiness::Readiness;
use sluice_svc::shutdown::Shutdown;
use sluice_svc::tasks::{OnEnd, Tasks};
use sluice_svc::telemetry::{self, Service, TelemetryConfig, TelemetryError};
use sluice_types::DeviceId;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::config::EdgeConfig;
use crate::edge::{Deps, Edge, Ending, StartError};
use crate::gauges;
use crate::handle::EdgeHandle;
use crate::link::SendError;
use crate::parent::{Heart, Parent, ParentError};
use crate::pulse::{LOOK_EVERY, Pulse};
use crate::sockets::{BindError, bind_on, copies};
use crate::standing::{Asked, Checks, KafkaSight, ask_kafka, follow_standing, watch_kafka, watch_store};

/// All settings of the process `sluice-edge`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where devices connect and what they may use.
    pub edge: EdgeConfig,
    /// Where devices and keys are kept.
    pub store: StoreConfig,
    /// Where records go.
    pub bus: BusConfig,
    /// Where operators and probes connect.
    pub admin: AdminConfig,
    /// Logs, metrics and traces.
    pub telemetry: TelemetryConfig,
}

/// Why the process ends with an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The settings.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Logs, metrics or traces.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The admin listener.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The topics, or the broker that should have them.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The edge.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The address for devices.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The parent.
    #[error(transparent)]
    Parent(#[from] ParentError),
    /// Signals cannot be heard.
    #[error("signals cannot be heard: {0}")]
    Signals(#[source] std::io::Error),
    /// A part ended although nobody asked it to.
    #[error("a part of the edge ended by itself; the log says why")]
    Failed,
    /// Records were given up at the deadline.
    #[error(
        "the deadline of the drain came first: {unknown_records} records were given up, none of them acknowledged"
    )]
    Late {
        /// Records whose outcome nobody knows.
        unknown_records: usize,
    },
}

/// Runs an edge until the shutdown is requested, then drains it.
///
/// # Errors
///
/// [`StartError`]; nothing is left running then.
pub async fn run(config: EdgeConfig, deps: &Deps, shutdown: Shutdown) -> Result<Ending, StartError> {
    let edge = Edge::join(config, deps).await?;
    shutdown.requested().await;
    Ok(edge.drain().await)
}

/// The whole process, as `main` runs it; with a parent that keeps its UDP sockets, or without.
///
/// # Errors
///
/// [`RunError`], whose text says what to do.
pub async fn main(file: &Path, mut parent: Option<Parent>) -> Result<(), RunError> {
    let Loaded { mut config, origins } =
        sluice_svc::config::load::<Config>(&Sources::from_process(Some(file))?)?;
    config.edge.validate().map_err(|error| origins.invalid("edge", error.to_string()))?;
    let service = Service::new("sluice-edge", env!("CARGO_PKG_VERSION"));
    let telemetry = telemetry::init(&service, &config.telemetry)?;
    let shutdown = Shutdown::new();
    sluice_svc::shutdown::on_signals(&shutdown).map_err(RunError::Signals)?;
    let (mut kept, mut heart) = (Vec::new(), None);
    if let Some(parent) = &mut parent {
        parent.obey(&shutdown).map_err(ParentError::from)?;
        parent.report(&telemetry.meter("sluice.edge"));
        kept = parent.take_sockets();
        heart = Some(parent.heart(&config.edge.parent).map_err(ParentError::from)?);
    }
    // Probes must hear "not ready", and the parent beats, until the end: they outlive the drain.
    let over = Shutdown::new();
    let tasks = Tasks::new(over.clone());
    let pulse = Pulse::default();
    tasks.accompany("pulse", look(pulse.clone(), heart));

    let readiness = Readiness::new();
    let listening = readiness.latch("listeners");
    let checks = Checks::new(&readiness);
    gauges::export_checks(&telemetry.meter("sluice.edge"), &checks);
    let admin = Admin::bind(&config.admin)?.with(telemetry.clone(), readiness.clone());
    let judged = pulse.clone();
    let admin = admin.alive_while(move || judged.check().map_err(|stalled| stalled.to_string()));
    let store = Store::open(&config.store).await?;
    let mut kafka_answers = true;
    match sluice_bus::check(&config.bus).await {
        // It may be away for an hour, and a pod that waits for it serves nobody who could be told so. What is wrong with the topics, or
        // the settings, will not pass.
        Err(error @ BusError::Unreachable { .. }) => {
            kafka_answers = false;
            tracing::warn!(%error, "starting without Kafka: nothing is acknowledged until it answers");
        }
        checked => checked?,
    }
    let serving = Arc::new(OnceLock::new());
    let admin = if config.edge.dangerously_allow_admin_send {
        tracing::warn!("operators may send to any device (edge.dangerously_allow_admin_send)");
        admin.with_guarded(debug_routes(Arc::clone(&serving)))
    } else {
        admin
    };
    // Before it joins the others, which may wait for Kafka or for an operator: a probe that hears nothing would end the process.
    tasks.accompany("admin", admin.serve());
    let deps = Deps { store: store.clone(), bus: config.bus.clone(), meter: telemetry.meter("sluice.edge") };
    let sockets = bind_on(&mut config.edge, kept)?;
    let to_keep = copies(&sockets).map_err(StartError::from)?;
    let mut edge = tokio::select! {
        joined = Edge::join_on(config.edge.clone(), &deps, sockets, pulse) => joined?,
        // It may wait; nothing was served yet.
        () = shutdown.requested() => return Ok(()),
    };
    if let Some(parent) = &parent {
        parent.keep(&config.edge.parent, &to_keep)?;
    }
    drop(to_keep);
    let _first = serving.set(edge.handle());
    let view = edge.view();
    let sight = KafkaSight::new(checks.kafka.clone(), &config.bus, kafka_answers);
    let (asked, answers) = watch::channel(Asked::NotYet);
    let asking = ask_kafka(config.bus.clone(), checks.topics.clone(), view.is_none(), asked);
    tasks.spawn("topics", OnEnd::Log, until(over.clone(), asking));
    tasks.spawn("kafka", OnEnd::Log, until(over.clone(), watch_kafka(sight, answers, view.clone())));
    tasks.spawn("store", OnEnd::Log, until(over.clone(), watch_store(store, checks)));
    if let Some(view) = view {
        let condition = readiness.condition("slots");
        tasks.spawn("standing", OnEnd::Log, until(over.clone(), follow_standing(view, condition)));
    }
    tokio::select! {
        warm = edge.warm(WARM_WITHIN) => if !warm {
            tracing::warn!("Kafka has not answered all writers, or no slot is served here yet; ready all the same");
        },
        () = shutdown.requested() => {}
    }
    listening.release();
    tracing::info!("ready");

    let failed = tokio::select! {
        () = shutdown.requested() => false,
        () = edge.failure() => true,
    };
    readiness.drain();
    tracing::info!("draining");
    let ending = edge.drain().await;
    match ending {
        Ending::Complete => tracing::info!("drained: everything received was committed"),
        Ending::Late { unknown_records } => {
            tracing::warn!(unknown_records, "the deadline came before the drain was complete");
        }
    }
    tasks.drain(Duration::from_secs(2)).await;
    telemetry.shutdown(Duration::from_secs(2)).await;
    match ending {
        _ if failed => Err(RunError::Failed),
        Ending::Complete => Ok(()),
        Ending::Late { unknown_records } => Err(RunError::Late { unknown_records }),
    }
}

async fn until(over: Shutdown, task: impl Future<Output = ()>) {
    tokio::select! {
        () = task => {}
        () = over.requested() => {}
    }
}

/// Looks once a second whether all parts turn, and says so to the parent while they do.
async fn look(pulse: Pulse, heart: Option<Heart>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    // After a pause of the process all looks at once would find nobody turning.
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stands = false;
    loop {
        looks.tick().await;
        match pulse.look() {
            Ok(()) => {
                if std::mem::take(&mut stands) {
                    tracing::warn!("all parts turn again");
                }
                if let Some(heart) = &heart {
                    heart.beat();
                }
            }
            Err(stalled) if !stands => {
                stands = true;
                tracing::error!(%stalled, "a part hangs, and with it the process; a parent ends it soon");
            }
            Err(_) => {}
        }
    }
}

/// How long readiness waits for the writers' first answers from Kafka.
const WARM_WITHIN: Duration = Duration::from_secs(5);

/// `POST /debug/devices/{id}/send`: brings the body to a device, once there is an edge. Only behind
/// [`EdgeConfig::dangerously_allow_admin_send`].
fn debug_routes(serving: Arc<OnceLock<EdgeHandle>>) -> Router {
    Router::new().route("/debug/devices/{id}/send", post(send)).with_state(serving)
}

async fn send(
    State(serving): State<Arc<OnceLock<EdgeHandle>>>,
    UrlPath(id): UrlPath<String>,
    body: Bytes,
) -> (StatusCode, String) {
    let Some(edge) = serving.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "not serving yet: see /readyz\n".to_owned());
    };
    let device: DeviceId = match id.parse() {
        Ok(device) => device,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    match edge.send(device, &body).await {
        Ok(()) => (StatusCode::OK, "delivered\n".to_owned()),
        Err(error) => (status(error), format!("{error}\n")),
    }
}

const fn status(error: SendError) -> StatusCode {
    match error {
        SendError::NotConnected => StatusCode::NOT_FOUND,
        SendError::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
        SendError::Busy => StatusCode::TOO_MANY_REQUESTS,
        SendError::NotAcknowledged | SendError::SessionEnded => StatusCode::GATEWAY_TIMEOUT,
        SendError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    }
}
