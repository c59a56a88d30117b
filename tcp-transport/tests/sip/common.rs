//! Messages, and events as text.

use bytes::{Bytes, BytesMut};
use tcp_transport::sip::{Event, FrameError, Framer, Limits};

/// The fields every request needs, one a line.
pub(crate) const FIELDS: [(&str, &str); 7] = [
    ("Via", "SIP/2.0/TCP ua.example.com;branch=z9hG4bK776asdhds"),
    ("Max-Forwards", "70"),
    ("To", "Bob <sip:bob@example.com>"),
    ("From", "Alice <sip:alice@example.com>;tag=1928301774"),
    ("Call-ID", "a84b4c76e66710@ua.example.com"),
    ("CSeq", "314159 MESSAGE"),
    ("Content-Length", "5"),
];

pub(crate) const START: &str = "MESSAGE sip:bob@example.com SIP/2.0";

/// A MESSAGE with the body `hello`, whose fields of these names have these lines instead; an empty one
/// takes the field away.
pub(crate) fn message(start: &str, changes: &[(&str, &str)]) -> String {
    let mut text = format!("{start}\r\n");
    for (name, value) in FIELDS {
        match changes.iter().find(|(changed, _)| *changed == name) {
            Some((_, "")) => {}
            Some((_, lines)) => text.push_str(&format!("{lines}\r\n")),
            None => text.push_str(&format!("{name}: {value}\r\n")),
        }
    }
    for (name, lines) in changes {
        if !FIELDS.iter().any(|(known, _)| known == name) {
            text.push_str(&format!("{lines}\r\n"));
        }
    }
    text + "\r\nhello"
}

/// What came out, in a line: `message 5`, `400 malformed To`, `+last`, `+mute` (no answer can be built), `ping`,
/// `pong`, `waits` if something is not whole, `not SIP`, `lost` and `too many reads` for a close.
pub(crate) fn shown(events: &[Event], end: Result<bool, &FrameError>) -> String {
    let mut words: Vec<String> = events
        .iter()
        .map(|event| match event {
            Event::Message(message) => format!("message {}", message.body.len()),
            Event::Refused(refused) => {
                let mut text = format!("{} {}", refused.defect.status().0, refused.defect);
                if refused.last {
                    text += " +last";
                }
                if !refused.head.is_answerable() {
                    text += " +mute";
                }
                text
            }
            Event::Ping => "ping".into(),
            Event::Pong => "pong".into(),
        })
        .collect();
    match end {
        Ok(true) => {}
        Ok(false) => words.push("waits".into()),
        Err(FrameError::NotSip(_)) => words.push("not SIP".into()),
        Err(FrameError::Lost(_)) => words.push("lost".into()),
        Err(_) => words.push("too many reads".into()),
    }
    words.join(", ")
}

/// As many reads as it takes.
pub(crate) fn patient() -> Limits {
    Limits { max_msg_chunks: None, ..Limits::default() }
}

/// Frames a stream that arrives in these pieces.
pub(crate) fn frame<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    limits: Limits,
) -> (Vec<Event>, Result<bool, FrameError>) {
    let mut framer = Framer::new(limits);
    let (mut buf, mut events) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match framer.decode(&mut buf) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                // What is shown of bad input depends on how much of it is there.
                Err(FrameError::NotSip(_)) => return (events, Err(FrameError::NotSip(Bytes::new()))),
                Err(error) => return (events, Err(error)),
            }
        }
    }
    let whole = buf.is_empty() && framer.is_between_messages();
    // After the last message of a connection nothing is waited for.
    let last = matches!(events.last(), Some(Event::Refused(refused)) if refused.last);
    (events, Ok(whole || last))
}

/// What comes out of a stream in one piece, and the same byte by byte.
pub(crate) fn outcome(stream: &[u8]) -> String {
    let (events, end) = frame([stream], patient());
    let text = shown(&events, end.as_ref().copied());
    let (again, end) = frame(stream.chunks(1), patient());
    assert_eq!(shown(&again, end.as_ref().copied()), text, "byte by byte: {}", stream.escape_ascii());
    assert_eq!(again, events);
    text
}

/// What comes out of a WebSocket message.
pub(crate) fn over_websocket(message: &[u8]) -> String {
    let mut framer = Framer::default();
    match framer.whole(Bytes::copy_from_slice(message)) {
        Ok(event) => shown(event.as_slice(), Ok(true)),
        Err(error) => shown(&[], Err(&error)),
    }
}
