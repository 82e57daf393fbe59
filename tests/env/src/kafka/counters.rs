//! What brokers count.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Kafka;
use crate::ports::Port;

/// A tool of Kafka's starts Java and asks once.
const LIMIT: Duration = Duration::from_secs(60);

/// Options of a broker that can be asked, with the compiler that makes the fastest code.
pub(super) fn java_options(port: &Port) -> Vec<String> {
    let port = port.number();
    let management = [
        format!("port={port}"),
        format!("rmi.port={port}"),
        "host=127.0.0.1".to_owned(),
        "authenticate=false".to_owned(),
        "ssl=false".to_owned(),
    ];
    let management = management.map(|option| format!("-Dcom.sun.management.jmxremote.{option}"));
    let others = ["-Djava.rmi.server.hostname=127.0.0.1", "-XX:TieredStopAtLevel=4"];
    management.into_iter().chain(others.map(str::to_owned)).collect()
}

impl Kafka {
    /// Requests that all nodes have served so far, by Kafka's name of the request, those of brokers to each other included. Of a cluster
    /// that was started with [`measured`](super::KafkaOptions::measured).
    ///
    /// # Errors
    /// A node is gone, or counts nothing.
    pub fn requests(&self) -> Result<BTreeMap<String, f64>> {
        let mut all = BTreeMap::new();
        for node in &self.nodes {
            let port =
                node.counters.as_ref().context("this cluster counts nothing: start it with `measured`")?;
            let url = format!("service:jmx:rmi:///jndi/rmi://127.0.0.1:{}/jmxrmi", port.number());
            let name = "kafka.network:type=RequestMetrics,name=RequestsPerSec,*";
            let args = ["--jmx-url", &url, "--object-name", name, "--attributes", "Count"];
            let args = args.iter().chain(&["--one-time", "true", "--report-format", "properties"]);
            let args: Vec<_> = args.copied().collect();
            let text = Self::tool("org.apache.kafka.tools.JmxTool", &args, LIMIT)?;
            for (request, count) in text.lines().filter_map(counted) {
                *all.entry(request).or_insert(0.0) += count;
            }
        }
        Ok(all)
    }
}

/// `…,request=Produce,version=12:Count=34`; other lines are of other things.
fn counted(line: &str) -> Option<(String, f64)> {
    let (object, count) = line.rsplit_once(":Count=")?;
    let request = object.split([',', ':']).find_map(|part| part.strip_prefix("request="))?;
    Some((request.to_owned(), count.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_found_whatever_the_order_of_its_names() {
        let line =
            "kafka.network:type=RequestMetrics,name=RequestsPerSec,request=Produce,version=12:Count=34";
        assert_eq!(counted(line), Some(("Produce".to_owned(), 34.0)));
        assert_eq!(counted("time=1795680930123"), None);
    }
}
