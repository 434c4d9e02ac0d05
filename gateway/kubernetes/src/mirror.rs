//! A copy of what the API server holds, kept current by watches.
//!
//! The copy outlives the API server: while it is away, or a watch has to begin anew, the last state
//! that was complete stays. A list that begins anew replaces the old one only when it is complete.
//! There are two forms of an object here: the typed one that translations read, and the API server's own,
//! which only the controller needs.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use kube::{
    Client,
    api::DynamicObject,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle};

use super::kinds::Kind;
use gateway_config::manifests::{Objects, types};

/// Names an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) kind: Kind,
    /// Empty where the kind has none.
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    pub(super) fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    fn of(kind: Kind, object: &DynamicObject) -> Self {
        Self::new(
            kind,
            object.metadata.namespace.as_deref().unwrap_or_default(),
            object.metadata.name.as_deref().unwrap_or_default(),
        )
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind.name())?;
        f.write_str(" ")?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// Objects that a watch asks for.
#[derive(Clone, Debug)]
pub(super) struct Interest {
    kind: Kind,
    /// All namespaces if unset.
    namespace: Option<String>,
    /// Only the object of this name.
    name: Option<String>,
    /// A field selector beside the name.
    fields: Option<&'static str>,
    /// A label selector.
    labels: Option<String>,
}

impl Interest {
    /// All objects of a kind.
    pub(super) fn all(kind: Kind) -> Self {
        Self {
            kind,
            namespace: None,
            name: None,
            fields: None,
            labels: None,
        }
    }

    /// One object.
    pub(super) fn one(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            namespace: Some(namespace.into()),
            name: Some(name.into()),
            ..Self::all(kind)
        }
    }

    /// Objects that a field selector chooses.
    pub(super) fn of_fields(kind: Kind, fields: &'static str) -> Self {
        Self {
            fields: Some(fields),
            ..Self::all(kind)
        }
    }

    /// Objects with these labels.
    pub(super) fn labelled(kind: Kind, labels: &str) -> Self {
        Self {
            labels: Some(labels.into()),
            ..Self::all(kind)
        }
    }

    fn config(&self) -> watcher::Config {
        let mut config = watcher::Config::default();
        if let Some(name) = &self.name {
            config = config.fields(&format!("metadata.name={name}"));
        }
        if let Some(fields) = self.fields {
            config = config.fields(fields);
        }
        if let Some(labels) = &self.labels {
            config = config.labels(labels);
        }
        config
    }
}

/// Choice to keep objects as the API server gave them, beside their typed form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// They are; every change of theirs counts.
    Raw,
    /// Only their names are; what counts is a change of what a translation reads.
    Names,
}

/// The copy. Clones share it.
#[derive(Clone)]
pub(super) struct Mirror {
    client: Client,
    keep: Keep,
    state: Arc<Mutex<State>>,
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    next: u64,
    sources: BTreeMap<u64, Source>,
    typed: Objects,
}

struct Source {
    interest: Interest,
    /// The first list is complete, or was refused.
    settled: bool,
    /// The first list is complete.
    listed: bool,
    /// Null if only names are kept.
    objects: BTreeMap<Key, Arc<Value>>,
}

/// Keeps one watch going; dropping it ends the watch and forgets its objects.
pub(super) struct Watch {
    mirror: Mirror,
    id: u64,
    task: JoinHandle<()>,
}

impl Watch {
    /// Returns whether it has been read what there is.
    pub(super) fn listed(&self) -> bool {
        let state = self.mirror.state();
        let source = state.sources.get(&self.id);
        source.is_some_and(|source| source.listed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
        let mut state = self.mirror.state();
        if let Some(source) = state.sources.remove(&self.id) {
            for key in source.objects.into_keys() {
                forget(&mut state.typed, &key);
            }
        }
        drop(state);
        self.mirror.bump();
    }
}

impl Mirror {
    pub(super) fn new(client: Client, keep: Keep) -> Self {
        Self {
            client,
            keep,
            state: Arc::default(),
            version: watch::Sender::new(0),
        }
    }

    /// Starts a watch on the current runtime.
    pub(super) fn watch(&self, interest: Interest) -> Watch {
        let id = {
            let mut state = self.state();
            state.next += 1;
            let id = state.next;
            let source = Source {
                interest: interest.clone(),
                settled: false,
                listed: false,
                objects: BTreeMap::new(),
            };
            state.sources.insert(id, source);
            id
        };
        let mirror = self.clone();
        let task = tokio::spawn(async move { mirror.follow(id, interest).await });
        Watch {
            mirror: self.clone(),
            id,
            task,
        }
    }

    /// Gets word of every change.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Returns whether every watch has had its first list; a kind that is not installed, or a single object
    /// that is not ours to see, counts as none.
    pub(super) fn settled(&self) -> bool {
        self.state().sources.values().all(|source| source.settled)
    }

