//! Latencies as they are reported.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Collects durations from 1 µs to 10 min with three digits.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in order"))
    }
}

impl Latencies {
    pub(crate) fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros.max(1));
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    pub(crate) fn clear(&mut self) {
        self.0.reset();
    }

    /// The value that so much of what was recorded does not exceed.
    pub(crate) fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(quantile))
    }

    pub(crate) fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }

    /// In milliseconds.
    pub(crate) fn report(&self) -> Value {
        let at = |quantile: f64| millis(self.0.value_at_quantile(quantile));
        json!({
            "count": self.0.len(),
            "p50_ms": at(0.5),
            "p90_ms": at(0.9),
            "p99_ms": at(0.99),
            "max_ms": millis(self.0.max()),
        })
    }
}

/// `None` in the report when there is nothing to compare with.
pub(crate) fn ratio(value: f64, bound: f64) -> Option<f64> {
    (bound > 0.0).then(|| (value / bound * 1000.0).round() / 1000.0)
}

fn millis(micros: u64) -> f64 {
    f64::from(u32::try_from(micros).unwrap_or(u32::MAX)) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut latencies = Latencies::default();
        for millis in 1..=100 {
            latencies.record(Duration::from_millis(millis));
        }
        let report = latencies.report();
        assert_eq!(report["count"], 100);
        assert!((report["p50_ms"].as_f64().expect("a number") - 50.0).abs() < 0.1, "{report}");
        assert!((report["p99_ms"].as_f64().expect("a number") - 99.0).abs() < 0.2, "{report}");
    }
}
