//! From the tree of values to the file's types: serde over [`Node`], strict, with the key's path in each error.
//!
//! Stricter than serde alone: unknown keys are all reported, each with the nearest known one; a key without a
//! value is an error unless it opens a section; a number is never taken for text.

use std::cell::RefCell;
use std::fmt;
use std::slice;

use serde::de::value::StrDeserializer;
use serde::de::{self, Deserialize, DeserializeSeed, Expected, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::document::Node;
use super::error::{KeyPath, Problem, Spot};

/// Reads `root` as a `T`. On failure: every unknown key on the way, and the first error of any other kind.
pub(super) fn read<'de, T: Deserialize<'de>>(root: &'de Node) -> Result<T, Vec<Problem>> {
    let unknown = RefCell::new(Vec::new());
    let result = T::deserialize(Reader { node: root, trail: &Trail::Top, unknown: &unknown });
    let mut problems = unknown.into_inner();
    match result {
        Ok(value) if problems.is_empty() => Ok(value),
        Ok(_) => Err(problems),
        Err(err) => {
            problems.push(Problem {
                path: err.path.unwrap_or_default(),
                spot: Spot::Value,
                message: err.message,
            });
            Err(problems)
        }
    }
}

/// Where the reader is: a list linked upwards along the stack.
#[derive(Clone, Copy)]
enum Trail<'t> {
    Top,
    Key(&'t Trail<'t>, &'t str),
    Index(&'t Trail<'t>, usize),
}

impl Trail<'_> {
    fn path(&self) -> KeyPath {
        match *self {
            Trail::Top => KeyPath::default(),
            Trail::Key(parent, key) => parent.path().key(key),
            Trail::Index(parent, index) => parent.path().index(index),
        }
    }
}

/// What serde reports, and of which key; the innermost reader that sees it fills in the key.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct ReadError {
    path: Option<KeyPath>,
    message: String,
}

impl ReadError {
    fn at(mut self, trail: &Trail<'_>) -> Self {
        self.path.get_or_insert_with(|| trail.path());
        self
    }
}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: None, message: message.to_string() }
    }

    // Values are not quoted: the wrong one may be a password.
    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = in_our_words(expected.to_string());
        Self::custom(format_args!("expected {expected}, found {}", kind(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = in_our_words(expected.to_string());
        Self::custom(format_args!("expected {expected}, which this {} is not", bare_kind(found)))
    }

    fn missing_field(key: &'static str) -> Self {
        Self::custom(missing_key(key))
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self::custom(unknown_key(key, "here", known))
    }
}

/// What is said of a key that has to be there.
pub(super) fn missing_key(key: &str) -> String {
    format!("missing key `{key}`")
}

/// What serde's own types call what they expect.
fn in_our_words(expected: String) -> String {
    match expected.as_str() {
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "a string" => "text (a number goes in quotes)".to_owned(),
        "path string" => "a path".to_owned(),
        "u8" => "a number from 0 to 255".to_owned(),
        "u16" => "a number from 0 to 65535".to_owned(),
        _ => expected,
    }
}

fn bare_kind(found: Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "integer",
        Unexpected::Float(_) => "fractional number",
        Unexpected::Str(_) | Unexpected::Char(_) => "text",
        Unexpected::Unit | Unexpected::Option => "empty value",
        Unexpected::Seq => "list",
        Unexpected::Map => "mapping",
        Unexpected::Other("big integer") => "integer",
        _ => "value",
    }
}

fn kind(found: Unexpected<'_>) -> String {
    match bare_kind(found) {
        "empty value" => "nothing".to_owned(),
        "text" => "text".to_owned(),
        "integer" => "an integer".to_owned(),
        other => format!("a {other}"),
    }
}

fn unknown_key(key: &str, place: &str, known: &[&str]) -> String {
    // A third of the key may be wrong, at least one letter; a transposition counts once.
    let tolerance = (key.chars().count() / 3).max(1);
    let nearest = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(key, candidate), *candidate))
        .filter(|(distance, _)| *distance <= tolerance)
        .min();
    match nearest {
        Some((_, nearest)) => format!("unknown key `{key}` {place}, did you mean `{nearest}`?"),
        None => format!("unknown key `{key}` {place}, known are {}", quoted(known)),
    }
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The deserializer of one value.
#[derive(Clone, Copy)]
struct Reader<'de, 't> {
    node: &'de Node,
    trail: &'t Trail<'t>,
    unknown: &'t RefCell<Vec<Problem>>,
}