    /// The kinds whose first list is still awaited.
    pub(super) fn awaited(&self) -> Vec<&'static str> {
        let state = self.state();
        let awaited = state.sources.values().filter(|source| !source.settled);
        awaited.map(|source| source.interest.kind.name()).collect()
    }

    /// One object.
    pub(super) fn get(&self, key: &Key) -> Option<Arc<Value>> {
        let state = self.state();
        let mut sources = state.sources.values();
        sources.find_map(|source| source.objects.get(key).cloned())
    }

    /// Input of a translation.
    pub(super) fn typed(&self) -> Objects {
        self.state().typed.clone()
    }

    /// All objects.
    pub(super) fn objects(&self) -> BTreeMap<Key, Arc<Value>> {
        let state = self.state();
        let objects = state.sources.values().flat_map(|source| &source.objects);
        objects
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect()
    }

    /// Puts in what a write gave back, ahead of the watch that will tell the same. `before` is the version of the
    /// object that was written over: if the mirror has another one, the watch was faster and may know more.
    pub(super) fn learn(&self, kind: Kind, before: Option<&str>, object: DynamicObject) {
        let key = Key::of(kind, &object);
        let Some(value) = value(kind, object) else {
            return;
        };
        let mut state = self.state();
        let mut sources = state.sources.values_mut();
        if let Some(known) = sources.find_map(|source| source.objects.get_mut(&key))
            && version(known) == before
        {
            *known = Arc::new(value);
        }
    }

    async fn follow(&self, id: u64, interest: Interest) {
        let kind = interest.kind;
        let api = kind.api(&self.client, interest.namespace.as_deref());
        let stream = watcher(api, interest.config()).backoff(Delays::default());
        let mut stream = std::pin::pin!(stream);
        let mut fresh = BTreeMap::new();
        let mut failing = false;
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => {
                    if failing {
                        tracing::info!(kind = kind.name(), "the API server answers again");
                        failing = false;
                    }
                    self.take(id, kind, event, &mut fresh);
                }
                Err(error) => {
                    if refused(&error, &interest) {
                        self.settle(id);
                    }
                    if !failing {
                        tracing::warn!(kind = kind.name(), %error, "cannot watch; trying again");
                    }
                    failing = true;
                }
            }
        }
    }

    fn take(
        &self,
        id: u64,
        kind: Kind,
        event: Event<DynamicObject>,
        fresh: &mut BTreeMap<Key, Value>,
    ) {
        let mut state = self.state();
        let State { sources, typed, .. } = &mut *state;
        let Some(source) = sources.get_mut(&id) else {
            return;
        };
        let changed = match event {
            Event::Init => {
                fresh.clear();
                false
            }
            Event::InitApply(object) => {
                let key = Key::of(kind, &object);
                if let Some(value) = value(kind, object) {
                    fresh.insert(key, value);
                }
                false
            }
            Event::InitDone => {
                source.settled = true;
                let mut changed = !std::mem::replace(&mut source.listed, true);
                let fresh = std::mem::take(fresh);
                source.objects.retain(|key, _| {
                    let stays = fresh.contains_key(key);
                    if !stays {
                        forget(typed, key);
                        changed = true;
                    }
                    stays
                });
                for (key, value) in fresh {
                    changed |= self.put(source, typed, key, value);
                }
                changed
            }
            Event::Apply(object) => {
                let key = Key::of(kind, &object);
                value(kind, object).is_some_and(|value| self.put(source, typed, key, value))
            }
            Event::Delete(object) => {
                let key = Key::of(kind, &object);
                forget(typed, &key);
                source.objects.remove(&key).is_some()
            }
        };
        drop(state);
        if changed {
            self.bump();
        }
    }

    /// Says whether anything changed that counts.
    fn put(&self, source: &mut Source, typed: &mut Objects, key: Key, value: Value) -> bool {
        let (raw, read) = match self.keep {
            Keep::Raw => (value.clone(), value),
            Keep::Names => (Value::Null, value),
        };
        let mut changed = match key.kind.manifest() {
            Some(kind) => typed.insert_json(kind, read).unwrap_or_else(|error| {
                // The version before stays in force.
                tracing::error!(object = %key, error, "cannot be read");
                false
            }),
            None => false,
        };
        if source.objects.get(&key).is_none_or(|known| **known != raw) {
            changed |= self.keep == Keep::Raw;
            source.objects.insert(key, Arc::new(raw));
        }
        changed
    }

    fn settle(&self, id: u64) {
        let mut state = self.state();
        let Some(source) = state.sources.get_mut(&id) else {
            return;
        };
        let was = std::mem::replace(&mut source.settled, true);
        drop(state);
        if !was {
            self.bump();
        }
    }

    fn bump(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An object without what nobody reads; items of a list come without their type.
fn value(kind: Kind, mut object: DynamicObject) -> Option<Value> {
    object.metadata.managed_fields = None;
    let mut value = serde_json::to_value(object).ok()?;
    value["apiVersion"] = kind.api_version().into();
    value["kind"] = kind.name().into();
    Some(value)
}

/// The version of an object.
pub(super) fn version(object: &Value) -> Option<&str> {
    object["metadata"]["resourceVersion"].as_str()
}

fn forget(typed: &mut Objects, key: &Key) {
    if let Some(kind) = key.kind.manifest() {
        typed.remove(kind, &types::Key::new(&*key.namespace, &*key.name));
    }
}

/// Returns whether there is nothing to wait for: the kind is not installed, or a single object is not ours
/// to see. A whole kind that is not ours to see is a matter of moments or of a wrong installation;
/// serving without it would be guessing.
fn refused(error: &watcher::Error, interest: &Interest) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => {
            status.code == 404 || (status.code == 403 && interest.name.is_some())
        }
        _ => false,
    }
}

