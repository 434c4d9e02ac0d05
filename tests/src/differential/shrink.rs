//! Makes a scenario smaller as long as it shows what it showed.

use serde_json::Value;

/// A step on the way to a value inside a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Item(usize),
}

/// Keys that a scenario cannot do without, or that have no part in a run.
const KEPT: [&str; 4] = ["name", "compare", "log", "limit"];

/// Parts that scripts are in, and no configuration.
const SCRIPTS: [&str; 5] = ["client", "clients", "processor", "upstream", "upstreams"];

/// Takes part by part out of the scenario, the large ones first, and keeps out what `shows` does not miss; then makes what is
/// left plainer. Ends when nothing more can go, or after `tries` looks.
///
/// # Errors
/// Those of `shows`.
pub fn shrink(
    scenario: &Value,
    mut tries: usize,
    mut shows: impl FnMut(&Value) -> anyhow::Result<bool>,
) -> anyhow::Result<Value> {
    let mut best = scenario.clone();
    loop {
        let before = best.clone();
        let mut at = 0;
        while let Some(candidate) = smaller(&best).into_iter().nth(at) {
            if tries == 0 {
                return Ok(best);
            }
            tries -= 1;
            if shows(&candidate)? {
                // What comes behind the part that is gone now has its number.
                best = candidate;
            } else {
                at += 1;
            }
        }
        if best == before {
            return Ok(best);
        }
    }
}

/// The scenario with one part less, for each part, outer ones before inner ones; then with one part plainer.
fn smaller(scenario: &Value) -> Vec<Value> {
    let mut paths = Vec::new();
    collect(scenario, &mut Vec::new(), &mut paths);
    paths.sort_by_key(Vec::len);
    let mut out = Vec::new();
    for path in &paths {
        let mut without = scenario.clone();
        if remove(&mut without, path) {
            out.push(without);
        }
    }
    for path in &paths {
        // In a configuration a list is not its only item.
        let of_a_script =
            matches!(path.first(), Some(Step::Key(name)) if SCRIPTS.contains(&name.as_str()));
        if !of_a_script {
            continue;
        }
        for plainer in at_mut(&mut scenario.clone(), path).map_or_else(Vec::new, |v| plain(v)) {
            let mut candidate = scenario.clone();
            if let Some(place) = at_mut(&mut candidate, path) {
                *place = plainer;
            }
            out.push(candidate);
        }
    }
    out
}

/// Every part but those that have to stay.
fn collect(value: &Value, path: &mut Vec<Step>, out: &mut Vec<Vec<Step>>) {
    let parts: Vec<(Step, &Value)> = match value {
        Value::Object(map) => map
            .iter()
            .filter(|(name, _)| !path.is_empty() || !KEPT.contains(&name.as_str()))
            .map(|(name, item)| (Step::Key(name.clone()), item))
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(index, item)| (Step::Item(index), item))
            .collect(),
        _ => return,
    };
    for (step, item) in parts {
        path.push(step);
        out.push(path.clone());
        collect(item, path, out);
        path.pop();
    }
}

/// Values that say less than this one.
fn plain(value: &Value) -> Vec<Value> {
    match value {
        // A list of one thing often means the thing.
        Value::Array(items) if items.len() == 1 => vec![items[0].clone()],
        Value::Object(map) if map.contains_key("always") => map.values().cloned().collect(),
        Value::Number(number) if number.as_u64().is_some_and(|n| n > 1000) => {
            vec![1000.into()]
        }
        _ => Vec::new(),
    }
}

fn remove(value: &mut Value, path: &[Step]) -> bool {
    let Some((last, parents)) = path.split_last() else {
        return false;
    };
    match (at_mut(value, parents), last) {
        (Some(Value::Object(map)), Step::Key(name)) => map.shift_remove(name).is_some(),
        (Some(Value::Array(items)), Step::Item(index)) if *index < items.len() => {
            items.remove(*index);
            true
        }
        _ => false,
    }
}

fn at_mut<'a>(value: &'a mut Value, path: &[Step]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |value, step| match step {
        Step::Key(name) => value.get_mut(name),
        Step::Item(index) => value.get_mut(index),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_needed_goes() -> anyhow::Result<()> {
        let scenario = json!({
            "name": "s", "log": "l",
            "filter": {"failure_mode_allow": true, "processing_mode": {"request_body_mode": "STREAMED", "request_trailer_mode": "SEND"}},
            "client": {"protocol": "h2", "body": ["one", {"pause": 60}, "two"], "headers": ["x-a: 1"]},
            "processor": {"request_body": {"always": [{"reply": {"body": "x", "set": ["x-b: 1"]}}, "close"]}},
        });
        let shows = |s: &Value| {
            Ok(
                s["filter"]["processing_mode"]["request_body_mode"] == "STREAMED"
                    && s["client"]["body"]
                        .as_array()
                        .is_some_and(|b| b.contains(&json!("two")))
                    && s["processor"].to_string().contains("close"),
            )
        };
        let small = shrink(&scenario, 1000, shows)?;
        let expected = json!({
            "name": "s", "log": "l",
            "filter": {"processing_mode": {"request_body_mode": "STREAMED"}},
            "client": {"body": ["two"]},
            "processor": {"request_body": "close"},
        });
        assert_eq!(small, expected);
        Ok(())
    }

    #[test]
    fn it_ends_after_so_many_looks() -> anyhow::Result<()> {
        let scenario = json!({"name": "s", "client": {"a": 1, "b": 2, "c": 3}});
        let mut looks = 0;
        let small = shrink(&scenario, 2, |_| {
            looks += 1;
            Ok(false)
        })?;
        assert_eq!((small, looks), (scenario, 2));
        Ok(())
    }
}
