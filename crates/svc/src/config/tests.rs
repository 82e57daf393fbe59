use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// How devices connect.
    edge: Edge,
    /// Where keys are.
    store: Store,
    telemetry: crate::telemetry::TelemetryConfig,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Edge {
    /// Where devices connect over UDP.
    ///
    /// Port 0 lets the system choose.
    udp: String,
    /// Threads.
    shards: Option<NonZeroUsize>,
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    idle: Duration,
    tcp_enabled: bool,
    trusted: Vec<String>,
    guarantee: Guarantee,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Guarantee {
    #[default]
    AtLeastOnce,
    ExactlyOnce,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Store {
    /// Address.
    url: String,
    password: Option<String>,
    password_file: Option<PathBuf>,
    limits: BTreeMap<String, u32>,
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            udp: "127.0.0.1:9000".to_owned(),
            shards: None,
            idle: Duration::from_secs(300),
            tcp_enabled: true,
            trusted: vec![],
            guarantee: Guarantee::default(),
        }
    }
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sluice.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

fn error(sources: &Sources) -> String {
    load::<Config>(sources).expect_err("must be refused").to_string()
}

#[test]
fn without_any_source_defaults_hold() {
    let loaded = load::<Config>(&Sources::default()).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.origins.of("edge.udp"), "its default");
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let (_dir, path) = file("[edge]\nudp = \"file\"\nidle = \"1m\"\ntrusted = [\"a\"]\n");
    let sources = Sources::default()
        .file(&path)
        .env([("SLUICE__EDGE__UDP", "variable"), ("SLUICE__EDGE__IDLE", "2m")])
        .flag("edge.udp", "--udp", "flag");
    let Loaded { config, origins } = load::<Config>(&sources).unwrap();
    assert_eq!(config.edge.udp, "flag");
    assert_eq!(config.edge.idle, Duration::from_secs(120));
    assert_eq!(config.edge.trusted, ["a"]);
    assert!(config.edge.tcp_enabled);
    assert_eq!(origins.of("edge.udp"), "the flag --udp");
    assert_eq!(origins.of("edge.idle"), "the environment variable SLUICE__EDGE__IDLE");
    assert_eq!(origins.of("edge.trusted"), format!("the file {}", path.display()));
    assert_eq!(origins.of("edge.tcp_enabled"), "its default");
}

