//! The program `gateway`: reads the command line, serves until a signal ends it.

#![forbid(unsafe_code)]

mod cli;
mod trace;
mod watch;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    collections::BTreeMap,
    io::{self, IsTerminal as _},
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gateway_config::{
    Error,
    snapshot::{Inspect, Snapshot},
};
use gateway_inspector::Inspector;
use gateway_proxy::{Gateway, Lines, LogLevels, Running, raise_open_files};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};
use tracing_subscriber::EnvFilter;

use self::{
    cli::{Cli, LogForm},
    trace::Trace,
    watch::Watcher,
};

// Without huge pages (feature `no_thp`): with them, what an open exchange takes is twice what it uses.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The longest wait at the end for the log to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    if let Some(trace) = Trace::of_args(std::env::args_os()) {
        return trace.run();
    }
    let cli = cli::parse();
    let log = match Log::start(&cli) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    match run(&cli, &log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.lines.send(format!("{error}\n").into_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli, log: &Log) -> Result<(), String> {
    raise_open_files();
    #[cfg(feature = "kubernetes")]
    if let Some(result) = cli::kubernetes::run(cli) {
        return result;
    }
    // Looked at before it is read: what changes meanwhile is read again.
    let mut watcher = Watcher::new(&cli.config);
    let snapshot = match cli.snapshot() {
        Err(error) if cli.check => return Err(all(&error)),
        snapshot => snapshot.map_err(|error| error.to_string())?,
    };
    for warning in &snapshot.warnings {
        tracing::warn!("{warning}");
    }
    if cli.check {
        gateway_proxy::check(&snapshot).map_err(|error| error.to_string())?;
        if cli.explain {
            for line in snapshot.warnings.iter().chain(&snapshot.ignored) {
                println!("{line}");
            }
            let (told, ignored) = (snapshot.warnings.len(), snapshot.ignored.len());
            println!(
                "accepted: {told} settings that behave differently here, {ignored} without effect"
            );
        }
        println!("configuration is good");
        return Ok(());
    }
    watcher.watch(cli.config.iter().chain(&snapshot.files));
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    // Before anybody can know that the gateway serves: a signal means something from then on.
    let inside = runtime.enter();
    let mut signals = Signals::new().map_err(|error| error.to_string())?;
    let mut hangup = signal(SignalKind::hangup()).map_err(|error| error.to_string())?;
    drop(inside);
    let mut options = cli.options().log_levels(log.levels.clone());
    let mut inspecting = None;
    if let Some((address, settings)) = cli.inspector(snapshot.inspect.as_ref()) {
        let name = match cli.inspect {
            Some(_) => "--inspect",
            None => "admin.inspect.address",
        };
        let started = gateway_inspector::start(address, settings);
        let (inspector, url) = started.map_err(|error| format!("{name} {address}: {error}"))?;
        inspector.set_processors(snapshot.processors());
        tracing::warn!(
            %url,
            "the inspector is on: it shows what clients and processors send"
        );
        options = options.observer(inspector.clone());
        inspecting = Some(inspector);
    }
    let inspection = Inspection {
        inspector: inspecting,
        configured: snapshot.inspect.clone().filter(|_| cli.inspect.is_none()),
    };
    let running = Gateway::start(snapshot, options).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "; ports below 1024 need privileges: where manifests ask for one, bind another in its place with --listen-port 80=8080"
            }
            _ => "",
        };
        format!("{error}{hint}")
    })?;
    tell(&running);
    runtime.block_on(async {
        loop {
            tokio::select! {
                () = signals.end() => break,
                _ = hangup.recv() => {}
                () = watcher.changed() => {}
            }
            reload(cli, &running, &mut watcher, &inspection);
        }
        tracing::info!("finishing what is under way; another signal ends at once");
        let finished = tokio::select! {
            () = running.drain() => true,
            () = signals.end() => false,
        };
        if !finished {
            // Not even the threads are waited for.
            log.lines.flush(LAST_LINES);
            std::process::exit(0);
        }
        Ok(())
    })
}

/// Everything that is wrong with a configuration, one a line, and how much that is.
fn all(error: &Error) -> String {
    let others = error.others();
    let mut text = error.alone();
    for other in others {
        text.push('\n');
        text.push_str(&other.alone());
    }
    let count = others.len() + 1;
    format!(
        "{text}\nrefused: {count} {}",
        if count == 1 { "setting" } else { "settings" }
    )
}

/// The inspector that was started, if one was.
struct Inspection {
    inspector: Option<Arc<Inspector>>,
    /// Settings of the configuration that it was started with.
    configured: Option<Inspect>,
}

impl Inspection {
    /// Has replays go to the processors of a new configuration. The inspector itself stays as it was started.
    fn follow(&self, snapshot: &Snapshot, cli: &Cli) {
        if cli.inspect.is_none() && snapshot.inspect != self.configured {
            tracing::warn!("admin.inspect has changed, which holds from the next start on");
        }
        if let Some(inspector) = &self.inspector {
            inspector.set_processors(snapshot.processors());
        }
    }
}

