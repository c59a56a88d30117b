//! The grammar of RFC 4975 §9 in nom, for complete lines and values. Which lines are complete is
//! the decoder's business.

use std::net::Ipv6Addr;
use std::ops::Range;

use nom::branch::alt;
use nom::bytes::complete::{tag, tag_no_case, take_while_m_n, take_while1};
use nom::character::complete::{char, digit1};
use nom::combinator::{all_consuming, map, map_opt, opt, recognize, rest, value, verify};
use nom::error::Error;
use nom::multi::many0_count;
use nom::sequence::{delimited, preceded, terminated};
use nom::{IResult, Parser};

use crate::header::{ByteRange, Status};
use crate::ident::TransactionId;
use crate::status::StatusCode;
use crate::uri::{MAX_URI_LEN, Parts, Scheme, UriError};

/// What a start line says besides the transaction id.
pub(crate) enum Start<'a> {
    Request { method: &'a [u8] },
    Response { code: StatusCode },
}

/// `MSRP SP transact-id SP (method / status-code [SP comment])`. By hand: no line is read as often.
pub(crate) fn start_line(line: &[u8]) -> Option<(TransactionId, Start<'_>)> {
    if !is_text(line) {
        return None;
    }
    let line = line.strip_prefix(b"MSRP ")?;
    let space = memchr::memchr(b' ', line)?;
    let transaction = TransactionId::new(&line[..space]).ok()?;
    let start = match &line[space + 1..] {
        [a, b, c] | [a, b, c, b' ', ..] if [a, b, c].iter().all(|digit| digit.is_ascii_digit()) => {
            let code = [a, b, c].iter().fold(0, |code, digit| code * 10 + u16::from(**digit - b'0'));
            Start::Response { code: StatusCode::new(code)? }
        }
        method if !method.is_empty() && method.iter().all(u8::is_ascii_uppercase) => {
            Start::Request { method }
        }
        _ => return None,
    };
    Some((transaction, start))
}

/// `name ":" [SP] value`: gives the name's length and where the value stands. White space around
/// the value is tolerated, and its absence after the colon.
pub(crate) fn header_line(line: &[u8]) -> Option<(usize, Range<usize>)> {
    let name = verify(class1(TOKEN), |name: &[u8]| name[0].is_ascii_alphabetic());
    let (value, name) = terminated(name, char::<_, Error<&[u8]>>(':')).parse(line).ok()?;
    if !is_text(value) {
        return None;
    }
    let before = value.iter().take_while(|&&byte| is_blank(byte)).count();
    let after = value[before..].iter().rev().take_while(|&&byte| is_blank(byte)).count();
    let start = name.len() + 1;
    Some((name.len(), start + before..line.len() - after))
}

/// One URI and nothing else.
pub(crate) fn uri(text: &[u8]) -> Result<Parts, UriError> {
    if text.len() > MAX_URI_LEN {
        return Err(UriError { at: MAX_URI_LEN, reason: "a URI of at most 4096 bytes" });
    }
    let len = text.len();
    let fail = |rest: &[u8], reason| UriError { at: len - rest.len(), reason };
    // The longest is 4096 bytes: every offset fits.
    let part = |rest: &[u8], part: &[u8]| {
        let end = len - rest.len();
        (end - part.len()) as u16..end as u16
    };

    let scheme = alt((
        value(Scheme::Msrps, tag_no_case("msrps")),
        value(Scheme::Msrp, tag_no_case::<_, _, Error<&[u8]>>("msrp")),
    ));
    let (at, scheme) =
        terminated(scheme, tag("://")).parse(text).map_err(|_| fail(text, "msrp:// or msrps://"))?;
    let authority_end = at.iter().position(|&byte| matches!(byte, b'/' | b';')).unwrap_or(at.len());
    let (at, userinfo) = match memchr::memchr(b'@', &at[..authority_end]) {
        None => (at, None),
        Some(len) => {
            let (userinfo, rest) = at.split_at(len);
            if !is_made_of(userinfo, USERINFO) {
                return Err(fail(at, "userinfo"));
            }
            (&rest[1..], Some(part(rest, userinfo)))
        }
    };
    let (at, host) = host(at).map_err(|_| fail(at, "a host name or an IP literal"))?;
    let brackets = u16::from(host.starts_with(b"["));
    let host = part(at, host);
    let host = host.start + brackets..host.end - brackets;
    let (at, port) = opt(preceded(char(':'), map_opt(digit1, |digits| u16::try_from(decimal(digits)?).ok())))
        .parse(at)
        .map_err(|_: nom::Err<Error<&[u8]>>| fail(at, "a port"))?;
    let (at, session_id) = opt(preceded(char('/'), verify(class1(SESSION_ID), has_whole_escapes)))
        .parse(at)
        .map_err(|_: nom::Err<Error<&[u8]>>| fail(at, "a session-id"))?;
    let session_id = session_id.map(|session_id| part(at, session_id));
    let (at, transport) = preceded(char(';'), class1(ALPHANUM))
        .parse(at)
        .map_err(|_: nom::Err<Error<&[u8]>>| fail(at, ";transport"))?;
    let transport = part(at, transport);
    let (end, parameters) =
        recognize(many0_count(parameter)).parse(at).map_err(|_| fail(at, ";parameter"))?;
    if !end.is_empty() {
        return Err(fail(end, "the end of the URI"));
    }
    Ok(Parts { scheme, userinfo, host, port, session_id, transport, parameters: part(end, parameters) })
}

