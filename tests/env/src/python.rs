//! Python packages in virtual environments: the official SDK, and a client of Kafka.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::process::Process;
use crate::tools::{self, READY};

/// A Python interpreter that can import the official `usmp` package of one version.
#[derive(Debug, Clone)]
pub struct PythonSdk {
    python: PathBuf,
    version: String,
}

impl PythonSdk {
    /// Finds the environment of an SDK version of [`crate::install::SDK_VERSIONS`].
    ///
    /// # Errors
    /// Not installed; the message says what to run.
    pub fn venv(version: &str) -> Result<Self> {
        let place = tools::python_place(version)?;
        if !place.join(READY).is_file() {
            bail!("usmp {version} is not in {}: run `cargo xtask env`", place.display());
        }
        Ok(Self { python: place.join("bin").join("python"), version: version.to_owned() })
    }

    /// The interpreter.
    #[must_use]
    pub fn python(&self) -> &Path {
        &self.python
    }

    /// The SDK's version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// A command that runs `script` with these arguments, unbuffered and without writing byte code.
    #[must_use]
    pub fn command(&self, script: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(&self.python);
        command.arg("-u").arg("-B").arg(script).args(args);
        command
    }

    /// Starts `script` in the background, with its output in `log`; it dies with the returned value.
    ///
    /// # Errors
    /// The interpreter cannot be started.
    pub fn spawn(&self, script: &Path, args: &[&str], log: &Path) -> Result<Process> {
        Process::spawn_command(&self.command(script, args), log)
    }
}

/// A Python interpreter that can import `confluent_kafka`, the Kafka client that documented readers use.
#[derive(Debug, Clone)]
pub struct KafkaPython {
    python: PathBuf,
}

impl KafkaPython {
    /// Finds its environment.
    ///
    /// # Errors
    /// Not installed; the message says what to run.
    pub fn venv() -> Result<Self> {
        let place = tools::kafka_python_place()?;
        if !place.join(READY).is_file() {
            bail!("confluent-kafka is not in {}: run `cargo xtask env`", place.display());
        }
        Ok(Self { python: place.join("bin").join("python") })
    }

    /// A command that runs `script`, without writing byte code.
    #[must_use]
    pub fn command(&self, script: &Path) -> Command {
        let mut command = Command::new(&self.python);
        command.arg("-B").arg(script);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::SDK_VERSIONS;

    #[test]
    fn every_sdk_version_can_be_imported() {
        for version in SDK_VERSIONS {
            let sdk = PythonSdk::venv(version).unwrap();
            let code = "import importlib.metadata as m, usmp; print(m.version('usmp'))";
            let output = Command::new(sdk.python()).args(["-B", "-c", code]).output().unwrap();
            let seen = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            assert_eq!(seen, version, "{}", String::from_utf8_lossy(&output.stderr));
        }
    }

    #[test]
    fn missing_version_names_the_command_to_run() {
        let error = PythonSdk::venv("0.0.0").unwrap_err().to_string();
        assert!(error.contains("cargo xtask env"), "{error}");
    }
}
