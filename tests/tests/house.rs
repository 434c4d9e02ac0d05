//! Rooms of the crates and who may know whom, read from the sources and held against `house.toml`.
//!
//! A room is a top-level module of a crate. An arrow leads from a room to one that it names: in a `use`, in a path, or in
//! the tokens of a macro. Code that is compiled for tests alone may know everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Spacing, TokenStream, TokenTree};
use syn::{
    Attribute, File, Item, ItemMod, ItemUse, Meta, UseTree,
    visit::{self, Visit},
};
use toml_edit::{Document, Table};

const HOUSE: &str = include_str!("house.toml");

/// An arrow and the first place that it was found in.
type Arrows = BTreeMap<(String, String), String>;

#[test]
fn every_arrow_is_in_the_table() {
    let house: Document<&str> = Document::parse(HOUSE).unwrap();
    let mut faults = Vec::new();
    for (name, krate) in house.iter() {
        let krate = krate.as_table().unwrap();
        let rooms: BTreeMap<&str, BTreeSet<&str>> = table(krate, "rooms")
            .iter()
            .map(|(room, knows)| (room, words(knows.as_str().unwrap())))
            .collect();
        if let Some(circle) = circle(&rooms) {
            faults.push(format!("{name}: the table has a circle: {circle}"));
        }
        let source = krate.get("path").and_then(|path| path.as_str()).unwrap();
        let arrows = arrows(&root().join(source));
        for ((from, to), place) in &arrows {
            let Some(known) = rooms.get(from.as_str()) else {
                faults.push(format!("{name}: `{from}` is not in the table ({place})"));
                continue;
            };
            // Other crates are in the table only where not all of one may be known.
            let room_of_crate = to.split_once("::").is_some_and(|(outer, _)| {
                known
                    .iter()
                    .any(|k| k.split("::").next() == Some(outer) && k.contains("::"))
            });
            if to.contains("::") && !room_of_crate {
                continue;
            }
            if !known.contains(to.as_str()) {
                faults.push(format!("{name}: {from} -> {to} ({place})"));
            }
        }
        for (from, tos) in &rooms {
            for to in tos {
                if !arrows.contains_key(&((*from).to_owned(), (*to).to_owned())) {
                    faults.push(format!("{name}: nothing needs {from} -> {to}"));
                }
            }
        }
        for room in rooms.keys() {
            if !modules(&root().join(source)).contains(*room) {
                faults.push(format!("{name}: there is no room `{room}`"));
            }
        }
    }
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

#[test]
fn every_room_is_described() {
    let house: Document<&str> = Document::parse(HOUSE).unwrap();
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut missing = Vec::new();
    for (_, krate) in house.iter() {
        let krate = krate.as_table().unwrap();
        let source = krate.get("path").and_then(|path| path.as_str()).unwrap();
        // The table of the rooms of a crate ends with an empty line.
        let described = text.split_once(&format!("| `{source}` |"));
        let described = described.and_then(|(_, table)| table.split("\n\n").next());
        let rooms = table(krate, "rooms").iter();
        let unknown = rooms.filter(|(room, _)| {
            !described.is_some_and(|table| table.contains(&format!("`{room}`")))
        });
        missing.extend(unknown.map(|(room, _)| format!("{source}: {room}")));
    }
    assert!(
        missing.is_empty(),
        "not in ARCHITECTURE.md: {}",
        missing.join(", ")
    );
}

/// Tests wait for events. One that sleeps has time as its subject, or a peer that is slow on purpose, and says so.
#[test]
fn every_sleep_of_a_test_has_its_reason() {
    // The clock of the scenarios, and the pause between two questions.
    let clocks = ["support/clock.rs", "support/wait.rs"];
    let mut bare = Vec::new();
    for file in sources(&root()) {
        let inside = file.strip_prefix(root()).unwrap();
        let is_test = inside.components().any(|part| part.as_os_str() == "tests");
        if !is_test || clocks.iter().any(|clock| file.ends_with(clock)) {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let mut before = "";
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            let sleeps = line.match_indices("sleep(").any(|(at, _)| {
                let call = line[..at].ends_with("time::") || line[..at].ends_with("thread::");
                call || at == 0 || line[..at].ends_with(' ') && !line[..at].ends_with("fn ")
            });
            if sleeps && !line.starts_with("//") && !before.starts_with("//") {
                bare.push(format!("{}:{}", file.display(), number + 1));
            }
            before = line;
        }
    }
    assert!(
        bare.is_empty(),
        "no reason in the line above:\n{}",
        bare.join("\n")
    );
}

/// The Rust files below a folder, but for what is built.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
    files
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn table<'a>(krate: &'a Table, name: &str) -> &'a Table {
    static NONE: std::sync::OnceLock<Table> = std::sync::OnceLock::new();
    krate
        .get(name)
        .and_then(|item| item.as_table())
        .unwrap_or_else(|| NONE.get_or_init(Table::new))
}

fn words(text: &str) -> BTreeSet<&str> {
    text.split_whitespace().collect()
}

/// Returns a circle among the rooms of a table.
fn circle(rooms: &BTreeMap<&str, BTreeSet<&str>>) -> Option<String> {
    let mut left = rooms.clone();
    loop {
        let ground = left
            .iter()
            .find(|(_, knows)| !knows.iter().any(|room| left.contains_key(room)))
            .map(|(room, _)| *room);
        match ground {
            Some(room) => drop(left.remove(room)),
            None if left.is_empty() => return None,
            None => return Some(left.keys().copied().collect::<Vec<_>>().join(", ")),
        }
    }
}

