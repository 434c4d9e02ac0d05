//! Results of expressions as Envoy's CEL library prints them.

use cel::Value;

use crate::attributes::{
    lookup::Item,
    print::{duration, time},
};

const LIST: &str = "CelList value";
const TYPE: &str = "CelType value";

/// Type as it is sent.
pub(super) fn a_type<'a>() -> Item<'a> {
    Item::Text(TYPE.into())
}

/// Result of an expression as it is sent.
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
}
