//! Facts of an exchange that are fixed when it begins.

use std::{net::SocketAddr, sync::Arc};

use extproc_client::host::CertificateFacts;
use rustls::pki_types::CertificateDer;

/// Facts of a client's connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: u64,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    /// `local` is where the connection was to go before it was redirected here.
    pub(crate) redirected: bool,
    pub(crate) tls: Option<TlsFacts>,
}

/// Facts about a client from its TLS connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsFacts {
    /// The name that it asked for (SNI); empty if none.
    pub(crate) server_name: String,
    /// As Envoy writes it, such as `TLSv1.3`.
    pub(crate) version: &'static str,
    /// It showed a certificate, which was found good.
    pub(crate) mutual: bool,
    /// Facts of that one.
    pub(crate) peer_certificate: Option<Arc<CertificateFacts>>,
    /// It, and those that came with it.
    pub(crate) peer_chain: Vec<CertificateDer<'static>>,
    /// Facts of the certificate that it was shown.
    pub(crate) local_certificate: Option<Arc<CertificateFacts>>,
}
