//! Fields in which proxies tell each other about a request: those that a client may send, and those that the gateway adds.

use std::net::{IpAddr, SocketAddr};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Version, header, request::Parts};
use rustls::pki_types::CertificateDer;

use super::{Context, sampling};
use crate::{
    config::snapshot::{
        ClientCertDetails, ForwardClientCert, HttpManager, NodeIdentity, SchemeHeader,
    },
    http::{
        headers::{REQUEST_ID, append_to_list, join_request_lines},
        random_id,
    },
};

/// The address from which a request came to the first gateway of one's own.
const EXTERNAL: &str = "x-envoy-external-address";

/// Fields by which programs inside a mesh steer retries and timeouts. They mean nothing here, and a
/// client must not pass them on to a proxy that they mean something to.
const CONTROLS: &[&str] = &[
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-internal",
    "x-envoy-ip-tags",
    "x-envoy-max-retries",
    "x-envoy-original-url",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
];

/// Fields that no client may send to the first gateway of one's own (`use_remote_address`).
const NOT_FROM_OUTSIDE: &[&str] = &[
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-original-host",
    "x-envoy-original-path",
    EXTERNAL,
];

/// Facts of clients' certificates, one element for each proxy.
const CLIENT_CERT: &str = "x-forwarded-client-cert";

/// The element of `x-forwarded-client-cert` for the client's certificate.
fn certificate(context: &Context, details: ClientCertDetails) -> Option<String> {
    let tls = context.peer.tls.as_ref()?;
    let peer = tls.peer_certificate.as_ref()?;
    let mut parts = Vec::new();
    if let Some(own) = &tls.local_certificate {
        parts.extend(own.uris.iter().map(|uri| format!("By={uri}")));
    }
    parts.push(format!("Hash={}", peer.digest));
    if details.cert {
        let first = tls.peer_chain.get(..1).unwrap_or_default();
        parts.push(format!("Cert=\"{}\"", encoded_pem(first)));
    }
    if details.chain {
        parts.push(format!("Chain=\"{}\"", encoded_pem(&tls.peer_chain)));
    }
    if details.subject {
        parts.push(format!("Subject=\"{}\"", peer.subject));
    }
    if details.uri {
        match peer.uris.as_slice() {
            [] => parts.push("URI=".to_owned()),
            uris => parts.extend(uris.iter().map(|uri| format!("URI={uri}"))),
        }
    }
    if details.dns {
        parts.extend(peer.dns_names.iter().map(|name| format!("DNS={name}")));
    }
    // A name may hold what no field can: the element would be another one without it.
    let told = parts.join(";");
    HeaderValue::try_from(&told).is_ok().then_some(told)
}

