//! Measures the gateway beside a real Envoy: CPU, throughput, latency and memory, mode by mode.
//!
//! Upstream, processor and clients are the same for both; the proxies get the same bootstrap and one worker
//! each, and are measured in turn, several rounds. Medians count. What is compared are ratios within one run: the
//! machine's mood changes absolute figures, and both of them alike.

mod client;
mod instructions;
pub mod mode;
mod processor;
pub mod report;
mod sample;
mod upstream;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use tokio::net::TcpListener;

use self::{
    client::Connection,
    mode::{Mode, OPEN, Ports},
    processor::Gate,
    report::{Open, Row},
};
use crate::{
    conformance::run::Target,
    provision,
    support::{ports, process::Process},
};

const START: Duration = Duration::from_secs(15);

/// Open exchanges of the memory measurement.
const EXCHANGES: usize = 1000;

/// Amount of measuring.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Times that the proxies are started in each mode.
    pub rounds: usize,
    /// Seconds of full load each time, one by one in turn, and of the fixed rate.
    pub seconds: u64,
}

/// The proxies, upstream and processor of a run.
#[derive(Debug)]
pub struct Bench {
    targets: [Target; 2],
    wrk: PathBuf,
    peers: Ports,
    gate: Arc<Gate>,
    directory: PathBuf,
}

/// One proxy in one mode under full load.
#[derive(Clone, Copy, Debug)]
struct Figures {
    cpu: f64,
    per_second: f64,
}

impl Bench {
    /// Finds the programs, starts upstream and processor. Another build of the gateway takes Envoy's place if one is given.
    ///
    /// # Errors
    /// A program is missing; the message says how to get it.
    pub fn new(other: Option<&Path>) -> anyhow::Result<Self> {
        let wrk = provision::program("wrk")
            .ok()
            .context("wrk is needed: apt-get install wrk")?;
        let beside = match other {
            Some(build) => Target {
                name: "other".to_owned(),
                ..Target::gateway(build)
            },
            None => Target::envoy(&provision::envoy()?),
        };
        let gateway = provision::workspace_binary("gateway", "gateway")?;
        let gate = Arc::<Gate>::default();
        let upstream = start(upstream::serve)?;
        let for_processor = gate.clone();
        let processor = start(move |listener| processor::serve(listener, for_processor))?;
        let directory = provision::target_directory().join("bench");
        std::fs::create_dir_all(&directory)?;
        Ok(Self {
            targets: [beside, Target::gateway(&gateway)],
            wrk,
            peers: Ports {
                listener: 0,
                admin: 0,
                upstream,
                processor,
            },
            gate,
            directory,
        })
    }

    /// Measures a mode.
    ///
    /// # Errors
    /// A proxy does not start, or fails a request.
    pub async fn measure(&self, mode: &'static Mode, plan: Plan) -> anyhow::Result<Row> {
        let mut figures: [Vec<Figures>; 2] = Default::default();
        let mut resident: [Vec<f64>; 2] = Default::default();
        for round in 0..plan.rounds {
            let mut loaded = Vec::new();
            for target in &self.targets {
                let (process, address) = self.proxy(target, mode).await?;
                self.full_load(&process, address, mode).await?;
                loaded.push((process, address));
            }
            // A second each in turn: what else the machine does falls on both.
            for _ in 0..plan.seconds {
                for ((process, address), figures) in loaded.iter().zip(&mut figures) {
                    figures.push(self.full_load(process, *address, mode).await?);
                }
            }
            for ((process, _), resident) in loaded.iter().zip(&mut resident) {
                let pid = process.id().context("the proxy is gone")?;
                resident.push(sample::resident(pid)? as f64);
            }
            let ratio = ratio(&figures);
            eprintln!("{} round {round}: {ratio:.2} so far", mode.name);
        }
        let slower = figures
            .iter()
            .map(|figures| median(figures.iter().map(|one| one.per_second)))
            .fold(f64::INFINITY, f64::min);
        let rate = (slower / 2.0).max(1.0);
        let mut latencies: [Vec<(f64, f64)>; 2] = Default::default();
        for _ in 0..plan.rounds {
            for (target, latencies) in self.targets.iter().zip(&mut latencies) {
                latencies.push(self.fixed_rate(target, mode, rate, plan).await?);
            }
        }
        let side = |index: usize| report::Side {
            cpu: median(figures[index].iter().map(|one| one.cpu)),
            per_second: median(figures[index].iter().map(|one| one.per_second)),
            resident: median(resident[index].iter().copied()),
            p50: median(latencies[index].iter().map(|(p50, _)| *p50)),
            p99: median(latencies[index].iter().map(|(_, p99)| *p99)),
        };
        Ok(Row {
            mode,
            rate,
            ratio: ratio(&figures),
            envoy: side(0),
            ours: side(1),
        })
    }

    /// Measures the memory of open exchanges: what each adds to its open, used connection.
    ///
    /// # Errors
    /// As [`Bench::measure`].
    pub async fn open_exchanges(&self) -> anyhow::Result<Open> {
        let mut bytes = [(0.0, 0.0); 2];
        for (target, bytes) in self.targets.iter().zip(&mut bytes) {
            *bytes = self.open_exchanges_of(target).await?;
        }
        Ok(Open {
            exchanges: EXCHANGES,
            envoy: bytes[0],
            ours: bytes[1],
        })
    }

