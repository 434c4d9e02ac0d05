//! Brings objects to the API server, and away, and only where something differs.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use kube::{
    Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::Value;

use super::{
    kinds::Kind,
    mirror::{Key, Mirror, version},
    owned::MANAGED_BY,
};

/// The name under which fields are owned.
const MANAGER: &str = "extproc-gateway";

/// Writes the objects that the controller keeps.
pub(super) struct Keeper {
    client: Client,
    /// Hash of the state that was written last, and the version that the API server gave it.
    written: BTreeMap<Key, (u64, Option<String>)>,
}

/// Reason why an object could not be brought into its state.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError {
    /// Somebody else's object has the name.
    #[error("{0} exists and does not belong to this Gateway")]
    Foreign(Key),
    /// An object of a Gateway that had the name before is still there.
    #[error("{0} of an earlier Gateway has to go first")]
    Leaving(Key),
    /// The API server's answer.
    #[error("{0}: {1}")]
    Refused(Key, #[source] kube::Error),
}

impl Keeper {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            written: BTreeMap::new(),
        }
    }

    /// Forgets what was written, so that everything is looked at anew.
    pub(super) fn forget(&mut self) {
        self.written.clear();
    }

    /// Makes an object be as `desired` says, in the fields that it names.
    pub(super) async fn keep(
        &mut self,
        mirror: &Mirror,
        key: &Key,
        desired: &Value,
    ) -> Result<(), KeepError> {
        let refused = |error| KeepError::Refused(key.clone(), error);
        let mut hasher = DefaultHasher::new();
        desired.to_string().hash(&mut hasher);
        let hash = hasher.finish();
        let present = mirror.get(key);
        let version = present.as_deref().and_then(version).map(str::to_owned);
        if let (Some((written, at)), Some(_)) = (self.written.get(key), &present)
            && *written == hash
            && *at == version
        {
            return Ok(());
        }
        let api = key.kind.api(&self.client, Some(&key.namespace));
        let there = match present {
            Some(present) => Some(present),
            // It may be there all the same: the mirror does not show what is not ours.
            None => match api.get_opt(&key.name).await.map_err(refused)? {
                Some(there) => serde_json::to_value(there).ok().map(Arc::new),
                None => None,
            },
        };
        if let Some(there) = there {
            if !ours(&there) {
                return Err(KeepError::Foreign(key.clone()));
            }
            if !same_owner(&there, desired) {
                // Left behind by a Gateway of the same name.
                self.remove(key, &there).await?;
                return Err(KeepError::Leaving(key.clone()));
            }
        }
        let parameters = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(desired);
        let answer = api.patch(&key.name, &parameters, &patch).await;
        let object = answer.map_err(refused)?;
        let now = object.metadata.resource_version.clone();
        self.written.insert(key.clone(), (hash, now));
        mirror.learn(key.kind, version.as_deref(), object);
        Ok(())
    }

    /// Takes away what the controller kept for Gateways that are gone or no longer ours.
    pub(super) async fn sweep(
        &mut self,
        objects: &BTreeMap<Key, Arc<Value>>,
        wanted: &BTreeSet<Key>,
    ) -> Result<(), KeepError> {
        self.written.retain(|key, _| wanted.contains(key));
        for (key, object) in objects {
            if wanted.contains(key) || !super::owned::KINDS.contains(&key.kind) || !ours(object) {
                continue;
            }
            self.remove(key, object).await?;
        }
        Ok(())
    }

    async fn remove(&self, key: &Key, object: &Value) -> Result<(), KeepError> {
        let api = key.kind.api(&self.client, Some(&key.namespace));
        let parameters = DeleteParams {
            // Not an object that has taken the name since.
            preconditions: Some(Preconditions {
                uid: object["metadata"]["uid"].as_str().map(str::to_owned),
                resource_version: None,
            }),
            ..DeleteParams::background()
        };
        match api.delete(&key.name, &parameters).await {
            Ok(_) => tracing::info!(object = %key, "removed"),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(KeepError::Refused(key.clone(), error)),
        }
        Ok(())
    }
}

fn ours(object: &Value) -> bool {
    object["metadata"]["labels"][MANAGED_BY.0] == MANAGED_BY.1
}

/// Objects without an owner are told by their names alone.
fn same_owner(there: &Value, desired: &Value) -> bool {
    let owner = |object: &Value| object["metadata"]["ownerReferences"][0]["uid"].clone();
    owner(desired).is_null() || owner(there) == owner(desired)
}

/// The interests of a controller in what it keeps.
pub(super) fn label_selector() -> String {
    format!("{}={}", MANAGED_BY.0, MANAGED_BY.1)
}

/// Kinds that are watched by [`label_selector`]; Services are watched all.
pub(super) const WATCHED: [Kind; 5] = [
    Kind::ServiceAccount,
    Kind::ClusterRoleBinding,
    Kind::Role,
    Kind::RoleBinding,
    Kind::Deployment,
];
