//! The pages of the admin server.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, ChildStderr, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;

/// Ends the program when it is dropped.
struct Program {
    child: Child,
    log: BufReader<ChildStderr>,
    admin: String,
    folder: PathBuf,
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

const CONFIG: &str = r#"
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - name: main
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              request_headers_to_add: [{header: {key: x-api-key, value: hidden-one}}]
              routes: [{match: {prefix: /}, route: {cluster: upstream}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: upstream
    type: STATIC
    load_assignment:
      cluster_name: upstream
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9}}}, load_balancing_weight: 3}]}]
  - name: "<b>other</b>"
    type: STATIC
    circuit_breakers: {thresholds: [{max_requests: 7}]}
    load_assignment: {cluster_name: other}
"#;

fn start() -> Program {
    start_with(CONFIG)
}

fn start_with(config: &str) -> Program {
    // The tests run at the same time: each has a folder of its own.
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    let folder = std::env::temp_dir().join(format!(
        "gateway-admin-{}-{}",
        std::process::id(),
        STARTED.fetch_add(1, Ordering::Relaxed)
    ));
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("envoy.yaml");
    std::fs::write(&file, config).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args([
            "--concurrency=2",
            "--admin-host=Gateway.Example",
            "--config",
        ])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let admin = loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "it ended");
        if let Some((_, rest)) = line.split_once("admin server address=") {
            break rest.trim().to_owned();
        }
    };
    Program {
        child,
        log,
        admin,
        folder,
    }
}

