//! The data folder: the local store, its key and the socket of the running process.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::args::Global;

/// The folder of `--data-dir` or `SLUICE_DATA_DIR`, else `sluice` in the user's data folder.
pub(crate) fn data_dir(global: &Global) -> Result<PathBuf> {
    if let Some(folder) = &global.data_dir {
        return Ok(folder.clone());
    }
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("XDG_DATA_HOME")
        .filter(|folder| folder.is_absolute())
        .or_else(|| from("HOME").map(|home| home.join(".local/share")))
        .map(|folder| folder.join("sluice"))
        .context("there is no home folder: say where to keep the data with `--data-dir DIR`")
}

/// Makes the folder, for its owner alone.
pub(crate) fn prepare(folder: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| {
        format!("cannot make the data folder {}: choose another with `--data-dir DIR`", folder.display())
    })
}

/// Writes a file that appears only once it is whole.
pub(crate) fn write_whole(path: &Path, content: &str) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let building = PathBuf::from(name);
    fs::write(&building, content)?;
    fs::rename(&building, path).inspect_err(|_| {
        let _ = fs::remove_file(&building);
    })
}

/// Lets only the owner use a socket or file.
pub(crate) fn only_owner(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}
