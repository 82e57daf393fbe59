//! Finds the programs that tests start. Nothing here installs anything.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::cache::cache_dir;

/// Finds a program on `PATH`.
#[must_use]
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn need(name: &str, package: &str) -> Result<PathBuf> {
    on_path(name).with_context(|| {
        format!("{name} not found: run `cargo xtask env` (or install the Debian package {package})")
    })
}

/// `redis-server`.
///
/// # Errors
/// Not installed; the message says what to run.
pub fn redis_server() -> Result<PathBuf> {
    need("redis-server", "redis-server")
}

/// `redis-cli`.
///
/// # Errors
/// Not installed; the message says what to run.
pub fn redis_cli() -> Result<PathBuf> {
    need("redis-cli", "redis-tools")
}

/// `kcat`.
///
/// # Errors
/// Not installed; the message says what to run.
pub fn kcat() -> Result<PathBuf> {
    need("kcat", "kcat")
}

/// `java`, 17 or newer.
///
/// # Errors
/// Not installed; the message says what to run.
pub fn java() -> Result<PathBuf> {
    need("java", "openjdk-17-jre-headless")
}

/// `etcd`.
///
/// # Errors
/// Not installed; the message says what to run.
pub fn etcd() -> Result<PathBuf> {
    need("etcd", "etcd-server")
}

/// `openssl`.
///
/// # Errors
/// Not installed; the message says what to run.
pub fn openssl() -> Result<PathBuf> {
    need("openssl", "openssl")
}

/// `python3` with the `venv` module.
///
/// # Errors
/// Not installed; the message says what to run.
pub fn python3() -> Result<PathBuf> {
    need("python3", "python3-venv")
}

/// The folder with Kafka's jars.
///
/// # Errors
/// Not downloaded yet; the message says what to run.
pub fn kafka_libs() -> Result<PathBuf> {
    let libs = kafka_libs_place()?;
    if !libs.join(READY).is_file() {
        bail!("Kafka is not in {}: run `cargo xtask env`", libs.display());
    }
    Ok(libs)
}

/// A file that says that a folder of the cache is complete.
pub(crate) const READY: &str = ".ready";

/// The name carries a digest of the pom, so that a changed one is downloaded anew.
pub(crate) fn kafka_libs_place() -> Result<PathBuf> {
    let mut digest: u32 = 0x811c_9dc5;
    for byte in crate::install::KAFKA_POM.bytes() {
        digest = (digest ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    Ok(cache_dir()?.join(format!("kafka-{digest:08x}")))
}

/// The folder of the virtual environment with the official SDK of that version.
pub(crate) fn python_place(version: &str) -> Result<PathBuf> {
    Ok(cache_dir()?.join(format!("python-usmp-{version}")))
}

/// The folder of the virtual environment with a client of Kafka.
pub(crate) fn kafka_python_place() -> Result<PathBuf> {
    Ok(cache_dir()?.join(format!("python-confluent-kafka-{}", crate::install::KAFKA_PYTHON_VERSION)))
}
