//! A gateway in a process of its own between an upstream and a processor of this process, watched: what abuse and
//! lifecycle suites run against.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::http1::{self, Framing, Piece};
use super::peers::log_file;
use super::ports;
use super::process::Process;
use crate::provision;

/// How much larger than usual the suites are to be: `EXTPROC_ABUSE_SCALE`, default 1.
#[must_use]
pub fn scale() -> usize {
    std::env::var("EXTPROC_ABUSE_SCALE")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
}

/// What a gateway is configured with, beside addresses.
#[derive(Debug, Default, Clone)]
pub struct Setup {
    /// The upstream.
    pub upstream: Option<SocketAddr>,
    /// The processor; no filter without one.
    pub processor: Option<SocketAddr>,
    /// Further endpoints of the processor's cluster.
    pub more_processors: Vec<SocketAddr>,
    /// Fields of the filter's `grpc_service`, as `timeout: 1s`.
    pub service: String,
    /// Lines of the connection manager.
    pub manager: String,
    /// Lines of the filter.
    pub filter: String,
    /// Fields of every route action, as `timeout: 1s`.
    pub route: String,
    /// Lines of the bootstrap.
    pub bootstrap: String,
    /// Speak HTTP/2 to the upstream.
    pub upstream_http2: bool,
    /// Further clusters without a filter, each behind the route `/NAME`.
    pub further: Vec<(&'static str, SocketAddr)>,
    /// The limit of open files, soft and hard.
    pub open_files: Option<u32>,
}

/// A gateway that runs.
#[derive(Debug)]
pub struct Rig {
    /// Its listener.
    pub address: SocketAddr,
    /// Its admin server.
    pub admin: SocketAddr,
    /// The program.
    pub process: Process,
}

impl Setup {
    /// The bootstrap, which a real Envoy takes too. Below `/open` the filter's failure mode is to go on.
    #[must_use]
    pub fn yaml(&self, listen: u16, admin: u16) -> String {
        let indented = |text: &str, by: usize| -> String {
            text.lines()
                .map(|line| format!("{}{line}\n", " ".repeat(by)))
                .collect()
        };
        let endpoint = |at: &SocketAddr| {
            format!(
                "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}",
                at.port()
            )
        };
        let nobody = [SocketAddr::from(([127, 0, 0, 1], 1))];
        let cluster = |name: &str, at: &[SocketAddr], http2: bool| {
            let at = if at.is_empty() { &nobody } else { at };
            let protocol = if http2 {
                "
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}"
            } else {
                ""
            };
            format!(
                "
  - name: {name}
    connect_timeout: 1s
    type: STATIC
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{}]}}]{protocol}",
                at.iter().map(endpoint).collect::<Vec<_>>().join(", ")
            )
        };
        let further = |fields: &str| match fields {
            "" => String::new(),
            fields => format!(", {fields}"),
        };
        let service = further(&self.service);
        let filter = match self.processor {
            None => String::new(),
            Some(_) => format!(
                "
          - name: ext_proc
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
              grpc_service: {{envoy_grpc: {{cluster_name: processor}}{service}}}
{}",
                indented(&self.filter, 14)
            ),
        };
        let open = match self.processor {
            None => "",
            Some(_) => {
                "
                typed_per_filter_config:
                  ext_proc:
                    \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute
                    overrides: {failure_mode_allow: true}"
            }
        };
        let route = further(&self.route);
        let off = match self.processor {
            None => "",
            Some(_) => {
                "
                typed_per_filter_config:
                  ext_proc:
                    \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute
                    disabled: true"
            }
        };
        let mut routes = String::new();
        let mut clusters = String::new();
        for (name, at) in &self.further {
            routes.push_str(&format!(
                "
              - match: {{prefix: /{name}}}
                route: {{cluster: {name}{route}}}{off}"
            ));
            clusters.push_str(&cluster(name, &[*at], false));
        }
        let mut processors = Vec::from_iter(self.processor);
        processors.extend(&self.more_processors);
        format!(
            "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
{bootstrap}static_resources:
  listeners:
  - name: main
    address: {{socket_address: {{address: 127.0.0.1, port_value: {listen}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
{manager}          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes:{routes}
              - match: {{prefix: /open}}
                route: {{cluster: upstream{route}}}{open}
              - match: {{prefix: /}}
                route: {{cluster: upstream{route}}}
          http_filters:{filter}
          - name: router
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:{upstream}{processor}{clusters}
",
            bootstrap = indented(&self.bootstrap, 0),
            manager = indented(&self.manager, 10),
            upstream = cluster("upstream", self.upstream.as_slice(), self.upstream_http2),
            processor = cluster("processor", &processors, true),
        )
    }

    /// Starts the gateway, or what `EXTPROC_ABUSE_PROXY` names (a real Envoy), with one worker.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(&self) -> anyhow::Result<Rig> {
        let [listen, admin] = [ports::free()?, ports::free()?];
        let log = log_file("rig", listen);
        let config = log.with_extension("yaml");
        if let Some(directory) = config.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(&config, self.yaml(listen, admin))?;
        let config = config.to_string_lossy().into_owned();
        let (program, arguments) = match std::env::var_os("EXTPROC_ABUSE_PROXY") {
            Some(envoy) => (
                PathBuf::from(envoy),
                vec![
                    "-c".to_owned(),
                    config,
                    "--base-id".to_owned(),
                    listen.to_string(),
                    "--concurrency".to_owned(),
                    "1".to_owned(),
                    "-l".to_owned(),
                    "error".to_owned(),
                ],
            ),
            None => (
                provision::workspace_binary("gateway", "gateway")?,
                vec![
                    "--config".to_owned(),
                    config,
                    "--concurrency".to_owned(),
                    "1".to_owned(),
                ],
            ),
        };
        let (program, arguments) = match self.open_files {
            None => (program, arguments),
            Some(files) => {
                let mut shell = vec![
                    "-c".to_owned(),
                    format!("ulimit -n {files}; exec \"$0\" \"$@\""),
                    program.to_string_lossy().into_owned(),
                ];
                shell.extend(arguments);
                (PathBuf::from("sh"), shell)
            }
        };
        let address = SocketAddr::from(([127, 0, 0, 1], listen));
        let process = Process::spawn(program, arguments, &log)?
            .listening(address, Duration::from_secs(30))
            .await?;
        Ok(Rig {
            address,
            admin: SocketAddr::from(([127, 0, 0, 1], admin)),
            process,
        })
    }
}

impl Rig {
    /// Resident memory in KiB.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let status = self.proc("status");
        status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
            .unwrap_or(0)
    }

    /// The most that was resident ever, in KiB.
    #[must_use]
    pub fn peak(&self) -> u64 {
        let status = self.proc("status");
        status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
            .unwrap_or(0)
    }

    /// Processor time used, in units of 10 ms.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        let stat = self.proc("stat");
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest)
            .split_whitespace()
            .collect();
        let field = |at: usize| -> u64 { fields.get(at).and_then(|f| f.parse().ok()).unwrap_or(0) };
        field(11) + field(12)
    }

    fn proc(&self, file: &str) -> String {
        let id = self.process.id().unwrap_or_default();
        std::fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default()
    }

    /// Sends a signal, `TERM` for example.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn signal(&self, name: &str) -> anyhow::Result<()> {
        let id = self.process.id().context("it has ended")?.to_string();
        let signal = format!("-{name}");
        let status = tokio::process::Command::new("kill")
            .args([&signal, &id])
            .status()
            .await?;
        anyhow::ensure!(status.success(), "kill {signal} {id}");
        Ok(())
    }

    /// A statistic of the admin server; 0 if there is none of this name.
    ///
    /// # Errors
    /// When the admin server does not answer.
    pub async fn stat(&self, name: &str) -> anyhow::Result<u64> {
        let (_, text) = get(self.admin, "/stats").await?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(known, _)| *known == name)
            .and_then(|(_, value)| value.parse().ok())
            .unwrap_or(0))
    }

    /// Waits until a statistic is as `wanted`.
    ///
    /// # Errors
    /// When it is not within half a minute, or the admin server does not answer.
    pub async fn until(&self, name: &str, wanted: impl Fn(u64) -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let value = self.stat(name).await?;
            if wanted(value) {
                return Ok(());
            }
            anyhow::ensure!(
                begun.elapsed() < Duration::from_secs(30),
                "{name} stays at {value}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks like anybody else and gives the time until the whole answer was there.
    ///
    /// # Errors
    /// When there is no 200 within 10 s.
    pub async fn normal_client(&self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let (status, _) = tokio::time::timeout(Duration::from_secs(10), get(self.address, "/good"))
            .await
            .context("a normal client got no answer within 10 s")??;
        anyhow::ensure!(status == 200, "a normal client got {status}");
        Ok(begun.elapsed())
    }

    /// Follows memory and processor time of what comes now.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch {
            memory: self.memory(),
            ticks: self.ticks(),
            begun: Instant::now(),
        }
    }
}

