//! Limits of the process.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tests::provision;
use tests::support::adversary::Adversary;
use tests::support::rig::{self, Setup, Upstream, get};
use tests::support::{ports, wait};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;

/// The longest time in which somebody has to be served beside an attack.
const SERVED: Duration = Duration::from_secs(10);

pub(crate) async fn connection_limit() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = Setup {
        upstream: Some(upstream.address),
        bootstrap: "overload_manager:
  resource_monitors:
  - name: envoy.resource_monitors.global_downstream_max_connections
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
      max_active_downstream_connections: 20
"
        .to_owned(),
        ..Setup::default()
    }
    .start()
    .await?;
    let mut kept = Vec::new();
    let mut refused = 0;
    for _ in 0..40 {
        let mut socket = TcpStream::connect(rig.address).await?;
        // A refused connection may be gone before the request is.
        let _ = socket.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut reader = BufReader::new(socket);
        match rig::answer(&mut reader).await {
            Ok((200, _)) => kept.push(reader),
            Ok((status, _)) => anyhow::bail!("got {status}"),
            Err(_) => refused += 1,
        }
    }
    eprintln!("    {} connections served, {refused} refused", kept.len());
    ensure!(
        kept.len() <= 20 && refused >= 20,
        "{} were served",
        kept.len()
    );
    // Who was accepted goes on, and who leaves makes room.
    for reader in &mut kept {
        reader
            .get_mut()
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await?;
        ensure!(rig::answer(reader).await?.0 == 200);
    }
    drop(kept);
    wait::until("room", wait::LONG, async || rig.normal_client().await)
        .await
        .map(drop)
}

/// No more requests above nine tenths of so many bytes.
fn heap(bytes: u64) -> String {
    format!(
        "overload_manager:
  refresh_interval: 0.05s
  resource_monitors:
  - name: envoy.resource_monitors.fixed_heap
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig
      max_heap_size_bytes: {bytes}
  actions:
  - name: envoy.overload_actions.stop_accepting_requests
    triggers: [{{name: envoy.resource_monitors.fixed_heap, threshold: {{value: 0.9}}}}]
"
    )
}

pub(crate) async fn memory_limit() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let setup = |bytes: u64| Setup {
        upstream: Some(upstream.address),
        bootstrap: heap(bytes),
        ..Setup::default()
    };
    let plenty = setup(4 << 30).start().await?;
    plenty.normal_client().await?;
    let none = setup(1 << 20).start().await?;
    wait::until("a refusal", wait::LONG, async || {
        let (status, body) = get(none.address, "/").await?;
        ensure!(status == 503, "got {status}");
        eprintln!("    503 {:?}", String::from_utf8_lossy(&body));
        Ok(())
    })
    .await
}

/// Request bodies of 40 MiB each from a processor, for an upstream that reads nothing.
pub(crate) async fn large_requests() -> anyhow::Result<()> {
    beside_large_replies("/replaced/40", 4, silent().await?).await
}

/// Immediate responses of 15 MiB each, for clients that read nothing.
pub(crate) async fn large_immediate_responses() -> anyhow::Result<()> {
    beside_large_replies("/immediate/15", 32, Upstream::start().await?.address).await
}

/// Large bodies from a processor, which nobody reads, where the heap is limited to 200 MB. Others are not refused for what such bodies hold,
/// nor for memory that has just become free.
async fn beside_large_replies(
    path: &str,
    clients: usize,
    upstream: SocketAddr,
) -> anyhow::Result<()> {
    let processor = Adversary::start().await?;
    let setup = Setup {
        upstream: Some(upstream),
        processor: Some(processor.address),
        filter: "message_timeout: 30s
processing_mode: {request_body_mode: BUFFERED, response_header_mode: SKIP}
"
        .to_owned(),
        bootstrap: heap(200_000_000),
        ..Setup::default()
    };
    let rig = setup.start().await?;
    let mut attackers = Vec::new();
    for _ in 0..clients {
        let mut socket = TcpStream::connect(rig.address).await?;
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello");
        socket.write_all(head.as_bytes()).await?;
        attackers.push(socket);
    }
    // Beside them, and for some time behind the last of them, which are sent within seconds.
    let (mut served, begun) = (0, Instant::now());
    while begun.elapsed() < Duration::from_secs(10) {
        let (status, body) = get(rig.address, "/immediate/0").await?;
        ensure!(
            status == 200,
            "{status} {:?} after {served} others were served, at {} KiB",
            String::from_utf8_lossy(&body),
            rig.memory()
        );
        served += 1;
        // A client that asks on and on would keep the processor from the others.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!(
        "    {path}: {served} others were served, memory at most {} KiB",
        rig.peak()
    );
    drop(attackers);
    Ok(())
}

/// An upstream that accepts and says nothing.
async fn silent() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            kept.push(socket);
        }
    });
    Ok(address)
}

