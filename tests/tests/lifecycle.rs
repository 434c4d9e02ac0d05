//! Life of the programs: going down under load, peers that restart, configurations that cannot be used. All with real processes and
//! sockets; nothing here needs anything that is not in the workspace.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use tests::provision;
use tests::support::adversary::Adversary;
use tests::support::peers::log_file;
use tests::support::ports;
use tests::support::process::Process;
use tests::support::rig::{Rig, Setup, Upstream, full_answer, get, listen};
use tests::support::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Exchanges that the gateway has begun and not ended.
const ACTIVE: &str = "http.main.downstream_rq_active";

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let trials = vec![
        trial("down/http1-under-load", || go(down_under_load(false))),
        trial("down/http2-under-load", || go(down_under_load(true))),
        trial("down/deadline", || go(drain_deadline())),
        trial("down/second-signal", || go(second_signal())),
        trial("down/not-ready", || go(not_ready())),
        trial("upstream/restart", || go(upstream_restart())),
        trial("upstream/stale-connection", || go(stale_connection())),
        trial("processor/restart", || go(processor_restart())),
        trial("processor/balanced", || go(balanced_processors())),
        trial("configuration/unusable", || go(unusable())),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: &str, test: fn() -> anyhow::Result<()>) -> Trial {
    Trial::test(name, move || {
        test().map_err(|error| Failed::from(format!("{error:#}")))
    })
}

fn go(test: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        tokio::time::timeout(Duration::from_secs(120), test)
            .await
            .context("the case did not end")?
    })
}

/// Outcomes of the requests of a load.
#[derive(Debug, Default)]
struct Outcome {
    good: AtomicUsize,
    /// Got another status.
    refused: AtomicUsize,
    /// Were sent and got no complete answer.
    lost: AtomicUsize,
}

impl Outcome {
    fn counts(&self) -> (usize, usize, usize) {
        (
            self.good.load(Ordering::Relaxed),
            self.refused.load(Ordering::Relaxed),
            self.lost.load(Ordering::Relaxed),
        )
    }

    /// Waits until so many are good.
    async fn reaches(&self, good: usize) -> anyhow::Result<()> {
        wait::until("good answers", wait::LONG, async || {
            ensure!(self.counts().0 >= good, "{self:?}");
            Ok(())
        })
        .await
    }
}

/// A keep-alive client: asks again and again, on a new connection after `connection: close`; ends when nobody accepts.
async fn http1_client(address: SocketAddr, path: &str, outcome: &Outcome, stop: &AtomicBool) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    while !stop.load(Ordering::Relaxed) {
        let Ok(socket) = TcpStream::connect(address).await else {
            return;
        };
        let mut reader = BufReader::new(socket);
        loop {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            if reader
                .get_mut()
                .write_all(request.as_bytes())
                .await
                .is_err()
            {
                outcome.lost.fetch_add(1, Ordering::Relaxed);
                break;
            }
            let Ok((status, fields, _)) = full_answer(&mut reader).await else {
                outcome.lost.fetch_add(1, Ordering::Relaxed);
                break;
            };
            match status {
                200 => outcome.good.fetch_add(1, Ordering::Relaxed),
                _ => outcome.refused.fetch_add(1, Ordering::Relaxed),
            };
            let closes = |(name, value): &(String, Vec<u8>)| {
                name.eq_ignore_ascii_case("connection") && value == b"close"
            };
            if fields.iter().any(closes) {
                break;
            }
        }
    }
}

