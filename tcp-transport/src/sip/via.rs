//! One value of Via (RFC 3261 §20.42).

use std::ops::Range;

use super::grammar::{Cursor, Malformed, Params, number, trim};

/// One value of Via, by its places in the head.
#[derive(Clone, Debug)]
pub struct Via<'a> {
    bytes: &'a [u8],
    whole: Range<usize>,
    transport: Range<usize>,
    host: Range<usize>,
    port: Option<u16>,
    params: Range<usize>,
}

impl<'a> Via<'a> {
    /// Reads `range` of `bytes`: one value, no comma.
    ///
    /// # Errors
    /// [`Malformed`] if it is not by the grammar, its parameters included.
    pub fn parse(bytes: &'a [u8], range: Range<usize>) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes, range.clone());
        // Mostly "SIP/2.0"; lower values may be of other protocols.
        let mut transport = cursor.token()?;
        for _ in 0..2 {
            if !cursor.separator(b'/') {
                return Err(Malformed);
            }
            transport = cursor.token()?;
        }
        let before = cursor.at;
        cursor.skip_space();
        if cursor.at == before {
            return Err(Malformed);
        }
        let host = host(&mut cursor)?;
        let port = if cursor.separator(b':') {
            let digits = cursor.run(|byte| byte.is_ascii_digit());
            let port = number(&bytes[digits], u32::from(u16::MAX)).and_then(|port| u16::try_from(port).ok());
            Some(port.ok_or(Malformed)?)
        } else {
            None
        };
        let good = |params: Range<usize>| Params::new(bytes, params).all(|param| param.is_ok());
        let mut params = cursor.at..range.end;
        if !good(params.clone()) {
            // RFC 2543 §6.40 had a comment at the end.
            let comment = bytes[params.clone()].iter().position(|&byte| byte == b'(').ok_or(Malformed)?;
            params.end = params.start + comment;
            if !bytes[..range.end].ends_with(b")") || !good(params.clone()) {
                return Err(Malformed);
            }
        }
        Ok(Self { bytes, whole: range, transport, host, port, params })
    }

    /// Where it stands.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.whole.clone()
    }

    /// The transport: `TCP`, `TLS`, `WS`, `WSS`, and what else there may be.
    #[must_use]
    pub fn transport(&self) -> &'a [u8] {
        &self.bytes[self.transport.clone()]
    }

    /// The host of sent-by, an IPv6 address in brackets.
    #[must_use]
    pub fn host(&self) -> &'a [u8] {
        &self.bytes[self.host.clone()]
    }

    /// The port of sent-by.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Where one more parameter may be put: after the last one.
    #[must_use]
    pub fn params_end(&self) -> usize {
        trim(self.bytes, self.whole.start..self.params.end).end
    }

    /// The parameters.
    #[must_use]
    pub fn params(&self) -> Params<'a> {
        Params::new(self.bytes, self.params.clone())
    }

    /// The value of a parameter.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&'a [u8]> {
        self.params().find(name)?.value.map(|value| &self.bytes[value])
    }

    /// The branch.
    #[must_use]
    pub fn branch(&self) -> Option<&'a [u8]> {
        self.param("branch")
    }
}

/// A name, an IPv4 address, or an IPv6 address in brackets.
fn host(cursor: &mut Cursor<'_>) -> Result<Range<usize>, Malformed> {
    let start = cursor.at;
    if cursor.take(b'[') {
        cursor.run(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'));
        return if cursor.take(b']') { Ok(start..cursor.at) } else { Err(Malformed) };
    }
    let host = cursor.run(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    if host.is_empty() { Err(Malformed) } else { Ok(host) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_with_all_the_space_the_grammar_allows() {
        let text = "SIP  / 2.0\r\n / TLS   a.example.com \t: 5061 ; branch = z9hG4bKx ;rport";
        let via = Via::parse(text.as_bytes(), 0..text.len()).unwrap();
        assert_eq!(via.transport(), b"TLS");
        assert_eq!((via.host(), via.port()), (&b"a.example.com"[..], Some(5061)));
        assert_eq!(via.branch(), Some(&b"z9hG4bKx"[..]));
        assert!(via.params().find("rport").is_some() && via.param("rport").is_none());
        assert_eq!(via.range(), 0..text.len());
    }

    #[test]
    fn hosts_of_all_kinds() {
        for (text, host, port) in [
            ("SIP/2.0/WSS df7jal23ls0d.invalid;branch=z9hG4bK1", "df7jal23ls0d.invalid", None),
            ("SIP/2.0/TCP [2001:db8::1]:5060", "[2001:db8::1]", Some(5060)),
            ("SIP/2.0/TCP 192.0.2.1", "192.0.2.1", None),
            ("HTTP/1.1/TCP a_b", "a_b", None),
        ] {
            let via = Via::parse(text.as_bytes(), 0..text.len()).unwrap();
            assert_eq!((via.host(), via.port()), (host.as_bytes(), port), "{text}");
        }
    }

    #[test]
    fn what_is_no_via_is_refused() {
        for bad in [
            "",
            "SIP/2.0/TCP",
            "SIP/2.0 a.test",
            "SIP/2.0/TCPa.test;",
            "SIP/2.0/TCP a.test:",
            "SIP/2.0/TCP a.test:65536",
            "SIP/2.0/TCP [::1",
            "SIP/2.0/TCP a.test;=x",
            "SIP/2.0/TCP a.test b",
            "/2.0/TCP a",
            "SIP/2.0/TCP ;branch=1",
        ] {
            assert!(Via::parse(bad.as_bytes(), 0..bad.len()).is_err(), "{bad}");
        }
    }
}
