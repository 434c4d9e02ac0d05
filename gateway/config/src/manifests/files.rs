//! Manifests in files: what the API server would refuse is refused with its place, the rest is
//! translated.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    Condition, Kind, Objects, Scope, Serve, Translation,
    schema::{self, Step},
    translate,
    types::{AGENTGATEWAY, GATEWAY_API, Gateway, Key},
};
use crate::{
    Error,
    document::{Document, Fault, NodeId, Reader},
    snapshot::{EndpointAddress, Snapshot},
};

/// Facts that a cluster would give and files do not.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// Addresses of Services' ports, for Services without EndpointSlices.
    pub endpoints: BTreeMap<(Key, u16), Vec<EndpointAddress>>,
    /// Ports to bind in place of those of the listeners.
    pub listen_ports: BTreeMap<u16, u16>,
    /// Backends may be on the gateway's own machine. See [`Scope::local_backends`].
    pub local_backends: bool,
    /// The namespace of objects that name none, as `kubectl -n` has it. Default `default`.
    pub namespace: String,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            endpoints: BTreeMap::new(),
            listen_ports: BTreeMap::new(),
            local_backends: false,
            namespace: "default".into(),
        }
    }
}

/// The files of a folder that may hold manifests, by name. Hidden ones are left out: a mounted
/// ConfigMap keeps its own there.
pub(crate) fn list(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let known = path
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if !hidden && known && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Returns whether a file holds manifests: its first document says of what version and kind it is.
pub(crate) fn is_manifests(document: &Document) -> bool {
    document.roots().iter().any(|root| {
        document.field(*root, "apiVersion").is_some() && document.field(*root, "kind").is_some()
    })
}

/// Translates these documents. `source` is the path named on the command line.
pub(crate) fn snapshot(
    source: &str,
    documents: &[Document],
    options: &FileOptions,
) -> Result<Snapshot, Error> {
    let mut loader = Loader {
        options,
        objects: Objects::default(),
        known: BTreeSet::new(),
        skipped: BTreeMap::new(),
    };
    for document in documents {
        loader.document(document)?;
    }
    if loader.objects.iter::<Gateway>().next().is_none() {
        return Err(Error::whole(source, "no Gateway: nothing would be served"));
    }
    let scope = Scope {
        endpoints: options.endpoints.clone(),
        listen_ports: options.listen_ports.clone(),
        local_backends: options.local_backends,
        ..Scope::new(Serve::Together)
    };
    let mut translation = translate(&loader.objects, &scope);
    if !translation.without_endpoints.is_empty() {
        let missing = &translation.without_endpoints;
        let flags: Vec<String> = missing
            .iter()
            .map(|(key, port)| format!("--endpoints {key}:{port}=HOST:PORT"))
            .collect();
        return Err(Error::whole(
            source,
            format!(
                "no EndpointSlice says where {} live; say it with {}",
                missing
                    .iter()
                    .map(|(key, port)| format!("Service {key}:{port}"))
                    .collect::<Vec<_>>()
                    .join(", "),
                flags.join(" ")
            ),
        ));
    }
    let mut warnings = remarks(&translation);
    if !loader.skipped.is_empty() {
        let kinds: Vec<String> = loader
            .skipped
            .iter()
            .map(|(kind, count)| format!("{kind} ({count})"))
            .collect();
        warnings.insert(
            0,
            format!("{source}: not needed here: {}", kinds.join(", ")),
        );
    }
    translation.snapshot.warnings = warnings;
    Ok(translation.snapshot)
}

struct Loader<'a> {
    options: &'a FileOptions,
    objects: Objects,
    known: BTreeSet<(Kind, Key)>,
    /// Kinds that mean nothing here, with their number.
    skipped: BTreeMap<String, usize>,
}

