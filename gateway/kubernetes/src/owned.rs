//! Objects that the controller keeps for each Gateway: the data plane's Deployment, Service and ServiceAccount, named after the
//! Gateway and beside it, and the rights that the data plane needs.
//!
//! Nothing here talks to the API server. `replicas` is nobody's business here, so that
//! `kubectl scale` and an autoscaler keep what they set.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{kinds::Kind, mirror::Key};
use gateway_config::manifests::types;

/// The label of everything that the controller keeps.
pub(super) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "extproc-gateway");
/// The Gateway API's label for what belongs to a Gateway.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
const GATEWAY_CLASS_NAME: &str = "gateway.networking.k8s.io/gateway-class-name";
/// The ClusterRole of data planes; part of the installation.
const DATA_PLANE_ROLE: &str = "extproc-gateway-data-plane";
/// The data plane's admin server.
pub const ADMIN_PORT: u16 = 15000;
/// The user and group that containers run as.
const USER: u32 = 65532;

/// The kinds that the controller keeps.
pub(super) const KINDS: [Kind; 6] = [
    Kind::ServiceAccount,
    Kind::ClusterRoleBinding,
    Kind::Role,
    Kind::RoleBinding,
    Kind::Service,
    Kind::Deployment,
];

/// Settings that all data planes have in common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The container image.
    pub image: String,
    /// `imagePullPolicy`.
    pub pull_policy: String,
    /// Most memory of a container, as Kubernetes writes quantities. Of it the gateway makes its own limits, at which it
    /// sheds load before the kernel ends it.
    pub memory: String,
    /// Seconds from SIGTERM until connections are told to finish.
    pub drain_delay: u64,
}

/// Everything that should be there for one Gateway, in the order in which it is needed.
///
/// `secrets` are the certificates' Secrets that the Gateway may use.
pub(super) fn desired(
    gateway: &Value,
    secrets: &BTreeSet<types::Key>,
    settings: &Settings,
) -> BTreeMap<Key, Value> {
    let gateway = Gateway::new(gateway);
    let mut objects = BTreeMap::new();
    let mut add = |kind: Kind, namespace: &str, name: &str, rest: Value| {
        let mut object = json!({
            "apiVersion": kind.api_version(),
            "kind": kind.name(),
            "metadata": gateway.metadata(namespace, name),
        });
        if let (Some(object), Value::Object(rest)) = (object.as_object_mut(), rest) {
            object.extend(rest);
        }
        objects.insert(Key::new(kind, namespace, name), object);
    };
    let (namespace, name) = (gateway.namespace, gateway.name);
    let subject = json!([{"kind": "ServiceAccount", "name": name, "namespace": namespace}]);

    add(Kind::ServiceAccount, namespace, name, json!({}));
    let role = |kind: Kind, name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind.name(), "name": name});
    let global = format!("extproc-gateway:{namespace}:{name}");
    add(
        Kind::ClusterRoleBinding,
        "",
        &global,
        json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": DATA_PLANE_ROLE}, "subjects": subject}),
    );
    let mut by_namespace: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for secret in secrets {
        let names = by_namespace.entry(&secret.namespace).or_default();
        names.push(&secret.name);
    }
    for (namespace, names) in by_namespace {
        let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": names, "verbs": ["get", "list", "watch"]}]);
        add(Kind::Role, namespace, &global, json!({"rules": rules}));
        add(
            Kind::RoleBinding,
            namespace,
            &global,
            json!({"roleRef": role(Kind::Role, &global), "subjects": subject}),
        );
    }
    if let Some(service) = gateway.service() {
        add(Kind::Service, namespace, name, service);
    }
    add(
        Kind::Deployment,
        namespace,
        name,
        gateway.deployment(settings),
    );
    objects
}

