//! How a Sluice process starts, reports and stops.
//!
//! - [`config`]: defaults, file, environment and flags become one checked value; unknown keys are refused by name.
//! - [`telemetry`]: logs on standard error, metrics, and OTLP push when it is configured.
//! - [`admin`]: the HTTP listener of operators: `/livez`, `/readyz`, `/metrics`, `/log`.
//! - [`readiness`], [`shutdown`], [`tasks`]: when the process may be sent work, when it must stop, and what runs in
//!   between.
//!
//! It knows nothing of devices, Redis or Kafka; services put these together in their `run(config, shutdown)`:
//!
//! ```no_run
//! # #[derive(Debug, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
//! # #[serde(default, deny_unknown_fields)]
//! # struct Config { telemetry: sluice_svc::telemetry::TelemetryConfig, admin: sluice_svc::admin::AdminConfig }
//! use sluice_svc::{admin, config, readiness::Readiness, shutdown, tasks, telemetry};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let config = config::load::<Config>(&config::Sources::from_process(None)?)?.config;
//! let service = telemetry::Service::new("sluice-example", env!("CARGO_PKG_VERSION"));
//! let telemetry = telemetry::init(&service, &config.telemetry)?;
//! let shutdown = shutdown::Shutdown::new();
//! shutdown::on_signals(&shutdown)?;
//! let readiness = Readiness::new();
//! let listening = readiness.latch("listeners");
//!
//! let tasks = tasks::Tasks::new(shutdown.clone());
//! let admin = admin::Admin::bind(&config.admin)?.with(telemetry.clone(), readiness.clone());
//! tasks.accompany("admin", admin.serve()); // answers during the drain as well
//! // … bind and spawn what serves devices, then:
//! listening.release();
//!
//! shutdown.requested().await;
//! readiness.drain();
//! tasks.drain(std::time::Duration::from_secs(20)).await;
//! telemetry.shutdown(std::time::Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```
#![warn(missing_docs)]

pub mod admin;
mod admin_listener;
pub mod bind;
pub mod config;
pub mod readiness;
pub mod shutdown;
pub mod tasks;
pub mod telemetry;