impl<'de, 't> Reader<'de, 't> {
    fn entries(self, map: &'de [(String, Node)], known: Option<&'static [&'static str]>) -> Entries<'de, 't> {
        Entries { left: map.iter(), current: None, known, trail: self.trail, unknown: self.unknown }
    }

    fn report_unknown(self, map: &[(String, Node)], known: &[&str]) {
        let place = match self.trail.path() {
            path if path == KeyPath::default() => "at the top".to_owned(),
            path => format!("in `{path}`"),
        };
        for (key, _) in map.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
            let message = unknown_key(key, &place, known);
            self.unknown.borrow_mut().push(Problem {
                path: self.trail.path().key(key),
                spot: Spot::Key,
                message,
            });
        }
    }
}

impl<'de> de::Deserializer<'de> for Reader<'de, '_> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.node {
            Node::Null => visitor.visit_unit(),
            Node::Bool(value) => visitor.visit_bool(*value),
            Node::Integer(value) => match (u64::try_from(*value), i64::try_from(*value)) {
                (Ok(value), _) => visitor.visit_u64(value),
                (_, Ok(value)) => visitor.visit_i64(value),
                _ => Err(de::Error::invalid_type(Unexpected::Other("big integer"), &visitor)),
            },
            Node::Float(value) => visitor.visit_f64(*value),
            Node::Text(value) => visitor.visit_borrowed_str(value),
            Node::List(items) => visitor.visit_seq(Items {
                left: items.iter(),
                index: 0,
                trail: self.trail,
                unknown: self.unknown,
            }),
            Node::Map(map) => visitor.visit_map(self.entries(map, None)),
        }
        .map_err(|err| err.at(self.trail))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.node {
            Node::Null => Err(de::Error::custom("has no value: give it one, or leave the key out")),
            _ => visitor.visit_some(self),
        }
        .map_err(|err: ReadError| err.at(self.trail))
    }

    /// A section. One whose keys are all commented out is an empty section.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match self.node {
            Node::Map(map) => {
                self.report_unknown(map, known);
                visitor.visit_map(self.entries(map, Some(known)))
            }
            Node::Null => visitor.visit_map(self.entries(&[], Some(known))),
            _ => {
                let expected = format!("a mapping with keys among {}", quoted(known));
                self.deserialize_any(Refuse(&expected)).map(|never| match never {})
            }
        }
        .map_err(|err| err.at(self.trail))
    }

    /// A mapping of names the operator chooses.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.node {
            Node::Null => visitor.visit_map(self.entries(&[], None)).map_err(|err| err.at(self.trail)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self).map_err(|err| err.at(self.trail))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct enum identifier ignored_any
    }
}

/// A visitor that takes nothing, to have the value's kind named in the error.
struct Refuse<'a>(&'a str);

enum Never {}

impl Visitor<'_> for Refuse<'_> {
    type Value = Never;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

struct Entries<'de, 't> {
    left: slice::Iter<'de, (String, Node)>,
    current: Option<&'de (String, Node)>,
    /// The section's keys; the others have been reported and are skipped.
    known: Option<&'static [&'static str]>,
    trail: &'t Trail<'t>,
    unknown: &'t RefCell<Vec<Problem>>,
}

impl<'de> de::MapAccess<'de> for Entries<'de, '_> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ReadError> {
        let known = self.known;
        self.current = self.left.find(|(key, _)| known.is_none_or(|known| known.contains(&key.as_str())));
        let Some((key, _)) = self.current else { return Ok(None) };
        let key: StrDeserializer<'de, ReadError> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let Some((key, node)) = self.current else {
            return Err(de::Error::custom("a value was read before its key"));
        };
        let trail = Trail::Key(self.trail, key);
        seed.deserialize(Reader { node, trail: &trail, unknown: self.unknown }).map_err(|err| err.at(&trail))
    }
}

struct Items<'de, 't> {
    left: slice::Iter<'de, Node>,
    index: usize,
    trail: &'t Trail<'t>,
    unknown: &'t RefCell<Vec<Problem>>,
}

impl<'de> de::SeqAccess<'de> for Items<'de, '_> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ReadError> {
        let Some(node) = self.left.next() else { return Ok(None) };
        let trail = Trail::Index(self.trail, self.index);
        self.index += 1;
        let reader = Reader { node, trail: &trail, unknown: self.unknown };
        seed.deserialize(reader).map(Some).map_err(|err| err.at(&trail))
    }
}
