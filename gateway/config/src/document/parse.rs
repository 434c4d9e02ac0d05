//! From parser events to the arena.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::{Document, Kind, Node, NodeId, Step, scalar};
use crate::Error;

/// Largest file, in bytes.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Most nodes of a file, aliases expanded.
const MAX_NODES: usize = 1_000_000;
/// Most nodes that aliases may add, so that a small file cannot grow large.
const MAX_COPIES: usize = 100_000;
/// Deepest nesting.
const MAX_DEPTH: usize = 100;

pub(super) fn document(name: &str, text: &str) -> Result<Document, Error> {
    if text.len() > MAX_BYTES {
        return Err(Error::whole(
            name,
            format!("the file is larger than {} MiB", MAX_BYTES / 1024 / 1024),
        ));
    }
    let mut builder = Builder {
        document: Document {
            name: name.into(),
            nodes: Vec::new(),
            roots: Vec::new(),
        },
        stack: Vec::new(),
        anchors: HashMap::new(),
        copies: 0,
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| {
            Error::at(
                name,
                place(error.marker()),
                String::new(),
                error.info().to_owned(),
            )
        })?;
        let at = place(&span.start);
        builder.event(event, at).map_err(|(parent, message)| {
            let path = parent
                .map(|node| builder.document.path(node))
                .unwrap_or_default();
            Error::at(name, at, path, message)
        })?;
    }
    Ok(builder.document)
}

fn place(marker: &Marker) -> (u32, u32) {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    (
        number(marker.line()),
        number(marker.col()).saturating_add(1),
    )
}

/// The mapping or sequence in which something is wrong, and what.
type Refusal = (Option<NodeId>, String);

struct Builder {
    document: Document,
    stack: Vec<Frame>,
    anchors: HashMap<usize, NodeId>,
    copies: usize,
}

