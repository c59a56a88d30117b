//! Addresses and URIs, as far as an edge asks them (RFC 3261 §19.1, §20.10).

use std::ops::Range;

use super::grammar::{Cursor, Malformed, Params, is_space, is_token, number, trim};

/// `name-addr` or `addr-spec` with the parameters after it: a value of From, To, Route and their like.
#[derive(Clone, Debug)]
pub struct Address<'a> {
    bytes: &'a [u8],
    uri: Range<usize>,
    params: Range<usize>,
}

impl<'a> Address<'a> {
    /// Reads `range` of `bytes`: one value.
    ///
    /// # Errors
    /// [`Malformed`] if it is not by the grammar, its parameters included.
    pub fn parse(bytes: &'a [u8], range: Range<usize>) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes, range.clone());
        cursor.skip_space();
        if cursor.peek() == Some(b'"') {
            cursor.quoted()?;
            cursor.skip_space();
            if cursor.peek() != Some(b'<') {
                return Err(Malformed);
            }
        } else {
            // A display name of tokens; in a plain address there is none, and no bracket follows.
            let start = cursor.at;
            cursor.run(|byte| is_token(byte) || is_space(byte) || byte >= 0x80);
            if cursor.peek() != Some(b'<') {
                cursor.at = start;
            }
        }
        let uri = if cursor.take(b'<') {
            let uri = cursor.run(|byte| byte != b'>');
            if !cursor.take(b'>') {
                return Err(Malformed);
            }
            uri
        } else {
            // Without brackets what follows a semicolon belongs to the field (RFC 3261 §20.10).
            let uri = cursor.run(|byte| byte != b';' && !is_space(byte));
            if bytes[uri.clone()].contains(&b'?') {
                return Err(Malformed);
            }
            uri
        };
        let uri = trim(bytes, uri);
        let text = &bytes[uri.clone()];
        if scheme(text).is_none() || text.iter().any(|&byte| is_space(byte) || matches!(byte, b'<' | b'"')) {
            return Err(Malformed);
        }
        let params = cursor.at..range.end;
        if Params::new(bytes, params.clone()).any(|param| param.is_err()) {
            return Err(Malformed);
        }
        Ok(Self { bytes, uri, params })
    }

    /// Where its URI stands.
    #[must_use]
    pub fn uri_range(&self) -> Range<usize> {
        self.uri.clone()
    }

    /// Its URI.
    #[must_use]
    pub fn uri(&self) -> &'a [u8] {
        &self.bytes[self.uri.clone()]
    }

    /// The parameters of the field, not those of the URI.
    #[must_use]
    pub fn params(&self) -> Params<'a> {
        Params::new(self.bytes, self.params.clone())
    }

    /// The tag of From and To.
    #[must_use]
    pub fn tag(&self) -> Option<&'a [u8]> {
        self.params().find("tag")?.value.map(|value| &self.bytes[value])
    }
}

/// The scheme of a URI, if it has one.
#[must_use]
pub fn scheme(uri: &[u8]) -> Option<&[u8]> {
    let end = uri.iter().position(|&byte| byte == b':')?;
    let (scheme, rest) = (&uri[..end], &uri[end + 1..]);
    let good = scheme.first()?.is_ascii_alphabetic()
        && scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte));
    (good && !rest.is_empty()).then_some(scheme)
}

/// A SIP or SIPS URI (RFC 3261 §19.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SipUri<'a> {
    /// Whether it is a `sips` URI.
    pub secure: bool,
    /// The user, its password not included.
    pub user: Option<&'a [u8]>,
    /// The host, an IPv6 address in brackets.
    pub host: &'a [u8],
    /// The port.
    pub port: Option<u16>,
    /// The parameters, from the first semicolon on.
    pub params: &'a [u8],
    /// The header fields, after the question mark.
    pub headers: Option<&'a [u8]>,
}

