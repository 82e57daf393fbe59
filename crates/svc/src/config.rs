//! Configuration in layers: defaults of the types, then a TOML file, then environment variables, then flags.
//!
//! A variable `SLUICE__EDGE__UDP` sets `edge.udp`: it starts with `SLUICE__` and has two underscores between levels.
//! Every other variable, such as the service links of Kubernetes (`SLUICE_EDGE_SERVICE_HOST`, `SLUICE_EDGE_PORT`), is
//! none of ours. Keys that no type knows are refused, with the key and the place it was set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::Serialize;
use serde::de::DeserializeOwned;

mod print;
mod reference;

pub use print::{HIDDEN, is_secret_name, print};
pub use reference::{markdown, sample};

/// What each variable of ours starts with.
pub const ENV_PREFIX: &str = "SLUICE__";

/// Where settings come from, weakest first: the defaults of the types, the file, the environment, the flags.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    file: Option<PathBuf>,
    env: BTreeMap<String, String>,
    flags: Vec<Flag>,
}

#[derive(Debug, Clone)]
struct Flag {
    key: String,
    name: String,
    value: Value,
}

impl Sources {
    /// Takes the variables of this process that start with `SLUICE__`, and the file if there is to be one.
    ///
    /// # Errors
    /// A variable of ours is not UTF-8.
    pub fn from_process(file: Option<&Path>) -> Result<Self, LoadError> {
        let mut env = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|n| n.starts_with(ENV_PREFIX)) else { continue };
            let Ok(value) = value.into_string() else {
                return Err(LoadError::Invalid {
                    key: key_of(name),
                    origin: variable(name),
                    message: "the value is not UTF-8".to_owned(),
                });
            };
            env.insert(name.to_owned(), value);
        }
        Ok(Self { file: file.map(Path::to_owned), env, flags: Vec::new() })
    }

    /// Reads this TOML file; it must exist.
    #[must_use]
    pub fn file(mut self, path: &Path) -> Self {
        self.file = Some(path.to_owned());
        self
    }

    /// Adds environment variables; those that do not start with `SLUICE__` are left alone.
    #[must_use]
    pub fn env<K: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let ours = variables.into_iter().map(|(k, v)| (k.into(), v.into()));
        self.env.extend(ours.filter(|(k, _): &(String, String)| k.starts_with(ENV_PREFIX)));
        self
    }

    /// Sets a key (`edge.udp`) from a command line flag (`--udp`); stronger than every other layer.
    ///
    /// # Panics
    /// The value cannot be written as configuration (a map with keys that are no strings).
    #[must_use]
    pub fn flag(mut self, key: &str, flag: &str, value: impl Serialize) -> Self {
        let value = Value::serialize(value)
            .expect("a flag's value is a string, a number, a switch or a list of them");
        self.flags.push(Flag { key: key.to_owned(), name: flag.to_owned(), value });
        self
    }

    fn layers(&self) -> Result<Vec<Layer>, LoadError> {
        let mut layers = Vec::new();
        if let Some(path) = &self.file {
            let text = std::fs::read_to_string(path)
                .map_err(|source| LoadError::Read { path: path.clone(), source })?;
            let dict = toml::from_str::<Dict>(&text).map_err(|error| LoadError::Syntax {
                path: path.clone(),
                line: error
                    .span()
                    .map_or(1, |s| text.get(..s.start).unwrap_or_default().matches('\n').count() + 1),
                message: error.message().to_owned(),
            })?;
            layers.push(Layer { origin: format!("the file {}", path.display()), dict });
        }
        let mut seen: Vec<(Vec<String>, &str)> = Vec::new();
        for (name, text) in &self.env {
            let path: Vec<String> = key_of(name).split('.').map(str::to_owned).collect();
            let invalid =
                |message: String| LoadError::Invalid { key: path.join("."), origin: variable(name), message };
            if path.iter().any(String::is_empty) {
                return Err(invalid("empty name between two underscores".to_owned()));
            }
            // `A=…` and `A__B=…` cannot both hold; nor can two spellings of one name.
            if let Some((_, other)) = seen.iter().find(|(p, _)| p.starts_with(&path) || path.starts_with(p)) {
                return Err(invalid(format!("it is also set by the environment variable {other}")));
            }
            let dict = nested(&path, env_value(text));
            seen.push((path, name));
            layers.push(Layer { origin: variable(name), dict });
        }
        for flag in &self.flags {
            let path: Vec<String> = flag.key.split('.').map(str::to_owned).collect();
            layers.push(Layer {
                origin: format!("the flag {}", flag.name),
                dict: nested(&path, flag.value.clone()),
            });
        }
        Ok(layers)
    }
}

/// `SLUICE__EDGE__UDP` for `edge.udp`.
#[must_use]
pub fn variable_name(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"))
}

fn key_of(variable: &str) -> String {
    variable.strip_prefix(ENV_PREFIX).unwrap_or(variable).to_ascii_lowercase().replace("__", ".")
}

