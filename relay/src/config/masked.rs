//! A configuration that can be shown: as it was read, without its secrets.

use serde_json::Value;

use super::document::Node;

/// The keys whose values are secrets, wherever they stand. A test compares them with the types.
const SECRETS: &[&str] = &[
    "password",
    "ha1",
    "ha1_sha256",
    "nonce_secret",
    "flow_secret",
    "auth_key",
    "token",
    "secret",
    "other_secret",
    "url",
    "secrets",
    "url",
];

/// The tree with `***` in the place of secrets. The name of a file that holds one is shown.
pub(super) fn masked(node: &Node) -> Value {
    match node {
        Node::Null => Value::Null,
        Node::Bool(value) => (*value).into(),
        Node::Integer(value) => i64::try_from(*value).map_or_else(|_| value.to_string().into(), Value::from),
        Node::Float(value) => (*value).into(),
        Node::Text(text) => text.as_str().into(),
        Node::List(items) => items.iter().map(masked).collect(),
        Node::Map(entries) => {
            let entry = |(key, value): &(String, Node)| (key.clone(), masked_at(key, value));
            Value::Object(entries.iter().map(entry).collect())
        }
    }
}

/// The same of the value at `key`, which says whether it is a secret.
pub(super) fn masked_at(key: &str, value: &Node) -> Value {
    match (key, value) {
        ("url", Node::Text(url)) => without_password(url).into(),
        (key, value) if SECRETS.contains(&key) => secret(value),
        (_, value) => masked(value),
    }
}

fn secret(node: &Node) -> Value {
    match node {
        Node::Null => Value::Null,
        // `{ file: PATH }`, or sections that are called so.
        Node::Map(_) => masked(node),
        Node::List(items) => items.iter().map(secret).collect(),
        _ => "***".into(),
    }
}

/// A URL whose password is masked: `postgres://relay:***@db/users`. What is in its query may be a secret too.
fn without_password(url: &str) -> String {
    let (url, query) = url.split_once('?').map_or((url, ""), |(url, _)| (url, "?***"));
    // A password may have `@` and `/` in it, written as they are by mistake: the last `@` is the one that counts.
    let masked = url.split_once("://").and_then(|(scheme, rest)| {
        let (who, place) = rest.rsplit_once('@')?;
        let user = who.split_once(':').map_or(who, |(user, _)| user);
        let mask = if who.contains(':') { ":***" } else { "" };
        Some(format!("{scheme}://{user}{mask}@{place}{query}"))
    });
    masked.unwrap_or_else(|| format!("{url}{query}"))
}

#[cfg(test)]
mod tests {
    use super::super::{FileConfig, document, keys};
    use super::*;

    #[test]
    fn no_secret_is_shown_and_the_rest_is() {
        let text = "auth: { nonce_secret: HUSH, users: { alice: { password: HUSH }, token: { ha1: HUSH, ha1_sha256: HUSH } } }\n\
                    websocket: { auth: { token: { secret: HUSH, issuer: shown } } }\n\
                    sip: { flow_secret: 'http://HUSH' }\nadmin: { token: HUSH, listen: [shown] }\n\
                    trace: { destinations: { a: { auth_key: { file: shown.txt } }, b: { auth_key: 12 } } }\n\
                    records: { sinks: { a: { database: { url: \"mysql://a:HUSH@b/c\" } } } }\n";
        let shown = masked(&document::parse("a", text).unwrap()).to_string();
        assert!(!shown.contains("HUSH") && !shown.contains("12"), "{shown}");
        assert!(shown.contains(r#""issuer":"shown""#) && shown.contains(r#""file":"shown.txt""#), "{shown}");
        assert!(shown.contains(r#""listen":["shown"]"#), "{shown}");
    }

    #[test]
    fn of_a_url_only_the_password_is_a_secret() {
        for (url, shown) in [
            ("postgres://relay:HUSH@db:5432/users", "postgres://relay:***@db:5432/users"),
            ("mysql://relay:H@U/S:H@db/users?ssl-key=HUSH", "mysql://relay:***@db/users?***"),
            ("postgres://relay@db/users", "postgres://relay@db/users"),
            ("sqlite:///var/lib/users.db", "sqlite:///var/lib/users.db"),
            ("postgres://db/users?password=HUSH", "postgres://db/users?***"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }

    #[test]
    fn every_secret_of_the_configuration_is_known() {
        let secrets = keys::secrets_of::<FileConfig>();
        assert!(secrets.contains("auth.nonce_secret") && secrets.len() > 5, "{secrets:?}");
        let is_known = |path: &&String| {
            path.rsplit('.').find(|part| *part != "*").is_some_and(|key| SECRETS.contains(&key))
        };
        let unknown: Vec<_> = secrets.iter().filter(|path| !is_known(path)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
