//! Certificates and keys as configurations hold them: PEM.
//!
//! The same code reads them for a check and for use, so that a configuration that passes its check can be served.

use std::{path::PathBuf, sync::OnceLock};

use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

/// The certificates of a file; at least one.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    match certificates.is_empty() {
        true => Err("holds no certificate".into()),
        false => Ok(certificates),
    }
}

/// The certificates of a file as what is trusted.
pub fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

/// A private key.
pub fn key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| error.to_string())
}

/// A chain and the key of its first certificate.
pub fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, String> {
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| error.to_string())
}

/// Returns the certificates of a file of roots that can be used, as PEM. Others are left out: one bad certificate among those
/// of a system is no reason to trust none.
pub fn usable_roots(pem: &str) -> String {
    const END: &str = "-----END CERTIFICATE-----";
    let certificates = pem.split_inclusive(END);
    certificates
        .filter(|text| roots(text.as_bytes()).is_ok())
        .collect()
}

/// The trusted roots of the system, PEM; read once, since every cluster may ask for them.
///
/// # Errors
/// Says what is missing.
pub(crate) fn system_roots() -> Result<&'static [u8], String> {
    const PLACES: &[&str] = &[
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/cert.pem",
    ];
    static ROOTS: OnceLock<Vec<u8>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(roots);
    }
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let file = named
        .into_iter()
        .chain(PLACES.iter().map(PathBuf::from))
        .find_map(|place| std::fs::read(place).ok())
        .ok_or("this system has no file of trusted roots; name one in SSL_CERT_FILE")?;
    let roots = usable_roots(&String::from_utf8_lossy(&file));
    if roots.is_empty() {
        return Err("this system's file of trusted roots holds none".into());
    }
    Ok(ROOTS.get_or_init(|| roots.into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &str = include_str!("../../../tests/tls/ca.pem");

    #[test]
    fn a_root_that_cannot_be_used_leaves_the_others() {
        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let odd = "-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n";
        let pem = format!("# first\n{bad}{CA}{odd}# last\n");
        assert!(roots(pem.as_bytes()).is_err());
        assert_eq!(roots(usable_roots(&pem).as_bytes()).unwrap().len(), 1);
    }
}
