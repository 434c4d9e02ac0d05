//! Front ends (flags, Envoy bootstrap) that build one [`Snapshot`](snapshot::Snapshot).

mod document;
mod envoy;
mod error;
pub mod snapshot;

use std::path::Path;

pub use self::{envoy::parse as parse_envoy, error::Error};
use self::snapshot::Snapshot;

/// Reads an Envoy bootstrap, YAML or JSON, from a file.
///
/// # Errors
/// Names the file, and line, column and path of the first thing that is wrong or not supported.
pub fn load_file(path: impl AsRef<Path>) -> Result<Snapshot, Error> {
    let path = path.as_ref();
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::whole(&name, format!("cannot be read: {error}")))?;
    parse_envoy(&name, &text)
}