/// Waiting times between attempts: doubling from 100 ms to 5 s, with a random part so that many
/// gateways do not come back at one moment; from the beginning after an attempt that succeeded.
#[derive(Default)]
struct Delays {
    failures: u32,
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        const FIRST: u64 = 100;
        const LAST: u64 = 5000;
        let base = (FIRST << self.failures.min(10)).min(LAST);
        self.failures += 1;
        Some(Duration::from_millis(
            base / 2 + rand::random_range(0..=base / 2),
        ))
    }
}

impl kube::runtime::utils::Backoff for Delays {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Waits for a change and then for a moment without one, at most [`LONGEST`](changed::LONGEST).
pub(super) async fn changed(changes: &mut watch::Receiver<u64>) {
    /// Objects that belong together are mostly written together.
    const QUIET: Duration = Duration::from_millis(20);
    const LONGEST: Duration = Duration::from_millis(200);
    if changes.changed().await.is_err() {
        return std::future::pending().await;
    }
    let deadline = tokio::time::Instant::now() + LONGEST;
    loop {
        changes.mark_unchanged();
        let quiet = (tokio::time::Instant::now() + QUIET).min(deadline);
        match tokio::time::timeout_at(quiet, changes.changed()).await {
            Ok(Ok(())) if tokio::time::Instant::now() < deadline => {}
            _ => {
                changes.mark_unchanged();
                return;
            }
        }
    }
}

#[cfg(test)]
impl Mirror {
    /// One whose API server never answers.
    pub(super) fn deaf(keep: Keep) -> Self {
        let nothing = tower::service_fn(|_: http::Request<kube::client::Body>| {
            std::future::pending::<Result<http::Response<kube::client::Body>, std::io::Error>>()
        });
        Self::new(Client::new(nothing, "default"), keep)
    }

    /// Events that a list gives to a watch.
    pub(super) fn list(&self, watch: &Watch, kind: Kind, objects: &[Value]) {
        let mut fresh = BTreeMap::new();
        self.take(watch.id, kind, Event::Init, &mut fresh);
        for object in objects {
            let object = serde_json::from_value(object.clone()).unwrap();
            self.take(watch.id, kind, Event::InitApply(object), &mut fresh);
        }
        self.take(watch.id, kind, Event::InitDone, &mut fresh);
    }

    /// Events of a watch whose list is forbidden.
    pub(super) fn forbid(&self, watch: &Watch) {
        self.settle(watch.id);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn gateway(version: &str) -> Value {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"namespace": "n", "name": "g", "resourceVersion": version},
            "spec": {"gatewayClassName": "c", "listeners": []},
        })
    }

    #[tokio::test]
    async fn an_answer_to_a_write_does_not_replace_what_came_after_it() {
        let mirror = Mirror::deaf(Keep::Raw);
        let watch = mirror.watch(Interest::all(Kind::Gateway));
        mirror.list(&watch, Kind::Gateway, &[gateway("1")]);
        let key = Key::new(Kind::Gateway, "n", "g");
        let known = || {
            mirror
                .get(&key)
                .and_then(|known| Some(version(&known)?.to_owned()))
        };
        let answered = |before: &str, version: &str| {
            let object = serde_json::from_value(gateway(version)).unwrap();
            mirror.learn(Kind::Gateway, Some(before), object);
        };
        answered("1", "2");
        assert_eq!(known().as_deref(), Some("2"));
        // Somebody else wrote version 4 after our 3, and the watch has told of both before the answer is read.
        mirror.list(&watch, Kind::Gateway, &[gateway("4")]);
        answered("2", "3");
        assert_eq!(known().as_deref(), Some("4"));
    }
}
