//! TLS to the endpoints of a cluster.

use serde::Deserialize;

use super::{
    any::unsupported,
    data::DataSource,
    listener::TransportSocket,
    value::{Enum, ProtoEnum},
};
use crate::config::{
    document::{Fault, Located, Reader},
    snapshot::UpstreamTls,
};

const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// `envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct UpstreamTlsContext {
    common_tls_context: CommonTlsContext,
    sni: String,
}

/// `envoy.extensions.transport_sockets.tls.v3.CommonTlsContext`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CommonTlsContext {
    tls_certificates: Vec<Located<TlsCertificate>>,
    validation_context: Option<CertificateValidationContext>,
    alpn_protocols: Vec<String>,
}

/// `envoy.extensions.transport_sockets.tls.v3.TlsCertificate`.
#[derive(Debug, Deserialize)]
struct TlsCertificate {
    certificate_chain: Located<DataSource>,
    private_key: Located<DataSource>,
}

/// `envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CertificateValidationContext {
    trusted_ca: Option<Located<DataSource>>,
    match_typed_subject_alt_names: Vec<Located<SubjectAltNameMatcher>>,
    match_subject_alt_names: Vec<Located<ExactMatcher>>,
    trust_chain_verification: Enum<Verification>,
}

/// `envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher`.
#[derive(Debug, Deserialize)]
struct SubjectAltNameMatcher {
    #[serde(default)]
    san_type: Enum<SanType>,
    matcher: Located<ExactMatcher>,
}

/// A `StringMatcher` of which only exact ones can be used here.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "SubjectAltNameStringMatcher")]
struct ExactMatcher {
    exact: Option<String>,
}

#[derive(Clone, Copy, Debug, Default)]
struct SanType;

impl ProtoEnum for SanType {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("SAN_TYPE_UNSPECIFIED", 0, Ok(Self)),
        ("EMAIL", 1, Err("not supported")),
        ("DNS", 2, Ok(Self)),
        ("URI", 3, Ok(Self)),
        ("IP_ADDRESS", 4, Ok(Self)),
        ("OTHER_NAME", 5, Err("not supported")),
    ];
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Verification {
    #[default]
    TrustChain,
    AcceptUntrusted,
}

impl ProtoEnum for Verification {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("VERIFY_TRUST_CHAIN", 0, Ok(Self::TrustChain)),
        ("ACCEPT_UNTRUSTED", 1, Ok(Self::AcceptUntrusted)),
    ];
}

impl TransportSocket {
    /// The TLS settings; `None` for a bare connection.
    pub(super) fn upstream(&self, reader: &Reader<'_>) -> Result<Option<UpstreamTls>, Fault> {
        let Some(tree) = &self.typed_config else {
            return Ok(None);
        };
        match reader.type_of(tree.node)? {
            RAW_BUFFER => Ok(None),
            TLS => reader
                .read_typed::<UpstreamTlsContext>(tree.node)?
                .build(reader)
                .map(Some),
            other => Err(unsupported(tree.node, other, &[TLS, RAW_BUFFER])),
        }
    }
}

impl UpstreamTlsContext {
    fn build(&self, reader: &Reader<'_>) -> Result<UpstreamTls, Fault> {
        let common = &self.common_tls_context;
        let identity = match common.tls_certificates.as_slice() {
            [] => None,
            [certificate] => Some((
                certificate.value.certificate_chain.load(reader)?,
                certificate.value.private_key.load(reader)?,
            )),
            [_, second, ..] => {
                return Err(Fault::at(second.node, "only one certificate is supported"));
            }
        };
        let mut tls = UpstreamTls {
            sni: self.sni.clone(),
            identity,
            alpn: common.alpn_protocols.clone(),
            ..UpstreamTls::default()
        };
        if let Some(validation) = &common.validation_context {
            if validation.trust_chain_verification.0 == Verification::TrustChain {
                tls.trusted_ca = validation
                    .trusted_ca
                    .as_ref()
                    .map(|source| source.load(reader))
                    .transpose()?;
            }
            let typed = validation.match_typed_subject_alt_names.iter().map(|name| {
                let Enum(SanType) = name.value.san_type;
                &name.value.matcher
            });
            for matcher in validation.match_subject_alt_names.iter().chain(typed) {
                match &matcher.value.exact {
                    Some(name) => tls.subject_alt_names.push(name.clone()),
                    None => {
                        return Err(Fault::at(matcher.node, "only exact names are supported"));
                    }
                }
            }
        }
        Ok(tls)
    }
}
