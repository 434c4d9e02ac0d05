//! Envoy's bootstrap (`envoy.config.bootstrap.v3.Bootstrap`), as YAML or JSON.
//!
//! The messages are typed structs that mirror ProtoJSON, in the subset that the gateway serves;
//! one file a message family. What a struct lacks is looked up in [`fields`]: fields without effect
//! here may stand in a file, fields that would change what is served are refused. Messages within
//! `typed_config` are chosen by their `@type`.

mod access_log;
mod action;
mod address;
mod any;
mod breakers;
mod cluster;
mod cors;
mod data;
mod endpoint;
mod fields;
mod filter;
mod flags;
mod fraction;
mod header;
mod listener;
mod manager;
mod matcher;
mod overload;
mod per_filter;
mod protocol;
mod root;
mod route;
mod template;
mod tls;
mod value;

pub use self::flags::{Flags, LogForm, from_flags};
use crate::{
    Error,
    document::{Document, Reader},
    snapshot::Snapshot,
};

/// Reads a bootstrap from `text`; `name` is what errors call it.
///
/// # Errors
/// Names the first thing that is wrong or not supported, with line, column and path.
pub fn parse(name: &str, text: &str) -> Result<Snapshot, Error> {
    let document = Document::parse(name, text)?;
    let root = document.single()?;
    let reader = Reader::new(&document, fields::treatment);
    let mut snapshot = root::load(&reader, root).map_err(|fault| document.error(fault))?;
    snapshot.files = reader.files();
    let notes = reader.into_notes().into_iter();
    snapshot.warnings = notes.map(|note| document.error(note).to_string()).collect();
    Ok(snapshot)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
