//! Limits of the process.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tests::support::rig::{self, Setup, Upstream, get};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

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
    let begun = Instant::now();
    while rig.normal_client().await.is_err() {
        ensure!(
            begun.elapsed() < Duration::from_secs(10),
            "no room was made"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

pub(crate) async fn memory_limit() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let setup = |bytes: u64| {
        Setup {
        upstream: Some(upstream.address),
        bootstrap: format!(
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
        ),
        ..Setup::default()
    }
    };
    let plenty = setup(4 << 30).start().await?;
    plenty.normal_client().await?;
    let none = setup(1 << 20).start().await?;
    let begun = Instant::now();
    loop {
        let (status, body) = get(none.address, "/").await?;
        if status == 503 {
            eprintln!("    503 {:?}", String::from_utf8_lossy(&body));
            break;
        }
        ensure!(begun.elapsed() < Duration::from_secs(10), "got {status}");
    }
    Ok(())
}