/// Serves what the files say now, or what they said before if that cannot be.
fn reload(cli: &Cli, running: &Running, watcher: &mut Watcher, inspection: &Inspection) {
    if cli.config.is_none() {
        tracing::info!("nothing to read again: the configuration is on the command line");
        return;
    }
    let replaced = cli
        .snapshot()
        .map_err(|error| error.to_string())
        .and_then(|snapshot| replace(running, snapshot, cli, watcher, inspection));
    match replaced {
        Ok(()) => {
            tracing::info!("new configuration in place");
            tell(running);
        }
        Err(error) => tracing::error!(%error, "new configuration refused, the old one stays"),
    }
}

fn replace(
    running: &Running,
    snapshot: Snapshot,
    cli: &Cli,
    watcher: &mut Watcher,
    inspection: &Inspection,
) -> Result<(), String> {
    let snapshot = Arc::new(snapshot);
    running
        .update(snapshot.clone())
        .map_err(|error| error.to_string())?;
    inspection.follow(&snapshot, cli);
    for warning in &snapshot.warnings {
        tracing::warn!("{warning}");
    }
    watcher.watch(cli.config.iter().chain(&snapshot.files));
    Ok(())
}

fn tell(running: &Running) {
    for (name, address) in running.local_addrs() {
        tracing::info!(listener = name, %address, "listening");
    }
    if let Some(address) = running.admin_addr() {
        tracing::info!(%address, "admin server");
    }
}

/// The log of the program, on stderr. Dropping it waits a moment for its last lines.
struct Log {
    lines: Lines,
    levels: Arc<Levels>,
}

/// A filter that is put in place of the one that holds.
type Reload = dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync;

/// The levels of the log.
struct Levels {
    set: Box<Reload>,
    chosen: Mutex<Chosen>,
}

/// Levels as the command line says, or the last one for everything, with those of targets that were set since.
#[derive(Clone)]
struct Chosen {
    everything: String,
    targets: BTreeMap<String, String>,
}

impl Chosen {
    /// Targets with a level of their own.
    const TARGETS: usize = 64;
    /// Bytes of a target's name.
    const NAME: usize = 128;

    fn set(&mut self, target: Option<&str>, level: &str) -> Result<(), String> {
        let Some(target) = target else {
            self.everything = level.to_owned();
            self.targets.clear();
            return Ok(());
        };
        // Anything else would be read as more than one directive, or as a condition of spans.
        let is_path = |byte: u8| byte.is_ascii_alphanumeric() || b"_:-.".contains(&byte);
        if target.is_empty() || target.len() > Self::NAME || !target.bytes().all(is_path) {
            return Err("a target is a path such as gateway_proxy::upstream".into());
        }
        self.targets.insert(target.to_owned(), level.to_owned());
        match self.targets.len() > Self::TARGETS {
            true => Err(format!("more than {} targets", Self::TARGETS)),
            false => Ok(()),
        }
    }

    fn filter(&self) -> Result<EnvFilter, String> {
        let mut directives = self.everything.clone();
        for (target, level) in &self.targets {
            directives.push_str(&format!(",{target}={level}"));
        }
        filter(&directives)
    }
}

impl LogLevels for Levels {
    fn set(&self, changes: &[(Option<&str>, &str)]) -> Result<(), String> {
        let mut chosen = self.chosen();
        let mut changed = chosen.clone();
        for (target, level) in changes {
            changed.set(*target, level)?;
        }
        (self.set)(changed.filter()?)?;
        *chosen = changed;
        Ok(())
    }

    fn shown(&self) -> String {
        let filter = self.chosen().filter();
        filter.map(|filter| filter.to_string()).unwrap_or_default()
    }
}

impl Levels {
    fn chosen(&self) -> MutexGuard<'_, Chosen> {
        // What is under the lock is replaced as a whole.
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Filter of the log. `h2` warns of frames that peers send, as many as they like.
fn filter(directives: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(format!("h2=error,{directives}")).map_err(|error| error.to_string())
}

impl Log {
    fn start(cli: &Cli) -> Result<Self, String> {
        let filter = filter(&cli.log_level).map_err(|error| format!("--log-level: {error}"))?;
        let chosen = Mutex::new(Chosen {
            everything: cli.log_level.clone(),
            targets: BTreeMap::new(),
        });
        let ansi = io::stderr().is_terminal();
        let (lines, _) = Lines::new("log", io::stderr()).map_err(|error| error.to_string())?;
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(ansi)
            .with_writer(Arc::new(lines.clone()));
        let set: Box<Reload> = match cli.log_format {
            LogForm::Human => {
                let builder = builder.with_filter_reloading();
                let handle = builder.reload_handle();
                builder.init();
                Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
            }
            LogForm::Json => {
                let builder = builder.json().with_filter_reloading();
                let handle = builder.reload_handle();
                builder.init();
                Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
            }
        };
        // The standard library's own would write to stderr itself, and wait.
        std::panic::set_hook(Box::new(|panic| {
            let backtrace = Backtrace::capture();
            match backtrace.status() {
                BacktraceStatus::Captured => tracing::error!("{panic}\n{backtrace}"),
                _ => tracing::error!("{panic}"),
            }
        }));
        Ok(Self {
            lines,
            levels: Arc::new(Levels { set, chosen }),
        })
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.lines.flush(LAST_LINES);
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// SIGTERM or SIGINT.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