/// One client takes as many connections to an upstream as it can; others need one to another upstream.
pub(crate) async fn descriptors() -> anyhow::Result<()> {
    const FILES: u32 = 256;
    const STREAMS: usize = 512;
    let upstream = Upstream::start().await?;
    let rig = Setup {
        upstream: Some(upstream.address),
        further: vec![("quiet", silent().await?), ("other", upstream.address)],
        open_files: Some(FILES),
        ..Setup::default()
    }
    .start()
    .await?;
    let socket = TcpStream::connect(rig.address).await?;
    let (sender, connection) = h2::client::handshake(socket).await?;
    let connection = tokio::spawn(connection);
    let mut answers = Vec::new();
    for _ in 0..STREAMS {
        let request = http::Request::get("http://a/quiet").body(())?;
        let mut sender = sender.clone().ready().await?;
        answers.push(sender.send_request(request, true)?.0);
    }
    let stat = |name: &'static str| rig.stat(name);
    // Those that connect are among those that wait.
    let (taken, waiting) = wait::until("all streams", wait::LONG, async || {
        let open = stat("cluster.quiet.upstream_cx_active").await?;
        let active = stat("cluster.quiet.upstream_rq_active").await?;
        let waiting = stat("cluster.quiet.upstream_rq_pending_active").await?;
        ensure!(
            open == active && active + waiting == STREAMS as u64,
            "{open} connections, {active} active, {waiting} wait"
        );
        Ok((open, waiting))
    })
    .await?;
    eprintln!("    {taken} connections, {waiting} requests wait");
    ensure!((1..u64::from(FILES) / 2).contains(&taken), "{taken}");
    for path in ["/other", "/good", "/other"] {
        let (status, _) = timeout(SERVED, get(rig.address, path)).await??;
        ensure!(status == 200, "{path}: {status}");
    }
    // With the client go its requests, those that wait too.
    drop((answers, sender));
    connection.abort();
    for left in ["upstream_cx_active", "upstream_rq_pending_active"] {
        rig.until(&format!("cluster.quiet.{left}"), |left| left == 0)
            .await?;
    }
    rig.normal_client().await.map(drop)
}

/// Connections to the admin port that never finish a request, and patterns that would become large.
pub(crate) async fn admin_flood() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = Setup {
        upstream: Some(upstream.address),
        open_files: Some(256),
        ..Setup::default()
    }
    .start()
    .await?;
    let mut kept = Vec::new();
    for _ in 0..400 {
        let mut socket = TcpStream::connect(rig.admin).await?;
        // One that had to make room may be gone before it is written to.
        let _ = socket
            .write_all(b"GET /ready HTTP/1.1\r\nhost: a\r\n")
            .await;
        kept.push(socket);
    }
    let pattern = format!("/stats?filter={}", "(%5Cw%7B100%7D)%7B100%7D");
    let (status, _) = timeout(SERVED, get(rig.admin, &pattern)).await??;
    ensure!(status == 400, "the pattern got {status}");
    let (status, _) = timeout(SERVED, get(rig.admin, "/ready")).await??;
    ensure!(status == 200, "/ready got {status}");
    rig.normal_client().await?;
    Ok(())
}

/// The log goes to a pipe that nobody reads.
pub(crate) async fn unread_log() -> anyhow::Result<()> {
    const REQUESTS: usize = 1500;
    let upstream = Upstream::start().await?;
    let [listen, admin] = [ports::free()?, ports::free()?];
    let setup = Setup {
        further: vec![("other", upstream.address)],
        ..Setup::default()
    };
    let config = std::env::temp_dir().join(format!("unread-log-{listen}.yaml"));
    std::fs::write(&config, setup.yaml(listen, admin))?;
    let mut gateway = Command::new(provision::workspace_binary("gateway", "gateway")?)
        .args(["--concurrency", "1", "--log-level", "debug", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let address = SocketAddr::from(([127, 0, 0, 1], listen));
    let connect = async || Ok(TcpStream::connect(address).await?);
    wait::until("it listens", wait::LONG, connect).await?;
    // Nobody listens there: each request is worth a line.
    let mut client = BufReader::new(TcpStream::connect(address).await?);
    for at in 0..REQUESTS {
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await?;
        let (status, _) = timeout(SERVED, rig::answer(&mut client))
            .await
            .with_context(|| format!("request {at} got no answer"))??;
        ensure!(status == 503, "{status}");
    }
    let (status, _) = timeout(SERVED, get(address, "/other")).await??;
    ensure!(status == 200, "another route: {status}");
    drop(client);
    // It ends without anybody who reads.
    let id = gateway.id().context("it has ended")?.to_string();
    let killed = Command::new("kill").args(["-TERM", &id]).status().await?;
    ensure!(killed.success(), "kill {id}");
    let status = timeout(Duration::from_secs(20), gateway.wait())
        .await
        .context("it does not end")??;
    ensure!(status.success(), "{status}");
    std::fs::remove_file(config)?;
    Ok(())
}
