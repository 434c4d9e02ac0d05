//! Scalars of ProtoJSON and Envoy, checked while they are read so that errors have their place.

use std::{collections::BTreeMap, fmt, marker::PhantomData, time::Duration};

use extproc_client::{
    config::{self, PatternError},
    text::protojson::{ProtoDuration, base64},
};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{
    Deserialize, Deserializer,
    de::{self, Error},
};

/// `google.protobuf.Duration`: seconds with up to nine decimals and an `s`, or the fields of the message, which Envoy's
/// reader takes too (`{seconds: 5}`); not negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time(pub(super) Duration);

impl Time {
    /// The duration; `None` for zero, where that means no limit.
    pub(super) fn limit(self) -> Option<Duration> {
        Some(self.0).filter(|duration| !duration.is_zero())
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let duration = ProtoDuration::deserialize(deserializer)?.positive();
        duration
            .map(Self)
            .ok_or_else(|| D::Error::custom("invalid duration: may not be negative"))
    }
}

/// An enum that a proto defines: names (in any case) or numbers.
pub(super) trait ProtoEnum: Copy + Default + 'static {
    /// Name and number of each value, with what it is here, or why it is not to be had.
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)];
}

/// A value of a [`ProtoEnum`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Enum<T>(pub(super) T);

impl<'de, T: ProtoEnum> Deserialize<'de> for Enum<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);

        impl<T: ProtoEnum> Visitor<T> {
            fn find<E: Error>(
                found: impl fmt::Debug,
                is_it: impl Fn(&str, i64) -> bool,
            ) -> Result<Enum<T>, E> {
                let entry = T::VALUES
                    .iter()
                    .find(|(name, number, _)| is_it(name, *number));
                match entry {
                    Some((_, _, Ok(value))) => Ok(Enum(*value)),
                    Some((name, _, Err(reason))) => Err(E::custom(format!("{name}: {reason}"))),
                    None => Err(E::custom(format!(
                        "unknown value {found:?}, expected one of {}",
                        names::<T>()
                    ))),
                }
            }
        }

        impl<T: ProtoEnum> de::Visitor<'_> for Visitor<T> {
            type Value = Enum<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "one of {}", names::<T>())
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Enum<T>, E> {
                Self::find(text, |name, _| name.eq_ignore_ascii_case(text))
            }

            fn visit_u64<E: Error>(self, given: u64) -> Result<Enum<T>, E> {
                Self::find(given, |_, number| u64::try_from(number) == Ok(given))
            }

            fn visit_i64<E: Error>(self, given: i64) -> Result<Enum<T>, E> {
                Self::find(given, |_, number| number == given)
            }
        }

        deserializer.deserialize_any(Visitor(PhantomData))
    }
}

fn names<T: ProtoEnum>() -> String {
    let names: Vec<&str> = T::VALUES.iter().map(|(name, ..)| *name).collect();
    names.join(", ")
}

/// A name of a header, lower case; no pseudo-header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(pub(super) HeaderName);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        HeaderName::from_bytes(text.as_bytes())
            .map(Self)
            .map_err(|_| D::Error::custom(format!("{text:?} is not a name of a header")))
    }
}

/// A value of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FieldValue(pub(super) HeaderValue);

impl<'de> Deserialize<'de> for FieldValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        HeaderValue::from_str(&text)
            .map(Self)
            .map_err(|_| D::Error::custom(format!("{text:?} is not a value of a header")))
    }
}

/// A final status code, 200 to 599.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status(pub(super) StatusCode);

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u16::deserialize(deserializer)?;
        StatusCode::from_u16(number)
            .ok()
            .filter(|_| (200..600).contains(&number))
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("{number} is not a status from 200 to 599")))
    }
}

/// `RegexMatcher`: a regular expression that has to match a whole value.
#[derive(Clone, Debug)]
pub(super) struct WholeRegex(pub(super) config::RegexMatcher);

/// The pattern of a `RegexMatcher`, known to be a regular expression.
#[derive(Clone, Debug)]
pub(super) struct RegexText(pub(super) String);

#[derive(Deserialize)]
struct RegexMatcher {
    regex: Pattern,
}

struct Pattern {
    text: String,
    whole: config::RegexMatcher,
}

// The pattern is compiled at its own place first, so that errors point at it.
impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Err(D::Error::custom("may not be empty"));
        }
        match config::RegexMatcher::new(&text) {
            Ok(whole) => Ok(Self { text, whole }),
            Err(error) => Err(D::Error::custom(format!(
                "invalid regular expression: {}",
                regex_reason(&error)
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for WholeRegex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(RegexMatcher::deserialize(deserializer)?.regex.whole))
    }
}

impl<'de> Deserialize<'de> for RegexText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(RegexMatcher::deserialize(deserializer)?.regex.text))
    }
}

/// The last line of the report, which says what is wrong.
pub(super) fn regex_reason(error: &PatternError) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

/// Bytes, written as base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        base64(&text)
            .map(Self)
            .ok_or_else(|| D::Error::custom("invalid base64"))
    }
}

/// A message of which every field is accepted, because none of them matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Whatever;

impl<'de> Deserialize<'de> for Whatever {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// A map by name.
pub(super) type ByName<T> = BTreeMap<String, T>;
