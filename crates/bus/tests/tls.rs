//! A broker that takes nobody without TLS and a password.
#![cfg(all(feature = "backends", feature = "kafka-tls"))]

mod common;

use std::path::Path;

use common::{Rig, assert_complete_once_and_ordered, group_of, options};
use sluice_bus::{BusConfig, BusError, SaslMechanism, SecurityConfig, SecurityProtocol, apply, check};
use sluice_test_env::{Kafka, KafkaListener, KafkaOptions, TlsFiles};

const USER: &str = "sluice";
const PASSWORD: &str = "planted-broker-password";

fn secured(dir: &Path) -> (Kafka, TlsFiles) {
    let tls = TlsFiles::generate(dir).expect("certificates");
    let property = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let kafka = Kafka::start(KafkaOptions {
        properties: vec![
            property("ssl.keystore.location", &tls.keystore.display().to_string()),
            property("ssl.keystore.type", "PKCS12"),
            property("ssl.keystore.password", &tls.password),
            property("ssl.key.password", &tls.password),
            property("sasl.enabled.mechanisms", "SCRAM-SHA-512"),
            property(
                "listener.name.secure.scram-sha-512.sasl.jaas.config",
                "org.apache.kafka.common.security.scram.ScramLoginModule required;",
            ),
        ],
        listeners: vec![KafkaListener { name: "SECURE".into(), protocol: "SASL_SSL".into(), apart: false }],
        scram_users: vec![(USER.into(), PASSWORD.into())],
        ..KafkaOptions::default()
    });
    (kafka.expect("a Kafka"), tls)
}

fn config(kafka: &Kafka, ca: &Path, password_file: &Path) -> BusConfig {
    BusConfig {
        brokers: vec![kafka.listener("SECURE")],
        topic_prefix: "t".into(),
        security: SecurityConfig {
            protocol: SecurityProtocol::SaslSsl,
            mechanism: Some(SaslMechanism::ScramSha512),
            username: Some(USER.into()),
            password_file: Some(password_file.to_owned()),
            ca_file: Some(ca.to_owned()),
        },
        ..BusConfig::default()
    }
}

#[test]
fn records_pass_over_tls_with_the_password_and_not_without() {
    let dir = tempfile::tempdir().expect("a folder");
    let (kafka, tls) = secured(dir.path());
    let password = dir.path().join("password");
    std::fs::write(&password, format!("{PASSWORD}\n")).expect("written");
    let good = config(&kafka, &tls.ca_pem, &password);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(apply(&good, options(4, 1))).expect("topics over TLS");
    runtime.block_on(check(&good)).expect("all there");
    let rig = Rig::start(&good);
    rig.commit(group_of(0..500, 100));
    assert_complete_once_and_ordered(&rig.read("telemetry", 500), 0..500);

    let wrong = dir.path().join("wrong");
    std::fs::write(&wrong, "not-the-password").expect("written");
    let refused =
        runtime.block_on(check(&config(&kafka, &tls.ca_pem, &wrong))).expect_err("a wrong password");
    assert!(matches!(refused, BusError::Unreachable { .. }), "{refused}");
    let shown = format!("{refused} {refused:?} {good:?}");
    assert!(!shown.contains("planted") && !shown.contains("not-the-password"), "{shown}");

    let other = tempfile::tempdir().expect("a folder");
    let stranger = TlsFiles::generate(other.path()).expect("certificates");
    let refused = runtime.block_on(check(&config(&kafka, &stranger.ca_pem, &password)));
    assert!(
        matches!(refused, Err(BusError::Unreachable { .. })),
        "a certificate nobody vouches for: {refused:?}"
    );

    let missing = runtime.block_on(check(&config(&kafka, &tls.ca_pem, &dir.path().join("none"))));
    let told = missing.expect_err("no such file").to_string();
    assert!(told.contains("password_file"), "{told}");
}
