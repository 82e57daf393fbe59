//! The edge: terminates USMP sessions and hands verified records to Kafka.
#![warn(missing_docs)]

pub mod config;