/// Streams on one connection, several at a time, until GOAWAY.
async fn http2_client(address: SocketAddr, path: &str, outcome: &Outcome) -> anyhow::Result<()> {
    let socket = TcpStream::connect(address).await?;
    let (client, connection) = h2::client::handshake(socket).await?;
    let connection = tokio::spawn(connection);
    let uri: http::Uri = format!("http://test{path}").parse()?;
    let streams = (0..5).map(|_| {
        let (client, uri) = (client.clone(), uri.clone());
        async move {
            let mut client = client;
            loop {
                // An error here says that no request may be sent any more.
                client = match client.ready().await {
                    Ok(client) => client,
                    Err(_) => return,
                };
                let request = http::Request::get(uri.clone()).body(()).unwrap_or_default();
                let Ok((response, _)) = client.send_request(request, true) else {
                    return;
                };
                let answer = async {
                    let (parts, mut body) = response.await?.into_parts();
                    while let Some(data) = body.data().await {
                        let _ = body.flow_control().release_capacity(data?.len());
                    }
                    Ok::<_, h2::Error>(parts.status.as_u16())
                };
                match answer.await {
                    Ok(200) => outcome.good.fetch_add(1, Ordering::Relaxed),
                    Ok(_) => outcome.refused.fetch_add(1, Ordering::Relaxed),
                    // Beyond the last stream of GOAWAY: not accepted, and known to be so (RFC 9113 section 6.8).
                    Err(error) if error.is_go_away() && error.is_remote() => return,
                    Err(error) if error.reason() == Some(h2::Reason::REFUSED_STREAM) => return,
                    Err(_) => outcome.lost.fetch_add(1, Ordering::Relaxed),
                };
            }
        }
    });
    drop(client.clone());
    let mut set = Vec::new();
    for stream in streams {
        set.push(Box::pin(stream));
    }
    // All five on this task, so that they may borrow.
    let mut left = set;
    std::future::poll_fn(|cx| {
        left.retain_mut(|stream| stream.as_mut().poll(cx).is_pending());
        if left.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    drop(client);
    connection.abort();
    Ok(())
}

async fn good_rig(manager: &str) -> anyhow::Result<(Upstream, Adversary, Rig)> {
    let upstream = Upstream::start().await?;
    let processor = Adversary::start().await?;
    let rig = Setup {
        upstream: Some(upstream.address),
        processor: Some(processor.address),
        manager: manager.to_owned(),
        // A busy machine is no failure.
        filter: "message_timeout: 5s\n".to_owned(),
        ..Setup::default()
    }
    .start()
    .await?;
    rig.normal_client().await?;
    Ok((upstream, processor, rig))
}

/// Nothing that was accepted is lost, and the end does not wait for the drain time.
async fn down_under_load(http2: bool) -> anyhow::Result<()> {
    // As soon as all are done, not when the time is up.
    let (_upstream, _processor, mut rig) = good_rig("drain_timeout: 600s\n").await?;
    let outcome = Arc::new(Outcome::default());
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        let (address, outcome) = (rig.address, Arc::clone(&outcome));
        clients.spawn(async move {
            let stop = AtomicBool::new(false);
            match http2 {
                true => http2_client(address, "/slow/20", &outcome).await,
                false => {
                    http1_client(address, "/slow/20", &outcome, &stop).await;
                    Ok(())
                }
            }
        });
    }
    outcome.reaches(100).await?;
    rig.signal("TERM").await?;
    let begun = Instant::now();
    let status = rig.process.wait(wait::LONG).await?;
    let took = begun.elapsed();
    while let Some(client) = clients.join_next().await {
        client??;
    }
    eprintln!("    {outcome:?}, down after {took:?}");
    ensure!(status.success(), "{status}: {}", rig.process.log_tail(2000));
    let (_, refused, lost) = outcome.counts();
    ensure!(refused == 0 && lost == 0, "{outcome:?}");
    Ok(())
}

/// An exchange that does not end is not waited for beyond the drain time.
async fn drain_deadline() -> anyhow::Result<()> {
    const DRAIN: Duration = Duration::from_secs(1);
    let (_upstream, _processor, mut rig) = good_rig("drain_timeout: 1s\n").await?;
    let address = rig.address;
    let stuck = tokio::spawn(async move { get(address, "/silent").await });
    rig.until(ACTIVE, |active| active > 0).await?;
    // The subject is the time: it is waited for that long, and then no more. The signal is given after this moment.
    let begun = Instant::now();
    rig.signal("TERM").await?;
    let status = rig.process.wait(wait::LONG).await?;
    ensure!(status.success(), "{status}");
    ensure!(begun.elapsed() >= DRAIN, "it was not waited for");
    ensure!(stuck.await?.is_err(), "the stuck request got an answer");
    Ok(())
}

async fn second_signal() -> anyhow::Result<()> {
    let (_upstream, _processor, mut rig) = good_rig("drain_timeout: 600s\n").await?;
    let address = rig.address;
    let stuck = tokio::spawn(async move { get(address, "/silent").await });
    rig.until(ACTIVE, |active| active > 0).await?;
    rig.signal("TERM").await?;
    // The first has been taken once nobody accepts any more.
    rig.process.refusing(address).await?;
    ensure!(rig.process.ended().is_none(), "it did not wait");
    rig.signal("TERM").await?;
    rig.process.wait(wait::LONG).await?;
    ensure!(stuck.await?.is_err(), "the stuck request got an answer");
    Ok(())
}

/// While it goes down, it tells load balancers.
async fn not_ready() -> anyhow::Result<()> {
    let (_upstream, _processor, rig) = good_rig("drain_timeout: 600s\n").await?;
    ensure!(get(rig.admin, "/ready").await?.0 == 200);
    let address = rig.address;
    let stuck = tokio::spawn(async move { get(address, "/silent").await });
    rig.until(ACTIVE, |active| active > 0).await?;
    rig.signal("TERM").await?;
    wait::until("not ready", wait::LONG, async || {
        let (status, _) = get(rig.admin, "/ready").await?;
        ensure!(status == 503, "{status}");
        Ok(())
    })
    .await?;
    stuck.abort();
    Ok(())
}

/// An upstream that dies and comes back: requests that were with it fail, the others do not know.
async fn upstream_restart() -> anyhow::Result<()> {
    const CLIENTS: usize = 10;
    let (mut upstream, _processor, rig) = good_rig("").await?;
    let outcome = Arc::new(Outcome::default());
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (address, outcome, stop) = (rig.address, Arc::clone(&outcome), Arc::clone(&stop));
        clients.spawn(async move { http1_client(address, "/slow/2", &outcome, &stop).await });
    }
    for restart in 1..=3 {
        outcome.reaches(outcome.counts().0 + 200).await?;
        let address = upstream.address;
        upstream.stop().await;
        upstream = Upstream::at(address).await?;
        let (_, refused, lost) = outcome.counts();
        eprintln!("    restart {restart}: {refused} refused so far, {lost} lost");
    }
    outcome.reaches(outcome.counts().0 + 200).await?;
    stop.store(true, Ordering::Relaxed);
    while clients.join_next().await.is_some() {}
    let (good, refused, lost) = outcome.counts();
    eprintln!("    {good} good, {refused} refused, {lost} lost");
    // The client always gets an answer. At most what each client had in flight at each restart, and the attempt to send it again, can
    // meet the upstream while it is away.
    ensure!(lost == 0, "{outcome:?}");
    ensure!(refused <= 3 * CLIENTS * 2, "{outcome:?}");
    Ok(())
}

