//! Links and paths in the documents lead to something.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;

/// Every file that is part of the tree, but for what is built, from the root on.
fn files(root: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name == "target" || name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            files(root, &path, found);
        } else if let Ok(inside) = path.strip_prefix(root) {
            found.push(inside.to_string_lossy().into_owned());
        }
    }
}

fn tree() -> (PathBuf, Vec<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let root = root.canonicalize().unwrap();
    let mut found = Vec::new();
    files(&root, &root, &mut found);
    (root, found)
}

/// The text without its blocks of code, which hold what is no link.
fn prose(text: &str) -> String {
    let mut code = false;
    let mut out = String::new();
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        if !code && !fence {
            out.push_str(line);
        }
        out.push('\n');
        code ^= fence;
    }
    out
}

/// The anchors of the headings, as GitHub makes them, and those that the text sets.
fn anchors(text: &str) -> BTreeSet<String> {
    let set = Regex::new("<a id=\"([^\"]+)\">").unwrap();
    let set = set.captures_iter(text).map(|found| found[1].to_owned());
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .chain(set)
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let (root, files) = tree();
    let mut dead = Vec::new();
    for document in files.iter().filter(|file| file.ends_with(".md")) {
        let text = prose(&fs::read_to_string(root.join(document)).unwrap());
        for found in link.captures_iter(&text) {
            let target = &found[1];
            if target.contains("://") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            // A part of a page of docs/, which a test puts together.
            let from = match document.ends_with("tests/page.md") {
                true => root.join("docs/page.md"),
                false => root.join(document),
            };
            let to = match path {
                "" => from,
                _ => from.with_file_name(path),
            };
            let is_there = to.exists()
                && (anchor.is_empty()
                    || fs::read_to_string(&to)
                        .is_ok_and(|text| anchors(&prose(&text)).contains(anchor)));
            if !is_there {
                dead.push(format!("{document}: {target}"));
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

/// A path in code type is one of the tree, or the end of one. What the reader makes stands in `READERS`.
#[test]
fn paths_are_of_the_tree() {
    const READERS: [&str; 1] = ["guard/src/main.rs"];
    let path = Regex::new(r"`([a-z][a-z0-9_-]*(?:/[a-z0-9_.-]+)+\.(?:rs|md|yaml|toml))`").unwrap();
    let (root, files) = tree();
    let mut unknown = Vec::new();
    // The changelog tells of files that were.
    let documents = files
        .iter()
        .filter(|file| file.ends_with(".md") && *file != "CHANGELOG.md");
    for document in documents {
        let text = prose(&fs::read_to_string(root.join(document)).unwrap());
        for found in path.captures_iter(&text) {
            let wanted = &found[1];
            let end = format!("/{wanted}");
            let is_there = files
                .iter()
                .any(|file| file == wanted || file.ends_with(&end));
            if !is_there && !READERS.contains(&wanted) {
                unknown.push(format!("{document}: {wanted}"));
            }
        }
    }
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
}

/// A type in code type, or a function of one, is one of the sources.
#[test]
fn names_of_the_architecture_are_of_the_sources() {
    let name = Regex::new(r"`([A-Z][a-z]\w*)(?:::([a-z_]+))?(?:\([^`]*)?`").unwrap();
    let (root, files) = tree();
    let sources = files.iter().filter(|file| file.ends_with(".rs"));
    let read = |file: &String| fs::read_to_string(root.join(file)).unwrap();
    let sources: String = sources.map(read).collect();
    let has = |kinds: &str, name: &str| {
        let found = Regex::new(&format!(r"\b(?:{kinds}) {name}\b")).unwrap();
        found.is_match(&sources)
    };
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let mut unknown = Vec::new();
    for found in name.captures_iter(&text) {
        let is_there = has("struct|enum|trait|type", &found[1])
            && found
                .get(2)
                .is_none_or(|function| has("fn", function.as_str()));
        if !is_there {
            unknown.push(found[0].to_owned());
        }
    }
    assert!(unknown.is_empty(), "{}", unknown.join(", "));
}
