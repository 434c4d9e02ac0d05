//! The definitions of the custom resources, generated from the types that the gateway reads.
//!
//! The types give the fields, this module gives the rules that span several of them, as CEL that the API
//! server checks. What a definition refuses never reaches a controller.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use gateway_config::manifests::types::{
    AGENTGATEWAY, AgentgatewayBackendSpec, AgentgatewayPolicySpec,
};

/// Longest CEL expression, in characters.
const CEL_LENGTH: u32 = 16384;

/// All definitions as YAML documents, the text of the installation's manifest.
pub fn definitions() -> String {
    [backend(), policy()]
        .map(|definition| document(&definition))
        .concat()
}

fn document(value: &Value) -> String {
    // Each text on one line.
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let text = serde_saphyr::to_string_with_options(value, options);
    format!("---\n{}", text.expect("a JSON value has a form in YAML"))
}

fn policy() -> Value {
    let mut spec = schema::<AgentgatewayPolicySpec>();
    targets(&mut spec);
    rules(&mut spec, "", TARGETS_AND_SECTIONS);
    ext_proc(&mut spec);
    limit(
        &mut spec,
        "frontend.http.maxBufferSize",
        json!({"minimum": 1}),
    );
    for part in ["", "frontend", "frontend.http", "traffic"] {
        keep_unknown(&mut spec, part);
    }
    definition(
        "AgentgatewayPolicy",
        "agentgatewaypolicies",
        &["agpol"],
        spec,
        policy_status(),
    )
}

/// Rules of a policy's targets.
fn targets(spec: &mut Value) {
    limit(spec, "targetRefs", json!({"minItems": 1, "maxItems": 16}));
    limit(
        spec,
        "targetSelectors",
        json!({"minItems": 1, "maxItems": 16}),
    );
    for list in ["targetRefs", "targetSelectors"] {
        limit(spec, &format!("{list}.group"), json!({"maxLength": 253}));
        limit(
            spec,
            &format!("{list}.kind"),
            json!({"minLength": 1, "maxLength": 63}),
        );
        limit(
            spec,
            &format!("{list}.sectionName"),
            json!({"minLength": 1, "maxLength": 253}),
        );
        limit(spec, &format!("{list}.port"), json!({"minimum": 1}));
    }
    limit(
        spec,
        "targetRefs.name",
        json!({"minLength": 1, "maxLength": 253}),
    );
    require(spec, "targetRefs", &["group", "kind", "name"]);
    require(spec, "targetSelectors", &["group", "kind", "matchLabels"]);
    rule(
        spec,
        "targetRefs",
        "!(has(self.sectionName) && has(self.port))",
        "sectionName and port exclude each other",
    );
}

/// Rules that targets and sections of a policy keep together.
const TARGETS_AND_SECTIONS: &[(&str, &str)] = &[
    (
        "has(self.targetRefs) != has(self.targetSelectors)",
        "exactly one of targetRefs and targetSelectors has to be set",
    ),
    (
        "has(self.traffic) || has(self.frontend)",
        "at least one of traffic and frontend has to be set",
    ),
    (
        "!has(self.targetRefs) || self.targetRefs.all(t, t.kind == self.targetRefs[0].kind)",
        "all targets have to be of one kind",
    ),
    (
        "!has(self.targetSelectors) || self.targetSelectors.all(t, t.kind == self.targetSelectors[0].kind)",
        "all targets have to be of one kind",
    ),
    (
        "!has(self.strategy) || !has(self.strategy.inheritance) || (has(self.traffic) && !has(self.frontend))",
        "strategy.inheritance needs traffic as the only section",
    ),
    (
        "!has(self.frontend) || !has(self.targetRefs) || self.targetRefs.all(t, t.kind == 'Gateway')",
        "frontend needs Gateways as targets",
    ),
    (
        "!has(self.frontend) || !has(self.targetSelectors) || self.targetSelectors.all(t, t.kind == 'Gateway')",
        "frontend needs Gateways as targets",
    ),
    (
        "!has(self.traffic) || !has(self.targetRefs) || self.targetRefs.all(t, t.kind in ['Gateway', 'ListenerSet', 'HTTPRoute', 'GRPCRoute', 'InferencePool'])",
        "traffic needs targets of kind Gateway, ListenerSet, HTTPRoute, GRPCRoute or InferencePool",
    ),
    (
        "!has(self.traffic) || !has(self.targetSelectors) || self.targetSelectors.all(t, t.kind in ['Gateway', 'ListenerSet', 'HTTPRoute', 'GRPCRoute', 'InferencePool'])",
        "traffic needs targets of kind Gateway, ListenerSet, HTTPRoute, GRPCRoute or InferencePool",
    ),
    (
        "!has(self.traffic) || !has(self.targetRefs) || self.targetRefs.all(t, !has(t.port))",
        "a target's port needs frontend as the only section",
    ),
    (
        "!has(self.traffic) || !has(self.traffic.phase) || self.traffic.phase != 'PreRouting' || !has(self.targetRefs) || self.targetRefs.all(t, t.kind in ['Gateway', 'ListenerSet'])",
        "phase PreRouting needs Gateways or ListenerSets as targets",
    ),
    (
        "!has(self.traffic) || !has(self.traffic.phase) || self.traffic.phase != 'PreRouting' || !has(self.targetSelectors) || self.targetSelectors.all(t, t.kind in ['Gateway', 'ListenerSet'])",
        "phase PreRouting needs Gateways or ListenerSets as targets",
    ),
];

