//! Where downloaded tools live, where servers keep their files, and names no other test uses.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// The folder of downloaded tools: `SLUICE_TEST_CACHE`, else `sluice-test` in the user's cache folder, so that it
/// survives a fresh clone.
///
/// # Errors
/// Neither `SLUICE_TEST_CACHE`, `XDG_CACHE_HOME` nor `HOME` is set, or the folder cannot be made.
pub fn cache_dir() -> Result<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let dir = var("SLUICE_TEST_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|d| d.join("sluice-test")))
        .or_else(|| var("HOME").map(|d| d.join(".cache").join("sluice-test")))
        .context(
            "set SLUICE_TEST_CACHE to a folder for test tools: neither XDG_CACHE_HOME nor HOME is set",
        )?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot make the tool folder {}", dir.display()))?;
    Ok(dir)
}

/// A name that no other test of this or another process uses: `prefix-<process>-<counter>`, for topics, key prefixes
/// and groups on shared servers.
#[must_use]
pub fn unique(prefix: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let started = fs::metadata("/proc/self")
        .and_then(|m| m.modified())
        .ok()
        .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok())
        .map_or(0, |d| d.as_millis());
    // The start time keeps names apart when process ids are used again on a long-lived server.
    let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{}-{:x}-{counter}", std::process::id(), started & 0xfff_ffff)
}

/// A fresh folder for one server. Removed on drop; folders of processes that died before that are swept by the next
/// process that starts a server.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
}

impl RunDir {
    pub(crate) fn create(name: &str) -> Result<Self> {
        static OWN: OnceLock<(PathBuf, File)> = OnceLock::new();
        let process_dir = match OWN.get() {
            Some((dir, _)) => dir.clone(),
            None => {
                let root = std::env::temp_dir().join("sluice-test-run");
                fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
                sweep(&root);
                let dir = root.join(unique("process"));
                fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
                let lock =
                    File::create(dir.join("alive")).context("cannot make the lock of the run folder")?;
                lock.try_lock().context("the run folder of this process is locked by another one")?;
                // Held for the life of the process: an unlocked folder is one whose owner is gone.
                OWN.get_or_init(|| (dir, lock)).0.clone()
            }
        };
        let path = process_dir.join(unique(name));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // Left-overs are swept by a later process; a test result must not depend on it.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let dir = entry.path();
        // No lock file yet: the owner is between making the folder and locking it.
        let Ok(lock) = File::open(dir.join("alive")) else { continue };
        if lock.try_lock().is_ok() {
            let _ = fs::remove_dir_all(&dir);
        }
    }
}
