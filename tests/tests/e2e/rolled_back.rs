//! Redis is put back to an old copy while no pod runs: nobody is there who remembers what it had, but the ledger.

use std::process::Command;
use std::time::Duration;

use sluice_test_env::{Kafka, Redis};
use sluice_tests::{Credentials, Edge, EdgeOptions, Sdk, Transport, World, program, wait_for};

const WITHIN: Duration = Duration::from_secs(60);
const BOTH: [Transport; 2] = [Transport::Tcp, Transport::Udp];

fn refused(sdk: &Sdk, device: &Credentials, edge: &Edge) {
    for transport in BOTH {
        let device = sdk.device(device, transport, edge.address());
        let failed = device.start_connect(Duration::from_secs(3)).unwrap().failure();
        eprintln!("{transport:?}: {}", failed.expect("no session"));
    }
}

fn connects(sdk: &Sdk, device: &Credentials, edge: &Edge) {
    for transport in BOTH {
        let device = sdk.device(device, transport, edge.address());
        wait_for("a session", WITHIN, || device.connect().map_err(|error| format!("{error:#}"))).unwrap();
        device.send(b"through").unwrap();
    }
}

/// A command of an operator, who works on the store of this edge.
pub(crate) fn operator(edge: &Edge, command: &[&str]) {
    let mut sluice = Command::new(program("sluice").unwrap());
    let output = sluice.args(command).arg("--config").arg(edge.config()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

#[test]
fn a_redis_put_back_while_no_pod_ran_opens_no_session_until_an_operator_accepts_it() {
    let mut redis = Redis::start().unwrap();
    let world = World::on(&redis.url(), &Kafka::shared().unwrap().bootstrap()).unwrap();
    let options = EdgeOptions::default()
        .with("edge.cluster.enabled", true)
        .with("edge.cluster.listen", "127.0.0.1:0")
        .with("edge.cluster.advertise", "127.0.0.1:0");
    let mut pods = [Edge::start(&world, &options).unwrap(), Edge::start(&world, &options).unwrap()];
    let sdk = Sdk::start("1.2.2").unwrap();
    let [stolen, honest] = [world.device().unwrap(), world.device().unwrap()];
    for device in [&stolen, &honest] {
        connects(&sdk, device, &pods[0]);
    }

    // A backup, then a revocation that it does not have.
    redis.command(&["SAVE"]).unwrap();
    let backup = redis.dir().join("backup.rdb");
    std::fs::copy(redis.dir().join("dump.rdb"), &backup).unwrap();
    let revoked = world.revoke(stolen.id).unwrap();
    refused(&sdk, &stolen, &pods[0]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    wait_for("the ledger to know of the revocation", WITHIN, || {
        let found = runtime.block_on(sluice_bus::witnesses(world.bus_config())).map_err(|e| e.to_string())?;
        if found.heard.iter().any(|heard| heard.position >= revoked.0) {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .unwrap();

    for pod in &mut pods {
        assert!(pod.terminate(WITHIN).unwrap().success());
    }
    redis.kill();
    std::fs::copy(&backup, redis.dir().join("dump.rdb")).unwrap();
    redis.restart().unwrap();
    for pod in &mut pods {
        pod.restart().unwrap();
    }
    for pod in &pods {
        assert!(pod.metric("sluice_edge_store_distrusted_total", &[]).unwrap() >= 1.0, "it is counted");
        assert!(pod.log().unwrap().contains("run `sluice store accept`"), "it says what to do");
        for device in [&stolen, &honest] {
            refused(&sdk, device, pod);
        }
    }
    // Nor does a pod that starts now take it for a whole one.
    pods[1].restart().unwrap();
    refused(&sdk, &stolen, &pods[1]);

    // The operator revokes anew what must not connect, and accepts the rest.
    // A pod that was killed may still serve the device, until others have taken its slots over.
    operator(&pods[0], &["device", "revoke", &stolen.id.to_string(), "--reason", "stolen", "--wait", "60s"]);
    operator(&pods[0], &["store", "accept"]);
    for pod in &pods {
        connects(&sdk, &honest, pod);
        refused(&sdk, &stolen, pod);
    }
    // It is accepted for good.
    pods[0].restart().unwrap();
    connects(&sdk, &honest, &pods[0]);
}
