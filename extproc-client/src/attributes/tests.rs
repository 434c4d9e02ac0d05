//! Values against what Envoy 1.40 sends for the same expressions.

use std::sync::Arc;

use prost::Message;
use prost_types::{Struct, value::Kind};
use serde_json::{Value as Json, json};

use super::*;
use crate::metadata::{struct_from_json, struct_to_json};

struct Exchange {
    request: http::request::Parts,
    response: Option<http::response::Parts>,
    trailers: Option<http::HeaderMap>,
    facts: HostFacts,
    route: Arc<RouteFacts>,
    upstream: Option<UpstreamInfo>,
    metadata: DynamicMetadata,
}

fn exchange() -> Exchange {
    let request = http::Request::post("http://test.local/p?a=1")
        .header("x-a", "1")
        .header("x-multi", "a")
        .header("x-multi", "b")
        .body(())
        .unwrap();
    let metadata = DynamicMetadata::default();
    let content = json!({
        "k": "v", "n": 7, "f": 2.5, "b": true, "z": null, "l": ["a", 1], "o": {"x": "y"},
    });
    metadata.set("my.ns", struct_from_json(&content).unwrap());
    metadata.set_typed(
        "typed.ns",
        prost_types::Any {
            type_url: "type.googleapis.com/google.protobuf.StringValue".to_owned(),
            value: b"\n\x02tv".to_vec(),
        },
    );
    let mut route = RouteFacts {
        cluster_name: "upstream".to_owned(),
        virtual_host_name: "v".to_owned(),
        endpoints: 1,
        node: json!({"user_agent_name": "envoy", "metadata": {"a": 1}}),
        ..RouteFacts::default()
    };
    let content = json!({"q\"uo": "a\nb\\ü", "l": [1, "a"]});
    route
        .route_metadata
        .filter_metadata
        .insert("my.ns".to_owned(), struct_from_json(&content).unwrap());
    Exchange {
        request: request.into_parts().0,
        response: None,
        trailers: None,
        facts: HostFacts {
            connection_id: 1,
            source: "127.0.0.1:1234".parse().ok(),
            start: Some(std::time::UNIX_EPOCH + std::time::Duration::from_millis(1500)),
            ..HostFacts::default()
        },
        route: Arc::new(route),
        upstream: None,
        metadata,
    }
}

