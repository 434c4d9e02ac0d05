//! Listen addresses and stop signals for programs that are started by hand, and a server for the processors among them.
//!
//! A newcomer's first error is a port that is already taken, so [`bind`] names the flag that changes it.

use std::{
    fmt,
    io::{self, IsTerminal as _},
    net::SocketAddr,
    process::ExitCode,
    str::FromStr,
};

use anyhow::Context as _;
use extproc_sdk::{Processor, Server};
use tokio::net::{TcpListener, lookup_host};
use tracing_subscriber::EnvFilter;

/// An address to listen on as typed on the command line: `HOST:PORT`, or `:PORT` for the loopback interface.
///
/// The host may be a name; it is resolved when the socket is bound. Port 0 asks the system for a free one.
///
/// ```
/// use quickstart::cli::ListenAddr;
///
/// assert_eq!(":0".parse::<ListenAddr>().unwrap().to_string(), "127.0.0.1:0");
/// assert_eq!("localhost:80".parse::<ListenAddr>().unwrap().to_string(), "localhost:80");
/// assert!("8080".parse::<ListenAddr>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddr(String);

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ListenAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text
            .rsplit_once(':')
            .ok_or("expected HOST:PORT or :PORT (port 0 picks a free one)")?;
        port.parse::<u16>()
            .map_err(|_| format!("{port:?} is not a port (0 to 65535)"))?;
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(format!(
                "write an IPv6 address in brackets: [{host}]:{port}"
            ));
        }
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        Ok(Self(format!("{host}:{port}")))
    }
}

impl ListenAddr {
    /// The address as a number; the first one where a name has several.
    ///
    /// # Errors
    /// The name is not known; the text names `flag`, which chose the address.
    pub async fn resolve(&self, flag: &str) -> anyhow::Result<SocketAddr> {
        let found = lookup_host(&self.0).await.and_then(|mut found| {
            found
                .next()
                .ok_or_else(|| io::Error::other("the name has no address"))
        });
        found.map_err(|error| refused(&self.0, flag, &error))
    }
}

/// Binds a listening socket; `flag` is the command line flag that chose `addr`.
///
/// # Errors
/// The system's error, in a sentence that says which flag to change.
pub async fn bind(addr: &ListenAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(&addr.0).await;
    bound.map_err(|error| refused(&addr.0, flag, &error))
}

/// Serves a processor until Ctrl-C or SIGTERM; what the processor examples do after reading their command line.
///
/// The log goes to stderr, at `info` unless `RUST_LOG` says otherwise.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve<P: Processor>(processor: P, listen: &ListenAddr) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    let listener = bind(listen, "--listen").await?;
    let stop = stop_signal()?;
    println!("processor listens on http://{}", listener.local_addr()?);
    Ok(Server::new(processor).serve(listener, stop).await?)
}

/// The error of an address that cannot be listened on.
pub fn refused(addr: impl fmt::Display, flag: &str, error: &io::Error) -> anyhow::Error {
    let cause = match error.kind() {
        io::ErrorKind::AddrInUse => "the port is already in use".to_owned(),
        _ => error.to_string(),
    };
    anyhow::anyhow!(
        "cannot listen on {addr}: {cause}; choose another address with {flag} HOST:PORT (port 0 picks a free one)"
    )
}

/// Ends a program: an error goes to stderr in one line, and the exit code is 1.
pub fn exit(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A future that completes on Ctrl-C (SIGINT) or SIGTERM. Signals count from this call on, not from the first poll.
///
/// # Errors
/// When the process cannot install a signal handler.
#[cfg(unix)]
pub fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};

    let install = |kind| signal(kind).context("cannot wait for a stop signal");
    let (mut interrupt, mut terminate) = (
        install(SignalKind::interrupt())?,
        install(SignalKind::terminate())?,
    );
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// A future that completes on Ctrl-C.
///
/// # Errors
/// None on this system; a signal handler that cannot be installed means that the future never completes.
#[cfg(not(unix))]
pub fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_refused_say_why() {
        let refusal = |text: &str| text.parse::<ListenAddr>().expect_err(text);
        assert!(refusal("localhost").contains("HOST:PORT"));
        assert!(refusal("localhost:http").contains("not a port"));
        assert!(refusal("::1:80").contains("[::1]:80"));
        assert_eq!("[::1]:80".parse(), Ok(ListenAddr("[::1]:80".to_owned())));
    }

    #[tokio::test]
    async fn a_taken_port_names_the_flag() {
        let first = bind(&ListenAddr("127.0.0.1:0".to_owned()), "--listen")
            .await
            .expect("a free port");
        let taken = ListenAddr(first.local_addr().expect("an address").to_string());
        let error = bind(&taken, "--listen")
            .await
            .expect_err("the port is taken")
            .to_string();
        assert!(
            error.contains("already in use") && error.contains("--listen"),
            "{error}"
        );
    }
}
