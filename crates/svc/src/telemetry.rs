//! Logs, metrics and traces of a process.
//!
//! Logs go to standard error, as lines for people on a terminal and as JSON otherwise. Metrics can be read at
//! `/metrics` of the admin listener. When an OTLP endpoint is set, metrics, traces and logs are pushed there as well.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus::{Registry, TextEncoder};
use tracing::{Dispatch, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, reload};

mod config;
mod push;

pub use config::{LogConfig, LogFormat, OtlpConfig, TelemetryConfig};

/// Which service reports.
#[derive(Debug, Clone)]
pub struct Service {
    name: &'static str,
    version: &'static str,
    instance: Option<String>,
}

impl Service {
    /// `service.name` and `service.version` of everything this process reports.
    #[must_use]
    pub const fn new(name: &'static str, version: &'static str) -> Self {
        Self { name, version, instance: None }
    }

    /// `service.instance.id`, such as the name of the pod.
    #[must_use]
    pub fn instance(mut self, id: impl Into<String>) -> Self {
        self.instance = Some(id.into());
        self
    }

    fn resource(&self) -> Resource {
        let mut attributes = vec![KeyValue::new("service.version", self.version)];
        attributes.extend(self.instance.clone().map(|id| KeyValue::new("service.instance.id", id)));
        Resource::builder().with_service_name(self.name).with_attributes(attributes).build()
    }
}

/// Telemetry cannot be set up. Each text says what to change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The log filter cannot be parsed.
    #[error("wrong value of `telemetry.log.filter`: {0}")]
    Filter(#[from] FilterError),
    /// The OTLP endpoint cannot be used.
    #[error("wrong value of `telemetry.otlp.endpoint`: {0}")]
    Endpoint(String),
    /// The metrics registry refuses the exporter.
    #[error("cannot set up metrics: {0}")]
    Metrics(String),
    /// Another subscriber took the logs of this process first.
    #[error("logging was already set up in this process")]
    AlreadySet,
}

/// Sets up the telemetry of this process: logs of all threads, the global meter, and OTLP push if configured.
///
/// # Errors
/// A setting is wrong, or logging was set up before.
///
/// # Panics
/// With an OTLP endpoint, outside a tokio runtime.
pub fn init(service: &Service, config: &TelemetryConfig) -> Result<Telemetry, TelemetryError> {
    let (telemetry, dispatch) = build(service, config, std::io::stderr, std::io::stderr().is_terminal())?;
    tracing::dispatcher::set_global_default(dispatch).map_err(|_| TelemetryError::AlreadySet)?;
    // The library logs that this was done, in words that say nothing to whoever starts a service.
    tracing::dispatcher::with_default(&Dispatch::none(), || {
        opentelemetry::global::set_meter_provider(telemetry.inner.meters.clone());
    });
    Ok(telemetry)
}

/// Builds telemetry without touching anything global: logs of whoever uses the dispatch go to `writer`.
///
/// # Errors
/// A setting is wrong.
///
/// # Panics
/// With an OTLP endpoint, outside a tokio runtime.
pub fn build<W>(
    service: &Service,
    config: &TelemetryConfig,
    writer: W,
    terminal: bool,
) -> Result<(Telemetry, Dispatch), TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let resource = service.resource();
    let registry = Registry::new();
    let reader = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .build()
        .map_err(|e| TelemetryError::Metrics(e.to_string()))?;
    let mut meters = SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(reader);
    let push = push::Push::new(&config.otlp, &resource)?;
    if let Some(reader) = push.metrics {
        meters = meters.with_reader(reader);
    }
    let meters = meters.build();

    let filter = parse_filter(&config.log.filter)?;
    let (filter_layer, handle) = reload::Layer::new(filter);
    let subscriber = tracing_subscriber::registry()
        .with(filter_layer)
        .with(log_layer(&config.log, writer, terminal))
        .with(push.traces.as_ref().map(|provider| {
            let tracer = provider.tracer_with_scope(InstrumentationScope::builder("sluice").build());
            tracing_opentelemetry::layer().with_tracer(tracer).with_filter(not_ours_to_push())
        }))
        .with(push.logs.as_ref().map(|p| OpenTelemetryTracingBridge::new(p).with_filter(not_ours_to_push())));
    let log = LogFilter { set: Arc::new(move |filter| handle.reload(filter).map_err(|e| e.to_string())) };
    let inner = Inner {
        registry,
        meters,
        traces: push.traces,
        logs: push.logs,
        log,
        filter: std::sync::Mutex::new(config.log.filter.clone()),
    };
    Ok((Telemetry { inner: Arc::new(inner), _dispatch: None }, Dispatch::new(subscriber)))
}

