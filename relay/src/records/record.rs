//! One record: its fields, their names, and its text.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use time::OffsetDateTime;

use crate::server::Way;

/// What is written of a session. The names of the fields are part of the interface: they do not change, and new ones
/// come behind. `docs/records.md` describes them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SessionRecord {
    /// `SESSION-ID@DOMAIN`: the same in all records of a session, and in no other's.
    pub id: String,
    /// The session-id: a tag of five letters for the process, and 128 random bits in hexadecimal digits.
    pub session: String,
    /// Its URI here.
    pub uri: String,
    /// `domain` of the relay.
    pub relay: String,
    /// Who obtained it.
    pub user: String,
    /// The realm of that user.
    pub realm: String,
    /// The client's address and port, or the relay that obtained it for one.
    pub owner: String,
    /// Whether the owner is a relay.
    pub by_relay: bool,
    /// The listener that the owner came in by, as configured; none where this relay opened the connection.
    pub listener: Option<String>,
    /// What that listener carries it over: `msrp`, `msrps`, `ws` or `wss`.
    pub transport: Option<String>,
    /// The URIs of those it was in use with; the first ones if there were many.
    pub peers: Vec<String>,
    /// Whether there were more.
    pub more_peers: bool,
    /// When it was granted: RFC 3339, UTC, milliseconds.
    pub began: String,
    /// The same in seconds since the epoch.
    pub began_unix: f64,
    /// When it was over; in an interim record, when that was made.
    pub ended: String,
    /// The same in seconds since the epoch.
    pub ended_unix: f64,
    /// How long it lasted, by a clock that is never set.
    pub seconds: f64,
    /// `expired`, `disconnected`, `terminated` or `shutdown`; `interim`: it goes on.
    pub reason: &'static str,
    /// What its owner has sent.
    pub sent: Amount,
    /// What its owner was sent.
    pub received: Amount,
}

/// What went one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Messages that were complete.
    pub messages: u64,
    /// SENDs.
    pub chunks: u64,
    /// Body bytes.
    pub bytes: u64,
    /// REPORTs.
    pub reports: u64,
}

impl From<Way> for Amount {
    fn from(way: Way) -> Self {
        let Way { messages, chunks, bytes, reports } = way;
        Self { messages, chunks, bytes, reports }
    }
}

/// [`SessionRecord::reason`] of a session that goes on.
pub(super) const INTERIM: &str = "interim";

impl SessionRecord {
    /// Whether the session goes on.
    pub fn is_interim(&self) -> bool {
        self.reason == INTERIM
    }

    /// One line of JSON, without its end. No character in it moves a terminal's cursor or ends a line.
    pub fn to_json(&self) -> String {
        // Nothing in it can fail to be written.
        let text = serde_json::to_string(self).unwrap_or_default();
        escape_more(text)
    }
}

/// The text of a list of peers, as in a record.
pub(super) fn peers_json(peers: &[String]) -> String {
    escape_more(serde_json::to_string(peers).unwrap_or_default())
}

/// JSON has the control characters below U+0020 escaped; so are here those of Unicode. They only stand within strings.
fn escape_more(text: String) -> String {
    use std::fmt::Write as _;

    let is_more = |c: char| matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}');
    if !text.contains(is_more) {
        return text;
    }
    text.chars().fold(String::with_capacity(text.len() + 16), |mut escaped, c| {
        if is_more(c) {
            // Writing to a string does not fail.
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
        escaped
    })
}

/// RFC 3339 in UTC with milliseconds: `2026-11-21T19:30:32.125Z`.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let (date, clock) = (time.date(), time.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second(),
        clock.millisecond()
    )
}

/// Seconds since the epoch, in whole milliseconds.
pub(super) fn unix(time: SystemTime) -> f64 {
    milliseconds(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64())
}

