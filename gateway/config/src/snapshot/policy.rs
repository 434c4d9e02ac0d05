//! Policies of a route beside forwarding: copies of requests, and CORS.

use extproc_client::config::StringMatcher;

/// `envoy.config.route.v3.RouteAction.RequestMirrorPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The cluster that gets the copies; none are made if the snapshot lacks it.
    pub cluster: String,
    /// Share of the requests that is copied.
    pub fraction: Fraction,
    /// Append `-shadow` to the copy's host, as Envoy does unless `disable_shadow_host_suffix_append` is set.
    pub shadow_suffix: bool,
}

/// `envoy.type.v3.FractionalPercent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    /// Number of requests out of `denominator`.
    pub numerator: u32,
    /// Whole that `numerator` is a part of.
    pub denominator: u32,
}

impl Fraction {
    /// All of them.
    pub const ALL: Self = Self {
        numerator: 100,
        denominator: 100,
    };

    /// None of them.
    pub const NONE: Self = Self {
        numerator: 0,
        denominator: 100,
    };
}

/// `envoy.extensions.filters.http.cors.v3.CorsPolicy`.
#[derive(Clone, Debug)]
pub struct Cors {
    /// Origins that are allowed.
    pub allow_origins: Vec<StringMatcher>,
    /// `access-control-allow-methods` of a preflight's answer; left out if empty, as are those below.
    pub allow_methods: String,
    /// `access-control-allow-headers`.
    pub allow_headers: String,
    /// `access-control-expose-headers` of other responses.
    pub expose_headers: String,
    /// `access-control-max-age`, in seconds.
    pub max_age: String,
    /// `access-control-allow-credentials: true`.
    pub allow_credentials: bool,
    /// `access-control-allow-private-network: true` where a preflight asks for it.
    pub allow_private_network_access: bool,
    /// Let preflights of other origins pass, rather than answer them without a permission.
    pub forward_not_matching_preflights: bool,
    /// Answers a list that is `*` with the names that the preflight asks for, where credentials are allowed: browsers take the
    /// star for a name then (Fetch standard).
    pub echo_wildcards: bool,
}

impl Default for Cors {
    /// No origin is allowed.
    fn default() -> Self {
        Self {
            allow_origins: Vec::new(),
            allow_methods: String::new(),
            allow_headers: String::new(),
            expose_headers: String::new(),
            max_age: String::new(),
            allow_credentials: false,
            allow_private_network_access: false,
            forward_not_matching_preflights: true,
            echo_wildcards: false,
        }
    }
}

/// `strip_matching_host_port` and `strip_any_host_port`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StripPort {
    /// The port stays.
    #[default]
    No,
    /// It goes if it is the listener's.
    Matching,
    /// It goes.
    Any,
}
