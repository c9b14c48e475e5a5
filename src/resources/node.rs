//! YAML text as a tree of nodes with places.
//!
//! A file is cut at its document markers first, so a syntax error costs one document and not the
//! rest of the file. Aliases share their target; what they would expand to counts against a budget.
//!
//! **Invariant**: a tree is at most [`limit::YAML_DEPTH`] deep, and walking those of a file visits at
//! most [`limit::YAML_NODES`] nodes, long scalars counting as several.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use crate::base::limit;

/// A place within a file: line and column from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: u32,
    pub(super) column: u32,
}

/// A YAML value and where it begins.
#[derive(Clone, Debug)]
pub(super) struct Node<'i> {
    pub(super) position: Position,
    pub(super) value: Value<'i>,
    cost: u32,
    height: u8,
}

/// A YAML value.
#[derive(Clone, Debug)]
pub(super) enum Value<'i> {
    Scalar { text: Cow<'i, str>, quoted: bool },
    Sequence(Rc<[Node<'i>]>),
    Mapping(Rc<[Entry<'i>]>),
}

/// One key of a mapping with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry<'i> {
    pub(super) key: Cow<'i, str>,
    pub(super) position: Position,
    pub(super) value: Node<'i>,
}

/// What a plain scalar stands for, as Kubernetes' YAML reader has it (YAML 1.1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
}

/// Why a document could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DocumentError {
    #[error("{0}")]
    Syntax(String),
    #[error("values are nested deeper than {} levels", limit::YAML_DEPTH)]
    TooDeep,
    #[error(
        "the file grows past {} million values here, its aliases followed",
        limit::YAML_NODES / 1_000_000
    )]
    TooLarge,
    #[error("key \"{0}\" is already in this mapping")]
    DuplicateKey(String, Position),
    #[error("a mapping's key must be text")]
    KeyNotText,
}

/// A document of a file: its text and the lines before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk<'i> {
    pub(super) text: &'i str,
    pub(super) lines_before: u32,
}

/// Cuts a file at the lines that are document markers (`---`).
pub(super) fn chunks(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut start, mut start_line, mut line) = (0, 0, 0);
    let mut offset = 0;
    for piece in text.split_inclusive('\n') {
        let marker = piece
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker && offset > start {
            let text = text.get(start..offset).unwrap_or_default();
            chunks.push(Chunk { text, lines_before: start_line });
            (start, start_line) = (offset, line);
        }
        offset += piece.len();
        line += 1;
    }
    chunks.push(Chunk { text: text.get(start..).unwrap_or_default(), lines_before: start_line });
    chunks
}

/// Nodes that may still be visited in a file.
pub(super) struct Budget(u32);

impl Default for Budget {
    fn default() -> Self {
        Self(u32::try_from(limit::YAML_NODES).unwrap_or(u32::MAX))
    }
}

/// Reads the values of one chunk; usually one.
pub(super) fn read<'i>(
    chunk: Chunk<'i>,
    budget: &mut Budget,
) -> Result<Vec<Node<'i>>, (Position, DocumentError)> {
    let only_directives = |line: &str| {
        let line = line.trim();
        line.is_empty() || line.starts_with(['#', '%'])
    };
    if chunk.text.lines().all(only_directives) {
        return Ok(Vec::new());
    }
    let mut tree = Tree {
        lines_before: chunk.lines_before,
        stack: Vec::new(),
        anchors: HashMap::new(),
        roots: Vec::new(),
        budget,
    };
    let mut parser: Parser<'_, StrInput<'_>> = Parser::new_from_str(chunk.text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| tree.syntax(&error))?;
        let position = tree.position(span.start);
        tree.accept(event, span).map_err(|error| match error {
            DocumentError::DuplicateKey(_, place) => (place, error),
            _ => (position, error),
        })?;
    }
    Ok(tree.roots)
}

