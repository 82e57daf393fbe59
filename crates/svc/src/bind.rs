//! Errors of binding a socket that say which setting to change.

use std::io;
use std::net::SocketAddr;

/// A socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (setting `{key}`): {}", advice(source, key))]
pub struct BindError {
    /// The setting that holds the address, such as `admin.listen`.
    pub key: String,
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl BindError {
    /// Says that `address`, which is the value of the setting `key`, could not be bound.
    #[must_use]
    pub fn new(key: &str, address: SocketAddr, source: io::Error) -> Self {
        Self { key: key.to_owned(), address, source }
    }
}

fn advice(error: &io::Error, key: &str) -> String {
    let variable = crate::config::variable_name(key);
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "the port is taken by another process; stop that one, or set `{key}` ({variable}) to a free port"
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!(
                "not permitted; ports below 1024 need a privilege, set `{key}` ({variable}) to a higher one"
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("this machine has no such address; set `{key}` ({variable}) to one it has, or to 0.0.0.0")
        }
        _ => error.to_string(),
    }
}
