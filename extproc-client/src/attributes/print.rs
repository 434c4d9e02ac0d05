//! How values print where they are sent as strings: as Envoy's CEL library prints them.

use cel::Value;
use chrono::{DateTime, Timelike, Utc};

use super::lookup::Item;

pub(super) const MAP: &str = "CelMap value";
const LIST: &str = "CelList value";
const TYPE: &str = "CelType value";

/// What a type is sent as.
pub(super) fn a_type<'a>() -> Item<'a> {
    Item::Text(TYPE.into())
}

/// What the result of an expression is sent as.
pub(super) fn item<'a>(value: Value) -> Item<'a> {
    let text = match value {
        Value::Bool(value) => return Item::Bool(value),
        // Sent as a double whatever its size, as in Envoy.
        Value::Int(value) => return Item::Number(value as f64),
        Value::UInt(value) => return Item::Number(value as f64),
        Value::Null => return Item::Null,
        Value::Map(_) | Value::Struct(_) => return Item::Map,
        Value::Float(value) => double(value),
        Value::String(text) => text.as_str().to_owned(),
        Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::List(_) => LIST.to_owned(),
        Value::Timestamp(at) => time(at.to_utc()),
        Value::Duration(length) => duration(length.num_nanoseconds().unwrap_or(i64::MAX)),
        Value::Function(..) | Value::Opaque(_) => TYPE.to_owned(),
    };
    Item::Text(text.into())
}

/// RFC 3339 with as many digits of a second as there are, at most microseconds.
pub(super) fn time(at: DateTime<Utc>) -> String {
    let mut out = at.format("%Y-%m-%dT%H:%M:%S").to_string();
    let micros = at.nanosecond() / 1000 % 1_000_000;
    if micros > 0 {
        out.push('.');
        out.push_str(format!("{micros:06}").trim_end_matches('0'));
    }
    out.push_str("+00:00");
    out
}

/// A duration with unit, as `1h2m3.5s`, `147.766us` or `0`.
pub(super) fn duration(nanos: i64) -> String {
    const SECOND: u64 = 1_000_000_000;
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let fraction = |unit: u64, name: &str| {
        let digits = unit.ilog10() as usize;
        let mut out = (nanos / unit).to_string();
        if !nanos.is_multiple_of(unit) {
            out.push('.');
            out.push_str(format!("{:0digits$}", nanos % unit).trim_end_matches('0'));
        }
        format!("{sign}{out}{name}")
    };
    if nanos == 0 {
        return "0".to_owned();
    }
    if nanos < 1000 {
        return format!("{sign}{nanos}ns");
    }
    if nanos < 1_000_000 {
        return fraction(1000, "us");
    }
    if nanos < SECOND {
        return fraction(1_000_000, "ms");
    }
    let (hours, minutes) = (nanos / SECOND / 3600, nanos / SECOND / 60 % 60);
    let mut out = sign.to_owned();
    if hours > 0 {
        out.push_str(&format!("{hours}h"));
    }
    if minutes > 0 {
        out.push_str(&format!("{minutes}m"));
    }
    let rest = nanos % (60 * SECOND);
    if rest > 0 {
        out.push_str(&(rest / SECOND).to_string());
        if !rest.is_multiple_of(SECOND) {
            out.push('.');
            out.push_str(format!("{:09}", rest % SECOND).trim_end_matches('0'));
        }
        out.push('s');
    }
    out
}

/// A double with six significant digits, as C's `%g`: `1.5`, `1`, `1e+300`.
pub(super) fn double(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if value == 0.0 {
        return if value.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    // The exponent after rounding to six digits.
    let scientific = format!("{value:.5e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |digits: &str| match digits.contains('.') {
        true => digits
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned(),
        false => digits.to_owned(),
    };
    if (-4..6).contains(&exponent) {
        let decimals = usize::try_from(5 - exponent).unwrap_or(0);
        return trim(&format!("{value:.decimals$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim(mantissa), exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (nanos, text) in [
            (0, "0"),
            (7, "7ns"),
            (1000, "1us"),
            (147_766, "147.766us"),
            (1_500_000, "1.5ms"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (60_000_000_000, "1m"),
            (3_723_500_000_000, "1h2m3.5s"),
            (-2_000_000_000, "-2s"),
        ] {
            assert_eq!(duration(nanos), text);
        }
    }

    #[test]
    fn doubles() {
        for (value, text) in [
            (1.5, "1.5"),
            (1.0, "1"),
            (0.0, "0"),
            (1e300, "1e+300"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (123_456.0, "123456"),
            (1_234_567.0, "1.23457e+06"),
            (-2.25, "-2.25"),
            (999_999.9, "1e+06"),
            (0.1 + 0.2, "0.3"),
        ] {
            assert_eq!(double(value), text);
        }
    }

    #[test]
    fn times() {
        let at = |text: &str| time(text.parse::<DateTime<Utc>>().unwrap());
        assert_eq!(at("2026-01-02T03:04:05Z"), "2026-01-02T03:04:05+00:00");
        assert_eq!(
            at("2026-01-02T03:04:05.590020999Z"),
            "2026-01-02T03:04:05.59002+00:00"
        );
    }
}
