//! How a Sluice process starts, reports and stops: configuration, telemetry, admin listener, drain.
