//! The call flow: one line for each message that a client sends or receives.

use bytes::BytesMut;
use msrp_proto::decoder::{Decoder, Event};
use msrp_proto::flag::Flag;
use msrp_proto::head::{Head, Kind, Method};
use msrp_proto::header::Name;

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    ToRelay,
    FromRelay,
}

/// Shows what one client says and hears.
pub(super) struct Flow {
    name: &'static str,
    to_relay: Tap,
    from_relay: Tap,
    /// While a file goes this way, only the beginning is shown, and the REPORT at the end.
    file: Option<Direction>,
}

/// One direction.
#[derive(Default)]
struct Tap {
    decoder: Decoder,
    buf: BytesMut,
    head: Option<Head>,
    body: u64,
    /// How many messages were shown of a file's.
    shown: usize,
}

impl Flow {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, to_relay: Tap::default(), from_relay: Tap::default(), file: None }
    }

    /// From now on a file goes in this direction.
    pub(super) fn file_begins(&mut self, direction: Direction) {
        self.file = Some(direction);
    }

    /// Shows the messages that end in `bytes`.
    #[expect(clippy::print_stdout, reason = "the demo speaks to the user")]
    pub(super) fn show(&mut self, direction: Direction, bytes: &[u8]) {
        let file_goes_here = self.file == Some(direction);
        let tap = match direction {
            Direction::ToRelay => &mut self.to_relay,
            Direction::FromRelay => &mut self.from_relay,
        };
        let arrow = match direction {
            Direction::ToRelay => format!("{:>6} ──▶ relay          ", self.name),
            Direction::FromRelay => format!("           relay ──▶ {:<6}", self.name),
        };
        if file_goes_here && tap.shown > 0 {
            return;
        }
        tap.buf.extend_from_slice(bytes);
        while let Ok(Some(event)) = tap.decoder.decode(&mut tap.buf) {
            match event {
                // A chunk of a file is shown when it begins: its end may be far.
                Event::Head(head) if file_goes_here => {
                    println!("{arrow}  {}  …", describe(&head, 0, Flag::Complete));
                    tap.shown += 1;
                    return;
                }
                Event::Head(head) => tap.head = Some(head),
                Event::Body(body) => tap.body += body.len() as u64,
                Event::End(flag) => {
                    let first = tap.shown == 0;
                    let report = |head: &Head| head.kind() == Kind::Request(Method::Report);
                    let head = tap.head.take().filter(|head| self.file.is_none() || first || report(head));
                    if let Some(head) = head {
                        tap.shown += usize::from(self.file.is_some());
                        println!("{arrow}  {}", describe(&head, tap.body, flag));
                    }
                    tap.body = 0;
                }
            }
        }
    }
}

fn describe(head: &Head, body: u64, flag: Flag) -> String {
    let text = |name| head.value(name).map(String::from_utf8_lossy);
    let mut line = match head.kind() {
        Kind::Request(method) => method.as_str().to_owned(),
        Kind::Response(status) => format!("{status} {}", status.comment()),
    };
    for name in [Name::ByteRange, Name::Status, Name::UsePath] {
        if let Some(value) = text(name) {
            line += &format!("  {}: {value}", name.as_str());
        }
    }
    if head.value(Name::WwwAuthenticate).is_some() {
        line += "  (a challenge)";
    }
    if head.value(Name::Authorization).is_some() {
        line += "  (the answer)";
    }
    if body > 0 {
        line += &format!("  {body} bytes");
    }
    if flag != Flag::Complete {
        line += &format!("  {}", char::from(flag.as_byte()));
    }
    line
}
