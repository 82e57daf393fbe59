use std::io::Write;
use std::sync::Mutex;

use super::*;

/// A writer that keeps what was written.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn logs(format: LogFormat, terminal: bool) -> (Telemetry, Dispatch, Kept) {
    let kept = Kept::default();
    let writer = kept.clone();
    let config =
        TelemetryConfig { log: LogConfig { format, filter: "info".to_owned() }, otlp: OtlpConfig::default() };
    let service = Service::new("test", "0.0.0");
    let (telemetry, dispatch) = build(&service, &config, move || writer.clone(), terminal).unwrap();
    (telemetry, dispatch, kept)
}

#[test]
fn logs_are_json_unless_on_a_terminal() {
    let (_telemetry, dispatch, kept) = logs(LogFormat::Auto, false);
    tracing::dispatcher::with_default(&dispatch, || tracing::info!(address = "[::1]:9000", "listening"));
    let line: serde_json::Value = serde_json::from_str(&kept.take()).unwrap();
    assert_eq!(
        (&line["message"], &line["level"], &line["address"]),
        (&"listening".into(), &"INFO".into(), &"[::1]:9000".into())
    );

    let (_telemetry, dispatch, kept) = logs(LogFormat::Auto, true);
    tracing::dispatcher::with_default(&dispatch, || tracing::info!("listening"));
    let line = kept.take();
    assert!(line.contains("listening") && !line.starts_with('{'), "{line}");

    let (_telemetry, dispatch, kept) = logs(LogFormat::Json, true);
    tracing::dispatcher::with_default(&dispatch, || tracing::info!("listening"));
    assert!(kept.take().starts_with('{'));
}

#[test]
fn control_characters_in_a_value_cannot_forge_a_line() {
    for format in [LogFormat::Json, LogFormat::Human] {
        let (_telemetry, dispatch, kept) = logs(format, true);
        tracing::dispatcher::with_default(&dispatch, || {
            let name = "x\n2026-01-01T00:00:00Z ERROR forged\u{1b}[2J";
            tracing::info!(name, "seen");
        });
        let text = kept.take();
        assert_eq!(text.lines().count(), 1, "{format:?}: {text:?}");
        assert!(!text.contains("\u{1b}[2J"), "{format:?}: {text:?}");
    }
}

#[test]
fn filter_changes_while_running() {
    let (telemetry, dispatch, kept) = logs(LogFormat::Json, false);
    let log = || tracing::dispatcher::with_default(&dispatch, || tracing::debug!("detail"));
    log();
    assert_eq!(kept.take(), "");
    telemetry.set_log_filter("debug").unwrap();
    log();
    assert!(kept.take().contains("detail"));
    let error = telemetry.set_log_filter("sluice_edge=loud").unwrap_err().to_string();
    assert!(error.contains("loud"), "{error}");
    assert_eq!(telemetry.log_filter(), "debug");
    telemetry.set_log_filter("warn").unwrap();
    log();
    assert_eq!(kept.take(), "");
}

#[test]
fn wrong_settings_are_named() {
    let service = Service::new("test", "0.0.0");
    let refused =
        |config: &TelemetryConfig| build(&service, config, std::io::sink, false).unwrap_err().to_string();
    let mut config = TelemetryConfig::default();
    config.log.filter = "a=b=c".to_owned();
    let text = refused(&config);
    assert!(text.contains("`telemetry.log.filter`") && text.contains("a=b=c"), "{text}");

    let mut config = TelemetryConfig::default();
    for (endpoint, part) in [("https://collector:4317", "TLS"), ("collector:4317", "http://HOST:PORT")] {
        config.otlp.endpoint = Some(endpoint.to_owned());
        let text = refused(&config);
        assert!(text.contains("`telemetry.otlp.endpoint`") && text.contains(part), "{text}");
    }
    config.otlp.endpoint = Some("http://collector:4317".to_owned());
    config.otlp.trace_ratio = 2.0;
    let text = refused(&config);
    assert!(text.contains("trace_ratio"), "{text}");
}

#[test]
fn the_pushs_own_lines_are_not_pushed() {
    let targets = not_ours_to_push();
    for target in
        ["tonic::transport", "h2::client", "opentelemetry_otlp", "opentelemetry-otlp", "hyper_util::client"]
    {
        assert!(!targets.would_enable(target, &tracing::Level::ERROR), "{target}");
    }
    assert!(targets.would_enable("sluice_edge::shard", &tracing::Level::INFO));
}
