//! Finds the fields in a head and the first thing that is wrong with it.

use memchr::{memchr, memchr_iter, memmem};

use super::address::{Address, scheme};
use super::defect::Defect;
use super::grammar::{is_space, token, trim};
use super::head::{Field, Layout, Name, Values, cseq, max_forwards};
use super::via::Via;

/// How a line begins that a SIP message may begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartLine {
    Request,
    Response,
}

/// Whether a first line, without its line break, is meant to be SIP; if so, which kind.
pub(super) fn kind_of(line: &[u8]) -> Option<StartLine> {
    if line.iter().any(|&byte| byte < b' ' && byte != b'\t' && byte != b'\r') {
        return None;
    }
    if line.get(..4).is_some_and(|begin| begin.eq_ignore_ascii_case(b"SIP/")) {
        return Some(StartLine::Response);
    }
    let line = &line[..line.iter().rposition(|&byte| !is_space(byte)).map_or(0, |last| last + 1)];
    let version = line.rsplit(|&byte| is_space(byte)).next().unwrap_or_default();
    let named = version.get(..4).is_some_and(|begin| begin.eq_ignore_ascii_case(b"SIP/"));
    (named && version.len() < line.len()).then_some(StartLine::Request)
}

/// Scans a head, which ends with its empty line, or, if the whole of it did not fit, after the last
/// whole line. `max_fields` bounds the fields that are remembered; with `lenient` LF alone ends a line.
pub(super) fn scan(bytes: &[u8], kind: StartLine, max_fields: usize, lenient: bool, layout: &mut Layout) {
    let mut fields = std::mem::take(&mut layout.fields);
    fields.clear();
    *layout = Layout { fields, is_request: kind == StartLine::Request, ..Layout::default() };

    line_breaks(bytes, lenient, layout);
    let first_end = memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
    let line = &bytes[..first_end];
    start_line(line.strip_suffix(b"\n").unwrap_or(line), kind, layout);
    layout.fields_start = first_end as u32;

    let mut at = first_end;
    let (mut count, mut seen) = (0, Seen::default());
    let ends = |rest: &[u8]| rest.starts_with(b"\r\n") || lenient && rest.starts_with(b"\n");
    while at < bytes.len() && !ends(&bytes[at..]) {
        let end = field_end(bytes, at);
        count += 1;
        if count > max_fields {
            note(layout, Defect::TooManyFields);
        }
        header_line(bytes, at, end, count <= max_fields, &mut seen, layout);
        at = end;
    }
    layout.fields_end = at as u32;

    check(bytes, layout);
}

/// Where a head ends that begins with these bytes: after its empty line, looked for from `from` on. With `lenient`
/// LF alone ends a line too.
pub(super) fn head_end(bytes: &[u8], from: usize, lenient: bool) -> Option<usize> {
    if !lenient {
        return memmem::find(&bytes[from..], b"\r\n\r\n").map(|found| from + found + 4);
    }
    memchr_iter(b'\n', &bytes[from..]).find_map(|found| match &bytes[from + found + 1..] {
        [b'\n', ..] => Some(from + found + 2),
        [b'\r', b'\n', ..] => Some(from + found + 3),
        _ => None,
    })
}

/// The value of a line if it is a Content-Length, `None` within if it is malformed.
pub(super) fn length_line(line: &[u8]) -> Option<Option<u32>> {
    let colon = memchr(b':', line)?;
    let name = line[..colon].trim_ascii_end();
    (Name::read(name) == Some(Name::ContentLength))
        .then(|| super::grammar::number(&line[trim(line, colon + 1..line.len())], u32::MAX))
}

/// Where the field that begins at `at` ends: after the first line break that no fold follows.
fn field_end(bytes: &[u8], at: usize) -> usize {
    let mut from = at;
    loop {
        let Some(found) = memchr(b'\n', &bytes[from..]) else { return bytes.len() };
        from += found + 1;
        if !matches!(bytes.get(from), Some(b' ' | b'\t')) {
            return from;
        }
    }
}

