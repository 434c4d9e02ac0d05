//! The server kit: a processor on a listening socket, with what a deployment expects around it.
//!
//! It serves the processor and stops in order; with the features `health` and `reflection` it also serves the standard gRPC
//! health service and gRPC reflection. Put a [`ProcessorService`] into a `tonic::transport::Server` of your own where this is
//! not enough.

mod incoming;
#[cfg(feature = "tls")]
mod tls;

use std::{io, time::Duration};

use tokio::{net::TcpListener, sync::oneshot, time};
use tonic::transport;
#[cfg(feature = "reflection")]
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};
use tracing::{info, warn};

use self::incoming::{Handshake, incoming};
#[cfg(feature = "tls")]
pub use self::tls::TlsConfig;
use crate::{engine::Run, processor::Processor, service::ProcessorService};

/// The descriptors of `envoy.service.ext_proc.v3` and everything that it imports, for reflection.
///
/// Made from the protocol definitions that the `envoy-types` crate ships, without source information:
///
/// ```text
/// cd envoy-types-0.7.7/proto
/// protoc -I data-plane-api -I xds -I protoc-gen-validate -I googleapis -I opentelemetry-proto -I cel-spec/proto \
///     --include_imports --descriptor_set_out=descriptor.bin envoy/service/ext_proc/v3/external_processor.proto
/// ```
#[cfg(feature = "reflection")]
const DESCRIPTORS: &[u8] = include_bytes!("descriptor.bin");

/// Default time that open exchanges have after a shutdown has begun.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Flow-control windows. A connection of a proxy carries the exchanges of thousands of clients, and handlers that stand still
/// must not hold up the others: the window of the connection is that of all its streams together.
const STREAM_WINDOW: u32 = 512 * 1024;
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// Exchanges of a connection at a time. Proxies open another one for more.
const MAX_STREAMS: u32 = CONNECTION_WINDOW / STREAM_WINDOW;

/// Bytes of a header list (RFC 9113 §6.5.2). `h2` ends a connection for a list of four times as many, and with it the exchanges of
/// others: proxies add metadata that their clients may have a say in.
const HEADER_LIST: u32 = 256 * 1024;

/// Exchanges that may be reset before they are looked at: a proxy resets all those of a client that leaves.
const MAX_PENDING_RESETS: usize = 16 * 1024;

/// Serves one processor.
#[derive(Debug)]
pub struct Server<P> {
    service: ProcessorService<P>,
    drain: Duration,
    not_serving: Duration,
    #[cfg(feature = "tls")]
    tls: Option<TlsConfig>,
    keep_alive: Option<Duration>,
    max_connection_age: Option<Duration>,
}

impl<P: Processor> Server<P> {
    /// A server around a processor with default settings.
    pub fn new(processor: P) -> Self {
        Self::with_service(ProcessorService::new(processor))
    }
}

impl<P: Run> Server<P> {
    /// A server around a service with settings of its own.
    pub fn with_service(service: ProcessorService<P>) -> Self {
        Self {
            service,
            drain: DRAIN,
            not_serving: Duration::ZERO,
            #[cfg(feature = "tls")]
            tls: None,
            keep_alive: None,
            max_connection_age: None,
        }
    }

    /// Sets how long open exchanges may go on after a shutdown has begun. Default [`DRAIN`].
    #[must_use]
    pub fn drain(mut self, time: Duration) -> Self {
        self.drain = time;
        self
    }

    /// Sets how long the server goes on as before, but with its health at `NOT_SERVING` (feature `health`), when a shutdown
    /// begins; the time that proxies need to notice. Default zero.
    #[must_use]
    pub fn announce(mut self, time: Duration) -> Self {
        self.not_serving = time;
        self
    }

