//! Helm, kubeconform and the schemas of a Kubernetes release, from Go modules.
//!
//! kubeconform's own schema site is no package registry; the schemas here are cut from the OpenAPI document that the
//! `k8s.io/kubernetes` module ships, and made strict: a field that the API server would drop is an error.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::cache::cache_dir;
use crate::install::{Installed, once, run};
use crate::tools::READY;

/// The release whose schemas the chart is held against.
pub(crate) const KUBERNETES: &str = "v1.34.1";
const HELM: &str = "helm.sh/helm/v3/cmd/helm@v3.19.0";
const KUBECONFORM: &str = "github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0";

/// Helm, kubeconform and the schemas.
#[derive(Debug, Clone)]
pub struct KubeTools {
    helm: PathBuf,
    kubeconform: PathBuf,
    schemas: PathBuf,
}

impl KubeTools {
    fn at(place: &Path) -> Self {
        Self {
            helm: place.join("helm"),
            kubeconform: place.join("kubeconform"),
            schemas: place.join("schemas"),
        }
    }

    /// Builds the tools with `go install` and cuts the schemas; for `cargo xtask env`.
    ///
    /// # Errors
    ///
    /// `go` is missing, or cannot download or build.
    pub fn install() -> Result<Installed> {
        let place = place()?;
        once(&place, || {
            if crate::tools::on_path("go").is_none() {
                bail!("go not found: install Go 1.24 or newer (Debian's package is too old)");
            }
            for package in [HELM, KUBECONFORM] {
                run(Command::new("go").args(["install", package]).env("GOBIN", &place))?;
            }
            write_schemas(&Self::at(&place).schemas)
        })
    }

    /// The tools, where they were installed.
    ///
    /// # Errors
    ///
    /// They are not; the message says what to run.
    pub fn find() -> Result<Self> {
        let place = place()?;
        ensure!(place.join(READY).is_file(), "helm and kubeconform not found: run `cargo xtask env`");
        Ok(Self::at(&place))
    }

    /// Runs helm.
    ///
    /// # Errors
    ///
    /// When helm cannot be started; its own failure is in the output's status.
    pub fn helm<I: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Result<Output> {
        Command::new(&self.helm).args(args).output().context("cannot start helm")
    }

    /// Holds manifests against the strict schemas.
    ///
    /// # Errors
    ///
    /// When a manifest does not fit, with kubeconform's own words.
    pub fn conform(&self, manifests: &str) -> Result<()> {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
        fs::write(file.path(), manifests)?;
        let location = format!("{}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json", self.schemas.display());
        let output = Command::new(&self.kubeconform)
            .args(["-strict", "-summary", "-schema-location", &location])
            .arg(file.path())
            .output()
            .context("cannot start kubeconform")?;
        ensure!(
            output.status.success(),
            "kubeconform refused: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

fn place() -> Result<PathBuf> {
    Ok(cache_dir()?.join(format!("kube-{KUBERNETES}")))
}

/// Downloads the module of Kubernetes; `go` says in JSON where its files lie.
pub(crate) fn download_kubernetes() -> Result<Value> {
    let module = format!("k8s.io/kubernetes@{KUBERNETES}");
    // Any folder without a go.mod: what a module around it would say must not matter.
    let scratch = tempfile::tempdir()?;
    let mut download = Command::new("go");
    download.args(["mod", "download", "-json", &module]).current_dir(scratch.path());
    let download = download.output().context("cannot run go")?;
    ensure!(download.status.success(), "go mod download: {}", String::from_utf8_lossy(&download.stderr));
    serde_json::from_slice(&download.stdout).context("go does not answer in JSON")
}

/// Writes one self-contained, strict schema per kind.
fn write_schemas(folder: &Path) -> Result<()> {
    let facts = download_kubernetes()?;
    let source = facts["Dir"].as_str().context("go does not say where the module lies")?;
    let document: Value =
        serde_json::from_slice(&fs::read(Path::new(source).join("api/openapi-spec/swagger.json"))?)?;
    let definitions =
        document["definitions"].as_object().context("the OpenAPI document has no definitions")?;

    fs::create_dir_all(folder)?;
    for (name, definition) in definitions {
        for kind in definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            let (Some(group), Some(version), Some(kind)) =
                (kind["group"].as_str(), kind["version"].as_str(), kind["kind"].as_str())
            else {
                continue;
            };
            // kubeconform's file name: kind-group-version, the group up to its first dot, all lowercase.
            let group = group.split('.').next().unwrap_or_default();
            let stem =
                [kind, group, version].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>();
            let path = folder.join(format!("{}.json", stem.join("-").to_lowercase()));
            fs::write(path, serde_json::to_vec(&self_contained(name, definitions))?)?;
        }
    }
    Ok(())
}

fn self_contained(root: &str, definitions: &Map<String, Value>) -> Value {
    let mut needed = BTreeSet::from([root.to_owned()]);
    let mut queue = vec![root.to_owned()];
    while let Some(name) = queue.pop() {
        let Some(definition) = definitions.get(&name) else { continue };
        for reference in references(definition) {
            if needed.insert(reference.clone()) {
                queue.push(reference);
            }
        }
    }
    let parts: Map<String, Value> =
        needed.into_iter().filter_map(|name| Some((name.clone(), strict(definitions.get(&name)?)))).collect();
    json!({ "$ref": format!("#/definitions/{root}"), "definitions": parts })
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => {
            let own =
                map.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix("#/definitions/"));
            own.map(str::to_owned).into_iter().chain(map.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

fn strict(definition: &Value) -> Value {
    match definition["format"].as_str() {
        // The document can only say "string" of these two.
        Some("int-or-string") => return json!({ "type": ["string", "integer"] }),
        _ if definition["description"]
            .as_str()
            .is_some_and(|text| text.starts_with("Quantity is a fixed-point")) =>
        {
            return json!({ "type": ["string", "number"] });
        }
        _ => {}
    }
    let mut definition = definition.clone();
    if let Some(map) = definition.as_object_mut()
        && map.contains_key("properties")
        && !map.contains_key("additionalProperties")
    {
        map.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    definition
}
