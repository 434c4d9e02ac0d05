//! Scenarios: data in YAML files, one file per group.
//!
//! A file is `group`, `about`, `defaults` (merged under every scenario) and `scenarios`. A scenario with `vary` stands
//! for many: `vary` maps names to lists (all combinations), or is a list of maps (one scenario each), and `<name>` or
//! `<name.field>` stands for the value, typed when it is the whole text. Maps are merged key by key, `null` removes a
//! default, lists replace. Unknown keys are errors, and errors name file and scenario.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::support::client::ClientScript;
use crate::support::processor::ProcessorScript;
use crate::support::upstream::UpstreamScript;

/// Runs of Envoy in which an outcome has to show, where inputs arrive at the same moment.
pub const OUTCOMES: usize = 20;

/// One scenario, expanded and merged.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The group, which is the name of its file.
    pub group: String,
    /// Everything that the file says about it.
    pub spec: Spec,
    /// The clients' requests in order.
    pub clients: Vec<ClientScript>,
    /// The upstream of every cluster, by cluster name.
    pub upstreams: BTreeMap<String, UpstreamScript>,
    /// A digest of what takes part in a run, to see that a golden observation belongs to it.
    pub digest: String,
    /// The scenario as JSON, which normalisation asks for names and texts.
    pub source: Value,
}

/// The keys of a scenario.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spec {
    /// The name, unique in its group.
    pub name: String,
    /// Its subject.
    pub about: String,

    /// The `ExternalProcessor` configuration; `grpc_service` and `message_timeout: 3s` are filled in.
    pub filter: Map<String, Value>,
    /// The filter's name.
    pub filter_name: Option<String>,
    /// `disabled` of the filter.
    pub filter_disabled: bool,
    /// Filters before it.
    pub filters_before: Vec<Value>,
    /// Filters between it and the router.
    pub filters_after: Vec<Value>,
    /// More ext_proc filters after it.
    pub more_filters: Vec<MoreFilter>,
    /// `ExtProcPerRoute` of the route.
    pub per_route: Option<Value>,
    /// `ExtProcPerRoute` of the virtual host.
    pub per_vhost: Option<Value>,
    /// `ExtProcPerRoute` of the route configuration.
    pub per_route_config: Option<Value>,
    /// The routes, each with a `per_route` of its own; the default is one route to `upstream`.
    pub routes: Vec<Value>,
    /// Merged into that one route.
    pub route: Option<Value>,
    /// Merged into the virtual host.
    pub vhost: Option<Value>,
    /// Merged into the HTTP connection manager.
    pub hcm: Option<Value>,
    /// Merged into the listener.
    pub listener: Option<Value>,
    /// Merged into the filter chain.
    pub filter_chain: Option<Value>,
    /// Merged into the whole bootstrap.
    pub bootstrap: Option<Value>,
    /// A file beside the scenarios that has the whole bootstrap, in place of one that is made. `@listener@`, `@admin@`,
    /// `@processor@` and the names of upstreams stand for ports. The scenario holds its text once it is read.
    pub file: Option<String>,
    /// Buffer limits.
    pub limits: Limits,
    /// Merged into clusters, by name.
    pub clusters: BTreeMap<String, Value>,

    /// The client.
    pub client: Value,
    /// Several requests, each merged over `client`.
    pub clients: Vec<Value>,
    /// The request that often, one after the other.
    pub repeat: Option<usize>,
    /// The requests all at once.
    pub parallel: bool,
    /// The processor.
    pub processor: ProcessorScript,
    /// The upstream of the cluster `upstream`.
    pub upstream: Value,
    /// More clusters with upstreams of their own, each merged over `upstream`.
    pub upstreams: BTreeMap<String, Value>,

    /// The configuration must be refused.
    pub rejected: bool,
    /// Milliseconds between which the response head has to come.
    pub time: Option<[u64; 2]>,
    /// Milliseconds to wait for late messages, in place of waiting for rest.
    pub settle: Option<u64>,
    /// Milliseconds that a client waits for the end of its response.
    pub limit: Option<u64>,
    /// The format of an access log whose lines are compared.
    pub log: Option<String>,
    /// The log is the listener's, of connections, and not that of its connection manager.
    pub log_connections: bool,
    /// The filter of the log.
    pub log_filter: Option<Value>,
    /// Inputs arrive at the same moment, so that their order is the machine's choice: every outcome that Envoy shows in
    /// [`OUTCOMES`] runs is right.
    pub races: bool,
    /// Rules of the comparison.
    pub compare: Compare,
    /// The anchor in the list of deliberate differences.
    pub differs: Option<String>,
}

/// A further ext_proc filter.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MoreFilter {
    /// The filter's name.
    pub name: String,
    /// Its `ExternalProcessor` configuration.
    pub filter: Map<String, Value>,
    /// `disabled`.
    pub disabled: bool,
    /// `ExtProcPerRoute` of the route for this filter.
    pub per_route: Option<Value>,
}

