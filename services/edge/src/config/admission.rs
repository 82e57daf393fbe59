//! Limits that hold for all pods together.

use std::num::NonZeroU32;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What holds for all pods of a store together. All of them should be configured alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdmissionConfig {
    /// Sessions that each tenant may have at all pods together. Default: as many as there is room for. Pods lease places from the
    /// store in blocks of a 32nd of it, at most 256, so the last of them may be free at one pod while another one refuses. A pod
    /// that dies keeps its own for 30 s.
    pub sessions_per_tenant: Option<NonZeroU32>,
    /// Sessions that a device may open at all pods together within `window`. Default: any number. One that opens more is refused
    /// until it may open one again. Costs an operation of the store per session.
    pub new_sessions_per_device: Option<NonZeroU32>,
    /// The time for `new_sessions_per_device`. Default `60s`, at most a day. As many as that are allowed at once, and come back evenly.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub window: Duration,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self { sessions_per_tenant: None, new_sessions_per_device: None, window: Duration::from_secs(60) }
    }
}

/// What becomes of devices whose key two seem to have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClonesConfig {
    /// How long a device is refused whose sessions took each other's place six times within ten minutes, such as `"30m"`, at most
    /// 30 days; `"off"` reports it only. Default `"off"`: a device that keeps restarting, or losing its network, looks the same.
    /// Needs `edge.cluster.enabled`. `sluice device release` ends it.
    pub quarantine: Quarantine,
}

/// Longest quarantine.
pub const MAX_QUARANTINE: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long a suspected clone is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum Quarantine {
    /// Not at all.
    #[default]
    Off,
    /// For this time.
    For(Duration),
}

impl Quarantine {
    /// The time, if there is to be one.
    #[must_use]
    pub const fn time(self) -> Option<Duration> {
        match self {
            Self::Off => None,
            Self::For(time) => Some(time),
        }
    }
}

/// Why a text is no quarantine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no time for a quarantine: write one from 1s to 30days such as 30m, or \"off\"")]
pub struct QuarantineError {
    text: String,
}

impl TryFrom<String> for Quarantine {
    type Error = QuarantineError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "off" {
            return Ok(Self::Off);
        }
        match humantime_serde::re::humantime::parse_duration(&text) {
            Ok(time) if (Duration::from_secs(1)..=MAX_QUARANTINE).contains(&time) => Ok(Self::For(time)),
            _ => Err(QuarantineError { text: text.chars().take(80).collect() }),
        }
    }
}

impl From<Quarantine> for String {
    fn from(quarantine: Quarantine) -> Self {
        match quarantine {
            Quarantine::Off => "off".into(),
            Quarantine::For(time) => humantime_serde::re::humantime::format_duration(time).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarantine_is_off_or_a_time_and_survives_its_text() {
        let read = |text: &str| Quarantine::try_from(text.to_owned());
        assert_eq!(read("off"), Ok(Quarantine::Off));
        let half_an_hour = read("30m").expect("a time");
        assert_eq!(half_an_hour.time(), Some(Duration::from_secs(1800)));
        assert_eq!(read(&String::from(half_an_hour)), Ok(half_an_hour));
        for text in ["", "on", "0s", "31days", "-1s"] {
            let refused = read(text).expect_err("no time");
            assert!(refused.to_string().contains("30m"), "{refused}");
        }
    }
}