struct Tree<'i, 'b> {
    lines_before: u32,
    stack: Vec<Frame<'i>>,
    anchors: HashMap<usize, Node<'i>>,
    roots: Vec<Node<'i>>,
    budget: &'b mut Budget,
}

struct Frame<'i> {
    position: Position,
    anchor: usize,
    content: Content<'i>,
}

enum Content<'i> {
    Sequence(Vec<Node<'i>>),
    Mapping(Vec<Entry<'i>>, Option<(Cow<'i, str>, Position)>),
}

impl<'i> Tree<'i, '_> {
    fn position(&self, marker: Marker) -> Position {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Position {
            line: count(marker.line()).saturating_add(self.lines_before),
            column: count(marker.col()).saturating_add(1),
        }
    }

    fn syntax(&self, error: &ScanError) -> (Position, DocumentError) {
        let error_here = match error.info() {
            // The parser's own limit on nesting, above ours.
            "recursion limit exceeded" => DocumentError::TooDeep,
            info => DocumentError::Syntax(info.to_owned()),
        };
        (self.position(*error.marker()), error_here)
    }

    fn accept(&mut self, event: Event<'i>, span: Span) -> Result<(), DocumentError> {
        let position = self.position(span.start);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let quoted = style != ScalarStyle::Plain || is_text_tag(tag.as_deref());
                let cost = u32::try_from(text.len() / 16).unwrap_or(u32::MAX).saturating_add(1);
                self.spend(cost)?;
                let value = Value::Scalar { text, quoted };
                self.attach(Node { position, value, cost, height: 0 }, anchor)
            }
            Event::SequenceStart(anchor, _) => {
                self.push(Frame { position, anchor, content: Content::Sequence(Vec::new()) })
            }
            Event::MappingStart(anchor, _) => {
                self.push(Frame { position, anchor, content: Content::Mapping(Vec::new(), None) })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(frame) => self.close(frame),
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let unknown = || DocumentError::Syntax("an alias has no anchor".to_owned());
                let target = self.anchors.get(&anchor).ok_or_else(unknown)?.clone();
                self.spend(target.cost)?;
                if self.stack.len() + usize::from(target.height) > limit::YAML_DEPTH {
                    return Err(DocumentError::TooDeep);
                }
                self.attach(Node { position, ..target }, 0)
            }
            Event::DocumentEnd => {
                self.anchors.clear();
                Ok(())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => {
                Ok(())
            }
        }
    }

    fn spend(&mut self, cost: u32) -> Result<(), DocumentError> {
        self.budget.0 = self.budget.0.checked_sub(cost).ok_or(DocumentError::TooLarge)?;
        Ok(())
    }

    fn push(&mut self, frame: Frame<'i>) -> Result<(), DocumentError> {
        if self.stack.len() >= limit::YAML_DEPTH {
            return Err(DocumentError::TooDeep);
        }
        self.spend(1)?;
        self.stack.push(frame);
        Ok(())
    }

    fn close(&mut self, frame: Frame<'i>) -> Result<(), DocumentError> {
        let Frame { position, anchor, content } = frame;
        let node = match content {
            Content::Sequence(items) => {
                let (cost, height) = measure(items.iter());
                Node { position, value: Value::Sequence(items.into()), cost, height }
            }
            Content::Mapping(entries, _) => {
                if let Some(entry) = duplicate(&entries) {
                    let key = entry.key.clone().into_owned();
                    return Err(DocumentError::DuplicateKey(key, entry.position));
                }
                let (cost, height) = measure(entries.iter().map(|entry| &entry.value));
                let keys = u32::try_from(entries.len()).unwrap_or(u32::MAX);
                let cost = cost.saturating_add(keys);
                Node { position, value: Value::Mapping(entries.into()), cost, height }
            }
        };
        self.attach(node, anchor)
    }

    fn attach(&mut self, node: Node<'i>, anchor: usize) -> Result<(), DocumentError> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.stack.last_mut().map(|frame| &mut frame.content) {
            None => self.roots.push(node),
            Some(Content::Sequence(items)) => items.push(node),
            Some(Content::Mapping(entries, pending)) => match (pending.take(), node.value) {
                (Some((key, key_position)), value) => {
                    let value = Node { value, ..node };
                    entries.push(Entry { key, position: key_position, value });
                }
                (None, Value::Scalar { text, .. }) => *pending = Some((text, node.position)),
                (None, _) => return Err(DocumentError::KeyNotText),
            },
        }
        Ok(())
    }
}