/// Buffer limits in bytes.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// `per_connection_buffer_limit_bytes` of the listener.
    pub listener: Option<u32>,
    /// The same of every upstream cluster.
    pub cluster: Option<u32>,
}

/// Rules by which observations are compared.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Compare {
    /// Chunk boundaries too.
    pub chunks: bool,
    /// The directions of the side stream each for itself, since their interleaving is a race.
    pub split: bool,
    /// Header names that are compared although they are dropped by default.
    pub keep: BTreeSet<String>,
    /// Paths that are not compared: `client.0.body`, `*` for one step.
    pub skip: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    group: String,
    #[serde(default)]
    about: String,
    #[serde(default)]
    defaults: Map<String, Value>,
    scenarios: Vec<Map<String, Value>>,
}

/// A group's title line and scenarios.
#[derive(Debug, Clone)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its subject.
    pub about: String,
    /// Its scenarios.
    pub scenarios: Vec<Scenario>,
}

/// Loads every `*.yaml` in a directory, in order of file names.
///
/// # Errors
/// When a file cannot be read or says something that is not understood, naming file and scenario.
pub fn load(directory: &Path) -> anyhow::Result<Vec<Group>> {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .with_context(|| directory.display().to_string())?
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    let mut groups = Vec::new();
    for path in files {
        groups.push(read(&path)?);
    }
    Ok(groups)
}

/// Reads one file.
///
/// # Errors
/// As [`load`].
pub fn read(path: &Path) -> anyhow::Result<Group> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    parse(&text, directory).with_context(|| path.display().to_string())
}

fn parse(text: &str, directory: &Path) -> anyhow::Result<Group> {
    let mut options = serde_saphyr::Options::default();
    options.strict_booleans = true;
    let value: Value = serde_saphyr::from_str_with_options(text, options)?;
    let file: File = serde_json::from_value(value)?;
    let mut names = BTreeSet::new();
    let mut scenarios = Vec::new();
    for raw in file.scenarios {
        let template = raw
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or("?")
            .to_owned();
        for spec in expand(raw).with_context(|| template.clone())? {
            let mut merged = Value::Object(file.defaults.clone());
            merge(&mut merged, spec);
            if let Some(Value::String(file)) = merged.get_mut("file") {
                let path = directory.join(&*file);
                *file =
                    std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            }
            let scenario = build(&file.group, merged).with_context(|| template.clone())?;
            ensure!(
                names.insert(scenario.spec.name.clone()),
                "{}: the name is there twice",
                scenario.spec.name
            );
            scenarios.push(scenario);
        }
    }
    Ok(Group {
        name: file.group,
        about: file.about,
        scenarios,
    })
}

/// Merges `over` into `base`: maps key by key, `null` removes, everything else replaces.
pub fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    base.shift_remove(&key);
                } else if let Some(old) = base.get_mut(&key) {
                    merge(old, value);
                } else {
                    base.insert(key, value);
                }
            }
        }
        (base, over) => *base = over,
    }
}

/// A scenario of its merged source.
///
/// # Errors
/// When it says something that is not understood.
pub fn build(group: &str, merged: Value) -> anyhow::Result<Scenario> {
    let spec: Spec = serde_json::from_value(merged.clone())?;
    let name = &spec.name;
    let fits = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    ensure!(!name.is_empty() && fits, "{name:?}: not a scenario name");
    let object_or_empty = |value: &Value| match value {
        Value::Null => Value::Object(Map::new()),
        other => other.clone(),
    };
    let mut requests = Vec::new();
    if spec.clients.is_empty() {
        requests.resize(spec.repeat.unwrap_or(1), object_or_empty(&spec.client));
    }
    for one in &spec.clients {
        let mut request = object_or_empty(&spec.client);
        merge(&mut request, one.clone());
        requests.push(request);
    }
    let clients = requests
        .into_iter()
        .map(|r| serde_json::from_value(r).with_context(|| format!("{name}: client")))
        .collect::<anyhow::Result<_>>()?;
    let mut upstreams = BTreeMap::new();
    let base = object_or_empty(&spec.upstream);
    let upstream =
        serde_json::from_value(base.clone()).with_context(|| format!("{name}: upstream"))?;
    upstreams.insert("upstream".to_owned(), upstream);
    for (cluster, over) in &spec.upstreams {
        let mut script = base.clone();
        merge(&mut script, object_or_empty(over));
        let script = serde_json::from_value(script)
            .with_context(|| format!("{name}: upstreams.{cluster}"))?;
        upstreams.insert(cluster.clone(), script);
    }
    Ok(Scenario {
        group: group.to_owned(),
        digest: digest(&merged),
        source: merged,
        clients,
        upstreams,
        spec,
    })
}

/// FNV-1a over what takes part in a run.
fn digest(merged: &Value) -> String {
    let mut relevant = merged.clone();
    if let Some(map) = relevant.as_object_mut() {
        for key in ["about", "compare", "differs"] {
            map.shift_remove(key);
        }
    }
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in relevant.to_string().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("{hash:016x}")
}