/// The figures before an attack.
#[derive(Debug, Clone, Copy)]
pub struct Watch {
    memory: u64,
    ticks: u64,
    begun: Instant,
}

impl Watch {
    /// Asks as a normal client, prints the figures, and checks that memory never grew by more than `most` KiB.
    ///
    /// # Errors
    /// When it did, or the normal client was not served.
    pub async fn check(self, rig: &Rig, what: &str, most: u64) -> anyhow::Result<()> {
        let client = rig.normal_client().await?;
        let grown = rig.peak().saturating_sub(self.memory);
        eprintln!(
            "    {what}: {:.1} s, memory {:.1} -> peak {:.1} MiB, now {:.1} MiB, processor time {} ms, a normal client \
             beside it {} ms",
            self.begun.elapsed().as_secs_f64(),
            self.memory as f64 / 1024.0,
            rig.peak() as f64 / 1024.0,
            rig.memory() as f64 / 1024.0,
            rig.ticks().saturating_sub(self.ticks) * 10,
            client.as_millis(),
        );
        anyhow::ensure!(
            grown <= most,
            "{what}: memory grew by {grown} KiB, more than {most}"
        );
        Ok(())
    }
}

/// `GET` on a connection of its own: status and body.
///
/// # Errors
/// When there is no complete answer.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(u16, Vec<u8>)> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    exchange(address, request.as_bytes()).await
}

