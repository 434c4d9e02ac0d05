//! Replacing what a running gateway serves.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use gateway_config as config;
use gateway_proxy::{Gateway, Options, Running};

const WAIT: Duration = Duration::from_secs(10);

/// An upstream that answers every request with its name and the number of its connection, after `hold`
/// lets it.
struct Upstream {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

fn upstream(name: &'static str) -> Upstream {
    held(name, || {})
}

fn held(name: &'static str, hold: impl Fn() + Clone + Send + 'static) -> Upstream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            let hold = hold.clone();
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                while !head(&mut stream).is_empty() {
                    hold();
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}",
                        name.len()
                    );
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Upstream {
        address,
        connections,
    }
}

/// Reads to the end of a head.
fn head(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => text.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8(text).unwrap()
}

/// A request on a connection that stays open; its head and body.
fn ask(stream: &mut TcpStream) -> std::io::Result<(String, String)> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")?;
    let head = head(stream).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .and_then(|length| length.parse().ok())
        .ok_or_else(|| std::io::Error::other(format!("no answer: {head:?}")))?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((head, String::from_utf8(body).unwrap()))
}

fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    ask(&mut stream).map(|(_, body)| body)
}

/// Listeners by name, each in front of a cluster, on ports that the system chooses.
fn bootstrap(listeners: &[(&str, &str)], clusters: &[(&str, SocketAddr)]) -> String {
    let mut text = "static_resources:\n  listeners:\n".to_owned();
    for (name, cluster) in listeners {
        text.push_str(&format!(
            r#"  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          drain_timeout: 5s
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"#
        ));
    }
    text.push_str("  clusters:\n");
    for (name, address) in clusters {
        text.push_str(&format!(
            r"  - name: {name}
    type: STATIC
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}
",
            address.port(),
        ));
    }
    text
}

fn snapshot(
    listeners: &[(&str, &str)],
    clusters: &[(&str, SocketAddr)],
) -> config::snapshot::Snapshot {
    config::parse_envoy("test.yaml", &bootstrap(listeners, clusters)).unwrap()
}

/// A gateway with one listener, `main`, in front of a cluster.
fn start(cluster: &str, clusters: &[(&str, SocketAddr)]) -> (Running, SocketAddr) {
    let options = Options::default().concurrency(2);
    let snapshot = snapshot(&[("main", cluster)], clusters);
    let running = Gateway::start(snapshot, options).unwrap();
    let address = running.local_addr("main").unwrap();
    (running, address)
}