/// `range-start "-" range-end "/" total`. By hand, as each SEND has one.
pub(crate) fn byte_range(value: &[u8]) -> Option<ByteRange> {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    // What stands before `after`, and what follows that; `*` is none.
    let open = |text: &[u8]| match text {
        [b'*', ..] => Some((None, 1)),
        _ => decimal(&text[..digits(text)]).map(|number| (Some(number), digits(text))),
    };
    let len = digits(value);
    let start = decimal(&value[..len])?;
    let rest = value[len..].strip_prefix(b"-")?;
    let (end, len) = open(rest)?;
    let rest = rest[len..].strip_prefix(b"/")?;
    let (total, len) = open(rest)?;
    (len == rest.len()).then_some(ByteRange { start, end, total })
}

/// `namespace SP status-code [SP comment]`.
pub(crate) fn status(value: &[u8]) -> Option<Status<'_>> {
    finish(
        map(
            (status_code, char(' '), status_code, opt(preceded(char(' '), rest))),
            |(namespace, _, code, comment)| Status {
                namespace: namespace.as_u16(),
                code,
                comment: comment.unwrap_or_default(),
            },
        ),
        value,
    )
}

/// `1*DIGIT` that fits 64 bits.
pub(crate) fn whole_number(value: &[u8]) -> Option<u64> {
    finish(number, value)
}

fn finish<'a, O>(
    parser: impl Parser<&'a [u8], Output = O, Error = Error<&'a [u8]>>,
    input: &'a [u8],
) -> Option<O> {
    all_consuming(parser).parse(input).ok().map(|(_, output)| output)
}

fn number(input: &[u8]) -> IResult<&[u8], u64> {
    map_opt(digit1, decimal).parse(input)
}

fn status_code(input: &[u8]) -> IResult<&[u8], StatusCode> {
    map_opt(take_while_m_n(3, 3, |byte: u8| byte.is_ascii_digit()), |digits: &[u8]| {
        StatusCode::new(u16::try_from(decimal(digits)?).ok()?)
    })
    .parse(input)
}

/// The host, with the brackets of an IPv6 reference.
fn host(input: &[u8]) -> IResult<&[u8], &[u8]> {
    let is_ipv6 = |text: &[u8]| std::str::from_utf8(text).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok());
    let literal = verify(take_while1(|byte| byte != b']'), is_ipv6);
    match input.first() {
        Some(b'[') => recognize(delimited(char('['), literal, char(']'))).parse(input),
        _ => verify(class1(HOST), has_whole_escapes).parse(input),
    }
}

fn parameter(input: &[u8]) -> IResult<&[u8], &[u8]> {
    recognize((char(';'), class1(TOKEN), opt((char('='), class1(TOKEN))))).parse(input)
}

/// What the digits say, if there are any and it fits 64 bits.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, &digit| {
        number.checked_mul(10)?.checked_add(u64::from(digit.wrapping_sub(b'0')))
    })
}

/// What kinds of text a byte may stand in: paths are parsed for every message, and one look into a
/// table is what a byte may cost.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        let alphanum = b.is_ascii_alphanumeric();
        // `sub-delims` of RFC 3986 without `;`, which MSRP gives a meaning of its own.
        let host = alphanum
            || matches!(
                b,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b','
                    | b'='
                    | b'%'
            );
        let userinfo = host || b == b':';
        let session_id = userinfo || matches!(b, b'/' | b'@');
        classes[byte] = (alphanum as u8 * ALPHANUM)
            + (host as u8 * HOST)
            + (userinfo as u8 * USERINFO)
            + (session_id as u8 * SESSION_ID)
            + (is_token_byte(b) as u8 * TOKEN);
        byte += 1;
    }
    classes
};
const ALPHANUM: u8 = 1;
const HOST: u8 = 2;
const USERINFO: u8 = 4;
const SESSION_ID: u8 = 8;
const TOKEN: u8 = 16;

fn is(byte: u8, class: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// One byte or more of that class.
fn class1<'a>(class: u8) -> impl Parser<&'a [u8], Output = &'a [u8], Error = Error<&'a [u8]>> {
    take_while1(move |byte| is(byte, class))
}

fn is_made_of(text: &[u8], class: u8) -> bool {
    text.iter().all(|&byte| is(byte, class)) && has_whole_escapes(text)
}

/// Whether every `%` is followed by two hexadecimal digits.
fn has_whole_escapes(text: &[u8]) -> bool {
    let whole = |at: usize| text.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
    memchr::memchr_iter(b'%', text).all(whole)
}

const fn is_token_byte(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x27 | 0x2a | 0x2b | 0x2d | 0x2e | 0x30..=0x39 | 0x41..=0x5a | 0x5e..=0x7e)
}

/// A control character other than a tab is no text in any encoding we may meet.
fn is_text(bytes: &[u8]) -> bool {
    // Without a way out in the middle, so that many bytes are looked at in one instruction.
    let control = |byte: u8| (byte < b' ') & (byte != b'\t') | (byte == 0x7f);
    !bytes.iter().fold(false, |any, &byte| any | control(byte))
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}
