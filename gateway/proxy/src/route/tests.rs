//! Manifests as they are routed: the last document of each file of their test data says what becomes of requests.

use std::{cmp::Reverse, collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use extproc_client::config::Service;
use gateway_config::{
    manifests::{
        Condition, Kind, Objects, Scope, Serve, Translation, Translator, translate, types::Key,
    },
    snapshot::{Fraction, HttpManager, Listener, OnRoute, RouteAction},
};
use serde::Deserialize;
use serde_json::{Value, json};

use self::samples::https_gateway;

#[path = "../../../config/src/manifests/samples.rs"]
mod samples;

/// The last document of a test file.
#[derive(Debug, Deserialize)]
struct Expected {
    /// The Gateway that is served; all of them if unset.
    gateway: Option<String>,
    /// Requests and what becomes of them: `METHOD URL [name: value]...` gives `what happens`.
    #[serde(default)]
    requests: BTreeMap<String, String>,
}

#[test]
fn every_file_is_routed_as_expected() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../config/src/manifests/testdata");
    let mut failures = Vec::new();
    let mut requests = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).unwrap();
        let mut documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let expected = documents.pop().unwrap();
        let expected: Expected = serde_json::from_value(expected).unwrap();
        let serve = match &expected.gateway {
            Some(gateway) => {
                let (namespace, name) = gateway.split_once('/').unwrap();
                Serve::One(Key::new(namespace, name))
            }
            None => Serve::Together,
        };
        let translation = translate(&objects(&documents), &Scope::new(serve));
        for (request, wanted) in &expected.requests {
            requests += 1;
            let found = answer(&translation, request);
            if found != *wanted {
                failures.push(format!(
                    "{name}: {request}\n    gives    {found}\n    expected {wanted}"
                ));
            }
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    assert!(requests > 50, "the test data is missing");
}

/// Treatment of a request.
fn answer(translation: &Translation, request: &str) -> String {
    let mut words = request.splitn(3, ' ');
    let method = words.next().unwrap();
    let uri: http::Uri = words.next().unwrap().parse().unwrap();
    let tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let mut builder = http::Request::builder().method(method).uri(uri.clone());
    for header in words
        .next()
        .into_iter()
        .flat_map(|headers| headers.split("; "))
    {
        let (name, value) = header.split_once(": ").unwrap();
        builder = builder.header(name, value);
    }
    let parts = builder.body(()).unwrap().into_parts().0;
    let listener = translation
        .snapshot
        .listeners
        .iter()
        .find(|listener| listener.address.port() == port);
    let Some(http) = listener.and_then(|listener| chain(listener, tls, uri.host().unwrap())) else {
        return "refused".into();
    };
    let Some(selected) = super::select(&http, &parts, None) else {
        return "404".into();
    };
    let mut out = match &selected.route.action {
        RouteAction::Direct { status, .. } => status.as_u16().to_string(),
        RouteAction::Redirect(redirect) => {
            let to = super::redirect_location(&parts, &selected.route.matches, redirect).unwrap();
            format!("{} {to}", redirect.status.as_u16())
        }
        RouteAction::Forward(forward) => {
            let mut clusters: Vec<String> = forward
                .clusters
                .iter()
                .map(|cluster| {
                    let exists = translation.snapshot.clusters.contains_key(&cluster.name);
                    let name = if exists { cluster.name.as_str() } else { "500" };
                    match forward.clusters.len() {
                        1 => name.to_owned(),
                        _ => format!("{name}*{}", cluster.weight),
                    }
                })
                .collect();
            let mut rewritten = parts.clone();
            super::rewrite(&mut rewritten, &selected.route.matches, forward, None).unwrap();
            if rewritten.uri != parts.uri {
                clusters.push(format!("as {}", rewritten.uri));
            }
            for mirror in &forward.mirrors {
                let Fraction {
                    numerator,
                    denominator,
                } = mirror.fraction;
                clusters.push(format!("copy {numerator}/{denominator} {}", mirror.cluster));
            }
            if selected.route.cors.is_some() {
                clusters.push("cors".into());
            }
            if let Some(timeout) = forward.timeout {
                clusters.push(format!("within {timeout:?}"));
            }
            clusters.join(" ")
        }
    };
    for (filter, config) in &selected.overrides().filters {
        if let OnRoute::Processor(Some(config)) = config {
            let Service::Grpc(service) = config.service() else {
                continue;
            };
            out.push_str(&format!(" {filter}={}", service.destination()));
        }
    }
    out
}

