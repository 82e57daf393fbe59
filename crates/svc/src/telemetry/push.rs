//! Push over OTLP.

use opentelemetry_otlp::{LogExporter, MetricExporter, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::PeriodicReader;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};

use super::{OtlpConfig, TelemetryError};

/// What pushes; nothing of it without an endpoint.
#[derive(Debug, Default)]
pub(super) struct Push {
    pub(super) metrics: Option<PeriodicReader<MetricExporter>>,
    pub(super) traces: Option<SdkTracerProvider>,
    pub(super) logs: Option<SdkLoggerProvider>,
}

impl Push {
    pub(super) fn new(config: &OtlpConfig, resource: &Resource) -> Result<Self, TelemetryError> {
        let Some(endpoint) = config.endpoint.as_deref() else { return Ok(Self::default()) };
        if endpoint.starts_with("https://") {
            return Err(TelemetryError::Endpoint(format!(
                "{endpoint}: TLS to the collector is not built in; use http:// to a collector nearby that speaks TLS onwards"
            )));
        }
        if !endpoint.starts_with("http://") {
            return Err(TelemetryError::Endpoint(format!("{endpoint}: expected http://HOST:PORT")));
        }
        if !(0.0..=1.0).contains(&config.trace_ratio) {
            return Err(TelemetryError::Endpoint(format!(
                "`telemetry.otlp.trace_ratio` is {}, expected 0 to 1",
                config.trace_ratio
            )));
        }
        let wrong =
            |e: opentelemetry_otlp::ExporterBuildError| TelemetryError::Endpoint(format!("{endpoint}: {e}"));
        let mut push = Self::default();
        if config.metrics {
            let exporter =
                MetricExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(config.timeout);
            let reader = PeriodicReader::builder(exporter.build().map_err(wrong)?);
            push.metrics = Some(reader.with_interval(config.metrics_interval).build());
        }
        if config.traces {
            let exporter =
                SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(config.timeout);
            let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.trace_ratio)));
            push.traces = Some(
                SdkTracerProvider::builder()
                    .with_resource(resource.clone())
                    .with_sampler(sampler)
                    .with_batch_exporter(exporter.build().map_err(wrong)?)
                    .build(),
            );
        }
        if config.logs {
            let exporter =
                LogExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(config.timeout);
            push.logs = Some(
                SdkLoggerProvider::builder()
                    .with_resource(resource.clone())
                    .with_batch_exporter(exporter.build().map_err(wrong)?)
                    .build(),
            );
        }
        Ok(push)
    }
}
