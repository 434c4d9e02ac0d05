//! Endpoints that are left out while they are unfit.

#[allow(dead_code, reason = "shared by several tests")]
#[path = "../proxy/tests/common/mod.rs"]
mod common;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use gateway_proxy::Running;
use tokio::net::TcpSocket;

use self::common::Bootstrap;

const WAIT: Duration = Duration::from_secs(10);

/// An upstream that answers each request with a status that can be changed, one for `/health` and one for the rest.
struct Upstream {
    address: SocketAddr,
    health: Arc<AtomicU16>,
    status: Arc<AtomicU16>,
}

impl Upstream {
    fn new() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn on(listener: TcpListener) -> Self {
        let this = Self {
            address: listener.local_addr().unwrap(),
            health: Arc::new(AtomicU16::new(200)),
            status: Arc::new(AtomicU16::new(200)),
        };
        let (health, status) = (this.health.clone(), this.status.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (health, status) = (health.clone(), status.clone());
                thread::spawn(move || serve(stream.unwrap(), &health, &status));
            }
        });
        this
    }
}

fn serve(mut stream: TcpStream, health: &AtomicU16, status: &AtomicU16) {
    loop {
        let head = head(&mut stream);
        let status = match head.split(' ').nth(1) {
            Some("/health") => health,
            Some(_) => status,
            None => return,
        };
        let status = status.load(Ordering::SeqCst);
        let answer = format!("HTTP/1.1 {status} Status\r\ncontent-length: 0\r\n\r\n");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
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

/// An address where nobody listens: bound, so that nobody else is given it, and connections are refused.
struct Nobody(TcpSocket);

impl Nobody {
    fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self(socket)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// Listens there from now on.
    fn listens(self) -> TcpListener {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(async { self.0.listen(128).unwrap().into_std().unwrap() });
        listener.set_nonblocking(false).unwrap();
        listener
    }
}

/// A gateway in front of a cluster with these endpoints and further fields.
fn start(endpoints: [SocketAddr; 2], fields: &str) -> (Running, TcpStream) {
    let endpoints = endpoints.map(|at| {
        let (address, port) = (at.ip(), at.port());
        format!(
            "{{endpoint: {{address: {{socket_address: {{address: {address}, port_value: {port}}}}}}}}}"
        )
    });
    start_with(&format!(
        "load_assignment: {{cluster_name: a, endpoints: [{{lb_endpoints: [{}]}}]}}, {fields}",
        endpoints.join(", ")
    ))
}

/// A gateway in front of a cluster with these fields.
fn start_with(fields: &str) -> (Running, TcpStream) {
    let (running, address) = Bootstrap {
        routes: &["{match: {prefix: /}, route: {cluster: a}}"],
        clusters: &[format!("{{name: a, type: STATIC, {fields}}}")],
        ..Bootstrap::default()
    }
    .start();
    (running, TcpStream::connect(address).unwrap())
}

/// The status of the answer to one more request.
fn ask(client: &mut TcpStream) -> u16 {
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        .unwrap();
    let head = head(client).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    client.read_exact(&mut vec![0; length]).unwrap();
    let status = head.split(' ').nth(1).unwrap();
    status.parse().unwrap()
}

fn statuses(client: &mut TcpStream, count: usize) -> Vec<u16> {
    (0..count).map(|_| ask(client)).collect()
}

/// Asks until the last answers were these, in any order.
fn until(client: &mut TcpStream, wanted: &[u16]) {
    let end = Instant::now() + WAIT;
    loop {
        let mut seen = statuses(client, wanted.len());
        seen.sort_unstable();
        if seen == wanted {
            return;
        }
        assert!(Instant::now() < end, "{seen:?}");
    }
}

const TIMES: &str = "timeout: 5s, interval: 0.01s, unhealthy_threshold: 1, healthy_threshold: 1";

#[test]
fn what_refuses_connections_is_left_out_from_the_first_request_on() {
    let (good, dead) = (Upstream::new(), Nobody::new());
    let fields = format!("health_checks: [{{{TIMES}, tcp_health_check: {{}}}}]");
    let (_running, mut client) = start([dead.address(), good.address], &fields);
    assert_eq!(statuses(&mut client, 6), [200; 6]);
    // It is found again when it is back.
    let back = Upstream::on(dead.listens());
    back.status.store(201, Ordering::SeqCst);
    until(&mut client, &[200, 201]);
}

#[test]
fn an_endpoint_says_that_it_is_unfit() {
    let (one, other) = (Upstream::new(), Upstream::new());
    other.status.store(201, Ordering::SeqCst);
    other.health.store(503, Ordering::SeqCst);
    let fields = format!("health_checks: [{{{TIMES}, http_health_check: {{path: /health}}}}]");
    let (_running, mut client) = start([one.address, other.address], &fields);
    assert_eq!(statuses(&mut client, 6), [200; 6]);
    other.health.store(200, Ordering::SeqCst);
    until(&mut client, &[200, 201]);
    one.health.store(500, Ordering::SeqCst);
    until(&mut client, &[201, 201, 201, 201]);
    // Less than half of them: all are used.
    other.health.store(500, Ordering::SeqCst);
    until(&mut client, &[200, 201]);
}

/// A server of a protocol of its own beside two upstreams, which answers each check with `answer`.
fn answers(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut asked = [0; 4];
                stream.set_read_timeout(Some(WAIT)).unwrap();
                if stream.read_exact(&mut asked).is_ok() && &asked == b"PING" {
                    // In two pieces, of which the first alone says nothing.
                    let (first, rest) = answer.split_at(answer.len() / 2);
                    let _ = stream.write_all(first).and_then(|()| stream.flush());
                    let _ = stream.write_all(rest);
                }
            });
        }
    });
    address
}