/// The filter chain of a connection; an exact name is before wildcards, of which the longest is first.
fn chain(listener: &Listener, tls: bool, host: &str) -> Option<Arc<HttpManager>> {
    let rank = |names: &[String]| match names.iter().any(|name| name == host) {
        true => Some(usize::MAX),
        false if names.is_empty() => Some(0),
        false => names
            .iter()
            .filter_map(|name| name.strip_prefix('*'))
            .filter(|suffix| host.ends_with(suffix))
            .map(str::len)
            .max(),
    };
    listener
        .all_chains()
        .filter(|chain| chain.tls.is_some() == tls)
        .filter_map(|chain| Some((rank(&chain.matches.server_names)?, chain)))
        .min_by_key(|(rank, _)| Reverse(*rank))
        .map(|(_, chain)| chain.http.clone())
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

/// As the field `hostname` of Gateway API's `Listener` has it.
#[test]
fn a_host_of_another_listener_is_misdirected() {
    let translation = translate(&objects(&https_gateway()), &Scope::new(Serve::Together));
    let listener = &translation.snapshot.listeners[0];
    for (server_name, host, expected) in [
        ("a.example", "a.example", "200"),
        ("a.example", "b.example", "200"),
        ("a.example", "secure.example", "421"),
        ("a.example", "SECURE.example:8443", "421"),
        ("a.example", "broken.example", "421"),
        ("a.example", "a.other", "421"),
        ("a.example", "unknown", "404"),
        ("secure.example", "secure.example", "200"),
        ("secure.example", "a.example", "421"),
        ("secure.example", "unknown", "404"),
        // Of the listeners that take connections this is the one that is asked for.
        ("broken.example", "broken.example", "421"),
    ] {
        let http = chain(listener, true, server_name).unwrap();
        let request = http::Request::get(format!("https://{host}/")).body(());
        let selected = super::select(&http, &request.unwrap().into_parts().0, None);
        let found = match selected.as_ref().map(|selected| &selected.route.action) {
            Some(RouteAction::Forward(_)) => "200".to_owned(),
            Some(RouteAction::Direct { status, .. }) => status.as_str().to_owned(),
            _ => "404".to_owned(),
        };
        assert_eq!(found, expected, "{server_name} {host}");
    }
}

/// Paths of routes are spelled as those of requests are when routes are looked at.
#[test]
fn the_path_of_a_route_may_be_escaped() {
    let mut all = https_gateway();
    all[3]["spec"]["rules"][0]["matches"] =
        json!([{"path": {"type": "PathPrefix", "value": "/%61dmin/caf%c3%a9"}}]);
    let translation = translate(&objects(&all), &Scope::new(Serve::Together));
    let http = chain(&translation.snapshot.listeners[0], true, "a.example").unwrap();
    let request = http::Request::get("https://a.example/admin/caf%C3%A9/x").body(());
    let selected = super::select(&http, &request.unwrap().into_parts().0, None).unwrap();
    assert!(matches!(selected.route.action, RouteAction::Forward(_)));
}

/// One object's regular expressions take what they may; requests that it would have taken go nowhere else.
#[test]
fn a_route_with_large_regular_expressions_is_refused() {
    let mut all = https_gateway();
    let large: Vec<Value> = (0..8)
        .map(|n| json!({"path": {"type": "RegularExpression", "value": format!("/{n}/[\\w]{{100}}")}}))
        .collect();
    let rules = all[3]["spec"]["rules"].as_array_mut().unwrap();
    let mut rule = rules[0].clone();
    rule["matches"] = large.into();
    rules.push(rule);
    let mut translator = Translator::default();
    for _ in 0..2 {
        let translation = translator.translate(&objects(&all), &Scope::new(Serve::Together));
        let parent = &translation.statuses.routes[&Key::new("n", "r")][0];
        let refused = |condition: &Condition| {
            condition.kind == "Accepted" && condition.reason == "UnsupportedValue"
        };
        assert!(parent.conditions.iter().any(refused), "{parent:?}");
        let http = chain(&translation.snapshot.listeners[0], true, "a.example").unwrap();
        let request = http::Request::get("https://a.example/").body(());
        let selected = super::select(&http, &request.unwrap().into_parts().0, None).unwrap();
        let RouteAction::Direct { status, .. } = &selected.route.action else {
            panic!("{selected:?}");
        };
        assert_eq!(*status, http::StatusCode::INTERNAL_SERVER_ERROR);
    }
}

#[test]
fn fractions() {
    let of = |numerator, denominator| Fraction {
        numerator,
        denominator,
    };
    assert!(super::is_drawn(of(100, 100)));
    assert!(!super::is_drawn(of(0, 100)));
    assert!(!super::is_drawn(of(0, 1)));
    let met = (0..1000).filter(|_| super::is_drawn(of(50, 100))).count();
    assert!((350..650).contains(&met), "{met}");
}
