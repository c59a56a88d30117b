//! The schema and the reference say what the parser takes: no more, no less.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::*;

/// What makes the two files anew.
const RENEW: &str =
    "msrp-relay schema > examples/relay.schema.json; msrp-relay schema --markdown > docs/configuration.md";

/// Every section and mapping there can be, with as little in it as it takes.
fn full() -> Value {
    json!({
        "domain": "relay.test",
        "listeners": [
            { "uri": "msrp://127.0.0.1:2855", "tcp": {} },
            {
                "uri": "ws://127.0.0.1:8080",
                "websocket": { "auth": { "token": { "secret": "0123456789abcdef0123456789abcdef", "query": "token" } } },
            },
            { "uri": "hep_udp://127.0.0.1:9060" },
            { "uri": "sip://127.0.0.1:5060" },
        ],
        "tls": {
            "server_domains": { "one": { "certificate": "relay.crt", "private_key": "relay.key" } },
            "client_domains": { "one": {} },
        },
        "auth": {
            "users": { "alice": { "password": "alicepw", "limits": {} } },
            "ephemeral": { "secret": "0123456789abcdef" },
            "database": { "url": "sqlite:users.db", "cache": {} },
            "expires": {},
            "throttle": {},
        },
        "limits": { "user": {} },
        "timeouts": {},
        "tcp": {},
        "events": {},
        "outbound": { "destinations": [{ "to": ["10.0.0.0/8"], "tcp": {} }] },
        "websocket": { "auth": { "token": { "secret": "0123456789abcdef0123456789abcdef", "query": "token" } } },
        "sip": { "sip_upstream": [{ "uri": "sip://10.0.0.1:5060" }] },
        "trace": {
            "destinations": {
                "one": { "uri": "hep_udp://127.0.0.1:9061" },
                "two": { "uri": "hep_udp://127.0.0.1:9062", "payload": "text" },
            },
            "protocols": { "msrp": {} },
            "trace_filter": [{ "trace": true }],
        },
        "records": {
            "sinks": {
                "one": { "file": { "path": "records.jsonl" } },
                "two": { "syslog": {} },
                "three": { "database": { "url": "sqlite:records.db" } },
            },
        },
        "admin": { "listen": ["unix:admin.sock"] },
        "upgrade": { "socket": "upgrade.sock" },
        "hep": { "filter": [{ "forward": ["none"] }] },
        "log": {},
        "upgrade": { "socket": "upgrade.sock" },
    })
}

/// One key of the schema.
struct Key {
    /// As the parser's search for keys names it.
    path: String,
    schema: Map<String, Value>,
    is_required: bool,
}

fn keys() -> Vec<Key> {
    fn collect(path: &str, schema: &Value, found: &mut Vec<Key>) {
        if schema["title"] == form::SECRET {
            return;
        }
        for (key, value) in schema["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let is_required =
                schema["required"].as_array().into_iter().flatten().any(|required| required == key);
            collect(&path, value, found);
            found.push(Key { path, schema: value.as_object().unwrap().clone(), is_required });
        }
        if schema["additionalProperties"].is_object() {
            collect(&format!("{path}.*"), &schema["additionalProperties"], found);
        }
        if schema["items"].is_object() {
            collect(path, &schema["items"], found);
        }
    }
    let mut found = Vec::new();
    collect("", &crate::config::schema::described().to_value(), &mut found);
    found
}

/// The places in `document` that a path leads to, as JSON pointers.
fn places(document: &Value, path: &str) -> Vec<String> {
    let mut places = vec![String::new()];
    let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
    let down = |places: Vec<String>| -> Vec<String> {
        let lists = places.into_iter().flat_map(|place| match document.pointer(&place) {
            Some(Value::Array(items)) => (0..items.len()).map(|at| format!("{place}/{at}")).collect(),
            _ => vec![place],
        });
        lists.collect()
    };
    for segment in parent.split('.').filter(|segment| !segment.is_empty()) {
        places = down(places)
            .into_iter()
            .flat_map(|place| match document.pointer(&place) {
                Some(Value::Object(keys)) if segment == "*" => {
                    keys.keys().map(|key| format!("{place}/{key}")).collect()
                }
                Some(Value::Object(keys)) if keys.contains_key(segment) => vec![format!("{place}/{segment}")],
                _ => Vec::new(),
            })
            .collect();
    }
    let mut places = down(places);
    places.retain(|place| document.pointer(place).is_some_and(Value::is_object));
    places.into_iter().map(|place| format!("{place}/{key}")).collect()
}

/// `full`, with this at the first place that the path leads to and the parser takes it for.
fn with(path: &str, value: &Value) -> Vec<Value> {
    let full = full();
    let places = places(&full, path);
    assert!(!places.is_empty(), "the test's document has no place for {path}");
    places
        .into_iter()
        .map(|place| {
            let mut document = full.clone();
            let (parent, key) = place.rsplit_once('/').unwrap();
            document.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(key.into(), value.clone());
            document
        })
        .collect()
}

/// A folder with the files that `full` names.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("relay.crt"), "").unwrap();
    fs::write(folder.path().join("relay.key"), "").unwrap();
    folder
}

/// A configuration as it came out, but for where it stood in the text.
fn outcome(document: &Value, folder: &TempDir) -> Result<String, String> {
    let text = serde_json::to_string(document).unwrap();
    let config = Config::parse(&text, folder.path(), "relay.yaml");
    let config = config.map_err(|errors| errors.to_string())?;
    Ok(format!("{:?}", Config { warnings: Vec::new(), ..config }))
}