/// What the push itself says must not be pushed, or each push causes the next.
fn not_ours_to_push() -> Targets {
    let mut targets = Targets::new().with_default(LevelFilter::TRACE);
    for library in [
        "h2",
        "hyper",
        "hyper_util",
        "opentelemetry",
        "opentelemetry_sdk",
        "opentelemetry_otlp",
        "tonic",
        "tower",
    ] {
        targets = targets.with_target(library, LevelFilter::OFF);
    }
    targets
}

fn log_layer<S, W>(config: &LogConfig, writer: W, terminal: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    let json = match config.format {
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    if json {
        Box::new(layer.json().flatten_event(true).with_current_span(true).with_span_list(false))
    } else {
        Box::new(layer.with_ansi(terminal).with_target(false))
    }
}

/// Regular expressions in filters are off: the filter can be changed over HTTP.
fn parse_filter(text: &str) -> Result<EnvFilter, FilterError> {
    EnvFilter::builder().with_regex(false).parse(text).map_err(|e| FilterError(format!("{text:?}: {e}")))
}

/// A log filter that cannot be parsed.
#[derive(Debug, thiserror::Error)]
#[error("{0}; write a level (error, warn, info, debug, trace) or `info,sluice_edge=debug`")]
pub struct FilterError(String);

/// The telemetry of a process. Clones share it.
#[derive(Debug, Clone)]
pub struct Telemetry {
    inner: Arc<Inner>,
    /// Without logs of its own, the filter still needs somebody to hold it.
    _dispatch: Option<Dispatch>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    meters: SdkMeterProvider,
    traces: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
    log: LogFilter,
    filter: std::sync::Mutex<String>,
}

struct LogFilter {
    set: Arc<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

impl std::fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogFilter")
    }
}

impl Telemetry {
    /// Metrics alone, without logs or push: for tests and for services run inside another process.
    ///
    /// # Errors
    /// The metrics registry refuses the exporter.
    pub fn metrics_only(service: &Service) -> Result<Self, TelemetryError> {
        let (telemetry, dispatch) = build(service, &TelemetryConfig::default(), std::io::sink, false)?;
        Ok(Self { _dispatch: Some(dispatch), ..telemetry })
    }

    /// The meter to make instruments of. Make them once and keep them.
    #[must_use]
    pub fn meter(&self, name: &'static str) -> Meter {
        self.inner.meters.meter(name)
    }

    /// All metrics in the text format of Prometheus.
    ///
    /// # Errors
    /// A metric cannot be written.
    pub fn render_metrics(&self) -> Result<String, TelemetryError> {
        TextEncoder::new()
            .encode_to_string(&self.inner.registry.gather())
            .map_err(|e| TelemetryError::Metrics(e.to_string()))
    }

    /// The registry behind [`Telemetry::render_metrics`], for collectors that are not made of instruments.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// The log filter in force.
    #[must_use]
    pub fn log_filter(&self) -> String {
        self.filter_text().clone()
    }

    /// Changes the log filter at once.
    ///
    /// # Errors
    /// It cannot be parsed; the one in force stays.
    pub fn set_log_filter(&self, text: &str) -> Result<(), FilterError> {
        let filter = parse_filter(text.trim())?;
        // Held over both changes, so that the text shown is the one in force.
        let mut current = self.filter_text();
        (self.inner.log.set)(filter).map_err(FilterError)?;
        text.trim().clone_into(&mut current);
        Ok(())
    }

    fn filter_text(&self) -> std::sync::MutexGuard<'_, String> {
        self.inner.filter.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Pushes what is left and stops pushing, within `limit` for each kind. The last thing a process does.
    pub async fn shutdown(&self, limit: Duration) {
        let inner = Arc::clone(&self.inner);
        // The exporters block while this runtime carries their connections.
        let done = tokio::task::spawn_blocking(move || {
            let traces = inner.traces.as_ref().map(|p| p.shutdown_with_timeout(limit));
            let logs = inner.logs.as_ref().map(|p| p.shutdown_with_timeout(limit));
            let metrics = inner.meters.shutdown_with_timeout(limit);
            [traces, logs, Some(metrics)].into_iter().flatten().filter_map(Result::err).collect::<Vec<_>>()
        });
        match done.await {
            Ok(errors) => {
                errors.iter().for_each(|error| tracing::warn!(%error, "could not push the last telemetry"))
            }
            Err(error) => {
                tracing::warn!(error = crate::tasks::join_error(error), "could not push the last telemetry")
            }
        }
    }
}

#[cfg(test)]
mod tests;
