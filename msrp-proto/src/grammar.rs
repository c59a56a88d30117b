//! The grammar of RFC 4975 §9 in nom, for complete lines and values. Which lines are complete is
//! the decoder's business.

use std::net::Ipv6Addr;
use std::ops::Range;

use nom::branch::alt;
use nom::bytes::complete::{tag, tag_no_case, take, take_while, take_while_m_n, take_while1};
use nom::character::complete::{char, digit1};
use nom::combinator::{all_consuming, map, map_opt, opt, recognize, rest, value, verify};
use nom::error::{Error, ErrorKind, ParseError};
use nom::multi::{many0_count, many1_count};
use nom::sequence::{delimited, preceded, separated_pair, terminated};
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

/// `MSRP SP transact-id SP (method / status-code [SP comment])`.
pub(crate) fn start_line(line: &[u8]) -> Option<(TransactionId, Start<'_>)> {
    let response = map((status_code, opt(preceded(char(' '), rest))), |(code, _)| Start::Response { code });
    let request = map(take_while1(|byte: u8| byte.is_ascii_uppercase()), |method| Start::Request { method });
    let transaction = map_opt(take_while1(|byte| byte != b' '), |text| TransactionId::new(text).ok());
    finish(preceded(tag("MSRP "), separated_pair(transaction, char(' '), alt((response, request)))), line)
}

/// `name ":" [SP] value`: gives the name's length and where the value stands. White space around
/// the value is tolerated, and its absence after the colon.
pub(crate) fn header_line(line: &[u8]) -> Option<(usize, Range<usize>)> {
    let name = verify(take_while1(is_token_byte), |name: &[u8]| name[0].is_ascii_alphabetic());
    let (value, name) = terminated(name, char::<_, Error<&[u8]>>(':')).parse(line).ok()?;
    // A control character other than a tab is no text in any encoding we may meet.
    if value.iter().any(|&byte| byte < b' ' && byte != b'\t' || byte == 0x7f) {
        return None;
    }
    let before = value.iter().take_while(|&&byte| is_blank(byte)).count();
    let after = value[before..].iter().rev().take_while(|&&byte| is_blank(byte)).count();
    let start = name.len() + 1;
    Some((name.len(), start + before..line.len() - after))
}

/// One URI and nothing else.
pub(crate) fn uri(text: &str) -> Result<Parts, UriError> {
    if text.len() > MAX_URI_LEN {
        return Err(UriError { at: MAX_URI_LEN, reason: "a URI of at most 4096 bytes" });
    }
    let fail = |rest: &str, reason| UriError { at: text.len() - rest.len(), reason };
    // The longest is 4096 bytes: every offset fits.
    let range = |part: &str| {
        let start = part.as_ptr() as usize - text.as_ptr() as usize;
        start as u16..(start + part.len()) as u16
    };
    let scheme = alt((
        value(Scheme::Msrps, tag_no_case("msrps")),
        value(Scheme::Msrp, tag_no_case::<_, _, Error<&str>>("msrp")),
    ));
    let (at, scheme) =
        terminated(scheme, tag("://")).parse(text).map_err(|_| fail(text, "msrp:// or msrps://"))?;
    let (at, userinfo) = opt(terminated(recognize(many0_count(userinfo_part)), char('@')))
        .parse(at)
        .map_err(|_| fail(at, "userinfo"))?;
    let (at, host) = host(at).map_err(|_| fail(at, "a host name or an IP literal"))?;
    let (at, port) = opt(preceded(char(':'), map_opt(digit1, |digits: &str| digits.parse().ok())))
        .parse(at)
        .map_err(|_: nom::Err<Error<&str>>| fail(at, "a port"))?;
    let (at, session_id) = opt(preceded(char('/'), recognize(many1_count(session_id_part))))
        .parse(at)
        .map_err(|_| fail(at, "a session-id"))?;
    let (at, transport) = preceded(char(';'), take_while1(|c: char| c.is_ascii_alphanumeric()))
        .parse(at)
        .map_err(|_: nom::Err<Error<&str>>| fail(at, ";transport"))?;
    let (at, parameters) = recognize(many0_count(parameter)).parse(at).map_err(|_| fail(at, ";parameter"))?;
    if !at.is_empty() {
        return Err(fail(at, "the end of the URI"));
    }
    Ok(Parts {
        scheme,
        userinfo: userinfo.map(range),
        host: range(host),
        port,
        session_id: session_id.map(range),
        transport: range(transport),
        parameters: range(parameters),
    })
}

/// `range-start "-" range-end "/" total`.
pub(crate) fn byte_range(value: &[u8]) -> Option<ByteRange> {
    let open = || alt((map(char('*'), |_| None), map(number, Some)));
    finish(
        map((number, preceded(char('-'), open()), preceded(char('/'), open())), |(start, end, total)| {
            ByteRange { start, end, total }
        }),
        value,
    )
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
    map_opt(digit1, |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse().ok()).parse(input)
}

fn status_code(input: &[u8]) -> IResult<&[u8], StatusCode> {
    map_opt(take_while_m_n(3, 3, |byte: u8| byte.is_ascii_digit()), |digits: &[u8]| {
        StatusCode::new(std::str::from_utf8(digits).ok()?.parse().ok()?)
    })
    .parse(input)
}

fn host(input: &str) -> IResult<&str, &str> {
    let literal = verify(take_while1(|c| c != ']'), |text: &str| text.parse::<Ipv6Addr>().is_ok());
    alt((delimited(char('['), literal, char(']')), recognize(many1_count(host_part)))).parse(input)
}

fn host_part(input: &str) -> IResult<&str, &str> {
    alt((take_while1(|c| is_unreserved(c) || is_sub_delimiter(c)), escape)).parse(input)
}

fn userinfo_part(input: &str) -> IResult<&str, &str> {
    alt((take_while1(|c| is_unreserved(c) || is_sub_delimiter(c) || c == ':'), escape)).parse(input)
}

fn session_id_part(input: &str) -> IResult<&str, &str> {
    let plain = |c| is_unreserved(c) || is_sub_delimiter(c) || matches!(c, '/' | ':' | '@');
    alt((take_while1(plain), escape)).parse(input)
}

fn escape(input: &str) -> IResult<&str, &str> {
    let (_, text) = take(3usize).parse(input)?;
    match text.as_bytes() {
        [b'%', high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => Ok((&input[3..], text)),
        _ => Err(nom::Err::Error(Error::from_error_kind(input, ErrorKind::HexDigit))),
    }
}

fn parameter(input: &str) -> IResult<&str, &str> {
    let token = || take_while1(|c: char| c.is_ascii() && is_token_byte(c as u8) && c != '=');
    recognize((
        char(';'),
        token(),
        opt((char('='), take_while(|c: char| c.is_ascii() && is_token_byte(c as u8)))),
    ))
    .parse(input)
}

fn is_unreserved(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~')
}

/// `sub-delims` of RFC 3986, without `;`, which MSRP gives a meaning of its own.
fn is_sub_delimiter(c: char) -> bool {
    matches!(c, '!' | '$' | '&' | '\'' | '(' | ')' | '*' | '+' | ',' | '=')
}

fn is_token_byte(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x27 | 0x2a | 0x2b | 0x2d | 0x2e | 0x30..=0x39 | 0x41..=0x5a | 0x5e..=0x7e)
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}
