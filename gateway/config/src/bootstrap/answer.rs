//! Answers of the route itself: `RedirectAction` and `DirectResponseAction`.

use http::StatusCode;
use serde::Deserialize;

use super::{
    access_log::SubstitutionFormatString,
    data::DataSource,
    local_reply::format,
    rewrite::RegexMatchAndSubstitute,
    value::{Enum, FieldValue, ProtoEnum, Status},
};
use crate::{
    document::{Fault, Located, Reader},
    snapshot::{Redirect, RouteAction as Model},
};

/// `envoy.config.route.v3.RedirectAction`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RedirectAction {
    https_redirect: Option<bool>,
    scheme_redirect: Option<String>,
    host_redirect: Option<FieldValue>,
    port_redirect: Option<u16>,
    path_redirect: Option<FieldValue>,
    prefix_rewrite: Option<FieldValue>,
    regex_rewrite: Option<RegexMatchAndSubstitute>,
    response_code: Enum<RedirectCode>,
    strip_query: bool,
}

#[derive(Clone, Copy, Debug)]
struct RedirectCode(StatusCode);

impl Default for RedirectCode {
    fn default() -> Self {
        Self(StatusCode::MOVED_PERMANENTLY)
    }
}

impl ProtoEnum for RedirectCode {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        (
            "MOVED_PERMANENTLY",
            0,
            Ok(Self(StatusCode::MOVED_PERMANENTLY)),
        ),
        ("FOUND", 1, Ok(Self(StatusCode::FOUND))),
        ("SEE_OTHER", 2, Ok(Self(StatusCode::SEE_OTHER))),
        (
            "TEMPORARY_REDIRECT",
            3,
            Ok(Self(StatusCode::TEMPORARY_REDIRECT)),
        ),
        (
            "PERMANENT_REDIRECT",
            4,
            Ok(Self(StatusCode::PERMANENT_REDIRECT)),
        ),
    ];
}

/// `envoy.config.route.v3.DirectResponseAction`.
#[derive(Debug, Deserialize)]
pub(super) struct DirectResponseAction {
    status: Status,
    body: Option<Located<DataSource>>,
    body_format: Option<Located<SubstitutionFormatString>>,
}

impl Located<RedirectAction> {
    pub(super) fn build(&self) -> Result<Model, Fault> {
        let action = &self.value;
        let text = |value: &FieldValue| String::from_utf8_lossy(value.0.as_bytes()).into_owned();
        let https = action.https_redirect.unwrap_or_default();
        if https && action.scheme_redirect.is_some() {
            return Err(Fault::at(
                self.node,
                "only one of https_redirect and scheme_redirect may be set",
            ));
        }
        let paths = [
            action.path_redirect.is_some(),
            action.prefix_rewrite.is_some(),
            action.regex_rewrite.is_some(),
        ];
        if paths.iter().filter(|set| **set).count() > 1 {
            return Err(Fault::at(
                self.node,
                "only one of path_redirect, prefix_rewrite and regex_rewrite may be set",
            ));
        }
        Ok(Model::Redirect(Redirect {
            https,
            scheme: action.scheme_redirect.clone(),
            host: action.host_redirect.as_ref().map(text),
            port: action.port_redirect.filter(|port| *port != 0),
            path: action.path_redirect.as_ref().map(text),
            prefix_rewrite: action.prefix_rewrite.as_ref().map(text),
            regex_rewrite: action
                .regex_rewrite
                .as_ref()
                .map(RegexMatchAndSubstitute::build)
                .transpose()?,
            status: action.response_code.0.0,
            strip_query: action.strip_query,
            strip_port: false,
            keep_port: false,
        }))
    }
}

impl DirectResponseAction {
    /// The action; a body longer than `limit` bytes is refused.
    pub(super) fn build(&self, limit: usize, reader: &Reader<'_>) -> Result<Model, Fault> {
        let body = match &self.body {
            None => Vec::new(),
            Some(source) => {
                let body = source.load(reader)?;
                if body.len() > limit {
                    return Err(Fault::at(
                        source.node,
                        format!(
                            "the body has {} bytes, more than max_direct_response_body_size_bytes ({limit})",
                            body.len()
                        ),
                    ));
                }
                body
            }
        };
        Ok(Model::Direct {
            status: self.status.0,
            body: body.into(),
            format: format(self.body_format.as_ref(), reader)?,
        })
    }
}
