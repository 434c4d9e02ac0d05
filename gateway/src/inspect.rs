//! The inspector as the flags ask for it.

use std::{io, net::SocketAddr, net::TcpListener, sync::Arc, thread};

use gateway_inspector::{Inspector, Server, Settings};
use tokio::runtime;

use crate::cli::Cli;

/// Starts the inspector on a thread of its own, where it serves until the process ends; gives it with the address to open.
///
/// # Errors
/// The address cannot be listened on, or no thread can be had.
pub fn start(address: SocketAddr, settings: Settings) -> io::Result<(Arc<Inspector>, String)> {
    let explain =
        |error: io::Error| io::Error::new(error.kind(), format!("--inspect {address}: {error}"));
    let socket = TcpListener::bind(address).map_err(explain)?;
    socket.set_nonblocking(true)?;
    let inspector = Arc::new(Inspector::new(settings));
    let server = Server::new(inspector.clone(), socket.local_addr()?);
    let url = server.url();
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name("inspector".into())
        .spawn(move || {
            runtime.block_on(async move {
                match tokio::net::TcpListener::from_std(socket) {
                    Ok(listener) => server.serve(listener).await,
                    Err(error) => Err(error),
                }
            })
        })?;
    Ok((inspector, url))
}

/// What the flags say of it.
pub fn settings(cli: &Cli) -> Settings {
    let mut settings = Settings::default();
    settings.bodies = cli.inspect_bodies.unwrap_or(settings.bodies);
    settings.one_in = cli.inspect_sample.map_or(settings.one_in, Into::into);
    settings.only.clone_from(&cli.inspect_match);
    for name in &cli.inspect_redact {
        settings.redaction = settings.redaction.and(name.as_str());
    }
    settings
}
