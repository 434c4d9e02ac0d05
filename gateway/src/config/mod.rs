//! Front ends (flags, Envoy bootstrap) that build one [`Snapshot`].
//!
//! [`load_file`] and [`parse_envoy`] read Envoy's bootstrap, [`from_flags`] serves the command line
//! that needs no file. Whatever comes back is checked as a whole: nothing starts on a configuration
//! that is half understood.

mod document;
mod envoy;
mod error;
mod flags;
pub mod manifests;
pub mod snapshot;

use std::path::Path;

use self::snapshot::Snapshot;
pub use self::{envoy::parse as parse_envoy, error::Error, flags::from_flags};

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

#[cfg(test)]
mod tests;
