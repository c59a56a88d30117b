//! What is different between two configurations, as they are written: setting by setting, secrets masked.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::document::Node;
use super::masked;

/// A setting that is written otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its path, such as `limits.max_message_size`; a listener is named by its URI.
    pub setting: String,
    /// What it was; `None`: it was not there, so that the default counted.
    pub from: Option<String>,
    /// What it is; `None`: it is not there any more.
    pub to: Option<String>,
}

impl Change {
    /// Whether it is `path`, or something under it.
    pub fn is_under(&self, path: &str) -> bool {
        let rest = self.setting.strip_prefix(path);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }

    /// What it was, for people.
    pub fn from(&self) -> &str {
        self.from.as_deref().unwrap_or("(not set)")
    }

    /// What it is, for people.
    pub fn to(&self) -> &str {
        self.to.as_deref().unwrap_or("(not set)")
    }
}

/// `limits.max_message_size: 1MiB -> 2MiB`
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.setting, self.from(), self.to())
    }
}

/// Everything that is different, in the order of the settings' names; those of `files` whose content is.
pub(super) fn changes(
    old: &Node,
    new: &Node,
    files: (&BTreeMap<String, u64>, &BTreeMap<String, u64>),
) -> Vec<Change> {
    let mut found = Vec::new();
    compare(String::new(), "", Some(old), Some(new), &mut found);
    for (setting, before) in files.0 {
        if files.1.get(setting).is_some_and(|now| now != before)
            && !found.iter().any(|change| change.is_under(setting))
        {
            let (from, to) = ("(the file's content)".to_owned(), "(another content)".to_owned());
            found.push(Change { setting: setting.clone(), from: Some(from), to: Some(to) });
        }
    }
    found.sort_by(|a, b| a.setting.cmp(&b.setting));
    found
}

fn compare(path: String, key: &str, old: Option<&Node>, new: Option<&Node>, found: &mut Vec<Change>) {
    if let (Some(old), Some(new)) = (entries(old), entries(new)) {
        let only_new = new.iter().filter(|(name, ..)| !old.iter().any(|(known, ..)| known == name));
        for (name, key, _) in old.iter().chain(only_new) {
            let path = match name.strip_prefix('[') {
                Some(_) => format!("{path}{name}"),
                None if path.is_empty() => name.clone(),
                None => format!("{path}.{name}"),
            };
            compare(path, key, of(&old, name), of(&new, name), found);
        }
        return;
    }
    if format!("{old:?}") == format!("{new:?}") {
        return;
    }
    // A section that comes or goes is told setting by setting too; an item of a list is one thing.
    let empty = Node::Map(Vec::new());
    match (old, new) {
        (Some(Node::Map(_)), None) if !path.contains('[') => compare(path, key, old, Some(&empty), found),
        (None, Some(Node::Map(_))) if !path.contains('[') => compare(path, key, Some(&empty), new, found),
        _ => {
            let shown = |node: Option<&Node>| node.map(|node| text(&masked::masked_at(key, node)));
            found.push(Change { setting: path, from: shown(old), to: shown(new) });
        }
    }
}

fn entries(node: Option<&Node>) -> Option<Vec<Entry<'_>>> {
    match node? {
        Node::Map(entries) => Some(named(entries)),
        Node::List(items) => named_items(items),
        _ => None,
    }
}

fn of<'a>(entries: &[Entry<'a>], name: &str) -> Option<&'a Node> {
    entries.iter().find(|(known, ..)| known == name).map(|(.., node)| *node)
}

/// A value with its name in the path, and the key that says whether it is a secret.
type Entry<'a> = (String, &'a str, &'a Node);

fn named(entries: &[(String, Node)]) -> Vec<Entry<'_>> {
    entries.iter().map(|(key, node)| (key.clone(), key.as_str(), node)).collect()
}