impl<'a> SipUri<'a> {
    /// Reads one.
    ///
    /// # Errors
    /// [`Malformed`] if it is not by the grammar, or has another scheme.
    pub fn parse(uri: &'a [u8]) -> Result<Self, Malformed> {
        let scheme = scheme(uri).ok_or(Malformed)?;
        let secure = match scheme {
            _ if scheme.eq_ignore_ascii_case(b"sip") => false,
            _ if scheme.eq_ignore_ascii_case(b"sips") => true,
            _ => return Err(Malformed),
        };
        let rest = &uri[scheme.len() + 1..];
        if rest.iter().any(|&byte| byte <= b' ' || byte == 0x7f || b"<>\"".contains(&byte)) {
            return Err(Malformed);
        }
        // `@` stands nowhere but after the userinfo, as neither host nor parameters may hold it.
        let (user, rest) = match rest.iter().position(|&byte| byte == b'@') {
            None => (None, rest),
            Some(at) => {
                let user = rest[..at].split(|&byte| byte == b':').next().unwrap_or_default();
                if user.is_empty() {
                    return Err(Malformed);
                }
                (Some(user), &rest[at + 1..])
            }
        };
        let split = |bytes: &'a [u8], byte: u8| -> (&'a [u8], Option<usize>) {
            let at = bytes.iter().position(|&other| other == byte);
            (&bytes[..at.unwrap_or(bytes.len())], at)
        };
        let (rest, question) = (split(rest, b'?').0, split(rest, b'?').1.map(|at| &rest[at + 1..]));
        let (host_port, semicolon) = split(rest, b';');
        let params = semicolon.map_or(&[][..], |at| &rest[at..]);
        let host_len = match host_port.first() {
            Some(b'[') => host_port.iter().position(|&byte| byte == b']').ok_or(Malformed)? + 1,
            _ => split(host_port, b':').0.len(),
        };
        let (host, port) = host_port.split_at(host_len);
        let good = match host {
            [b'[', inner @ .., b']'] => {
                !inner.is_empty()
                    && inner.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
            }
            _ => {
                !host.is_empty()
                    && host
                        .iter()
                        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
            }
        };
        if !good || rest.contains(&b'@') {
            return Err(Malformed);
        }
        let port = match port {
            [] => None,
            [b':', digits @ ..] => {
                let port = number(digits, u32::from(u16::MAX)).ok_or(Malformed)?;
                Some(u16::try_from(port).map_err(|_| Malformed)?)
            }
            _ => return Err(Malformed),
        };
        Ok(Self { secure, user, host, port, params, headers: question })
    }

    /// Whether there is a parameter of this name; and its value, which may be empty.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&'a [u8]> {
        self.params.split(|&byte| byte == b';').skip(1).find_map(|param| {
            let mut parts = param.splitn(2, |&byte| byte == b'=');
            parts.next().filter(|found| found.eq_ignore_ascii_case(name.as_bytes()))?;
            Some(parts.next().unwrap_or_default())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Result<(&str, Option<&str>), Malformed> {
        let address = Address::parse(text.as_bytes(), 0..text.len())?;
        let str = |bytes| std::str::from_utf8(bytes).unwrap();
        Ok((str(address.uri()), address.tag().map(str)))
    }

    #[test]
    fn addresses_with_and_without_brackets() {
        for (text, uri, tag) in [
            ("<sip:a@b>;tag=1", "sip:a@b", Some("1")),
            ("sip:a@b;tag=1", "sip:a@b", Some("1")),
            ("<sip:a@b;tag=2>", "sip:a@b;tag=2", None),
            (r#""J \"<\" Rosenberg, Dr." <sip:a@b> ; Tag = x"#, "sip:a@b", Some("x")),
            ("Ann Other <sip:a@b>", "sip:a@b", None),
            ("Müller <tel:+4930>", "tel:+4930", None),
            ("caller<sip:a,b@c>", "sip:a,b@c", None),
            (" \r\n <sip:a@b>", "sip:a@b", None),
        ] {
            assert_eq!(address(text), Ok((uri, tag)), "{text}");
        }
        for bad in [
            "",
            "\"Mr <sip:a@b>",
            "<sip:a@b",
            "sip:a@b?x=y",
            "<a>",
            "\"x\" sip:a@b",
            "<sip:a@b> x",
            "<sip:a b>",
            "Bell, Alexander <sip:a@b>",
            "<sip:>;tag=1",
        ] {
            assert_eq!(address(bad), Err(Malformed), "{bad}");
        }
    }

    #[test]
    fn uris_come_apart() {
        let uri = SipUri::parse(b"sips:alice:secret@[2001:db8::1]:5061;transport=tls;lr?subject=x").unwrap();
        assert!(uri.secure);
        assert_eq!(uri.user, Some(&b"alice"[..]));
        assert_eq!((uri.host, uri.port), (&b"[2001:db8::1]"[..], Some(5061)));
        assert_eq!((uri.param("LR"), uri.param("transport")), (Some(&b""[..]), Some(&b"tls"[..])));
        assert_eq!((uri.param("ob"), uri.headers), (None, Some(&b"subject=x"[..])));
        let uri = SipUri::parse(b"SIP:example.com").unwrap();
        assert_eq!((uri.user, uri.port, uri.params), (None, None, &b""[..]));
        // The semicolon and the question mark belong to the user here (RFC 4475 §3.1.1.1, §3.1.1.9).
        assert_eq!(
            SipUri::parse(b"sip:user;par=u%40e.net@e.com").unwrap().user,
            Some(&b"user;par=u%40e.net"[..])
        );
        assert_eq!(SipUri::parse(b"sip:a?b@e.com").unwrap().user, Some(&b"a?b"[..]));
        for bad in [
            "sip:",
            "sip:@a",
            "sip:a@",
            "tel:+1",
            "sip:a@b:99999",
            "sip:a@b:",
            "sip:[::1",
            "sip:[]",
            "sip:a@b@c",
            "sip:a b",
            "<sip:a>",
            "sip:a@b;x=y@z",
            "sip",
            "sip:[::1]x",
        ] {
            assert!(SipUri::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
