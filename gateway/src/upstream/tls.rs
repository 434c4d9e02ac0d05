//! TLS settings towards a cluster.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

use super::connect::{Tls, connector};
use crate::config::snapshot::{UpstreamProtocol, UpstreamTls};

/// The connector for these settings.
///
/// # Errors
/// A certificate or key cannot be read, or does not fit.
pub(super) fn client(settings: &UpstreamTls, protocol: UpstreamProtocol) -> Result<Tls, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &settings.trusted_ca {
        Some(pem) => {
            let trusted = certificates(pem, "trusted_ca")?;
            let mut roots = RootCertStore::empty();
            for certificate in &trusted {
                roots
                    .add(certificate.clone())
                    .map_err(|error| format!("trusted_ca: {error}"))?;
            }
            let verifier =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                    .build()
                    .map_err(|error| format!("trusted_ca: {error}"))?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Names {
                    verifier,
                    trusted,
                    allowed: allowed(&settings.subject_alt_names)?,
                }))
        }
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(provider))),
    };
    let mut config = match &settings.identity {
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key)
                .map_err(|error| format!("private_key: {error}"))?;
            builder
                .with_client_auth_cert(certificates(chain, "certificate_chain")?, key)
                .map_err(|error| format!("certificate_chain: {error}"))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = if settings.alpn.is_empty() {
        match protocol {
            UpstreamProtocol::Http2 => vec![b"h2".to_vec()],
            UpstreamProtocol::Http1 | UpstreamProtocol::Downstream => Vec::new(),
        }
    } else {
        settings
            .alpn
            .iter()
            .map(|name| name.clone().into_bytes())
            .collect()
    };
    config.enable_sni = !settings.sni.is_empty();
    let name = match settings.sni.as_str() {
        "" => None,
        sni => Some(ServerName::try_from(sni.to_owned()).map_err(|error| format!("sni: {error}"))?),
    };
    Ok(Tls {
        connector: connector(config),
        name,
    })
}

fn certificates(pem: &[u8], field: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{field}: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("{field}: no certificate in it"));
    }
    Ok(certificates)
}

fn allowed(names: &[String]) -> Result<Vec<ServerName<'static>>, String> {
    names
        .iter()
        .map(|name| {
            ServerName::try_from(name.clone())
                .map_err(|error| format!("match_typed_subject_alt_names: {name}: {error}"))
        })
        .collect()
}

/// Verifies the chain, and the name or one of the names that are allowed in its place.
#[derive(Debug)]
struct Names {
    verifier: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
    allowed: Vec<ServerName<'static>>,
}

impl ServerCertVerifier for Names {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // A server may present the trusted certificate itself, as with a self-signed one. There is no
        // chain then to verify, nor a date; the name is.
        let itself = self.trusted.iter().any(|known| known == end_entity);
        let verify = |name: &ServerName<'_>| {
            if itself {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                verify_server_name(&certificate, name)?;
                return Ok(ServerCertVerified::assertion());
            }
            self.verifier
                .verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
        };
        let Some((first, others)) = self.allowed.split_first() else {
            return verify(server_name);
        };
        others.iter().fold(verify(first), |result, name| {
            result.or_else(|_| verify(name))
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// Takes any certificate: what a configuration without `trusted_ca` asks for, as in Envoy.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