struct Gateway<'a> {
    object: &'a Value,
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Gateway<'a> {
    fn new(object: &'a Value) -> Self {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        Self {
            object,
            namespace: text("namespace"),
            name: text("name"),
        }
    }

    /// Labels and annotations of `spec.infrastructure`, ours above them, and the owner where one
    /// can be named: within its namespace.
    fn metadata(&self, namespace: &str, name: &str) -> Value {
        let mut metadata = json!({"name": name, "labels": self.labels()});
        if !namespace.is_empty() {
            metadata["namespace"] = namespace.into();
        }
        let annotations = &self.object["spec"]["infrastructure"]["annotations"];
        if annotations.is_object() {
            metadata["annotations"] = annotations.clone();
        }
        if namespace == self.namespace {
            metadata["ownerReferences"] = json!([{
                "apiVersion": Kind::Gateway.api_version(),
                "kind": Kind::Gateway.name(),
                "name": self.name,
                "uid": self.object["metadata"]["uid"],
                "controller": true,
            }]);
        }
        metadata
    }

    fn labels(&self) -> Map<String, Value> {
        let mut labels = match &self.object["spec"]["infrastructure"]["labels"] {
            Value::Object(labels) => labels.clone(),
            _ => Map::new(),
        };
        let class = &self.object["spec"]["gatewayClassName"];
        labels.insert(GATEWAY_CLASS_NAME.into(), class.clone());
        labels.insert("app.kubernetes.io/name".into(), self.name.into());
        labels.insert(MANAGED_BY.0.into(), MANAGED_BY.1.into());
        labels.extend(self.selector());
        labels
    }

    fn selector(&self) -> Map<String, Value> {
        Map::from_iter([(GATEWAY_NAME.into(), self.name.into())])
    }

    /// One port for each port of a listener; none without listeners that HTTP can reach.
    fn service(&self) -> Option<Value> {
        let ports: Vec<Value> = self
            .ports()
            .into_iter()
            .map(|port| json!({"name": format!("port-{port}"), "port": port, "targetPort": port, "protocol": "TCP"}))
            .collect();
        let spec = json!({"type": "LoadBalancer", "selector": self.selector(), "ports": ports});
        (!ports.is_empty()).then(|| json!({"spec": spec}))
    }

    fn ports(&self) -> BTreeSet<i64> {
        let listeners = self.object["spec"]["listeners"].as_array();
        listeners
            .into_iter()
            .flatten()
            .filter(|listener| matches!(listener["protocol"].as_str(), Some("HTTP" | "HTTPS")))
            .filter_map(|listener| listener["port"].as_i64())
            // Its listener is refused, and the admin server is nobody's outside.
            .filter(|port| *port != i64::from(ADMIN_PORT))
            .collect()
    }

    fn deployment(&self, settings: &Settings) -> Value {
        // Longest: the delay, then the drain of the listeners (30 s), then a little.
        let grace = settings.drain_delay + 35;
        let mut pod = json!({"labels": self.labels()});
        let annotations = &self.object["spec"]["infrastructure"]["annotations"];
        if annotations.is_object() {
            pod["annotations"] = annotations.clone();
        }
        json!({"spec": {
            "selector": {"matchLabels": self.selector()},
            // A new pod serves before an old one goes.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": pod, "spec": {
                "serviceAccountName": self.name,
                "terminationGracePeriodSeconds": grace,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER,
                    "seccompProfile": {"type": "RuntimeDefault"},
                    // Ports such as 80 without any right; in the pod's own network alone.
                    "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
                },
                "topologySpreadConstraints": [{
                    "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": self.selector()},
                }],
                "containers": [{
                    "name": "gateway",
                    "image": settings.image,
                    "imagePullPolicy": settings.pull_policy,
                    "args": [
                        format!("--kubernetes={}/{}", self.namespace, self.name),
                        format!("--admin=0.0.0.0:{ADMIN_PORT}"),
                        format!("--drain-delay={}", settings.drain_delay),
                    ],
                    "ports": [{"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"}],
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": ADMIN_PORT}, "periodSeconds": 2},
                    "securityContext": {
                        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "64Mi"},
                        "limits": {"memory": settings.memory},
                    },
                }],
            }},
        }})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            image: "image:1".into(),
            pull_policy: "IfNotPresent".into(),
            memory: "1Gi".into(),
            drain_delay: 5,
        }
    }

    fn gateway() -> Value {
        json!({
            "metadata": {"name": "g", "namespace": "n", "uid": "u"},
            "spec": {
                "gatewayClassName": "agentgateway",
                "infrastructure": {"labels": {"team": "a"}, "annotations": {"note": "b"}},
                "listeners": [
                    {"name": "a", "protocol": "HTTP", "port": 80},
                    {"name": "b", "protocol": "HTTP", "port": 80, "hostname": "b.example"},
                    {"name": "c", "protocol": "HTTPS", "port": 443},
                    {"name": "d", "protocol": "UDP", "port": 53},
                    {"name": "e", "protocol": "HTTP", "port": 15000},
                ],
            },
        })
    }

    #[test]
    fn everything_is_named_after_the_gateway_and_beside_it() {
        let objects = desired(&gateway(), &BTreeSet::new(), &settings());
        for kind in [Kind::ServiceAccount, Kind::Service, Kind::Deployment] {
            let object = &objects[&Key::new(kind, "n", "g")];
            assert_eq!(
                object["metadata"]["ownerReferences"][0]["uid"], "u",
                "{kind:?}"
            );
            assert_eq!(object["metadata"]["labels"]["team"], "a", "{kind:?}");
            assert_eq!(object["metadata"]["annotations"]["note"], "b", "{kind:?}");
        }
        let pod = &objects[&Key::new(Kind::Deployment, "n", "g")]["spec"]["template"];
        assert_eq!(pod["metadata"]["labels"]["team"], "a");
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["args"][0], "--kubernetes=n/g");
        assert_eq!(container["resources"]["limits"]["memory"], "1Gi");
        // Time for the delay, for what is under way, and to end.
        assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 5 + 30 + 5);
        // Scaling is left to others.
        assert!(
            objects[&Key::new(Kind::Deployment, "n", "g")]["spec"]
                .get("replicas")
                .is_none()
        );
    }

    #[test]
    fn a_service_port_for_each_port() {
        let objects = desired(&gateway(), &BTreeSet::new(), &settings());
        let ports = &objects[&Key::new(Kind::Service, "n", "g")]["spec"]["ports"];
        let ports: Vec<_> = ports
            .as_array()
            .unwrap()
            .iter()
            .map(|port| &port["port"])
            .collect();
        assert_eq!(ports, [80, 443]);
    }

    #[test]
    fn secrets_are_given_by_name() {
        let secrets = BTreeSet::from([types::Key::new("n", "s"), types::Key::new("other", "t")]);
        let objects = desired(&gateway(), &secrets, &settings());
        let name = "extproc-gateway:n:g";
        for (namespace, secret) in [("n", "s"), ("other", "t")] {
            let role = &objects[&Key::new(Kind::Role, namespace, name)];
            assert_eq!(role["rules"][0]["resourceNames"], json!([secret]));
            let binding = &objects[&Key::new(Kind::RoleBinding, namespace, name)];
            assert_eq!(binding["subjects"][0]["namespace"], "n");
        }
        // An owner in another namespace is none.
        let other = &objects[&Key::new(Kind::Role, "other", name)];
        assert!(other["metadata"].get("ownerReferences").is_none());
    }
}
