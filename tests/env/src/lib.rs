//! Finds, starts, stops and hurts the real servers that tests need: Redis (single, cluster, sentinel), Apache
//! Kafka in KRaft mode with its own command line tools, and the official Python SDK.
//!
//! Every server listens on loopback, on ports no other test holds, keeps its files in a temporary folder, and dies
//! with the value that started it or, whatever happens to the test, with the process that started it.
//! Nothing is installed by a test: a missing tool is an error that names the command to run
//! (`cargo xtask env`, see [`install`]).
//!
//! Start with [`Redis`], [`Kafka`] and [`PythonSdk`]; [`Redis::shared`] and [`Kafka::shared`] spare a start where a
//! test only needs some server: those honour `SLUICE_TEST_REDIS` and `SLUICE_TEST_KAFKA`.
//!
//! ```no_run
//! let redis = sluice_test_env::Redis::start()?;
//! redis.pause()?; // clients now wait
//! redis.resume()?;
//! # Ok::<(), anyhow::Error>(())
//! ```
#![warn(missing_docs)]

mod cache;
pub mod install;
mod kafka;
mod kube;
mod kube_server;
mod ports;
mod process;
mod python;
mod redis;
mod redis_groups;
mod tls;
pub mod tools;
mod wait;

pub use cache::{cache_dir, unique};
pub use kafka::{Kafka, KafkaListener, KafkaOptions, SharedKafka};
pub use kube::KubeTools;
pub use kube_server::{KubeServer, install_api_server};
pub use ports::Port;
pub use process::{Process, resident_kib};
pub use python::{KafkaPython, PythonSdk};
pub use redis::{Redis, SharedRedis};
pub use redis_groups::{RedisCluster, RedisSentinel};
pub use tls::TlsFiles;
pub use wait::wait_for;
