//! `InternalRedirectPolicy`: redirects that the gateway follows itself.

use http::StatusCode;
use serde::Deserialize;

use super::{any::unsupported, value::Name};
use crate::{
    document::{Fault, Located, Reader, Subtree},
    snapshot::{InternalRedirect, RedirectPredicate},
};

/// `envoy.config.route.v3.InternalRedirectPolicy`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct InternalRedirectPolicy {
    max_internal_redirects: Option<u32>,
    redirect_response_codes: Vec<u32>,
    predicates: Vec<Located<Predicate>>,
    allow_cross_scheme_redirect: bool,
    response_headers_to_copy: Vec<Located<Name>>,
}

/// `envoy.config.core.v3.TypedExtensionConfig` of a predicate.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Predicate {
    typed_config: Option<Subtree>,
}

/// `envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AllowListedRoutesConfig {
    allowed_route_names: Vec<String>,
}

/// A message without fields.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NoFields {}

const ALLOW_LISTED: &str =
    "envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig";
const PREVIOUS: &str = "envoy.extensions.internal_redirect.previous_routes.v3.PreviousRoutesConfig";
const SAFE_CROSS_SCHEME: &str =
    "envoy.extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig";

/// The statuses that can be asked for; others are passed over, as in Envoy.
const REDIRECTS: [StatusCode; 5] = [
    StatusCode::MOVED_PERMANENTLY,
    StatusCode::FOUND,
    StatusCode::SEE_OTHER,
    StatusCode::TEMPORARY_REDIRECT,
    StatusCode::PERMANENT_REDIRECT,
];

impl Located<InternalRedirectPolicy> {
    pub(super) fn build(&self, reader: &Reader<'_>) -> Result<InternalRedirect, Fault> {
        const MOST_CODES: usize = 5;
        let policy = &self.value;
        if policy.redirect_response_codes.len() > MOST_CODES {
            return Err(Fault::at(
                self.node,
                "redirect_response_codes may have at most 5 entries",
            ));
        }
        for header in &policy.response_headers_to_copy {
            // A pseudo-header has no name that could be read.
            if header.value.0 == http::header::HOST {
                return Err(Fault::at(header.node, "host may not be copied"));
            }
        }
        Ok(InternalRedirect {
            most: policy.max_internal_redirects.unwrap_or(1),
            codes: match policy.redirect_response_codes.as_slice() {
                [] => vec![StatusCode::FOUND],
                codes => REDIRECTS
                    .into_iter()
                    .filter(|code| codes.contains(&code.as_u16().into()))
                    .collect(),
            },
            cross_scheme: policy.allow_cross_scheme_redirect,
            copied: policy
                .response_headers_to_copy
                .iter()
                .map(|header| header.value.0.clone())
                .collect(),
            predicates: policy
                .predicates
                .iter()
                .map(|predicate| predicate.build(reader))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl Located<Predicate> {
    fn build(&self, reader: &Reader<'_>) -> Result<RedirectPredicate, Fault> {
        let Some(config) = &self.value.typed_config else {
            return Err(Fault::at(self.node, "missing field \"typed_config\""));
        };
        Ok(match reader.type_of(config.node)? {
            ALLOW_LISTED => {
                let config: AllowListedRoutesConfig = reader.read_typed(config.node)?;
                RedirectPredicate::AllowedRoutes(config.allowed_route_names)
            }
            PREVIOUS => {
                reader.read_typed::<NoFields>(config.node)?;
                RedirectPredicate::OtherRoutes
            }
            SAFE_CROSS_SCHEME => {
                reader.read_typed::<NoFields>(config.node)?;
                RedirectPredicate::SafeCrossScheme
            }
            other => {
                let known = [ALLOW_LISTED, PREVIOUS, SAFE_CROSS_SCHEME];
                return Err(unsupported(config.node, other, &known));
            }
        })
    }
}
