//! Pieces of ProtoJSON: durations as `0.25s`, enums by name or number, wrappers as bare values.

use std::{fmt, time::Duration};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::{Deserialize, Deserializer, de};

/// Reads an enum given by name (any case) or by number.
pub(crate) fn enum_number<'de, D: Deserializer<'de>>(
    deserializer: D,
    names: &'static [&'static str],
) -> Result<i32, D::Error> {
    struct Visitor(&'static [&'static str]);

    impl de::Visitor<'_> for Visitor {
        type Value = i32;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "one of {}", self.0.join(", "))
        }

        fn visit_str<E: de::Error>(self, name: &str) -> Result<i32, E> {
            self.0
                .iter()
                .position(|known| known.eq_ignore_ascii_case(name))
                .and_then(|index| i32::try_from(index).ok())
                .ok_or_else(|| E::unknown_variant(name, self.0))
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<i32, E> {
            i32::try_from(number).map_err(|_| E::custom("enum number out of range"))
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<i32, E> {
            i32::try_from(number).map_err(|_| E::custom("enum number out of range"))
        }
    }

    deserializer.deserialize_any(Visitor(names))
}

/// A `google.protobuf.Duration` as ProtoJSON writes it, or with the fields of the message, which Envoy's reader takes too
/// (`{seconds: 5}`). Negative values are kept, for the range check of the field to refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtoDuration {
    /// Whole seconds.
    pub seconds: i64,
    /// Billionths of a second, with the sign of the seconds.
    pub nanos: i32,
}

/// The longest duration that protobuf allows: 10000 years.
pub(crate) const LONGEST_SECONDS: u64 = 315_576_000_000;

impl ProtoDuration {
    /// Returns the duration if it is not negative.
    pub fn positive(self) -> Option<Duration> {
        let seconds = u64::try_from(self.seconds).ok()?;
        let nanos = u32::try_from(self.nanos).ok()?;
        Some(Duration::new(seconds, nanos))
    }
}

impl std::str::FromStr for ProtoDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("invalid duration {text:?}: expected seconds, such as \"0.25s\"");
        let number = text.strip_suffix('s').ok_or_else(bad)?;
        let (negative, number) = match number.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, number),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() && fraction.is_empty()
            || number.ends_with('.')
            || !digits(whole)
            || !digits(fraction)
            || fraction.len() > 9
        {
            return Err(bad());
        }
        let seconds: i64 = match whole {
            "" => 0,
            whole => whole.parse().map_err(|_| bad())?,
        };
        if seconds.unsigned_abs() > LONGEST_SECONDS {
            return Err(bad());
        }
        let nanos: i32 = format!("{fraction:0<9}").parse().map_err(|_| bad())?;
        Ok(match negative {
            true => Self {
                seconds: -seconds,
                nanos: -nanos,
            },
            false => Self { seconds, nanos },
        })
    }
}

impl<'de> Deserialize<'de> for ProtoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = ProtoDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("seconds, such as \"0.25s\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ProtoDuration, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<ProtoDuration, A::Error> {
                let Fields { seconds, nanos } =
                    Fields::deserialize(de::value::MapAccessDeserializer::new(map))?;
                match seconds.unsigned_abs() <= LONGEST_SECONDS
                    && nanos.unsigned_abs() < 1_000_000_000
                {
                    true => Ok(ProtoDuration { seconds, nanos }),
                    false => Err(de::Error::custom("invalid duration: out of range")),
                }
            }
        }

        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Fields {
            seconds: i64,
            nanos: i32,
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// Decodes base64 as readers of ProtoJSON have to: either alphabet, with or without padding.
pub fn base64(text: &str) -> Option<Vec<u8>> {
    const ANY_PADDING: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, ANY_PADDING);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, ANY_PADDING);
    let decoded = match text.contains(['-', '_']) {
        true => URL_SAFE.decode(text),
        false => STANDARD.decode(text),
    };
    decoded.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_in_both_alphabets() {
        assert_eq!(base64("aGk="), Some(b"hi".to_vec()));
        assert_eq!(base64("aGk"), Some(b"hi".to_vec()));
        assert_eq!(base64("_-8="), Some(vec![0xff, 0xef]));
        assert_eq!(base64("/+8"), Some(vec![0xff, 0xef]));
        assert_eq!(base64(""), Some(Vec::new()));
        assert_eq!(base64("a"), None);
        assert_eq!(base64("a!"), None);
    }

    #[test]
    fn durations() {
        let parse = |s: &str| s.parse::<ProtoDuration>();
        assert_eq!(
            parse("0.25s").unwrap().positive(),
            Some(Duration::from_millis(250))
        );
        assert_eq!(
            parse("3s").unwrap().positive(),
            Some(Duration::from_secs(3))
        );
        let positive = |text: &str| parse(text).unwrap().positive();
        assert_eq!(positive(".5s"), Some(Duration::from_millis(500)));
        assert_eq!(positive("0.000000001s"), Some(Duration::from_nanos(1)));
        assert_eq!(parse("-1s").unwrap().positive(), None);
        assert_eq!(parse("-0.5s").unwrap().positive(), None);
        for bad in [
            "",
            "s",
            "1",
            "1ms",
            "1.2.3s",
            "+1s",
            " 1s",
            "0.1234567891s",
            "1.s",
            "9e9s",
            "315576000001s",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn durations_as_messages() {
        fn read(text: &str) -> serde_json::Result<ProtoDuration> {
            serde_json::from_str(text)
        }
        let positive = |text: &str| read(text).unwrap().positive();
        assert_eq!(positive(r#""2s""#), Some(Duration::from_secs(2)));
        assert_eq!(positive(r#"{"seconds": 2}"#), Some(Duration::from_secs(2)));
        assert_eq!(
            positive(r#"{"nanos": 250000000}"#),
            Some(Duration::from_millis(250))
        );
        assert_eq!(positive("{}"), Some(Duration::ZERO));
        assert_eq!(positive(r#"{"seconds": -2}"#), None);
        for bad in [
            "2",
            r#"{"minutes": 2}"#,
            r#"{"seconds": 9223372036854775807}"#,
            r#"{"nanos": 1000000000}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