impl Program {
    /// Status, head and content of an answer.
    fn ask(&self, method: &str, target: &str, more: &str) -> (u16, String, String) {
        let host = match more.to_lowercase().contains("host:") {
            true => "",
            false => "host: localhost\r\n",
        };
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        write!(
            stream,
            "{method} {target} HTTP/1.1\r\n{host}connection: close\r\n{more}\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_owned(), body.to_owned())
    }

    fn get(&self, target: &str) -> String {
        let (status, _, body) = self.ask("GET", target, "");
        assert_eq!(status, 200, "{target}: {body}");
        body
    }

    fn json(&self, target: &str) -> Value {
        serde_json::from_str(&self.get(target)).unwrap()
    }
}

#[test]
fn pages() {
    let gateway = start();

    let dump = gateway.json("/config_dump");
    let bootstrap = &dump["configs"][0]["bootstrap"];
    assert_eq!(
        bootstrap["static_resources"]["clusters"][0]["name"],
        "upstream"
    );
    assert!(!dump.to_string().contains("hidden-one"));

    let listeners = gateway.get("/listeners");
    assert!(listeners.starts_with("main::127.0.0.1:"), "{listeners}");
    let listeners = gateway.json("/listeners?format=json");
    let address = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
    assert_eq!(address["address"], "127.0.0.1");

    let clusters = gateway.get("/clusters");
    for line in [
        "upstream::default_priority::max_connections::1024",
        "upstream::127.0.0.1:9::rq_active::0",
        "upstream::127.0.0.1:9::weight::3",
        "upstream::127.0.0.1:9::health_flags::healthy",
        "<b>other</b>::default_priority::max_requests::7",
    ] {
        assert!(clusters.lines().any(|known| known == line), "{clusters}");
    }
    let clusters = gateway.json("/clusters?format=json&filter=^up");
    let clusters = clusters["cluster_statuses"].as_array().unwrap();
    assert_eq!(clusters.len(), 1);
    let host = &clusters[0]["host_statuses"][0];
    assert_eq!(host["address"]["socket_address"]["port_value"], 9);
    assert_eq!(host["health_status"]["eds_health_status"], "HEALTHY");

    let stats = gateway.json("/stats?format=json&filter=downstream_cx_total");
    assert_eq!(stats["stats"][0]["name"], "http.main.downstream_cx_total");
    assert_eq!(gateway.get("/stats?usedonly&filter=downstream_rq"), "");
    assert_eq!(gateway.get("/ready"), "LIVE\n");
    assert_eq!(gateway.json("/server_info")["state"], "LIVE");
    let resident = gateway.json("/memory")["total_physical_bytes"].clone();
    assert!(resident.as_str().unwrap().parse::<u64>().unwrap() > 0);
    assert!(gateway.get("/help").contains("/config_dump"));
    let (_, head, index) = gateway.ask("GET", "/", "");
    assert!(
        head.contains("text/html") && head.contains("nosniff"),
        "{head}"
    );
    assert!(index.contains("<a href=\"/clusters\">"));

    for (method, target, status) in [
        ("GET", "/nope", 404),
        ("POST", "/stats", 405),
        ("GET", "/logging", 405),
        ("GET", "/stats?format=html", 400),
        ("GET", "/stats?filter=(", 400),
        ("GET", "/clusters?filter=(", 400),
        ("HEAD", "/ready", 200),
    ] {
        let (got, _, body) = gateway.ask(method, target, "");
        assert_eq!(got, status, "{method} {target}: {body}");
    }
}

/// A page that makes its own name lead to the admin server (DNS rebinding) gets nothing of it.
#[test]
fn names_of_others_are_refused() {
    let gateway = start();
    for host in [
        "attacker.example",
        "attacker.example:9901",
        "127.0.0.1.attacker.example",
        "localhost.attacker.example",
        "gateway.example.attacker.example",
        "",
        "[::1",
        "127.0.0.1\r\nhost: attacker.example",
    ] {
        for (method, page) in [
            ("GET", "/"),
            ("GET", "/config_dump"),
            ("GET", "/stats"),
            ("GET", "/certs"),
            ("POST", "/logging"),
        ] {
            let (status, _, body) = gateway.ask(method, page, &format!("host: {host}\r\n"));
            let is_refused = status == 421 && body.contains("--admin-host") || status == 400;
            assert!(is_refused, "{page} as {host}: {status} {body}");
        }
    }
    // The target counts as well, whatever `host` says.
    let (status, ..) = gateway.ask(
        "GET",
        "http://attacker.example/stats",
        "host: localhost\r\n",
    );
    assert_eq!(status, 421);
    for host in [
        "localhost",
        "LocalHost:9901",
        "127.0.0.1:9901",
        "10.1.2.3",
        "[::1]:9901",
        "gateway.example:80",
    ] {
        let (status, _, body) = gateway.ask("GET", "/stats", &format!("host: {host}\r\n"));
        assert_eq!(status, 200, "{host}: {body}");
    }
    // A probe is answered under each name.
    let (status, ..) = gateway.ask("GET", "/ready", "host: gateway.default.svc\r\n");
    assert_eq!(status, 200);
}

/// The answer of Envoy 1.40 to the same bootstrap, the days that are left aside.
#[test]
fn certificates() {
    let file = |name: &str| format!("{}/tests/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let inline: Value = std::fs::read_to_string(file("ca.pem")).unwrap().into();
    let (a, key, ca) = (file("a.pem"), file("a.key"), file("ca.pem"));
    let (client, client_key) = (file("client.pem"), file("client.key"));
    let listener = format!(
        r#"    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates: [{{certificate_chain: {{filename: {a}}}, private_key: {{filename: {key}}}}}]
            validation_context: {{trusted_ca: {{filename: {ca}}}}}
      filters:"#
    );
    let cluster = format!(
        r#"    type: STATIC
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          tls_certificates: [{{certificate_chain: {{filename: {client}}}, private_key: {{filename: {client_key}}}}}]
          validation_context: {{trusted_ca: {{inline_string: {inline}}}}}
"#
    );
    let config =
        CONFIG
            .replace("    - filters:", &listener)
            .replacen("    type: STATIC\n", &cluster, 1);
    let gateway = start_with(&config);
    let mut shown = gateway.json("/certs");
    for context in shown["certificates"].as_array_mut().unwrap() {
        for part in ["ca_cert", "cert_chain"] {
            let days = context[part][0]
                .as_object_mut()
                .unwrap()
                .remove("days_until_expiration");
            let days: u64 = days.unwrap().as_str().unwrap().parse().unwrap();
            assert!(days > 1000, "{days}");
        }
    }
    let authority = |path: &str| {
        serde_json::json!({
            "path": path,
            "serial_number": "483379f012155417c4084b54c8af0ff7cbf714d0",
            "subject_alt_names": [],
            "valid_from": "2026-11-22T04:52:39Z",
            "expiration_time": "2126-10-29T04:52:39Z",
        })
    };
    let expected = serde_json::json!({"certificates": [
        {
            "ca_cert": [authority("<inline>")],
            "cert_chain": [{
                "path": client,
                "serial_number": "2d243b87faa275a3f7370ea6bf338f1fbb95fe32",
                "subject_alt_names": [{"dns": "client.example"}],
                "valid_from": "2026-11-22T04:52:40Z",
                "expiration_time": "2126-10-29T04:52:40Z",
            }],
        },
        {
            "ca_cert": [authority(&ca)],
            "cert_chain": [{
                "path": a,
                "serial_number": "2d243b87faa275a3f7370ea6bf338f1fbb95fe30",
                "subject_alt_names": [{"dns": "a.example"}],
                "valid_from": "2026-11-22T04:52:39Z",
                "expiration_time": "2126-10-29T04:52:39Z",
            }],
        },
    ]});
    assert_eq!(shown, expected);
    // Keys are in no answer.
    assert!(!gateway.get("/certs").contains("PRIVATE"));
    let none = start().json("/certs");
    assert_eq!(none, serde_json::json!({"certificates": []}));
}

#[test]
fn levels_of_the_log() {
    let mut gateway = start();
    let set = |target: &str, more: &str| {
        let (status, _, body) = gateway.ask("POST", target, more);
        (status, body)
    };
    let (status, shown) = set("/logging", "");
    assert_eq!(status, 200);
    assert!(shown.contains("info"), "{shown}");
    let (status, refused) = set("/logging?level=loud", "");
    assert_eq!(status, 400, "{refused}");
    for of_another_site in [
        "sec-fetch-site: cross-site\r\n",
        "origin: http://attacker.example\r\n",
        "origin: null\r\n",
        "origin: http://localhost\r\norigin: http://attacker.example\r\n",
    ] {
        let (status, _) = set("/logging?level=debug", of_another_site);
        assert_eq!(status, 403, "{of_another_site}");
    }
    assert_eq!(set("/logging", "origin: http://localhost\r\n").0, 200);
    let (status, shown) = set("/logging?gateway_proxy=debug", "");
    assert_eq!(status, 200);
    assert!(shown.contains("gateway_proxy=debug"), "{shown}");
    assert!(shown.contains("info"), "{shown}");
    // Whatever is refused changes nothing, and no target holds more than one.
    for refused in [
        "/logging?paths=gateway_config:trace,gateway_proxy:loud",
        "/logging?gateway_config%2Ch2=trace",
        "/logging?=trace",
    ] {
        assert_eq!(set(refused, "").0, 400, "{refused}");
    }
    let (_, after) = set("/logging", "");
    assert_eq!(after, shown);
    for _ in 0..100 {
        assert_eq!(set("/logging?paths=gateway_proxy::upstream:off", "").0, 200);
    }
    let (_, after) = set("/logging", "");
    assert_eq!(
        after.matches("gateway_proxy::upstream=off").count(),
        1,
        "{after}"
    );
    let many: Vec<String> = (0..100).map(|at| format!("t{at}:warn")).collect();
    assert_eq!(
        set(&format!("/logging?paths={}", many.join(",")), "").0,
        400
    );
    // A head that nobody finishes ends with a line at debug.
    let mut broken = TcpStream::connect(&gateway.admin).unwrap();
    broken.write_all(b"nonsense\r\n\r\n").unwrap();
    let mut line = String::new();
    while !line.contains("admin connection ended") {
        line.clear();
        assert!(gateway.log.read_line(&mut line).unwrap() > 0);
    }
}