#[test]
fn numbers_switches_and_lists_come_from_variables() {
    let sources = Sources::default().env([
        ("SLUICE__EDGE__SHARDS", "4"),
        ("SLUICE__EDGE__TCP_ENABLED", "false"),
        ("SLUICE__EDGE__TRUSTED", r#"["10.0.0.0/8", "::1/128"]"#),
        ("SLUICE__STORE__URL", "12345"),
        ("SLUICE__STORE__LIMITS", "{ a = 1 }"),
        ("SLUICE__TELEMETRY__OTLP__TRACE_RATIO", "0.5"),
    ]);
    let config = load::<Config>(&sources).unwrap().config;
    assert_eq!(config.edge.shards, NonZeroUsize::new(4));
    assert!(!config.edge.tcp_enabled);
    assert_eq!(config.edge.trusted, ["10.0.0.0/8", "::1/128"]);
    assert_eq!(config.store.url, "12345", "text that looks like a number stays text");
    assert_eq!(config.store.limits, BTreeMap::from([("a".to_owned(), 1)]));
    assert!((config.telemetry.otlp.trace_ratio - 0.5).abs() < f64::EPSILON);
}

#[test]
fn kubernetes_service_links_do_no_harm() {
    let sources = Sources::default().env([
        ("SLUICE_EDGE_SERVICE_HOST", "10.0.0.1"),
        ("SLUICE_EDGE_SERVICE_PORT", "9000"),
        ("SLUICE_EDGE_PORT", "tcp://10.0.0.1:9000"),
        ("SLUICE_EDGE_PORT_9000_TCP_ADDR", "10.0.0.1"),
        ("SLUICE_PORT", "tcp://10.0.0.1:9000"),
        ("SLUICE_DATA_DIR", "/data"),
        ("sluice__edge__udp", "lower case is not ours"),
        ("PATH", "/bin"),
    ]);
    assert_eq!(load::<Config>(&sources).unwrap().config, Config::default());
}

#[test]
fn unknown_variable_is_named() {
    let text = error(&Sources::default().env([("SLUICE__EGDE__UDP", "x")]));
    assert!(text.contains("`egde`") && text.contains("variable SLUICE__EGDE__UDP"), "{text}");
    assert!(text.contains("edge, store"), "names what exists: {text}");
}

#[test]
fn unknown_key_in_the_file_is_named_with_its_table() {
    let (_dir, path) = file("[edge]\nudp = \"x\"\nupd = \"y\"\n");
    let text = error(&Sources::default().file(&path).env([("SLUICE__EDGE__UDP", "z")]));
    assert!(text.contains("`edge.upd`") && text.contains("sluice.toml"), "{text}");
}

#[test]
fn unknown_nested_key_of_the_environment_is_not_blamed_on_the_file() {
    let (_dir, path) = file("[telemetry.log]\nfilter = \"info\"\n");
    let sources = Sources::default().file(&path).env([("SLUICE__TELEMETRY__LOG__FILTRE", "debug")]);
    let text = error(&sources);
    assert!(
        text.contains("`telemetry.log.filtre`") && text.contains("SLUICE__TELEMETRY__LOG__FILTRE"),
        "{text}"
    );
}

#[test]
fn wrong_value_names_key_and_source() {
    let (_dir, path) = file("[edge]\nshards = 0\n");
    let text = error(&Sources::default().file(&path));
    assert!(text.contains("`edge.shards`") && text.contains("sluice.toml"), "{text}");

    let text = error(&Sources::default().env([("SLUICE__EDGE__IDLE", "soon")]));
    assert!(text.contains("`edge.idle`") && text.contains("SLUICE__EDGE__IDLE"), "{text}");

    let text = error(&Sources::default().flag("edge.shards", "--shards", "many"));
    assert!(text.contains("`edge.shards`") && text.contains("--shards"), "{text}");
}

#[test]
fn wrong_kind_of_a_secret_is_not_shown() {
    let (_dir, path) = file("[store]\npassword = [\"swordfish\"]\n");
    let text = error(&Sources::default().file(&path));
    assert!(text.contains("`store.password`") && !text.contains("swordfish"), "{text}");
}

#[test]
fn table_and_value_of_one_name_are_refused() {
    let text = error(&Sources::default().env([("SLUICE__EDGE", "{}"), ("SLUICE__EDGE__UDP", "x")]));
    assert!(text.contains("SLUICE__EDGE__UDP") && text.contains("variable SLUICE__EDGE"), "{text}");
}

#[test]
fn variable_without_a_key_is_refused() {
    for name in ["SLUICE__", "SLUICE__EDGE__", "SLUICE____UDP"] {
        let text = error(&Sources::default().env([(name, "x")]));
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn missing_file_and_broken_file_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = error(&Sources::default().file(&dir.path().join("none.toml")));
    assert!(text.contains("none.toml"), "{text}");
    let (_dir, path) = file("[edge]\nudp = \"x\"\nudp = \"y\"\n");
    let text = error(&Sources::default().file(&path));
    assert!(text.contains("sluice.toml") && text.contains("line 3") && text.contains("duplicate"), "{text}");
}

#[test]
fn a_word_that_is_none_of_the_possible_ones_is_answered_with_those() {
    let text = error(&Sources::default().env([("SLUICE__EDGE__GUARANTEE", "exactly_onc")]));
    assert_eq!(
        text,
        "wrong value of `edge.guarantee` from the environment variable SLUICE__EDGE__GUARANTEE: found `exactly_onc`, \
         expected one of: at_least_once, exactly_once"
    );
}

#[test]
fn later_check_names_key_and_source() {
    let sources = Sources::default().env([("SLUICE__EDGE__IDLE", "1ms")]);
    let text = load::<Config>(&sources).unwrap().origins.invalid("edge.idle", "shorter than 1 s").to_string();
    assert_eq!(
        text,
        "wrong value of `edge.idle` from the environment variable SLUICE__EDGE__IDLE: shorter than 1 s"
    );
}

#[test]
fn printed_configuration_hides_secrets_and_loads_again() {
    let config = Config {
        store: Store {
            url: "redis://user:swordfish@redis:6379/0".to_owned(),
            password: Some("swordfish".to_owned()),
            password_file: Some("/run/secrets/redis".into()),
            ..Store::default()
        },
        ..Config::default()
    };
    let text = print(&config).unwrap();
    assert!(!text.contains("swordfish"), "{text}");
    assert!(text.contains("password = \"(hidden)\"") && text.contains("@redis:6379/0"), "{text}");
    assert!(text.contains("/run/secrets/redis"), "a path is no secret: {text}");

    let (_dir, path) = file(&print(&Config::default()).unwrap());
    assert_eq!(load::<Config>(&Sources::default().file(&path)).unwrap().config, Config::default());
}

#[test]
fn reference_has_every_key_with_default_and_text() {
    let page = markdown::<Config>("Settings");
    for part in [
        "## `[edge]`\n\nHow devices connect.",
        "### `edge.udp`\n\nText, default `\"127.0.0.1:9000\"`. Variable `SLUICE__EDGE__UDP`.",
        "Port 0 lets the system choose.",
        "### `edge.shards`\n\nWhole number of at least 1, not set by default.",
        "### `edge.idle`\n\nText, default `\"5m\"`.",
        "### `edge.trusted`\n\nList of: text, default `[]`.",
        "## `[telemetry.log]`",
        "### `telemetry.log.format`\n\nOne of `\"auto\"` (For people on a terminal, JSON otherwise), `\"human\"`",
    ] {
        assert!(page.contains(part), "misses {part:?}:\n{page}");
    }
}

#[test]
fn sample_file_loads_as_the_defaults_with_and_without_its_comment_marks() {
    let text = sample::<Config>();
    let (_dir, path) = file(&text);
    assert_eq!(load::<Config>(&Sources::default().file(&path)).unwrap().config, Config::default());

    // `# text` explains, `#key = value` sets, `##key` has no default.
    let set = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with([' ', '#']) => rest.to_owned(),
        _ => line.to_owned(),
    };
    let enabled = text.lines().map(set).collect::<Vec<_>>().join("\n");
    assert!(enabled.contains("\nudp = "), "{enabled}");
    let (_dir, path) = file(&enabled);
    assert_eq!(
        load::<Config>(&Sources::default().file(&path)).unwrap().config,
        Config::default(),
        "{enabled}"
    );
}
