//! Downloads what tests need, through the ordinary package clients, into [`crate::cache_dir`]. Used by
//! `cargo xtask env`; safe when several run at once.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::cache_dir;
use crate::tools::{self, READY};

/// Kafka's artifacts and their versions.
pub(crate) const KAFKA_POM: &str = include_str!("../kafka/pom.xml");

/// The releases of the official Python SDK that tests speak with.
pub const SDK_VERSIONS: [&str; 3] = ["1.0.0", "1.1.0", "1.2.2"];

/// The release of the Kafka client for Python (`confluent-kafka`) that documented readers are tested with.
pub const KAFKA_PYTHON_VERSION: &str = "2.16.1";

/// Whether an install step had work to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    /// It was there.
    Already,
    /// It was downloaded now.
    Now,
}

/// Downloads Kafka's jars with Maven.
///
/// # Errors
/// Maven is missing or cannot download them.
pub fn kafka() -> Result<Installed> {
    let libs = tools::kafka_libs_place()?;
    once(&libs, || {
        let Some(maven) = tools::on_path("mvn") else {
            bail!("mvn not found: install the Debian package maven");
        };
        let pom = libs.join("pom.xml");
        fs::write(&pom, KAFKA_POM).context("cannot write pom.xml")?;
        let jars = libs.join("libs");
        run(Command::new(maven)
            .args(["-q", "-B", "-f"])
            .arg(&pom)
            .arg("dependency:copy-dependencies")
            .arg(format!("-DoutputDirectory={}", jars.display()))
            .arg("-DincludeScope=runtime"))
    })
}

/// Makes a virtual environment with the official SDK of that version.
///
/// # Errors
/// Python or its `venv` module is missing, or the package cannot be downloaded.
pub fn python_sdk(version: &str) -> Result<Installed> {
    venv(&tools::python_place(version)?, &format!("usmp=={version}"))
}

/// Makes a virtual environment with a client of Kafka.
///
/// # Errors
/// Python or its `venv` module is missing, or the package cannot be downloaded.
pub fn kafka_python() -> Result<Installed> {
    venv(&tools::kafka_python_place()?, &format!("confluent-kafka=={KAFKA_PYTHON_VERSION}"))
}

fn venv(place: &Path, package: &str) -> Result<Installed> {
    once(place, || {
        run(Command::new(tools::python3()?).args(["-m", "venv"]).arg(place))
            .with_context(|| "cannot make a virtual environment (Debian package python3-venv)".to_owned())?;
        run(Command::new(place.join("bin").join("python")).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            package,
        ]))
    })
}

/// Runs `fill` once for a folder, whatever runs beside us, and marks it complete only when it succeeded.
pub(crate) fn once(place: &Path, fill: impl FnOnce() -> Result<()>) -> Result<Installed> {
    let name = place.file_name().unwrap_or_else(|| OsStr::new("tool")).to_string_lossy().into_owned();
    let path: PathBuf = cache_dir()?.join(format!("{name}.lock"));
    let lock = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    if place.join(READY).is_file() {
        return Ok(Installed::Already);
    }
    if place.exists() {
        // Left by a run that was interrupted.
        fs::remove_dir_all(place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    fs::create_dir_all(place).with_context(|| format!("cannot make {}", place.display()))?;
    fill()?;
    File::create(place.join(READY)).context("cannot mark the folder as complete")?;
    Ok(Installed::Now)
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("{command:?}: {}\n{}{}", output.status, out.trim_end(), err.trim_end());
    }
    Ok(())
}
