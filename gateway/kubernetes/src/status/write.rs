//! Compares a status with the one that should be there, and makes the smallest write between the two.
//!
//! Conditions keep the time of their last transition.

use k8s_openapi::jiff::Timestamp;
use kube::{
    Client,
    api::{Patch, PatchParams},
};
use serde_json::{Map, Value, json};

use crate::mirror::{Key, Mirror, version};

/// Writes a status where it differs. Gives whether it was written.
///
/// # Errors
/// The API server refuses or is away. A conflict (the object has changed since) is no error: the change
/// brings us here again.
pub(crate) async fn write(
    client: &Client,
    mirror: &Mirror,
    key: &Key,
    desired: &Value,
) -> kube::Result<bool> {
    let Some(object) = mirror.get(key) else {
        return Ok(false);
    };
    let current = &object["status"];
    let status = timed(desired, current, &now());
    let Some(changes) = difference(current, &status) else {
        return Ok(false);
    };
    let patch = json!({
        "metadata": {"resourceVersion": object["metadata"]["resourceVersion"]},
        "status": changes,
    });
    let api = key.kind.api(client, Some(&key.namespace));
    let parameters = PatchParams::default();
    match api
        .patch_status(&key.name, &parameters, &Patch::Merge(&patch))
        .await
    {
        Ok(answer) => {
            tracing::debug!(object = %key, "status written");
            mirror.learn(key.kind, version(&object), answer);
            Ok(true)
        }
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The current second.
fn now() -> String {
    format!("{:.0}", Timestamp::now())
}

/// The top-level fields of a status that have to change. Only fields of `desired` count, so that a field
/// that we do not know stays.
fn difference(current: &Value, desired: &Value) -> Option<Value> {
    let desired = desired.as_object()?;
    let changes: Map<String, Value> = desired
        .iter()
        .filter(|(field, value)| current.get(field).unwrap_or(&Value::Null) != *value)
        .map(|(field, value)| (field.clone(), value.clone()))
        .collect();
    (!changes.is_empty()).then_some(Value::Object(changes))
}

/// Gives every condition a `lastTransitionTime`, wherever in the status it is: the one it has had if its
/// `status` is the same, otherwise `now`.
fn timed(desired: &Value, current: &Value, now: &str) -> Value {
    match desired {
        Value::Object(fields) => {
            let timed = fields.iter().map(|(field, value)| {
                let before = &current[field.as_str()];
                let value = if field == "conditions" {
                    conditions(value, before, now)
                } else {
                    timed(value, before, now)
                };
                (field.clone(), value)
            });
            Value::Object(timed.collect())
        }
        Value::Array(entries) => {
            let timed = entries.iter().map(|entry| {
                let before = current.as_array().into_iter().flatten();
                let before = before.into_iter().find(|before| same_entry(before, entry));
                timed(entry, before.unwrap_or(&Value::Null), now)
            });
            Value::Array(timed.collect())
        }
        other => other.clone(),
    }
}

/// Entries of lists are told apart by what names them.
fn same_entry(a: &Value, b: &Value) -> bool {
    ["name", "parentRef", "ancestorRef", "controllerName"]
        .iter()
        .all(|field| a[*field] == b[*field])
}

/// Conditions are told apart by their type.
fn conditions(desired: &Value, current: &Value, now: &str) -> Value {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (mut conditions, current) = (list(desired), list(current));
    for condition in &mut conditions {
        let before = current
            .iter()
            .find(|before| before["type"] == condition["type"]);
        let time = before
            .filter(|before| before["status"] == condition["status"])
            .map_or_else(|| now.into(), |before| before["lastTransitionTime"].clone());
        condition["lastTransitionTime"] = time;
    }
    Value::Array(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T00:00:09Z";

    fn condition(kind: &str, status: &str, time: Option<&str>) -> Value {
        let mut condition = json!({"type": kind, "status": status, "reason": "R", "message": ""});
        if let Some(time) = time {
            condition["lastTransitionTime"] = time.into();
        }
        condition
    }

    #[test]
    fn what_is_as_it_should_be_is_not_written() {
        let desired = json!({
            "conditions": [condition("Accepted", "True", None)],
            "listeners": [{"name": "a", "attachedRoutes": 1, "conditions": [condition("Programmed", "True", None)]}],
        });
        let current = timed(&desired, &Value::Null, "2026-01-01T00:00:01Z");
        assert_eq!(difference(&current, &timed(&desired, &current, NOW)), None);
    }

    #[test]
    fn only_a_transition_takes_a_new_time() {
        let old = "2026-01-01T00:00:01Z";
        let current = json!({"parents": [
            {"controllerName": "x", "parentRef": {"name": "a"}, "conditions": [condition("Accepted", "True", Some(old))]},
            {"controllerName": "x", "parentRef": {"name": "b"}, "conditions": [condition("Accepted", "True", Some(old))]},
        ]});
        let desired = json!({"parents": [
            {"controllerName": "x", "parentRef": {"name": "b"}, "conditions": [condition("Accepted", "True", None)]},
            {"controllerName": "x", "parentRef": {"name": "a"}, "conditions": [condition("Accepted", "False", None)]},
        ]});
        let timed = timed(&desired, &current, NOW);
        assert_eq!(
            timed["parents"][0]["conditions"][0]["lastTransitionTime"],
            old
        );
        assert_eq!(
            timed["parents"][1]["conditions"][0]["lastTransitionTime"],
            NOW
        );
        assert!(difference(&current, &timed).is_some());
    }

    #[test]
    fn fields_that_others_write_stay_out_of_the_patch() {
        let current = json!({"attachedListenerSets": 1, "addresses": []});
        let desired = json!({"addresses": [{"value": "10.0.0.1"}]});
        let patch = difference(&current, &desired).unwrap();
        assert_eq!(patch, json!({"addresses": [{"value": "10.0.0.1"}]}));
    }
}
