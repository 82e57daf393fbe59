//! Push over OTLP, read by a collector that speaks the real protocol.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::net::SocketAddr;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1 as logs;
use opentelemetry_proto::tonic::collector::metrics::v1 as metrics;
use opentelemetry_proto::tonic::collector::trace::v1 as traces;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{metric, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use sluice_svc::telemetry::{self, Service, TelemetryConfig};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tonic::{Request, Response, Status, async_trait};

#[derive(Debug)]
enum Push {
    Metrics(metrics::ExportMetricsServiceRequest),
    Traces(traces::ExportTraceServiceRequest),
    Logs(logs::ExportLogsServiceRequest),
}

#[derive(Clone)]
struct Collector(Sender<Push>);

impl Collector {
    async fn take(&self, push: Push) -> Result<(), Status> {
        self.0.send(push).await.map_err(|_| Status::unavailable("the test is over"))
    }
}

#[async_trait]
impl metrics::metrics_service_server::MetricsService for Collector {
    async fn export(
        &self,
        request: Request<metrics::ExportMetricsServiceRequest>,
    ) -> Result<Response<metrics::ExportMetricsServiceResponse>, Status> {
        self.take(Push::Metrics(request.into_inner())).await?;
        Ok(Response::new(metrics::ExportMetricsServiceResponse::default()))
    }
}

#[async_trait]
impl traces::trace_service_server::TraceService for Collector {
    async fn export(
        &self,
        request: Request<traces::ExportTraceServiceRequest>,
    ) -> Result<Response<traces::ExportTraceServiceResponse>, Status> {
        self.take(Push::Traces(request.into_inner())).await?;
        Ok(Response::new(traces::ExportTraceServiceResponse::default()))
    }
}

#[async_trait]
impl logs::logs_service_server::LogsService for Collector {
    async fn export(
        &self,
        request: Request<logs::ExportLogsServiceRequest>,
    ) -> Result<Response<logs::ExportLogsServiceResponse>, Status> {
        self.take(Push::Logs(request.into_inner())).await?;
        Ok(Response::new(logs::ExportLogsServiceResponse::default()))
    }
}

async fn collector() -> (SocketAddr, Receiver<Push>) {
    let (sender, receiver) = channel(64);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let collector = Collector(sender);
    let server = tonic::transport::Server::builder()
        .add_service(metrics::metrics_service_server::MetricsServiceServer::new(collector.clone()))
        .add_service(traces::trace_service_server::TraceServiceServer::new(collector.clone()))
        .add_service(logs::logs_service_server::LogsServiceServer::new(collector));
    tokio::spawn(server.serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener)));
    (address, receiver)
}

fn config(address: SocketAddr) -> TelemetryConfig {
    let mut config = TelemetryConfig::default();
    config.otlp.endpoint = Some(format!("http://{address}"));
    config.otlp.trace_ratio = 1.0;
    config
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    match attributes.iter().find(|a| a.key == key)?.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text),
        _ => None,
    }
}

fn assert_from_service(resource: Option<&Resource>) {
    let attributes = &resource.expect("a resource").attributes;
    assert_eq!(text(attributes, "service.name"), Some("sluice-test"), "{attributes:?}");
    assert_eq!(text(attributes, "service.instance.id"), Some("pod-1"), "{attributes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_traces_and_logs_reach_a_collector() {
    let (address, mut pushes) = collector().await;
    let service = Service::new("sluice-test", "1.2.3").instance("pod-1");
    let (telemetry, dispatch) = telemetry::build(&service, &config(address), std::io::sink, false).unwrap();
    telemetry.meter("test").u64_counter("sluice.test.records").build().add(7, &[]);
    tracing::dispatcher::with_default(&dispatch, || {
        let span = tracing::info_span!("handshake", device = "020000000001");
        span.in_scope(|| tracing::warn!(reason = "replay", "refused"));
    });
    telemetry.shutdown(Duration::from_secs(10)).await;

    let (mut counter, mut span, mut record) = (None, None, None);
    while let Ok(push) = pushes.try_recv() {
        match push {
            Push::Metrics(request) => {
                for of_resource in request.resource_metrics {
                    assert_from_service(of_resource.resource.as_ref());
                    let found = of_resource.scope_metrics.into_iter().flat_map(|s| s.metrics);
                    counter = counter.or_else(|| found.into_iter().find(|m| m.name == "sluice.test.records"));
                }
            }
            Push::Traces(request) => {
                for of_resource in request.resource_spans {
                    assert_from_service(of_resource.resource.as_ref());
                    span = span.or_else(|| of_resource.scope_spans.into_iter().flat_map(|s| s.spans).next());
                }
            }
            Push::Logs(request) => {
                for of_resource in request.resource_logs {
                    assert_from_service(of_resource.resource.as_ref());
                    record = record
                        .or_else(|| of_resource.scope_logs.into_iter().flat_map(|s| s.log_records).next());
                }
            }
        }
    }
    let Some(metric::Data::Sum(sum)) = counter.expect("the counter was pushed").data else {
        panic!("not a sum")
    };
    let value = sum.data_points.first().and_then(|p| p.value.as_ref());
    assert_eq!(value, Some(&number_data_point::Value::AsInt(7)));

    let span = span.expect("the span was pushed");
    assert_eq!(span.name, "handshake");
    assert_eq!(text(&span.attributes, "device"), Some("020000000001"), "{span:?}");

    let record = record.expect("the log record was pushed");
    let body = record.body.as_ref().and_then(|b| b.value.as_ref());
    assert_eq!(body, Some(&any_value::Value::StringValue("refused".to_owned())));
    assert_eq!(record.severity_text, "WARN");
    assert_eq!(text(&record.attributes, "reason"), Some("replay"), "{record:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_can_be_switched_off() {
    let (address, mut pushes) = collector().await;
    let mut config = config(address);
    (config.otlp.traces, config.otlp.logs) = (false, false);
    let service = Service::new("sluice-test", "1.2.3").instance("pod-1");
    let (telemetry, dispatch) = telemetry::build(&service, &config, std::io::sink, false).unwrap();
    telemetry.meter("test").u64_counter("sluice.test.records").build().add(1, &[]);
    tracing::dispatcher::with_default(&dispatch, || {
        tracing::info_span!("handshake").in_scope(|| tracing::warn!("refused"));
    });
    telemetry.shutdown(Duration::from_secs(10)).await;
    let mut kinds = Vec::new();
    while let Ok(push) = pushes.try_recv() {
        kinds.push(matches!(push, Push::Metrics(_)));
    }
    assert_eq!(kinds, [true], "metrics once, nothing else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_collector_stops_nothing() {
    // Bound and dropped: nobody listens there.
    let address = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut config = config(address);
    config.otlp.timeout = Duration::from_millis(500);
    let service = Service::new("sluice-test", "1.2.3");
    let (telemetry, dispatch) = telemetry::build(&service, &config, std::io::sink, false).unwrap();
    telemetry.meter("test").u64_counter("sluice.test.records").build().add(1, &[]);
    tracing::dispatcher::with_default(&dispatch, || tracing::warn!("refused"));
    let done = telemetry.shutdown(Duration::from_secs(2));
    tokio::time::timeout(Duration::from_secs(20), done).await.expect("shutdown ends although nobody listens");
    assert!(telemetry.render_metrics().is_ok());
}
