//! A simple parser for whole buffers, written without looking at how the decoder does it, and a
//! collector that drives the decoder: both give [`Parsed`], to be compared. Used by the tests here and
//! by the fuzz targets. It knows no limits.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code"
)]

use bytes::BytesMut;
use msrp_proto::decoder::{Decoder, Event, Limits};
use msrp_proto::flag::Flag;
use msrp_proto::uri::UriRef;

/// What a connection carried.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    pub messages: Vec<Message>,
    /// The head of a message whose end is missing, and the body so far: without what may be the beginning of the
    /// end-line.
    pub open: Option<(Head, Vec<u8>)>,
    pub malformed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub id: Vec<u8>,
    pub after_id: Vec<u8>,
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub to_path: Vec<String>,
    pub from_path: Vec<String>,
    pub has_body: bool,
    /// As it came, up to the CRLF of the last field.
    pub bytes: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub head: Head,
    pub body: Vec<u8>,
    pub flag: u8,
}

pub fn unlimited() -> Limits {
    Limits { head_bytes: 1 << 30, headers: 1 << 30, path_len: 1 << 30, other_body: 1 << 30 }
}

/// The reference, without limits.
pub fn parse(input: &[u8]) -> Parsed {
    parse_within(input, &unlimited())
}

/// The reference.
pub fn parse_within(mut input: &[u8], limits: &Limits) -> Parsed {
    let mut parsed = Parsed::default();
    loop {
        while let Some(rest) = input.strip_prefix(b"\r\n") {
            input = rest;
        }
        if input.is_empty() || input == b"\r" {
            return parsed;
        }
        match message(input, limits) {
            Outcome::Message(message, rest) => {
                parsed.messages.push(message);
                input = rest;
            }
            Outcome::Open(open) => {
                parsed.open = open;
                return parsed;
            }
            Outcome::Malformed => {
                parsed.malformed = true;
                return parsed;
            }
        }
    }
}

enum Outcome<'a> {
    Message(Message, &'a [u8]),
    Open(Option<(Head, Vec<u8>)>),
    Malformed,
}

fn message<'a>(input: &'a [u8], limits: &Limits) -> Outcome<'a> {
    let magic = b"MSRP ";
    if !input.starts_with(magic) && !magic.starts_with(input) {
        return Outcome::Malformed;
    }
    let mut at = 0;
    let mut head: Option<Head> = None;
    loop {
        let Some(len) = input[at..].iter().position(|byte| *byte == b'\n') else {
            // Too long already, unless what is there is the end of the head: that does not count.
            let ends = head.as_ref().is_some_and(|head| may_end(&input[at..], &head.id));
            let too_long = input.len() > limits.head_bytes && !ends;
            return if too_long { Outcome::Malformed } else { Outcome::Open(None) };
        };
        let Some(line) = input[at..at + len].strip_suffix(b"\r") else { return Outcome::Malformed };
        let next = at + len + 1;
        let Some(head) = &mut head else {
            let Some(begun) = start_line(line) else { return Outcome::Malformed };
            head = Some(begun);
            at = next;
            if at > limits.head_bytes {
                return Outcome::Malformed;
            }
            continue;
        };
        let end_line = [b"-------", &head.id[..]].concat();
        let flag =
            line.strip_prefix(&end_line[..]).filter(|rest| rest.len() == 1 && b"$+#".contains(&rest[0]));
        if line.is_empty() || flag.is_some() {
            if head.fields.len() < 2 {
                return Outcome::Malformed;
            }
            head.bytes = input[..at].to_vec();
            if let Some(flag) = flag {
                let message = Message { head: head.clone(), body: Vec::new(), flag: flag[0] };
                return Outcome::Message(message, &input[next..]);
            }
            head.has_body = true;
            // With the blank line's own CRLF in front, every end-line begins with CRLF.
            return body(head.clone(), &input[at..], limits);
        }
        if !field(head, line) {
            return Outcome::Malformed;
        }
        at = next;
        let too_many = head.fields.len() > limits.headers
            || head.to_path.len() > limits.path_len
            || head.from_path.len() > limits.path_len;
        if at > limits.head_bytes || too_many {
            return Outcome::Malformed;
        }
    }
}

/// Whether the line that begins so may be the end of a head. Any id will do for that: one that differs from the head's
/// is noticed when the line is there.
fn may_end(line: &[u8], id: &[u8]) -> bool {
    line.len() < 7 + 32 + 3 && !line.contains(&b':') || [b"-------", id].concat().starts_with(line)
}

fn body<'a>(head: Head, region: &'a [u8], limits: &Limits) -> Outcome<'a> {
    let most = if head.after_id == b"SEND" { usize::MAX } else { limits.other_body };
    let begin = [b"\r\n-------", &head.id[..]].concat();
    for at in 0..region.len() {
        if let Some([flag @ (b'$' | b'+' | b'#'), b'\r', b'\n', rest @ ..]) =
            region[at..].strip_prefix(&begin[..])
        {
            let body = region[2.min(at)..at].to_vec();
            if body.len() > most {
                return Outcome::Malformed;
            }
            return Outcome::Message(Message { head, body, flag: *flag }, rest);
        }
    }
    // What may be the beginning of the end-line is no body yet.
    let is_begun = |rest: &[u8]| match rest.strip_prefix(&begin[..]) {
        Some(end) => matches!(end, [] | [b'$' | b'+' | b'#'] | [b'$' | b'+' | b'#', b'\r']),
        None => begin.starts_with(rest),
    };
    let known = (0..region.len()).find(|at| is_begun(&region[*at..])).unwrap_or(region.len()).max(2);
    if known - 2 > most {
        return Outcome::Malformed;
    }
    Outcome::Open(Some((head, region[2..known].to_vec())))
}

