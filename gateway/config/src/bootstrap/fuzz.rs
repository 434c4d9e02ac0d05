//! Any input gives an answer. `EXTPROC_FUZZ_RUNS=1000000` makes a long run.

use proptest::{prelude::*, sample::Index};

use super::parse as parse_envoy;
use crate::fuzzing::runs;

const FULL: &str = include_str!("testdata/full.yaml");

/// Texts that are put in place of a part of the file.
fn splinter() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[ \\n:#&*!|>%@`'\"\\[\\]{},?-]{1,4}",
        "\\PC{1,6}",
        Just("~".to_owned()),
        Just("-1".to_owned()),
        Just("18446744073709551616".to_owned()),
        Just("\"\\u0000\"".to_owned()),
    ]
}

proptest! {
    #![proptest_config(runs(500))]

    #[test]
    fn a_damaged_file_gives_an_answer(
        damages in prop::collection::vec((any::<Index>(), 0..30_usize, splinter()), 1..4)
    ) {
        let mut chars: Vec<char> = FULL.chars().collect();
        for (at, length, text) in damages {
            let start = at.index(chars.len());
            let end = (start + length).min(chars.len());
            chars.splice(start..end, text.chars());
        }
        let text: String = chars.into_iter().collect();
        if let Err(error) = parse_envoy("envoy.yaml", &text) {
            let line = error.to_string();
            prop_assert!(line.starts_with("envoy.yaml:"), "{}", line);
        }
    }

    #[test]
    fn a_changed_value_gives_an_answer(line in any::<Index>(), value in splinter()) {
        let mut lines: Vec<String> = FULL.lines().map(str::to_owned).collect();
        let at = line.index(lines.len());
        if let Some((key, _)) = lines[at].split_once(": ") {
            lines[at] = format!("{key}: {value}");
        } else {
            lines.remove(at);
        }
        _ = parse_envoy("envoy.yaml", &lines.join("\n"));
    }
}
