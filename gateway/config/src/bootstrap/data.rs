//! `envoy.config.core.v3.DataSource`.

use serde::Deserialize;

use super::value::Bytes;
use crate::document::{Fault, Located, Reader};

/// Bytes that stand in the configuration or in a place that it names.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct DataSource {
    filename: Option<String>,
    inline_bytes: Option<Bytes>,
    inline_string: Option<String>,
    environment_variable: Option<String>,
}

impl Located<DataSource> {
    /// The file that it names; empty if it names none.
    pub(super) fn path(&self) -> String {
        self.value.filename.clone().unwrap_or_default()
    }

    /// The bytes, read now. Relative paths start at the working directory, as in Envoy.
    pub(super) fn load(&self, reader: &Reader<'_>) -> Result<Vec<u8>, Fault> {
        let DataSource {
            filename,
            inline_bytes,
            inline_string,
            environment_variable,
        } = &self.value;
        match (filename, inline_bytes, inline_string, environment_variable) {
            (Some(path), None, None, None) => {
                reader.uses(path.as_ref());
                std::fs::read(path)
                    .map_err(|error| Fault::at(self.node, format!("cannot read {path:?}: {error}")))
            }
            (None, Some(bytes), None, None) => Ok(bytes.0.clone()),
            (None, None, Some(text), None) => Ok(text.clone().into_bytes()),
            (None, None, None, Some(name)) => {
                std::env::var(name)
                    .map(String::into_bytes)
                    .map_err(|error| {
                        Fault::at(self.node, format!("environment variable {name:?}: {error}"))
                    })
            }
            _ => Err(Fault::at(
                self.node,
                "one and only one of filename, inline_bytes, inline_string and \
                 environment_variable has to be set",
            )),
        }
    }
}