#[test]
fn a_connection_takes_the_new_routes_from_its_next_request() {
    let (first, second) = (upstream("first"), upstream("second"));
    let clusters = [("a", first.address), ("b", second.address)];
    let (running, at) = start("a", &clusters);
    let mut client = TcpStream::connect(at).unwrap();
    assert_eq!(ask(&mut client).unwrap().1, "first");
    running
        .update(snapshot(&[("main", "b")], &clusters))
        .unwrap();
    assert_eq!(ask(&mut client).unwrap().1, "second");
    // The cluster did not change: its connection is still in use.
    running
        .update(snapshot(&[("main", "a")], &clusters))
        .unwrap();
    assert_eq!(ask(&mut client).unwrap().1, "first");
    assert_eq!(first.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn endpoints_that_stay_keep_their_connections() {
    let (first, second) = (upstream("first"), upstream("second"));
    let (running, at) = start("a", &[("a", first.address)]);
    let mut client = TcpStream::connect(at).unwrap();
    assert_eq!(ask(&mut client).unwrap().1, "first");
    let more = bootstrap(&[("main", "a")], &[("a", first.address)]).replace(
        "      - lb_endpoints:\n",
        &format!(
            "      - lb_endpoints:\n        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}\n",
            second.address.port()
        ),
    );
    let more = config::parse_envoy("test.yaml", &more).unwrap();
    assert_ne!(
        more.clusters["a"],
        snapshot(&[], &[("a", first.address)]).clusters["a"]
    );
    running.update(more).unwrap();
    let mut answers = [ask(&mut client).unwrap().1, ask(&mut client).unwrap().1];
    answers.sort();
    assert_eq!(answers, ["first", "second"]);
    assert_eq!(first.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn an_exchange_keeps_the_snapshot_it_began_with() {
    let (begun, has_begun) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Arc::new(std::sync::Mutex::new(may_go));
    let slow = held("slow", move || {
        begun.send(()).unwrap();
        may_go.lock().unwrap().recv().unwrap();
    });
    let other = upstream("other");
    let (running, at) = start("a", &[("a", slow.address)]);
    let client = thread::spawn(move || get(at));
    has_begun.recv_timeout(WAIT).unwrap();
    // Its cluster is not even there any more.
    running
        .update(snapshot(&[("main", "b")], &[("b", other.address)]))
        .unwrap();
    assert_eq!(get(at).unwrap(), "other");
    go.send(()).unwrap();
    assert_eq!(client.join().unwrap().unwrap(), "slow");
}

#[test]
fn a_listener_that_is_gone_finishes_what_it_carries() {
    let (begun, has_begun) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Arc::new(std::sync::Mutex::new(may_go));
    let slow = held("slow", move || {
        begun.send(()).unwrap();
        may_go.lock().unwrap().recv().unwrap();
    });
    let clusters = [("a", slow.address)];
    let (running, at) = start("a", &clusters);
    let client = thread::spawn(move || {
        let mut client = TcpStream::connect(at).unwrap();
        let answer = ask(&mut client);
        // The connection ends behind it.
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
        answer
    });
    has_begun.recv_timeout(WAIT).unwrap();
    running
        .update(snapshot(&[("other", "a")], &clusters))
        .unwrap();
    assert_eq!(running.local_addr("main"), None);
    assert!(running.local_addr("other").is_some());
    let deadline = Instant::now() + WAIT;
    while TcpStream::connect(at).is_ok() {
        assert!(Instant::now() < deadline, "still accepting");
        thread::yield_now();
    }
    go.send(()).unwrap();
    let (head, body) = client.join().unwrap().unwrap();
    assert_eq!(body, "slow");
    assert!(head.contains("connection: close\r\n"), "{head}");
}

#[test]
fn what_cannot_be_had_changes_nothing() {
    let (first, second) = (upstream("first"), upstream("second"));
    let clusters = [("a", first.address), ("b", second.address)];
    let (running, at) = start("a", &clusters);
    let before = running.local_addrs();
    let refuse = |text: &str| {
        let snapshot = config::parse_envoy("test.yaml", text).unwrap();
        running.update(snapshot).unwrap_err().to_string()
    };
    // Its port is the second upstream's.
    let taken = format!("port_value: {}}}}}\n    filter", second.address.port());
    let text = bootstrap(&[("main", "b"), ("more", "b")], &clusters);
    let (start, end) = text.rsplit_once("port_value: 0}}\n    filter").unwrap();
    let error = refuse(&format!("{start}{taken}{end}"));
    let expected = format!("cannot listen on {}: ", second.address);
    assert!(error.starts_with(&expected), "{error}");
    let error = refuse(&text.replace("port_value: 0}}\n    filter", &taken));
    assert!(
        error.ends_with("two listeners have this address"),
        "{error}"
    );
    assert_eq!(get(at).unwrap(), "first");
    assert_eq!(running.local_addrs(), before);
}

/// Text with this filter in front of the router, of which the only route says `of_route`.
fn limited(text: &str, filter: &str, of_route: &str) -> String {
    const LIMIT: &str =
        "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
    let limit = |bucket: &str| {
        format!(
            "{{\"@type\": {LIMIT}, stat_prefix: limit, filter_enabled: {{default_value: {{numerator: 100}}}}, \
             filter_enforced: {{default_value: {{numerator: 100}}}}, token_bucket: {bucket}}}"
        )
    };
    let filter = format!(
        "http_filters:\n          - {{name: limit, typed_config: {}}}",
        limit(filter)
    );
    let text = text.replace("http_filters:", &filter);
    match of_route {
        "" => text,
        of_route => text.replace(
            "match: {prefix: /}, ",
            &format!(
                "match: {{prefix: /}}, typed_per_filter_config: {{limit: {}}}, ",
                limit(of_route)
            ),
        ),
    }
}

/// The status of an answer.
fn status(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let (head, _) = ask(&mut stream).unwrap();
    head.split(' ').nth(1).unwrap().to_owned()
}

/// Whoever has used up what he may have has no more of it because somebody else changes something.
#[test]
fn a_new_configuration_refills_no_bucket() {
    const TWO: &str = "{max_tokens: 2, tokens_per_fill: 1, fill_interval: 3600s}";
    const THREE: &str = "{max_tokens: 3, tokens_per_fill: 1, fill_interval: 3600s}";
    let first = upstream("first");
    let clusters = [("a", first.address)];
    for of_route in ["", TWO] {
        let of_filter = if of_route.is_empty() { TWO } else { THREE };
        let text = bootstrap(&[("main", "a")], &clusters);
        let parse = |text: &str| config::parse_envoy("test.yaml", text).unwrap();
        let options = Options::default().concurrency(2);
        let running = Gateway::start(parse(&limited(&text, of_filter, of_route)), options).unwrap();
        let at = running.local_addr("main").unwrap();
        assert_eq!([status(at), status(at), status(at)], ["200", "200", "429"]);
        // Somebody has one more listener, and one more route in front of this one.
        let others = bootstrap(&[("other", "a"), ("main", "a")], &clusters);
        let others = limited(&others, of_filter, of_route).replace(
            "routes:\n",
            "routes:\n              - {match: {path: /other}, direct_response: {status: 204}}\n",
        );
        for _ in 0..3 {
            running.update(parse(&others)).unwrap();
            assert_eq!(status(at), "429");
            running
                .update(parse(&limited(&text, of_filter, of_route)))
                .unwrap();
            assert_eq!(status(at), "429");
        }
        // What the other listener has is its own.
        running.update(parse(&others)).unwrap();
        assert_eq!(status(running.local_addr("other").unwrap()), "200");
        // Another limit begins anew.
        let changed = others.replace("3600s", "3601s");
        running.update(parse(&changed)).unwrap();
        assert_eq!([status(at), status(at), status(at)], ["200", "200", "429"]);
    }
}

/// Tells whether this process has a file open.
fn has_open(path: &std::path::Path) -> bool {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    open.flatten()
        .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|known| known == path))
}

#[test]
fn what_was_opened_for_a_refused_configuration_is_closed() {
    let first = upstream("first");
    let clusters = [("a", first.address)];
    let (running, at) = start("a", &clusters);
    let log = std::env::temp_dir().join(format!("live-{}.log", std::process::id()));
    // The second listener cannot be had.
    let logged = format!(
        "access_log: [{{name: l, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {}}}}}]\n          drain_timeout",
        log.display()
    );
    let taken = format!("port_value: {}}}}}\n    filter", first.address.port());
    let text = bootstrap(&[("main", "a"), ("more", "a")], &clusters);
    let (start, end) = text.rsplit_once("port_value: 0}}\n    filter").unwrap();
    let refused = format!("{start}{taken}{end}").replace("drain_timeout", &logged);
    let refused = config::parse_envoy("test.yaml", &refused).unwrap();
    running.update(refused).unwrap_err();
    assert!(log.exists());
    let begun = Instant::now();
    // Its writer ends on a thread of its own.
    while has_open(&log) {
        assert!(begun.elapsed() < WAIT, "the log is still open");
        thread::yield_now();
    }
    std::fs::remove_file(&log).unwrap();
    assert_eq!(get(at).unwrap(), "first");
}

/// Names that come and go take no memory for ever.
#[test]
fn numbers_go_with_what_they_are_of() {
    let first = upstream("first");
    let with = |name: &str| {
        let text = bootstrap(&[("main", name)], &[(name, first.address)]);
        let text = text.replace("stat_prefix: ingress", &format!("stat_prefix: of-{name}"));
        let admin = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}\n";
        config::parse_envoy("test.yaml", &format!("{admin}{text}")).unwrap()
    };
    let running = Gateway::start(with("a"), Options::default().concurrency(2)).unwrap();
    let at = running.local_addr("main").unwrap();
    let lines = || {
        let mut admin = TcpStream::connect(running.admin_addr().unwrap()).unwrap();
        admin
            .write_all(b"GET /stats HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        admin.read_to_string(&mut text).unwrap();
        text
    };
    for name in ["b", "c", "d", "a"] {
        running.update(with(name)).unwrap();
        assert_eq!(get(at).unwrap(), "first");
    }
    // Connections of clients let go of the configuration before with their next request, or their end.
    running.update(with("a")).unwrap();
    let shown = lines();
    assert!(shown.contains("cluster.a.") && shown.contains("http.of-a."));
    for name in ["b", "c"] {
        let left = format!("cluster.{name}.");
        assert!(!shown.contains(&left), "{shown}");
        assert!(!shown.contains(&format!("http.of-{name}.")), "{shown}");
    }
}

#[test]
fn no_connection_is_lost_while_snapshots_change() {
    let (first, second) = (upstream("first"), upstream("second"));
    let clusters = [("a", first.address), ("b", second.address)];
    let (running, at) = start("a", &clusters);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let stop = stop.clone();
            thread::spawn(move || {
                let mut answers = 0;
                while !stop.load(Ordering::Relaxed) {
                    let answer = get(at).unwrap();
                    assert!(answer == "first" || answer == "second", "{answer}");
                    answers += 1;
                }
                answers
            })
        })
        .collect();
    for round in 0..50 {
        let cluster = if round % 2 == 0 { "b" } else { "a" };
        running
            .update(snapshot(&[("main", cluster)], &clusters))
            .unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.join().unwrap() > 0);
    }
}

