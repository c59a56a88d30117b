//! The configuration reference, `docs/configuration.md`: a table for each section, made from the schema.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::{FileConfig, form, keys, schema};

const INTRODUCTION: &str = "\
# Configuration

<!-- Made by `msrp-relay schema --markdown` from the types that read the file. Do not edit: change the comments there. -->

The configuration is one YAML file. This page lists every key, with the form of its value and its default.
[`examples/relay.yaml`](https://github.com/msrp-relay/msrp-relay/blob/main/examples/relay.yaml) shows them all at work, with comments.

* An unknown key is an error, with line, column and the nearest known key. `msrp-relay check --config FILE` tells all
  that is wrong, and what is permitted but probably not meant.
* *duration*: a number with its unit, `ms`, `s`, `m`, `h` or `d`: `30s`. *size*: a number with `B`, `KiB`, `MiB` or `GiB`: `64KiB`.
* *secret*: text; or `{ file: PATH }`, which names the file that holds it. *path*: relative to the configuration file.
* *list or text*: a YAML list; or one text with commas between.
* Where no default stands, there is none, or the meaning says what comes instead.
* `<name>` in a title stands for a name of your choice, and `[]` for each item of a list.

Editors that know JSON Schema complete and check the file: put this line at its top.

```text
# yaml-language-server: $schema=https://raw.githubusercontent.com/msrp-relay/msrp-relay/main/examples/relay.schema.json
```

`msrp-relay schema` prints that schema, and `msrp-relay schema --markdown` this page.
";

/// The reference, as Markdown.
pub fn markdown() -> String {
    let schema = schema::described();
    let mut page = Page { text: INTRODUCTION.to_owned(), order: keys::of::<FileConfig>() };
    let Some(root) = schema.as_object() else { return page.text };
    let keys = page.properties("", root);
    page.text.push_str("\n## At the top\n\n");
    page.table("", &keys, root);
    for (key, value) in keys {
        let is_required = required(root).any(|name| name == key);
        page.section(2, Place { title: key.to_owned(), path: key.to_owned() }, value, is_required);
    }
    page.text
}

/// Where a mapping is: as the page calls it, and as [`keys`] does.
struct Place {
    title: String,
    path: String,
}

struct Page {
    text: String,
    /// The paths of all keys, as they are declared.
    order: Vec<String>,
}

impl Page {
    /// A title, what it is for, a table of the keys, and then the same for what is in them.
    fn section(&mut self, level: usize, place: Place, schema: &Map<String, Value>, is_required: bool) {
        let Some(Inner { way, step, object }) = inner(schema) else { return };
        let Place { title, path } = place;
        let (title, path) = (format!("{title}{way}"), format!("{path}{step}"));
        let _ = write!(self.text, "\n{} `{title}`\n\n", "#".repeat(level));
        let necessary = if is_required { " Required." } else { "" };
        if let Some(description) = description(schema) {
            let _ = write!(self.text, "{description}{necessary}\n\n");
        }
        let keys = self.properties(&path, object);
        self.table(&title, &keys, object);
        for (key, value) in keys {
            if !value.contains_key(schema::AS) {
                let place = Place { title: format!("{title}.{key}"), path: format!("{path}.{key}") };
                self.section(3, place, value, false);
            }
        }
    }

    /// The keys of a mapping, in the order in which they are declared: the schema's is that of their names.
    fn properties<'a>(
        &self,
        path: &str,
        object: &'a Map<String, Value>,
    ) -> Vec<(&'a str, &'a Map<String, Value>)> {
        let all = object.get("properties").and_then(Value::as_object).into_iter().flatten();
        let mut found: Vec<_> =
            all.filter_map(|(key, value)| Some((key.as_str(), value.as_object()?))).collect();
        found.sort_by_key(|(key, _)| {
            let path = if path.is_empty() { (*key).to_owned() } else { format!("{path}.{key}") };
            self.order.iter().position(|known| *known == path)
        });
        found
    }

    fn table(&mut self, section: &str, keys: &[(&str, &Map<String, Value>)], object: &Map<String, Value>) {
        self.text.push_str("| key | value | default | meaning |\n|---|---|---|---|\n");
        for (key, value) in keys {
            let is_required = required(object).any(|name| name == *key);
            let default = match value.get("default") {
                _ if is_required => "required".to_owned(),
                Some(default) => format!("`{}`", written(default)),
                None => String::new(),
            };
            let mut meaning = description(value).unwrap_or_default();
            if value.contains_key("default") {
                meaning = without_default(&meaning);
            }
            if let Some(Inner { way, .. }) = inner(value).filter(|_| !value.contains_key(schema::AS)) {
                let title = if section.is_empty() { (*key).to_owned() } else { format!("{section}.{key}") };
                let _ = write!(meaning, " See [`{title}{way}`](#{}).", anchor(&format!("{title}{way}")));
            }
            let meaning = meaning.replace('|', "\\|");
            let _ = writeln!(self.text, "| `{key}` | {} | {default} | {} |", form_of(value), meaning.trim());
        }
    }
}