/// Certificates as PEM, in which what would mean something in the field is percent-encoded.
fn encoded_pem(chain: &[CertificateDer<'_>]) -> String {
    const LINE: usize = 64;
    let mut text = String::new();
    for certificate in chain {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(certificate);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(LINE));
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text.replace('\n', "%0A")
        .replace(' ', "%20")
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D")
}

/// Takes out what a client may not say.
pub(super) fn clean(headers: &mut HeaderMap, edge: bool) {
    let found: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-envoy-"))
        .filter(|name| {
            CONTROLS.contains(&name.as_str()) || edge && NOT_FROM_OUTSIDE.contains(&name.as_str())
        })
        .cloned()
        .collect();
    for name in found {
        headers.remove(name);
    }
}

/// Adds what the gateway says of a request; after what the client sent was stripped. Returns the client's address: that of
/// the peer, or what the proxies in front say of it that are trusted.
pub(super) fn add(
    context: &Context,
    http: &HttpManager,
    parts: &mut Parts,
    version: Version,
) -> SocketAddr {
    const FOR: &str = "x-forwarded-for";
    const PORT: &str = "x-forwarded-port";
    const PROTO: &str = "x-forwarded-proto";
    let edge = http.use_remote_address;
    let proto = match context.peer.tls {
        Some(_) => HeaderValue::from_static("https"),
        None => HeaderValue::from_static("http"),
    };
    let headers = &mut parts.headers;
    let mutual = context.peer.tls.as_ref().is_some_and(|tls| tls.mutual);
    join_request_lines(headers, version == Version::HTTP_2);
    let told = match http.forward_client_cert {
        ForwardClientCert::AppendForward(details) | ForwardClientCert::SanitizeSet(details)
            if mutual =>
        {
            certificate(context, details)
        }
        _ => None,
    };
    match (http.forward_client_cert, told) {
        (ForwardClientCert::AlwaysForwardOnly, _) => {}
        (ForwardClientCert::ForwardOnly, _) if mutual => {}
        (ForwardClientCert::AppendForward(_), Some(told)) => {
            append_to_list(headers, CLIENT_CERT, ",", &told);
        }
        (ForwardClientCert::SanitizeSet(_), Some(told)) => {
            headers.remove(CLIENT_CERT);
            append_to_list(headers, CLIENT_CERT, ",", &told);
        }
        _ => {
            headers.remove(CLIENT_CERT);
        }
    }
    if !http.proxy_100_continue {
        headers.remove(header::EXPECT);
    }
    let remote = context.peer.remote;
    let mut client = remote;
    if edge {
        let hops = http.xff_num_trusted_hops;
        if let Some(said) = said_by(headers.get(FOR), hops) {
            client = SocketAddr::new(said, 0);
        }
        if !http.skip_xff_append {
            append_to_list(headers, FOR, ", ", &remote.ip().to_string());
        }
        if let Ok(address) = HeaderValue::try_from(client.ip().to_string()) {
            headers.insert(EXTERNAL, address);
        }
        if hops == 0 || !headers.contains_key(PROTO) {
            headers.insert(PROTO, proto);
        }
    } else if http.add_forwarded_proto && !headers.contains_key(PROTO) {
        headers.insert(PROTO, proto);
    }
    let is_told = (!edge || http.xff_num_trusted_hops > 0) && headers.contains_key(PORT);
    if http.append_x_forwarded_port && !is_told {
        headers.insert(PORT, context.peer.local.port().into());
    }
    if let SchemeHeader::Overwrite(scheme) = &http.scheme_header
        && let Ok(said) = HeaderValue::from_str(scheme.as_str())
    {
        headers.insert(PROTO, said);
    }
    if let Some(node) = &http.user_agent {
        tell_node(headers, node);
    }
    if http.generate_request_id {
        let is_kept = !edge || http.preserve_external_request_id;
        match is_kept && headers.contains_key(REQUEST_ID) {
            true if edge => sampling::clear(headers),
            true => {}
            false => {
                if let Ok(id) = HeaderValue::try_from(random_id()) {
                    headers.insert(REQUEST_ID, id);
                }
            }
        }
    }
    if !http.via.is_empty() {
        append_to_list(headers, "via", ", ", &http.via);
    }
    client
}

/// `add_user_agent`.
fn tell_node(headers: &mut HeaderMap, node: &NodeIdentity) {
    headers.insert("x-envoy-downstream-service-cluster", node.cluster.clone());
    if headers
        .get(header::USER_AGENT)
        .is_none_or(HeaderValue::is_empty)
    {
        headers.insert(header::USER_AGENT, node.cluster.clone());
    }
    if let Some(id) = &node.id {
        headers.insert("x-envoy-downstream-service-node", id.clone());
    }
}

/// The address that the farthest of this many trusted proxies adds to `x-forwarded-for`, counted from the right; `None` if
/// none is trusted, or the list is shorter than that.
fn said_by(list: Option<&HeaderValue>, hops: u32) -> Option<IpAddr> {
    let skipped = usize::try_from(hops.checked_sub(1)?).ok()?;
    let entry = list?.to_str().ok()?.rsplit(',').nth(skipped)?;
    let address: IpAddr = entry.trim().parse().ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trusted_hops_count_from_the_right() {
        let list = HeaderValue::from_static("9.9.9.9, 1.1.1.1,::2 , unknown");
        for (hops, said) in [
            (0, None),
            (1, None),
            (2, Some("::2")),
            (3, Some("1.1.1.1")),
            (4, Some("9.9.9.9")),
            (5, None),
        ] {
            let said = said.map(|said| said.parse().unwrap());
            assert_eq!(said_by(Some(&list), hops), said, "{hops}");
        }
        assert_eq!(said_by(None, 1), None);
        let mapped = HeaderValue::from_static("::ffff:10.0.0.1");
        let said = said_by(Some(&mapped), 1);
        assert_eq!(said, Some("10.0.0.1".parse().unwrap()));
    }
}