/// Sends these bytes on a connection of its own and reads one answer.
///
/// # Errors
/// When there is no complete answer.
pub async fn exchange(address: SocketAddr, request: &[u8]) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut socket = TcpStream::connect(address).await?;
    socket.write_all(request).await?;
    let mut reader = BufReader::new(socket);
    answer(&mut reader).await
}

/// Reads one answer.
///
/// # Errors
/// When it is not complete.
pub async fn answer<R>(reader: &mut R) -> anyhow::Result<(u16, Vec<u8>)>
where
    R: tokio::io::AsyncBufRead + Unpin,
{
    let (status, _, body) = full_answer(reader).await?;
    Ok((status, body))
}

/// Reads one answer with its fields.
///
/// # Errors
/// When it is not complete.
pub async fn full_answer<R>(
    reader: &mut R,
) -> anyhow::Result<(u16, super::exchange::Fields, Vec<u8>)>
where
    R: tokio::io::AsyncBufRead + Unpin,
{
    let head = http1::read_head(reader)
        .await
        .map_err(|_| anyhow::anyhow!("cut inside the head"))?
        .context("closed without an answer")?;
    let status: u16 = head
        .first
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("no status")?;
    let framing = match status {
        204 | 304 => Framing::None,
        _ => http1::framing(&head.fields, Framing::Close),
    };
    let mut body = Vec::new();
    http1::read_body(reader, framing, |piece| {
        if let Piece::Data(data) = piece {
            body.extend_from_slice(&data);
        }
    })
    .await
    .map_err(|_| anyhow::anyhow!("{status}: cut inside the body"))?;
    Ok((status, head.fields, body))
}