/// The items of a list of sections: each by its `uri` or `to` if all have one of their own, else by its number. Another
/// list is one value.
fn named_items(items: &[Node]) -> Option<Vec<Entry<'_>>> {
    let is_map = |node: &Node| matches!(node, Node::Map(_));
    if items.is_empty() || !items.iter().all(is_map) {
        return None;
    }
    let by = |wanted: &str| {
        let mut names = Vec::new();
        for item in items {
            let Node::Map(entries) = item else { return None };
            let (_, Node::Text(text)) = entries.iter().find(|(key, _)| key == wanted)? else { return None };
            let name = format!("[{text}]");
            if names.contains(&name) {
                return None;
            }
            names.push(name);
        }
        Some(names)
    };
    let names = by("uri").unwrap_or_else(|| (0..items.len()).map(|index| format!("[{index}]")).collect());
    Some(names.into_iter().zip(items).map(|(name, item)| (name, "", item)).collect())
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::document;
    use super::*;

    fn diff(old: &str, new: &str) -> Vec<String> {
        let parse = |text| document::parse("a", text).unwrap();
        let none = BTreeMap::new();
        changes(&parse(old), &parse(new), (&none, &none)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_setting_that_differs_is_told_with_both_values() {
        assert_eq!(
            diff(
                "limits: { head_size: 8KiB, headers: 3 }\ntimeouts: { probation: 30s }\n",
                "limits: { head_size: 9KiB, headers: 3 }\nevents: { queue: 7 }\n"
            ),
            [
                "events.queue: (not set) -> 7",
                "limits.head_size: 8KiB -> 9KiB",
                "timeouts.probation: 30s -> (not set)"
            ]
        );
        assert_eq!(diff("a: [1, 2]", "a: [1, 3]"), ["a: [1,2] -> [1,3]"]);
        assert_eq!(diff("a: 1\nb: 2", "b: 2\na: 1"), [""; 0]);
    }

    #[test]
    fn listeners_are_known_by_their_uris() {
        assert_eq!(
            diff(
                "listeners: [ { uri: 'msrp://a:1', backlog: 5 }, { uri: 'msrp://a:2' } ]",
                "listeners: [ { uri: 'msrp://a:3' }, { uri: 'msrp://a:1', backlog: 6 } ]"
            ),
            [
                "listeners[msrp://a:1].backlog: 5 -> 6",
                "listeners[msrp://a:2]: {\"uri\":\"msrp://a:2\"} -> (not set)",
                "listeners[msrp://a:3]: (not set) -> {\"uri\":\"msrp://a:3\"}",
            ]
        );
    }

    #[test]
    fn secrets_are_masked() {
        let shown = diff(
            "auth: { nonce_secret: HUSH1, users: { a: { password: HUSH2 } } }\nadmin: { token: HUSH3 }\n",
            "auth: { nonce_secret: HUSH4, users: { a: { password: HUSH5 }, b: { ha1: HUSH6 } } }\n\
             records: { sinks: { a: { database: { url: 'mysql://a:HUSH7@b/c' } } } }\n",
        );
        assert_eq!(
            shown,
            [
                "admin.token: *** -> (not set)",
                "auth.nonce_secret: *** -> ***",
                "auth.users.a.password: *** -> ***",
                "auth.users.b.ha1: (not set) -> ***",
                "records.sinks.a.database.url: (not set) -> mysql://a:***@b/c",
            ]
        );
    }

    #[test]
    fn a_file_with_another_content_is_told() {
        let node = document::parse("a", "auth: { htdigest: users }").unwrap();
        let files = |hash| BTreeMap::from([("auth.htdigest".to_owned(), hash)]);
        let (old, new) = (files(1), files(2));
        assert!(changes(&node, &node, (&old, &old)).is_empty());
        assert_eq!(
            changes(&node, &node, (&old, &new))[0].to_string(),
            "auth.htdigest: (the file's content) -> (another content)"
        );
    }
}
