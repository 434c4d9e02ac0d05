//! The filter `cors` and its policies.

use extproc_client::config::StringMatcher;
use serde::Deserialize;

use super::fraction::RuntimeFraction;
use crate::snapshot::Cors as Model;

/// `envoy.extensions.filters.http.cors.v3.Cors`, which has no fields.
#[derive(Debug, Deserialize)]
pub(super) struct Cors {}

/// `envoy.extensions.filters.http.cors.v3.CorsPolicy`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CorsPolicy {
    allow_origin_string_match: Vec<StringMatcher>,
    allow_methods: String,
    allow_headers: String,
    expose_headers: String,
    max_age: String,
    allow_credentials: Option<bool>,
    filter_enabled: Option<RuntimeFraction>,
    allow_private_network_access: Option<bool>,
    forward_not_matching_preflights: Option<bool>,
}

impl CorsPolicy {
    /// The policy; `None` if it is switched off.
    pub(super) fn build(&self) -> Option<Model> {
        let off = self
            .filter_enabled
            .as_ref()
            .is_some_and(|enabled| enabled.build().numerator == 0);
        (!off).then(|| Model {
            allow_origins: self.allow_origin_string_match.clone(),
            allow_methods: self.allow_methods.clone(),
            allow_headers: self.allow_headers.clone(),
            expose_headers: self.expose_headers.clone(),
            max_age: self.max_age.clone(),
            allow_credentials: self.allow_credentials.unwrap_or_default(),
            allow_private_network_access: self.allow_private_network_access.unwrap_or_default(),
            forward_not_matching_preflights: self.forward_not_matching_preflights.unwrap_or(true),
            echo_wildcards: false,
        })
    }
}
