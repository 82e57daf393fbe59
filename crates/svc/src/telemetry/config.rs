//! Settings of telemetry.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a process reports about itself, and where.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// Logs on standard error.
    pub log: LogConfig,
    /// Push of metrics, traces and logs to an OpenTelemetry collector. Off until an endpoint is set.
    pub otlp: OtlpConfig,
}

/// Logs on standard error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// How a log line looks.
    pub format: LogFormat,
    /// What is logged: a level, or levels per module such as `info,sluice_edge=debug`. Default `info`. Can be changed
    /// while running with `PUT /log` on the admin listener. `debug` and below cost throughput.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Auto, filter: "info".to_owned() }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

/// Push to an OpenTelemetry collector over gRPC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OtlpConfig {
    /// Address of the collector, such as `http://otel-collector:4317`. Nothing is pushed until it is set. Without TLS:
    /// use a collector on the same node or network.
    pub endpoint: Option<String>,
    /// Whether metrics are pushed. Default true. They can be read at `/metrics` in any case.
    pub metrics: bool,
    /// Whether traces are pushed. Default true.
    pub traces: bool,
    /// Whether logs are pushed. Default true. They are written to standard error in any case.
    pub logs: bool,
    /// How often metrics are pushed. Default `30s`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub metrics_interval: Duration,
    /// How long one push may take before it is given up. Default `5s`. What cannot be pushed is dropped; the data path
    /// never waits for it.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// Share of traces that are taken, from 0 to 1. Default 0.01. More costs throughput.
    pub trace_ratio: f64,
}

impl Default for OtlpConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            metrics: true,
            traces: true,
            logs: true,
            metrics_interval: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            trace_ratio: 0.01,
        }
    }
}
