//! Reference page and sample file, generated from the types.

use std::fmt::Write as _;

use schemars::{JsonSchema, Schema, schema_for};
use serde::Serialize;
use serde_json::{Map, Value};

/// One setting, or one table of settings.
#[derive(Debug)]
struct Entry {
    key: String,
    kind: String,
    default: Option<Value>,
    text: String,
    is_table: bool,
}

/// Writes the reference page of a configuration: each key with its variable, type, default and meaning, in the order
/// of the types.
#[must_use]
pub fn markdown<T: JsonSchema + Serialize + Default>(title: &str) -> String {
    let mut page = format!(
        "# {title}\n\n<!-- Generated from the types. Change those, then run `cargo xtask docs`. -->\n\n"
    );
    page.push_str(
        "Settings come, weakest first, from these defaults, from the TOML file, from environment variables, and from \
         flags. A key no setting has is refused with its name and place.\n",
    );
    for entry in entries::<T>() {
        if entry.is_table {
            let _ = write!(page, "\n## `[{}]`\n\n", entry.key);
            let _ = writeln!(page, "{}", entry.text);
            continue;
        }
        let default = match &entry.default {
            Some(value) => format!("default `{}`", toml_text(value)),
            None => "not set by default".to_owned(),
        };
        let name = crate::config::variable_name(&entry.key);
        let _ = write!(page, "\n### `{}`\n\n{}, {default}. Variable `{name}`.\n", entry.key, entry.kind);
        if !entry.text.is_empty() {
            let _ = write!(page, "\n{}\n", entry.text);
        }
    }
    page
}

/// Writes a sample file: every key with its default, as comments, so that it changes nothing until it is edited.
#[must_use]
pub fn sample<T: JsonSchema + Serialize + Default>() -> String {
    let mut file = "# Every setting with its default. Remove the `#` of a line, and of the [table] above it, to set it.\n".to_owned();
    let mut open = String::new();
    for entry in entries::<T>() {
        let (table, name) = entry.key.rsplit_once('.').unwrap_or(("", &entry.key));
        if entry.is_table {
            open.clone_from(&entry.key);
            let _ = writeln!(file, "\n{}#[{}]", comment(&entry.text), entry.key);
            continue;
        }
        if table != open {
            // A setting after a nested table belongs to the outer one again.
            open = table.to_owned();
            let _ = writeln!(file, "\n#[{table}]");
        }
        let value = entry.default.as_ref().map_or_else(|| "…".to_owned(), toml_text);
        let unset = if entry.default.is_none() { "#" } else { "" };
        let _ = writeln!(file, "{}#{unset}{name} = {value}", comment(&entry.text));
    }
    file
}

fn comment(text: &str) -> String {
    text.lines().map(|line| format!("# {line}").trim_end().to_owned() + "\n").collect()
}

fn entries<T: JsonSchema + Serialize + Default>() -> Vec<Entry> {
    let schema = schema_for!(T);
    let defaults = serde_json::to_value(T::default()).unwrap_or_default();
    let mut found = Vec::new();
    let walk = Walk { root: &schema };
    walk.object("", schema.as_value(), &defaults, &mut found);
    found
}

struct Walk<'a> {
    root: &'a Schema,
}

impl Walk<'_> {
    fn object(&self, prefix: &str, schema: &Value, defaults: &Value, found: &mut Vec<Entry>) {
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
        // Values first, then tables: the order TOML wants.
        let mut tables = Vec::new();
        for (name, property) in properties {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            let target = self.resolve(property);
            let default = defaults.get(name).filter(|v| !v.is_null());
            let text = describe(property).or_else(|| describe(target)).unwrap_or_default();
            if target.get("properties").is_some() && target.get("oneOf").is_none() {
                tables.push((key, target, default.cloned().unwrap_or_default(), text));
                continue;
            }
            let kind = self.kind(property);
            found.push(Entry { key, kind, default: default.cloned(), text, is_table: false });
        }
        for (key, target, defaults, text) in tables {
            found.push(Entry { key: key.clone(), kind: String::new(), default: None, text, is_table: true });
            self.object(&key, target, &defaults, found);
        }
    }

    /// Follows a reference, and steps over the `null` of an optional setting.
    fn resolve<'s>(&'s self, schema: &'s Value) -> &'s Value {
        if let Some(name) =
            schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/$defs/"))
        {
            let target = self.root.as_value().get("$defs").and_then(|d| d.get(name));
            return target.map_or(schema, |t| self.resolve(t));
        }
        if let Some(options) = schema.get("anyOf").and_then(Value::as_array) {
            let mut real = options.iter().filter(|o| o.get("type").and_then(Value::as_str) != Some("null"));
            if let (Some(only), None) = (real.next(), real.next()) {
                return self.resolve(only);
            }
        }
        schema
    }

    fn kind(&self, schema: &Value) -> String {
        let target = self.resolve(schema);
        if let Some(choices) = choices(target) {
            return format!("One of {}", choices.join(", "));
        }
        let kinds: Vec<&str> = match target.get("type") {
            Some(Value::String(kind)) => vec![kind],
            Some(Value::Array(kinds)) => {
                kinds.iter().filter_map(Value::as_str).filter(|k| *k != "null").collect()
            }
            _ => vec![],
        };
        let mut text = match kinds.as_slice() {
            ["string"] => "Text".to_owned(),
            ["integer"] => "Whole number".to_owned(),
            ["number"] => "Number".to_owned(),
            ["boolean"] => "`true` or `false`".to_owned(),
            ["array"] => match target.get("items") {
                Some(items) => format!("List of: {}", self.kind(items).to_lowercase()),
                None => "List".to_owned(),
            },
            ["object"] => "Table".to_owned(),
            _ => "Value".to_owned(),
        };
        if let Some(minimum) = target.get("minimum").filter(|m| m.as_f64().is_some_and(|m| m > 0.0)) {
            let _ = write!(text, " of at least {minimum}");
        }
        if let Some(maximum) = target.get("maximum") {
            let _ = write!(text, " up to {maximum}");
        }
        text
    }
}

fn choices(schema: &Value) -> Option<Vec<String>> {
    let quoted = |v: &Value| v.as_str().map(|v| format!("`\"{v}\"`"));
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return values.iter().map(quoted).collect();
    }
    let options = schema.get("oneOf").and_then(Value::as_array)?;
    options
        .iter()
        .map(|option| {
            let name = option.get("const").and_then(quoted)?;
            Some(describe(option).map_or_else(
                || name.clone(),
                |text| format!("{name} ({})", text.trim_end_matches('.').replace('\n', " ")),
            ))
        })
        .collect()
}

/// The doc comment, with the line breaks of the source joined into paragraphs.
fn describe(schema: &Value) -> Option<String> {
    schema.get("description").and_then(Value::as_str).map(str::to_owned)
}

fn toml_text(value: &Value) -> String {
    match value {
        Value::Object(map) => inline_table(map),
        Value::Array(items) => format!("[{}]", items.iter().map(toml_text).collect::<Vec<_>>().join(", ")),
        Value::Null => "…".to_owned(),
        other => other.to_string(),
    }
}

fn inline_table(map: &Map<String, Value>) -> String {
    if map.is_empty() {
        return "{}".to_owned();
    }
    let pairs: Vec<_> = map.iter().map(|(k, v)| format!("{k} = {}", toml_text(v))).collect();
    format!("{{ {} }}", pairs.join(", "))
}