/// The cases that a template with `vary` stands for.
pub(crate) fn expand(mut raw: Map<String, Value>) -> anyhow::Result<Vec<Value>> {
    let rows: Vec<Map<String, Value>> = match raw.shift_remove("vary") {
        None => return Ok(vec![Value::Object(raw)]),
        Some(Value::Array(rows)) => rows
            .into_iter()
            .map(|row| match row {
                Value::Object(row) => Ok(row),
                other => bail!("vary: {other} is not a map"),
            })
            .collect::<anyhow::Result<_>>()?,
        Some(Value::Object(axes)) => {
            let mut rows = vec![Map::new()];
            for (name, values) in axes {
                let values = values
                    .as_array()
                    .with_context(|| format!("vary.{name} is not a list"))?;
                rows = rows
                    .iter()
                    .flat_map(|row| {
                        values.iter().map(|value| {
                            let mut row = row.clone();
                            row.insert(name.clone(), value.clone());
                            row
                        })
                    })
                    .collect();
            }
            rows
        }
        Some(other) => bail!("vary: {other} is neither a map nor a list"),
    };
    let pattern = Regex::new(r"<([a-z_][a-z0-9_]*)((?:\.[a-z0-9_]+)*)>")?;
    let template = Value::Object(raw);
    rows.iter()
        .map(|row| substitute(&template, row, &pattern))
        .collect()
}

fn substitute(value: &Value, row: &Map<String, Value>, pattern: &Regex) -> anyhow::Result<Value> {
    Ok(match value {
        Value::String(text) => {
            if let Some(found) = pattern.captures(text)
                && found.get(0).is_some_and(|m| m.as_str() == text)
                && let Some(value) = lookup(row, &found[1], &found[2])?
            {
                return Ok(value.clone());
            }
            Value::String(substitute_text(text, row, pattern)?)
        }
        Value::Array(items) => items
            .iter()
            .map(|item| substitute(item, row, pattern))
            .collect::<anyhow::Result<_>>()?,
        Value::Object(map) => {
            let mut out = Map::new();
            for (key, item) in map {
                let key = substitute_text(key, row, pattern)?;
                out.insert(key, substitute(item, row, pattern)?);
            }
            Value::Object(out)
        }
        other => other.clone(),
    })
}

fn substitute_text(
    text: &str,
    row: &Map<String, Value>,
    pattern: &Regex,
) -> anyhow::Result<String> {
    let mut out = String::new();
    let mut from = 0;
    for found in pattern.captures_iter(text) {
        let Some(whole) = found.get(0) else { continue };
        out.push_str(&text[from..whole.start()]);
        match lookup(row, &found[1], &found[2])? {
            None => out.push_str(whole.as_str()),
            Some(Value::String(value)) => out.push_str(value),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => out.push_str(&value.to_string()),
            Some(_) => bail!("{}: not a plain value inside a text", whole.as_str()),
        }
        from = whole.end();
    }
    out.push_str(&text[from..]);
    Ok(out)
}

fn lookup<'a>(
    row: &'a Map<String, Value>,
    name: &str,
    fields: &str,
) -> anyhow::Result<Option<&'a Value>> {
    let Some(mut value) = row.get(name) else {
        return Ok(None);
    };
    for field in fields.split('.').filter(|f| !f.is_empty()) {
        value = value
            .get(field)
            .with_context(|| format!("<{name}{fields}>: no such field"))?;
    }
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_becomes_one_scenario_per_combination() -> anyhow::Result<()> {
        let group = parse(
            "group: g\ndefaults: {client: {path: /d}}\nscenarios:\n- name: s-<m.name>-<c>\n  vary: {m: [{name: a, code: 401}, {name: b, code: 402}], c: [h1, h2]}\n  client: {protocol: <c>}\n  upstream: {status: <m.code>}\n",
            Path::new("."),
        )?;
        let names: Vec<_> = group
            .scenarios
            .iter()
            .map(|s| s.spec.name.as_str())
            .collect();
        assert_eq!(names, ["s-a-h1", "s-a-h2", "s-b-h1", "s-b-h2"]);
        assert_eq!(group.scenarios[3].clients[0].path, "/d");
        assert_eq!(group.scenarios[3].upstreams["upstream"].status, 402);
        Ok(())
    }

    #[test]
    fn errors_name_the_scenario() {
        let error = parse(
            "group: g\nscenarios:\n- {name: bad, procesor: {}}\n",
            Path::new("."),
        )
        .map(|_| ())
        .map_err(|e| format!("{e:#}"));
        assert!(
            error
                .as_ref()
                .is_err_and(|e| e.contains("bad") && e.contains("procesor")),
            "{error:?}"
        );
    }

    #[test]
    fn null_removes_a_default() {
        let mut base = serde_json::json!({"a": {"b": 1, "c": 2}});
        merge(&mut base, serde_json::json!({"a": {"b": null, "d": 3}}));
        assert_eq!(base, serde_json::json!({"a": {"c": 2, "d": 3}}));
    }
}
