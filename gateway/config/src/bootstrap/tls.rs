//! TLS to the endpoints of a cluster, and to clients.

use extproc_client::config::StringMatcher;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use serde_json::json;

use super::{
    any::unsupported,
    data::DataSource,
    listener::TransportSocket,
    secrets::{SdsSecretConfig, Secrets},
    value::{Enum, ProtoEnum, RegexText, Time},
};
use crate::{
    document::{Fault, Located, Reader, Subtree},
    snapshot::{
        Certificate, ClientValidation, DownstreamTls, NamePattern, SubjectAltName, UpstreamTls, pem,
    },
};

const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const DOWNSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";

/// `envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct UpstreamTlsContext {
    common_tls_context: CommonTlsContext,
    sni: Option<Located<String>>,
    auto_host_sni: bool,
    auto_sni_san_validation: Option<Located<bool>>,
}

/// `envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DownstreamTlsContext {
    common_tls_context: CommonTlsContext,
    require_client_certificate: Option<bool>,
    disable_stateless_session_resumption: bool,
    disable_stateful_session_resumption: bool,
    session_timeout: Option<Located<Time>>,
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
    tls_certificate_sds_secret_configs: Vec<Located<SdsSecretConfig>>,
    validation_context: Option<Located<CertificateValidationContext>>,
    validation_context_sds_secret_config: Option<Located<SdsSecretConfig>>,
    combined_validation_context: Option<Located<CombinedValidationContext>>,
    alpn_protocols: Vec<String>,
}

/// `envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CombinedValidationContext {
    default_validation_context: Option<Located<CertificateValidationContext>>,
    validation_context_sds_secret_config: Option<Located<SdsSecretConfig>>,
}

/// `envoy.extensions.transport_sockets.tls.v3.TlsCertificate`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct TlsCertificate {
    certificate_chain: Located<DataSource>,
    private_key: Located<DataSource>,
}

/// `envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CertificateValidationContext {
    trusted_ca: Option<Located<DataSource>>,
    system_root_certs: Option<Located<SystemRootCerts>>,
    match_typed_subject_alt_names: Vec<Located<SubjectAltNameMatcher>>,
    match_subject_alt_names: Vec<Located<NameMatcher>>,
    trust_chain_verification: Enum<Verification>,
}

/// `envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext.SystemRootCerts`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SystemRootCerts {}

/// `envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher`.
#[derive(Clone, Debug, Deserialize)]
struct SubjectAltNameMatcher {
    san_type: Enum<SanType>,
    matcher: Located<NameMatcher>,
}

/// `envoy.type.matcher.v3.StringMatcher` of a name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename = "SubjectAltNameStringMatcher")]
struct NameMatcher {
    exact: Option<String>,
    prefix: Option<String>,
    suffix: Option<String>,
    contains: Option<String>,
    safe_regex: Option<RegexText>,
    ignore_case: bool,
}

// There is no default: the field is required.
#[derive(Clone, Copy, Debug, Default)]
enum SanType {
    #[default]
    Dns,
    Uri,
    Ip,
}

impl ProtoEnum for SanType {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("SAN_TYPE_UNSPECIFIED", 0, Err("a type has to be chosen")),
        ("EMAIL", 1, Err("not supported")),
        ("DNS", 2, Ok(Self::Dns)),
        ("URI", 3, Ok(Self::Uri)),
        ("IP_ADDRESS", 4, Ok(Self::Ip)),
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

impl Located<TransportSocket> {
    /// The configuration, without which a socket has no type: as in Envoy, its name says nothing, not even that it is one without TLS.
    fn typed(&self) -> Result<&Subtree, Fault> {
        let tree = self.value.typed_config.as_ref();
        tree.ok_or_else(|| Fault::at(self.node, "missing field \"typed_config\""))
    }

    /// The TLS settings; `None` for a bare connection.
    pub(super) fn upstream(
        &self,
        reader: &Reader<'_>,
        secrets: &Secrets,
    ) -> Result<Option<UpstreamTls>, Fault> {
        let tree = self.typed()?;
        match reader.type_of(tree.node)? {
            RAW_BUFFER => Ok(None),
            TLS => reader
                .read_typed::<UpstreamTlsContext>(tree.node)?
                .build(reader, secrets)
                .map(Some),
            other => Err(unsupported(tree.node, other, &[TLS, RAW_BUFFER])),
        }
    }

