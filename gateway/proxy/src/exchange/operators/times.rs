//! Moments of an exchange, and times between them.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc, format::StrftimeItems};

use super::{Scope, Value};

pub(super) fn millis<'a>(duration: Duration) -> Value<'a> {
    Value::Number(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// A point in time of the exchange, from its start, under the name that `COMMON_DURATION` has for it.
fn moment(scope: &Scope<'_>, name: &str) -> Option<Duration> {
    let exchange = scope.exchange?;
    let upstream = scope.reply.upstream.as_ref();
    match name {
        "DS_RX_BEG" => Some(Duration::ZERO),
        "DS_RX_END" => exchange.moments.request_end(),
        "US_TX_BEG" => upstream?.begun?.checked_duration_since(exchange.start),
        // What was received is on its way at once.
        "US_TX_END" => moment(scope, "US_TX_BEG").max(moment(scope, "DS_RX_END")),
        "US_RX_BEG" => exchange.moments.response_begin(),
        "US_RX_END" | "DS_TX_END" => Some(exchange.start.elapsed()),
        "DS_TX_BEG" => exchange.moments.response_begin(),
        _ => None,
    }
}

pub(super) fn between(scope: &Scope<'_>, from: &str, to: &str) -> Option<Duration> {
    moment(scope, to)?.checked_sub(moment(scope, from)?)
}

/// `FROM:TO:precision`.
pub(super) fn common_duration<'a>(scope: &Scope<'a>, argument: &str) -> Value<'a> {
    let mut parts = argument.split(':');
    let (Some(from), Some(to)) = (parts.next(), parts.next()) else {
        return Value::None;
    };
    let Some(duration) = between(scope, from, to) else {
        return Value::None;
    };
    let number = match parts.next() {
        Some("us") => duration.as_micros(),
        Some("ns") => duration.as_nanos(),
        _ => duration.as_millis(),
    };
    Value::Number(u64::try_from(number).unwrap_or(u64::MAX))
}

/// Returns a time in UTC. What of the pattern is no conversion of `strftime` stays as it is.
pub(super) fn start_time(time: SystemTime, pattern: &str) -> String {
    let pattern = match pattern {
        "" => "%Y-%m-%dT%H:%M:%S%.3fZ",
        pattern => pattern,
    };
    DateTime::<Utc>::from(time)
        .format_with_items(StrftimeItems::new_lenient(pattern))
        .to_string()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn times() {
        let time = UNIX_EPOCH + Duration::from_millis(1_709_210_096_789);
        assert_eq!(start_time(time, ""), "2024-02-29T12:34:56.789Z");
        assert_eq!(start_time(time, "%Y/%m/%d %s"), "2024/02/29 1709210096");
        assert_eq!(start_time(UNIX_EPOCH, ""), "1970-01-01T00:00:00.000Z");
        assert_eq!(
            start_time(time, "%3f %6f %f%.3f"),
            "789 789000 789000000.789"
        );
        assert_eq!(start_time(time, "%e %b %Q 5%"), "29 Feb %Q 5%");
    }
}
