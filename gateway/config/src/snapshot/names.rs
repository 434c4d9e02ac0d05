//! Names that certificates bear.

use extproc_client::config::StringMatcher;
use rustls::{client::verify_server_name, pki_types::CertificateDer, server::ParsedCertificate};

use super::SubjectAltName;

/// A form of names, as they are written in certificates.
#[derive(Clone, Debug)]
pub struct NamePattern {
    matcher: StringMatcher,
    /// The matcher as it was read, by which two are told apart.
    text: String,
}

impl PartialEq for NamePattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for NamePattern {}

impl NamePattern {
    /// Makes a pattern of a matcher, which was read from `text`.
    pub fn new(matcher: StringMatcher, text: String) -> Self {
        Self { matcher, text }
    }
}

impl SubjectAltName {
    /// Returns true if a certificate bears the name. One that cannot be read bears none.
    pub fn is_borne_by(&self, certificate: &CertificateDer<'_>) -> bool {
        let parsed = || webpki::EndEntityCert::try_from(certificate).ok();
        match self {
            Self::Server(name) => ParsedCertificate::try_from(certificate)
                .is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok()),
            Self::Uri(uri) => {
                parsed().is_some_and(|own| own.valid_uri_names().any(|own| own == uri))
            }
            Self::DnsLike(pattern) => parsed().is_some_and(|own| {
                let mut names = own.valid_dns_names();
                names.any(|name| pattern.matcher.matches(name))
            }),
            Self::UriLike(pattern) => parsed().is_some_and(|own| {
                let mut names = own.valid_uri_names();
                names.any(|name| pattern.matcher.matches(name))
            }),
        }
    }
}
