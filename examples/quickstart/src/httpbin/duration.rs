//! Durations as a client writes them: `1.5` (seconds), `300ms`, `1m2s`.

use std::{fmt::Write as _, time::Duration};

/// Reads a duration of at most `max`.
///
/// The text is Go's form (numbers with the units `ns us µs ms s m h`, signed as a whole) or a plain number of seconds.
pub(super) fn parse_bounded(text: &str, max: Duration) -> Result<Duration, String> {
    let nanos = parse_units(text)
        .or_else(|| parse_seconds(text))
        .ok_or_else(|| format!("{text:?} is neither seconds nor a duration such as 300ms"))?;
    if nanos < 0.0 {
        return Err(format!("{text:?} is negative"));
    }
    let duration = Duration::try_from_secs_f64(nanos / 1e9)
        .map_err(|_| format!("{text:?} is longer than {max:?}"))?;
    if duration > max {
        return Err(format!("{duration:?} is longer than {max:?}"));
    }
    Ok(duration)
}

/// One entry of a `Server-Timing` header: a name, how long it took, and a description.
pub(super) type Timing<'a> = (&'a str, Duration, &'a str);

/// The value of a `Server-Timing` header: durations in milliseconds with two digits.
pub(super) fn server_timing(timings: &[Timing<'_>]) -> String {
    let mut text = String::new();
    for (name, duration, description) in timings {
        let separator = if text.is_empty() { "" } else { ", " };
        let millis = duration.as_secs_f64() * 1e3;
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "{separator}{name};dur={millis:.2};desc=\"{description}\""
        );
    }
    text
}

fn parse_seconds(text: &str) -> Option<f64> {
    let seconds: f64 = text.parse().ok().filter(|value: &f64| value.is_finite())?;
    // Milliseconds are the finest step of a plain number.
    Some((seconds * 1e3).trunc() * 1e6)
}

fn parse_units(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return None;
    }
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(end)?;
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        nanos += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    Some(sign * nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_bounded() {
        let max = Duration::from_secs(10);
        let read = |text: &str| parse_bounded(text, max);
        assert_eq!(read("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(read("1s500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(read("0"), Ok(Duration::ZERO));
        assert_eq!(read("10"), Ok(max));
        assert!(read("11").is_err_and(|error| error.contains("11s is longer than 10s")));
        for refused in ["", "x", "1x", "-1", "1s-", "nan", "inf", "1e300", "ms", "µ"] {
            assert!(read(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn timings_are_in_milliseconds() {
        let timings = [
            ("a", Duration::from_millis(1500), "first"),
            ("b", Duration::from_micros(20), "second"),
        ];
        assert_eq!(
            server_timing(&timings),
            r#"a;dur=1500.00;desc="first", b;dur=0.02;desc="second""#
        );
    }
}
