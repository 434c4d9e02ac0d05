//! Response flags by name.

/// Short and long names of response flags, by bit.
#[rustfmt::skip]
pub const RESPONSE_FLAGS: &[(&str, &str)] = &[
    ("LH", "FailedLocalHealthCheck"), ("UH", "NoHealthyUpstream"),
    ("UT", "UpstreamRequestTimeout"), ("LR", "LocalReset"), ("UR", "UpstreamRemoteReset"),
    ("UF", "UpstreamConnectionFailure"), ("UC", "UpstreamConnectionTermination"),
    ("UO", "UpstreamOverflow"), ("NR", "NoRouteFound"), ("DI", "DelayInjected"),
    ("FI", "FaultInjected"), ("RL", "RateLimited"), ("UAEX", "UnauthorizedExternalService"),
    ("RLSE", "RateLimitServiceError"), ("DC", "DownstreamConnectionTermination"),
    ("URX", "UpstreamRetryLimitExceeded"), ("SI", "StreamIdleTimeout"),
    ("IH", "InvalidEnvoyRequestHeaders"), ("DPE", "DownstreamProtocolError"),
    ("UMSDR", "UpstreamMaxStreamDurationReached"), ("RFCF", "ResponseFromCacheFilter"),
    ("NFCF", "NoFilterConfigFound"), ("DT", "DurationTimeout"), ("UPE", "UpstreamProtocolError"),
    ("NC", "NoClusterFound"), ("OM", "OverloadManagerTerminated"), ("DF", "DnsResolutionFailed"),
    ("DO", "DropOverload"), ("DR", "DownstreamRemoteReset"),
    ("UDO", "UnconditionalDropOverload"),
];

/// The bit of a response flag by its short name.
pub fn response_flag(short: &str) -> Option<u64> {
    let at = RESPONSE_FLAGS.iter().position(|(name, _)| *name == short)?;
    Some(1 << at)
}

/// Bits of the response flags that the gateway sets.
pub mod flag {
    /// `UH`: NoHealthyUpstream.
    pub const NO_HEALTHY_UPSTREAM: u64 = 1 << 1;
    /// `UT`: UpstreamRequestTimeout.
    pub const UPSTREAM_REQUEST_TIMEOUT: u64 = 1 << 2;
    /// `UR`: UpstreamRemoteReset.
    pub const UPSTREAM_REMOTE_RESET: u64 = 1 << 4;
    /// `UF`: UpstreamConnectionFailure.
    pub const UPSTREAM_CONNECTION_FAILURE: u64 = 1 << 5;
    /// `UC`: UpstreamConnectionTermination.
    pub const UPSTREAM_CONNECTION_TERMINATION: u64 = 1 << 6;
    /// `UO`: UpstreamOverflow.
    pub const UPSTREAM_OVERFLOW: u64 = 1 << 7;
    /// `NR`: NoRouteFound.
    pub const NO_ROUTE_FOUND: u64 = 1 << 8;
    /// `RL`: RateLimited.
    pub const RATE_LIMITED: u64 = 1 << 11;
    /// `DC`: DownstreamConnectionTermination.
    pub const DOWNSTREAM_TERMINATION: u64 = 1 << 14;
    /// `URX`: UpstreamRetryLimitExceeded.
    pub const RETRY_LIMIT_EXCEEDED: u64 = 1 << 15;
    /// `SI`: StreamIdleTimeout.
    pub const STREAM_IDLE_TIMEOUT: u64 = 1 << 16;
    /// `DPE`: DownstreamProtocolError.
    pub const DOWNSTREAM_PROTOCOL_ERROR: u64 = 1 << 18;
    /// `UPE`: UpstreamProtocolError.
    pub const UPSTREAM_PROTOCOL_ERROR: u64 = 1 << 23;
    /// `NC`: NoClusterFound.
    pub const NO_CLUSTER_FOUND: u64 = 1 << 24;
    /// `OM`: OverloadManagerTerminated.
    pub const OVERLOAD_MANAGER: u64 = 1 << 25;
    /// `DR`: DownstreamRemoteReset.
    pub const DOWNSTREAM_REMOTE_RESET: u64 = 1 << 28;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_stand_at_their_names() {
        for (short, bit) in [
            ("UH", flag::NO_HEALTHY_UPSTREAM),
            ("UT", flag::UPSTREAM_REQUEST_TIMEOUT),
            ("UR", flag::UPSTREAM_REMOTE_RESET),
            ("UF", flag::UPSTREAM_CONNECTION_FAILURE),
            ("UC", flag::UPSTREAM_CONNECTION_TERMINATION),
            ("UO", flag::UPSTREAM_OVERFLOW),
            ("NR", flag::NO_ROUTE_FOUND),
            ("DC", flag::DOWNSTREAM_TERMINATION),
            ("URX", flag::RETRY_LIMIT_EXCEEDED),
            ("SI", flag::STREAM_IDLE_TIMEOUT),
            ("UPE", flag::UPSTREAM_PROTOCOL_ERROR),
            ("NC", flag::NO_CLUSTER_FOUND),
            ("OM", flag::OVERLOAD_MANAGER),
            ("DR", flag::DOWNSTREAM_REMOTE_RESET),
        ] {
            assert_eq!(response_flag(short), Some(bit));
        }
    }
}
