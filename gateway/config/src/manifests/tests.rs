//! Manifests as data: each file of `testdata` holds objects and, in its last document, what is expected
//! of them.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};

use super::{files::remarks, samples::https_gateway, *};
use crate::document::{Document, Reader};

/// The last document of a test file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Expected {
    /// The Gateway that is served; all of them if unset.
    gateway: Option<String>,
    /// Conditions that are not as they should be, without their messages.
    remarks: Vec<String>,
    /// Routes attached to `GATEWAY LISTENER`.
    attached: BTreeMap<String, u32>,
    /// The objects are those of an API server with other definitions than ours.
    foreign: bool,
    /// The names of the filters of a listener of the snapshot.
    filters: BTreeMap<String, Vec<String>>,
    /// Treatment of requests, for tests of routing.
    #[serde(rename = "requests")]
    _requests: IgnoredAny,
}

#[test]
fn every_file_translates_as_expected() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/manifests/testdata");
    let mut failures = Vec::new();
    let files = files::list(&folder).unwrap();
    assert!(files.len() > 5, "the test data is missing");
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        for failure in run(&name, &text) {
            failures.push(format!("{name}: {failure}"));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

fn run(name: &str, text: &str) -> Vec<String> {
    let document = Document::parse(name, text).unwrap();
    let reader = Reader::new(&document, |_, _| None);
    let (last, objects) = document.roots().split_last().unwrap();
    let expected: Expected = reader
        .read(*last)
        .unwrap_or_else(|fault| panic!("{}", document.error(fault)));
    let mut known = Objects::default();
    for root in objects {
        let mut value: Value = reader.read(*root).unwrap();
        let version = value["apiVersion"].as_str().unwrap();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let kind = Kind::of(group, value["kind"].as_str().unwrap()).unwrap();
        if !expected.foreign {
            schema::check(kind, &mut value).unwrap_or_else(|refusal| panic!("{name}: {refusal:?}"));
        }
        known.insert_json(kind, value).unwrap();
    }
    let serve = match &expected.gateway {
        Some(gateway) => {
            let (namespace, name) = gateway.split_once('/').unwrap();
            Serve::One(Key::new(namespace, name))
        }
        None => Serve::Together,
    };
    let translation = translate(&known, &Scope::new(serve));
    let mut failures = Vec::new();
    let found: Vec<String> = remarks(&translation)
        .into_iter()
        .map(|line| {
            line.split_inclusive(')')
                .next()
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    if found != expected.remarks {
        failures.push(format!("remarks are {found:#?}"));
        failures.extend(remarks(&translation));
    }
    for (listener, wanted) in &expected.filters {
        let mut listeners = translation.snapshot.listeners.iter();
        let listener = listeners.find(|found| found.name == *listener).unwrap();
        let filters = &listener.all_chains().next().unwrap().http.filters;
        let found: Vec<&str> = filters.iter().map(|filter| filter.name.as_str()).collect();
        if found != *wanted {
            failures.push(format!("filters are {found:?}"));
        }
    }
    for (at, count) in &expected.attached {
        let (gateway, listener) = at.split_once(' ').unwrap();
        let (namespace, name) = gateway.split_once('/').unwrap();
        let status = &translation.statuses.gateways[&Key::new(namespace, name)];
        let found = status
            .listeners
            .iter()
            .find(|status| status.name == listener)
            .map(|status| status.attached_routes);
        if found != Some(*count) {
            failures.push(format!("{at} has {found:?} routes"));
        }
    }
    failures
}

#[test]
fn what_the_server_would_refuse_is_refused_with_its_place() {
    const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
        metadata: {name: gw}\nspec:\n  gatewayClassName: agentgateway\n  listeners:\n";
    const ROUTE: &str =
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web}\nspec:\n";
    const POLICY: &str = "apiVersion: agentgateway.dev/v1alpha1\nkind: AgentgatewayPolicy\n\
        metadata: {name: p}\nspec:\n";
    for (head, tail, expected) in [
        (
            GATEWAY,
            "  - {name: http, port: 0, protocol: HTTP}",
            "m.yaml:7:24: spec.listeners[0].port: 0 is less than 1",
        ),
        (
            GATEWAY,
            "  - {name: http, port: 80}",
            "m.yaml:7:5: spec.listeners[0]: missing field \"protocol\"",
        ),
        (
            GATEWAY,
            "  - {name: a, port: 80, protocol: HTTP}\n  - {name: a, port: 81, protocol: HTTP}",
            "m.yaml:8:5: spec.listeners[1]: is given twice",
        ),
        (
            GATEWAY,
            "  - {name: a, port: 80, protocol: HTTP}\n  - {name: b, port: 80, protocol: HTTP}",
            "m.yaml:7:5: spec.listeners: Combination of port, protocol and hostname must be unique for each listener",
        ),
        (
            GATEWAY,
            "  - {name: http, port: 80, protocol: HTTP, portt: 1}",
            "spec.listeners[0].portt: unknown field \"portt\"",
        ),
        (
            ROUTE,
            "  rules: [{matches: [{path: {value: web}}]}]",
            "spec.rules[0].matches[0].path: value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']",
        ),
        (
            ROUTE,
            "  rules: [{filters: [{type: Nope}]}]",
            "spec.rules[0].filters[0].type: \"Nope\" is not supported",
        ),
        (
            ROUTE,
            "  parentRefs: [{name: gw}]\n  rules: [{backendRefs: [{name: web}]}]",
            "spec.rules[0].backendRefs[0]: Must have port for Service reference",
        ),
        (
            POLICY,
            "  traffic: {extProc: {backendRef: {name: x, port: 1}}}",
            "spec: exactly one of targetRefs and targetSelectors has to be set",
        ),
        (
            POLICY,
            "  targetRefs: [{group: g, kind: Gateway, name: gw}]\n  traffic: {extProc: {backendRef: {name: x, port: 1}, processingOptions: {requestBodyMode: Streamed}}}",
            "spec.traffic.extProc.processingOptions.requestBodyMode: \"Streamed\" is not supported",
        ),
    ] {
        let text = format!("{head}{tail}\n");
        let document = Document::parse("m.yaml", &text).unwrap();
        let error = files::snapshot("m.yaml", &[document], &FileOptions::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(expected),
            "{text}\n  gave     {error}\n  expected {expected}"
        );
    }
}

fn load(text: &str) -> Result<Snapshot, String> {
    let document = Document::parse("m.yaml", text).unwrap();
    files::snapshot("m.yaml", &[document], &FileOptions::default())
        .map_err(|error| error.to_string())
}

const DEMO: &str = include_str!("testdata/demo.yaml");

#[test]
fn a_service_without_endpoints_asks_for_the_flag() {
    let text: String = DEMO
        .split("---\n")
        .filter(|part| !part.contains("kind: EndpointSlice") && !part.contains("requests:"))
        .collect::<Vec<_>>()
        .join("---\n");
    let error = load(&text).unwrap_err();
    assert!(
        error.contains("--endpoints demo/ext-proc-grpc:4444=HOST:PORT"),
        "{error}"
    );
    assert!(
        error.contains("--endpoints demo/httpbin:8000=HOST:PORT"),
        "{error}"
    );
}

#[test]
fn kinds_that_mean_nothing_are_skipped_with_one_notice() {
    let text = DEMO.replace("---\ngateway: demo/gateway", "---\napiVersion: apps/v1\nkind: Deployment\n---\napiVersion: v1\nkind: ServiceAccount\n---\napiVersion: apps/v1\nkind: Deployment\n---\nspare: 1");
    let text = text.split("---\nspare").next().unwrap();
    let warnings = load(text).unwrap().warnings;
    assert_eq!(
        warnings,
        ["m.yaml: not needed here: Deployment (2), ServiceAccount (1)"]
    );
}

#[test]
fn objects_that_are_not_what_they_say() {
    for (text, expected) in [
        ("kind: X\napiVersion: v1\n", "no Gateway"),
        (
            "kind: Gatewai\napiVersion: gateway.networking.k8s.io/v1\n",
            "m.yaml:1:7: kind: group gateway.networking.k8s.io has no kind \"Gatewai\"",
        ),
        (
            "kind: Gateway\napiVersion: gateway.networking.k8s.io/v9\n",
            "no kind Gateway in version",
        ),
        (
            "kind: Gateway\napiVersion: gateway.networking.k8s.io/v1\nmetadata: {}\n",
            "metadata: missing field \"name\"",
        ),
        (
            "kind: Namespace\napiVersion: v1\nmetadata: {name: a}\n---\nkind: Namespace\napiVersion: v1\nmetadata: {name: a}\n",
            "m.yaml:5:1: document 2: Namespace a is given twice",
        ),
        ("kind: Namespace\n", "missing field \"apiVersion\""),
    ] {
        let error = load(text).unwrap_err();
        assert!(
            error.contains(expected),
            "{text}\n  gave     {error}\n  expected {expected}"
        );
    }
}

#[test]
fn durations() {
    for (text, seconds) in [
        ("0s", 0.0),
        ("10s", 10.0),
        ("500ms", 0.5),
        ("1h30m", 5400.0),
        ("1m1ms", 60.001),
    ] {
        assert_eq!(
            duration(text).map(|d| d.as_secs_f64()),
            Some(seconds),
            "{text}"
        );
    }
    for text in ["", "1", "s", "1d", "1.5s", "-1s", "99999999999s"] {
        assert_eq!(duration(text), None, "{text}");
    }
}

#[test]
fn a_gateway_says_how_many_proxies_are_trusted() {
    for (annotation, hops, remark) in [
        (None, 0, None),
        (Some("2"), 2, None),
        (Some("-1"), 0, Some("annotation")),
        (Some("two"), 0, Some("annotation")),
    ] {
        let mut all = https_gateway();
        if let Some(text) = annotation {
            all[0]["metadata"]["annotations"] = json!({ TRUSTED_HOPS: text });
        }
        all[0]["spec"]["listeners"].as_array_mut().unwrap().pop();
        let translation = translate(&objects(&all), &Scope::new(Serve::Together));
        let listener = &translation.snapshot.listeners[0];
        let http = &listener.all_chains().next().unwrap().http;
        assert!(http.use_remote_address);
        assert_eq!(http.xff_num_trusted_hops, hops, "{annotation:?}");
        let status = &translation.statuses.gateways[&Key::new("n", "g")];
        let message = &status.conditions[0].message;
        assert_eq!(
            message.split(' ').next(),
            Some(remark.unwrap_or("the")),
            "{message}"
        );
    }
}

/// Objects, given as one JSON value each.
fn objects(all: &[Value]) -> Objects {
    let mut known = Objects::default();
    for value in all {
        let version = value["apiVersion"].as_str().unwrap();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let kind = Kind::of(group, value["kind"].as_str().unwrap()).unwrap();
        known.insert_json(kind, value.clone()).unwrap();
    }
    known
}
