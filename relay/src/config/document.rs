//! The YAML text as a tree, and where in the text a key stands.
//!
//! The YAML library tells places only in its errors. So the tree carries none; the place of a problem is
//! looked up when there is one, by walking the text again along the key's path and failing on purpose there.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::{ConfigError, KeyPath, Position, Segment, Spot};

/// Values in the tree once aliases are followed. More than a file of the permitted size can hold without
/// aliases, so that only a file built to explode ("billion laughs") meets it.
const MAX_NODES: usize = 1_000_000;

/// A YAML value. Keys are text as written: a user named `1001` needs no quotes.
#[derive(Debug)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Takes out the value at `path`, or the nearest above it that is the value of a key: its path. An item stays in its
    /// list, so that the places of those behind it stay right.
    pub(super) fn remove(&mut self, path: &KeyPath) -> Option<KeyPath> {
        let segments = path.segments();
        let last = segments.iter().rposition(|segment| matches!(segment, Segment::Key(_)))?;
        let mut node = self;
        for segment in &segments[..last] {
            node = match (segment, node) {
                (Segment::Key(wanted), Self::Map(entries)) => {
                    entries.iter_mut().find(|(key, _)| key == wanted).map(|(_, value)| value)?
                }
                (Segment::Index(index), Self::List(items)) => items.get_mut(*index)?,
                // One that may be alone instead of in a list has no number in the text.
                _ => return None,
            };
        }
        let (Segment::Key(wanted), Self::Map(entries)) = (&segments[last], node) else { return None };
        let at = entries.iter().position(|(key, _)| key == wanted)?;
        entries.remove(at);
        Some(segments[..=last].iter().fold(KeyPath::default(), |path, segment| match segment {
            Segment::Key(key) => path.key(key),
            Segment::Index(index) => path.index(*index),
        }))
    }
}

/// Reads one document; refuses duplicate keys, tags and what is not YAML.
pub(super) fn parse(file: &str, text: &str) -> Result<Node, ConfigError> {
    let left = Cell::new(MAX_NODES);
    NodeSeed { left: &left }
        .deserialize(serde_yaml::Deserializer::from_str(text))
        .or_else(|err| if is_empty(text) { Ok(Node::Null) } else { Err(err) })
        .map_err(|err| syntax_error(file, &err))
}

/// Where the key or value of `path` stands. Where a part of the path is missing: the mapping it is missing in.
pub(super) fn locate(text: &str, path: &[Segment], spot: Spot) -> Option<Position> {
    let seeker = Seeker { path, spot };
    position(&seeker.deserialize(serde_yaml::Deserializer::from_str(text)).err()?)
}

fn is_empty(text: &str) -> bool {
    text.lines().all(|line| matches!(line.trim_start().chars().next(), None | Some('#')))
}

fn syntax_error(file: &str, err: &serde_yaml::Error) -> ConfigError {
    let mut message = err.to_string();
    let position = position(err);
    if let Some(Position { line, column }) = position
        && let Some(stripped) = message.strip_suffix(&format!(" at line {line} column {column}"))
    {
        message.truncate(stripped.len());
    }
    ConfigError { file: file.to_owned(), position, key: String::new(), message }
}

fn position(err: &serde_yaml::Error) -> Option<Position> {
    err.location().map(|at| Position { line: at.line(), column: at.column() })
}

/// Builds a [`Node`].
struct NodeSeed<'a> {
    left: &'a Cell<usize>,
}

impl NodeSeed<'_> {
    fn count<E: de::Error>(&self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| E::custom("the aliases in this file expand to too many values"))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = Node;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        self.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value without a tag")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Integer(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        // No key takes a number of this size; whatever it is then refused for, the number is not shown.
        Ok(Node::Integer(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(NodeSeed { left: self.left })? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let (mut seen, mut map) = (HashSet::new(), Vec::new());
        while let Some(key) = entries.next_key_seed(NewKey { seen: &mut seen })? {
            map.push((key, entries.next_value_seed(NodeSeed { left: self.left })?));
        }
        Ok(Node::Map(map))
    }
}

/// A key not seen before in its mapping. Refused while it is read, so that the error points at it.
struct NewKey<'a> {
    seen: &'a mut HashSet<String>,
}

impl<'de> DeserializeSeed<'de> for NewKey<'_> {
    type Value = String;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NewKey<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<String, E> {
        if self.seen.insert(key.to_owned()) {
            Ok(key.to_owned())
        } else {
            Err(E::custom(format_args!("duplicate key `{key}`")))
        }
    }
}

/// Walks along `path` and fails at its end.
struct Seeker<'a> {
    path: &'a [Segment],
    spot: Spot,
}

/// The failure's text is never shown, only its place.
const FOUND: &str = "here";

impl<'de> DeserializeSeed<'de> for Seeker<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seeker<'_> {
    type Value = ();

    // What is not visited below fails by itself, which is what is wanted.
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FOUND)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((Segment::Index(index), path)) = self.path.split_first() else {
            return Err(de::Error::custom(FOUND));
        };
        for _ in 0..*index {
            items.next_element::<IgnoredAny>()?;
        }
        items.next_element_seed(Seeker { path, spot: self.spot })?;
        Err(de::Error::custom(FOUND))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Some((Segment::Key(wanted), path)) = self.path.split_first() else {
            return Err(de::Error::custom(FOUND));
        };
        let fail_here = path.is_empty() && self.spot == Spot::Key;
        while let Some(found) = entries.next_key_seed(KeySeeker { wanted, fail_here })? {
            if found {
                return entries.next_value_seed(Seeker { path, spot: self.spot });
            }
            entries.next_value::<IgnoredAny>()?;
        }
        Err(de::Error::custom(FOUND))
    }
}

/// Tells whether a key is the wanted one, or fails at it.
struct KeySeeker<'a> {
    wanted: &'a str,
    fail_here: bool,
}

impl<'de> DeserializeSeed<'de> for KeySeeker<'_> {
    type Value = bool;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeeker<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<bool, E> {
        if key == self.wanted && self.fail_here { Err(E::custom(FOUND)) } else { Ok(key == self.wanted) }
    }
}