    /// The TLS settings towards clients; `None` for bare connections.
    pub(super) fn downstream(
        &self,
        reader: &Reader<'_>,
        secrets: &Secrets,
    ) -> Result<Option<DownstreamTls>, Fault> {
        let tree = self.typed()?;
        match reader.type_of(tree.node)? {
            RAW_BUFFER => Ok(None),
            DOWNSTREAM => reader
                .read_typed::<Located<DownstreamTlsContext>>(tree.node)?
                .build(reader, secrets)
                .map(Some),
            other => Err(unsupported(tree.node, other, &[DOWNSTREAM, RAW_BUFFER])),
        }
    }
}

impl CommonTlsContext {
    /// The certificates: those of secrets count where none stand here.
    fn certificates<'a>(
        &'a self,
        secrets: &'a Secrets,
    ) -> Result<Vec<&'a Located<TlsCertificate>>, Fault> {
        if !self.tls_certificates.is_empty() {
            return Ok(self.tls_certificates.iter().collect());
        }
        let named = self.tls_certificate_sds_secret_configs.iter();
        named.map(|named| secrets.certificate(named)).collect()
    }

    /// Reads the requirements on certificates of peers. A secret is merged with the default context; its own fields win.
    fn validation(
        &self,
        secrets: &Secrets,
    ) -> Result<Option<Located<CertificateValidationContext>>, Fault> {
        let written = [
            self.validation_context.as_ref().map(|context| context.node),
            self.validation_context_sds_secret_config
                .as_ref()
                .map(|secret| secret.node),
            self.combined_validation_context
                .as_ref()
                .map(|combined| combined.node),
        ];
        if let Some(second) = written.into_iter().flatten().nth(1) {
            return Err(Fault::at(
                second,
                "only one of validation_context, validation_context_sds_secret_config and combined_validation_context may be set",
            ));
        }
        if let Some(named) = &self.validation_context_sds_secret_config {
            return secrets.validation(named).cloned().map(Some);
        }
        let Some(combined) = &self.combined_validation_context else {
            return Ok(self.validation_context.clone());
        };
        match &combined.value {
            CombinedValidationContext {
                default_validation_context: Some(default),
                validation_context_sds_secret_config: Some(named),
            } => {
                let mut context = default.clone();
                context.value.merge(&secrets.validation(named)?.value);
                Ok(Some(context))
            }
            _ => Err(Fault::at(
                combined.node,
                "default_validation_context and validation_context_sds_secret_config have to be set",
            )),
        }
    }
}

impl CertificateValidationContext {
    /// Adds what another one says, as `MergeFrom` of protobuf does.
    fn merge(&mut self, other: &Self) {
        let Self {
            trusted_ca,
            system_root_certs,
            match_typed_subject_alt_names,
            match_subject_alt_names,
            trust_chain_verification,
        } = other.clone();
        self.trusted_ca = trusted_ca.or_else(|| self.trusted_ca.take());
        self.system_root_certs = system_root_certs.or_else(|| self.system_root_certs.take());
        self.match_typed_subject_alt_names
            .extend(match_typed_subject_alt_names);
        self.match_subject_alt_names.extend(match_subject_alt_names);
        if trust_chain_verification.0 != Verification::TrustChain {
            self.trust_chain_verification = trust_chain_verification;
        }
    }
}

