//! Keeps `docs/http-checklist.md` true: every rule has its row, every id that a case carries is a rule, and what a row
//! names exists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, ensure};

/// Number of rules of each letter.
const RULES: &[(char, usize)] = &[
    ('A', 12),
    ('B', 15),
    ('C', 9),
    ('D', 7),
    ('E', 6),
    ('F', 5),
    ('G', 7),
    ('H', 6),
    ('I', 6),
    ('J', 6),
    ('K', 14),
    ('L', 13),
    ('M', 13),
];

/// Checks the page against the cases' ids and the other suites. `root` is the workspace.
///
/// # Errors
/// Whatever the page says that is not so, or does not say.
pub fn check<'a>(root: &Path, ids: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
    let carried: BTreeSet<&str> = ids.flat_map(str::split_whitespace).collect();
    let page = root.join("docs/http-checklist.md");
    let text = std::fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, rule, _, tried, note, _] = cells[..] else {
            anyhow::bail!("not a row of four cells: {line}");
        };
        if rule != "Rule" {
            ensure!(rows.insert(rule, (tried, note)).is_none(), "{rule} twice");
        }
    }
    let wanted: BTreeSet<String> = RULES
        .iter()
        .flat_map(|(letter, count)| (1..=*count).map(move |n| format!("{letter}{n}")))
        .collect();
    let known: BTreeSet<String> = rows.keys().map(|rule| (*rule).to_owned()).collect();
    ensure!(wanted == known, "the rules are {known:?}");
    for id in &carried {
        let row = rows.get(id).with_context(|| format!("{id} is no rule"))?;
        ensure!(row.0.contains("wire"), "{id} has cases on the wire");
    }
    for (rule, (tried, note)) in &rows {
        if *tried == "–" {
            ensure!(!note.is_empty(), "{rule}: neither a test nor a reason");
            continue;
        }
        for item in tried.split(", ") {
            let exists = exists(root, item, carried.contains(rule));
            ensure!(exists?, "{rule}: there is no {item}");
        }
    }
    Ok(())
}

fn exists(root: &Path, item: &str, carried: bool) -> anyhow::Result<bool> {
    let read = |path: &str| {
        std::fs::read_to_string(root.join(path)).with_context(|| format!("{item}: {path}"))
    };
    let trial = |path: &str, name: &str| Ok(read(path)?.contains(&format!("trial(\"{name}\"")));
    match item.split_once(' ') {
        None => Ok(item == "wire" && carried),
        Some(("abuse", name)) => trial("tests/tests/abuse/main.rs", name),
        Some(("lifecycle", name)) => trial("tests/tests/lifecycle.rs", name),
        Some(("scenario", name)) => {
            let (group, name) = name.split_once('/').context("group/name")?;
            let text = read(&format!("tests/scenarios/{group}.yaml"))?;
            let found = text.lines().any(|line| {
                let name_of = line
                    .strip_prefix("- name: ")
                    .or_else(|| line.strip_prefix("- {name: ")?.split([',', '}']).next());
                name_of == Some(name)
            });
            Ok(found)
        }
        Some(("test", path)) => {
            let text = read(path)?;
            let marks = ["#[test]", "::test]", "::test("];
            Ok(marks.iter().any(|mark| text.contains(mark)))
        }
        Some(_) => Ok(false),
    }
}
