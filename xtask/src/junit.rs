//! Counts and times out of the report that the test runner writes.

/// What one test binary did.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Suite {
    pub(crate) name: String,
    pub(crate) tests: u64,
    pub(crate) failed: u64,
    /// The sum over its tests, in seconds; more than the time that passed where tests ran side by side.
    pub(crate) seconds: f64,
    /// The slowest test and its seconds.
    pub(crate) slowest: Option<(String, f64)>,
}

/// Reads `<testsuite …>` and `<testcase …>` elements. The report comes from our own runner, so this needs no XML
/// library; what cannot be read is left out and shows as a wrong sum.
pub(crate) fn suites(report: &str) -> Vec<Suite> {
    let mut suites: Vec<Suite> = Vec::new();
    for tag in report.split('<').filter_map(|part| part.split('>').next()) {
        if let Some(attributes) = tag.strip_prefix("testsuite ") {
            let number = |name| attribute(attributes, name).and_then(|v| v.parse().ok()).unwrap_or(0);
            suites.push(Suite {
                name: attribute(attributes, "name").unwrap_or_default(),
                tests: number("tests"),
                failed: number("failures") + number("errors"),
                seconds: 0.0,
                slowest: None,
            });
        } else if let (Some(attributes), Some(suite)) = (tag.strip_prefix("testcase "), suites.last_mut()) {
            let seconds = attribute(attributes, "time").and_then(|v| v.parse().ok()).unwrap_or(0.0);
            suite.seconds += seconds;
            if suite.slowest.as_ref().is_none_or(|(_, slowest)| seconds > *slowest) {
                suite.slowest = attribute(attributes, "name").map(|name| (name, seconds));
            }
        }
    }
    suites
}

fn attribute(attributes: &str, name: &str) -> Option<String> {
    let key = format!("{name}=\"");
    let start = attributes
        .match_indices(&key)
        .map(|(i, _)| i)
        .find(|i| attributes.get(..*i).is_some_and(|before| before.is_empty() || before.ends_with(' ')))?;
    let value = attributes.get(start + key.len()..)?.split('"').next()?;
    Some(value.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&"))
}

/// Passed and failed out of the lines `test result: ok. 3 passed; 1 failed; …` of documentation tests.
pub(crate) fn doctests(output: &str) -> (u64, u64) {
    let mut sum = (0, 0);
    for line in output.lines().filter_map(|l| l.trim().strip_prefix("test result: ")) {
        let words: Vec<_> = line.split([' ', ';', '.']).collect();
        for pair in words.windows(2) {
            let (number, what) = (pair[0].parse::<u64>(), pair[1]);
            match (number, what) {
                (Ok(n), "passed") => sum.0 += n,
                (Ok(n), "failed") => sum.1 += n,
                _ => {}
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_counted_with_their_slowest_test() {
        let report = r#"<?xml version="1.0"?>
<testsuites name="nextest-run" tests="3" failures="1" errors="0" time="2.5">
 <testsuite name="sluice-bus" tests="2" disabled="0" errors="0" failures="1">
  <testcase name="a::b" classname="sluice-bus" time="0.5"><failure type="x">&lt;testcase name="no" time="9"&gt;</failure></testcase>
  <testcase name="a::c" classname="sluice-bus" time="1.5"></testcase>
 </testsuite>
 <testsuite name="usmp" tests="1" errors="0" failures="0"><testcase name="d" time="0.1"/></testsuite>
</testsuites>"#;
        let suites = suites(report);
        assert_eq!(suites.len(), 2, "{suites:?}");
        assert_eq!((suites[0].tests, suites[0].failed, suites[0].seconds), (2, 1, 2.0));
        assert_eq!(suites[0].slowest, Some(("a::c".to_owned(), 1.5)));
        assert_eq!(suites[1].name, "usmp");
    }

    #[test]
    fn documentation_tests_are_summed() {
        let output = "test result: ok. 3 passed; 0 failed; 0 ignored; finished in 1.20s\nx\n\
                      test result: FAILED. 1 passed; 2 failed; 0 ignored\n";
        assert_eq!(doctests(output), (4, 2));
    }
}
