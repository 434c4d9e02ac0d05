//! `proxy-status` (RFC 9209): what went wrong, for a client.

use extproc_client::host::ResponseFlags;
use http::{Response, StatusCode};

use crate::{
    config::snapshot::{ProxyStatus, response_flag},
    exchange::{operators, record::Reply},
    http::{body::Body, headers::append_to_list},
};

/// Errors of RFC 9209 §2.3 by short names of response flags, in the order in which Envoy looks for them, with the status
/// that is recommended for each.
#[rustfmt::skip]
const ERRORS: &[(&[&str], &str, Option<StatusCode>)] = &[
    (&["LH", "UH"], "destination_unavailable", Some(StatusCode::SERVICE_UNAVAILABLE)),
    (&["UT"], "http_response_timeout", Some(StatusCode::GATEWAY_TIMEOUT)),
    (&["LR"], "connection_timeout", Some(StatusCode::GATEWAY_TIMEOUT)),
    (&["UR"], "connection_terminated", Some(StatusCode::BAD_GATEWAY)),
    (&["UF"], "connection_refused", Some(StatusCode::BAD_GATEWAY)),
    (&["UC"], "connection_terminated", Some(StatusCode::BAD_GATEWAY)),
    (&["UO"], "connection_limit_reached", Some(StatusCode::SERVICE_UNAVAILABLE)),
    (&["NR"], "destination_not_found", Some(StatusCode::INTERNAL_SERVER_ERROR)),
    (&["RL", "RLSE"], "connection_limit_reached", Some(StatusCode::SERVICE_UNAVAILABLE)),
    (&["URX"], "destination_unavailable", Some(StatusCode::SERVICE_UNAVAILABLE)),
    (&["SI"], "http_response_timeout", Some(StatusCode::GATEWAY_TIMEOUT)),
    (&["IH", "DPE"], "http_request_error", None),
    (&["UMSDR"], "http_response_timeout", Some(StatusCode::GATEWAY_TIMEOUT)),
    (&["NFCF"], "proxy_configuration_error", Some(StatusCode::INTERNAL_SERVER_ERROR)),
    (&["UPE"], "http_protocol_error", Some(StatusCode::BAD_GATEWAY)),
    (&["NC"], "destination_unavailable", Some(StatusCode::SERVICE_UNAVAILABLE)),
    (&["DF"], "dns_error", Some(StatusCode::BAD_GATEWAY)),
];

/// Adds the field to a response with which something went wrong here.
pub(super) fn add(config: &ProxyStatus, response: &mut Response<Body>) {
    let flags = response.extensions().get::<ResponseFlags>();
    let flags = flags.map_or(0, |flags| flags.0);
    let is_set = |short: &&str| response_flag(short).is_some_and(|bit| flags & bit != 0);
    let found = ERRORS.iter().find(|(names, ..)| names.iter().any(is_set));
    let Some((_, error, recommended)) = found else {
        return;
    };
    let mut member = format!("{}; error={error}", config.name);
    if let Some(details) = Reply::details_of(response).filter(|_| config.details) {
        member.push_str("; details=\"");
        member.push_str(&details.0);
        if config.flags {
            member.push_str("; ");
            member.push_str(&operators::short_flags(flags));
        }
        member.push('"');
    }
    append_to_list(response.headers_mut(), "proxy-status", ", ", &member);
    if let Some(status) = recommended.filter(|_| config.recommended_status) {
        *response.status_mut() = status;
    }
}
