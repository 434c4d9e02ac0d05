//! Facts of certificates, as Envoy writes them.

use std::{fmt::Write, sync::Arc};

use extproc_client::host::CertificateFacts;
use rustls::{SupportedCipherSuite, crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256};
use x509_parser::{
    extensions::GeneralName, parse_x509_certificate, x509::AttributeTypeAndValue, x509::X509Name,
};

/// Facts of a certificate; `None` if it cannot be read.
pub(super) fn facts(der: &[u8]) -> Option<Arc<CertificateFacts>> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    let mut facts = CertificateFacts::default();
    facts.subject = subject(certificate.subject());
    if let Ok(Some(names)) = certificate.subject_alternative_name() {
        for name in &names.value.general_names {
            match name {
                GeneralName::URI(uri) => facts.uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => facts.dns_names.push((*name).to_owned()),
                _ => {}
            }
        }
    }
    facts.digest = digest(der);
    Some(Arc::new(facts))
}

/// SHA-256 in hexadecimal digits.
fn digest(der: &[u8]) -> String {
    let SupportedCipherSuite::Tls13(suite) = TLS13_AES_128_GCM_SHA256 else {
        return String::new();
    };
    let hash = suite.common.hash_provider.hash(der);
    hash.as_ref().iter().fold(String::new(), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}

/// A name as RFC 2253 writes it: its last part first.
fn subject(name: &X509Name<'_>) -> String {
    let parts: Vec<String> = name
        .iter()
        .map(|part| {
            let pairs: Vec<String> = part.iter().map(pair).collect();
            pairs.join("+")
        })
        .collect();
    let parts: Vec<&str> = parts.iter().rev().map(String::as_str).collect();
    parts.join(",")
}

fn pair(pair: &AttributeTypeAndValue<'_>) -> String {
    let oid = pair.attr_type().to_id_string();
    let name = NAMES.iter().find(|(known, _)| *known == oid);
    match (name, pair.as_str()) {
        (Some((_, name)), Ok(value)) => format!("{name}={}", escaped(value)),
        // What has no name is written as the bytes that it is.
        _ => {
            let value = pair.attr_value();
            let mut text = format!("{oid}=#");
            _ = write!(text, "{:02X}{:02X}", value.header.tag().0, value.data.len());
            for byte in value.data {
                _ = write!(text, "{byte:02X}");
            }
            text
        }
    }
}

/// Parts of names that are written by a name.
const NAMES: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.42", "GN"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// A value with what means something else escaped (RFC 2253 §2.4), and bytes that are no printable ASCII as well.
fn escaped(value: &str) -> String {
    let bytes = value.as_bytes();
    let last = bytes.len().saturating_sub(1);
    let mut text = String::with_capacity(bytes.len());
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                text.push('\\');
                text.push(char::from(*byte));
            }
            b'#' if at == 0 => text.push_str("\\#"),
            b' ' if at == 0 || at == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(*byte)),
            byte => _ = write!(text, "\\{byte:02X}"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{CertificateDer, pem::PemObject};

    use super::*;

    const SPIFFE: &[u8] = include_bytes!("../../../../tests/tls/spiffe.pem");

    #[test]
    fn facts_of_a_certificate() {
        let der = CertificateDer::from_pem_slice(SPIFFE).unwrap();
        let facts = facts(&der).unwrap();
        assert_eq!(facts.uris, ["spiffe://a.example/processor"]);
        assert!(facts.dns_names.is_empty());
        assert_eq!(facts.digest.len(), 64);
        assert!(super::facts(b"none").is_none());
    }

    #[test]
    fn values_are_escaped() {
        for (value, expected) in [
            ("plain name", "plain name"),
            (" a,b ", r"\ a\,b\ "),
            ("#1+2", r"\#1\+2"),
            ("a=b", "a=b"),
            ("é", r"\C3\A9"),
            ("a\"b\\", r#"a\"b\\"#),
        ] {
            assert_eq!(escaped(value), expected);
        }
    }
}
