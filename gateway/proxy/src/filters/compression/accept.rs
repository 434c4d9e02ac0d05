//! The coding that a response gets, of those that a client takes (RFC 9110 §12.5.3) and the chain has.

use std::sync::Arc;

use http::HeaderMap;

use super::is_of_type;
use crate::config::snapshot::Compressor;

/// Tells whether `own` is the compressor of a response, by the client's `accept-encoding`. `beside` has all of the chain, in
/// which `own` stands in the place of `base`.
pub(super) fn allows(
    accepted: &str,
    own: &Arc<Compressor>,
    base: &Arc<Compressor>,
    beside: &[Arc<Compressor>],
    headers: &HeaderMap,
) -> bool {
    let of_type = |compressor: &&Arc<Compressor>| {
        let settings = compressor.for_responses();
        settings.is_some_and(|settings| is_of_type(settings, headers))
    };
    let here = |compressor| match Arc::ptr_eq(compressor, base) {
        true => own,
        false => compressor,
    };
    let offered = beside.iter().map(here).filter(of_type);
    let offered: Vec<&str> = offered.map(|compressor| compressor.coding.name()).collect();
    choose(accepted, offered, own.choose_first) == Some(own.coding.name())
}

/// The coding of those that are `offered`, in their order; `None` leaves a response as it is.
fn choose<'o>(accepted: &str, mut offered: Vec<&'o str>, choose_first: bool) -> Option<&'o str> {
    let mut entries = Vec::new();
    for entry in accepted.split(',').filter(|entry| !entry.is_empty()) {
        let mut parts = entry.splitn(2, ';');
        let name = parts.next().unwrap_or_default().trim();
        let weight = match parts.next().and_then(|rest| rest.split_once('=')) {
            Some((key, value)) if key.trim().eq_ignore_ascii_case("q") => {
                match value.trim().parse::<f32>() {
                    Ok(weight) => weight,
                    Err(_) => continue,
                }
            }
            _ => 1.0,
        };
        match weight > 0.0 {
            true => entries.push((name, weight)),
            false => offered.retain(|offer| *offer != name),
        }
    }
    let place = |name: &str| offered.iter().position(|offer| *offer == name);
    let mut best: Option<(&str, f32)> = None;
    for (name, weight) in entries {
        if place(name).is_none() && name != "identity" && name != "*" {
            continue;
        }
        let wins = best.is_none_or(|(other, most)| {
            let is_earlier = choose_first && place(name) < place(other) && place(name).is_some();
            weight > most || weight == most && is_earlier
        });
        if wins {
            best = Some((name, weight));
        }
    }
    match best?.0 {
        "*" => offered.first().copied(),
        name => place(name).and_then(|place| offered.get(place)).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn the_coding_with_the_most_weight_is_chosen() {
        for (accepted, expected) in [
            ("gzip", Some("gzip")),
            ("gzip, br", Some("gzip")),
            ("gzip;q=0.5, br;q=0.8", Some("br")),
            ("gzip;q=0, *", Some("br")),
            ("*", Some("br")),
            ("identity, gzip;q=0.9", None),
            ("deflate", None),
            ("gzip;q=x", None),
            ("", None),
        ] {
            let chosen = choose(accepted, vec!["br", "gzip"], false);
            assert_eq!(chosen, expected, "{accepted}");
        }
        let first = choose("gzip, br", vec!["br", "gzip"], true);
        assert_eq!(first, Some("br"));
    }
}