fn is_read(document: &Value) -> Result<(), String> {
    let text = serde_json::to_string(document).unwrap();
    let document = document::parse("relay.yaml", &text).unwrap();
    let read: Result<FileConfig, _> = read::read(&document);
    read.map(drop).map_err(|problems| format!("{problems:?}"))
}

#[test]
fn the_schema_has_every_key_and_no_other() {
    let known: BTreeSet<String> = known_keys().into_iter().collect();
    let told: BTreeSet<String> = keys().into_iter().map(|key| key.path).collect();
    let missing: Vec<_> = known.difference(&told).collect();
    let invented: Vec<_> = told.difference(&known).collect();
    assert!(missing.is_empty() && invented.is_empty(), "missing: {missing:?}, invented: {invented:?}");
}

#[test]
fn every_key_says_what_it_is() {
    for Key { path, schema, .. } in keys() {
        let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
        assert!(text.len() > 5, "{path} has no description");
        let of_a_form = ["type", "enum", "anyOf", "not"].iter().any(|key| schema.contains_key(*key));
        assert!(of_a_form, "{path} has no form: {schema:?}");
    }
}

#[test]
fn every_example_and_every_choice_is_read() {
    fn examples(schema: &Value) -> Vec<Value> {
        let mut found = schema["examples"].as_array().cloned().unwrap_or_default();
        found.extend(schema["enum"].as_array().into_iter().flatten().cloned());
        for alternative in schema["anyOf"].as_array().into_iter().flatten() {
            found.extend(examples(alternative));
            found.extend(examples(&alternative["items"]).into_iter().map(|item| json!([item])));
        }
        if schema["properties"].is_null() {
            found.extend(examples_of_items(schema));
        }
        found
    }
    fn examples_of_items(schema: &Value) -> Vec<Value> {
        let items = &schema["items"];
        if items.is_object() {
            examples(items).into_iter().map(|item| json!([item])).collect()
        } else {
            Vec::new()
        }
    }
    let mut read = 0;
    for Key { path, schema, .. } in keys() {
        for example in examples(&Value::Object(schema)) {
            let tried: Vec<_> = with(&path, &example).iter().map(is_read).collect();
            assert!(tried.iter().any(Result::is_ok), "{path}: {example} is not read: {tried:?}");
            read += 1;
        }
    }
    assert!(read > 150, "{read}");
}

#[test]
fn every_default_is_what_comes_without_it() {
    let folder = folder();
    let unchanged = outcome(&full(), &folder).unwrap();
    let mut compared = 0;
    let mut wrong = Vec::new();
    for Key { path, schema, is_required } in keys() {
        let Some(default) = schema.get("default") else { continue };
        // Where it is used, as a user's own limits have to know what they replace: it is the constant there.
        if path.ends_with("limits.user.burst") || path.ends_with("limits.burst") {
            assert_eq!(default, &json!(format!("{}s", DEFAULT_BURST.as_secs())));
            continue;
        }
        assert!(!is_required, "{path} is required, and has a default");
        let outcomes: Vec<_> =
            with(&path, default).iter().map(|document| outcome(document, &folder)).collect();
        let same = outcomes.iter().filter(|outcome| outcome.as_deref() == Ok(&*unchanged)).count();
        let refused: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
        // A key of one listener may be refused for another one, which is of another kind.
        if same == 0 || same + refused.len() < outcomes.len() {
            wrong.push(format!("{path}: {default} changes something; or is refused: {refused:?}"));
        }
        compared += 1;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(compared > 90, "{compared}");
}

#[test]
fn what_is_required_is_missed() {
    let folder = folder();
    let mut missed = 0;
    for Key { path, .. } in keys().into_iter().filter(|key| key.is_required) {
        let full = full();
        for place in places(&full, &path) {
            let mut document = full.clone();
            let (parent, key) = place.rsplit_once('/').unwrap();
            document.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
            let error = outcome(&document, &folder).expect_err(&path);
            assert!(error.contains(&format!("missing key `{key}`")), "{path}: {error}");
            missed += 1;
        }
    }
    assert!(missed > 12, "{missed}");
}

#[test]
fn a_key_without_a_value_is_good_where_the_parser_takes_it() {
    for Key { path, schema, .. } in keys() {
        let told = schema.get("type").is_some_and(|kind| kind == &json!(["object", "null"]));
        let takes = with(&path, &Value::Null).iter().any(|document| is_read(document).is_ok());
        assert_eq!(told, takes, "{path}");
    }
}

#[test]
fn the_files_in_the_repository_are_up_to_date() {
    for (name, made) in
        [("examples/relay.schema.json", json_schema()), ("docs/configuration.md", markdown_reference())]
    {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
        let there = fs::read_to_string(&path).unwrap_or_default();
        assert!(there == made, "{name} is not what the code says. To renew it: {RENEW}");
    }
}

#[test]
fn the_reference_has_every_key_in_the_table_of_its_section() {
    let page = markdown_reference();
    let mut shown = BTreeSet::new();
    let mut section = String::new();
    for line in page.lines() {
        if let Some(title) =
            line.trim_start_matches('#').strip_prefix(" `").filter(|_| line.starts_with("##"))
        {
            section = title.trim_end_matches('`').replace(".<name>", ".*").replace("[]", "") + ".";
        } else if let Some(key) = line.strip_prefix("| `") {
            shown.insert(format!("{section}{}", key.split('`').next().unwrap()));
        }
    }
    // What is as another section is there.
    let elsewhere =
        ["listeners.tcp.", "listeners.websocket.", "outbound.destinations.tcp.", "auth.users.*.limits."];
    let wanted: BTreeSet<String> = known_keys()
        .into_iter()
        .filter(|path| !elsewhere.iter().any(|elsewhere| path.starts_with(elsewhere)))
        .collect();
    assert_eq!(shown, wanted);
}
