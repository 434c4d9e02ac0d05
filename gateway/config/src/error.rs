//! Reasons for which a configuration is refused.

use std::fmt;

/// A configuration that cannot be used: one line, with the place as an editor understands it.
///
/// ```
/// let error = gateway_config::parse_envoy("envoy.yaml", "static_resources:\n  cluster: []\n")
///     .unwrap_err();
/// assert!(error.to_string().starts_with(
///     r#"envoy.yaml:2:3: static_resources: unknown field "cluster""#
/// ));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    source: String,
    position: Option<(u32, u32)>,
    path: String,
    message: String,
    others: Vec<Self>,
}

impl Error {
    /// The first of several, with the others.
    pub(crate) fn several(errors: Vec<Self>) -> Self {
        let mut errors = errors.into_iter();
        match errors.next() {
            Some(first) => Self {
                others: errors.collect(),
                ..first
            },
            None => Self::whole("", "nothing is wrong"),
        }
    }

    /// This error without the others.
    pub fn alone(&self) -> String {
        let mut text = self.source.clone();
        if let Some((line, column)) = self.position {
            text.push_str(&format!(":{line}:{column}"));
        }
        if !self.path.is_empty() {
            text.push_str(": ");
            text.push_str(&self.path);
        }
        text.push_str(": ");
        text.push_str(&self.message);
        text
    }

    /// Further errors that were found in the same file.
    pub fn others(&self) -> &[Self] {
        &self.others
    }

    /// An error of a whole file or flag, with no place inside it.
    pub(crate) fn whole(source: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            position: None,
            path: String::new(),
            message: message.into(),
            others: Vec::new(),
        }
    }

    /// An error at a place inside a file.
    pub(crate) fn at(
        source: impl Into<String>,
        position: (u32, u32),
        path: String,
        message: impl Into<String>,
    ) -> Self {
        Self {
            source: source.into(),
            position: Some(position),
            path,
            message: message.into(),
            others: Vec::new(),
        }
    }

    /// The file, or the flag.
    pub fn source_name(&self) -> &str {
        &self.source
    }

    /// Line and column, both counted from 1; unset if the whole file is meant.
    pub fn position(&self) -> Option<(u32, u32)> {
        self.position
    }

    /// The field, such as `static_resources.clusters[0].name`; empty at the top.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Fault at that place.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.alone())?;
        match self.others.len() {
            0 => Ok(()),
            others => write!(f, " (and {others} more, which --check shows)"),
        }
    }
}

impl std::error::Error for Error {}
