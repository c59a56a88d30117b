//! Who a message is for, by its first bytes: for whoever passes a connection on before anything is decoded.

use memchr::memmem;

use crate::uri::UriRef;

/// What the beginning of a connection says so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstHop<'a> {
    /// It is not there yet.
    More,
    /// The first URI of To-Path.
    Uri(UriRef<'a>),
    /// What comes is no request, or its first header field is not To-Path (RFC 4975 §7.1 wants it there).
    Other,
}

/// Reads the first bytes of a message: its start line, and To-Path up to the end of its first URI. Nothing is kept
/// between calls, and more bytes never change what was not [`FirstHop::More`]. It takes no longer than the line is; how
/// many bytes may come before it is known is for the caller to limit.
#[must_use]
pub fn first_hop(bytes: &[u8]) -> FirstHop<'_> {
    const BEGIN: &[u8] = b"MSRP ";
    const TO_PATH: &[u8] = b"To-Path:";
    let begins = |bytes: &[u8], with: &[u8]| {
        let len = bytes.len().min(with.len());
        bytes[..len].eq_ignore_ascii_case(&with[..len])
    };
    if !bytes.starts_with(&BEGIN[..bytes.len().min(BEGIN.len())]) {
        return FirstHop::Other;
    }
    let Some(end) = memmem::find(bytes, b"\r\n") else { return FirstHop::More };
    // MSRP, the transaction id, and a method: a response has a status there.
    let mut words = bytes[..end].split(|byte| *byte == b' ').skip(2);
    if words.next().is_none_or(|method| !method.first().is_some_and(u8::is_ascii_uppercase)) {
        return FirstHop::Other;
    }
    let line = &bytes[end + 2..];
    if !begins(line, TO_PATH) {
        return FirstHop::Other;
    }
    let Some(value) = line.get(TO_PATH.len()..) else { return FirstHop::More };
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let Some(start) = value.iter().position(|byte| !blank(byte)) else { return FirstHop::More };
    let value = &value[start..];
    let Some(end) = value.iter().position(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')) else {
        return FirstHop::More;
    };
    let uri = std::str::from_utf8(&value[..end]).ok().and_then(|text| UriRef::parse(text).ok());
    uri.map_or(FirstHop::Other, FirstHop::Uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEND: &str = "MSRP d93kswow SEND\r\n\
        To-Path: msrp://bob.example.com:8888/9di4ea;tcp msrp://x.invalid:1/y;tcp\r\n\
        From-Path: msrp://alice.example.com:7777/iau39;tcp\r\n";

    #[test]
    fn the_first_uri_is_known_as_soon_as_it_is_there() {
        let end = SEND.find("tcp ").unwrap() + 4;
        for len in 0..end {
            assert_eq!(first_hop(&SEND.as_bytes()[..len]), FirstHop::More, "{len}");
        }
        for len in end..=SEND.len() {
            let FirstHop::Uri(uri) = first_hop(&SEND.as_bytes()[..len]) else { panic!("{len}") };
            assert_eq!(uri.session_id(), Some("9di4ea"));
        }
    }

    #[test]
    fn what_is_no_request_or_has_no_path_in_its_place_is_something_else() {
        for text in [
            "GET / HTTP/1.1\r\n",
            "msrp d93kswow SEND\r\n",
            "MSRP d93kswow 200 OK\r\nTo-Path: msrp://bob.example.com:8888/9di4ea;tcp\r\n",
            "MSRP d93kswow\r\nTo-Path: msrp://bob.example.com:8888/9di4ea;tcp\r\n",
            "MSRP d93kswow SEND\r\nFrom-Path: msrp://bob.example.com:8888/9di4ea;tcp\r\n",
            "MSRP d93kswow SEND\r\nTo-Path: nobody\r\n",
            "MSRP d93kswow SEND\r\nTo-Path: \r\n",
            "MSRP d93kswow SEND\r\n\r\n",
            "\r\n",
        ] {
            assert_eq!(first_hop(text.as_bytes()), FirstHop::Other, "{text:?}");
        }
        assert_eq!(first_hop(&[0xff; 100]), FirstHop::Other);
        assert_eq!(first_hop(b"MSRP a SEND\r\nTo-Path: \xff\xff\r\n"), FirstHop::Other);
    }
}
