//! Certificates that are served and trusted, for `/certs`.

use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use x509_parser::{
    extensions::GeneralName, parse_x509_certificate, prelude::X509Certificate, time::ASN1Time,
};

use crate::config::snapshot::{Snapshot, pem};

/// The certificates of one TLS context.
#[derive(Debug, Default)]
struct Context {
    authority: Vec<Certificate>,
    chain: Vec<Certificate>,
}

/// A certificate and the file that it comes from.
#[derive(Debug)]
struct Certificate {
    path: String,
    der: CertificateDer<'static>,
}

/// Certificates of all TLS contexts.
#[derive(Debug, Default)]
pub(super) struct Certificates(Vec<Context>);

impl Certificates {
    /// Those of clusters, then those of listeners.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let tls = snapshot.clusters.values();
        let clusters = tls
            .flat_map(|cluster| [&cluster.tls].into_iter().chain(&cluster.sockets))
            .flatten()
            .map(|tls| Context {
                authority: first(&tls.trusted_ca_path, tls.trusted_ca.as_deref()),
                chain: first(
                    &tls.identity_path,
                    tls.identity.as_ref().map(|(chain, _)| chain.as_slice()),
                ),
            });
        let chains = snapshot
            .listeners
            .iter()
            .flat_map(|listener| listener.all_chains());
        let listeners = chains.filter_map(|chain| chain.tls.as_ref()).map(|tls| {
            let client = tls.client.as_ref();
            let own = tls.certificates.iter();
            Context {
                authority: client
                    .map(|client| first(&client.path, Some(&client.trusted_ca)))
                    .unwrap_or_default(),
                chain: own
                    .flat_map(|own| first(&own.path, Some(&own.chain)))
                    .collect(),
            }
        });
        Self(clusters.chain(listeners).collect())
    }

    pub(super) fn json(&self) -> Value {
        let now = DateTime::<Utc>::from(SystemTime::now());
        let shown = |certificates: &[Certificate]| -> Value {
            let all = certificates.iter();
            all.map(|certificate| certificate.json(now)).collect()
        };
        let contexts = self.0.iter().map(|context| {
            json!({ "ca_cert": shown(&context.authority), "cert_chain": shown(&context.chain) })
        });
        json!({ "certificates": contexts.collect::<Vec<_>>() })
    }
}

/// The first certificate of a file, which is the one that Envoy shows.
fn first(path: &str, pem: Option<&[u8]>) -> Vec<Certificate> {
    let path = if path.is_empty() { "<inline>" } else { path };
    let all = pem.and_then(|pem| pem::certificates(pem).ok());
    let der = all.and_then(|all| all.into_iter().next());
    der.into_iter()
        .map(|der| Certificate {
            path: path.to_owned(),
            der,
        })
        .collect()
}

impl Certificate {
    fn json(&self, now: DateTime<Utc>) -> Value {
        let Ok((_, parsed)) = parse_x509_certificate(&self.der) else {
            return json!({ "path": self.path });
        };
        let (from, to) = (parsed.validity().not_before, parsed.validity().not_after);
        let left = to.timestamp().saturating_sub(now.timestamp()).max(0) / (24 * 60 * 60);
        json!({
            "path": self.path,
            "serial_number": serial(&parsed),
            "subject_alt_names": names(&parsed),
            "days_until_expiration": left.to_string(),
            "valid_from": time(from),
            "expiration_time": time(to),
        })
    }
}

fn serial(certificate: &X509Certificate<'_>) -> String {
    let bytes = certificate.raw_serial();
    // A zero before what would be a sign.
    let bytes = match bytes {
        [0, rest @ ..] if !rest.is_empty() => rest,
        bytes => bytes,
    };
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Names of hosts, then URIs, then addresses, as in Envoy.
fn names(certificate: &X509Certificate<'_>) -> Vec<Value> {
    let given = certificate.subject_alternative_name().ok().flatten();
    let given = given
        .map(|names| names.value.general_names.as_slice())
        .unwrap_or_default();
    let hosts = given.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(json!({ "dns": name })),
        _ => None,
    });
    let uris = given.iter().filter_map(|name| match name {
        GeneralName::URI(name) => Some(json!({ "uri": name })),
        _ => None,
    });
    let addresses = given.iter().filter_map(|name| match name {
        GeneralName::IPAddress(bytes) => Some(json!({ "ip_address": address(bytes)? })),
        _ => None,
    });
    hosts.chain(uris).chain(addresses).collect()
}

fn address(bytes: &[u8]) -> Option<String> {
    let four = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
    let six = || <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from);
    four.or_else(|_| six())
        .ok()
        .map(|address| address.to_string())
}

fn time(time: ASN1Time) -> String {
    let time = DateTime::from_timestamp(time.timestamp(), 0).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