/// An HTTP/1.1 upstream that does what the path says: `/big/N` answers with N bytes, `/slow/N` after N ms, `/silent` never, `/lost` closes without an answer; all
/// others answer `200 ok` once the whole request is there.
#[derive(Debug)]
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it has seen.
    pub seen: Arc<Seen>,
    task: JoinHandle<()>,
}

/// What an [`Upstream`] counted.
#[derive(Debug, Default)]
pub struct Seen {
    /// Complete heads.
    pub requests: AtomicUsize,
    /// Bytes of bodies.
    pub bytes: AtomicU64,
    /// Bodies that were complete.
    pub complete: AtomicUsize,
    /// Connections accepted.
    pub connections: AtomicUsize,
}

impl Upstream {
    /// Starts it on any port.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> anyhow::Result<Self> {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts it on this address, where another one may just have ended.
    ///
    /// # Errors
    /// When it is taken.
    pub async fn at(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = listen(address)?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((socket, _)) = listener.accept().await else {
                    continue;
                };
                while connections.try_join_next().is_some() {}
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let _ = socket.set_nodelay(true);
                connections.spawn(serve(socket, Arc::clone(&shared)));
            }
        });
        Ok(Self {
            address,
            seen,
            task,
        })
    }

    /// Ends it with all its connections, whatever they do.
    pub async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// A listener on an address that was in use a moment ago.
///
/// # Errors
/// When it is taken.
pub fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket.listen(4096)?)
}

async fn serve(socket: TcpStream, seen: Arc<Seen>) {
    let (reader, mut writer) = socket.into_split();
    let mut reader = BufReader::with_capacity(256 * 1024, reader);
    while let Ok(Some(head)) = http1::read_head(&mut reader).await {
        seen.requests.fetch_add(1, Ordering::Relaxed);
        let framing = http1::framing(&head.fields, Framing::None);
        let body = http1::read_body(&mut reader, framing, |piece| {
            if let Piece::Data(data) = piece {
                seen.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
            }
        });
        if body.await.is_err() {
            return;
        }
        seen.complete.fetch_add(1, Ordering::Relaxed);
        let path = head.first.split(' ').nth(1).unwrap_or_default();
        let mut words = path.split('/').filter(|w| !w.is_empty() && *w != "open");
        let number = |word: Option<&str>| word.and_then(|w| w.parse().ok()).unwrap_or(0_usize);
        // One message for whoever reads gRPC.
        let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n\0\0\0\0\x02ok";
        let written = match words.next() {
            Some("big") => big(&mut writer, number(words.next())).await,
            Some("slow") => {
                tokio::time::sleep(Duration::from_millis(number(words.next()) as u64)).await;
                writer.write_all(ok).await
            }
            Some("silent") => {
                // Until the other side is tired of it.
                let mut scrap = [0; 64];
                while matches!(reader.read(&mut scrap).await, Ok(1..)) {}
                return;
            }
            Some("lost") => return,
            _ => writer.write_all(ok).await,
        };
        if written.is_err() {
            return;
        }
    }
}

/// So many bytes, which are one message for whoever reads gRPC.
#[must_use]
pub fn message(bytes: usize) -> Vec<u8> {
    const PREFIX: usize = 5;
    let length = u32::try_from(bytes.saturating_sub(PREFIX)).unwrap_or(u32::MAX);
    let mut out = vec![0];
    out.extend(length.to_be_bytes());
    out.resize(bytes, b'x');
    out
}

async fn big(writer: &mut tokio::net::tcp::OwnedWriteHalf, bytes: usize) -> std::io::Result<()> {
    const PIECE: usize = 64 * 1024;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
    writer.write_all(head.as_bytes()).await?;
    let piece = message(PIECE);
    let mut left = bytes;
    while left > 0 {
        let n = left.min(PIECE);
        writer.write_all(&piece[..n]).await?;
        left -= n;
    }
    Ok(())
}
