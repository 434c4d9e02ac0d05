//! `RuntimeFractionalPercent`. There is no runtime here: its default holds.

use serde::Deserialize;

use super::value::{Enum, ProtoEnum};
use crate::snapshot::Fraction;

/// `envoy.config.core.v3.RuntimeFractionalPercent`.
#[derive(Debug, Deserialize)]
pub(super) struct RuntimeFraction {
    default_value: FractionalPercent,
}

/// `envoy.type.v3.FractionalPercent`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FractionalPercent {
    numerator: u32,
    denominator: Enum<Denominator>,
}

#[derive(Clone, Copy, Debug)]
struct Denominator(u32);

impl Default for Denominator {
    fn default() -> Self {
        Self(100)
    }
}

impl ProtoEnum for Denominator {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("HUNDRED", 0, Ok(Self(100))),
        ("TEN_THOUSAND", 1, Ok(Self(10_000))),
        ("MILLION", 2, Ok(Self(1_000_000))),
    ];
}

impl RuntimeFraction {
    pub(super) fn build(&self) -> Fraction {
        Fraction {
            numerator: self.default_value.numerator,
            denominator: self.default_value.denominator.0.0,
        }
    }
}
