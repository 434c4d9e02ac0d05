//! Recordings of Envoy, committed: one file per group, one line per scenario.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::compare::{Difference, differences};

/// The recorded observation of one scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// The digest of the scenario that was recorded.
    pub digest: String,
    /// Paths at which Envoy differed from itself when it was recorded; they are not compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unstable: Vec<String>,
    /// The observation.
    pub observation: Value,
    /// Observations of other runs of a scenario with `races`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Value>,
}

impl Golden {
    /// Adds what Envoy did in another run, unless it is known already.
    pub fn add(&mut self, outcome: Value, skip: &[String]) {
        if !self.nearest(&outcome, skip).is_empty() {
            self.others.push(outcome);
        }
    }

    /// The recorded outcome that is nearest to an observation, and where the two differ.
    #[must_use]
    pub fn nearest(&self, seen: &Value, skip: &[String]) -> Vec<Difference> {
        let nearest = differences(&self.observation, seen, skip);
        self.others.iter().fold(nearest, |nearest, other| {
            let found = differences(other, seen, skip);
            if found.len() < nearest.len() {
                found
            } else {
                nearest
            }
        })
    }
}

/// The recorded observations of a group, by scenario.
pub type Group = BTreeMap<String, Golden>;

/// Reads a group; an absent file is an empty group.
///
/// # Errors
/// When the file cannot be read or understood.
pub fn read(directory: &Path, group: &str) -> anyhow::Result<Group> {
    let path = path(directory, group);
    if !path.exists() {
        return Ok(Group::new());
    }
    let text = std::fs::read_to_string(&path)?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// Writes a group.
///
/// # Errors
/// When the file cannot be written.
pub fn write(directory: &Path, group: &str, goldens: &Group) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)?;
    let lines: Vec<String> = goldens
        .iter()
        .map(|(name, golden)| {
            let name = serde_json::to_string(name)?;
            Ok(format!("{name}: {}", serde_json::to_string(golden)?))
        })
        .collect::<anyhow::Result<_>>()?;
    let text = format!("{{\n{}\n}}\n", lines.join(",\n"));
    std::fs::write(path(directory, group), text)?;
    Ok(())
}

fn path(directory: &Path, group: &str) -> PathBuf {
    directory.join(format!("{group}.json"))
}
