//! The program `gateway`: reads the command line, serves until a signal ends it.

#![forbid(unsafe_code)]

use std::{io, process::ExitCode};

use gateway::{
    Gateway, Options,
    cli::{self, Cli, LogForm},
};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), String> {
    log(cli)?;
    let snapshot = cli.snapshot().map_err(|error| error.to_string())?;
    for warning in &snapshot.warnings {
        tracing::warn!("{warning}");
    }
    if cli.check {
        println!("configuration is good");
        return Ok(());
    }
    let options = Options::default().concurrency(cli.workers().get());
    let running = Gateway::start(snapshot, options).map_err(|error| error.to_string())?;
    for (name, address) in running.local_addrs() {
        tracing::info!(listener = name, %address, "listening");
    }
    if let Some(address) = running.admin_addr() {
        tracing::info!(%address, "admin server");
    }
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut signals = Signals::new().map_err(|error| error.to_string())?;
        signals.recv().await;
        tracing::info!("finishing what is under way; another signal ends at once");
        let finished = tokio::select! {
            () = running.drain() => true,
            () = signals.recv() => false,
        };
        if !finished {
            // Not even the threads are waited for.
            std::process::exit(0);
        }
        Ok(())
    })
}

fn log(cli: &Cli) -> Result<(), String> {
    let filter =
        EnvFilter::try_new(&cli.log_level).map_err(|error| format!("--log-level: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match cli.log_format {
        LogForm::Human => builder.init(),
        LogForm::Json => builder.json().init(),
    }
    Ok(())
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

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