    async fn open_exchanges_of(&self, target: &Target) -> anyhow::Result<(f64, f64)> {
        let (process, address) = self.proxy(target, OPEN).await?;
        let pid = process.id().context("the proxy is gone")?;
        let gate = self.gate.clone();
        tokio::task::spawn_blocking(move || {
            // What the first requests set up belongs to none.
            Connection::open(address, OPEN)?.exchange()?;
            let before = sample::resident(pid)?;
            let mut connections = (0..EXCHANGES)
                .map(|_| {
                    let mut connection = Connection::open(address, OPEN)?;
                    connection.exchange()?;
                    Ok(connection)
                })
                .collect::<anyhow::Result<Vec<_>>>()?;
            let idle = sample::resident(pid)?;
            gate.close();
            for connection in &mut connections {
                connection.send()?;
            }
            let mut waited = Duration::ZERO;
            while gate.waiting() < EXCHANGES {
                anyhow::ensure!(
                    waited < START,
                    "only {} exchanges reach the processor",
                    gate.waiting()
                );
                client::pause(Duration::from_millis(10));
                waited += Duration::from_millis(10);
            }
            let open = sample::resident(pid)?;
            gate.open();
            for connection in &mut connections {
                connection.receive()?;
            }
            let each = |from: u64, to: u64| to.saturating_sub(from) as f64 / EXCHANGES as f64;
            Ok((each(before, idle), each(idle, open)))
        })
        .await?
    }

    /// A second of full load.
    async fn full_load(
        &self,
        process: &Process,
        address: SocketAddr,
        mode: &'static Mode,
    ) -> anyhow::Result<Figures> {
        let pid = process.id().context("the proxy is gone")?;
        let wrk = self.wrk.clone();
        let script = self.directory.join("wrk.lua");
        tokio::task::spawn_blocking(move || {
            let before = sample::cpu(pid)?;
            let load = client::wrk(&wrk, address, mode, 1, &script)?;
            let used = sample::cpu(pid)? - before;
            Ok(Figures {
                cpu: used.as_secs_f64() * 1e6 / load.requests.max(1) as f64,
                per_second: load.per_second,
            })
        })
        .await?
    }

    /// p50 and p99 in microseconds.
    async fn fixed_rate(
        &self,
        target: &Target,
        mode: &'static Mode,
        rate: f64,
        plan: Plan,
    ) -> anyhow::Result<(f64, f64)> {
        let (_process, address) = self.proxy(target, mode).await?;
        tokio::task::spawn_blocking(move || {
            client::steady(address, mode, rate, Duration::from_secs(1))?;
            let sorted = client::steady(address, mode, rate, Duration::from_secs(plan.seconds))?;
            let at = |share: usize| {
                let index = sorted.len() * share / 100;
                sorted
                    .get(index)
                    .map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
            };
            Ok((at(50), at(99)))
        })
        .await?
    }

    async fn proxy(&self, target: &Target, mode: &Mode) -> anyhow::Result<(Process, SocketAddr)> {
        let (config, address) = self.configure(target, mode)?;
        let words = words(target, &config);
        let (program, arguments) = words.split_first().context("an empty command")?;
        let log = self.directory.join(format!("{}.log", target.name));
        let process = Process::spawn(program, arguments, &log)?;
        Ok((process.listening(address, START).await?, address))
    }

    /// Writes a bootstrap; gives it and where the proxy is going to listen.
    fn configure(&self, target: &Target, mode: &Mode) -> anyhow::Result<(PathBuf, SocketAddr)> {
        let ports = Ports {
            listener: ports::free()?,
            admin: ports::free()?,
            ..self.peers
        };
        let config = self.directory.join(format!("{}.yaml", target.name));
        std::fs::write(&config, mode.bootstrap(ports))?;
        Ok((config, SocketAddr::from(([127, 0, 0, 1], ports.listener))))
    }
}

/// The command that starts a proxy with this bootstrap.
fn words(target: &Target, config: &Path) -> Vec<String> {
    let config = config.display().to_string();
    let words = target.command.iter();
    words
        .map(|word| word.replace("{config}", &config))
        .collect()
}

/// Serves on a thread of its own; gives the port.
fn start<F>(serve: impl FnOnce(TcpListener) -> F + Send + 'static) -> anyhow::Result<u16>
where
    F: Future<Output = ()>,
{
    let socket = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    socket.set_nonblocking(true)?;
    let port = socket.local_addr()?.port();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            match TcpListener::from_std(socket) {
                Ok(listener) => serve(listener).await,
                Err(error) => eprintln!("cannot serve: {error}"),
            }
        });
    });
    Ok(port)
}

/// The second proxy's share of the first one's CPU time per request: the median of the shares that were measured side by
/// side.
fn ratio([first, second]: &[Vec<Figures>; 2]) -> f64 {
    median(first.iter().zip(second).map(|(a, b)| b.cpu / a.cpu))
}

/// The middle one.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
