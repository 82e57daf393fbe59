//! End-to-end tests: real Redis, real Kafka, the official SDK.