/// Endpoints with the ports at which they are checked.
fn start_checked(endpoints: [(SocketAddr, SocketAddr); 2], fields: &str) -> (Running, TcpStream) {
    let text = endpoints.map(|(at, check)| {
        format!(
            "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}, health_check_config: {{port_value: {}}}}}}}",
            at.port(),
            check.port()
        )
    });
    let more = format!(
        "load_assignment: {{cluster_name: a, endpoints: [{{lb_endpoints: [{}]}}]}}, {fields}",
        text.join(", ")
    );
    start_with(&more)
}

#[test]
fn what_comes_back_from_another_port_decides() {
    let (good, bad) = (Upstream::new(), Upstream::new());
    bad.status.store(201, Ordering::SeqCst);
    let fields = format!(
        "health_checks: [{{{TIMES}, tcp_health_check: {{send: {{text: 50494E47}}, receive: [{{text: 504F}}, {{binary: Rw==}}]}}}}]"
    );
    for answer in [&b"-ERR"[..], b"G PO", b""] {
        let checks = [answers(b"+PONG\r\n"), answers(answer)];
        let endpoints = [(good.address, checks[0]), (bad.address, checks[1])];
        let (_running, mut client) = start_checked(endpoints, &fields);
        assert_eq!(statuses(&mut client, 6), [200; 6]);
    }
}

