//! Every key that a type reads, found by reading it from a document that has them all.
//!
//! serde tells a deserializer the keys of each struct. So this deserializer answers each struct with one of its
//! keys, then stops with an error in the value, and does so again for the next one: no list is kept by hand.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};

/// The paths of `T`'s keys, such as `tls.server_domains.*.certificate`, and after each those within it, in the order in
/// which they are declared.
pub(super) fn of<'de, T: Deserialize<'de>>() -> Vec<String> {
    explore::<T>().0
}

/// The paths of those of them that hold secrets: that take `{ file: PATH }` in the place of text.
#[cfg(test)]
pub(super) fn secrets_of<'de, T: Deserialize<'de>>() -> std::collections::BTreeSet<String> {
    explore::<T>().1.into_iter().collect()
}

fn explore<'de, T: Deserialize<'de>>() -> (Vec<String>, Vec<String>) {
    let found = RefCell::new(Vec::new());
    let secrets = RefCell::new(Vec::new());
    let mut explored: usize = 0;
    // Each round goes down to one path found in a round before.
    let mut next = Some(String::new());
    while let Some(target) = next {
        let _ = T::deserialize(Explorer {
            here: String::new(),
            target: &target,
            found: &found,
            secrets: &secrets,
        });
        next = found.borrow().get(explored).cloned();
        explored += 1;
    }
    (found.into_inner(), secrets.into_inner())
}

#[derive(Clone)]
struct Explorer<'a> {
    here: String,
    target: &'a str,
    found: &'a RefCell<Vec<String>>,
    secrets: &'a RefCell<Vec<String>>,
}

impl Explorer<'_> {
    fn child(&self, key: &str) -> String {
        if self.here.is_empty() { key.to_owned() } else { format!("{}.{key}", self.here) }
    }

    fn leads_to_target(&self, path: &str) -> bool {
        self.target == path || self.target.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'))
    }
}

fn add(paths: &RefCell<Vec<String>>, path: String) {
    let mut paths = paths.borrow_mut();
    if !paths.contains(&path) {
        paths.push(path);
    }
}

#[derive(Debug)]
struct Stop;

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stop")
    }
}

impl std::error::Error for Stop {}

impl de::Error for Stop {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Stop
    }
}

impl<'de> de::Deserializer<'de> for Explorer<'_> {
    type Error = Stop;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        if (&visitor as &dyn de::Expected).to_string().contains("{ file: PATH }") {
            add(self.secrets, self.here);
        }
        Err(Stop)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        for field in fields {
            add(self.found, self.child(field));
        }
        let key = fields.iter().find(|field| self.leads_to_target(&self.child(field)));
        visitor.visit_map(One { key: key.ok_or(Stop)?, explorer: self })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_map(One { key: "*", explorer: self })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_seq(One { key: "", explorer: self })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_some(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct newtype_struct tuple tuple_struct enum identifier ignored_any
    }
}

/// A mapping or list of one value.
struct One<'a> {
    key: &'a str,
    explorer: Explorer<'a>,
}

impl<'de> MapAccess<'de> for One<'_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Stop> {
        let key: StrDeserializer<'_, Stop> = self.key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Stop> {
        seed.deserialize(Explorer { here: self.explorer.child(self.key), ..self.explorer.clone() })
    }
}

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Stop> {
        seed.deserialize(self.explorer.clone()).map(Some)
    }
}
