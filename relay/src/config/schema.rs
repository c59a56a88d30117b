//! The JSON Schema of the configuration, made from the types that read it.
//!
//! For editors (`# yaml-language-server: $schema=…`), and what [`reference`](super::reference) writes its tables from.
//! A schema judges value by value; what concerns several of them, or files, is [`Config::parse`](super::Config::parse)'s.

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{Schema, generate::Contract};
use serde_json::{Map, Value};

use super::value::ByteSize;
use super::{FileConfig, form};

/// Where a part of the schema says what else it is as: `limits.user`. The reference then leaves it to that.
pub(super) const AS: &str = "x-as";

/// The JSON Schema (draft 2020-12) of a configuration file, as JSON text.
pub fn json_schema() -> String {
    let mut schema = described();
    let mut without_hints = Strip;
    without_hints.transform(&mut schema);
    let mut text = format!("{:#}", schema.to_value());
    text.push('\n');
    text
}

/// The schema, with the hints for the reference in it.
pub(super) fn described() -> Schema {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.contract = Contract::Deserialize;
    });
    let mut schema = settings.with_transform(Tidy).into_generator().into_root_schema_for::<FileConfig>();
    schema.insert("title".to_owned(), "msrp-relay".into());
    schema.insert("description".to_owned(), "The configuration of msrp-relay.".into());
    schema
}

/// As the file is read: a key without a value is good for a section alone, and defaults are written with their units.
#[derive(Debug, Clone)]
struct Tidy;

impl Transform for Tidy {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(object) = schema.as_object_mut() else { return };
        let may_be_left_out = without_null(object);
        // How wide the type is that holds a number is no format.
        object.remove("format");
        // A section whose lines are all comments.
        let is_section = object.get("type").is_some_and(|kind| kind == "object");
        if is_section && !may_be_left_out && !object.contains_key("required") {
            object.insert("type".to_owned(), serde_json::json!(["object", "null"]));
        }
        if let Some(Value::String(text)) = object.get_mut("description") {
            *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        }
        let title = object.get("title").and_then(Value::as_str).map(str::to_owned);
        let Some(default) = object.remove("default") else { return };
        let default = match title.as_deref() {
            Some(form::DURATION) => duration(&default).unwrap_or(default),
            Some(form::SIZE) => size(&default).unwrap_or(default),
            _ => default,
        };
        if !default.is_null() && !default.is_object() {
            object.insert("default".to_owned(), default);
        }
    }
}

/// An `Option` is a key that may be left out, not one that may be `null`. Whether it was one.
fn without_null(object: &mut Map<String, Value>) -> bool {
    if let Some(Value::Array(kinds)) = object.get_mut("type") {
        let before = kinds.len();
        kinds.retain(|kind| kind != "null");
        let was_optional = kinds.len() < before;
        if let [kind] = &kinds[..] {
            let kind = kind.clone();
            object.insert("type".to_owned(), kind);
        }
        return was_optional;
    }
    let Some(Value::Array(kinds)) = object.get_mut("anyOf") else { return false };
    let null = serde_json::json!({ "type": "null" });
    if !kinds.contains(&null) {
        return false;
    }
    kinds.retain(|kind| *kind != null);
    if let [Value::Object(only)] = &mut kinds[..] {
        let only = std::mem::take(only);
        object.remove("anyOf");
        for (key, value) in only {
            // What is said of the field is nearer than what is said of its type.
            object.entry(key).or_insert(value);
        }
    }
    true
}

/// A duration as serde writes it, in the largest unit of which it is a multiple.
fn duration(value: &Value) -> Option<Value> {
    let milliseconds = value.get("secs")?.as_u64()? * 1000 + value.get("nanos")?.as_u64()? / 1_000_000;
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let fits = units.into_iter().find(|(_, unit)| milliseconds > 0 && milliseconds.is_multiple_of(*unit));
    let (name, unit) = fits.unwrap_or(("s", 1000));
    Some(format!("{}{name}", milliseconds / unit).into())
}

fn size(value: &Value) -> Option<Value> {
    let bytes = usize::try_from(value.as_u64()?).ok()?;
    format!("{bytes}B").parse().ok().map(|size: ByteSize| size.to_string().into())
}

/// Takes the hints out that are for the reference.
#[derive(Debug, Clone)]
struct Strip;

impl Transform for Strip {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        schema.remove(AS);
        if let Some(Value::String(text)) = schema.get_mut("description") {
            *text = without_links(text, true);
        }
    }
}

/// Without the brackets by which documentation links to an item; and without `(#anchor)` after them, if wanted.
pub(super) fn without_links(text: &str, anchors_too: bool) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("[`") {
        let Some((name, after)) = after.split_once("`]") else { break };
        plain.push_str(before);
        let target = after.strip_prefix("(#").and_then(|target| target.split_once(')'));
        match target {
            Some((target, _)) if !anchors_too => {
                plain.extend(["[`", name, "`](#", target, ")"]);
            }
            _ => plain.extend(["`", name, "`"]),
        }
        rest = target.map_or(after, |(_, after)| after);
    }
    plain + rest
}
