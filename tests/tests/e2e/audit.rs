//! `sluice audit topic` over what an edge wrote, and over faults that were planted.

use std::process::{Command, Output};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::Value;
use sluice_bus::Topic;
use sluice_tests::expect::java_partition;
use sluice_tests::{Edge, EdgeOptions, Sdk, StreamPlan, Streamed, Transport, World, program};

const WITHIN: Duration = Duration::from_secs(20);

fn audit(world: &World, args: &[&str]) -> Output {
    let topic = world.topic_name(Topic::Telemetry);
    let mut command = Command::new(program("sluice").unwrap());
    command.args(["audit", "topic", "--topic", &topic, "--brokers", &world.brokers()]).args(args);
    command.env_remove("SLUICE_DATA_DIR").output().unwrap()
}

fn json(world: &World, args: &[&str], code: i32) -> Value {
    let output = audit(world, &[&["-o", "json"], args].concat());
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A producer of the topic that is not ours.
struct Stranger {
    producer: BaseProducer,
    topic: String,
}

impl Stranger {
    fn new(world: &World) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", world.brokers());
        config.set("transactional.id", sluice_test_env::unique("stranger"));
        config.set("partitioner", "murmur2_random");
        let producer: BaseProducer = config.create().unwrap();
        producer.init_transactions(WITHIN).unwrap();
        Self { producer, topic: world.topic_name(Topic::Telemetry) }
    }

    /// Writes records (device, `ce_id` behind the session, key's device) in one transaction.
    fn write(&self, session: &str, records: &[(&str, &str, &str)], commit: bool) {
        self.producer.begin_transaction().unwrap();
        for (device, name, key) in records {
            let id = format!("{session}.{name}");
            let source = format!("//sluice/tenants/default/devices/{device}");
            let sequence = name.rsplit('.').next().unwrap();
            let headers = [
                ("ce_specversion", "1.0"),
                ("ce_id", &id),
                ("ce_source", &source),
                ("ce_type", "sluice.telemetry.raw.v1"),
                ("ce_sequence", sequence),
            ];
            let headers = headers.into_iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header { key, value: Some(value) })
            });
            let key = format!("default/{key}");
            let record = BaseRecord::to(&self.topic).key(&key).payload("x").headers(headers);
            self.producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        self.producer.flush(WITHIN).unwrap();
        if commit {
            self.producer.commit_transaction(WITHIN).unwrap();
        } else {
            self.producer.abort_transaction(WITHIN).unwrap();
        }
    }
}

#[test]
fn what_an_edge_writes_is_clean() {
    let world = World::shared().unwrap();
    let edge = Edge::start(&world, &EdgeOptions::default()).unwrap();
    let sdk = Sdk::start("1.2.2").unwrap();
    let fleet = world.devices(4).unwrap();
    let transports = [Transport::Tcp, Transport::Udp].into_iter().cycle();
    let devices = fleet.iter().zip(transports);
    let devices: Vec<_> =
        devices.map(|(one, transport)| sdk.device(one, transport, edge.address())).collect();
    let plan = StreamPlan { count: 20, size: 700, ..StreamPlan::default() };
    let running: Vec<_> = devices.iter().map(|device| device.start_stream(&plan).unwrap()).collect();
    for stream in running {
        let streamed = Streamed::try_from(stream.wait().unwrap()).unwrap();
        assert_eq!(streamed.acked.len(), 20, "{streamed:?}");
    }
    // Over TCP, a message that was sent is not there yet.
    world.reader(Topic::Telemetry).unwrap().read_exactly(80, WITHIN).unwrap();
    let found = json(&world, &[], 0);
    assert_eq!((&found["committed"], &found["sessions"]), (&80.into(), &4.into()), "{found}");
    assert_eq!((&found["version"], &found["clean"]), (&1.into(), &true.into()), "{found}");
    assert_eq!(found["complete"], true, "{found}");
    // Who remembers too little says so.
    let found = json(&world, &["--max-sessions", "1"], 3);
    assert_eq!((&found["clean"], &found["complete"]), (&true.into(), &false.into()), "{found}");
}

#[test]
fn planted_faults_are_found_and_only_those_of_committed_transactions() {
    const DEVICE: &str = "02a1b2c3d4e5";
    let world = World::shared().unwrap();
    let stranger = Stranger::new(&world);
    // One whose records lie in the same partition.
    let partition = |device: &str| java_partition(format!("default/{device}").as_bytes(), 4);
    let other = (0..255u8).map(|last| format!("02a1b2c3d3{last:02x}"));
    let other = &other.into_iter().find(|other| partition(other) == partition(DEVICE)).unwrap();
    let (one, two) = ("0a".repeat(16), "0b".repeat(16));
    let well = [(DEVICE, "0.0", DEVICE), (DEVICE, "0.3", DEVICE), (DEVICE, "1.0", DEVICE)];
    stranger.write(&one, &well, true);
    // What a zombie wrote and could not commit is no double.
    stranger.write(&one, &well, false);
    let found = json(&world, &[], 0);
    assert_eq!((&found["records"], &found["committed"]), (&3.into(), &3.into()), "{found}");
    let found = json(&world, &["--isolation", "read_uncommitted"], 1);
    assert_eq!((&found["records"], &found["doubled"]), (&6.into(), &1.into()), "{found}");
    let ends: Vec<_> =
        found["partitions"].as_array().unwrap().iter().map(|part| part["to"].to_string()).collect();

    stranger.write(
        &two,
        &[
            (DEVICE, "0.4", DEVICE),
            (DEVICE, "0.4", DEVICE),
            (DEVICE, "0.9", DEVICE),
            (DEVICE, "0.7", DEVICE),
            (other, "0.11", other),
            (other, "0.12", DEVICE),
            (DEVICE, "x.13", DEVICE),
        ],
        true,
    );
    for args in [&[][..], &["--from", &ends.join(",")]] {
        let found = json(&world, args, 1);
        for (name, count) in
            [("doubled", 1), ("order_breaks", 1), ("far_behind", 0), ("wrong_device", 2), ("malformed", 1)]
        {
            assert_eq!(found[name], count, "{name} {args:?}: {found}");
        }
        assert_eq!(found["clean"], false);
    }
    let text = String::from_utf8(audit(&world, &[]).stdout).unwrap();
    assert!(text.contains(&format!("{two}.0.4  this id was there before")), "{text}");
    assert!(text.contains("sequence 7 behind 9"), "{text}");

    let output = audit(&world, &["--from", "0"]);
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{complaint}");
    assert!(complaint.contains("4 partitions, 1 offsets"), "{complaint}");
}
