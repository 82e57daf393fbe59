//! What pods say on their admin listeners.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// More is no page of metrics.
const LONGEST: u64 = 8 << 20;

/// Whether the pod is ready.
pub(crate) fn ready(address: SocketAddr) -> bool {
    ask(address, "/readyz").is_ok_and(|(status, _)| status == 200)
}

/// Every series with its value, by its name with its labels.
///
/// # Errors
/// The listener does not answer with its metrics.
pub(crate) fn metrics(address: SocketAddr) -> Result<Series> {
    let (status, text) = ask(address, "/metrics")?;
    ensure!(status == 200, "metrics of {address}: status {status}");
    Ok(Series::parse(&text))
}

/// A page of metrics.
#[derive(Debug, Default)]
pub(crate) struct Series(BTreeMap<String, f64>);

impl Series {
    fn parse(text: &str) -> Self {
        let series = text.lines().filter(|line| !line.starts_with('#'));
        Self(
            series
                .filter_map(|line| {
                    let (name, value) = line.rsplit_once(' ')?;
                    Some((name.to_owned(), value.parse().ok()?))
                })
                .collect(),
        )
    }

    /// The sum of a metric over the series that have this text among their labels.
    pub(crate) fn sum(&self, name: &str, label: &str) -> f64 {
        let of_name = self.0.iter().filter(|(series, _)| {
            series.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        });
        of_name.filter(|(series, _)| series.contains(label)).map(|(_, value)| value).sum()
    }
}

fn ask(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).context("no HTTP status")?;
    // A chunked body stays with its chunk marks: those are no series.
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_name_and_label() {
        let text =
            "# HELP a x\na_total{t=\"udp\"} 3\na_total{t=\"tcp\"} 4\na_total_more{t=\"udp\"} 9\nb 1\nodd\n";
        let series = Series::parse(text);
        assert_eq!(series.sum("a_total", ""), 7.0);
        assert_eq!(series.sum("a_total", "t=\"udp\""), 3.0);
        assert_eq!((series.sum("b", ""), series.sum("none", "")), (1.0, 0.0));
    }
}
