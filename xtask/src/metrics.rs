//! Each metric, and each `reason` of one, that a page names is in the sources: who looks for it at night must find it.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, bail};

/// Where the names of metrics stand without their beginning, and the beginning.
const SHORTENED: (&str, &str) = ("crates/peers/src/counts.rs", "sluice.peers.");

/// What there is to be named.
#[derive(Default)]
pub(crate) struct Known {
    metrics: BTreeSet<String>,
    reasons: BTreeSet<String>,
}

impl Known {
    /// Adds what a source file has.
    pub(crate) fn collect(&mut self, path: &Path, text: &str) {
        for literal in literals(text) {
            if path == Path::new(SHORTENED.0) {
                self.metrics.insert(shown(&format!("{}{literal}", SHORTENED.1)));
            } else if literal.starts_with("sluice.") {
                self.metrics.insert(shown(literal));
            }
        }
        if text.contains("\"reason\"") {
            self.reasons.extend(literals(text).map(str::to_owned));
        }
    }

    /// What a page names and nothing has.
    pub(crate) fn faults(&self, page: &str, text: &str) -> Vec<String> {
        let metrics = metrics_named(text).filter(|(_, name)| !self.metrics.contains(&shown(name)));
        let reasons = reasons_named(text).filter(|(_, reason)| !self.reasons.contains(*reason));
        let metrics = metrics.map(|(line, name)| (line, format!("no metric is named `{name}`")));
        let reasons = reasons.map(|(line, reason)| (line, format!("no metric has the reason `{reason}`")));
        metrics
            .chain(reasons)
            .map(|(line, what)| format!("{page}:{line}: {what}: name the one that shows this"))
            .collect()
    }

    /// Fails if nothing was found, which means that the names are written in another way than this reads.
    pub(crate) fn check(&self) -> Result<()> {
        if self.metrics.is_empty() || self.reasons.is_empty() {
            bail!("no names of metrics were found in the sources");
        }
        Ok(())
    }
}

/// How a page and Prometheus write it, without what an exporter appends.
fn shown(name: &str) -> String {
    let name = name.replace('.', "_");
    name.strip_suffix("_total").unwrap_or(&name).to_owned()
}

fn is_part_of_a_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || "_.".contains(c)
}

/// String literals that could be names.
fn literals(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split('"').skip(1).step_by(2))
        .filter(|literal| !literal.is_empty() && literal.chars().all(is_part_of_a_name))
}

/// The metrics that a page names in full, with their line. A group (`sluice.peers.*`) is none.
fn metrics_named(page: &str) -> impl Iterator<Item = (usize, &str)> {
    let beginnings = ["sluice_edge_", "sluice_peers_", "sluice.edge.", "sluice.peers."];
    (1..).zip(page.lines()).flat_map(move |(number, line)| {
        let starts = beginnings.into_iter().flat_map(|beginning| line.match_indices(beginning));
        starts.filter_map(move |(start, beginning)| {
            let rest = line.get(start..)?;
            let end = rest.find(|c| !is_part_of_a_name(c)).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            let name = name.trim_end_matches('.');
            (name.len() > beginning.len() && !after.starts_with('*')).then_some((number, name))
        })
    })
}

/// The reasons that a page names as labels, with their line.
fn reasons_named(page: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(page.lines()).flat_map(|(number, line)| {
        line.split("reason=\"").skip(1).filter_map(move |rest| Some((number, rest.split_once('"')?.0)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: &str =
        "Dropped = \"sluice.edge.dropped\" [\"reason\" = \"forged\"];\n// \"sluice.edge.commented\"\n";
    const PEERS: &str = "    LinksOpened = \"links.opened\";\n";

    fn known() -> Known {
        let mut known = Known::default();
        known.collect(Path::new("services/edge/src/counts.rs"), COUNTS);
        known.collect(Path::new(SHORTENED.0), PEERS);
        known
    }

    #[test]
    fn a_page_may_name_what_there_is_in_either_spelling() {
        let page = "`sluice_edge_dropped_total{reason=\"forged\"}`, `sluice.edge.dropped`.\n\
                    `sluice_peers_links_opened`, all of `sluice.peers.*`, sluice_edge=debug\n";
        assert_eq!(known().faults("docs/a.md", page), [""; 0]);
    }

    #[test]
    fn a_metric_or_reason_that_does_not_exist_is_told_with_its_place() {
        let page = "fine\n`sluice_edge_dropt` and `sluice_edge_dropped{reason=\"forget\"}`\n\
                    `sluice_edge_commented`, `sluice.peers.links`\n";
        let faults = known().faults("docs/a.md", page);
        let starts: Vec<_> =
            faults.iter().map(|fault| fault.split(": name the").next().unwrap_or_default()).collect();
        assert_eq!(
            starts,
            [
                "docs/a.md:2: no metric is named `sluice_edge_dropt`",
                "docs/a.md:3: no metric is named `sluice_edge_commented`",
                "docs/a.md:3: no metric is named `sluice.peers.links`",
                "docs/a.md:2: no metric has the reason `forget`",
            ]
        );
    }
}
