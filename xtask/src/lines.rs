//! `cargo xtask lines`: no hand-written file is too long to be read.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::source;

const LIMIT: usize = 900;

/// Kinds of files that people write.
const WRITTEN: [&str; 14] =
    ["rs", "toml", "md", "proto", "lua", "py", "sh", "java", "yaml", "yml", "tpl", "c", "h", "html"];

/// A page that begins so is generated.
pub(crate) const GENERATED: &str = "<!-- Generated";

pub(crate) fn run() -> Result<()> {
    let mut long = Vec::new();
    for path in source::files()? {
        if !is_written(&path) {
            continue;
        }
        let bytes = fs::read(source::root()?.join(&path))
            .with_context(|| format!("cannot read {}", path.display()))?;
        let text = String::from_utf8_lossy(&bytes);
        if let Some(count) = too_long(&text) {
            long.push(format!("{}: {count} lines", path.display()));
        }
    }
    if long.is_empty() {
        println!("no hand-written file has more than {LIMIT} lines");
        return Ok(());
    }
    bail!("more than {LIMIT} lines; look for the second responsibility:\n{}", long.join("\n"));
}

fn is_written(path: &Path) -> bool {
    let kind = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    WRITTEN.contains(&kind) || path.starts_with(".ci")
}

fn too_long(text: &str) -> Option<usize> {
    let count = text.lines().count();
    let generated = text.lines().take(5).any(|line| line.starts_with(GENERATED));
    (count > LIMIT && !generated).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_over_the_limit_is_found_unless_generated() {
        assert_eq!(too_long(&"x\n".repeat(900)), None);
        assert_eq!(too_long(&"x\n".repeat(901)), Some(901));
        assert_eq!(too_long(&format!("# Title\n\n{GENERATED} -->\n{}", "x\n".repeat(2000))), None);
    }

    #[test]
    fn lock_files_and_vectors_are_not_hand_written() {
        assert!(is_written(Path::new("crates/svc/src/lib.rs")) && is_written(Path::new(".ci/run")));
        assert!(
            !is_written(Path::new("Cargo.lock")) && !is_written(Path::new("crates/usmp/tests/vectors.json"))
        );
    }
}
