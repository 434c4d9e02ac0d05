//! `LocalReplyConfig`: what becomes of responses that the gateway makes itself.

use std::sync::Arc;

use serde::Deserialize;

use super::{
    access_log::{AccessLogFilter, LogType, SubstitutionFormatString},
    data::DataSource,
    header::{Changes, HeaderValueOption},
    value::Status,
};
use crate::{
    document::{Fault, Located, Reader},
    snapshot::{LocalReplies, ReplyFormat, ReplyMapper},
};

/// `envoy.extensions.filters.network.http_connection_manager.v3.LocalReplyConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LocalReplyConfig {
    mappers: Vec<Located<ResponseMapper>>,
    body_format: Option<Located<SubstitutionFormatString>>,
}

/// `envoy.extensions.filters.network.http_connection_manager.v3.ResponseMapper`.
#[derive(Debug, Deserialize)]
struct ResponseMapper {
    filter: Located<AccessLogFilter>,
    status_code: Option<Status>,
    body: Option<Located<DataSource>>,
    body_format_override: Option<Located<SubstitutionFormatString>>,
    #[serde(default)]
    headers_to_add: Vec<Located<HeaderValueOption>>,
}

impl LocalReplyConfig {
    pub(super) fn build(&self, reader: &Reader<'_>) -> Result<LocalReplies, Fault> {
        let mappers = self.mappers.iter();
        Ok(LocalReplies {
            mappers: mappers
                .map(|mapper| mapper.value.build(reader))
                .collect::<Result<_, _>>()?,
            format: format(self.body_format.as_ref(), reader)?,
        })
    }
}

impl ResponseMapper {
    fn build(&self, reader: &Reader<'_>) -> Result<ReplyMapper, Fault> {
        let changes = Changes {
            add: &self.headers_to_add,
            remove: &[],
        };
        let body = self.body.as_ref().map(|body| body.load(reader));
        Ok(ReplyMapper {
            filter: self.filter.build(LogType::NotSet, reader)?,
            status: self.status_code.map(|status| status.0),
            body: body.transpose()?.map(Into::into),
            format: format(self.body_format_override.as_ref(), reader)?,
            headers: changes.build()?,
        })
    }
}

pub(super) fn format(
    given: Option<&Located<SubstitutionFormatString>>,
    reader: &Reader<'_>,
) -> Result<Option<Arc<ReplyFormat>>, Fault> {
    let Some(given) = given else {
        return Ok(None);
    };
    Ok(Some(Arc::new(ReplyFormat {
        format: given.build(reader, given.node)?,
        omit_empty: given.value.omit_empty_values,
        content_type: given.value.content_type(),
    })))
}
