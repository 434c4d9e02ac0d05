//! Scalars of the YAML 1.2 core schema.

use super::Kind;

/// Value of an untagged plain scalar.
pub(super) fn plain(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "true" | "True" | "TRUE" => Kind::Bool(true),
        "false" | "False" | "FALSE" => Kind::Bool(false),
        _ => number(text).unwrap_or_else(|| Kind::Text(text.into())),
    }
}

/// Value of a scalar with the tag `!!suffix`; `None` if it is not of that type.
pub(super) fn tagged(suffix: &str, text: &str) -> Option<Kind> {
    let kind = match suffix {
        "str" => return Some(Kind::Text(text.into())),
        _ => plain(text),
    };
    match (suffix, kind) {
        ("null", Kind::Null) => Some(Kind::Null),
        ("bool", kind @ Kind::Bool(_)) => Some(kind),
        ("int", kind @ (Kind::Unsigned(_) | Kind::Negative(_))) => Some(kind),
        ("float", kind @ Kind::Float(..)) => Some(kind),
        ("float", Kind::Unsigned(number)) => Some(Kind::Float(number as f64, text.into())),
        ("float", Kind::Negative(number)) => Some(Kind::Float(number as f64, text.into())),
        _ => None,
    }
}

fn number(text: &str) -> Option<Kind> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, text.get(1..)?),
        [b'+', ..] => (false, text.get(1..)?),
        _ => (false, text),
    };
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        let integer = match negative {
            false => digits.parse().ok().map(Kind::Unsigned),
            true => match format!("-{digits}").parse() {
                Ok(0) => Some(Kind::Unsigned(0)),
                Ok(number) => Some(Kind::Negative(number)),
                Err(_) => None,
            },
        };
        return integer.or_else(|| float(text));
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        // `from_str_radix` takes a sign, which may not stand after the prefix.
        if let Some(digits) = text.strip_prefix(prefix)
            && !digits.starts_with(['+', '-'])
            && let Ok(number) = u64::from_str_radix(digits, radix)
        {
            return Some(Kind::Unsigned(number));
        }
    }
    match digits {
        ".inf" | ".Inf" | ".INF" => {
            let sign = if negative { -1.0 } else { 1.0 };
            return Some(Kind::Float(sign * f64::INFINITY, text.into()));
        }
        ".nan" | ".NaN" | ".NAN" if digits == text => {
            return Some(Kind::Float(f64::NAN, text.into()));
        }
        _ => {}
    }
    if is_decimal(digits) {
        float(text)
    } else {
        None
    }
}

fn float(text: &str) -> Option<Kind> {
    Some(Kind::Float(text.parse().ok()?, text.into()))
}

/// `( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`
fn is_decimal(text: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_is_good = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    exponent_is_good
        && digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
}
