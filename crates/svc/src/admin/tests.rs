use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::telemetry::Service;

fn any_port() -> AdminConfig {
    AdminConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), token_file: None }
}

struct Running {
    address: SocketAddr,
    readiness: Readiness,
    telemetry: Telemetry,
    server: JoinHandle<std::io::Result<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn start() -> Running {
    let (readiness, telemetry) =
        (Readiness::new(), Telemetry::metrics_only(&Service::new("test", "0.0.0")).unwrap());
    let admin = Admin::bind(&any_port()).unwrap().with(telemetry.clone(), readiness.clone());
    let address = admin.local_addr();
    Running { address, readiness, telemetry, server: tokio::spawn(admin.serve()) }
}

/// One request on a connection of its own; the status and the whole answer.
async fn ask(address: SocketAddr, head: &str, body: &str) -> (u16, String) {
    let request = format!(
        "{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    send(address, &request).await
}

async fn send(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("an answer in time").unwrap();
    let status =
        answer.get(9..12).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status in {answer:?}"));
    (status, answer)
}

#[tokio::test]
async fn a_process_that_does_not_live_says_so_with_its_reason_and_answers_all_else() {
    let (readiness, telemetry) =
        (Readiness::new(), Telemetry::metrics_only(&Service::new("test", "0.0.0")).unwrap());
    let lives = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let judged = Arc::clone(&lives);
    let admin = Admin::bind(&any_port()).unwrap().with(telemetry, readiness);
    let admin = admin.alive_while(move || match judged.load(std::sync::atomic::Ordering::Relaxed) {
        true => Ok(()),
        false => Err("shard-1 stands".to_owned()),
    });
    let (address, server) = (admin.local_addr(), tokio::spawn(admin.serve()));
    assert_eq!(ask(address, "GET /livez", "").await.0, 200);
    lives.store(false, std::sync::atomic::Ordering::Relaxed);
    let (status, answer) = ask(address, "GET /livez", "").await;
    assert_eq!(status, 503);
    assert!(answer.ends_with("shard-1 stands\n"), "{answer}");
    assert_eq!(ask(address, "GET /readyz", "").await.0, 200);
    server.abort();
}

#[tokio::test]
async fn alive_before_it_is_ready() {
    let running = start();
    let latch = running.readiness.latch("listeners");
    let kafka = running.readiness.check("kafka");
    assert_eq!(ask(running.address, "GET /livez", "").await.0, 200);
    let (status, answer) = ask(running.address, "GET /readyz?verbose", "").await;
    assert_eq!(status, 503);
    assert!(
        answer.contains("[-] listeners starting") && answer.contains("[-] kafka not yet known"),
        "{answer}"
    );

    latch.release();
    kafka.failing("no broker answers");
    let (status, answer) = ask(running.address, "GET /readyz", "").await;
    assert_eq!(status, 200, "{answer}");
    assert!(!answer.contains("kafka"), "not asked to be verbose: {answer}");

    running.readiness.drain();
    let (status, answer) = ask(running.address, "GET /readyz?verbose", "").await;
    assert_eq!(status, 503);
    assert!(answer.contains("draining") && answer.contains("no broker answers"), "{answer}");
}

#[tokio::test]
async fn metrics_are_in_the_format_of_prometheus() {
    let running = start();
    let counter =
        running.telemetry.meter("test").u64_counter("sluice.test.records").with_unit("{record}").build();
    counter.add(3, &[opentelemetry::KeyValue::new("reason", "replay")]);
    let (status, answer) = ask(running.address, "GET /metrics", "").await;
    assert_eq!(status, 200);
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    let line = answer.lines().find(|l| l.starts_with("sluice_test_records_total{")).unwrap_or_default();
    assert!(line.contains("reason=\"replay\"") && line.ends_with(" 3"), "{answer}");
    assert!(answer.contains("service_name=\"test\""), "{answer}");
}

#[tokio::test]
async fn log_filter_changes_and_a_wrong_one_is_refused() {
    let running = start();
    let (status, answer) = ask(running.address, "PUT /log", "info,sluice_edge=debug\n").await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(running.telemetry.log_filter(), "info,sluice_edge=debug");
    let (status, answer) = ask(running.address, "PUT /log", "sluice_edge=loud").await;
    assert_eq!(status, 400, "{answer}");
    assert!(answer.contains("loud"), "{answer}");
    let (_, answer) = ask(running.address, "GET /log", "").await;
    assert!(answer.ends_with("\r\n\r\ninfo,sluice_edge=debug\n"), "the filter in force stays: {answer}");
}

#[tokio::test]
async fn oversized_body_is_refused() {
    let running = start();
    let (status, _) = ask(running.address, "PUT /log", &"x".repeat(MAX_BODY + 1)).await;
    assert_eq!(status, 413);
    assert_eq!(running.telemetry.log_filter(), "info");
}

#[tokio::test]
async fn browser_page_cannot_change_the_filter() {
    let running = start();
    let request = "PUT /log HTTP/1.1\r\nhost: x\r\nconnection: close\r\norigin: http://evil\r\ncontent-length: 5\r\n\r\ntrace";
    assert_eq!(send(running.address, request).await.0, 403);
    assert_eq!(running.telemetry.log_filter(), "info");
}

#[tokio::test]
async fn taken_port_names_the_setting_to_change() {
    let running = start();
    let error =
        Admin::bind(&AdminConfig { listen: running.address, token_file: None }).unwrap_err().to_string();
    for part in ["taken", "`admin.listen`", "SLUICE__ADMIN__LISTEN", &running.address.to_string()] {
        assert!(error.contains(part), "misses {part}: {error}");
    }
}

async fn guarded(token: Option<&str>, peer: &str, authorization: Option<&str>) -> StatusCode {
    use tower::ServiceExt as _;
    let guard = Guard { token: token.map(|t| Arc::new(Zeroizing::new(t.to_owned()))) };
    let routes = Router::new()
        .route("/log", get(|| async { "seen" }))
        .route_layer(middleware::from_fn_with_state(guard, check));
    let mut request = Request::builder().uri("/log").body(axum::body::Body::empty()).unwrap();
    request.extensions_mut().insert(ConnectInfo(Peer(peer.parse().unwrap())));
    if let Some(value) = authorization {
        request.headers_mut().insert(header::AUTHORIZATION, value.parse().unwrap());
    }
    routes.oneshot(request).await.unwrap().status()
}

#[tokio::test]
async fn other_machines_need_the_token() {
    const TOKEN: &str = "correct-horse-battery";
    let bearer = format!("Bearer {TOKEN}");
    let (near, mapped, far) = ("127.0.0.1:1", "[::ffff:127.0.0.1]:1", "192.0.2.1:1");
    assert_eq!(guarded(None, near, None).await, 200);
    assert_eq!(guarded(None, mapped, None).await, 200);
    assert_eq!(guarded(None, far, None).await, 403);
    assert_eq!(guarded(None, far, Some("Bearer ")).await, 403);
    assert_eq!(guarded(Some(TOKEN), far, None).await, 403);
    assert_eq!(guarded(Some(TOKEN), far, Some("Bearer correct-horse-batterz")).await, 403);
    assert_eq!(guarded(Some(TOKEN), far, Some("Bearer correct")).await, 403);
    assert_eq!(guarded(Some(TOKEN), far, Some(&bearer)).await, 200);
}

#[test]
fn token_file_is_checked_and_its_content_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let bind = || Admin::bind(&AdminConfig { token_file: Some(path.clone()), ..any_port() });
    assert!(bind().unwrap_err().to_string().contains("token"), "missing file");
    std::fs::write(&path, "short").unwrap();
    let error = bind().unwrap_err().to_string();
    assert!(error.contains("16 characters") && !error.contains("short\n"), "{error}");
    std::fs::write(&path, "two words but long enough").unwrap();
    assert!(bind().unwrap_err().to_string().contains("without spaces"));
    std::fs::write(&path, "correct-horse-battery\n").unwrap();
    let admin = bind().unwrap();
    assert!(!format!("{admin:?}").contains("horse"), "{admin:?}");
}
