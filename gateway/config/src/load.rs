//! Reads files of either language.

use std::path::Path;

use crate::{
    Error,
    bootstrap::parse as parse_envoy,
    document::Document,
    manifests::{FileOptions, files},
    snapshot::Snapshot,
};

/// Reads an Envoy bootstrap or Kubernetes manifests, YAML or JSON, from a file, or manifests from all
/// files of a folder. What would need a cluster has its default; see [`load`].
///
/// # Errors
/// Names the file, and line, column and path of the first thing that is wrong or not supported.
pub fn load_file(path: impl AsRef<Path>) -> Result<Snapshot, Error> {
    load(path, &FileOptions::default())
}

/// As [`load_file`], with what a cluster would say of manifests.
///
/// # Errors
/// Names the file, and line, column and path of the first thing that is wrong or not supported; or the
/// flag that is missing.
pub fn load(path: impl AsRef<Path>, options: &FileOptions) -> Result<Snapshot, Error> {
    let path = path.as_ref();
    let name = path.display().to_string();
    let read = |path: &Path| {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::whole(&name, format!("cannot be read: {error}")))?;
        Ok((name, text))
    };
    if !path.is_dir() {
        let (name, text) = read(path)?;
        let document = Document::parse(&name, &text)?;
        return match files::is_manifests(&document) {
            true => files::snapshot(&name, &[document], options),
            false => parse_envoy(&name, &text),
        };
    }
    let found = files::list(path)
        .map_err(|error| Error::whole(&name, format!("cannot be read: {error}")))?;
    let mut documents = Vec::with_capacity(found.len());
    for file in &found {
        let (name, text) = read(file)?;
        let document = Document::parse(&name, &text)?;
        if !document.roots().is_empty() && !files::is_manifests(&document) {
            return Err(Error::whole(
                name,
                "a folder may only hold Kubernetes manifests",
            ));
        }
        documents.push(document);
    }
    files::snapshot(&name, &documents, options)
}