/// Rules of the processor, or of those that conditions choose among.
fn ext_proc(spec: &mut Value) {
    let ext_proc = "traffic.extProc";
    rules(
        spec,
        ext_proc,
        &[
            (
                "has(self.conditional) || has(self.backendRef) != has(self.url)",
                "exactly one of backendRef and url has to be set",
            ),
            (
                "!has(self.conditional) || !(has(self.backendRef) || has(self.url) || has(self.failureMode) || has(self.processingOptions) || has(self.metadataContext) || has(self.requestAttributes) || has(self.responseAttributes))",
                "conditional allows no other field beside it",
            ),
            (
                "!has(self.conditional) || self.conditional.all(c, has(c.condition)) || (self.conditional.filter(c, !has(c.condition)).size() == 1 && !has(self.conditional[self.conditional.size() - 1].condition))",
                "only the last entry of conditional may be without a condition",
            ),
        ],
    );
    limit(
        spec,
        "traffic.extProc.conditional",
        json!({"minItems": 1, "maxItems": 16}),
    );
    require(spec, "traffic.extProc.conditional", &["policy"]);
    limit(
        spec,
        "traffic.extProc.conditional.condition",
        json!({"minLength": 1, "maxLength": CEL_LENGTH}),
    );
    rule(
        spec,
        "traffic.extProc.conditional.policy",
        "has(self.backendRef) != has(self.url)",
        "exactly one of backendRef and url has to be set",
    );
    for case in [ext_proc, "traffic.extProc.conditional.policy"] {
        processor(spec, case);
    }
}

/// The rules of one processor.
fn processor(spec: &mut Value, at: &str) {
    limit(
        spec,
        &format!("{at}.url"),
        json!({"maxLength": 1024, "pattern": "^https?://[^/?#@\\s]+$"}),
    );
    let reference = format!("{at}.backendRef");
    require(spec, &reference, &["name"]);
    limit(
        spec,
        &format!("{reference}.name"),
        json!({"minLength": 1, "maxLength": 253}),
    );
    limit(
        spec,
        &format!("{reference}.namespace"),
        json!({"minLength": 1, "maxLength": 63}),
    );
    limit(
        spec,
        &format!("{reference}.group"),
        json!({"maxLength": 253}),
    );
    limit(
        spec,
        &format!("{reference}.kind"),
        json!({"minLength": 1, "maxLength": 63}),
    );
    limit(spec, &format!("{reference}.port"), json!({"minimum": 1}));
    rule(
        spec,
        &reference,
        "(has(self.group) && self.group != '') || (has(self.kind) && self.kind != 'Service') || has(self.port)",
        "a Service needs a port",
    );
    let cel = json!({"minLength": 1, "maxLength": CEL_LENGTH});
    for map in ["requestAttributes", "responseAttributes", "metadataContext"] {
        limit(spec, &format!("{at}.{map}"), json!({"maxProperties": 64}));
    }
    for map in ["requestAttributes", "responseAttributes"] {
        limit(spec, &format!("{at}.{map}.*"), cel.clone());
    }
    limit(spec, &format!("{at}.metadataContext.*.*"), cel);
}