/// Top-level modules of a crate.
fn modules(source: &Path) -> BTreeSet<String> {
    parse(&source.join("lib.rs"))
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Mod(module) if !is_test(&module.attrs) => Some(module.ident.to_string()),
            _ => None,
        })
        .collect()
}

fn arrows(source: &Path) -> Arrows {
    let file = parse(&source.join("lib.rs"));
    let mut names = BTreeMap::new();
    for item in &file.items {
        match item {
            Item::Mod(module) => {
                let name = module.ident.to_string();
                names.insert(name.clone(), name);
            }
            // What the root exports stands for the room that it comes from.
            Item::Use(item) => {
                for (path, name) in leaves(&item.tree) {
                    let path: Vec<&str> = path.iter().map(String::as_str).collect();
                    match path.as_slice() {
                        ["self" | "crate", room, ..] => {
                            names.insert(name, (*room).to_owned());
                        }
                        [krate] => {
                            names.insert(name, format!("{krate}::"));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let mut arrows = Arrows::new();
    for item in &file.items {
        if let Item::Mod(module) = item
            && !is_test(&module.attrs)
        {
            let mut reader = Reader {
                names: &names,
                arrows: &mut arrows,
                module: Vec::new(),
                file: PathBuf::new(),
                folder: source.to_owned(),
            };
            reader.module(module);
        }
    }
    arrows
}

fn parse(file: &Path) -> File {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
    syn::parse_file(&text).unwrap_or_else(|error| panic!("{file:?}: {error}"))
}

/// Tells whether `#[cfg(test)]` or `#[cfg(all(test, …))]` is among the attributes.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => {
            let condition = list.tokens.to_string();
            condition == "test" || condition.replace(' ', "").starts_with("all(test,")
        }
        _ => false,
    })
}

/// All paths of a `use` with the names that they get.
fn leaves(tree: &UseTree) -> Vec<(Vec<String>, String)> {
    match tree {
        UseTree::Path(path) => leaves(&path.tree)
            .into_iter()
            .map(|(mut rest, name)| {
                let first = path.ident.to_string();
                let name = if name == "self" { first.clone() } else { name };
                rest.insert(0, first);
                (rest, name)
            })
            .collect(),
        UseTree::Name(name) => vec![(vec![name.ident.to_string()], name.ident.to_string())],
        UseTree::Rename(rename) => {
            vec![(vec![rename.ident.to_string()], rename.rename.to_string())]
        }
        UseTree::Glob(_) => vec![(vec!["*".to_owned()], "*".to_owned())],
        UseTree::Group(group) => group.items.iter().flat_map(leaves).collect(),
    }
}

/// Reads one module after the other.
struct Reader<'a> {
    /// Names at the root of the crate, and the rooms that they stand for; `name::` is another crate.
    names: &'a BTreeMap<String, String>,
    arrows: &'a mut Arrows,
    /// Path of the module that is read.
    module: Vec<String>,
    file: PathBuf,
    /// Folder of its submodules.
    folder: PathBuf,
}

impl Reader<'_> {
    fn module(&mut self, item: &ItemMod) {
        let name = item.ident.to_string();
        let outer = (self.file.clone(), self.folder.clone());
        self.module.push(name.clone());
        if let Some((_, items)) = &item.content {
            self.folder = self.folder.join(&name);
            for item in items {
                self.visit_item(item);
            }
        } else {
            let flat = self.folder.join(format!("{name}.rs"));
            self.file = match flat.exists() {
                true => flat,
                false => self.folder.join(&name).join("mod.rs"),
            };
            self.folder = self.folder.join(&name);
            let file = parse(&self.file);
            self.visit_file(&file);
        }
        self.module.pop();
        (self.file, self.folder) = outer;
    }

    /// A path as it is written, of which the first two segments behind the crate's root count.
    fn path(&mut self, path: &[String]) {
        let mut module = self.module.clone();
        let mut rest = path;
        match rest.first().map(String::as_str) {
            Some("crate") => {
                module.clear();
                rest = &rest[1..];
            }
            Some("super") => {
                while rest.first().is_some_and(|first| first == "super") {
                    module.pop();
                    rest = &rest[1..];
                }
            }
            // Of another crate, or of something that a `use` has named.
            Some(first) => {
                let to = match rest.get(1) {
                    Some(second) => format!("{first}::{second}"),
                    None => return,
                };
                return self.arrow(to);
            }
            None => return,
        }
        if !module.is_empty() {
            // Within the room.
            return;
        }
        let Some(first) = rest.first() else { return };
        let Some(room) = self.names.get(first) else {
            return;
        };
        match room.strip_suffix("::") {
            None => self.arrow(room.clone()),
            Some(krate) => {
                if let Some(second) = rest.get(1) {
                    self.arrow(format!("{krate}::{second}"));
                }
            }
        }
    }

    fn arrow(&mut self, to: String) {
        let from = self.module[0].clone();
        if from != to {
            let place = self.file.display().to_string();
            self.arrows.entry((from, to)).or_insert(place);
        }
    }

    /// Paths in the tokens of a macro.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.path(&std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                // Two colons are a separator of paths if nothing is between them.
                TokenTree::Punct(punct)
                    if punct.as_char() == ':'
                        && !path.is_empty()
                        && (colons == 1 || punct.spacing() == Spacing::Joint) =>
                {
                    colons += 1;
                }
                other => {
                    self.path(&std::mem::take(&mut path));
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.path(&path);
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            Item::Mod(item) => &item.attrs,
            Item::Const(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.module(item);
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        for (path, _) in leaves(&item.tree) {
            self.path(&path);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.path(&segments);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }
}
