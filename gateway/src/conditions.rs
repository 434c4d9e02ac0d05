//! Decides, request by request, which configuration a filter behind it runs with.

use std::sync::Arc;

use extproc_client::{
    FilterConfig, PerRoute,
    config::{MetadataEntry, Overrides},
    host::{ExchangeContext, RouteOverrides},
};
use http::{Request, request::Parts};
use prost_types::{Struct, Value, value::Kind};

use crate::{
    body::Body,
    config::snapshot::{Case, Choice},
    exchange::Exchange,
    filters::{Handler, HandlerFuture},
    router,
};

/// Looks at the route's [`Choice`] for a filter.
pub(crate) struct Conditions {
    /// The name of the filter that is chosen for.
    pub(crate) filter: String,
    /// A filter in front may have changed what the route was chosen by.
    pub(crate) reselect: bool,
    pub(crate) inner: Arc<dyn Handler>,
}

impl Handler for Conditions {
    fn call(&self, request: Request<Body>) -> HandlerFuture {
        let (mut parts, body) = request.into_parts();
        if let Some(exchange) = parts.extensions.get::<Arc<Exchange>>().cloned() {
            self.decide(&mut parts, &exchange);
        }
        self.inner.call(Request::from_parts(parts, body))
    }
}

impl Conditions {
    fn decide(&self, parts: &mut Parts, exchange: &Exchange) {
        let Some(mut context) = parts.extensions.get::<ExchangeContext>().cloned() else {
            return;
        };
        if self.reselect && !context.response_only {
            let route = router::select(&exchange.http, parts);
            context.overrides = route.as_ref().map(router::Selected::overrides);
            let mut facts = (*context.facts).clone();
            facts.route = route
                .as_ref()
                .map(|route| route.facts())
                .unwrap_or_default();
            context.facts = Arc::new(facts);
            exchange.set_route(route);
        }
        let route = exchange.route();
        let choice = route
            .as_ref()
            .and_then(|route| route.route.choices.iter().find(|c| c.filter == self.filter));
        if let Some(choice) = choice {
            let config = choose(choice, parts, &context);
            let known = context.overrides.iter().flat_map(|known| &known.filters);
            let filters = known
                .filter(|(name, _)| *name != self.filter)
                .cloned()
                .chain([(self.filter.clone(), config)])
                .collect();
            context.overrides = Some(Arc::new(RouteOverrides { filters }));
        }
        parts.extensions.insert(context);
    }
}

/// The configuration of the first case that holds; `None` if none does. Where that takes too many steps to say, the request
/// is refused.
fn choose(choice: &Choice, parts: &Parts, context: &ExchangeContext) -> Option<Arc<FilterConfig>> {
    let found = choice.cases.iter().find_map(|case| {
        let holds = match &case.condition {
            None => Ok(true),
            Some(condition) => condition.holds(parts, context),
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
            .filter_map(|(name, value)| Some((name.clone(), value.value(parts, context)?)))
            .collect();
        context.metadata.set(namespace.as_str(), Struct { fields });
    }
    Some(dressed(case, parts, context))
}

/// The case's configuration with the gRPC metadata of this request.
fn dressed(case: &Case, parts: &Parts, context: &ExchangeContext) -> Arc<FilterConfig> {
    if case.initial_metadata.is_empty() {
        return case.config.clone();
    }
    let entries = case.initial_metadata.iter().filter_map(|(name, value)| {
        let text = text(value.value(parts, context)?)?;
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
