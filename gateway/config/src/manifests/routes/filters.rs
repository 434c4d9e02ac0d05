//! HTTPRoute filters.

use std::sync::Arc;

use extproc_client::config::RegexSubstitution;
use http::{HeaderName, HeaderValue, StatusCode};

use super::{Match, cors};
use crate::{
    manifests::{
        compiled::Allowance,
        types::{
            Cors, FilterType, HeaderModifier, HttpRouteFilter, Listener, ObjectRef, PathModifier,
            PathModifierType, Protocol, RequestMirror, RequestRedirect, UrlRewrite,
        },
    },
    snapshot::{self, AppendAction, Fraction, HeaderChange, HeaderTemplate, Mirror, Redirect},
};

/// A pattern, and what takes the place of what matches.
pub(super) type PathRewrite = RegexSubstitution;

/// Result of the filters of a rule or backend.
#[derive(Default)]
pub(super) struct Filters {
    pub(super) request: Vec<HeaderChange>,
    pub(super) response: Vec<HeaderChange>,
    pub(super) effect: Effect,
    pub(super) mirrors: Vec<Mirror>,
    pub(super) cors: Option<Arc<snapshot::Cors>>,
}

/// Decision of the one filter that may change the request's target.
#[derive(Clone, Default)]
pub(super) enum Effect {
    #[default]
    Keep,
    Rewrite(UrlRewrite),
    Redirect(RequestRedirect),
}

impl Filters {
    /// Takes one filter. An error says why it cannot be done.
    pub(super) fn add(
        &mut self,
        spec: &HttpRouteFilter,
        resolve: &mut dyn FnMut(&ObjectRef) -> Option<String>,
    ) -> Result<(), String> {
        match &spec.kind {
            FilterType::RequestHeaderModifier => {
                let modifier = given(spec.request_header_modifier.as_ref())?;
                changes(modifier, &mut self.request)
            }
            FilterType::ResponseHeaderModifier => {
                let modifier = given(spec.response_header_modifier.as_ref())?;
                changes(modifier, &mut self.response)
            }
            FilterType::RequestRedirect => {
                self.effect = Effect::Redirect(given(spec.request_redirect.as_ref())?.clone());
                Ok(())
            }
            FilterType::UrlRewrite => {
                self.effect = Effect::Rewrite(given(spec.url_rewrite.as_ref())?.clone());
                Ok(())
            }
            FilterType::RequestMirror => {
                let spec = given(spec.request_mirror.as_ref())?;
                // Without a usable backend there are no copies; requests go on.
                self.mirrors
                    .extend(resolve(&spec.backend_ref).map(|cluster| Mirror {
                        cluster,
                        fraction: share(spec),
                        shadow_suffix: false,
                    }));
                Ok(())
            }
            FilterType::Cors => Err("the filter's own settings are missing".to_owned()),
            FilterType::Other(kind) => Err(format!("filter {kind} is not supported")),
        }
    }

    /// Takes a filter of kind `CORS`. An error says why it cannot be done.
    pub(super) fn add_cors(
        &mut self,
        spec: &Cors,
        allowance: &mut Allowance<'_>,
    ) -> Result<(), String> {
        self.cors = Some(Arc::new(cors::compile(spec, allowance)?));
        Ok(())
    }

    /// Returns how the path of requests with this match is rewritten, if it is.
    pub(super) fn path_rewrite(
        &self,
        matched: &Match,
        allowance: &mut Allowance<'_>,
    ) -> Result<Option<PathRewrite>, String> {
        let Effect::Rewrite(UrlRewrite {
            path: Some(path), ..
        }) = &self.effect
        else {
            return Ok(None);
        };
        let (pattern, with) = match replacement(path, matched) {
            Ok(with) => prefix_pattern(matched, with),
            Err(full) => ("^.*$".to_owned(), full),
        };
        // `$` would refer to a group.
        let with = with.replace('$', "$$");
        allowance.substitution(&pattern, &with).map(Some)
    }

    /// Returns whether headers are all that is changed.
    pub(super) fn only_headers(&self) -> bool {
        matches!(self.effect, Effect::Keep) && self.mirrors.is_empty() && self.cors.is_none()
    }
}

/// Share of the requests that is copied.
fn share(spec: &RequestMirror) -> Fraction {
    match (spec.percent, spec.fraction) {
        (Some(percent), _) => Fraction {
            numerator: percent,
            denominator: 100,
        },
        (None, Some(fraction)) => Fraction {
            numerator: fraction.numerator,
            denominator: fraction.denominator,
        },
        (None, None) => Fraction::ALL,
    }
}

