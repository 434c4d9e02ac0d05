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
