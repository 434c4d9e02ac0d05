//! One provisioning at a time, across processes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Missing;

/// Tells whether [`once`] has done its work for `want`.
pub(super) fn is_done(directory: &Path, want: &str) -> bool {
    std::fs::read_to_string(directory.join("provisioned")).is_ok_and(|have| have == want)
}

/// Runs `make` unless the stamp in `directory` says that it has been done for `want`. Whoever comes second waits.
pub(super) fn once(
    directory: &Path,
    want: &str,
    make: impl FnOnce(&Path) -> Result<(), Missing>,
) -> Result<(), Missing> {
    let failed = |error: std::io::Error| Missing(format!("{}: {error}", directory.display()));
    let stamp = directory.join("provisioned");
    if is_done(directory, want) {
        return Ok(());
    }
    std::fs::create_dir_all(directory).map_err(failed)?;
    let lock_path = directory.with_extension("lock");
    let lock = File::create(lock_path).map_err(failed)?;
    lock.lock().map_err(failed)?;
    if is_done(directory, want) {
        return Ok(());
    }
    make(directory)?;
    std::fs::write(&stamp, want).map_err(failed)
}

/// The program's path when `PATH` has it.
///
/// # Errors
/// When it has not.
pub fn program(name: &str) -> Result<PathBuf, Missing> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| Missing(format!("there is no {name} on the PATH")))
}

/// Runs a command to its end.
pub(super) fn execute(what: &str, command: &mut Command) -> Result<(), Missing> {
    eprintln!("provisioning: {what}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Missing(format!("{what}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = text.lines().rev().take(3).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    Err(Missing(format!("{what} failed: {}", last.join(" / "))))
}