fn given<T>(part: Option<&T>) -> Result<&T, String> {
    part.ok_or_else(|| "the filter's own settings are missing".to_owned())
}

fn changes(modifier: &HeaderModifier, into: &mut Vec<HeaderChange>) -> Result<(), String> {
    let name = |text: &str| {
        HeaderName::try_from(text).map_err(|_| format!("{text:?} is not a header name"))
    };
    let actions = [
        (&modifier.set, AppendAction::OverwriteIfExistsOrAdd),
        (&modifier.add, AppendAction::AppendIfExistsOrAdd),
    ];
    for (headers, action) in actions {
        for header in headers {
            let value = HeaderValue::try_from(header.value.as_str())
                .map_err(|_| format!("{:?} is not a header value", header.value))?;
            into.push(HeaderChange::Set {
                name: name(&header.name)?,
                // The value is no template here.
                value: HeaderTemplate::Plain(value),
                action,
                keep_empty: false,
            });
        }
    }
    for header in &modifier.remove {
        into.push(HeaderChange::Remove(name(header)?));
    }
    Ok(())
}

/// Returns the text in place of a matched prefix, which goes before the rest of the path: the rest begins with a slash or is
/// empty. `Err` is a whole path.
fn replacement(path: &PathModifier, matched: &Match) -> Result<String, String> {
    let full = || path.replace_full_path.clone().unwrap_or_default();
    match path.kind {
        PathModifierType::ReplaceFullPath => Err(full()),
        PathModifierType::ReplacePrefixMatch => match matched.prefix() {
            Some(_) => {
                let with = path.replace_prefix_match.as_deref().unwrap_or_default();
                Ok(with.trim_end_matches('/').to_owned())
            }
            // The API admits this modifier only beside a prefix.
            None => Err(path.replace_prefix_match.clone().unwrap_or_default()),
        },
    }
}

/// A pattern and its substitute, which put `with` in place of the matched prefix.
fn prefix_pattern(matched: &Match, with: String) -> (String, String) {
    let prefix = regex::escape(matched.prefix().unwrap_or_default());
    // What follows the prefix begins with one slash, even if it is empty and nothing else is left.
    match with.is_empty() {
        true => (format!("^{prefix}/*"), "/".to_owned()),
        false => (format!("^{prefix}"), with),
    }
}

/// The host that a rewrite gives requests.
pub(super) fn host_rewrite(spec: &UrlRewrite) -> Option<HeaderValue> {
    let host = spec.hostname.as_ref()?;
    HeaderValue::try_from(host.as_str()).ok()
}

/// A redirect as it is done behind a listener.
pub(super) fn redirect(spec: &RequestRedirect, matched: &Match, listener: &Listener) -> Redirect {
    let scheme = spec
        .scheme
        .as_ref()
        .map(|scheme| scheme.to_ascii_lowercase());
    let own = match listener.protocol {
        Protocol::Https => "https",
        _ => "http",
    };
    let effective = scheme.as_deref().unwrap_or(own);
    let well_known = |scheme: &str| match scheme {
        "https" => 443,
        _ => 80,
    };
    // Without a port of its own: the new scheme's, otherwise the listener's
    // (HTTPRequestRedirectFilter.port).
    let port = match (spec.port, &scheme) {
        (Some(port), _) => port,
        (None, Some(scheme)) => well_known(scheme),
        (None, None) => listener.port,
    };
    let mut redirect = Redirect {
        scheme: Some(effective.to_owned()),
        host: spec.hostname.clone(),
        port: Some(port).filter(|port| *port != well_known(effective)),
        strip_port: true,
        status: spec
            .status_code
            .and_then(|code| StatusCode::from_u16(code).ok())
            .unwrap_or(StatusCode::FOUND),
        ..Redirect::default()
    };
    if let Some(path) = &spec.path {
        match replacement(path, matched) {
            // All of the path but its slash is kept behind the prefix `/`.
            Ok(with) if matched.prefix() == Some("") => {
                redirect.prefix_rewrite = Some(format!("{with}/"));
            }
            Ok(with) => redirect.prefix_rewrite = Some(with),
            Err(full) => redirect.path = Some(full),
        }
    }
    redirect
}