/// An upstream that closes a connection just when it is used again: GET is sent once more, POST with a body is not sent twice.
async fn stale_connection() -> anyhow::Result<()> {
    let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let upstream = listener.local_addr()?;
    let heads = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        loop {
            let Ok((socket, _)) = listener.accept().await else {
                continue;
            };
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                // Answers one request of a connection, takes a second one, and closes without an answer.
                let mut reader = BufReader::new(socket);
                for number in 0..2 {
                    let Ok(Some(head)) = tests::support::http1::read_head(&mut reader).await else {
                        return;
                    };
                    let length = tests::support::http1::find(&head.fields, "content-length");
                    let length: usize = length.and_then(|l| l.parse().ok()).unwrap_or(0);
                    let mut body = vec![0; length];
                    if reader.read_exact(&mut body).await.is_err() {
                        return;
                    }
                    if let Ok(mut seen) = seen.lock() {
                        seen.push(head.first);
                    }
                    if number == 0 {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                        let _ = reader.get_mut().write_all(answer).await;
                    }
                }
            });
        }
    });
    let rig = Setup {
        upstream: Some(upstream),
        ..Setup::default()
    }
    .start()
    .await?;
    for number in 0..10 {
        let (status, _) = get(rig.address, &format!("/get/{number}")).await?;
        ensure!(status == 200, "GET {number} got {status}");
    }
    let mut lost = 0;
    for number in 0..10 {
        let request = format!(
            "POST /post/{number} HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"
        );
        let (status, _) = tests::support::rig::exchange(rig.address, request.as_bytes()).await?;
        ensure!(matches!(status, 200 | 503), "POST {number} got {status}");
        lost += usize::from(status == 503);
    }
    let heads = heads.lock().map(|h| h.clone()).unwrap_or_default();
    for number in 0..10 {
        let post = format!("POST /post/{number} ");
        let times = heads.iter().filter(|h| h.starts_with(&post)).count();
        ensure!(times == 1, "POST {number} was sent {times} times");
    }
    eprintln!("    {lost} of 10 POST met a stale connection and were not repeated");
    ensure!(lost > 0, "no stale connection was met");
    Ok(())
}

/// A processor that dies and comes back: with the failure mode to go on nobody notices, otherwise only who was with it.
async fn processor_restart() -> anyhow::Result<()> {
    const CLIENTS: usize = 8;
    let (_upstream, mut processor, rig) = good_rig("").await?;
    let stop = Arc::new(AtomicBool::new(false));
    let [open, closed] = [Arc::new(Outcome::default()), Arc::new(Outcome::default())];
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS * 2 {
        let (path, outcome) = match number % 2 {
            0 => ("/open/good", Arc::clone(&open)),
            _ => ("/good", Arc::clone(&closed)),
        };
        let (address, stop) = (rig.address, Arc::clone(&stop));
        clients.spawn(async move { http1_client(address, path, &outcome, &stop).await });
    }
    for _ in 0..3 {
        open.reaches(open.counts().0 + 50).await?;
        closed.reaches(closed.counts().0 + 50).await?;
        let address = processor.address;
        processor.stop().await;
        processor = Adversary::at(address).await?;
    }
    closed.reaches(closed.counts().0 + 50).await?;
    stop.store(true, Ordering::Relaxed);
    while clients.join_next().await.is_some() {}
    eprintln!("    going on: {open:?}, failing: {closed:?}");
    let (_, refused, lost) = open.counts();
    ensure!(refused == 0 && lost == 0, "{open:?}");
    let (_, refused, lost) = closed.counts();
    // What each client had open at each restart, and what met the port while nobody listened there.
    ensure!(lost == 0 && refused <= 3 * CLIENTS * 2, "{closed:?}");
    Ok(())
}

