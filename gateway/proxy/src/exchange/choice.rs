//! Decides, request by request, which configuration a filter runs with.

use std::sync::Arc;

use extproc_client::{
    FilterConfig, PerRoute,
    attributes::Surroundings,
    config::{MetadataEntry, Overrides},
    host::ExchangeContext,
};
use http::request::Parts;
use prost_types::{Struct, Value, value::Kind};

use crate::config::snapshot::{Case, Choice};

/// The configuration of the first case that holds; `None` if none does. Where that takes too many steps to say, the request
/// is refused.
pub(crate) fn choose(
    choice: &Choice,
    parts: &Parts,
    context: &ExchangeContext,
) -> Option<Arc<FilterConfig>> {
    let around = context.surroundings();
    let found = choice.cases.iter().find_map(|case| {
        let holds = match &case.condition {
            None => Ok(true),
            Some(condition) => condition.holds(parts, &around),
        };
        holds.map(|holds| holds.then_some(case)).transpose()
    });
    let case = match found? {
        Ok(case) => case,
        Err(error) => {
            tracing::debug!(filter = choice.filter, %error, "a condition cannot be decided");
            return Some(choice.undecided.clone());
        }
    };
    for (namespace, entries) in &case.metadata {
        let fields = entries
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), value.value(parts, &around)?)))
            .collect();
        context.metadata.set(namespace.as_str(), Struct { fields });
    }
    Some(dressed(case, parts, &around))
}

/// The case's configuration with the gRPC metadata of this request.
fn dressed(case: &Case, parts: &Parts, around: &Surroundings<'_>) -> Arc<FilterConfig> {
    if case.initial_metadata.is_empty() {
        return case.config.clone();
    }
    let entries = case.initial_metadata.iter().filter_map(|(name, value)| {
        let text = text(value.value(parts, around)?)?;
        // The value is no template.
        Some(MetadataEntry::new(name, &text.replace('%', "%%")))
    });
    let mut overrides = Overrides::default();
    overrides.grpc_initial_metadata = entries.collect();
    case.config
        .for_route([&PerRoute::Overrides(Box::new(overrides))])
        .unwrap_or_else(|| case.config.clone())
}

/// Strings, numbers and booleans as text; nothing else can be a header.
fn text(value: Value) -> Option<String> {
    let text = match value.kind? {
        Kind::StringValue(text) => text,
        Kind::NumberValue(number) => number.to_string(),
        Kind::BoolValue(value) => value.to_string(),
        _ => return None,
    };
    http::HeaderValue::try_from(text.as_str()).ok()?;
    Some(text)
}
