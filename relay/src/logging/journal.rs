//! Events as the journal takes them: a datagram of fields, each with its name, which `journalctl` can look for
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).
//!
//! The fields of an event are those of the text form in capital letters, with `RELAY_` in front:
//! `journalctl RELAY_USER=alice`. `MESSAGE` has the words and the fields, as the text form has them.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::outlet::{Line, Outlet};
use super::sinks::severity;

/// The longest value: a datagram takes some 200 KiB where nothing else is configured.
const MAX_VALUE: usize = 32 * 1024;

/// The longest name of a field.
const MAX_NAME: usize = 64;

/// One message in the making.
#[derive(Debug)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn new(level: Level) -> Self {
        let mut message = Self(Vec::new());
        message.field("PRIORITY", &severity(level).to_string());
        message.field("SYSLOG_IDENTIFIER", "msrp-relay");
        message
    }

    /// Adds a field; `name` is one that the journal takes.
    pub(super) fn field(&mut self, name: &str, value: &str) {
        let mut end = value.len().min(MAX_VALUE);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        let value = value.get(..end).unwrap_or_default();
        self.0.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            // Whatever a value has in it, it is no other field.
            self.0.push(b'\n');
            self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Gives each event to the journal.
pub(super) struct JournalLayer(pub(super) Outlet);

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        let mut fields =
            Fields { words: String::new(), rest: String::new(), message: Message::new(*meta.level()) };
        event.record(&mut fields);
        let Fields { words, rest, mut message } = fields;
        message.field("MESSAGE", &(words + &rest));
        message.field("TARGET", meta.target());
        self.0.put(Line { level: *meta.level(), bytes: message.into_bytes() });
    }
}

struct Fields {
    /// The event's own words.
    words: String,
    /// Its fields, as the text form has them.
    rest: String,
    message: Message,
}

impl Fields {
    fn add(&mut self, field: &Field, value: &str, shown: fmt::Arguments<'_>) {
        if field.name() == "message" {
            self.words.push_str(value);
            return;
        }
        // Writing into memory does not fail.
        let _ = write!(self.rest, " {}={shown}", field.name());
        self.message.field(&name_of(field.name()), value);
    }
}

/// `RELAY_` and the name in capital letters.
fn name_of(name: &str) -> String {
    let letters = name.bytes().map(|byte| match byte.to_ascii_uppercase() {
        byte @ (b'A'..=b'Z' | b'0'..=b'9') => char::from(byte),
        _ => '_',
    });
    "RELAY_".chars().chain(letters).take(MAX_NAME).collect()
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value, format_args!("{value:?}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        self.add(field, &text, format_args!("{text}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_with_a_line_break_has_its_length_in_front() {
        let mut message = Message::new(Level::ERROR);
        message.field("MESSAGE", "a\nPRIORITY=0");
        let mut expected = b"PRIORITY=3\nSYSLOG_IDENTIFIER=msrp-relay\nMESSAGE\n".to_vec();
        expected.extend([12, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend(b"a\nPRIORITY=0\n");
        assert_eq!(message.into_bytes(), expected);
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        let mut message = Message(Vec::new());
        message.field("A", &"\u{e9}".repeat(MAX_VALUE));
        assert_eq!(message.into_bytes().len(), "A=\n".len() + MAX_VALUE);
    }

    #[test]
    fn names_are_such_as_the_journal_takes() {
        assert_eq!(name_of("tls.version"), "RELAY_TLS_VERSION");
        assert_eq!(name_of(&"x".repeat(100)).len(), MAX_NAME);
    }
}
