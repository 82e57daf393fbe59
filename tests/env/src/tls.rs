//! A throw-away certificate for servers on loopback, made by Java's `keytool`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tools;

/// A self-signed certificate for `127.0.0.1` and `localhost`: as a key store for a Kafka broker and as the PEM file
/// its clients trust.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// PKCS#12 key store.
    pub keystore: PathBuf,
    /// The key store's password.
    pub password: String,
    /// The certificate as PEM, for `ssl.ca.location`.
    pub ca_pem: PathBuf,
}

impl TlsFiles {
    /// Makes the files in `dir`.
    ///
    /// # Errors
    /// `keytool` (it comes with Java) is missing or fails.
    pub fn generate(dir: &Path) -> Result<Self> {
        let java = fs::canonicalize(tools::java()?).context("cannot resolve the path of java")?;
        let beside = java.with_file_name("keytool");
        let keytool = if beside.is_file() {
            beside
        } else {
            tools::on_path("keytool").context("keytool not found: it is part of openjdk-17-jre-headless")?
        };
        let files = Self {
            keystore: dir.join("broker.p12"),
            password: "only-for-tests".to_owned(),
            ca_pem: dir.join("ca.pem"),
        };
        let (store, ca) = (files.keystore.display().to_string(), files.ca_pem.display().to_string());
        let common =
            ["-keystore", &store, "-storetype", "PKCS12", "-storepass", &files.password, "-alias", "broker"];
        let names = "san=ip:127.0.0.1,dns:localhost";
        let make = [
            "-genkeypair",
            "-keyalg",
            "EC",
            "-groupname",
            "secp256r1",
            "-dname",
            "CN=localhost",
            "-ext",
            names,
        ];
        for args in [&make[..], &["-exportcert", "-rfc", "-file", &ca]] {
            let output =
                Command::new(&keytool).args(args).args(common).output().context("cannot run keytool")?;
            if !output.status.success() {
                bail!("keytool: {}", String::from_utf8_lossy(&output.stdout).trim_end());
            }
        }
        Ok(files)
    }
}