/// Seconds in whole milliseconds.
pub(super) fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1000.0).floor() / 1000.0
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::msrp::ProcessTag;

    /// The record of a session, with this session-id, that has ended.
    pub(in super::super) fn ended(id: &str) -> Arc<SessionRecord> {
        Arc::new(record(id, "expired"))
    }

    /// One of a session that goes on.
    pub(in super::super) fn interim(id: &str) -> Arc<SessionRecord> {
        Arc::new(record(id, INTERIM))
    }

    fn record(id: &str, reason: &'static str) -> SessionRecord {
        let began = UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
        let over = began + Duration::from_millis(1_500);
        SessionRecord {
            id: format!("{id}@relay.test"),
            session: id.to_owned(),
            uri: format!("msrp://relay.test:2855/{id};tcp"),
            relay: "relay.test".into(),
            user: "alice".into(),
            realm: "relay.test".into(),
            owner: "127.0.0.1:4000".into(),
            by_relay: false,
            listener: Some("msrp://127.0.0.1:2855".into()),
            transport: Some("msrp".into()),
            peers: vec!["msrp://127.0.0.1:4001/b;tcp".into()],
            more_peers: false,
            began: rfc3339(began),
            began_unix: unix(began),
            ended: rfc3339(over),
            ended_unix: unix(over),
            seconds: 1.5,
            reason,
            sent: Amount { messages: 1, chunks: 2, bytes: 3, reports: 4 },
            received: Amount { messages: 5, chunks: 6, bytes: 7, reports: 8 },
        }
    }

    /// How wide a column of the table for MySQL is, as documented.
    fn documented_width(column: &str) -> usize {
        let text = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/records.md");
        let text = std::fs::read_to_string(text).unwrap();
        let (_, table) = text.split_once("-- MySQL, MariaDB").unwrap();
        let line = table.lines().find(|line| line.split_whitespace().next() == Some(column)).unwrap();
        line.split_once("char(").unwrap().1.split_once(')').unwrap().0.parse().unwrap()
    }

    #[test]
    fn ids_fit_the_documented_columns() {
        let session = "g".repeat(ProcessTag::LEN) + &"0".repeat(32);
        assert!(ProcessTag::of_session_id(&session).is_some());
        assert!(session.len() <= documented_width("session"));
        // No name of a domain has more than 253 characters.
        assert!(session.len() + "@".len() + 253 <= documented_width("id"));
    }

    #[test]
    fn the_fields_and_their_order_are_as_documented() {
        let expected = r#"{"id":"s@relay.test","session":"s","uri":"msrp://relay.test:2855/s;tcp","relay":"relay.test","user":"alice","realm":"relay.test","owner":"127.0.0.1:4000","by_relay":false,"listener":"msrp://127.0.0.1:2855","transport":"msrp","peers":["msrp://127.0.0.1:4001/b;tcp"],"more_peers":false,"began":"2023-11-14T22:13:20.250Z","began_unix":1700000000.25,"ended":"2023-11-14T22:13:21.750Z","ended_unix":1700000001.75,"seconds":1.5,"reason":"expired","sent":{"messages":1,"chunks":2,"bytes":3,"reports":4},"received":{"messages":5,"chunks":6,"bytes":7,"reports":8}}"#;
        assert_eq!(ended("s").to_json(), expected);
    }

    #[test]
    fn no_value_breaks_out_of_its_place() {
        let nasty = "a\"},\r\n{\"\u{0}\u{1b}[31m\t\\\u{7f}\u{85}\u{9b}\u{2028}\u{2029}é;'--";
        let record =
            SessionRecord { user: nasty.into(), peers: vec![nasty.into()], ..record("s", "expired") };
        for text in [record.to_json(), peers_json(&record.peers)] {
            assert!(
                !text.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')),
                "{text}"
            );
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let user = value.get("user").or_else(|| value.get(0)).unwrap();
            assert_eq!(user, nasty);
        }
    }

    #[test]
    fn times_are_utc_with_milliseconds() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_001, "2000-02-29T00:00:00.001Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_millis(millis);
            assert_eq!(rfc3339(time), text);
            assert_eq!(unix(time), millis as f64 / 1000.0);
        }
        assert_eq!(milliseconds(1.2349), 1.234);
    }
}