/// Remembers the first thing that is wrong.
fn note(layout: &mut Layout, defect: Defect) {
    layout.defect.get_or_insert(defect);
}

/// As [`note`], where it makes the end of the message unknown: that counts before all else.
fn lose(layout: &mut Layout, defect: Defect) {
    if !layout.lost {
        layout.lost = true;
        layout.defect = Some(defect);
    }
}

fn start_line(line: &[u8], kind: StartLine, layout: &mut Layout) {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let defect = match kind {
        StartLine::Request => request_line(line, layout),
        StartLine::Response => status_line(line, layout),
    };
    if let Some(defect) = defect {
        note(layout, defect);
    }
}

/// `Method SP Request-URI SP SIP-Version`, with one space each (RFC 3261 §7.1).
fn request_line(line: &[u8], layout: &mut Layout) -> Option<Defect> {
    let method_end = memchr(b' ', line).unwrap_or(line.len());
    // An ACK is not answered, however bad the rest of its line.
    layout.method = (0, method_end as u32);
    let mut parts = line.split(|&byte| byte == b' ');
    let (method, uri, version) = (parts.next()?, parts.next(), parts.next());
    let (Some(uri), Some(version), None, true) = (uri, version, parts.next(), token(method)) else {
        return Some(Defect::StartLine);
    };
    layout.uri = (method_end as u32 + 1, (method_end + 1 + uri.len()) as u32);
    let good = scheme(uri).is_some()
        && uri.iter().all(|&byte| byte > b' ' && byte != 0x7f && !b"<>\"".contains(&byte));
    match version_of(version) {
        None => Some(Defect::StartLine),
        Some(false) => Some(Defect::Version),
        Some(true) if good => None,
        Some(true) => Some(Defect::StartLine),
    }
}

/// `SIP-Version SP Status-Code SP Reason-Phrase` (RFC 3261 §7.2).
fn status_line(line: &[u8], layout: &mut Layout) -> Option<Defect> {
    let mut parts = line.splitn(3, |&byte| byte == b' ');
    let (version, status, reason) = (parts.next()?, parts.next(), parts.next());
    match version_of(version) {
        Some(true) => {}
        Some(false) => return Some(Defect::Version),
        None => return Some(Defect::StartLine),
    }
    match (status, reason) {
        (Some([hundreds @ b'1'..=b'6', tens @ b'0'..=b'9', ones @ b'0'..=b'9']), Some(_)) => {
            let digit = |byte: &u8| u16::from(byte - b'0');
            layout.status = digit(hundreds) * 100 + digit(tens) * 10 + digit(ones);
            None
        }
        _ => Some(Defect::StartLine),
    }
}

/// Whether it is 2.0; `None` if it is no version.
fn version_of(version: &[u8]) -> Option<bool> {
    if !version.get(..4)?.eq_ignore_ascii_case(b"SIP/") {
        return None;
    }
    let digits = |bytes: &[u8]| !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    let mut numbers = version[4..].splitn(2, |&byte| byte == b'.');
    let (major, minor) = (numbers.next()?, numbers.next()?);
    (digits(major) && digits(minor)).then_some(major == b"2" && minor == b"0")
}

/// The fields that may stand in a head once only, as far as they were seen.
#[derive(Default)]
struct Seen(u32);

impl Seen {
    /// Whether this one was seen before.
    fn again(&mut self, name: Name) -> bool {
        let bit = 1 << name as u32;
        let before = self.0;
        self.0 |= bit;
        before & bit != 0
    }
}