impl Exchange {
    /// The value as it is sent, or `null` for none.
    fn get(&self, text: &str) -> Json {
        let expression = Expression::compile(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let set = AttributeSet {
            entries: Arc::new([(text.to_owned(), expression)]),
        };
        let view = View {
            request: Some(&self.request),
            response: self.response.as_ref(),
            response_head_sent: true,
            response_trailers: self.trailers.as_ref(),
            request_size: 5,
            response_size: 0,
            backend_latency: None,
            duration: None,
            facts: &self.facts,
            route: self.route.clone(),
            upstream: self.upstream.as_ref(),
            attempts: 0,
            endpoint: None,
            metadata: &self.metadata,
        };
        let content = Struct::decode(evaluate(&set, &view).as_slice()).unwrap();
        assert!(content.fields.values().all(|value| matches!(
            value.kind,
            Some(Kind::BoolValue(_) | Kind::NumberValue(_) | Kind::StringValue(_))
        )));
        struct_to_json(&content)
            .get(text)
            .cloned()
            .unwrap_or_default()
    }

    fn check(&self, rows: &[(&str, Json)]) {
        for (text, value) in rows {
            assert_eq!(&self.get(text), value, "{text}");
        }
    }
}

#[test]
fn names_at_request() {
    exchange().check(&[
        ("request.path", json!("/p?a=1")),
        ("request.url_path", json!("/p")),
        ("request.query", json!("a=1")),
        ("request.host", json!("test.local")),
        ("request.scheme", json!("http")),
        ("request.method", json!("POST")),
        ("request.protocol", json!("HTTP/1.1")),
        ("request.headers", json!("CelMap value")),
        ("request.size", json!(5)),
        ("request.total_size", json!(5 + 53 + 4 + 16)),
        ("request.time", json!("1970-01-01T00:00:01.5+00:00")),
        ("request.id", Json::Null),
        ("request.duration", Json::Null),
        ("request.nothing", Json::Null),
        ("nothing", Json::Null),
        ("nothing.at.all", Json::Null),
        ("response.code", Json::Null),
        ("response.flags", json!(0)),
        ("response.total_size", json!(0)),
        ("response.headers", json!("CelMap value")),
        ("response.grpc_status", Json::Null),
        ("source.address", json!("127.0.0.1:1234")),
        ("source.port", json!(1234)),
        ("connection.id", json!(1)),
        ("connection.mtls", json!(false)),
        ("connection.requested_server_name", json!("")),
        ("connection.tls_version", Json::Null),
        ("upstream.address", Json::Null),
        ("upstream.num_endpoints", json!(1)),
        ("upstream.request_attempt_count", json!(0)),
        ("xds.cluster_name", json!("upstream")),
        ("xds.route_name", json!("")),
        ("xds.virtual_host_name", json!("v")),
        ("xds.listener_direction", json!(0)),
        ("xds.upstream_host_metadata", Json::Null),
        ("filter_state", json!("CelMap value")),
        ("request", json!("CelMap value")),
        ("plugin_name", Json::Null),
    ]);
}

#[test]
fn names_at_response() {
    let mut exchange = exchange();
    let response = http::Response::builder()
        .status(201)
        .header("x-r", "1")
        .header("x-upstream", "upstream")
        .body(())
        .unwrap();
    exchange.response = Some(response.into_parts().0);
    // Made locally.
    exchange.check(&[
        ("response.code", json!(201)),
        ("response.code_details", Json::Null),
        ("upstream.address", Json::Null),
        ("xds.upstream_host_metadata", Json::Null),
    ]);
    exchange.upstream = Some(UpstreamInfo {
        address: "127.0.0.1:80".parse().ok(),
        attempts: 1,
        pool_ready: Some(std::time::Duration::from_nanos(140_462)),
        ..UpstreamInfo::default()
    });
    exchange.check(&[
        ("response.code_details", json!("via_upstream")),
        ("response.grpc_status", json!(2)),
        ("response.headers_bytes", json!(32)),
        ("response.total_size", json!(32)),
        ("upstream.address", json!("127.0.0.1:80")),
        ("upstream.port", json!(80)),
        ("upstream.request_attempt_count", json!(1)),
        ("upstream.cx_pool_ready_duration", json!("140.462us")),
        ("upstream.locality", json!("")),
        ("upstream.transport_failure_reason", json!("")),
        ("xds.upstream_host_metadata", json!("NULL")),
        ("xds.upstream_host_locality_metadata", json!("NULL")),
        ("response.headers['X-R']", json!("1")),
        ("response.headers[':status']", json!("201")),
    ]);
    exchange.trailers = Some(
        [("grpc-status".parse().unwrap(), "5".parse().unwrap())]
            .into_iter()
            .collect(),
    );
    exchange.check(&[("response.grpc_status", json!(5))]);
}

#[test]
fn messages() {
    exchange().check(&[
        (
            "metadata",
            json!(
                "filter_metadata { key: \"my.ns\" value { fields { key: \"b\" value { bool_value: \
                 true } } fields { key: \"f\" value { number_value: 2.5 } } fields { key: \"k\" \
                 value { string_value: \"v\" } } fields { key: \"l\" value { list_value { values { \
                 string_value: \"a\" } values { number_value: 1 } } } } fields { key: \"n\" value { \
                 number_value: 7 } } fields { key: \"o\" value { struct_value { fields { key: \"x\" \
                 value { string_value: \"y\" } } } } } fields { key: \"z\" value { null_value: \
                 NULL_VALUE } } } } typed_filter_metadata { key: \"typed.ns\" value { type_url: \
                 \"type.googleapis.com/google.protobuf.StringValue\" value: \"\\n\\002tv\" } } "
            ),
        ),
        (
            "xds.route_metadata",
            json!(
                "filter_metadata { key: \"my.ns\" value { fields { key: \"l\" value { list_value { \
                 values { number_value: 1 } values { string_value: \"a\" } } } } fields { key: \
                 \"q\\\"uo\" value { string_value: \"a\\nb\\\\\\303\\274\" } } } } "
            ),
        ),
        ("xds.virtual_host_metadata", json!("")),
        (
            "xds.node",
            json!(
                "user_agent_name: \"envoy\" metadata { fields { key: \"a\" value { number_value: 1 \
                 } } } "
            ),
        ),
    ]);
}

#[test]
fn expressions() {
    exchange().check(&[
        ("1", json!(1)),
        ("1u", json!(1)),
        ("1.5", json!("1.5")),
        ("1.0", json!("1")),
        ("1e300", json!("1e+300")),
        ("'text'", json!("text")),
        ("b'abc'", json!("abc")),
        ("null", json!("NULL")),
        ("true", json!(true)),
        ("[1,2]", json!("CelList value")),
        ("{'a': 1}", json!("CelMap value")),
        ("1 + 2 * 3", json!(7)),
        ("7 / 2", json!(3)),
        ("7.0 / 2.0", json!("3.5")),
        ("1 / 0", Json::Null),
        ("request.headers['x-a']", json!("1")),
        ("request.headers['x-multi']", json!("a,b")),
        ("request.headers['X-A']", json!("1")),
        ("request.headers['X-A'] == '1'", json!(true)),
        ("request.headers['nope']", Json::Null),
        ("request.headers.nope", Json::Null),
        ("request.headers[':path']", json!("/p?a=1")),
        ("has(request.headers.nope)", json!(false)),
        ("has(request.headers)", json!(true)),
        ("has(request.nope)", json!(false)),
        ("'x-a' in request.headers", json!(true)),
        ("size(request.headers)", json!(6)),
        ("request.path.size()", json!(6)),
        ("request.path.startsWith('/p')", json!(true)),
        ("request.path.endsWith('1')", json!(true)),
        ("request.path.contains('a')", json!(true)),
        ("request.path.matches('^/p.*')", json!(true)),
        ("request.path.matches(request.method)", json!(false)),
        ("re.extract(request.path, '/(.)', '<\\\\1>')", json!("<p>")),
        ("re.extract(request.path, '/(.)', '\\\\2')", Json::Null),
        ("re.extract(request.path, '(', '\\\\1')", Json::Null),
        ("re.capture(request.path, '/(.).*')", json!("p")),
        ("re.capture(request.path, '/(.)')", Json::Null),
        (
            "re.captureN(request.path, '/(?P<a>.)(.*)')['a']",
            json!("p"),
        ),
        (
            "re.captureN(request.path, '/(?P<a>.)(.*)')['2']",
            json!("?a=1"),
        ),
        (
            "request.path == '/p?a=1' && request.method == 'POST'",
            json!(true),
        ),
        ("request.method == 'GET' ? 'get' : 'other'", json!("other")),
        ("int('5')", json!(5)),
        ("double('5.5')", json!("5.5")),
        (
            "timestamp('2026-01-02T03:04:05Z')",
            json!("2026-01-02T03:04:05+00:00"),
        ),
        (
            "timestamp('2026-01-02T03:04:05.678901Z').getFullYear()",
            json!(2026),
        ),
        ("request.time.getFullYear() == 1970", json!(true)),
        ("duration('90s')", json!("1m30s")),
        ("duration('1500ms')", json!("1.5s")),
        ("duration('1500ms').getMilliseconds()", json!(500)),
        ("startsWith(request.path, '/p')", json!(true)),
        ("contains(request.path, 'q')", json!(false)),
        ("request.time - request.time", json!("0")),
        ("metadata.filter_metadata['my.ns']['k']", json!("v")),
        ("metadata.filter_metadata['my.ns']['n']", json!("7")),
        ("metadata.filter_metadata['my.ns']['f']", json!("2.5")),
        ("metadata.filter_metadata['my.ns']['b']", json!(true)),
        ("metadata.filter_metadata['my.ns']['z']", json!("NULL")),
        (
            "metadata.filter_metadata['my.ns']['l']",
            json!("CelList value"),
        ),
        ("metadata.filter_metadata['my.ns']['l'][0]", json!("a")),
        (
            "metadata.filter_metadata['my.ns']['o']",
            json!("CelMap value"),
        ),
        ("metadata.filter_metadata['my.ns'].o.x", json!("y")),
        ("metadata.filter_metadata['none']", Json::Null),
        ("metadata.filter_metadata", json!("CelMap value")),
        ("metadata.typed_filter_metadata['typed.ns']", json!("tv")),
        (
            "xds.route_metadata.filter_metadata['my.ns']['l'][1]",
            json!("a"),
        ),
        ("xds.node.id", json!("")),
        ("xds.node.user_agent_name", json!("envoy")),
        ("xds.cluster_name.startsWith('up')", json!(true)),
        ("request['path']", json!("/p?a=1")),
        ("filter_state['x']", Json::Null),
        ("response.code == 200", Json::Null),
        ("true || response.code == 200", json!(true)),
        ("false && response.code == 200", json!(false)),
        ("1 == 1.0", json!(true)),
        ("1 < 1.5", json!(true)),
        ("2u + 1u", json!(3)),
        ("9223372036854775807 + 1", Json::Null),
        ("'ü'.size()", json!(1)),
        ("upstream.num_endpoints", json!(1)),
    ]);
}

#[test]
fn refused() {
    for text in [
        "",
        "request.",
        "1 +",
        "a b",
        "(",
        "request.path.lowerAscii()",
        "request.path.matches('(')",
        "true || matches(request.path, '[')",
        "request.path.extract('a', 'b')",
        "nope(1)",
    ] {
        assert!(Expression::compile(text).is_err(), "{text:?}");
    }
    let error = Expression::compile("request.path.replace('p', 'q')").unwrap_err();
    assert_eq!(error.to_string(), "unknown function \"replace\"");
}

#[test]
fn larger_than_may_be() {
    for text in [
        format!("1{}", "+1".repeat(900)),
        format!("1{}", "+1".repeat(200)),
        format!("request{}", ".a".repeat(400)),
        format!("{}1{}", "(".repeat(400), ")".repeat(400)),
        format!("{}1{}", "[".repeat(200), "]".repeat(200)),
        format!("1 in [{}]", "1,".repeat(3000)),
        format!("1{}", "+1".repeat(8000)),
        "request.path.matches('[\\\\w]{100}')".to_owned(),
        "re.capture(request.path, '([\\\\w]{100})') == ''".to_owned(),
    ] {
        let begin = text.get(..20).unwrap();
        let error = Expression::compile_with(&text, Vocabulary::Agentgateway);
        assert!(error.is_err(), "{begin}");
    }
}

#[test]
fn too_many_steps() {
    let exchange = exchange();
    let context = crate::host::ExchangeContext::default();
    let holds = |text: &str| {
        let expression = Expression::compile_with(text, Vocabulary::Agentgateway)
            .unwrap_or_else(|error| panic!("{text}: {error}"));
        expression.holds(&exchange.request, &context.surroundings())
    };
    let list = format!("[{}]", "1,".repeat(30));
    // Each level of a chain sees twice what the level before did.
    let doubled = |begin: &str, step: &str| {
        let head: String = (0..16).map(|_| format!("[{step}].map(a, ")).collect();
        let list = head.replacen(&format!("[{step}]"), begin, 1);
        format!("size({list}a{}) > 0", ")".repeat(16))
    };
    for text in [
        format!("{list}.all(a, {list}.all(b, {list}.all(c, {list}.all(d, a + b + c + d >= 0))))"),
        format!("{list}.all(a, {list}.all(b, {list}.all(c, {list}.all(d, true)))) || true"),
        format!("{list}.map(a, {list}.map(b, {list}.map(c, {list}))).size() > 0"),
        doubled(&format!("['{}']", "a".repeat(64)), "a + a"),
        doubled("[[1]]", "[a, a]"),
        doubled("[[1]]", "{'a': a, 'b': a}"),
        format!("{list}.exists(a, request.path.matches(request.method + string(a)))"),
        format!("{list}.exists(a, re.capture(request.path, request.method) == '')"),
    ] {
        assert_eq!(holds(&text), Err(OverBudget), "{text}");
    }
    for (text, expected) in [
        (
            "request.headers.exists(name, name.startsWith('x-'))".into(),
            true,
        ),
        (
            "request.headers.all(name, request.headers[name] != '')".into(),
            true,
        ),
        (
            format!("{list}.exists(a, request.path.matches('^/p'))"),
            true,
        ),
        (
            format!("{list}.map(a, a + 1).filter(a, a > 2).size() == 0"),
            true,
        ),
        (
            "[1, 2, 3, 4, 5].all(a, [5, 4, 3, 2, 1].exists(b, a == b))".into(),
            true,
        ),
        (format!("1{} == 51", "+1".repeat(50)), true),
        ("request.path.matches(request.method)".into(), false),
        ("[1, 2].exists_one(a, a == 2)".into(), true),
        ("('a' + 'b') == 'ab' && [1] + [2] == [1, 2]".into(), true),
        ("nothing.at.all == 1".into(), false),
    ] {
        assert_eq!(holds(&text), Ok(expected), "{text}");
    }
}
