//! Shows exchanges with processors: what each was told, what it answered, what was applied or refused and why, and how long
//! it took.
//!
//! An [`Inspector`] is an [observer](extproc_client::observer) of ext_proc layers. It keeps transcripts of the last
//! exchanges in a bounded ring, secrets left out as they come in. [`Server`] shows them: a page, JSON, and a stream of both.
//! An exchange never waits for either.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use gateway_inspector::{Inspector, Server, Settings};
//!
//! # async fn run() -> std::io::Result<()> {
//! let inspector = Arc::new(Inspector::new(Settings::default()));
//! // ExtProcLayer::new(config, processor).observer(inspector.clone())
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:15001").await?;
//! let server = Server::new(inspector, listener.local_addr()?);
//! println!("{}", server.url());
//! server.serve(listener).await
//! # }
//! ```

#![forbid(unsafe_code)]

mod capture;
mod printed;
mod record;
mod redact;
mod replay;
mod ring;
mod server;
mod takeaway;

pub use self::{
    capture::Inspector,
    redact::Redaction,
    server::{Server, start},
};

/// Limits of what is recorded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Most exchanges kept. Default 1,000.
    pub exchanges: usize,
    /// Most bytes kept, by estimate. Default 32 MiB.
    pub bytes: usize,
    /// Most entries of one exchange and filter; later ones are counted. Default 500.
    pub entries: usize,
    /// Bytes kept of each body and each body message, 1 MiB at most. Default 0: bodies are not recorded.
    pub bodies: usize,
    /// One exchange of so many is recorded. Default 1: each.
    pub one_in: u64,
    /// Only exchanges are recorded whose method, authority and path, with a blank between them, contain this. Default all.
    pub only: Option<String>,
    /// Values that are left out.
    pub redaction: Redaction,
    /// Addresses `HOST:PORT` that recorded requests may be played to, beside those of [`Inspector::set_processors`]. Default none.
    pub replay: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            exchanges: 1000,
            bytes: 32 * 1024 * 1024,
            entries: 500,
            bodies: 0,
            one_in: 1,
            only: None,
            redaction: Redaction::default(),
            replay: Vec::new(),
        }
    }
}