/// The program, and what it says.
struct Program {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Program {
    fn start(config: &std::path::Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gateway"))
            .arg("--config")
            .arg(config)
            .args(["--concurrency", "1", "--log-level", "info"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    fn says(&self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(WAIT).expect(text);
            if line.contains(text) {
                return line;
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_program_follows_its_file() {
    let (first, second) = (upstream("first"), upstream("second"));
    let clusters = [("a", first.address), ("b", second.address)];
    let file = std::env::temp_dir().join(format!("live-{}.yaml", std::process::id()));
    std::fs::write(&file, bootstrap(&[("main", "a")], &clusters)).unwrap();
    let program = Program::start(&file);
    let line = program.says("listening");
    assert!(!line.contains('\u{1b}'), "colours in a pipe: {line:?}");
    let (_, at) = line.rsplit_once("address=").unwrap();
    let at: SocketAddr = at.parse().unwrap();
    assert_eq!(get(at).unwrap(), "first");

    std::fs::write(&file, bootstrap(&[("main", "b")], &clusters)).unwrap();
    program.says("new configuration in place");
    assert_eq!(get(at).unwrap(), "second");

    std::fs::write(&file, "static_resources: {listener: []}\n").unwrap();
    let line = program.says("new configuration refused");
    assert!(
        line.contains(":1:20: static_resources: unknown field"),
        "{line}"
    );
    assert_eq!(get(at).unwrap(), "second");

    std::fs::write(&file, bootstrap(&[("main", "a")], &clusters)).unwrap();
    program.says("new configuration in place");
    assert_eq!(get(at).unwrap(), "first");
    // Asked to, it reads the file though it is the same.
    let hangup = Command::new("kill")
        .args(["-HUP", &program.child.id().to_string()])
        .status()
        .unwrap();
    assert!(hangup.success());
    program.says("new configuration in place");
    assert_eq!(get(at).unwrap(), "first");
    let _ = std::fs::remove_file(&file);
}
