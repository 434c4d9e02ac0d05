//! Numbers of a configuration at the ends of their ranges: what is accepted serves, and nothing panics.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use gateway_proxy::{Gateway, Options};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Whole numbers and times, beyond what any field takes.
const NUMBERS: &[u64] = &[
    0,
    1,
    2,
    100,
    24_576,
    24_577,
    65_535,
    65_536,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    u64::MAX,
];
const TIMES: &[&str] = &[
    "0s",
    "0.000000001s",
    "0.001s",
    "3600s",
    "8640000s",
    "315576000000s",
];
const SHARES: &[f64] = &[0.0, 1e-300, 0.5, 100.0, 1e300];

/// Fields that hold a number, by their place in [`bootstrap`].
const NUMBER_FIELDS: &[&str] = &[
    "/listener/per_connection_buffer_limit_bytes",
    "/manager/max_request_headers_kb",
    "/manager/common_http_protocol_options/max_headers_count",
    "/manager/common_http_protocol_options/max_requests_per_connection",
    "/manager/http2_protocol_options/max_concurrent_streams",
    "/manager/http2_protocol_options/initial_stream_window_size",
    "/manager/http2_protocol_options/initial_connection_window_size",
    "/virtual_host/per_request_buffer_limit_bytes",
    "/route/retry_policy/num_retries",
    "/route/retry_policy/host_selection_retry_max_attempts",
    "/cluster/per_connection_buffer_limit_bytes",
    "/cluster/ring_hash_lb_config/minimum_ring_size",
    "/cluster/ring_hash_lb_config/maximum_ring_size",
    "/cluster/circuit_breakers/thresholds/0/max_connections",
    "/cluster/circuit_breakers/thresholds/0/max_pending_requests",
    "/cluster/circuit_breakers/thresholds/0/max_requests",
    "/cluster/circuit_breakers/thresholds/0/max_retries",
    "/cluster/circuit_breakers/thresholds/0/retry_budget/min_retry_concurrency",
    "/cluster/upstream_connection_options/tcp_keepalive/keepalive_probes",
    "/cluster/upstream_connection_options/tcp_keepalive/keepalive_time",
    "/cluster/upstream_connection_options/tcp_keepalive/keepalive_interval",
    "/cluster/outlier_detection/consecutive_5xx",
    "/cluster/outlier_detection/max_ejection_percent",
    "/cluster/health_checks/0/unhealthy_threshold",
    "/cluster/health_checks/0/healthy_threshold",
    "/cluster/load_assignment/policy/overprovisioning_factor",
    "/cluster/load_assignment/endpoints/0/lb_endpoints/0/load_balancing_weight",
    "/protocol/common_http_protocol_options/max_headers_count",
    "/protocol/common_http_protocol_options/max_response_headers_kb",
    "/protocol/common_http_protocol_options/max_requests_per_connection",
    "/http2/max_concurrent_streams",
    "/http2/initial_stream_window_size",
    "/http2/initial_connection_window_size",
    "/bucket/max_tokens",
    "/bucket/tokens_per_fill",
    "/buffer/max_request_bytes",
    "/overload/resource_monitors/0/typed_config/max_heap_size_bytes",
    "/overload/resource_monitors/1/typed_config/max_active_downstream_connections",
];