impl Loader<'_> {
    fn document(&mut self, document: &Document) -> Result<(), Error> {
        for (index, root) in document.roots().iter().enumerate() {
            if document.is_null(*root) {
                continue;
            }
            self.object(document, *root)
                .map_err(|fault| in_document(document, index, fault))?;
        }
        Ok(())
    }

    fn object(&mut self, document: &Document, root: NodeId) -> Result<(), Fault> {
        let text = |name: &str| {
            document
                .field(root, name)
                .and_then(|node| document.string(node))
                .filter(|text| !text.is_empty())
                .ok_or_else(|| Fault::at(root, format!("missing field {name:?}")))
        };
        let (version, name) = (text("apiVersion")?, text("kind")?);
        if version == "v1" && name == "List" {
            let items = document.field(root, "items");
            for item in items.map_or(&[][..], |items| document.items(items)) {
                self.object(document, *item)?;
            }
            return Ok(());
        }
        let (group, version_name) = version.split_once('/').unwrap_or(("", version));
        let Some(kind) = Kind::of(group, name) else {
            return self.skip(document, root, group, name);
        };
        if !kind.versions().contains(&version_name) {
            let node = document.field(root, "apiVersion").unwrap_or(root);
            return Err(Fault::at(
                node,
                format!(
                    "no kind {name} in version {version:?}; known are {}",
                    kind.versions().join(", ")
                ),
            ));
        }
        let reader = Reader::new(document, |_, _| None);
        let mut value: Value = reader.read(root)?;
        schema::check(kind, &mut value)
            .map_err(|refusal| Fault::at(find(document, root, &refusal.path), refusal.message))?;
        let key = self.name(kind, &mut value);
        if !self.known.insert((kind, key.clone())) {
            return Err(Fault::at(root, format!("{name} {key} is given twice")));
        }
        self.objects
            .insert_json(kind, value)
            .map(|_| ())
            .map_err(|message| Fault::at(root, message))
    }

    /// Gives the object its namespace.
    fn name(&self, kind: Kind, value: &mut Value) -> Key {
        let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
            return Key::default();
        };
        if kind.namespaced() {
            let namespace = metadata
                .entry("namespace")
                .or_insert_with(|| Value::String(String::new()));
            if namespace.as_str().is_none_or(str::is_empty) {
                *namespace = Value::String(self.options.namespace.clone());
            }
        } else {
            metadata.remove("namespace");
        }
        let text = |name: &str| {
            let value = metadata.get(name).and_then(Value::as_str);
            value.unwrap_or_default().to_owned()
        };
        Key::new(text("namespace"), text("name"))
    }

    fn skip(
        &mut self,
        document: &Document,
        root: NodeId,
        group: &str,
        name: &str,
    ) -> Result<(), Fault> {
        /// Kinds of the groups that are read here which have no meaning in files.
        const OTHERS: &[(&str, &str)] = &[
            (GATEWAY_API, "BackendTLSPolicy"),
            (GATEWAY_API, "GRPCRoute"),
            (GATEWAY_API, "ListenerSet"),
            (GATEWAY_API, "TCPRoute"),
            (GATEWAY_API, "TLSRoute"),
            (GATEWAY_API, "UDPRoute"),
            (AGENTGATEWAY, "AgentgatewayParameters"),
        ];
        let ours = group == GATEWAY_API || group == AGENTGATEWAY;
        if ours && !OTHERS.contains(&(group, name)) {
            let node = document.field(root, "kind").unwrap_or(root);
            return Err(Fault::at(
                node,
                format!("group {group} has no kind {name:?}"),
            ));
        }
        *self.skipped.entry(name.to_owned()).or_default() += 1;
        Ok(())
    }
}

/// The part of an object that a path leads to; as near as there is one.
fn find(document: &Document, root: NodeId, path: &[Step]) -> NodeId {
    let mut node = root;
    for step in path {
        let next = match step {
            Step::Field(name) => document.field(node, name),
            Step::Item(index) => document.items(node).get(*index).copied(),
        };
        match next {
            Some(next) => node = next,
            None => break,
        }
    }
    node
}

/// Says which of several documents is meant.
fn in_document(document: &Document, index: usize, fault: Fault) -> Error {
    match document.roots().len() {
        1 => document.error(fault),
        _ => document.error(fault.within(&format!("document {}", index + 1))),
    }
}

/// One line for each condition that is not as it should be.
pub(super) fn remarks(translation: &Translation) -> Vec<String> {
    let statuses = &translation.statuses;
    let mut lines = Vec::new();
    let mut add = |object: String, conditions: &[Condition]| {
        for condition in conditions {
            let good = match condition.kind {
                "Conflicted" | "PartiallyInvalid" => !condition.status,
                _ => condition.status && !matches!(condition.reason, "PartiallyValid"),
            };
            // What is not accepted is not programmed either.
            if !good && condition.kind != "Programmed" {
                lines.push(format!(
                    "{object}: {} ({}): {}",
                    condition.kind, condition.reason, condition.message
                ));
            }
        }
    };
    for (key, status) in &statuses.gateways {
        add(format!("Gateway {key}"), &status.conditions);
        for listener in &status.listeners {
            let object = format!("Gateway {key}, listener {}", listener.name);
            add(object, &listener.conditions);
        }
    }
    for (key, parents) in &statuses.routes {
        for parent in parents {
            add(format!("HTTPRoute {key}"), &parent.conditions);
        }
    }
    for (key, ancestors) in &statuses.policies {
        for ancestor in ancestors {
            add(format!("AgentgatewayPolicy {key}"), &ancestor.conditions);
        }
    }
    for (key, conditions) in &statuses.backends {
        add(format!("AgentgatewayBackend {key}"), conditions);
    }
    lines
}