fn backend() -> Value {
    let mut spec = schema::<AgentgatewayBackendSpec>();
    require(&mut spec, "", &["static"]);
    rule(
        &mut spec,
        "static",
        "has(self.unixPath) ? !(has(self.host) || has(self.port)) : has(self.host) && has(self.port)",
        "either host and port or unixPath has to be set",
    );
    limit(
        &mut spec,
        "static.host",
        json!({"minLength": 1, "maxLength": 253}),
    );
    limit(&mut spec, "static.port", json!({"minimum": 1}));
    limit(
        &mut spec,
        "static.unixPath",
        json!({"minLength": 1, "maxLength": 107}),
    );
    for field in [
        "policies.tcp.connectTimeout",
        "policies.http.requestTimeout",
    ] {
        limit(&mut spec, field, json!({"maxLength": 32}));
    }
    rule(
        &mut spec,
        "policies.tcp.connectTimeout",
        "duration(self) >= duration('100ms')",
        "at least 100ms",
    );
    rule(
        &mut spec,
        "policies.http.requestTimeout",
        "duration(self) > duration('0s')",
        "more than nothing",
    );
    for part in [
        "",
        "policies",
        "policies.tcp",
        "policies.http",
        "policies.tls",
    ] {
        keep_unknown(&mut spec, part);
    }
    definition(
        "AgentgatewayBackend",
        "agentgatewaybackends",
        &["agbe"],
        spec,
        json!({
            "type": "object",
            "properties": {"conditions": conditions()},
        }),
    )
}

fn definition(kind: &str, plural: &str, short: &[&str], spec: Value, status: Value) -> Value {
    let mut metadata = json!({"name": format!("{plural}.{AGENTGATEWAY}")});
    if kind == "AgentgatewayPolicy" {
        metadata["labels"] = json!({"gateway.networking.k8s.io/policy": "Direct"});
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": {
            "group": AGENTGATEWAY,
            "scope": "Namespaced",
            "names": {
                "kind": kind, "listKind": format!("{kind}List"), "plural": plural,
                "singular": kind.to_lowercase(), "shortNames": short,
            },
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
                        "spec": spec, "status": status,
                    },
                }},
            }],
        },
    })
}

/// `PolicyStatus` of Gateway API.
fn policy_status() -> Value {
    let text = json!({"type": "string"});
    json!({
        "type": "object",
        "properties": {"ancestors": {"type": "array", "maxItems": 16, "items": {
            "type": "object",
            "required": ["ancestorRef", "controllerName"],
            "properties": {
                "ancestorRef": {"type": "object", "required": ["name"], "properties": {
                    "group": text, "kind": text, "namespace": text, "name": text, "sectionName": text,
                    "port": {"type": "integer"},
                }},
                "controllerName": text,
                "conditions": conditions(),
            },
        }}},
    })
}

fn conditions() -> Value {
    let text = json!({"type": "string"});
    json!({"type": "array", "maxItems": 8, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"], "items": {
        "type": "object",
        "required": ["type", "status", "lastTransitionTime", "reason", "message"],
        "properties": {
            "type": text, "reason": text, "message": text,
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
        },
    }})
}

/// The schema of a type in the subset that Kubernetes calls structural: no references, no alternatives.
fn schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value();
    structural(&mut schema);
    schema
}

fn structural(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else {
        return;
    };
    // What may be absent: `null` is never written.
    if let Some(Value::Array(alternatives)) = fields.remove("anyOf") {
        let one = alternatives
            .into_iter()
            .find(|one| one["type"] != "null" && one["enum"] != json!([null]));
        if let Some(Value::Object(one)) = one {
            for (field, value) in one {
                fields.entry(field).or_insert(value);
            }
        }
    }
    // An enum whose values have descriptions.
    if let Some(Value::Array(alternatives)) = fields.remove("oneOf") {
        let names = alternatives
            .iter()
            .flat_map(|one| match one["enum"].as_array() {
                Some(names) => names.clone(),
                None => vec![one["const"].clone()],
            });
        fields.insert("enum".into(), names.collect());
        fields.insert("type".into(), "string".into());
    }
    if let Some(Value::Array(types)) = fields.get("type") {
        let one = types.iter().find(|one| *one != "null").cloned();
        fields.insert("type".into(), one.unwrap_or_default());
    }
    for unused in ["$schema", "title", "nullable", "default"] {
        fields.remove(unused);
    }
    if fields
        .get("additionalProperties")
        .is_some_and(Value::is_boolean)
    {
        fields.remove("additionalProperties");
    }
    // Formats of JSON Schema that Kubernetes does not know; the bounds say the same.
    match fields.get("format").and_then(Value::as_str) {
        Some("uint16") => bounds(fields, u64::from(u16::MAX)),
        Some("uint32") => bounds(fields, u64::from(u32::MAX)),
        _ => {}
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(structural);
    }
    for child in ["items", "additionalProperties"] {
        if let Some(child) = fields.get_mut(child) {
            structural(child);
        }
    }
}

