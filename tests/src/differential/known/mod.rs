//! The differences on purpose that random scenarios meet, each as narrow as its entry in
//! `docs/differences-from-envoy.md`: the scenarios in which it shows, and the places of an observation where it may.

mod messages;
mod processors;
pub(super) mod scenario;

use std::collections::BTreeSet;

use crate::conformance::compare::Difference;
use crate::conformance::scenario::Scenario;

/// A difference on purpose.
#[derive(Debug)]
pub struct Known {
    /// The anchor of its entry.
    pub anchor: &'static str,
    /// The scenarios in which it shows.
    pub shows_in: fn(&Scenario) -> bool,
    /// Places as below of which one has to be among those that differ; none is asked for if there are none.
    pub signs: &'static [&'static str],
    /// The places where it shows: steps as in `compare.skip`, and behind them, `: want A, got B` may say how. `*` is any text.
    pub places: &'static [&'static str],
}

/// All of them.
fn all() -> impl Iterator<Item = &'static Known> {
    [messages::KNOWN, processors::KNOWN].into_iter().flatten()
}

/// Differences on purpose that no random scenario meets, and the reason.
pub const NOT_GENERATED: &[(&str, &str)] = &[
    (
        "going-down",
        "a run ends before its proxy is told to go down",
    ),
    ("server-names", "the scenario format has no certificates"),
    ("chains-of-a-composite", "no match trees are generated"),
    (
        "buffer-limit",
        "the filter `buffer` has room for all that is generated",
    ),
    ("escaped-dots", "no path with escaped dots is generated"),
    (
        "nominated-in-responses",
        "no upstream's `connection` is generated",
    ),
    (
        "refused-nominations",
        "no client's `connection` names such a field",
    ),
    (
        "original-destinations",
        "no cluster of type `ORIGINAL_DST` is generated",
    ),
    (
        "flags-of-a-local-reply",
        "no mapper of `local_reply_config` asks for flags",
    ),
    ("damaged-codings", "no filter `decompressor` is generated"),
    ("padded-messages", "no gRPC-Web is generated"),
    ("spans-of-a-trace", "no `tracing` is generated"),
    ("baggage", "no `tracing` is generated"),
];

/// Tells whether there is a difference with this anchor.
#[must_use]
pub fn has(anchor: &str) -> bool {
    all().any(|known| known.anchor == anchor)
}

/// Tells whether the difference with this anchor shows in a scenario.
#[must_use]
pub fn shows_in(anchor: &str, scenario: &Scenario) -> bool {
    all().any(|known| known.anchor == anchor && (known.shows_in)(scenario))
}

/// Takes away what the list, but for the entries with the anchor `questioned`, explains: the anchors that were of use, and
/// what is left.
#[must_use]
pub fn explain(
    scenario: &Scenario,
    questioned: Option<&str>,
    mut found: Vec<Difference>,
) -> (BTreeSet<&'static str>, Vec<Difference>) {
    let mut used = BTreeSet::new();
    let listed = all().filter(|known| Some(known.anchor) != questioned);
    let has = |place: &&str| found.iter().any(|difference| shows(place, difference));
    let is_there = |known: &&Known| {
        (known.shows_in)(scenario) && (known.signs.is_empty() || known.signs.iter().any(has))
    };
    let there: Vec<_> = listed.filter(is_there).collect();
    for known in there {
        found.retain(|difference| {
            let explained = known.places.iter().any(|place| shows(place, difference));
            if explained {
                used.insert(known.anchor);
            }
            !explained
        });
    }
    (used, found)
}

/// Tells whether a difference is of this place, and of this kind if the place says so.
fn shows(place: &str, difference: &Difference) -> bool {
    let (place, kind) = place.split_once(": ").unwrap_or((place, "*"));
    let text = format!("want {}, got {}", difference.want, difference.got);
    let steps: Vec<&str> = place.split('/').collect();
    let mut path = steps.iter().zip(&difference.path);
    steps.len() <= difference.path.len()
        && path.all(|(step, at)| is_like(at, step))
        && is_like(&text, kind)
}

/// Tells whether a text is like the pattern, in which `*` is any text.
fn is_like(text: &str, pattern: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return text == pattern;
    };
    let Some(text) = text.strip_prefix(first) else {
        return false;
    };
    text.char_indices()
        .map(|(at, _)| &text[at..])
        .chain([""])
        .any(|text| is_like(text, rest))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_entry_with_scenarios_is_here() -> anyhow::Result<()> {
        let listed: BTreeMap<String, Vec<String>> =
            serde_saphyr::from_str(include_str!("../../../differences.yaml"))?;
        let known = all().map(|known| known.anchor);
        let known: BTreeSet<&str> = known.chain(NOT_GENERATED.iter().map(|n| n.0)).collect();
        let missing: Vec<_> = listed
            .keys()
            .filter(|a| !known.contains(a.as_str()))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
        Ok(())
    }

    #[test]
    fn a_place_may_say_how() {
        let is_like = |pattern| is_like("want \"100 via DC\", got \"0 via DC\"", pattern);
        assert!(is_like("want \"100 *\", got \"0 *\""));
        assert!(is_like("*"));
        assert!(!is_like("want \"100 *\", got \"1 *\""));
        assert!(!is_like("want \"100 *\", got"));
    }

    #[test]
    fn every_anchor_has_its_entry() {
        let document = include_str!("../../../../docs/differences-from-envoy.md");
        for known in all() {
            let heading = format!("<a id=\"{}\"></a>", known.anchor);
            assert!(document.contains(&heading), "{}", known.anchor);
        }
    }
}