fn start_line(line: &[u8]) -> Option<Head> {
    let rest = line.strip_prefix(b"MSRP ")?;
    let space = rest.iter().position(|byte| *byte == b' ')?;
    let (id, after_id) = (&rest[..space], &rest[space + 1..]);
    let ident = |byte: &u8| byte.is_ascii_alphanumeric() || b".-+%=".contains(byte);
    let is_ident = (4..=32).contains(&id.len()) && id[0].is_ascii_alphanumeric() && id.iter().all(ident);
    let is_method = !after_id.is_empty() && after_id.iter().all(u8::is_ascii_uppercase);
    let is_status = after_id.len() >= 3
        && after_id[..3].iter().all(u8::is_ascii_digit)
        && matches!(after_id.get(3), None | Some(b' '))
        && !after_id.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t');
    (is_ident && (is_method || is_status)).then(|| Head {
        id: id.to_vec(),
        after_id: after_id.to_vec(),
        fields: Vec::new(),
        to_path: Vec::new(),
        from_path: Vec::new(),
        has_body: false,
        bytes: Vec::new(),
    })
}

fn field(head: &mut Head, line: &[u8]) -> bool {
    let Some(colon) = line.iter().position(|byte| *byte == b':') else { return false };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let token = |byte: &u8| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]".contains(byte);
    if name.is_empty() || !name[0].is_ascii_alphabetic() || !name.iter().all(token) {
        return false;
    }
    if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return false;
    }
    let blank = |byte: &u8| b" \t".contains(byte);
    let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    let value = &value[start..end];
    let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
    let place = head.fields.len();
    if (place == 0) != is("To-Path") || (place == 1) != is("From-Path") {
        return false;
    }
    if place < 2 {
        let Ok(text) = std::str::from_utf8(value) else { return false };
        let path: Vec<String> = text.split(' ').filter(|uri| !uri.is_empty()).map(str::to_owned).collect();
        if path.is_empty() || path.iter().any(|uri| UriRef::parse(uri).is_err()) {
            return false;
        }
        *(if place == 0 { &mut head.to_path } else { &mut head.from_path }) = path;
    }
    head.fields.push((name.to_vec(), value.to_vec()));
    true
}

/// What the decoder makes of the same bytes, in slices of these sizes, over and over; all at once
/// without any.
pub fn decode(input: &[u8], sizes: &[usize], limits: Limits) -> Parsed {
    let mut decoder = Decoder::new(limits);
    let mut parsed = Parsed::default();
    let mut buf = BytesMut::new();
    let all_at_once = [usize::MAX];
    let mut sizes = if sizes.is_empty() { &all_at_once } else { sizes }.iter().copied().cycle();
    let mut rest = input;
    while !rest.is_empty() {
        let size = sizes.next().unwrap().clamp(1, rest.len());
        buf.extend_from_slice(&rest[..size]);
        rest = &rest[size..];
        loop {
            match decoder.decode(&mut buf) {
                Ok(None) => break,
                Err(_) => {
                    parsed.malformed = true;
                    parsed.open = None;
                    return parsed;
                }
                Ok(Some(Event::Head(head))) => {
                    assert!(parsed.open.is_none());
                    let path = |uri: UriRef<'_>| uri.as_str().to_owned();
                    let field = |(name, value): (&str, &[u8])| (name.as_bytes().to_vec(), value.to_vec());
                    let described = Head {
                        id: head.transaction_id().as_bytes().to_vec(),
                        after_id: head.after_transaction_id().to_vec(),
                        fields: head.fields().map(field).collect(),
                        to_path: head.to_path().map(path).collect(),
                        from_path: head.from_path().map(path).collect(),
                        has_body: head.has_body(),
                        bytes: head.as_bytes().to_vec(),
                    };
                    // The next one is held against this one, too.
                    decoder.recycle(head);
                    parsed.open = Some((described, Vec::new()));
                }
                Ok(Some(Event::Body(bytes))) => {
                    assert!(!bytes.is_empty());
                    parsed.open.as_mut().unwrap().1.extend_from_slice(&bytes);
                }
                Ok(Some(Event::End(flag))) => {
                    let (head, body) = parsed.open.take().unwrap();
                    parsed.messages.push(Message { head, body, flag: Flag::as_byte(flag) });
                    assert!(decoder.is_between_messages());
                }
            }
        }
    }
    parsed
}

/// Panics unless the decoder made of the input what the reference did.
pub fn compare(decoded: &Parsed, reference: &Parsed) {
    assert_eq!(decoded.messages, reference.messages);
    assert_eq!(decoded.malformed, reference.malformed);
    assert_eq!(decoded.open, reference.open);
}