fn bounds(fields: &mut Map<String, Value>, most: u64) {
    fields.remove("format");
    if most > i32::MAX as u64 {
        fields.insert("format".into(), "int64".into());
    }
    fields.entry("minimum").or_insert(json!(0));
    fields.entry("maximum").or_insert(json!(most));
}

/// The schema below `path`: names of properties, `*` for the values of a map; through lists without a
/// word.
///
/// # Panics
/// There is no such field: the types have changed, and the rules have to follow.
fn at<'a>(schema: &'a mut Value, path: &str) -> &'a mut Map<String, Value> {
    let mut here = schema;
    for step in path.split('.').filter(|step| !step.is_empty()) {
        if here.get("items").is_some() {
            here = &mut here["items"];
        }
        let next = match step {
            "*" => here.get_mut("additionalProperties"),
            name => here.get_mut("properties").and_then(|all| all.get_mut(name)),
        };
        here = next.unwrap_or_else(|| panic!("no field {path}"));
    }
    here.as_object_mut()
        .unwrap_or_else(|| panic!("no schema of {path}"))
}

fn limit(schema: &mut Value, path: &str, limits: Value) {
    if let Value::Object(limits) = limits {
        at(schema, path).extend(limits);
    }
}

/// As [`at`]; a list is followed to its items.
fn entry<'a>(schema: &'a mut Value, path: &str) -> &'a mut Map<String, Value> {
    let here = at(schema, path);
    if here.contains_key("items") {
        let items = here.get_mut("items").and_then(Value::as_object_mut);
        return items.unwrap_or_else(|| panic!("no entries of {path}"));
    }
    here
}

fn require(schema: &mut Value, path: &str, fields: &[&str]) {
    entry(schema, path).insert("required".into(), json!(fields));
}

/// The server would drop settings that it does not know, and what they ask for would be missing without a
/// word. They are kept, and the status says that they are not supported.
fn keep_unknown(schema: &mut Value, path: &str) {
    entry(schema, path).insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
}

fn rule(schema: &mut Value, path: &str, rule: &str, message: &str) {
    rules(schema, path, &[(rule, message)]);
}

fn rules(schema: &mut Value, path: &str, rules: &[(&str, &str)]) {
    let rules = rules
        .iter()
        .map(|(rule, message)| json!({"rule": rule, "message": message}));
    entry(schema, path).insert("x-kubernetes-validations".into(), rules.collect());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_installation_holds_them() {
        let manifest = include_str!("../../deploy/install.yaml");
        assert!(
            manifest.contains(&definitions()),
            "gateway/deploy/install.yaml does not hold what `gateway crds` prints"
        );
    }

    #[test]
    fn schemas_are_structural() {
        fn check(schema: &Value, path: &str) {
            let fields = schema.as_object().unwrap();
            assert!(fields["type"].is_string(), "{path}: {schema}");
            for alternative in ["anyOf", "oneOf", "allOf", "$ref", "nullable"] {
                assert!(!fields.contains_key(alternative), "{path}: {schema}");
            }
            for (name, property) in fields
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                check(property, &format!("{path}.{name}"));
            }
            for child in ["items", "additionalProperties"] {
                if let Some(child) = fields.get(child) {
                    check(child, &format!("{path}[]"));
                }
            }
        }
        for definition in [backend(), policy()] {
            let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            check(schema, "");
        }
    }

    #[test]
    fn modes_are_those_of_the_types() {
        let mut spec = schema::<AgentgatewayPolicySpec>();
        let mode = at(
            &mut spec,
            "traffic.extProc.processingOptions.requestBodyMode",
        );
        let modes = json!(["None", "Buffered", "BufferedPartial", "FullDuplexStreamed"]);
        assert_eq!(mode["enum"], modes);
        assert_eq!(mode["type"], "string");
    }
}
