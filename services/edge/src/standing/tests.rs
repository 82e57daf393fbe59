use std::io::Write;
use std::sync::{Mutex, PoisonError};

use sluice_svc::telemetry::{self, LogConfig, LogFormat, Service, TelemetryConfig};
use sluice_types::PodId;

use super::*;

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The lines that are logged meanwhile, at the usual filter.
fn logged(act: impl FnOnce()) -> Vec<String> {
    let kept = Kept::default();
    let writer = kept.clone();
    let log = LogConfig { format: LogFormat::Human, filter: "info".to_owned() };
    let config = TelemetryConfig { log, ..TelemetryConfig::default() };
    let (_telemetry, dispatch) =
        telemetry::build(&Service::new("test", "0"), &config, move || writer.clone(), false)
            .expect("telemetry");
    tracing::dispatcher::with_default(&dispatch, act);
    let text = kept.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    String::from_utf8(text).expect("text").lines().map(str::to_owned).collect()
}

/// One line of this level with these words.
fn assert_one(lines: &[String], level: &str, words: &str) {
    assert!(
        matches!(lines, [line] if line.contains(level) && line.contains(words)),
        "not one {level} with `{words}`: {lines:#?}"
    );
}

fn line(readiness: &Readiness, name: &str) -> String {
    let lines = readiness.report().lines;
    let found = lines.iter().find(|line| line.split(' ').nth(1) == Some(name));
    found.unwrap_or_else(|| panic!("no line {name} in {lines:?}")).clone()
}

#[test]
fn a_store_that_goes_away_is_told_once_and_its_return_as_well() {
    let readiness = Readiness::new();
    let mut sight = StoreSight { checks: Checks::new(&readiness), answered: None, trusted: None };
    assert_eq!(logged(|| sight.look(Ok(()))), [""; 0]);
    assert_eq!(line(&readiness, "store"), "[+] store ok");
    assert_one(&logged(|| sight.look(Err(StoreError::Timeout))), "WARN", "the store does not answer");
    assert!(line(&readiness, "store").starts_with("[-] store "));
    assert_eq!(line(&readiness, "store_trusted"), "[+] store_trusted ok", "it was when it was last heard");
    assert_eq!(logged(|| sight.look(Err(StoreError::Timeout))), [""; 0], "once");
    assert_one(&logged(|| sight.look(Ok(()))), "INFO", "the store answers again");
    assert_eq!(line(&readiness, "store"), "[+] store ok");
}

#[test]
fn a_store_that_was_emptied_answers_and_is_not_trusted_until_it_is_accepted() {
    let readiness = Readiness::new();
    let mut sight = StoreSight { checks: Checks::new(&readiness), answered: None, trusted: None };
    sight.look(Ok(()));
    for distrust in [StoreError::Replaced, StoreError::RolledBack] {
        // The store itself logs why.
        assert_eq!(logged(|| sight.look(Err(distrust))), [""; 0]);
        assert_eq!(line(&readiness, "store"), "[+] store ok");
        assert!(line(&readiness, "store_trusted").starts_with("[-] store_trusted "));
    }
    assert_one(&logged(|| sight.look(Err(StoreError::Timeout))), "WARN", "the store does not answer");
    assert!(line(&readiness, "store_trusted").starts_with("[-] store_trusted "), "silence is no acceptance");
    let back = logged(|| sight.look(Ok(())));
    assert!(back.iter().any(|line| line.contains("INFO") && line.contains("keys are given out")), "{back:?}");
    assert_eq!(line(&readiness, "store_trusted"), "[+] store_trusted ok");
}

fn kafka(readiness: &Readiness, answers: bool) -> KafkaSight {
    let bus = BusConfig { brokers: vec!["broker:9092".to_owned()], ..BusConfig::default() };
    KafkaSight::new(readiness.check("kafka"), &bus, answers)
}

#[test]
fn a_kafka_that_goes_away_is_told_once_and_its_return_as_well() {
    // One of many pods goes by what steps aside, a pod alone by its own question.
    for (away, back) in [
        ((Some(true), Asked::Whole), (Some(false), Asked::Silent)),
        ((None, Asked::Silent), (None, Asked::Whole)),
    ] {
        let readiness = Readiness::new();
        let mut sight = kafka(&readiness, true);
        assert_eq!(logged(|| sight.look(back.0, &back.1)), [""; 0]);
        assert_eq!(line(&readiness, "kafka"), "[+] kafka ok");
        assert_one(&logged(|| sight.look(away.0, &away.1)), "WARN", "nothing is acknowledged");
        assert!(line(&readiness, "kafka").starts_with("[-] kafka no answer from Kafka at broker:9092"));
        assert_eq!(logged(|| sight.look(away.0, &away.1)), [""; 0], "once");
        assert_one(&logged(|| sight.look(back.0, &back.1)), "INFO", "Kafka answers");
        assert_eq!(line(&readiness, "kafka"), "[+] kafka ok");
    }
}

#[test]
fn a_start_without_kafka_is_not_told_twice_and_its_first_answer_is() {
    let readiness = Readiness::new();
    let mut sight = kafka(&readiness, false);
    assert_eq!(logged(|| sight.look(None, &Asked::NotYet)), [""; 0]);
    assert_eq!(line(&readiness, "kafka"), "[-] kafka not yet known (does not decide)");
    assert_eq!(logged(|| sight.look(None, &Asked::Silent)), [""; 0]);
    assert_one(&logged(|| sight.look(None, &Asked::Whole)), "INFO", "Kafka answers");
}

#[test]
fn a_missing_topic_is_shown_by_name_while_kafka_answers() {
    let readiness = Readiness::new();
    let mut sight = kafka(&readiness, true);
    sight.look(Some(false), &Asked::Wrong("topic sluice.dlq does not exist".to_owned()));
    assert!(line(&readiness, "kafka").contains("topic sluice.dlq does not exist"));
}

#[tokio::test]
async fn the_line_follows_the_same_view_by_which_a_pod_steps_aside() {
    let readiness = Readiness::new();
    let sight = kafka(&readiness, true);
    let view = |kafka_is_lost| {
        let me = PodId::from_bytes([1; 16]);
        Arc::new(View { me, peers: Vec::new(), aside: None, others_serve_instead: false, kafka_is_lost })
    };
    let (views, seen) = watch::channel(view(false));
    // As the slow question still sees it.
    let (_asked, answers) = watch::channel(Asked::Whole);
    let watching = tokio::spawn(watch_kafka(sight, answers, Some(seen)));
    let shows = async |start: &str| {
        let shown = async {
            while !line(&readiness, "kafka").starts_with(start) {
                tokio::task::yield_now().await;
            }
        };
        let seen = tokio::time::timeout(Duration::from_secs(20), shown).await;
        assert!(seen.is_ok(), "not `{start}`: {}", line(&readiness, "kafka"));
    };
    shows("[+] kafka").await;
    views.send_replace(view(true));
    shows("[-] kafka no answer").await;
    views.send_replace(view(false));
    shows("[+] kafka").await;
    drop(views);
    watching.await.expect("no panic");
}
