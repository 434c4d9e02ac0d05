//! Operators of templates: one table of their names, of what may stand beside them, and of those that have no value here.

/// Parts of an operator that may be given, as Envoy has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Syntax {
    /// The name alone.
    Bare,
    /// An argument may be given.
    May,
    /// An argument and a length may be given.
    MayCut,
    /// An argument has to be given.
    Needs,
    /// An argument has to be given, and a length may be.
    NeedsCut,
}

macro_rules! operators {
    ($($variant:ident $syntax:ident $($name:literal)|+,)*) => {
        /// A value of an exchange that a template shows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum FormatOperator {
            $($(#[doc = concat!("`%", $name, "%`")])+ $variant,)*
            /// One of Envoy's that has no value in this gateway, by its name.
            Absent(&'static str),
        }

        const TABLE: &[(&str, FormatOperator, Syntax)] =
            &[$($(($name, FormatOperator::$variant, Syntax::$syntax),)+)*];
    };
}

operators! {
    RequestHeader NeedsCut "REQ" | "REQUEST_HEADER",
    ResponseHeader NeedsCut "RESP" | "RESPONSE_HEADER",
    ResponseTrailer NeedsCut "TRAILER" | "RESPONSE_TRAILER",
    StartTime May "START_TIME" | "START_TIME_LOCAL",
    EmitTime May "EMIT_TIME",
    Duration Bare "DURATION",
    RequestDuration Bare "REQUEST_DURATION",
    RequestTxDuration Bare "REQUEST_TX_DURATION",
    ResponseDuration Bare "RESPONSE_DURATION",
    ResponseTxDuration Bare "RESPONSE_TX_DURATION",
    CommonDuration Needs "COMMON_DURATION",
    AccessLogType Bare "ACCESS_LOG_TYPE",
    UniqueId Bare "UNIQUE_ID",
    Hostname Bare "HOSTNAME",
    Environment NeedsCut "ENVIRONMENT",
    Path MayCut "PATH",
    QueryParam NeedsCut "QUERY_PARAM",
    QueryParams MayCut "QUERY_PARAMS",
    RequestHeadersBytes Bare "REQUEST_HEADERS_BYTES",
    ResponseHeadersBytes Bare "RESPONSE_HEADERS_BYTES",
    ResponseTrailersBytes Bare "RESPONSE_TRAILERS_BYTES",
    GrpcStatus May "GRPC_STATUS",
    GrpcStatusNumber Bare "GRPC_STATUS_NUMBER",
    BytesReceived Bare "BYTES_RECEIVED",
    BytesSent Bare "BYTES_SENT",
    Protocol Bare "PROTOCOL",
    ResponseCode Bare "RESPONSE_CODE",
    ResponseCodeDetails May "RESPONSE_CODE_DETAILS",
    ResponseFlags Bare "RESPONSE_FLAGS",
    ResponseFlagsLong Bare "RESPONSE_FLAGS_LONG",
    FilterChainName Bare "FILTER_CHAIN_NAME",
    RouteName Bare "ROUTE_NAME",
    UpstreamCluster Bare "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW",
    UpstreamHost Bare "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS",
    UpstreamIp May "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    UpstreamPort Bare "UPSTREAM_REMOTE_PORT",
    UpstreamLocalAddress Bare "UPSTREAM_LOCAL_ADDRESS",
    UpstreamLocalIp May "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    UpstreamLocalPort Bare "UPSTREAM_LOCAL_PORT",
    UpstreamProtocol Bare "UPSTREAM_PROTOCOL",
    UpstreamPoolReadyDuration Bare "UPSTREAM_CONNECTION_POOL_READY_DURATION",
    UpstreamTransportFailureReason Bare "UPSTREAM_TRANSPORT_FAILURE_REASON",
    UpstreamRequestAttemptCount Bare "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    RemoteAddress Bare "DOWNSTREAM_REMOTE_ADDRESS",
    RemoteIp May "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    RemotePort Bare "DOWNSTREAM_REMOTE_PORT",
    DirectRemoteAddress Bare "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    DirectRemoteIp May "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    DirectRemotePort Bare "DOWNSTREAM_DIRECT_REMOTE_PORT",
    LocalAddress Bare "DOWNSTREAM_LOCAL_ADDRESS" | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS",
    LocalIp May "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    LocalPort Bare "DOWNSTREAM_LOCAL_PORT",
    ConnectionId Bare "CONNECTION_ID",
    RequestedServerName Bare "REQUESTED_SERVER_NAME",
    TlsVersion Bare "DOWNSTREAM_TLS_VERSION",
    PeerSubject Bare "DOWNSTREAM_PEER_SUBJECT",
    PeerUris Bare "DOWNSTREAM_PEER_URI_SAN",
    PeerDnsNames Bare "DOWNSTREAM_PEER_DNS_SAN",
    PeerDigest Bare "DOWNSTREAM_PEER_FINGERPRINT_256",
    LocalSubject Bare "DOWNSTREAM_LOCAL_SUBJECT",
    LocalUris Bare "DOWNSTREAM_LOCAL_URI_SAN",
    LocalDnsNames Bare "DOWNSTREAM_LOCAL_DNS_SAN",
    DynamicMetadata NeedsCut "DYNAMIC_METADATA",
    ClusterMetadata Needs "CLUSTER_METADATA",
    UpstreamMetadata Needs "UPSTREAM_METADATA",
    Metadata NeedsCut "METADATA",
    FilterState NeedsCut "FILTER_STATE",
    Cel NeedsCut "CEL",
    TypedCel NeedsCut "TYPED_CEL",
    DownstreamWireBytesSent Bare "DOWNSTREAM_WIRE_BYTES_SENT",
    DownstreamHeaderBytesSent Bare "DOWNSTREAM_HEADER_BYTES_SENT",
    LocalReplyBody Bare "LOCAL_REPLY_BODY",
    Processor Bare "EXT_PROC",
    RequestHeaderWithoutQuery NeedsCut "REQ_WITHOUT_QUERY",
    VirtualHostName Bare "VIRTUAL_HOST_NAME",
}

/// Operators of Envoy 1.40 that have no value here.
const ABSENT: &[(Syntax, &[&str])] = &[
    (
        Syntax::Bare,
        &[
            "BYTES_RETRANSMITTED",
            "CONNECTION_TERMINATION_DETAILS",
            "CUSTOM_FLAGS",
            "DOWNSTREAM_DETECTED_CLOSE_TYPE",
            "DOWNSTREAM_DIRECT_LOCAL_PORT",
            "DOWNSTREAM_HANDSHAKE_DURATION",
            "DOWNSTREAM_HEADER_BYTES_RECEIVED",
            "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID",
            "DOWNSTREAM_LOCAL_CLOSE_REASON",
            "DOWNSTREAM_LOCAL_EMAIL_SAN",
            "DOWNSTREAM_LOCAL_IP_SAN",
            "DOWNSTREAM_LOCAL_OTHERNAME_SAN",
            "DOWNSTREAM_PEER_CERT",
            "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
            "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
            "DOWNSTREAM_PEER_CHAIN_SERIALS",
            "DOWNSTREAM_PEER_EMAIL_SAN",
            "DOWNSTREAM_PEER_FINGERPRINT_1",
            "DOWNSTREAM_PEER_IP_SAN",
            "DOWNSTREAM_PEER_ISSUER",
            "DOWNSTREAM_PEER_OTHERNAME_SAN",
            "DOWNSTREAM_PEER_SERIAL",
            "DOWNSTREAM_TLS_CIPHER",
            "DOWNSTREAM_TLS_SESSION_ID",
            "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
            "DOWNSTREAM_WIRE_BYTES_RECEIVED",
            "ROUNDTRIP_DURATION",
            "SPAN_ID",
            "STREAM_ID",
            "TLS_JA3_FINGERPRINT",
            "TLS_JA4_FINGERPRINT",
            "TRACE_ID",
            "UPSTREAM_CONNECTION_ID",
            "UPSTREAM_CONNECTION_IDS_ATTEMPTED",
            "UPSTREAM_DETECTED_CLOSE_TYPE",
            "UPSTREAM_HEADER_BYTES_RECEIVED",
            "UPSTREAM_HEADER_BYTES_SENT",
            "UPSTREAM_HOSTS_ATTEMPTED",
            "UPSTREAM_HOST_NAME",
            "UPSTREAM_HOST_NAMES_ATTEMPTED",
            "UPSTREAM_HOST_NAME_WITHOUT_PORT",
            "UPSTREAM_LOCAL_CLOSE_REASON",
            "UPSTREAM_LOCAL_DNS_SAN",
            "UPSTREAM_LOCAL_IP_SAN",
            "UPSTREAM_LOCAL_URI_SAN",
            "UPSTREAM_PEER_CERT",
            "UPSTREAM_PEER_DNS_SAN",
            "UPSTREAM_PEER_IP_SAN",
            "UPSTREAM_PEER_ISSUER",
            "UPSTREAM_PEER_SUBJECT",
            "UPSTREAM_PEER_URI_SAN",
            "UPSTREAM_TLS_CIPHER",
            "UPSTREAM_TLS_SESSION_ID",
            "UPSTREAM_TLS_VERSION",
            "UPSTREAM_WIRE_BYTES_RECEIVED",
            "UPSTREAM_WIRE_BYTES_SENT",
            "VIRTUAL_CLUSTER_NAME",
        ],
    ),
    (
        Syntax::May,
        &[
            "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT",
            "DOWNSTREAM_PEER_CERT_V_END",
            "DOWNSTREAM_PEER_CERT_V_START",
            "EMIT_TIME_LOCAL",
            "UPSTREAM_PEER_CERT_V_END",
            "UPSTREAM_PEER_CERT_V_START",
        ],
    ),
    (Syntax::NeedsCut, &["COALESCE", "UPSTREAM_FILTER_STATE"]),
];

impl FormatOperator {
    /// Finds an operator, and checks the argument and the length beside it.
    pub(super) fn read(name: &str, argument: &str, cut: bool) -> Result<Self, String> {
        let known = TABLE.iter().find(|(known, ..)| *known == name);
        let (operator, syntax) = match known {
            Some((_, operator, syntax)) => (*operator, *syntax),
            None => ABSENT
                .iter()
                .find_map(|(syntax, names)| {
                    let name = names.iter().find(|known| **known == name)?;
                    Some((Self::Absent(name), *syntax))
                })
                .ok_or_else(|| format!("%{name}% is an unknown operator"))?,
        };
        let (may, needs) = match syntax {
            Syntax::Bare => (false, false),
            Syntax::May | Syntax::MayCut => (true, false),
            Syntax::Needs | Syntax::NeedsCut => (true, true),
        };
        if argument.is_empty() && needs {
            return Err(format!("%{name}% needs an argument, as in %{name}(..)%"));
        }
        if !argument.is_empty() && !may {
            return Err(format!("%{name}% has no argument"));
        }
        if cut && !matches!(syntax, Syntax::MayCut | Syntax::NeedsCut) {
            return Err(format!("%{name}% may not be cut to a length"));
        }
        operator
            .check(argument)
            .map_err(|reason| format!("%{name}%: {reason}"))?;
        Ok(operator)
    }

    /// Tells whether Envoy has an operator of this name.
    pub fn exists(name: &str) -> bool {
        let absent = || ABSENT.iter().any(|(_, names)| names.contains(&name));
        TABLE.iter().any(|(known, ..)| *known == name) || absent()
    }

    /// Tells whether the value is one of the request's head.
    pub fn is_of_request(self) -> bool {
        matches!(
            self,
            Self::RequestHeader
                | Self::RequestHeaderWithoutQuery
                | Self::RequestHeadersBytes
                | Self::Path
                | Self::QueryParam
                | Self::QueryParams
                | Self::Cel
                | Self::TypedCel
        )
    }

    fn check(self, argument: &str) -> Result<(), String> {
        let parts: Vec<&str> = argument.split(':').collect();
        match (self, parts.as_slice()) {
            (Self::FilterState, ["", ..]) => Err("the key may not be empty".into()),
            (Self::FilterState, [_] | [_, "" | "PLAIN" | "TYPED"] | [_, "FIELD", _, ..])
            | (Self::CommonDuration, [_, _] | [_, _, "ms" | "us" | "ns"])
            | (Self::QueryParams, ["" | "ORIG" | "DECODED"])
            | (Self::GrpcStatus, ["" | "CAMEL_STRING" | "SNAKE_STRING" | "NUMBER"])
            | (
                Self::Path,
                ["" | "WQ" | "NQ"] | ["" | "WQ" | "NQ", "" | "ORIG" | "PATH" | "ORIG_OR_PATH"],
            )
            | (
                Self::Metadata,
                [
                    "DYNAMIC"
                    | "CLUSTER"
                    | "ROUTE"
                    | "UPSTREAM_HOST"
                    | "LISTENER"
                    | "LISTENER_FILTER_CHAIN"
                    | "VIRTUAL_HOST",
                    ..,
                ],
            ) => Ok(()),
            (Self::FilterState, _) => {
                Err("the key is followed by PLAIN, TYPED or FIELD:name, or by nothing".into())
            }
            (Self::CommonDuration, _) => {
                Err("takes two moments and ms, us or ns, as in (DS_RX_BEG:DS_TX_END:ms)".into())
            }
            (Self::QueryParams, _) => Err("takes ORIG or DECODED".into()),
            (Self::GrpcStatus, _) => Err("takes CAMEL_STRING, SNAKE_STRING or NUMBER".into()),
            (Self::Path, _) => Err("takes WQ or NQ, then ORIG, PATH or ORIG_OR_PATH".into()),
            (Self::Metadata, _) => Err(format!(
                "{} is no kind of metadata",
                parts.first().copied().unwrap_or_default()
            )),
            _ => Ok(()),
        }
    }
}
