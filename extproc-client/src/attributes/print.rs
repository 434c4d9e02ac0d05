//! Printing of values that are sent as strings: as Envoy's CEL library prints them.

use chrono::{DateTime, Timelike, Utc};

pub(super) const MAP: &str = "CelMap value";

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
    fn times() {
        let at = |text: &str| time(text.parse::<DateTime<Utc>>().unwrap());
        assert_eq!(at("2026-01-02T03:04:05Z"), "2026-01-02T03:04:05+00:00");
        assert_eq!(
            at("2026-01-02T03:04:05.590020999Z"),
            "2026-01-02T03:04:05.59002+00:00"
        );
    }
}