impl Located<DownstreamTlsContext> {
    fn build(&self, reader: &Reader<'_>, secrets: &Secrets) -> Result<DownstreamTls, Fault> {
        let common = &self.value.common_tls_context;
        let certificates = common.certificates(secrets)?;
        if certificates.is_empty() {
            return Err(Fault::at(self.node, "tls_certificates may not be empty"));
        }
        let certificates = certificates
            .iter()
            .map(|certificate| certificate.value.load(reader))
            .collect::<Result<_, Fault>>()?;
        let required = self.value.require_client_certificate.unwrap_or_default();
        let client = match common.validation(secrets)? {
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
            no_tickets: self.value.disable_stateless_session_resumption,
            no_session_ids: self.value.disable_stateful_session_resumption,
            session_timeout: match &self.value.session_timeout {
                Some(time) if time.value.0.as_secs() > u32::MAX.into() => {
                    return Err(Fault::at(time.node, "has to be shorter than 4294967296s"));
                }
                // Less than a second is none for Envoy's TLS library.
                given => given
                    .as_ref()
                    .map(|time| time.value.0)
                    .filter(|time| time.as_secs() > 0),
            },
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
        let roots = self.roots(reader)?;
        let names = self.names(roots.is_some())?;
        match roots {
            Some(trusted_ca) => Ok(ClientValidation {
                trusted_ca,
                path: self.path(),
                // As in Envoy, a client without a certificate bears no name.
                required: required || !names.is_empty(),
                names,
            }),
            None => Err(Fault::at(self.node, "missing field \"trusted_ca\"")),
        }
    }

    /// The file of what is trusted.
    fn path(&self) -> String {
        let source = self.value.trusted_ca.as_ref();
        source.map(Located::<DataSource>::path).unwrap_or_default()
    }

    /// Reads the trusted roots: the system's only where nothing else is named.
    fn roots(&self, reader: &Reader<'_>) -> Result<Option<Vec<u8>>, Fault> {
        let context = &self.value;
        match (&context.trusted_ca, &context.system_root_certs) {
            (Some(source), _) => source.roots(reader).map(Some),
            (None, Some(system)) => match pem::system_roots() {
                Ok(roots) => Ok(Some(roots.to_owned())),
                Err(message) => Err(Fault::at(system.node, message)),
            },
            (None, None) => Ok(None),
        }
    }
}

impl TlsCertificate {
    /// The pair, which can be used.
    fn load(&self, reader: &Reader<'_>) -> Result<Certificate, Fault> {
        let bad = |source: &Located<DataSource>| {
            let node = source.node;
            move |message: String| Fault::at(node, message)
        };
        let chain = self.certificate_chain.load(reader)?;
        let key = self.private_key.load(reader)?;
        let certificates = pem::certificates(&chain).map_err(bad(&self.certificate_chain))?;
        let private = pem::key(&key).map_err(bad(&self.private_key))?;
        pem::certified(certificates, private).map_err(bad(&self.private_key))?;
        Ok(Certificate {
            chain,
            key,
            path: self.certificate_chain.path(),
        })
    }
}

impl Located<DataSource> {
    /// Certificates that can be trusted.
    fn roots(&self, reader: &Reader<'_>) -> Result<Vec<u8>, Fault> {
        let pem = self.load(reader)?;
        pem::roots(&pem).map_err(|message| Fault::at(self.node, message))?;
        Ok(pem)
    }
}

impl Located<NameMatcher> {
    /// Adds the names of this type; without a type, of each that it could be of.
    fn names(&self, kind: Option<SanType>, all: &mut Vec<SubjectAltName>) -> Result<(), Fault> {
        let Some(exact) = &self.value.exact else {
            let pattern = self.pattern()?;
            if let Some(SanType::Ip) = kind {
                return Err(Fault::at(
                    self.node,
                    "only exact IP addresses are supported",
                ));
            }
            if !matches!(kind, Some(SanType::Uri)) {
                all.push(SubjectAltName::DnsLike(pattern.clone()));
            }
            if !matches!(kind, Some(SanType::Dns)) {
                all.push(SubjectAltName::UriLike(pattern));
            }
            return Ok(());
        };
        let uri = || match self.value.ignore_case {
            false => Ok(SubjectAltName::Uri(exact.clone())),
            true => self.pattern().map(SubjectAltName::UriLike),
        };
        all.push(match (kind, ServerName::try_from(exact.clone())) {
            (None | Some(SanType::Dns), Ok(name @ ServerName::DnsName(_)))
            | (None | Some(SanType::Ip), Ok(name @ ServerName::IpAddress(_))) => {
                SubjectAltName::Server(name)
            }
            (None | Some(SanType::Uri), _) => uri()?,
            (Some(SanType::Dns), _) => {
                return Err(Fault::at(self.node, format!("{exact:?} is no DNS name")));
            }
            (Some(SanType::Ip), _) => {
                return Err(Fault::at(self.node, format!("{exact:?} is no IP address")));
            }
        });
        Ok(())
    }

