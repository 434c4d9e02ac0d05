//! Envoy's bootstrap (`envoy.config.bootstrap.v3.Bootstrap`), as YAML or JSON.
//!
//! The messages are typed structs that mirror ProtoJSON, in the subset that the gateway serves;
//! one file a message family. What a struct lacks is looked up in `fields`: fields without effect
//! here may stand in a file, fields that would change what is served are refused. Messages within
//! `typed_config` are chosen by their `@type`.

mod access_log;
mod action;
mod address;
mod answer;
mod any;
mod breakers;
mod cel;
mod cluster;
mod compression;
mod cors;
mod data;
mod dump;
mod endpoint;
mod fields;
mod filter;
mod flags;
mod fraction;
mod hashing;
mod header;
mod health;
mod inspect;
mod internal_redirect;
mod listener;
mod local_reply;
mod manager;
mod match_tree;
mod matched;
mod matcher;
mod mirror;
mod otlp;
mod overload;
mod per_filter;
mod protocol;
mod rate_limit;
mod retry;
mod rewrite;
mod root;
mod route;
mod secrets;
mod small_filters;
mod sockets;
mod template;
mod tls;
mod tracing;
mod upgrade;
mod value;

pub use self::{
    flags::{Flags, LogForm, from_flags},
    otlp::Otlp,
};
use crate::{
    Error,
    document::{Document, Fault, Reader},
    snapshot::Snapshot,
};

/// Reads a bootstrap from `text`; `name` is what errors call it.
///
/// # Errors
/// Names what is wrong or not supported, as far as the rest could be read, with line, column and path.
pub fn parse(name: &str, text: &str) -> Result<Snapshot, Error> {
    let document = Document::parse(name, text)?;
    let root = document.single()?;
    let reader = Reader::collecting(&document, fields::treatment);
    let loaded = root::load(&reader, root);
    let refused = reader.refused();
    let mut snapshot = match loaded {
        Ok(snapshot) if refused.is_empty() => snapshot,
        loaded => {
            // A field that may not stand there often is why another one is missed.
            let others = refused.others.into_iter().chain(loaded.err());
            let mut errors = in_order(&document, refused.fields);
            errors.extend(in_order(&document, others));
            return Err(Error::several(errors));
        }
    };
    snapshot.files = reader.files();
    if let Ok(mut source) = reader.read(root) {
        dump::redact(&mut source);
        snapshot.source = source;
    }
    let (notes, ignored) = reader.into_notes();
    let told = |notes: Vec<_>| {
        notes
            .into_iter()
            .map(|note| document.error(note).to_string())
            .collect()
    };
    snapshot.warnings = told(notes);
    snapshot.ignored = told(ignored);
    Ok(snapshot)
}

/// The errors that `faults` are, in the order of their places.
fn in_order(document: &Document, faults: impl IntoIterator<Item = Fault>) -> Vec<Error> {
    let mut errors: Vec<Error> = faults
        .into_iter()
        .map(|fault| document.error(fault))
        .collect();
    errors.sort_by_key(Error::position);
    errors
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
