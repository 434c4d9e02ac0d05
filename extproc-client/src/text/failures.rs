//! Envoy's words for upstreams that fail, in response code details and bodies of local replies.

/// Text of the local reply for an upstream that gave no response, for a reason such as `connection timeout`; `retried` if that was not
/// the first attempt.
pub fn no_response(reason: &str, retried: bool) -> String {
    let latest = if retried {
        "retried and the latest "
    } else {
        ""
    };
    format!(
        "upstream connect error or disconnect/reset before headers. {latest}reset reason: {reason}"
    )
}

/// Response code details for an upstream that gave no response. `cause` says more than the reason, such as what the system says.
pub fn details_before_response(reason: &str, cause: Option<&str>) -> String {
    let bar = if cause.is_some() { "|" } else { "" };
    let cause = cause.unwrap_or_default();
    without_space(format!(
        "upstream_reset_before_response_started{{{reason}{bar}{cause}}}"
    ))
}

/// Response code details for an upstream that was lost after its response had begun.
pub fn details_after_response(reason: &str) -> String {
    without_space(format!("upstream_reset_after_response_started{{{reason}}}"))
}

/// Access logs separate their fields by white space.
fn without_space(details: String) -> String {
    details.replace(char::is_whitespace, "_")
}