const TIME_FIELDS: &[&str] = &[
    "/manager/common_http_protocol_options/idle_timeout",
    "/manager/common_http_protocol_options/max_connection_duration",
    "/manager/common_http_protocol_options/max_stream_duration",
    "/manager/stream_idle_timeout",
    "/manager/request_timeout",
    "/manager/request_headers_timeout",
    "/manager/drain_timeout",
    "/manager/delayed_close_timeout",
    "/manager/http2_protocol_options/connection_keepalive/interval",
    "/manager/http2_protocol_options/connection_keepalive/timeout",
    "/manager/http2_protocol_options/connection_keepalive/connection_idle_interval",
    "/chain/transport_socket_connect_timeout",
    "/route/timeout",
    "/route/idle_timeout",
    "/route/max_stream_duration/max_stream_duration",
    "/route/max_stream_duration/grpc_timeout_header_max",
    "/route/max_stream_duration/grpc_timeout_header_offset",
    "/route/retry_policy/per_try_timeout",
    "/route/retry_policy/retry_back_off/base_interval",
    "/route/retry_policy/retry_back_off/max_interval",
    "/cluster/connect_timeout",
    "/cluster/outlier_detection/base_ejection_time",
    "/cluster/outlier_detection/max_ejection_time",
    "/cluster/health_checks/0/timeout",
    "/cluster/health_checks/0/interval",
    "/protocol/common_http_protocol_options/idle_timeout",
    "/protocol/common_http_protocol_options/max_connection_duration",
    "/protocol/common_http_protocol_options/max_stream_duration",
    "/http2/connection_keepalive/interval",
    "/http2/connection_keepalive/timeout",
    "/http2/connection_keepalive/connection_idle_interval",
    "/bucket/fill_interval",
    "/overload/refresh_interval",
    "/processor/message_timeout",
    "/processor/max_message_timeout",
    "/processor/deferred_close_timeout",
];

const SHARE_FIELDS: &[&str] = &[
    "/manager/http2_protocol_options/connection_keepalive/interval_jitter/value",
    "/cluster/circuit_breakers/thresholds/0/retry_budget/budget_percent/value",
    "/cluster/common_lb_config/healthy_panic_threshold/value",
];

/// Company that a field has to have, where it may not stand alone.
const BESIDE: &[(&str, &str, &str)] = &[
    (
        "/connection_keepalive/",
        "connection_keepalive/timeout",
        "1s",
    ),
    ("/health_checks/", "health_checks/0/timeout", "1s"),
    ("/health_checks/", "health_checks/0/interval", "1s"),
    ("/retry_back_off/", "retry_back_off/base_interval", "0.025s"),
    ("/retry_policy/", "retry_policy/retry_on", "5xx"),
];

fn set(tree: &mut Value, path: &str, value: Value) {
    let mut at = tree;
    for part in path.split('/').skip(1) {
        at = match part.parse::<usize>() {
            Ok(index) => {
                if at.is_null() {
                    *at = json!([]);
                }
                let list = at.as_array_mut().unwrap();
                while list.len() <= index {
                    list.push(Value::Null);
                }
                &mut list[index]
            }
            Err(_) => &mut at[part],
        };
    }
    *at = value;
}

/// Sets a field, and what it needs.
fn set_with_company(tree: &mut Value, path: &str, value: Value) {
    for (part, needed, with) in BESIDE {
        if let Some((before, _)) = path.split_once(part) {
            let parent = format!("{before}/{}", part.trim_matches('/'));
            let name = needed.split_once('/').unwrap().1;
            let full = format!("{parent}/{name}");
            if full != path && tree.pointer(&full).is_none() {
                set(tree, &full, json!(with));
            }
        }
    }
    if path.contains("/health_checks/") {
        for threshold in ["unhealthy_threshold", "healthy_threshold"] {
            let full = format!("/cluster/health_checks/0/{threshold}");
            if full != path && tree.pointer(&full).is_none() {
                set(tree, &full, json!(1));
            }
        }
        set(
            tree,
            "/cluster/health_checks/0/http_health_check",
            json!({"path": "/"}),
        );
    }
    set(tree, path, value);
}

fn typed(name: &str, mut fields: Value) -> Value {
    fields["@type"] = format!("type.googleapis.com/envoy.{name}").into();
    fields
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) => {
            for (index, value) in from.into_iter().enumerate() {
                match into.get_mut(index) {
                    Some(known) => merge(known, value),
                    None => into.push(value),
                }
            }
        }
        (into, Value::Null) if !into.is_null() => {}
        (into, from) => *into = from,
    }
}

