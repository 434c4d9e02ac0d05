//! Objects for tests, of this crate and of the one that serves them.

use serde_json::{Value, json};

const CERTIFICATE: [&str; 2] = [
    include_str!("../../../tests/tls/a.pem"),
    include_str!("../../../tests/tls/a.key"),
];

/// A Gateway whose HTTPS listeners have different hosts, with what it needs.
pub(crate) fn https_gateway() -> [Value; 4] {
    let [chain, key] = CERTIFICATE;
    let tls = json!({"certificateRefs": [{"name": "cert"}]});
    let listener = |name: &str, hostname: &str| json!({"name": name, "port": 443, "protocol": "HTTPS", "hostname": hostname, "tls": tls});
    [
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"namespace": "n", "name": "g"},
            "spec": {"gatewayClassName": "c", "listeners": [
                listener("public", "*.example"),
                listener("secure", "secure.example"),
                listener("other", "*.other"),
                // Takes no connections, and keeps its host.
                {"name": "broken", "port": 443, "protocol": "HTTPS", "hostname": "broken.example",
                 "tls": {"certificateRefs": [{"name": "none"}]}},
            ]},
        }),
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "n", "name": "cert"},
            "stringData": {"tls.crt": chain, "tls.key": key},
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "n", "name": "app"},
            "spec": {"ports": [{"port": 80}]},
        }),
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"namespace": "n", "name": "r"},
            "spec": {
                "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g"}],
                "rules": [{
                    "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                    "backendRefs": [{"group": "", "kind": "Service", "name": "app", "port": 80, "weight": 1}],
                }],
            },
        }),
    ]
}
