//! TLS settings towards a cluster.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use super::connect::{Tls, connector};
use crate::config::snapshot::{SubjectAltName, UpstreamProtocol, UpstreamTls, pem};

/// The connector for these settings.
///
/// # Errors
/// A certificate or key cannot be read, or does not fit.
pub(super) fn client(settings: &UpstreamTls, protocol: UpstreamProtocol) -> Result<Tls, String> {
    let provider = Arc::new(ring::default_provider());
    let trust = settings
        .trusted_ca
        .as_ref()
        .map(|pem| Trust::new(pem, &settings.subject_alt_names))
        .transpose()
        .map_err(|error| format!("trusted_ca: {error}"))?;
    let verifier = Verifier {
        trust,
        provider: provider.clone(),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &settings.identity {
        Some((chain, key)) => {
            let chain =
                pem::certificates(chain).map_err(|error| format!("certificate_chain: {error}"))?;
            let key = pem::key(key).map_err(|error| format!("private_key: {error}"))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("private_key: {error}"))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = if settings.alpn.is_empty() {
        match protocol {
            UpstreamProtocol::Http2 => vec![b"h2".to_vec()],
            UpstreamProtocol::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            UpstreamProtocol::Http1 | UpstreamProtocol::Downstream => Vec::new(),
        }
    } else {
        settings
            .alpn
            .iter()
            .map(|name| name.clone().into_bytes())
            .collect()
    };
    // No name is sent that was not asked for, and never an address (RFC 6066 section 3).
    config.enable_sni = settings.sni.is_some() || settings.endpoint_name;
    Ok(Tls {
        connector: connector(config),
        name: settings.sni.clone(),
        endpoint_name: settings.endpoint_name,
    })
}

/// Decides over servers' certificates.
#[derive(Debug)]
struct Verifier {
    /// Without it any certificate will do: what a configuration without `trusted_ca` asks for, as in Envoy.
    trust: Option<Trust>,
    provider: Arc<CryptoProvider>,
}

/// Rules for good certificates.
#[derive(Debug)]
struct Trust {
    certificates: Vec<CertificateDer<'static>>,
    roots: RootCertStore,
    /// In place of the server's name, unless empty.
    names: Vec<SubjectAltName>,
}

impl Trust {
    fn new(pem: &[u8], names: &[SubjectAltName]) -> Result<Self, String> {
        Ok(Self {
            certificates: pem::certificates(pem)?,
            roots: pem::roots(pem)?,
            names: names.to_vec(),
        })
    }

    fn verify(
        &self,
        provider: &CryptoProvider,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        // A server may present the trusted certificate itself, as with a self-signed one. There is no
        // chain then to verify, nor a date; the name is.
        if !self.certificates.iter().any(|known| known == end_entity) {
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &self.roots,
                intermediates,
                now,
                provider.signature_verification_algorithms.all,
            )?;
        }
        if self.names.is_empty() {
            return verify_server_name(&certificate, server_name);
        }
        let mut names = self.names.iter();
        let borne = names.any(|name| name.is_borne_by(end_entity));
        match borne {
            true => Ok(()),
            false => Err(CertificateError::NotValidForName.into()),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(trust) = &self.trust {
            trust.verify(&self.provider, end_entity, intermediates, server_name, now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject as _;

    use super::*;

    const CA: &[u8] = include_bytes!("../../../tests/tls/ca.pem");
    /// For `a.example`, by that authority.
    const A: &[u8] = include_bytes!("../../../tests/tls/a.pem");
    /// For `spiffe://a.example/processor` alone, by itself.
    const SPIFFE: &[u8] = include_bytes!("../../../tests/tls/spiffe.pem");

    fn name(name: &str) -> ServerName<'static> {
        ServerName::try_from(name.to_owned()).unwrap()
    }

    /// Returns whether a server of this name may show this certificate.
    fn passes(trusted: Option<&[u8]>, names: &[SubjectAltName], shown: &[u8], to: &str) -> bool {
        let verifier = Verifier {
            trust: trusted.map(|pem| Trust::new(pem, names).unwrap()),
            provider: Arc::new(ring::default_provider()),
        };
        let shown = CertificateDer::from_pem_slice(shown).unwrap();
        let verified = verifier.verify_server_cert(&shown, &[], &name(to), &[], UnixTime::now());
        verified.is_ok()
    }

    #[test]
    fn the_chain_is_verified_and_a_name() {
        let a = SubjectAltName::Server(name("a.example"));
        let b = SubjectAltName::Server(name("b.example"));
        let id = |text: &str| SubjectAltName::Uri(text.into());
        for (trusted, names, shown, to, expected) in [
            (None, vec![], A, "b.example", true),
            (Some(CA), vec![], A, "a.example", true),
            (Some(CA), vec![], A, "b.example", false),
            (Some(CA), vec![], A, "127.0.0.1", false),
            (Some(CA), vec![b.clone(), a], A, "b.example", true),
            (Some(CA), vec![b], A, "a.example", false),
            (Some(A), vec![], A, "a.example", true),
            (Some(CA), vec![], SPIFFE, "a.example", false),
            (Some(SPIFFE), vec![], SPIFFE, "a.example", false),
            (
                Some(SPIFFE),
                vec![id("spiffe://a.example/processor")],
                SPIFFE,
                "a.example",
                true,
            ),
            (
                Some(SPIFFE),
                vec![id("spiffe://a.example/processors")],
                SPIFFE,
                "a.example",
                false,
            ),
            (
                Some(CA),
                vec![id("spiffe://a.example/processor")],
                SPIFFE,
                "a.example",
                false,
            ),
        ] {
            assert_eq!(
                passes(trusted, &names, shown, to),
                expected,
                "{names:?} {to}"
            );
        }
    }
}