#[test]
fn a_check_has_the_method_and_the_text_that_it_is_given() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                loop {
                    let head = head(&mut stream);
                    let mut body = [0; 4];
                    if head.is_empty() || stream.read_exact(&mut body).is_err() {
                        return;
                    }
                    let fine = head.starts_with("POST /health ")
                        && head
                            .to_ascii_lowercase()
                            .contains("host: checks.example\r\n")
                        && &body == b"PING";
                    let text = if fine { "it is ok" } else { "it is no" };
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{text}");
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let check = |text: &str| {
        format!(
            "health_checks: [{{{TIMES}, http_health_check: {{path: /health, host: checks.example, method: POST, send: {{text: 50494E47}}, receive: [{{text: {text}}}]}}}}]"
        )
    };
    let (good, other) = (Upstream::new(), Upstream::new());
    other.status.store(201, Ordering::SeqCst);
    // "ok", and "go", which is not in the text.
    let endpoints = [(good.address, address), (other.address, address)];
    let (_running, mut client) = start_checked(endpoints, &check("6F6B"));
    let mut seen = statuses(&mut client, 2);
    seen.sort_unstable();
    assert_eq!(seen, [200, 201]);
    let no_panic = "common_lb_config: {healthy_panic_threshold: {value: 0}}";
    let (_running, mut client) =
        start_checked(endpoints, &format!("{no_panic}, {}", check("676F")));
    assert_eq!(statuses(&mut client, 2), [503, 503]);
}

/// An upstream may close a connection just when a check uses it again.
#[test]
fn a_check_on_a_closed_connection_is_made_on_another_one() {
    let other = Upstream::new();
    other.status.store(201, Ordering::SeqCst);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let checks = Arc::new(AtomicU16::new(0));
    let seen = checks.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let seen = seen.clone();
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                for number in 0.. {
                    let head = head(&mut stream);
                    let is_check = head.starts_with("GET /health ");
                    if head.is_empty() || is_check && number > 0 {
                        return;
                    }
                    seen.fetch_add(is_check.into(), Ordering::SeqCst);
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    stream.write_all(answer).unwrap();
                }
            });
        }
    });
    let fields = format!("health_checks: [{{{TIMES}, http_health_check: {{path: /health}}}}]");
    let (_running, mut client) = start([address, other.address], &fields);
    while checks.load(Ordering::SeqCst) < 20 {
        let mut seen = statuses(&mut client, 2);
        seen.sort_unstable();
        assert_eq!(seen, [200, 201]);
    }
}

#[test]
fn failures_in_a_row_leave_an_endpoint_out() {
    let (good, bad, dead) = (Upstream::new(), Upstream::new(), Nobody::new());
    bad.status.store(500, Ordering::SeqCst);
    for (endpoint, failure) in [(bad.address, 500), (dead.address(), 503)] {
        let fields = "outlier_detection: {consecutive_5xx: 3, base_ejection_time: 600s, max_ejection_time: 600s, \
                      max_ejection_percent: 50}";
        let (_running, mut client) = start([endpoint, good.address], fields);
        let mut first = statuses(&mut client, 6);
        first.sort_unstable();
        assert_eq!(first, [200, 200, 200, failure, failure, failure]);
        assert_eq!(statuses(&mut client, 6), [200; 6]);
    }
}

#[test]
fn an_endpoint_that_was_left_out_is_tried_again() {
    let (good, bad) = (Upstream::new(), Upstream::new());
    bad.status.store(500, Ordering::SeqCst);
    let fields = "outlier_detection: {consecutive_5xx: 1, base_ejection_time: 0.05s, max_ejection_percent: 50}";
    let (_running, mut client) = start([bad.address, good.address], fields);
    until(&mut client, &[200, 200, 200]);
    bad.status.store(201, Ordering::SeqCst);
    until(&mut client, &[200, 201]);
}

/// Failed checks are not counted as outcomes of requests.
#[test]
fn checks_do_not_count_as_requests() {
    let (good, bad) = (Upstream::new(), Upstream::new());
    bad.status.store(500, Ordering::SeqCst);
    let fields = format!(
        "health_checks: [{{{TIMES}, http_health_check: {{path: /health}}}}], \
         outlier_detection: {{consecutive_5xx: 3, base_ejection_time: 600s, max_ejection_time: 600s, max_ejection_percent: 50}}"
    );
    let (_running, mut client) = start([bad.address, good.address], &fields);
    let mut first = statuses(&mut client, 6);
    first.sort_unstable();
    assert_eq!(first, [200, 200, 200, 500, 500, 500]);
    assert_eq!(statuses(&mut client, 6), [200; 6]);
}