    /// Serves with TLS.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, config: TlsConfig) -> Self {
        self.tls = Some(config);
        self
    }

    /// Asks each connection at this interval whether it is alive (HTTP/2 PING), and closes it if no answer comes within
    /// 20 s. Default: not.
    #[must_use]
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.keep_alive = Some(interval);
        self
    }

    /// Has connections of this age finish (HTTP/2 GOAWAY), so that clients connect again and may reach another server.
    /// Open exchanges go on. Default: no limit.
    #[must_use]
    pub fn max_connection_age(mut self, age: Duration) -> Self {
        self.max_connection_age = Some(age);
        self
    }

    /// Serves until `shutdown` is done, and then stops: health, if served, goes to `NOT_SERVING`, the announced time passes, the
    /// listener closes and connections are told to finish, and when all have, or the drain time is over, it returns.
    ///
    /// Connections that are open even then stay with the runtime.
    ///
    /// # Errors
    /// The listener could not be set up, or there is something wrong with the certificate.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let address = listener.local_addr().map_err(ServeError::Listener)?;
        let handshake = self.handshake()?;
        let stats = self.service.stats();
        let (finish, finishing) = oneshot::channel::<()>();
        let mut builder = transport::Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
            // Messages that are on their way when an exchange ends count as errors, in the whole life of a connection.
            .http2_max_local_error_reset_streams(None)
            .http2_max_header_list_size(HEADER_LIST)
            .http2_keepalive_interval(self.keep_alive);
        if let Some(age) = self.max_connection_age {
            builder = builder.max_connection_age(age);
        }
        let router = builder.add_service(self.service);
        #[cfg(feature = "reflection")]
        let router = router.add_service(reflection()?);
        #[cfg(feature = "health")]
        let (health, router) = {
            let (health, service) = tonic_health::server::health_reporter();
            health.set_serving::<ProcessorService<P>>().await;
            (health, router.add_service(service))
        };
        let serving = router.serve_with_incoming_shutdown(incoming(listener, handshake), async {
            // Either way, told or forgotten, the server is to finish.
            let _ = finishing.await;
        });
        let stopping = async {
            shutdown.await;
            info!(open = stats.open_exchanges(), "shutting down");
            #[cfg(feature = "health")]
            {
                use tonic_health::ServingStatus::NotServing;
                health.set_service_status("", NotServing).await;
                health.set_not_serving::<ProcessorService<P>>().await;
            }
            time::sleep(self.not_serving).await;
            drop(finish);
            time::sleep(self.drain).await;
        };
        info!(%address, "listening");
        tokio::select! {
            served = serving => served.map_err(|error| ServeError::Setup(error.into()))?,
            () = stopping => {
                warn!(open = stats.open_exchanges(), "drain time is over, leaving exchanges unfinished");
            }
        }
        Ok(())
    }

    #[cfg(feature = "tls")]
    fn handshake(&self) -> Result<Handshake, ServeError> {
        Ok(match &self.tls {
            Some(config) => Handshake::Tls(config.acceptor().map_err(ServeError::Tls)?),
            None => Handshake::None,
        })
    }

    #[cfg(not(feature = "tls"))]
    fn handshake(&self) -> Result<Handshake, ServeError> {
        Ok(Handshake::None)
    }
}

/// Makes the service that tells clients what the services are.
#[cfg(feature = "reflection")]
fn reflection() -> Result<ServerReflectionServer<impl ServerReflection>, ServeError> {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS);
    #[cfg(feature = "health")]
    let builder =
        builder.register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let service = builder.build_v1();
    service.map_err(|error| ServeError::Setup(error.into()))
}

/// Reason that a server could not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The listening socket has no address.
    #[error("the listening socket cannot be used")]
    Listener(#[source] io::Error),
    /// The certificate, the key or the authority cannot be used.
    #[cfg(feature = "tls")]
    #[error("the TLS configuration cannot be used")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The services or the transport could not be set up.
    #[error("the server could not be set up")]
    Setup(#[source] Box<dyn std::error::Error + Send + Sync>),
}