/// A whole file with these fields.
fn bootstrap(fields: &Value, upstream: SocketAddr, http2: bool) -> String {
    let mut given = fields.clone();
    let mut take = |name: &str| std::mem::replace(&mut given[name], Value::Null);
    let with = |mut base: Value, more: Value| {
        merge(&mut base, more);
        base
    };
    let address =
        json!({"socket_address": {"address": "127.0.0.1", "port_value": upstream.port()}});
    let http2_options = with(json!({}), take("http2"));
    let explicit = match http2 {
        true => json!({"http2_protocol_options": http2_options}),
        false => json!({"http_protocol_options": {}}),
    };
    const OPTIONS: &str = "extensions.upstreams.http.v3.HttpProtocolOptions";
    let protocol = typed(
        OPTIONS,
        with(json!({"explicit_http_config": explicit}), take("protocol")),
    );
    let mut cluster = with(
        json!({
            "name": "upstream", "type": "STATIC", "lb_policy": "RING_HASH", "connect_timeout": "1s",
            "load_assignment": {"cluster_name": "upstream", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]},
        }),
        take("cluster"),
    );
    cluster["typed_extension_protocol_options"] =
        json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol });
    let side = json!({
        "name": "side", "type": "STATIC", "http2_protocol_options": {},
        "load_assignment": {"cluster_name": "side", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]},
    });
    let mut filters = Vec::new();
    if !fields["bucket"].is_null() {
        let base = json!({"max_tokens": 10, "fill_interval": "1s"});
        let on = json!({"default_value": {"numerator": 100}});
        let bucket = with(base, take("bucket"));
        filters.push(json!({"name": "limit", "typed_config": typed("extensions.filters.http.local_ratelimit.v3.LocalRateLimit", json!({
            "stat_prefix": "l", "token_bucket": bucket, "filter_enabled": on, "filter_enforced": on,
        }))}));
    }
    if !fields["buffer"].is_null() {
        filters.push(json!({"name": "buffer", "typed_config": typed("extensions.filters.http.buffer.v3.Buffer", take("buffer"))}));
    }
    if !fields["processor"].is_null() {
        let base = json!({"grpc_service": {"envoy_grpc": {"cluster_name": "side"}}, "failure_mode_allow": true});
        let config = typed(
            "extensions.filters.http.ext_proc.v3.ExternalProcessor",
            with(base, take("processor")),
        );
        filters.push(json!({"name": "processor", "typed_config": config}));
    }
    filters.push(json!({"name": "router", "typed_config": typed("extensions.filters.http.router.v3.Router", json!({}))}));
    let action = with(
        json!({"cluster": "upstream", "timeout": "1s", "hash_policy": [{"header": {"header_name": "x"}}]}),
        take("route"),
    );
    let host = with(
        json!({"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}]}),
        take("virtual_host"),
    );
    let manager = with(
        json!({"stat_prefix": "main", "route_config": {"virtual_hosts": [host]}, "http_filters": filters}),
        take("manager"),
    );
    let manager = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        manager,
    );
    let chain = with(
        json!({"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}),
        take("chain"),
    );
    let listener = with(
        json!({
            "name": "main", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "filter_chains": [chain],
        }),
        take("listener"),
    );
    let mut whole =
        json!({"static_resources": {"listeners": [listener], "clusters": [cluster, side]}});
    if !fields["overload"].is_null() {
        let base = json!({"resource_monitors": [
            {"name": "heap", "typed_config": typed("extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig", json!({"max_heap_size_bytes": 1_u64 << 40}))},
            {"name": "connections", "typed_config": typed(
                "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                json!({"max_active_downstream_connections": 100}),
            )},
        ]});
        whole["overload_manager"] = with(base, take("overload"));
    }
    whole.to_string()
}

/// An upstream that answers whatever it is sent, with many headers, by HTTP/1 or with the preface of HTTP/2 and nothing more.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let Ok(mut socket) = socket else { continue };
            thread::spawn(move || {
                let mut head = vec![0; 64 * 1024];
                let read = socket.read(&mut head).unwrap_or(0);
                if head[..read].starts_with(b"PRI ") {
                    let _ = socket.write_all(b"\0\0\0\x04\0\0\0\0\0");
                    let _ = socket.read(&mut head);
                    return;
                }
                let mut answer = String::from("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n");
                many_headers(&mut answer, 30_000);
                answer.push_str("\r\nok");
                let _ = socket.write_all(answer.as_bytes());
            });
        }
    });
    address
}