/// A mapping or sequence that is still open.
struct Frame {
    node: NodeId,
    /// In a mapping: the key whose value comes next, and whether the entry is skipped.
    key: Option<(NodeId, bool)>,
    keys: HashSet<Box<str>>,
    /// A place to hang an item on that belongs to no entry.
    is_mapping: bool,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, at: (u32, u32)) -> Result<(), Refusal> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => {
                Ok(())
            }
            Event::DocumentEnd => {
                self.anchors.clear();
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let is_ignore = tag.as_ref().is_some_and(|tag| is_ignore(tag));
                if self.expects_key() {
                    return self.key(&text, style, is_ignore, anchor, at);
                }
                let kind = self.scalar(&text, style, tag.as_deref())?;
                let node = self.add(kind, at)?;
                self.anchor(anchor, node);
                Ok(())
            }
            Event::SequenceStart(anchor, tag) => {
                self.collection_tag(tag.as_deref(), "seq")?;
                self.open(Kind::Sequence(Vec::new()), anchor, at)
            }
            Event::MappingStart(anchor, tag) => {
                self.collection_tag(tag.as_deref(), "map")?;
                self.open(Kind::Mapping(Vec::new()), anchor, at)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.stack.pop();
                Ok(())
            }
            Event::Alias(anchor) => {
                let Some(&source) = self.anchors.get(&anchor) else {
                    return self.refuse("unknown anchor");
                };
                if self.stack.iter().any(|frame| frame.node == source) {
                    return self.refuse("an alias may not stand inside the value it repeats");
                }
                if self.expects_key() {
                    let Kind::Text(text) = self.document.kind(source) else {
                        return self.refuse("a key has to be a string");
                    };
                    let text = text.clone();
                    return self.key(&text, ScalarStyle::DoubleQuoted, false, 0, at);
                }
                let depth = self.stack.len();
                let (parent, step) = self.hook();
                let copy = self.copy(source, parent, step, depth)?;
                self.attach(copy);
                Ok(())
            }
        }
    }

    fn refuse<T>(&self, message: impl Into<String>) -> Result<T, Refusal> {
        Err((self.stack.last().map(|frame| frame.node), message.into()))
    }

    fn expects_key(&self) -> bool {
        self.stack
            .last()
            .is_some_and(|frame| frame.is_mapping && frame.key.is_none())
    }

    fn scalar(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Kind, Refusal> {
        match tag {
            None if style == ScalarStyle::Plain => Ok(scalar::plain(text)),
            None => Ok(Kind::Text(text.into())),
            Some(tag) if tag.is_yaml_core_schema() => match scalar::tagged(&tag.suffix, text) {
                Some(kind) => Ok(kind),
                None => self.refuse(format!("{text:?} does not fit the tag !!{}", tag.suffix)),
            },
            Some(tag) if tag.handle.is_empty() && tag.suffix == "!" => Ok(Kind::Text(text.into())),
            Some(tag) => self.refuse(format!("unknown tag {tag}")),
        }
    }

    fn collection_tag(&self, tag: Option<&Tag>, expected: &str) -> Result<(), Refusal> {
        match tag {
            Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == expected) => {
                self.refuse(format!("unknown tag {tag}"))
            }
            _ => Ok(()),
        }
    }

    fn key(
        &mut self,
        text: &str,
        style: ScalarStyle,
        skip: bool,
        anchor: usize,
        at: (u32, u32),
    ) -> Result<(), Refusal> {
        if text.is_empty() && style == ScalarStyle::Plain {
            return self.refuse("a key is missing");
        }
        if let Some(frame) = self.stack.last_mut()
            && !skip
            && !frame.keys.insert(text.into())
        {
            return self.refuse(format!("field {text:?} is given twice"));
        }
        let parent = self.stack.last().map(|frame| frame.node);
        let node = self.push(Kind::Text(text.into()), at, parent, Step::Key)?;
        self.anchor(anchor, node);
        if let Some(frame) = self.stack.last_mut() {
            frame.key = Some((node, skip));
        }
        Ok(())
    }

    fn open(&mut self, kind: Kind, anchor: usize, at: (u32, u32)) -> Result<(), Refusal> {
        if self.expects_key() {
            return self.refuse("a key has to be a string");
        }
        if self.stack.len() >= MAX_DEPTH {
            return self.refuse(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        let is_mapping = matches!(kind, Kind::Mapping(_));
        let node = self.add(kind, at)?;
        self.anchor(anchor, node);
        self.stack.push(Frame {
            node,
            key: None,
            keys: HashSet::new(),
            is_mapping,
        });
        Ok(())
    }

    fn anchor(&mut self, anchor: usize, node: NodeId) {
        if anchor != 0 {
            self.anchors.insert(anchor, node);
        }
    }

    fn add(&mut self, kind: Kind, at: (u32, u32)) -> Result<NodeId, Refusal> {
        let (parent, step) = self.hook();
        let node = self.push(kind, at, parent, step)?;
        self.attach(node);
        Ok(node)
    }

    fn push(
        &mut self,
        kind: Kind,
        (line, column): (u32, u32),
        parent: Option<NodeId>,
        step: Step,
    ) -> Result<NodeId, Refusal> {
        match u32::try_from(self.document.nodes.len()) {
            Ok(id) if (id as usize) < MAX_NODES => {
                self.document.nodes.push(Node {
                    kind,
                    line,
                    column,
                    parent,
                    step,
                });
                Ok(NodeId(id))
            }
            _ => self.refuse(format!("more than {MAX_NODES} values")),
        }
    }

    /// Place of the next value.
    fn hook(&self) -> (Option<NodeId>, Step) {
        let Some(frame) = self.stack.last() else {
            return (None, Step::Root);
        };
        let step = match (frame.key, self.document.kind(frame.node)) {
            (Some((key, _)), _) => Step::Value(key),
            (None, Kind::Sequence(items)) => {
                Step::Item(u32::try_from(items.len()).unwrap_or(u32::MAX))
            }
            (None, _) => Step::Key,
        };
        (Some(frame.node), step)
    }

    /// Puts a value where [`hook`](Self::hook) said.
    fn attach(&mut self, node: NodeId) {
        let Some(frame) = self.stack.last_mut() else {
            self.document.roots.push(node);
            return;
        };
        let key = frame.key.take();
        let parent = self.document.nodes.get_mut(frame.node.0 as usize);
        match (parent.map(|parent| &mut parent.kind), key) {
            (Some(Kind::Sequence(items)), _) => items.push(node),
            (Some(Kind::Mapping(entries)), Some((key, false))) => entries.push((key, node)),
            _ => {}
        }
    }

    /// A deep copy of `source` with its old positions.
    fn copy(
        &mut self,
        source: NodeId,
        parent: Option<NodeId>,
        step: Step,
        depth: usize,
    ) -> Result<NodeId, Refusal> {
        self.copies += 1;
        if self.copies > MAX_COPIES {
            return self.refuse(format!("aliases repeat more than {MAX_COPIES} values"));
        }
        if depth > MAX_DEPTH {
            return self.refuse(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        let Some(Node {
            kind, line, column, ..
        }) = self.document.node(source).cloned()
        else {
            return self.refuse("unknown anchor");
        };
        let empty = match &kind {
            Kind::Sequence(_) => Kind::Sequence(Vec::new()),
            Kind::Mapping(_) => Kind::Mapping(Vec::new()),
            scalar => scalar.clone(),
        };
        let copy = self.push(empty, (line, column), parent, step)?;
        let filled = match kind {
            Kind::Sequence(items) => {
                let mut copies = Vec::with_capacity(items.len());
                for (index, item) in (0..).zip(items) {
                    copies.push(self.copy(item, Some(copy), Step::Item(index), depth + 1)?);
                }
                Kind::Sequence(copies)
            }
            Kind::Mapping(entries) => {
                let mut copies = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    let key = self.copy(key, Some(copy), Step::Key, depth + 1)?;
                    let value = self.copy(value, Some(copy), Step::Value(key), depth + 1)?;
                    copies.push((key, value));
                }
                Kind::Mapping(copies)
            }
            _ => return Ok(copy),
        };
        if let Some(node) = self.document.nodes.get_mut(copy.0 as usize) {
            node.kind = filled;
        }
        Ok(copy)
    }
}

fn is_ignore(tag: &Tag) -> bool {
    tag.handle == "!" && tag.suffix == "ignore"
}
