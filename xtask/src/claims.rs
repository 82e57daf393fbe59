//! `cargo xtask claims`: each test that a page names as the proof of a defence, or of what happens in an outage, exists, and so does each
//! metric that any page names.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::metrics::Known;
use crate::source;

/// Pages whose claims are shown by tests.
const PAGES: [&str; 2] = ["docs/security.md", "docs/operations.md"];

pub(crate) fn run() -> Result<()> {
    let root = source::root()?;
    let (mut tests, mut known) = (BTreeSet::new(), Known::default());
    let files = source::files()?;
    for path in files.iter().filter(|p| p.extension().is_some_and(|e| e == "rs")) {
        let text =
            fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {}", path.display()))?;
        collect_tests(path, &text, &mut tests);
        if !path.starts_with("xtask") {
            known.collect(path, &text);
        }
    }
    known.check()?;
    let mut unknown = Vec::new();
    for path in files.iter().filter(|p| p.starts_with("docs") && p.extension().is_some_and(|e| e == "md")) {
        let text =
            fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {}", path.display()))?;
        unknown.extend(known.faults(&path.to_string_lossy(), &text));
    }
    if !unknown.is_empty() {
        bail!("pages name what no metric is called:\n{}", unknown.join("\n"));
    }
    let (mut count, mut missing) = (0, Vec::new());
    for page in PAGES {
        let text = fs::read_to_string(root.join(page)).with_context(|| format!("cannot read {page}"))?;
        let named = named_tests(&text);
        if named.is_empty() {
            bail!("{page} names no test; it writes `test: name_of_the_test` beside each claim");
        }
        count += named.len();
        let faults = named.iter().filter(|(_, name)| !tests.contains(*name));
        missing.extend(faults.map(|(line, name)| fault(page, *line, name, &tests)));
    }
    if missing.is_empty() {
        println!("{count} tests named in {}, and all metrics named in docs, exist", PAGES.join(" and "));
        return Ok(());
    }
    bail!("{} of {count} named tests are missing:\n{}", missing.len(), missing.join("\n"));
}

/// Where it stands, what is wrong, what to do.
fn fault(page: &str, line: usize, name: &str, tests: &BTreeSet<String>) -> String {
    let nearest = match nearest(name, tests) {
        Some(other) => format!(" (nearest: `{other}`)"),
        None => String::new(),
    };
    format!(
        "{page}:{line}: no test is named `{name}`: name the one that shows this{nearest}, write it, \
         or take the claim back"
    )
}

/// The test with most words in common, if half of the words are: most likely it was renamed.
fn nearest<'a>(name: &str, tests: &'a BTreeSet<String>) -> Option<&'a str> {
    let words: BTreeSet<_> = name.split('_').collect();
    let common = |test: &str| test.split('_').collect::<BTreeSet<_>>().intersection(&words).count();
    let best = tests.iter().max_by_key(|test| common(test))?;
    (common(best) * 2 >= words.len()).then_some(best)
}

/// The names after each `test:` or `tests:`, with their line; a list goes on over commas.
fn named_tests(page: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(page.lines()) {
        let markers = ["`test: ", "test: `", "tests: `"];
        for (start, marker) in markers.iter().flat_map(|m| line.match_indices(m)) {
            let mut rest = line.get(start + marker.len()..).unwrap_or_default();
            loop {
                let end = rest
                    .find(|c: char| !(c.is_ascii_alphanumeric() || "_:-".contains(c)))
                    .unwrap_or(rest.len());
                let (path, after) = rest.split_at(end);
                let name = path.rsplit("::").next().unwrap_or(path);
                if !name.is_empty() {
                    found.push((number, name));
                }
                let Some(next) = ["`, `", ", "].iter().find_map(|s| after.strip_prefix(s)) else { break };
                rest = next;
            }
        }
    }
    found
}

/// Functions under a test attribute; in a conformance suite, which macros instantiate, every function.
fn collect_tests(path: &Path, text: &str, tests: &mut BTreeSet<String>) {
    let suite = path.to_string_lossy().contains("conformance");
    let mut marked = false;
    for line in text.lines().map(str::trim_start) {
        let is_test =
            line.starts_with("#[test]") || line.starts_with("#[tokio::test") || line.starts_with("#[test_");
        if is_test {
            marked = true;
        } else if let Some(name) = function_name(line) {
            if marked || suite {
                tests.insert(name.to_owned());
            }
            marked = false;
        }
    }
}

fn function_name(line: &str) -> Option<&str> {
    let mut words = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let head: Vec<_> = words.by_ref().take_while(|w| *w != "fn").collect();
    let qualifiers = ["pub", "async", "crate", "super", "const", ""];
    head.iter().all(|w| qualifiers.contains(w)).then(|| words.next()).flatten().filter(|n| !n.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tests_of(path: &str, text: &str) -> Vec<String> {
        let mut tests = BTreeSet::new();
        collect_tests(Path::new(path), text, &mut tests);
        tests.into_iter().collect()
    }

    #[test]
    fn names_are_read_from_the_page() {
        let page = "| a | b | `test: one_is_refused` |\n(test: `sluice::two`), none\ntests: `three`, `four`; no test here\n";
        assert_eq!(named_tests(page), [(1, "one_is_refused"), (2, "two"), (3, "three"), (3, "four")]);
    }

    #[test]
    fn a_missing_test_is_told_with_its_place_and_the_likely_new_name() {
        let tests =
            BTreeSet::from(["a_spoofed_hello_costs_no_state".to_owned(), "keys_are_sealed".to_owned()]);
        let told = fault("docs/security.md", 7, "a_spoofed_hello_makes_no_state", &tests);
        let start =
            "docs/security.md:7: no test is named `a_spoofed_hello_makes_no_state`: name the one that";
        assert!(told.starts_with(start), "{told}");
        assert!(told.contains("nearest: `a_spoofed_hello_costs_no_state`"), "{told}");
        assert!(!fault("docs/security.md", 7, "quite_another_thing", &tests).contains("nearest"));
    }

    #[test]
    fn only_functions_under_a_test_attribute_count() {
        let text = "fn plain() {}\n#[test]\n#[cfg(x)]\nfn seen() {\n}\n#[tokio::test(start_paused = true)]\n  async fn also() {}\npub fn later() {}\n";
        assert_eq!(tests_of("src/lib.rs", text), ["also", "seen"]);
        assert_eq!(
            tests_of("tests/conformance.rs", "pub(crate) async fn any() {}\nlet fn_like = 1;\n"),
            ["any"]
        );
    }
}
