//! The effective configuration for people's eyes.

use serde::Serialize;
use toml::Value;

/// What stands in the place of a secret.
pub const HIDDEN: &str = "(hidden)";

/// Whether a key's last part says that its value is a secret. Paths of files that hold one (`…_file`) are not.
#[must_use]
pub fn is_secret_name(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key);
    let words = ["password", "secret", "token", "psk", "credential", "authorization"];
    !last.ends_with("_file") && !last.ends_with("_dir") && words.iter().any(|w| last.contains(w))
}

/// Writes the effective settings as TOML, with secrets hidden: the values of keys that [`is_secret_name`] knows, and
/// user names with passwords in addresses (`redis://user:password@host`).
///
/// Settings are meant to name files with secrets instead of holding them; this is the second line of defence.
///
/// # Errors
/// The settings cannot be written as TOML (a map with keys that are no strings, a number beyond 64 bits).
pub fn print(config: &impl Serialize) -> Result<String, toml::ser::Error> {
    let mut value = Value::try_from(config)?;
    hide("", &mut value);
    toml::to_string_pretty(&value)
}

fn hide(key: &str, value: &mut Value) {
    match value {
        Value::Table(table) => table.iter_mut().for_each(|(key, value)| hide(key, value)),
        Value::Array(items) => items.iter_mut().for_each(|value| hide(key, value)),
        other if is_secret_name(key) => *other = Value::from(HIDDEN),
        Value::String(text) => {
            if let Some(hidden) = without_user(text) {
                *text = hidden;
            }
        }
        _ => {}
    }
}

fn without_user(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let (_, host) = authority.rsplit_once('@')?;
    let tail = rest.get(authority.len()..).unwrap_or_default();
    Some(format!("{scheme}://{HIDDEN}@{host}{tail}"))
}
