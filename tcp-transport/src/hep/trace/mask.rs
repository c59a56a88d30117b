//! Credentials in what is traced: they are not.
//!
//! A digest response is a hash of the password, and whoever has captured one can try passwords on it for as long as he
//! likes. HEP travels unprotected more often than not, and collectors keep what they get. So what proves a password is
//! replaced by as many `x`: `response` and `rspauth` of Digest (RFC 7616), and all of the credentials of any other
//! scheme. The rest of the field stays, nonce and user name included, as it shows why an authentication failed.

use bytes::BytesMut;
use memchr::memchr;

/// Masks the credentials in the head that `message` begins with.
pub(super) fn mask(message: &mut BytesMut) {
    let mut at = 0;
    let mut field = None;
    while at < message.len() {
        let end = memchr(b'\n', &message[at..]).map_or(message.len(), |found| at + found + 1);
        let line = &mut message[at..end];
        let text = line.trim_ascii_end().len();
        if text == 0 {
            // The head is over; in the body there is nothing of ours.
            return;
        }
        let line = &mut line[..text];
        if line.first().is_some_and(|first| matches!(first, b' ' | b'\t')) {
            // SIP folds lines (RFC 3261 §7.3.1).
            field = field.and_then(|field| masked_value(line, field));
        } else {
            let colon = memchr(b':', line).unwrap_or(line.len());
            field = Field::of(line[..colon].trim_ascii_end());
            if let Some(kind) = field {
                let value = &mut line[(colon + 1).min(text)..];
                field = masked_value(value, kind);
            }
        }
        at = end;
    }
}

/// A field with something to hide, and where in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// Its value begins with a scheme.
    Credentials,
    /// Parameters of Digest.
    Parameters,
    /// What follows a scheme that is not Digest.
    Opaque,
}

impl Field {
    fn of(name: &[u8]) -> Option<Self> {
        let is = |names: [&[u8]; 2]| names.iter().any(|known| name.eq_ignore_ascii_case(known));
        if is([b"Authorization", b"Proxy-Authorization"]) {
            Some(Self::Credentials)
        } else if is([b"Authentication-Info", b"Proxy-Authentication-Info"]) {
            Some(Self::Parameters)
        } else {
            None
        }
    }
}

/// Masks a value, or a part of one; what the next line of it is.
fn masked_value(value: &mut [u8], field: Field) -> Option<Field> {
    match field {
        Field::Credentials => {
            let start = value.len() - value.trim_ascii_start().len();
            let value = &mut value[start..];
            if value.is_empty() {
                return Some(Field::Credentials);
            }
            let scheme = value.iter().position(u8::is_ascii_whitespace).unwrap_or(value.len());
            let kind = if value[..scheme].eq_ignore_ascii_case(b"Digest") {
                Field::Parameters
            } else {
                Field::Opaque
            };
            masked_value(&mut value[scheme..], kind)
        }
        Field::Parameters => {
            for name in [&b"response"[..], b"rspauth"] {
                mask_parameter(value, name);
            }
            Some(field)
        }
        Field::Opaque => {
            hide(value);
            Some(field)
        }
    }
}

/// Masks the value of each parameter of this name.
fn mask_parameter(value: &mut [u8], name: &[u8]) {
    let mut at = 0;
    // Whether a quoted string is open: what looks like a parameter in there is none.
    let mut quoted = false;
    while at < value.len() {
        let before = at.checked_sub(1).map_or(b',', |before| value[before]);
        let begins = !quoted && (before == b',' || before.is_ascii_whitespace());
        let rest = &value[at..];
        if begins && rest.get(..name.len()).is_some_and(|found| found.eq_ignore_ascii_case(name)) {
            let spaces = |rest: &[u8]| rest.len() - rest.trim_ascii_start().len();
            let equals = at + name.len() + spaces(&rest[name.len()..]);
            if value.get(equals) == Some(&b'=') {
                let mut start = equals + 1;
                start += spaces(&value[start..]);
                let is_quoted = value.get(start) == Some(&b'"');
                start += usize::from(is_quoted);
                let ends = |byte: &u8| if is_quoted { *byte == b'"' } else { *byte == b',' };
                let rest = &value[start.min(value.len())..];
                let end = start + rest.iter().position(ends).unwrap_or(rest.len());
                if let Some(secret) = value.get_mut(start..end) {
                    hide(secret);
                }
                at = end + usize::from(is_quoted);
                continue;
            }
        }
        match value[at] {
            b'"' => quoted = !quoted,
            b'\\' if quoted => at += 1,
            _ => {}
        }
        at += 1;
    }
}

fn hide(secret: &mut [u8]) {
    secret.iter_mut().filter(|byte| !byte.is_ascii_whitespace()).for_each(|byte| *byte = b'x');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> String {
        let mut bytes = BytesMut::from(text);
        mask(&mut bytes);
        assert_eq!(bytes.len(), text.len(), "nothing moves");
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn what_proves_a_password_is_hidden_and_the_rest_stays() {
        let cases = [
            (
                "MSRP a AUTH\r\nAuthorization: Digest username=\"al, response=\\\"1\", nonce=\"n\", \
                 response=\"c0ffee\", qop=auth\r\nExpires: 1\r\n",
                "MSRP a AUTH\r\nAuthorization: Digest username=\"al, response=\\\"1\", nonce=\"n\", \
                 response=\"xxxxxx\", qop=auth\r\nExpires: 1\r\n",
            ),
            (
                "a\r\nauthorization :digest RESPONSE = ab, nc=1",
                "a\r\nauthorization :digest RESPONSE = xx, nc=1",
            ),
            (
                "a\r\nAuthentication-Info: rspauth=\"ab\",qop=auth\r\n",
                "a\r\nAuthentication-Info: rspauth=\"xx\",qop=auth\r\n",
            ),
            (
                "a\r\nProxy-Authorization: Digest nonce=\"1\",\r\n response=\"ab\"\r\n\tresponse=\"c\r\nX: response=\"y\"\r\n",
                "a\r\nProxy-Authorization: Digest nonce=\"1\",\r\n response=\"xx\"\r\n\tresponse=\"x\r\nX: response=\"y\"\r\n",
            ),
            (
                "a\r\nAuthorization: Bearer abc.def\r\n ghi\r\n",
                "a\r\nAuthorization: Bearer xxxxxxx\r\n xxx\r\n",
            ),
            (
                "a\r\nAuthorization:\r\n Digest response=\"a\"",
                "a\r\nAuthorization:\r\n Digest response=\"x\"",
            ),
            // No credentials.
            (
                "a\r\nWWW-Authenticate: Digest nonce=\"response=1\"\r\n",
                "a\r\nWWW-Authenticate: Digest nonce=\"response=1\"\r\n",
            ),
            (
                "a\r\nX: y\r\n\r\nAuthorization: Basic abc\r\n",
                "a\r\nX: y\r\n\r\nAuthorization: Basic abc\r\n",
            ),
        ];
        for (text, wanted) in cases {
            assert_eq!(masked(text), wanted);
        }
    }

    #[test]
    fn no_input_is_too_short() {
        let text = "A: b\r\nAuthorization: Digest x=\"\\\", response=\"a\", rspauth = ";
        for end in 0..=text.len() {
            masked(&text[..end]);
        }
        masked("Authorization");
        masked("Authorization:");
        masked("Authorization: Digest response=\\");
    }
}