fn measure<'a, 'i: 'a>(nodes: impl Iterator<Item = &'a Node<'i>>) -> (u32, u8) {
    nodes.fold((1_u32, 1), |(cost, height), node| {
        (cost.saturating_add(node.cost), height.max(node.height.saturating_add(1)))
    })
}

/// The first entry whose key is already there.
fn duplicate<'a, 'i>(entries: &'a [Entry<'i>]) -> Option<&'a Entry<'i>> {
    let mut seen = HashSet::with_capacity(if entries.len() > 8 { entries.len() } else { 0 });
    entries.iter().enumerate().find_map(|(index, entry)| {
        let repeated = if entries.len() > 8 {
            !seen.insert(&entry.key)
        } else {
            entries.iter().take(index).any(|earlier| earlier.key == entry.key)
        };
        repeated.then_some(entry)
    })
}

fn is_text_tag(tag: Option<&Tag>) -> bool {
    tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str")
}

impl<'i> Node<'i> {
    /// What a scalar stands for; `None` for a sequence or mapping.
    pub(super) fn scalar(&self) -> Option<Scalar<'_>> {
        match &self.value {
            Value::Scalar { text, quoted: true } => Some(Scalar::Text(text)),
            Value::Scalar { text, quoted: false } => Some(resolve(text)),
            _ => None,
        }
    }

    /// Whether there is no value.
    pub(super) fn is_null(&self) -> bool {
        self.scalar() == Some(Scalar::Null)
    }

    /// The entries of a mapping; none for anything else.
    pub(super) fn entries(&self) -> &[Entry<'i>] {
        match &self.value {
            Value::Mapping(entries) => entries,
            _ => &[],
        }
    }

    /// The entry with a key.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry<'i>> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The text under a key.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.entry(key)?.value.scalar()? {
            Scalar::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What kind of value this is, for messages.
    pub(super) fn describe(&self) -> &'static str {
        match &self.value {
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
            Value::Scalar { .. } => match self.scalar() {
                None | Some(Scalar::Null) => "nothing",
                Some(Scalar::Bool(_)) => "true or false",
                Some(Scalar::Int(_) | Scalar::Float(_)) => "a number",
                Some(Scalar::Text(_)) => "text",
            },
        }
    }
}

/// Reads a plain scalar.
fn resolve(text: &str) -> Scalar<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "y" | "Y" | "on" | "On" | "ON" => {
            return Scalar::Bool(true);
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "n" | "N" | "off" | "Off" | "OFF" => {
            return Scalar::Bool(false);
        }
        _ => {}
    }
    let Some(first) = text.bytes().next() else { return Scalar::Null };
    if !(first.is_ascii_digit() || matches!(first, b'-' | b'+' | b'.')) {
        return Scalar::Text(text);
    }
    integer(text)
        .map(Scalar::Int)
        .or_else(|| float(text).map(Scalar::Float))
        .unwrap_or(Scalar::Text(text))
}

fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x") => (16, digits.get(2..)?),
        Some("0b") => (2, digits.get(2..)?),
        Some("0o") => (8, digits.get(2..)?),
        Some(start) if start.starts_with('0') => (8, digits.get(1..)?),
        _ => (10, digits),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let value = i64::from_str_radix(digits, radix).ok()?;
    Some(if negative { -value } else { value })
}

fn float(text: &str) -> Option<f64> {
    let known = |c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+' | 'e' | 'E');
    if !text.contains(|c: char| c.is_ascii_digit()) || !text.chars().all(known) {
        return None;
    }
    text.parse().ok()
}
