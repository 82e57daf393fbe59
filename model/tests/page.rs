//! docs/model.md names every rule with a test that shows what it is for.

use std::path::Path;

use sluice_model::Defence;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_rule_has_its_line_and_every_named_test_exists() {
    let page = read("../docs/model.md");
    let tests: String = ["ledger", "ledger_needs", "fragments", "rekeys", "address"]
        .iter()
        .map(|name| read(&format!("tests/{name}.rs")))
        .collect();
    for defence in Defence::ALL {
        let begins = format!("| `{defence:?}`");
        let line = page.lines().find(|line| line.starts_with(&begins));
        let line = line.unwrap_or_else(|| panic!("docs/model.md has no line that begins with {begins}"));
        let named: Vec<_> =
            line.rsplit('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "{line}");
        for name in named {
            assert!(tests.contains(&format!("fn {name}()")), "no test is named {name}");
        }
        assert!(tests.contains(&format!("Defence::{defence:?}")), "no test takes {defence:?} away");
    }
}
