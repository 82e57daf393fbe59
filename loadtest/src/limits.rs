//! What the machine could do at best, in the same run as the load.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};
use usmp::crypto::{AwsLc, Provider};
use usmp::{DeviceId, Secret, SessionId, client_proof, server_proof, session_keys};

use crate::swarm::per_second;

const HANDSHAKES: u32 = 5_000;

pub(crate) async fn measure(kafka: Option<String>) -> Result<Value> {
    let handshake = tokio::task::spawn_blocking(handshake_seconds).await?;
    let producer = match kafka {
        None => Value::Null,
        Some(brokers) => {
            let bus = sluice_bus::BusConfig {
                brokers: vec![brokers.clone()],
                topic_prefix: "sluice-limits".to_owned(),
                ..sluice_bus::BusConfig::default()
            };
            let options =
                sluice_bus::ApplyOptions { partitions: 12, replication_factor: 1, exact_partitions: false };
            sluice_bus::apply(&bus, options).await?;
            let topic = "sluice-limits.telemetry".to_owned();
            let rate = tokio::task::spawn_blocking(move || {
                bare_producer(&brokers, &topic, 128, Duration::from_secs(5))
            });
            json!({ "records_per_second": rate.await?? })
        }
    };
    Ok(json!({
        "handshake": { "seconds_each": handshake, "per_second_and_core": (1.0 / handshake).round() },
        "bare_producer": producer,
    }))
}

/// Key pair, agreement, both proofs and the key schedule of one handshake, by the edge's provider.
#[expect(clippy::disallowed_methods, reason = "this measures time")]
pub(crate) fn handshake_seconds() -> f64 {
    let psk = [7; 32];
    let device = AwsLc::x25519_public(&Secret::new([9; 32]));
    let mut sink = 0_u8;
    let start = Instant::now();
    for number in 0..HANDSHAKES {
        let mut private = [3; 32];
        private[..4].copy_from_slice(&number.to_le_bytes());
        let private = Secret::new(private);
        let public = AwsLc::x25519_public(&private);
        let nonce = [5; 32];
        sink ^= client_proof::<AwsLc>(&psk, &nonce, DeviceId([2; 6]), &device, &public)[0];
        if let Ok(shared) = AwsLc::x25519(&private, &device) {
            sink ^= session_keys::<AwsLc>(&shared, &nonce, &device, &public).c2s.expose()[0];
        }
        sink ^= server_proof::<AwsLc>(&psk, &nonce, SessionId([1; 16]), &device, &public)[0];
    }
    std::hint::black_box(sink);
    start.elapsed().as_secs_f64() / f64::from(HANDSHAKES)
}

/// Records per second that one idempotent producer with `acks=all` gets acknowledged, without any of our code.
#[expect(clippy::disallowed_methods, reason = "this measures time")]
pub(crate) fn bare_producer(brokers: &str, topic: &str, size: usize, duration: Duration) -> Result<f64> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("compression.type", "lz4")
        .set("linger.ms", "2")
        .create()
        .context("cannot start the bare producer")?;
    let payload = vec![b'x'; size];
    let start = Instant::now();
    let mut sent = 0_u64;
    while start.elapsed() < duration {
        let key = format!("default/{:012x}", sent % 200);
        match producer.send(BaseRecord::to(topic).key(&key).payload(&payload)) {
            Ok(()) => sent += 1,
            Err(_) => {
                producer.poll(Duration::from_millis(1));
            }
        }
        if sent.is_multiple_of(1000) {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(30)).context("the bare producer cannot flush")?;
    Ok(per_second(sent, start.elapsed()))
}