fn variable(name: &str) -> String {
    format!("the environment variable {name}")
}

/// A list or table in a variable is written as in TOML; everything else is text, which becomes a number or a switch
/// where the setting is one.
fn env_value(text: &str) -> Value {
    let trimmed = text.trim();
    if trimmed.starts_with(['[', '{'])
        && let Ok(mut dict) = toml::from_str::<Dict>(&format!("v = {trimmed}"))
        && let Some(value) = dict.remove("v")
    {
        return value;
    }
    Value::from(text)
}

fn nested(path: &[String], value: Value) -> Dict {
    let Some((first, rest)) = path.split_first() else { return Dict::new() };
    let inner = if rest.is_empty() { value } else { Value::from(nested(rest, value)) };
    Dict::from([(first.clone(), inner)])
}

/// One file, variable or flag.
#[derive(Debug, Clone)]
struct Layer {
    origin: String,
    dict: Dict,
}

impl Layer {
    fn sets(&self, key: &str) -> bool {
        let mut path = key.split('.');
        let Some(mut value) = path.next().and_then(|first| self.dict.get(first)) else { return false };
        for part in path {
            let next = value.as_dict().and_then(|d| d.get(part));
            match next {
                Some(next) => value = next,
                // Inside a list, or a value that should have been a table: as near as can be said.
                None => return value.as_dict().is_none(),
            }
        }
        true
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

/// Where each key was set, to name the place in an error of a later check.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    layers: Vec<Layer>,
}

impl Origins {
    /// The strongest place that sets `key`, in words: `the file sluice.toml`, `the environment variable …`,
    /// `the flag --udp`, or `its default`.
    #[must_use]
    pub fn of(&self, key: &str) -> &str {
        self.layers.iter().rev().find(|l| l.sets(key)).map_or("its default", |l| &l.origin)
    }

    /// An error about the value of `key` that was found after loading.
    #[must_use]
    pub fn invalid(&self, key: &str, message: impl Into<String>) -> LoadError {
        LoadError::Invalid { key: key.to_owned(), origin: self.of(key).to_owned(), message: message.into() }
    }
}

/// The settings and where they came from.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// The effective settings.
    pub config: T,
    /// Where each was set.
    pub origins: Origins,
}

/// Puts the layers together. `T` and what it holds derive `Deserialize` with
/// `#[serde(default, deny_unknown_fields)]`, so that every key has a default and wrong ones are seen.
///
/// # Errors
/// The file cannot be read or is no TOML; a key is unknown; a value is wrong. Each names the key and its place, and
/// never shows the value of a setting whose name says that it is secret.
pub fn load<T: DeserializeOwned>(sources: &Sources) -> Result<Loaded<T>, LoadError> {
    let origins = Origins { layers: sources.layers()? };
    let figment = origins.layers.iter().fold(Figment::new(), |f, layer| f.merge(layer));
    match figment.extract_lossy::<T>() {
        Ok(config) => Ok(Loaded { config, origins }),
        Err(error) => Err(explain(error, &origins)),
    }
}

fn explain(error: figment::Error, origins: &Origins) -> LoadError {
    use figment::error::Kind;
    let mut path = error.path.clone();
    if let Kind::UnknownField(name, known) = &error.kind {
        if path.last() != Some(name) {
            path.push(name.clone());
        }
        let key = path.join(".");
        let origin = origins.of(&key).to_owned();
        return LoadError::UnknownKey { key, origin, known: known.join(", ") };
    }
    if let Kind::MissingField(name) = &error.kind {
        path.push(name.to_string());
        return LoadError::Missing { key: path.join(".") };
    }
    let key = path.join(".");
    // The library puts the value into its message.
    let message = if is_secret_name(&key) {
        "not a value of the right kind".to_owned()
    } else if let Kind::UnknownVariant(found, known) = &error.kind {
        // The library's own text quotes the list twice.
        format!("found `{found}`, expected one of: {}", known.join(", "))
    } else {
        error.kind.to_string()
    };
    let origin = origins.of(&key).to_owned();
    LoadError::Invalid { key, origin, message }
}

/// The configuration cannot be used. Each text says what to change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("the configuration file {path} is not TOML, line {line}: {message}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A key that no setting has.
    #[error("unknown setting `{key}` in {origin}; known in this place: {known}")]
    UnknownKey {
        /// The key.
        key: String,
        /// Where it is set.
        origin: String,
        /// The keys that exist there.
        known: String,
    },
    /// A setting that has no default is not set.
    #[error("the setting `{key}` is missing ({})", variable_name(key))]
    Missing {
        /// The key.
        key: String,
    },
    /// A value is wrong.
    #[error("wrong value of `{key}` from {origin}: {message}")]
    Invalid {
        /// The key.
        key: String,
        /// Where it is set.
        origin: String,
        /// What is wrong.
        message: String,
    },
}

#[cfg(test)]
mod tests;