    fn pattern(&self) -> Result<NamePattern, Fault> {
        let NameMatcher {
            exact,
            prefix,
            suffix,
            contains,
            safe_regex,
            ignore_case,
        } = &self.value;
        let text =
            |name: &str, text: &Option<String>| text.as_ref().map(|text| json!({ name: text }));
        let regex = safe_regex.as_ref();
        let mut given = [
            text("exact", exact),
            text("prefix", prefix),
            text("suffix", suffix),
            text("contains", contains),
            regex.map(|regex| json!({ "safe_regex": { "regex": regex.0 } })),
        ]
        .into_iter()
        .flatten();
        let (Some(mut form), None) = (given.next(), given.next()) else {
            return Err(Fault::at(self.node, "one and only one form has to be set"));
        };
        if let (true, Some(form)) = (*ignore_case, form.as_object_mut()) {
            form.insert("ignore_case".into(), true.into());
        }
        let text = form.to_string();
        let matcher = StringMatcher::deserialize(form)
            .map_err(|error| Fault::at(self.node, error.to_string()))?;
        Ok(NamePattern::new(matcher, text))
    }
}

impl Located<CertificateValidationContext> {
    /// Names of which a certificate has to bear one. `trusts` says that there is something to verify it by.
    fn names(&self, trusts: bool) -> Result<Vec<SubjectAltName>, Fault> {
        let context = &self.value;
        let mut names = Vec::new();
        let typed = context
            .match_typed_subject_alt_names
            .iter()
            .map(|name| (&name.value.matcher, Some(name.value.san_type.0)));
        let untyped = context.match_subject_alt_names.iter();
        for (matcher, kind) in untyped.map(|matcher| (matcher, None)).chain(typed) {
            if !trusts {
                // A name that anybody can write into a certificate says nothing. Envoy refuses it too.
                return Err(Fault::at(
                    matcher.node,
                    "a name can only be verified with a trusted_ca",
                ));
            }
            matcher.names(kind, &mut names)?;
        }
        Ok(names)
    }

    /// Rules for certificates of servers.
    fn of_servers(&self, tls: &mut UpstreamTls, reader: &Reader<'_>) -> Result<(), Fault> {
        let context = &self.value;
        let roots = self.roots(reader)?;
        tls.subject_alt_names = self.names(roots.is_some())?;
        if context.trust_chain_verification.0 == Verification::TrustChain {
            tls.trusted_ca = roots;
            tls.trusted_ca_path = self.path();
        }
        Ok(())
    }
}

impl UpstreamTlsContext {
    fn build(&self, reader: &Reader<'_>, secrets: &Secrets) -> Result<UpstreamTls, Fault> {
        let common = &self.common_tls_context;
        let validation = common.validation(secrets)?;
        let mut identity_path = String::new();
        let identity = match common.certificates(secrets)?.as_slice() {
            [] => None,
            [certificate] => {
                let Certificate { chain, key, path } = certificate.value.load(reader)?;
                identity_path = path;
                Some((chain, key))
            }
            [_, second, ..] => {
                return Err(Fault::at(second.node, "only one certificate is supported"));
            }
        };
        let sni = match &self.sni {
            Some(sni) if !sni.value.is_empty() => {
                let name = ServerName::try_from(sni.value.clone());
                Some(name.map_err(|_| {
                    Fault::at(sni.node, format!("{:?} is no server name", sni.value))
                })?)
            }
            _ => None,
        };
        let mut tls = UpstreamTls {
            sni,
            endpoint_name: self.auto_host_sni,
            identity,
            identity_path,
            alpn: common.alpn_protocols.clone(),
            ..UpstreamTls::default()
        };
        if let Some(params) = &common.tls_params {
            reader.note(params.node, "has no effect in this gateway");
        }
        if let Some(context) = &validation {
            context.of_servers(&mut tls, reader)?;
        }
        match &self.auto_sni_san_validation {
            Some(auto) if auto.value && validation.is_none() => {
                return Err(Fault::at(auto.node, "needs a validation_context"));
            }
            // The server name takes the place of the names given, which is what no names mean.
            Some(auto) if auto.value => tls.subject_alt_names.clear(),
            _ => {}
        }
        Ok(tls)
    }
}
