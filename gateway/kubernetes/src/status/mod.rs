//! Statuses: what translations say of objects, in the API server's form.

mod write;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

pub(super) use self::write::write;
use super::{kinds::Kind, mirror::Key};
use gateway_config::manifests::{
    self, Condition, GatewayStatus, SUPPORTED_FEATURES, Statuses, types::ParentRef,
};

/// State of a Gateway's data plane in the cluster, beside its configuration.
#[derive(Clone, Debug, Default)]
pub(super) struct Workload {
    /// The Service's addresses, as entries of a Gateway's status.
    pub(super) addresses: Vec<Value>,
    /// Pods that serve.
    pub(super) available: i64,
    /// Reason for which the workload cannot be as it should.
    pub(super) problem: Option<String>,
}

impl Workload {
    /// Reads what the API server shows of the Service and the Deployment.
    pub(super) fn new(service: Option<&Value>, deployment: Option<&Value>) -> Self {
        let ingress =
            service.and_then(|service| service["status"]["loadBalancer"]["ingress"].as_array());
        let addresses = ingress.into_iter().flatten().filter_map(|entry| {
            let (kind, value) = match (&entry["ip"], &entry["hostname"]) {
                (Value::String(ip), _) => ("IPAddress", ip),
                (_, Value::String(name)) => ("Hostname", name),
                _ => return None,
            };
            Some(json!({"type": kind, "value": value}))
        });
        Self {
            addresses: addresses.collect(),
            available: deployment
                .and_then(|deployment| deployment["status"]["availableReplicas"].as_i64())
                .unwrap_or_default(),
            problem: None,
        }
    }

    /// Reason and message for a Gateway that has a good configuration and does not serve yet.
    fn lacks(&self) -> Option<(&'static str, String)> {
        if let Some(problem) = &self.problem {
            return Some(("NoResources", problem.clone()));
        }
        if self.addresses.is_empty() {
            return Some((
                "AddressNotAssigned",
                "the Service has no address yet".into(),
            ));
        }
        (self.available == 0).then(|| {
            (
                "Pending",
                "no pod of the data plane is available yet".into(),
            )
        })
    }
}

/// The status that every object of ours should have.
///
/// `objects` are those that the API server has; routes and policies among them that are no longer ours
/// lose what we said of them.
pub(super) fn desired(
    statuses: &Statuses,
    workloads: &BTreeMap<manifests::types::Key, Workload>,
    objects: &BTreeMap<Key, Arc<Value>>,
) -> Vec<(Key, Value)> {
    let mut desired = Vec::new();
    for (name, found) in &statuses.classes {
        let features: Vec<Value> = SUPPORTED_FEATURES
            .iter()
            .map(|name| json!({"name": name}))
            .collect();
        let status = json!({"conditions": conditions(found), "supportedFeatures": features});
        desired.push((Key::new(Kind::GatewayClass, "", name), status));
    }
    let absent = Workload::default();
    for (key, status) in &statuses.gateways {
        let workload = workloads.get(key).unwrap_or(&absent);
        let key = Key::new(Kind::Gateway, &key.namespace, &key.name);
        desired.push((key, gateway(status, workload)));
    }
    for (key, found) in &statuses.backends {
        let key = Key::new(Kind::AgentgatewayBackend, &key.namespace, &key.name);
        desired.push((key, json!({"conditions": conditions(found)})));
    }
    for (key, object) in objects {
        let name = manifests::types::Key::new(&*key.namespace, &*key.name);
        let (list, ours): (_, Vec<Value>) = match key.kind {
            Kind::HttpRoute => {
                let ours = statuses.routes.get(&name).into_iter().flatten();
                let entry = |status: &manifests::RouteParentStatus| {
                    json!({
                        "parentRef": reference(&status.parent),
                        "controllerName": manifests::CONTROLLER,
                        "conditions": conditions(&status.conditions),
                    })
                };
                ("parents", ours.map(entry).collect())
            }
            Kind::AgentgatewayPolicy => {
                let ours = statuses.policies.get(&name).into_iter().flatten();
                let entry = |status: &manifests::AncestorStatus| {
                    json!({
                        "ancestorRef": reference(&status.ancestor),
                        "controllerName": manifests::CONTROLLER,
                        "conditions": conditions(&status.conditions),
                    })
                };
                ("ancestors", ours.map(entry).collect())
            }
            _ => continue,
        };
        let before = object["status"][list].as_array();
        let (mine, theirs): (Vec<&Value>, Vec<&Value>) = before
            .into_iter()
            .flatten()
            .partition(|entry| entry["controllerName"] == manifests::CONTROLLER);
        if ours.is_empty() && mine.is_empty() {
            continue;
        }
        let entries: Vec<Value> = theirs.into_iter().cloned().chain(ours).collect();
        desired.push((key.clone(), json!({list: entries})));
    }
    desired
}

fn gateway(status: &GatewayStatus, workload: &Workload) -> Value {
    let mut own = conditions(&status.conditions);
    let lacks = workload.lacks();
    for condition in &mut own {
        if let (Some((reason, message)), true) = (
            &lacks,
            condition["type"] == "Programmed" && condition["status"] == "True",
        ) {
            condition["status"] = "False".into();
            condition["reason"] = (*reason).into();
            condition["message"] = message.as_str().into();
        }
    }
    let listeners: Vec<Value> = status
        .listeners
        .iter()
        .map(|listener| {
            let kinds: Vec<Value> = listener
                .supported_kinds
                .iter()
                .map(|kind| json!({"group": kind.group, "kind": kind.kind}))
                .collect();
            json!({
                "name": listener.name,
                "supportedKinds": kinds,
                "attachedRoutes": listener.attached_routes,
                "conditions": conditions(&listener.conditions),
            })
        })
        .collect();
    json!({"addresses": workload.addresses, "conditions": own, "listeners": listeners})
}

fn conditions(conditions: &[Condition]) -> Vec<Value> {
    let entry = |condition: &Condition| {
        json!({
            "type": condition.kind,
            "status": if condition.status { "True" } else { "False" },
            "reason": condition.reason,
            "message": condition.message,
            "observedGeneration": condition.observed_generation,
        })
    };
    conditions.iter().map(entry).collect()
}

/// A reference with the fields that are set.
fn reference(parent: &ParentRef) -> Value {
    let mut reference = json!({"group": parent.group, "kind": parent.kind, "name": parent.name});
    if let Some(namespace) = &parent.namespace {
        reference["namespace"] = namespace.as_str().into();
    }
    if let Some(section) = &parent.section_name {
        reference["sectionName"] = section.as_str().into();
    }
    if let Some(port) = parent.port {
        reference["port"] = port.into();
    }
    reference
}
