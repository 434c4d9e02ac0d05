//! `--inspect` and `gateway trace`, as programs.

mod program;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::Command,
};

use self::program::{followed, gateway, logged};

#[test]
fn an_exchange_with_a_processor_that_is_not_there() {
    // Bound and not listened on: nobody else gets the port, and connections are refused.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", nobody.local_addr().unwrap());
    let mut serving = gateway(&[
        "--listen=127.0.0.1:0",
        &format!("--upstream={url}"),
        &format!("--ext-proc={url}"),
        "--inspect=127.0.0.1:0",
        "--concurrency=1",
    ]);
    let mut log = BufReader::new(serving.0.stderr.take().unwrap());
    let page = logged(&mut log, "url=http://");
    let inspector = page.trim_end_matches('/');
    let address = logged(&mut log, "address=");
    let address = address.as_str();

    let mut trace = gateway(&[
        "trace",
        "--inspector",
        inspector,
        "--match",
        "/lost",
        "--json",
    ]);
    followed(inspector);
    let mut client = TcpStream::connect(address).unwrap();
    write!(
        client,
        "GET /lost HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 5"), "{answer}");

    let mut line = String::new();
    let mut told = BufReader::new(trace.0.stdout.take().unwrap());
    told.read_line(&mut line).unwrap();
    let exchange: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(exchange["path"], "/lost");
    let verdict = exchange["processors"][0]["verdict"].as_str().unwrap();
    assert!(
        verdict.starts_with("the side stream could not be opened"),
        "{verdict}"
    );

    // A command, and what it caused.
    let traced = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args([
            "trace",
            "--inspector",
            inspector,
            "--match",
            "/by-curl",
            "--",
        ])
        .args([
            "curl",
            "-s",
            "--max-time",
            "20",
            &format!("http://{address}/by-curl"),
        ])
        .output()
        .unwrap();
    let told = String::from_utf8(traced.stdout).unwrap();
    if told.is_empty() && String::from_utf8_lossy(&traced.stderr).contains("curl: ") {
        eprintln!("there is no curl");
        return;
    }
    assert!(traced.status.success(), "{told}");
    assert!(told.contains("/by-curl -> 5"), "{told}");
    assert!(
        told.contains("  verdict: the side stream could not be opened"),
        "{told}"
    );
    assert!(!told.contains("/lost"), "{told}");
}

#[test]
fn off_by_default() {
    let mut serving = gateway(&[
        "--listen=127.0.0.1:0",
        "--upstream=http://127.0.0.1:9",
        "--ext-proc=http://127.0.0.1:9",
    ]);
    let mut log = BufReader::new(serving.0.stderr.take().unwrap());
    // The first thing that is said, and nothing about an inspector before it.
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    assert!(line.contains("listening"), "{line}");
}

const CONFIG: &str = r#"
admin:
  inspect:
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    max_body_bytes: 5
    max_exchanges: 7
    match: /seen
    redact: [x-tenant]
    replay: ["localhost:18081"]
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
              routes:
              - match: {prefix: /}
                route: {cluster: upstream}
                typed_per_filter_config:
                  authz:
                    "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute
                    overrides: {grpc_service: {envoy_grpc: {cluster_name: of-route}}}
          http_filters:
          - name: authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
              grpc_service: {envoy_grpc: {cluster_name: processor}}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: upstream
    type: STATIC
    load_assignment:
      cluster_name: upstream
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9}}}}]}]
  - name: processor
    type: STATIC
    load_assignment:
      cluster_name: processor
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 11}}}}]}]
  - name: of-route
    type: STRICT_DNS
    load_assignment:
      cluster_name: of-route
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: localhost, port_value: 12}}}}]}]
"#;

fn ask(address: &str, line: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    write!(
        socket,
        "{line} HTTP/1.1\r\nhost: localhost\r\nx-tenant: nobody-else\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

/// Settings of the file alone; replays go to its processors, those of routes as well, and follow a new configuration.
#[test]
fn an_admin_extension_of_the_bootstrap() {
    let folder = std::env::temp_dir().join(format!("gateway-inspect-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("envoy.yaml");
    std::fs::write(&file, CONFIG).unwrap();
    let config = format!("--config={}", file.display());
    let mut serving = gateway(&[&config, "--concurrency=1"]);
    let mut log = BufReader::new(serving.0.stderr.take().unwrap());
    let inspector = logged(&mut log, "url=http://");
    let inspector = inspector.trim_end_matches('/').to_owned();
    let address = logged(&mut log, "address=");

    let state = |what: &str| {
        let answer = ask(&inspector, "GET /state");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        serde_json::from_str::<serde_json::Value>(body).unwrap()[what].clone()
    };
    assert_eq!(state("most"), 7);
    assert_eq!(state("bodies"), 5);
    let known = serde_json::json!(["127.0.0.1:11", "localhost:12", "localhost:18081"]);
    assert_eq!(state("replay"), known);
    ask(&address, "GET /other");
    ask(&address, "GET /seen");
    assert_eq!((state("kept"), state("skipped")), (1.into(), 1.into()));
    let id = {
        let list = ask(&inspector, "GET /exchanges");
        let list: serde_json::Value =
            serde_json::from_str(list.split_once("\r\n\r\n").unwrap().1).unwrap();
        list["exchanges"][0]["id"].clone()
    };
    let told = ask(&inspector, &format!("GET /exchanges/{id}"));
    assert!(
        told.contains("x-tenant") && !told.contains("nobody-else"),
        "{told}"
    );
    let refused = ask(
        &inspector,
        &format!("POST /exchanges/{id}/replay?processor=127.0.0.1:9"),
    );
    assert!(
        refused.starts_with("HTTP/1.1 403"),
        "an upstream is no processor: {refused}"
    );

    let changed = CONFIG
        .replace("port_value: 11}", "port_value: 13}")
        .replace("bytes: 5", "bytes: 6");
    std::fs::write(&file, changed).unwrap();
    let mut line = String::new();
    while !line.contains("new configuration in place") {
        assert!(!line.contains("new configuration refused"), "{line}");
        if line.contains("admin.inspect has changed") {
            assert!(line.contains("next start"), "{line}");
        }
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0);
    }
    let known = serde_json::json!(["127.0.0.1:13", "localhost:12", "localhost:18081"]);
    assert_eq!(state("replay"), known);
    assert_eq!(state("bodies"), 5, "it stays as it was started");
    std::fs::remove_dir_all(&folder).unwrap();
}