fn header_line(bytes: &[u8], start: usize, end: usize, remember: bool, seen: &mut Seen, layout: &mut Layout) {
    let Some(colon) = memchr(b':', &bytes[start..end]).map(|at| start + at) else {
        return note(layout, Defect::HeaderLine);
    };
    let mut name_end = colon;
    while name_end > start && matches!(bytes[name_end - 1], b' ' | b'\t') {
        name_end -= 1;
    }
    let name = &bytes[start..name_end];
    if !token(name) {
        return note(layout, Defect::HeaderLine);
    }
    let Some(name) = Name::read(name) else { return };
    let value = trim(bytes, colon + 1..end);
    let again = name.is_single() && seen.again(name);
    // Where the message ends must be known even if there are too many fields.
    if name == Name::ContentLength {
        let length = super::grammar::number(&bytes[value.clone()], u32::MAX);
        match length {
            None => lose(layout, Defect::Field(name)),
            // Two that say the same leave no doubt.
            Some(_) if again && layout.content_length != length => lose(layout, Defect::Repeated(name)),
            Some(_) => layout.content_length = length,
        }
    }
    if again {
        note(layout, Defect::Repeated(name));
    }
    if remember {
        let (line, value) = ((start as u32, end as u32), (value.start as u32, value.end as u32));
        layout.fields.push(Field { name, line, value });
    }
}

/// CR and LF come together or not at all, and no other control character but HT comes.
fn line_breaks(bytes: &[u8], lenient: bool, layout: &mut Layout) {
    let mut previous = 0;
    for &byte in bytes {
        match byte {
            b'\n' if previous != b'\r' => return bare(lenient, layout),
            b'\n' | b'\t' => {}
            _ if previous == b'\r' => return bare(lenient, layout),
            b'\r' => {}
            0..b' ' | 0x7f => note(layout, Defect::Control),
            _ => {}
        }
        previous = byte;
    }
}

/// CR or LF stands alone. Who is lenient knows the end nevertheless; that it is so must be known before all else then
/// too, as such lines cannot be given back in an answer.
fn bare(lenient: bool, layout: &mut Layout) {
    layout.defect = Some(Defect::BareLineBreak);
    layout.lost |= !lenient;
}

/// What has to be there, and whether it is by the grammar.
fn check(bytes: &[u8], layout: &mut Layout) {
    let mut defect = None;
    for name in [Name::Via, Name::To, Name::From, Name::CallId, Name::CSeq] {
        if !layout.fields.iter().any(|field| field.name == name) {
            defect = defect.or(Some(Defect::Missing(name)));
        }
    }
    let method = &bytes[layout.method.0 as usize..layout.method.1 as usize];
    // A response passes by its top Via alone; what is wrong below is for its receiver.
    let is_request = layout.is_request;
    let mut vias = 0;
    for field in &layout.fields {
        let value = field.value();
        let text = &bytes[value.clone()];
        let good = match field.name {
            Name::Via => {
                vias += 1;
                let mut values = Values::of_field(bytes, *field);
                if vias == 1 || is_request {
                    values.all(|via| via.is_ok_and(|(range, _)| Via::parse(bytes, range).is_ok()))
                } else {
                    true
                }
            }
            Name::To | Name::From => Address::parse(bytes, value).is_ok(),
            Name::Route if is_request => Values::of_field(bytes, *field)
                .all(|route| route.is_ok_and(|(range, _)| Address::parse(bytes, range).is_ok())),
            Name::Contact if is_request && text != b"*" => Values::of_field(bytes, *field)
                .all(|contact| contact.is_ok_and(|(range, _)| Address::parse(bytes, range).is_ok())),
            Name::CallId => !text.is_empty() && !text.iter().any(|&byte| is_space(byte)),
            Name::CSeq => match cseq(bytes, value) {
                None => false,
                Some(cseq) => {
                    if is_request && cseq.method != method {
                        defect = defect.or(Some(Defect::Method));
                    }
                    true
                }
            },
            Name::MaxForwards => max_forwards(text).is_some(),
            Name::Require | Name::ProxyRequire if is_request => Values::of_field(bytes, *field)
                .all(|option| option.is_ok_and(|(range, _)| token(&bytes[range]))),
            _ => true,
        };
        if !good {
            defect = defect.or(Some(Defect::Field(field.name)));
        }
    }
    if let Some(defect) = defect {
        note(layout, defect);
    }
}
