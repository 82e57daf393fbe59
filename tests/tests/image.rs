//! The image, as far as it can be held against this repository without building it: what it copies is there, what it runs
//! is built by it, and the programs take the commands that image, compose file and chart start them with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use sluice_test_env::KubeTools;
use sluice_tests::program;
use toml::Table;

/// Where every one of these commands expects the configuration.
const CONFIG: &str = "/etc/sluice/config.toml";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The instructions of the Dockerfile with their arguments, continued lines joined, comments left out.
fn instructions() -> Vec<(String, String)> {
    let text = read("deploy/Dockerfile");
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let lines = joined.lines().filter_map(|line| line.trim().split_once(' '));
    lines.map(|(name, rest)| (name.to_owned(), rest.trim().to_owned())).collect()
}

fn arguments(wanted: &str) -> Vec<String> {
    instructions().into_iter().filter(|(name, _)| name == wanted).map(|(_, rest)| rest).collect()
}

/// The manifest of each crate by its name.
fn manifests() -> BTreeMap<String, Table> {
    let mut found = BTreeMap::new();
    for folder in ["crates", "services"] {
        for entry in std::fs::read_dir(root().join(folder)).expect("a folder of crates") {
            let path = entry.expect("readable").path().join("Cargo.toml");
            let Ok(text) = std::fs::read_to_string(path) else { continue };
            let manifest: Table = text.parse().expect("a manifest");
            found.insert(manifest["package"]["name"].as_str().expect("a name").to_owned(), manifest);
        }
    }
    found
}

/// The programs that the image's own `cargo build` lines make.
fn built() -> BTreeSet<String> {
    let manifests = manifests();
    let mut programs = BTreeSet::new();
    for line in arguments("RUN").iter().flat_map(|run| run.split("&&")) {
        let words: Vec<_> = line.split_whitespace().collect();
        if words.first() != Some(&"cargo") {
            continue;
        }
        assert!(words.contains(&"--locked") && words.contains(&"--release"), "{line}");
        let after = |option| words.iter().position(|word| *word == option).map(|at| words[at + 1]);
        let package = after("-p").expect("one package a line");
        let manifest = manifests.get(package).unwrap_or_else(|| panic!("there is no package {package}"));
        for feature in after("--features").unwrap_or_default().split(',') {
            assert!(manifest["features"].get(feature).is_some(), "{package} has no feature {feature}");
        }
        let binaries = manifest["bin"].as_array().expect("the package makes programs");
        programs.extend(binaries.iter().filter_map(|binary| Some(binary.get("name")?.as_str()?.to_owned())));
    }
    programs
}

#[test]
fn what_the_image_copies_is_there_or_is_built_by_it() {
    let built = built();
    let mut from_build = BTreeSet::new();
    for copy in arguments("COPY") {
        let mut words: Vec<_> = copy.split_whitespace().collect();
        let stage = words[0].strip_prefix("--from=").map(str::to_owned);
        if stage.is_some() {
            words.remove(0);
        }
        words.pop().expect("a place to copy to");
        for source in words {
            if let Some(stage) = &stage {
                assert_eq!(stage, "build");
                let name = source.strip_prefix("/src/target/release/").expect("a program that was built");
                from_build.insert(name.to_owned());
            } else {
                assert!(root().join(source).exists(), "COPY of {source}, which does not exist");
            }
        }
    }
    assert_eq!(from_build, built, "copied, and built");
}

#[test]
fn the_image_is_built_by_the_toolchain_of_this_repository() {
    let toolchain: Table = read("rust-toolchain.toml").parse().expect("TOML");
    let channel = toolchain["toolchain"]["channel"].as_str().expect("a channel");
    let first = arguments("FROM").first().cloned().expect("a first stage");
    assert_eq!(
        first,
        format!("rust:{channel}-bookworm AS build"),
        "another one would be downloaded meanwhile"
    );
}

#[test]
fn what_is_secret_or_large_stays_out_of_the_build() {
    let ignored = read(".dockerignore");
    let ignored: Vec<_> = ignored.lines().collect();
    for path in ["deploy/secrets", "target", ".git"] {
        assert!(
            ignored.contains(&path),
            "{path} would be sent to the engine and lie in the layer of `COPY . .`"
        );
    }
    assert!(read("deploy/compose.yaml").contains("file: ./secrets/kek"), "the secret is elsewhere now");
}

/// `[a, "b"]` as words, as Dockerfile and YAML write lists on one line.
fn list(text: &str) -> Vec<String> {
    let inner = text.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let inner = inner.unwrap_or_else(|| panic!("not a list: {text}"));
    inner.split(',').map(|word| word.trim().trim_matches('"').to_owned()).collect()
}

/// The commands of the compose file's services that run our image.
fn compose_commands() -> Vec<Vec<String>> {
    let text = read("deploy/compose.yaml");
    let (_, services) = text.split_once("\nservices:\n").expect("services");
    let ours = services.split("\n\n").filter(|service| service.contains("image: sluice\n"));
    let lines =
        ours.flat_map(|service| service.lines().filter_map(|line| line.trim().strip_prefix("command: ")));
    lines.map(list).collect()
}

/// The commands of the rendered chart: `command: [program]` followed by `args`, on one line or as a list.
fn chart_commands(tools: &KubeTools) -> Vec<Vec<String>> {
    let chart = root().join("helm/sluice").display().to_string();
    let output = tools.helm(["template", "test", &chart, "--kube-version=1.34.1"]).expect("helm starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rendered = String::from_utf8(output.stdout).expect("text");
    let mut commands = Vec::new();
    let mut lines = rendered.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(program) = line.strip_prefix("command: ") else { continue };
        let mut command = list(program);
        let args = lines.next().and_then(|line| line.strip_prefix("args:")).expect("args after the command");
        if args.is_empty() {
            let items = lines.by_ref().map_while(|line| line.strip_prefix("- "));
            command.extend(items.map(str::to_owned));
        } else {
            command.extend(list(args));
        }
        commands.push(command);
    }
    commands
}

#[test]
fn the_programs_take_every_command_they_are_started_with() {
    let tools = KubeTools::find().expect("installed");
    let own = arguments("CMD").iter().map(|line| list(line)).collect::<Vec<_>>();
    let all = [("image", own), ("compose", compose_commands()), ("chart", chart_commands(&tools))];
    let built = built();
    for (place, commands) in all {
        assert!(!commands.is_empty(), "{place} starts nothing");
        for command in commands {
            let (name, args) = command.split_first().expect("a program");
            assert!(built.contains(name), "{place}: {name} is not in the image");
            assert!(
                args.iter().any(|arg| arg.contains(CONFIG)),
                "{place}: {command:?} reads no configuration"
            );
            // With a file that is not there, what is refused is the file and not the command line.
            let nowhere = "/nonexistent/config.toml";
            let args = args.iter().map(|arg| arg.replace(CONFIG, nowhere));
            let output = Command::new(program(name).expect("built")).args(args).output().expect("starts");
            let words = String::from_utf8_lossy(&output.stderr);
            assert!(words.contains(nowhere), "{place}: {command:?} says: {words}");
            assert!(!words.contains("Usage:"), "{place}: {command:?} says: {words}");
        }
    }
}

#[test]
fn chart_and_image_run_as_the_same_user() {
    let user = arguments("USER").pop().expect("not root");
    let (id, group) = user.split_once(':').expect("user and group, as numbers");
    let helpers = read("helm/sluice/templates/_helpers.tpl");
    assert!(helpers.contains(&format!("runAsUser: {id}\n")), "{id}");
    assert!(helpers.contains(&format!("runAsGroup: {group}\n")), "{group}");
}