/// Processors share exchanges evenly, one by one; one that is gone costs a repetition with another, if there is a policy.
async fn balanced_processors() -> anyhow::Result<()> {
    const REQUESTS: usize = 30;
    let upstream = Upstream::start().await?;
    let processors = [
        Adversary::start().await?,
        Adversary::start().await?,
        Adversary::start().await?,
    ];
    let rig = Setup {
        upstream: Some(upstream.address),
        processor: Some(processors[0].address),
        more_processors: processors[1..].iter().map(|p| p.address).collect(),
        service: "retry_policy: {retry_on: connect-failure, num_retries: 1, \
            retry_back_off: {base_interval: 0.005s}}"
            .to_owned(),
        filter: "message_timeout: 5s\n".to_owned(),
        ..Setup::default()
    }
    .start()
    .await?;
    for _ in 0..REQUESTS {
        rig.normal_client().await?;
    }
    let calls = processors.each_ref().map(Adversary::calls);
    ensure!(calls == [REQUESTS / 3; 3], "{calls:?}");
    let [first, second, third] = processors;
    let open = rig.stat("cluster.processor.upstream_cx_active").await?;
    first.stop().await;
    // A stream on a connection that the gateway does not know to be closed would fail, in Envoy too.
    rig.until("cluster.processor.upstream_cx_active", |now| now < open)
        .await?;
    for number in 0..REQUESTS {
        rig.normal_client()
            .await
            .with_context(|| format!("request {number} after the first processor ended"))?;
    }
    let calls = second.calls() + third.calls() - 2 * REQUESTS / 3;
    ensure!(calls == REQUESTS, "{calls}");
    Ok(())
}

/// One line that says what is wrong, and exit code 1.
async fn unusable() -> anyhow::Result<()> {
    let program = provision::workspace_binary("gateway", "gateway")?;
    let log = log_file("unusable", ports::free()?);
    let directory = log.with_extension("d");
    std::fs::create_dir_all(&directory)?;
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text)?;
        Ok::<String, anyhow::Error>(path.to_string_lossy().into_owned())
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let setup = Setup::default();
    let good = setup.yaml(taken.local_addr()?.port(), ports::free()?);
    let unreadable = directory
        .join("missing.yaml")
        .to_string_lossy()
        .into_owned();
    let cases = [
        ("missing", unreadable, "missing.yaml"),
        ("empty", file("empty.yaml", "")?, "empty.yaml"),
        ("no-yaml", file("no.yaml", "a: [b\n")?, "no.yaml:"),
        (
            "binary",
            file("binary.yaml", "\u{0}\u{1}\u{2}")?,
            "binary.yaml",
        ),
        (
            "unknown-field",
            file("unknown.yaml", &good.replace("route_config", "rout_config"))?,
            "rout_config",
        ),
        (
            "wrong-type",
            file(
                "type.yaml",
                &good.replace("stat_prefix: main", "stat_prefix: [1]"),
            )?,
            "stat_prefix",
        ),
        (
            "wrong-duration",
            file(
                "time.yaml",
                &good.replace("connect_timeout: 1s", "connect_timeout: soon"),
            )?,
            "connect_timeout",
        ),
        (
            "unknown-cluster",
            file(
                "cluster.yaml",
                &good.replace("cluster: upstream", "cluster: nobody"),
            )?,
            "nobody",
        ),
        ("port-in-use", file("port.yaml", &good)?, "in use"),
    ];
    for (name, path, wanted) in cases {
        let mut process = Process::spawn(&program, ["--config", &path], &log)?;
        let status = process.wait(wait::LONG).await?;
        let text = process.log();
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.contains(" INFO") && !line.contains(" WARN"))
            .collect();
        ensure!(status.code() == Some(1), "{name}: {status}: {text}");
        ensure!(lines.len() == 1, "{name}: not one line: {text}");
        ensure!(text.contains(wanted), "{name}: no {wanted:?} in {text}");
    }
    Ok(())
}