fn many_headers(out: &mut String, count: usize) {
    use std::fmt::Write as _;
    for number in 0..count {
        write!(out, "a{number:x}:\r\n").unwrap();
    }
}

/// Sends bytes, and reads what comes until the end or for a moment.
fn send(gateway: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let Ok(mut stream) = TcpStream::connect(gateway) else {
        return Vec::new();
    };
    let moment = Some(Duration::from_millis(300));
    stream.set_read_timeout(moment).unwrap();
    stream.set_write_timeout(moment).unwrap();
    let _ = stream.write_all(bytes);
    let mut answer = vec![0; 4096];
    let read = stream.read(&mut answer).unwrap_or(0);
    answer.truncate(read);
    answer
}

/// Starts a gateway of these fields and lets clients come to it; says whether the fields were accepted.
fn try_out(fields: &Value, upstream: SocketAddr, http2: bool) -> bool {
    let text = bootstrap(fields, upstream, http2);
    let Ok(snapshot) = gateway_config::parse_envoy("test.json", &text) else {
        return false;
    };
    let before = PANICS.load(Ordering::SeqCst);
    // A limit of the process may forbid what is asked for, with an error.
    if let Ok(running) = Gateway::start(snapshot, Options::default().concurrency(1)) {
        let gateway = running.local_addr("main").unwrap();
        send(
            gateway,
            b"POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello",
        );
        if fields
            .pointer("/manager/common_http_protocol_options/max_headers_count")
            .is_some()
        {
            let mut head = String::from("GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n");
            many_headers(&mut head, 30_000);
            head.push_str("\r\n");
            send(gateway, head.as_bytes());
        }
        // GET, http, / and an authority over HTTP/2.
        let mut http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        http2.extend(b"\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01a");
        send(gateway, &http2);
        drop(running);
    }
    let panics = PANICS.load(Ordering::SeqCst) - before;
    assert_eq!(panics, 0, "panicked with {fields}");
    true
}

fn extreme(path: &str, random: &mut StdRng) -> Value {
    if TIME_FIELDS.contains(&path) {
        json!(TIMES[random.random_range(0..TIMES.len())])
    } else if SHARE_FIELDS.contains(&path) {
        json!(SHARES[random.random_range(0..SHARES.len())])
    } else {
        json!(NUMBERS[random.random_range(0..NUMBERS.len())])
    }
}

#[test]
fn no_accepted_number_panics() {
    let known = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        known(info);
    }));
    let upstream = upstream();
    let all: Vec<&str> = [NUMBER_FIELDS, TIME_FIELDS, SHARE_FIELDS].concat();
    // Each by itself, with each value.
    for path in &all {
        let numbers = || NUMBERS.iter().map(|number| json!(number));
        let values: Vec<Value> = if TIME_FIELDS.contains(path) {
            TIMES.iter().map(|time| json!(time)).collect()
        } else if SHARE_FIELDS.contains(path) {
            SHARES.iter().map(|share| json!(share)).collect()
        } else {
            numbers().collect()
        };
        let http2 = path.starts_with("/http2");
        let mut accepted = 0;
        for value in values {
            let mut fields = json!({});
            set_with_company(&mut fields, path, value);
            accepted += usize::from(try_out(&fields, upstream, http2));
        }
        assert!(accepted > 0, "no value of {path} is accepted");
    }
    // And several together, always the same ones.
    let mut random = StdRng::seed_from_u64(1);
    let mut accepted = 0;
    for round in 0..120 {
        let mut fields = json!({});
        for _ in 0..random.random_range(2..6) {
            let path = all[random.random_range(0..all.len())];
            let value = extreme(path, &mut random);
            let mut with = fields.clone();
            set_with_company(&mut with, path, value);
            let text = bootstrap(&with, upstream, round % 2 == 0);
            if gateway_config::parse_envoy("test.json", &text).is_ok() {
                fields = with;
            }
        }
        accepted += usize::from(try_out(&fields, upstream, round % 2 == 0));
    }
    assert!(accepted > 60, "{accepted} of the mixed ones were accepted");
}
