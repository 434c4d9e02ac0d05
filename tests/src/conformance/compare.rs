//! Compares two observations, path by path.

use serde_json::Value;

/// A place where two observations differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Place, such as `client.0.head.:status`.
    pub path: Vec<String>,
    /// Expected value.
    pub want: String,
    /// Actual value.
    pub got: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: want {}, got {}",
            self.path.join("."),
            shortened(&self.want),
            shortened(&self.got)
        )
    }
}

/// All differences outside of the paths in `skip` (see [`matches()`]).
#[must_use]
pub fn differences(want: &Value, got: &Value, skip: &[String]) -> Vec<Difference> {
    let mut out = Vec::new();
    walk(Some(want), Some(got), &mut Vec::new(), &mut out);
    out.retain(|d| !skip.iter().any(|pattern| matches(pattern, &d.path)));
    out
}

/// Tells whether a path lies at or below the one that a pattern names: steps separated by `/`, `*` for any one step.
#[must_use]
pub fn matches(pattern: &str, path: &[String]) -> bool {
    let steps: Vec<&str> = pattern.split('/').collect();
    steps.len() <= path.len()
        && steps
            .iter()
            .zip(path)
            .all(|(step, at)| *step == "*" || step == at)
}

fn walk(
    want: Option<&Value>,
    got: Option<&Value>,
    path: &mut Vec<String>,
    out: &mut Vec<Difference>,
) {
    match (want, got) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            for key in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                path.push(key.clone());
                walk(a.get(key), b.get(key), path, out);
                path.pop();
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for index in 0..a.len().max(b.len()) {
                path.push(index.to_string());
                walk(a.get(index), b.get(index), path, out);
                path.pop();
            }
        }
        (want, got) if want == got => {}
        (want, got) => out.push(Difference {
            path: path.clone(),
            want: show(want),
            got: show(got),
        }),
    }
}

fn show(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".into(), Value::to_string)
}

/// As much of a value as a reader needs to find it.
fn shortened(text: &str) -> String {
    const MOST: usize = 240;
    let mut shown: String = text.chars().take(MOST).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_name_their_place() {
        let want = json!({"a": [{"b": 1}, 2], "c": "x"});
        let got = json!({"a": [{"b": 3}], "c": "x", "d": null});
        let paths: Vec<String> = differences(&want, &got, &[])
            .iter()
            .map(|d| d.path.join("/"))
            .collect();
        assert_eq!(paths, ["a/0/b", "a/1", "d"]);
    }

    #[test]
    fn a_long_value_is_known_whole_and_shown_in_part() {
        let long = "x".repeat(300);
        let found = differences(&json!({"a": long}), &json!({}), &[]);
        assert_eq!(found[0].want.len(), 302);
        assert!(found[0].to_string().ends_with("x…, got nothing"));
    }

    #[test]
    fn skipped_paths_are_prefixes() {
        let want = json!({"a": [{"b": 1}, {"b": 1}]});
        let got = json!({"a": [{"b": 2}, {"b": 2}]});
        assert_eq!(differences(&want, &got, &["a/*/b".into()]), []);
        assert_eq!(differences(&want, &got, &["a/0".into()]).len(), 1);
    }
}