/// The mapping behind a key, and what stands between: nothing, a name of one's choice, or a list.
struct Inner<'a> {
    /// In a title.
    way: &'static str,
    /// In a path.
    step: &'static str,
    object: &'a Map<String, Value>,
}

fn inner(schema: &Map<String, Value>) -> Option<Inner<'_>> {
    if schema.get("title").is_some_and(|title| title == form::SECRET) {
        return None;
    }
    if schema.contains_key("properties") {
        return Some(Inner { way: "", step: "", object: schema });
    }
    let within = |key: &str, way, step| {
        let object = schema.get(key)?.as_object()?;
        object.contains_key("properties").then_some(Inner { way, step, object })
    };
    within("additionalProperties", ".<name>", ".*").or_else(|| within("items", "[]", ""))
}

fn required(object: &Map<String, Value>) -> impl Iterator<Item = &str> {
    object.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn description(schema: &Map<String, Value>) -> Option<String> {
    let text = schema.get("description")?.as_str()?;
    Some(schema::without_links(text, false))
}

/// Without the sentence that says the default and nothing else.
fn without_default(text: &str) -> String {
    let Some(start) = text.find("Default ") else { return text.to_owned() };
    let rest = &text[start..];
    let end = rest.find(". ").map_or(rest.len(), |end| end + 2);
    if rest[..end].contains([':', '(', ',', ';']) {
        return text.to_owned();
    }
    format!("{}{}", &text[..start], &rest[end..]).trim().to_owned()
}

/// What a value is, in a few words.
fn form_of(schema: &Map<String, Value>) -> String {
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        return words.iter().map(|word| format!("`{}`", written(word))).collect::<Vec<_>>().join(", ");
    }
    if schema.get("not").is_some() {
        return "nothing".to_owned();
    }
    if inner(schema).is_some() {
        let is_list = schema.contains_key("items");
        return if is_list { "list of mappings" } else { "mapping" }.to_owned();
    }
    let title = schema.get("title").and_then(Value::as_str);
    if let Some(title) = title {
        let examples = schema.get("examples").and_then(Value::as_array).into_iter().flatten();
        let examples: Vec<_> = examples.map(|example| format!("`{}`", written(example))).collect();
        return match title {
            form::DURATION | form::SIZE | form::IDENTIFIER | "path" | "number" => title.to_owned(),
            _ if examples.is_empty() => title.to_owned(),
            _ => format!("{title}, such as {}", examples.join(", ")),
        };
    }
    let list = |schema: &Value| {
        let items = schema.get("items")?.as_object()?;
        Some(form_of(items))
    };
    if let Some(Value::Array(kinds)) = schema.get("anyOf") {
        let items = kinds.iter().find_map(list);
        return items.map_or_else(String::new, |items| format!("list or text, each: {items}"));
    }
    if let Some(items) = schema.get("items").and_then(Value::as_object) {
        return format!("list, each: {}", form_of(items));
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("boolean") => "`true`, `false`".to_owned(),
        Some("integer") => {
            let bound = |key: &str| schema.get(key).map(Value::to_string);
            match (bound("minimum"), bound("maximum")) {
                (Some(least), Some(most)) => format!("number, {least} to {most}"),
                (Some(least), None) if least != "0" => format!("number, {least} or more"),
                _ => "number".to_owned(),
            }
        }
        Some("string") => "text".to_owned(),
        _ => String::new(),
    }
}

/// A value as it stands in the file.
fn written(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let fields: Vec<_> =
                fields.iter().map(|(key, value)| format!("{key}: {}", written(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(written).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// As GitHub and mdBook name the anchor of a title.
fn anchor(title: &str) -> String {
    let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ' '));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}
