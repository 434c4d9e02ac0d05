//! TLS to the endpoints of a cluster, and to clients.

use serde::Deserialize;

use super::{
    any::unsupported,
    data::DataSource,
    listener::TransportSocket,
    value::{Enum, ProtoEnum},
};
use crate::config::{
    document::{Fault, Located, Reader},
    snapshot::{Certificate, ClientValidation, DownstreamTls, UpstreamTls},
};

const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const DOWNSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";

/// `envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct UpstreamTlsContext {
    common_tls_context: CommonTlsContext,
    sni: String,
}

/// `envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DownstreamTlsContext {
    common_tls_context: CommonTlsContext,
    require_client_certificate: Option<bool>,
}

/// `envoy.extensions.transport_sockets.tls.v3.TlsParameters`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TlsParameters {
    tls_minimum_protocol_version: Enum<Version>,
    tls_maximum_protocol_version: Enum<Version>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Version {
    #[default]
    Auto,
    Tls12,
    Tls13,
}

impl ProtoEnum for Version {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("TLS_AUTO", 0, Ok(Self::Auto)),
        ("TLSv1_0", 1, Err("TLS 1.2 is the oldest version supported")),
        ("TLSv1_1", 2, Err("TLS 1.2 is the oldest version supported")),
        ("TLSv1_2", 3, Ok(Self::Tls12)),
        ("TLSv1_3", 4, Ok(Self::Tls13)),
    ];
}

/// `envoy.extensions.transport_sockets.tls.v3.CommonTlsContext`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CommonTlsContext {
    tls_params: Option<Located<TlsParameters>>,
    tls_certificates: Vec<Located<TlsCertificate>>,
    validation_context: Option<Located<CertificateValidationContext>>,
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

    /// The TLS settings towards clients; `None` for bare connections.
    pub(super) fn downstream(&self, reader: &Reader<'_>) -> Result<Option<DownstreamTls>, Fault> {
        let Some(tree) = &self.typed_config else {
            return Ok(None);
        };
        match reader.type_of(tree.node)? {
            RAW_BUFFER => Ok(None),
            DOWNSTREAM => reader
                .read_typed::<Located<DownstreamTlsContext>>(tree.node)?
                .build(reader)
                .map(Some),
            other => Err(unsupported(tree.node, other, &[DOWNSTREAM, RAW_BUFFER])),
        }
    }
}

impl Located<DownstreamTlsContext> {
    fn build(&self, reader: &Reader<'_>) -> Result<DownstreamTls, Fault> {
        let common = &self.value.common_tls_context;
        if common.tls_certificates.is_empty() {
            return Err(Fault::at(self.node, "tls_certificates may not be empty"));
        }
        let certificates = common
            .tls_certificates
            .iter()
            .map(|certificate| {
                Ok(Certificate {
                    chain: certificate.value.certificate_chain.load(reader)?,
                    key: certificate.value.private_key.load(reader)?,
                })
            })
            .collect::<Result<_, Fault>>()?;
        let required = self.value.require_client_certificate.unwrap_or_default();
        let client = match &common.validation_context {
            None if required => {
                return Err(Fault::at(
                    self.node,
                    "require_client_certificate needs a validation_context with a trusted_ca",
                ));
            }
            None => None,
            Some(context) => Some(context.of_clients(required, reader)?),
        };
        let (tls12_only, tls13_only) = match &common.tls_params {
            None => (false, false),
            Some(given) => {
                let Enum(least) = given.value.tls_minimum_protocol_version;
                let Enum(most) = given.value.tls_maximum_protocol_version;
                if (least, most) == (Version::Tls13, Version::Tls12) {
                    return Err(Fault::at(given.node, "no version lies in this range"));
                }
                (most == Version::Tls12, least == Version::Tls13)
            }
        };
        Ok(DownstreamTls {
            certificates,
            alpn: common.alpn_protocols.clone(),
            client,
            tls13_only,
            tls12_only,
        })
    }
}

impl Located<CertificateValidationContext> {
    fn of_clients(&self, required: bool, reader: &Reader<'_>) -> Result<ClientValidation, Fault> {
        let context = &self.value;
        if context.trust_chain_verification.0 == Verification::AcceptUntrusted {
            return Err(Fault::at(
                self.node,
                "ACCEPT_UNTRUSTED is not supported for certificates of clients",
            ));
        }
        if let Some(name) = context.match_typed_subject_alt_names.first() {
            return Err(Fault::at(
                name.node,
                "names of clients cannot be matched here",
            ));
        }
        if let Some(name) = context.match_subject_alt_names.first() {
            return Err(Fault::at(
                name.node,
                "names of clients cannot be matched here",
            ));
        }
        match &context.trusted_ca {
            Some(source) => Ok(ClientValidation {
                trusted_ca: source.load(reader)?,
                required,
            }),
            None => Err(Fault::at(self.node, "missing field \"trusted_ca\"")),
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
        if let Some(params) = &common.tls_params {
            reader.note(params.node, "has no effect in this gateway");
        }
        if let Some(Located {
            value: validation, ..
        }) = &common.validation_context
        {
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
