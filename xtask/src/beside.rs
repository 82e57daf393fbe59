//! The edge of an earlier revision, for tests that run it beside this one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::source;

/// What is taken as long as no release has a tag: the landing before the first one that could be restarted beside it.
const BEFORE_ANY_TAG: &str = "c418d93321153a774813cd5074f6aea51eb4afaf";

/// The variable that tells tests where that edge is.
pub(crate) const VARIABLE: &str = "SLUICE_TEST_EDGE_BESIDE";

/// Builds the edge of this revision, by default the last release before this one, as the tests' own is built: in the dev profile.
/// Returns where it is. What was built once is kept by revision.
pub(crate) fn build(revision: Option<&str>) -> Result<PathBuf> {
    let revision = match revision {
        Some(revision) => revision.to_owned(),
        None => last_release()?.unwrap_or_else(|| BEFORE_ANY_TAG.to_owned()),
    };
    let commit = commit_of(&revision)?;
    let place = source::root()?.join("target").join("beside");
    let program = place.join(&commit).join("sluice-edge");
    if !program.is_file() {
        println!("Builds the edge of {revision} ({commit}); it is kept for later runs.");
        build_at(&commit, &place, &program)
            .with_context(|| format!("the edge of {revision} was not built"))?;
    }
    println!("Edge of {revision}: {}", program.display());
    Ok(program)
}

/// The last tag before what is checked out, if there is any.
fn last_release() -> Result<Option<String>> {
    let output =
        git()?.args(["describe", "--tags", "--abbrev=0", "HEAD^"]).output().context("cannot run git")?;
    Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned()))
}

fn commit_of(revision: &str) -> Result<String> {
    let name = format!("{revision}^{{commit}}");
    let output = git()?.args(["rev-parse", "--verify", "--quiet", "--end-of-options", &name]).output();
    let output = output.context("cannot run git")?;
    if !output.status.success() {
        bail!(
            "revision {revision} is not in this clone: fetch the history (`git fetch --unshallow --tags`), or name another revision \
             by --beside; an edge of it is needed for the tests that restart an old one beside this one"
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Sources and intermediate files are those of the last revision that was built, so that what two have in common is built once.
fn build_at(commit: &str, place: &Path, program: &Path) -> Result<()> {
    let (sources, built) = (place.join("source"), place.join("build"));
    // Of a run that was broken off. There is none after one that was not.
    let _ = git()?.args(["worktree", "remove", "--force"]).arg(&sources).output();
    source::run(
        git()?.args(["worktree", "add", "--quiet", "--force", "--detach"]).arg(&sources).arg(commit),
    )?;
    let result = compile(&sources, &built, program);
    source::run(git()?.args(["worktree", "remove", "--force"]).arg(&sources))?;
    result
}

fn compile(sources: &Path, built: &Path, program: &Path) -> Result<()> {
    // Its own toolchain: the one that runs this task has told its name to all that it starts.
    let mut cargo = Command::new("cargo");
    cargo.current_dir(sources).env_remove("RUSTUP_TOOLCHAIN").env("CARGO_TARGET_DIR", built);
    source::run(cargo.args(["build", "--locked", "--package", "sluice-edge"]))?;
    let folder = program.parent().context("a program lies in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // Under its name only once it is whole.
    let part = folder.join("part");
    fs::copy(built.join("debug").join("sluice-edge"), &part).context("cannot copy the edge")?;
    fs::rename(&part, program).context("cannot name the edge")
}

fn git() -> Result<Command> {
    let mut command = Command::new("git");
    command.current_dir(source::root()?);
    Ok(command)
}
