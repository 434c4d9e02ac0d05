//! Changes of headers: `HeaderValueOption` and `HeaderMutation`.

use extproc_client::config::StringMatcher;
use http::HeaderName;
use serde::Deserialize;

use super::{
    template,
    value::{Bytes, Enum, Name, ProtoEnum},
};
use crate::{
    document::{Fault, Located},
    snapshot::{AppendAction, HeaderChange},
};

/// The four lists that route configuration, virtual host, route and weighted cluster have.
#[derive(Debug, Default)]
pub(super) struct Changes<'a> {
    pub(super) add: &'a [Located<HeaderValueOption>],
    pub(super) remove: &'a [Located<Name>],
}

/// `envoy.config.core.v3.HeaderValueOption`.
#[derive(Debug, Deserialize)]
pub(super) struct HeaderValueOption {
    header: Located<HeaderValue>,
    append: Option<bool>,
    append_action: Option<Enum<Action>>,
    #[serde(default)]
    keep_empty_value: bool,
}

/// `envoy.config.core.v3.HeaderValue`.
#[derive(Debug, Deserialize)]
struct HeaderValue {
    key: Name,
    #[serde(default)]
    value: String,
    raw_value: Option<Bytes>,
}

/// `envoy.config.common.mutation_rules.v3.HeaderMutation`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct HeaderMutation {
    remove: Option<Name>,
    append: Option<Located<HeaderValueOption>>,
    remove_on_match: Option<RemoveOnMatch>,
}

/// `HeaderMutation.RemoveOnMatch`.
#[derive(Debug, Deserialize)]
struct RemoveOnMatch {
    key_matcher: StringMatcher,
}

#[derive(Clone, Copy, Debug, Default)]
struct Action(AppendAction);

impl ProtoEnum for Action {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        (
            "APPEND_IF_EXISTS_OR_ADD",
            0,
            Ok(Self(AppendAction::AppendIfExistsOrAdd)),
        ),
        ("ADD_IF_ABSENT", 1, Ok(Self(AppendAction::AddIfAbsent))),
        (
            "OVERWRITE_IF_EXISTS_OR_ADD",
            2,
            Ok(Self(AppendAction::OverwriteIfExistsOrAdd)),
        ),
        (
            "OVERWRITE_IF_EXISTS",
            3,
            Ok(Self(AppendAction::OverwriteIfExists)),
        ),
    ];
}

impl Changes<'_> {
    /// Builds the changes: those that remove first, then those that add.
    pub(super) fn build(&self) -> Result<Vec<HeaderChange>, Fault> {
        let removed = self.remove.iter().map(|name| {
            changeable(&name.value.0).map_err(|fault| fault.or_at(name.node))?;
            Ok(HeaderChange::Remove(name.value.0.clone()))
        });
        let added = self
            .add
            .iter()
            .filter_map(|option| option.build().transpose());
        removed.chain(added).collect()
    }
}

impl Located<HeaderMutation> {
    pub(super) fn build(&self) -> Result<Option<HeaderChange>, Fault> {
        let mutation = &self.value;
        match (
            &mutation.remove,
            &mutation.append,
            &mutation.remove_on_match,
        ) {
            (Some(name), None, None) => Ok(Some(HeaderChange::Remove(name.0.clone()))),
            (None, Some(option), None) => option.build(),
            (None, None, Some(matching)) => Ok(Some(HeaderChange::RemoveMatching(
                matching.key_matcher.clone(),
            ))),
            _ => Err(Fault::at(
                self.node,
                "one and only one of remove, append and remove_on_match has to be set",
            )),
        }
    }
}

impl Located<HeaderValueOption> {
    /// The change; `None` for an empty value, which is not added unless `keep_empty_value` is set.
    pub(super) fn build(&self) -> Result<Option<HeaderChange>, Fault> {
        let option = &self.value;
        let header = &option.header.value;
        changeable(&header.key.0).map_err(|fault| fault.or_at(option.header.node))?;
        let value = match (&header.raw_value, header.value.as_str()) {
            (None, value) => value.to_owned(),
            (Some(raw), "") => String::from_utf8(raw.0.clone())
                .map_err(|_| Fault::at(option.header.node, "raw_value is not UTF-8"))?,
            (Some(_), _) => {
                return Err(Fault::at(
                    option.header.node,
                    "only one of value and raw_value may be set",
                ));
            }
        };
        let template =
            template::header(&value).map_err(|reason| Fault::at(option.header.node, reason))?;
        let action = match (option.append, option.append_action) {
            (None, action) => action.unwrap_or_default().0.0,
            (Some(true), None) => AppendAction::AppendIfExistsOrAdd,
            (Some(false), None) => AppendAction::OverwriteIfExistsOrAdd,
            (Some(_), Some(_)) => {
                return Err(Fault::at(
                    self.node,
                    "only one of append and append_action may be set",
                ));
            }
        };
        if value.is_empty() && !option.keep_empty_value {
            return Ok(None);
        }
        Ok(Some(HeaderChange::Set {
            name: header.key.0.clone(),
            value: template,
            action,
            keep_empty: option.keep_empty_value,
        }))
    }
}

/// `host` is the authority, which has fields of its own.
fn changeable(name: &HeaderName) -> Result<(), Fault> {
    match *name == http::header::HOST {
        true => Err(Fault::new("the host header may not be changed this way")),
        false => Ok(()),
    }
}
