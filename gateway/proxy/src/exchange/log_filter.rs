//! Filters of exchanges, for logs and for local replies.

use extproc_client::config::Effort;

use super::operators::{self, Scope};
use crate::{
    config::snapshot::LogFilter,
    http::headers::head_lines,
    route::{self, is_drawn},
};

/// Tells whether a filter takes what a line would be of.
pub(crate) fn passes(filter: &LogFilter, scope: &Scope<'_>, effort: &mut Effort) -> bool {
    let reply = scope.reply;
    match filter {
        LogFilter::And(all) => all.iter().all(|filter| passes(filter, scope, effort)),
        LogFilter::Or(some) => some.iter().any(|filter| passes(filter, scope, effort)),
        LogFilter::Status(wanted) => {
            wanted.holds(reply.status.map_or(0, |status| status.as_u16().into()))
        }
        LogFilter::Duration(wanted) => {
            let took = scope.start.elapsed().as_millis();
            wanted.holds(u64::try_from(took).unwrap_or(u64::MAX))
        }
        LogFilter::Fraction(share) => is_drawn(*share),
        LogFilter::Header(matcher) => {
            let head = scope.head.into_iter();
            let lines = head
                .flat_map(|head| head_lines(&head.method, &head.uri, &head.headers, &matcher.name));
            route::field_matches(matcher, lines, effort)
        }
        LogFilter::Flags(0) => reply.flags != 0,
        LogFilter::Flags(bits) => reply.flags & bits != 0,
        LogFilter::Grpc { statuses, exclude } => {
            /// Status of what has none, as in Envoy.
            const UNKNOWN: u64 = 2;
            let status = operators::grpc_code_of(reply).unwrap_or(UNKNOWN);
            let named = statuses.contains(&status);
            named != *exclude
        }
        LogFilter::Cel(expression) => {
            operators::expression_value(scope, Some(expression)) == Some(true.into())
        }
        LogFilter::Any => true,
    }
}
