//! TLS towards clients: what a listener's filter chain makes of `DownstreamTlsContext`.

mod clients;
mod identity;
mod sessions;

use std::{fmt, io, sync::Arc};

use rustls::{
    ServerConfig,
    client::verify_server_name,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
    server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{StartHandshake, server::TlsStream};

use crate::{
    config::snapshot::{Certificate, DownstreamTls, pem},
    exchange::facts::TlsFacts,
};

/// The server's side of TLS, ready for handshakes.
#[derive(Clone)]
pub(crate) struct Acceptor {
    /// Negotiates the configured protocols.
    config: Arc<ServerConfig>,
    /// For clients that offer none of them: the connection goes on without (as Envoy has it), where rustls
    /// would end it.
    without_alpn: Arc<ServerConfig>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor")
    }
}

impl Acceptor {
    /// # Errors
    /// A certificate, key or trusted root cannot be read, or they do not fit; the text names which.
    pub(crate) fn new(settings: &DownstreamTls) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let versions: &[&rustls::SupportedProtocolVersion] =
            match (settings.tls12_only, settings.tls13_only) {
                (true, _) => &[&TLS12],
                (false, true) => &[&TLS13],
                (false, false) => &[&TLS13, &TLS12],
            };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?;
        let builder = match &settings.client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let roots = pem::roots(&client.trusted_ca)
                    .map_err(|error| format!("trusted_ca: {error}"))?;
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = match client.required {
                    true => verifier,
                    false => verifier.allow_unauthenticated(),
                };
                let verifier = verifier
                    .build()
                    .map_err(|error| format!("trusted_ca: {error}"))?;
                let names = client.names.clone();
                builder.with_client_cert_verifier(match names.is_empty() {
                    true => verifier,
                    false => Arc::new(clients::Named {
                        inner: verifier,
                        names,
                    }),
                })
            }
        };
        let keys = settings
            .certificates
            .iter()
            .map(certified)
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err("tls_certificates may not be empty".into());
        }
        let mut config = builder.with_cert_resolver(Arc::new(Certificates(keys)));
        sessions::keep(&mut config, settings)?;
        let without_alpn = Arc::new(config.clone());
        config.alpn_protocols = settings
            .alpn
            .iter()
            .map(|name| name.clone().into_bytes())
            .collect();
        Ok(Self {
            config: Arc::new(config),
            without_alpn,
        })
    }

    /// Completes the handshake that a client began.
    ///
    /// # Errors
    /// The client left, or the two do not agree.
    pub(crate) async fn finish<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        start: StartHandshake<S>,
    ) -> io::Result<(TlsStream<S>, TlsFacts)> {
        let hello = start.client_hello();
        let server_name = hello.server_name().unwrap_or_default().to_owned();
        let common = match hello.alpn() {
            Some(mut offered) => {
                offered.any(|name| self.config.alpn_protocols.iter().any(|own| own == name))
            }
            None => true,
        };
        let config = if common {
            &self.config
        } else {
            &self.without_alpn
        };
        let own = config.cert_resolver.resolve(hello);
        let own = own.and_then(|key| identity::facts(key.end_entity_cert().ok()?));
        let stream = start.into_stream(config.clone()).await?;
        let (_, connection) = stream.get_ref();
        let version = match connection.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        };
        let shown = connection.peer_certificates().unwrap_or_default();
        let chain: Vec<CertificateDer<'static>> = shown
            .iter()
            .map(|certificate| certificate.clone().into_owned())
            .collect();
        let facts = TlsFacts {
            server_name,
            version,
            mutual: !chain.is_empty(),
            peer_certificate: chain.first().and_then(|first| identity::facts(first)),
            peer_chain: chain,
            local_certificate: own,
        };
        Ok((stream, facts))
    }
}

fn certified(certificate: &Certificate) -> Result<Arc<CertifiedKey>, String> {
    let chain = pem::certificates(&certificate.chain)
        .map_err(|error| format!("certificate_chain: {error}"))?;
    let key = pem::key(&certificate.key).map_err(|error| format!("private_key: {error}"))?;
    pem::certified(chain, key)
        .map(Arc::new)
        .map_err(|error| format!("private_key: {error}"))
}

/// Chooses among certificates: of those that the client can check, the first that bears the name it
/// asked for, otherwise the first.
#[derive(Debug)]
struct Certificates(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let [only] = self.0.as_slice() {
            return Some(only.clone());
        }
        let name = hello
            .server_name()
            .and_then(|name| ServerName::try_from(name.to_owned()).ok());
        let usable = || {
            let fits = |key: &&Arc<CertifiedKey>| {
                key.key.choose_scheme(hello.signature_schemes()).is_some()
            };
            self.0.iter().filter(fits)
        };
        let named = name.and_then(|name| usable().find(|key| bears(key, &name)));
        named.or_else(|| usable().next()).cloned()
    }
}

fn bears(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    key.end_entity_cert()
        .ok()
        .and_then(|certificate| ParsedCertificate::try_from(certificate).ok())
        .is_some_and(|certificate| verify_server_name(&certificate, name).is_ok())
}
