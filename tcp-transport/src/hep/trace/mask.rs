//! Credentials in what is traced: they are not.
//!
//! A digest response is a hash of the password, and whoever has captured one can try passwords on it for as long as he
//! likes. HEP travels unprotected more often than not, and collectors keep what they get. So what proves a password is
//! replaced by as many `x`: `response` and `rspauth` of Digest (RFC 7616), and all of the credentials of any other
//! scheme. The rest of the field stays, nonce and user name included, as it shows why an authentication failed.

use bytes::BytesMut;
use memchr::{memchr, memchr_iter, memmem};

/// Masks the credentials in the head that `message` begins with.
pub(super) fn mask(message: &mut BytesMut) {
    let start = message.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(message.len());
    // In the body there is nothing of ours. A line of white space alone does not end the head: it is a folded one.
    let end = memmem::find(&message[start..], b"\r\n\r\n").map_or(message.len(), |found| start + found);
    let mut head = &mut message[start..end];
    while !head.is_empty() {
        let (field, rest) = head.split_at_mut(field_len(head));
        mask_field(field);
        head = rest;
    }
}

/// The length of the field that `head` begins with: SIP folds lines (RFC 3261 §7.3.1).
fn field_len(head: &[u8]) -> usize {
    let mut ends = memchr_iter(b'\n', head).map(|end| end + 1);
    ends.find(|end| !matches!(head.get(*end), Some(b' ' | b'\t'))).unwrap_or(head.len())
}

fn mask_field(field: &mut [u8]) {
    let Some(colon) = memchr(b':', field) else { return };
    let (name, value) = field.split_at_mut(colon);
    let name = name.trim_ascii_end();
    let is = |names: [&[u8]; 2]| names.iter().any(|known| name.eq_ignore_ascii_case(known));
    if is([b"Authorization", b"Proxy-Authorization"]) {
        let start = value.len() - value[1..].trim_ascii_start().len();
        let value = &mut value[start..];
        let in_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
        let scheme = value.iter().position(|byte| !in_scheme(byte)).unwrap_or(value.len());
        let (scheme, credentials) = value.split_at_mut(scheme);
        if scheme.eq_ignore_ascii_case(b"Digest") {
            mask_parameters(credentials);
        } else {
            hide(credentials);
        }
    } else if is([b"Authentication-Info", b"Proxy-Authentication-Info"]) {
        mask_parameters(&mut value[1..]);
    }
}

/// Masks those parameters of Digest that prove a password.
fn mask_parameters(value: &mut [u8]) {
    if !is_well_quoted(value)
        && let Some(first) = memchr(b'"', value)
    {
        // What is within a quoted string and what is not cannot be told from there on.
        hide(&mut value[first + 1..]);
    }
    for name in [&b"response"[..], b"rspauth"] {
        mask_parameter(value, name);
    }
}

/// Whether each quoted string is the whole value of a parameter. Where a `"` is missing, what stands between two quoted
/// strings looks like one, and they do not.
fn is_well_quoted(value: &[u8]) -> bool {
    let mut rest = value;
    while let Some(open) = memchr(b'"', rest) {
        let Some(len) = quoted_len(&rest[open + 1..]) else { return false };
        let before = rest[..open].trim_ascii_end();
        rest = &rest[open + 1 + len + 1..];
        let ends = matches!(rest.trim_ascii_start().first(), None | Some(b','));
        if before.last() != Some(&b'=') || !ends {
            return false;
        }
    }
    true
}

/// The length of a quoted string up to its closing `"`, if it has one.
fn quoted_len(text: &[u8]) -> Option<usize> {
    let mut escaped = false;
    text.iter().position(|byte| {
        let closes = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        closes
    })
}

/// Masks the value of each parameter of this name.
fn mask_parameter(value: &mut [u8], name: &[u8]) {
    let spaces = |rest: &[u8]| rest.len() - rest.trim_ascii_start().len();
    let mut at = 0;
    while at < value.len() {
        let before = at.checked_sub(1).map_or(b',', |before| value[before]);
        let begins = before == b',' || before.is_ascii_whitespace();
        let rest = &value[at..];
        if begins && rest.get(..name.len()).is_some_and(|found| found.eq_ignore_ascii_case(name)) {
            let equals = at + name.len() + spaces(&rest[name.len()..]);
            if value.get(equals) == Some(&b'=') {
                let mut start = equals + 1;
                start += spaces(&value[start..]);
                let is_quoted = value.get(start) == Some(&b'"');
                start += usize::from(is_quoted);
                let rest = &value[start..];
                let len = if is_quoted { quoted_len(rest) } else { memchr(b',', rest) };
                let end = start + len.unwrap_or(rest.len());
                hide(&mut value[start..end]);
                at = end + usize::from(is_quoted);
                continue;
            }
        }
        at += 1;
        if value[at - 1] == b'"' {
            // What looks like a parameter in a quoted string is none.
            at += quoted_len(&value[at..]).map_or(value.len(), |len| len + 1);
        }
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
                "a\r\nProxy-Authorization: Digest nonce=\"1\",\r\n response=\"ab\"\r\n\t, response=\"c\"\r\nX: response=\"y\"\r\n",
                "a\r\nProxy-Authorization: Digest nonce=\"1\",\r\n response=\"xx\"\r\n\t, response=\"x\"\r\nX: response=\"y\"\r\n",
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
    fn a_folded_line_of_white_space_does_not_end_the_head() {
        for fold in [" ", "\t", " \t "] {
            let head = |secret| {
                format!(
                    "a\r\nX: y\r\n{fold}\r\nAuthorization: Digest\r\n{fold}\r\n response=\"{secret}\"\r\n\r\n\
                     Authorization: Basic abc\r\n"
                )
            };
            assert_eq!(masked(&head("c0ffee")), head("xxxxxx"));
        }
        assert_eq!(masked("\r\n\r\na\r\nAuthorization: B abc\r\n"), "\r\n\r\na\r\nAuthorization: B xxx\r\n");
    }

    #[test]
    fn a_quoted_string_may_be_folded() {
        let head = |secret, other| {
            format!(
                "a\r\nAuthorization: Digest username=\"al,\r\n response=b\", response=\"{secret}\",\r\n realm=\"x\r\n y\",\
                 \r\n rspauth=\"{other}\"\r\nX: y\r\n"
            )
        };
        assert_eq!(masked(&head("c0ffee", "ab\r\n cd")), head("xxxxxx", "xx\r\n xx"));
    }

    #[test]
    fn where_quotes_do_not_balance_all_that_follows_is_hidden() {
        for value in [
            "username=\"al, response=\"c0ffee\", nonce=\"n\"",
            "username=al\", response=\"c0ffee\"",
            "username=\"al\", nonce=\"n, response=\"c0ffee\"",
            "username=\"al\\\", nonce=\"n\", response=\"c0ffee\"",
            // Their number is even.
            "username=\"al, response=\"c0ffee\", nonce=\"n",
            "username=\"al, cnonce=\"\", response=\"c0ffee\", nonce=\"n",
            "username=\"al\"x\", response=\"c0ffee\"",
            "nonce=n, response=\"c0ffee",
        ] {
            let text = masked(&format!("a\r\nAuthorization: Digest {value}\r\n z\r\nX: \"y\r\n"));
            assert!(!text.contains("c0ffee") && text.contains("\r\n x\r\nX: \"y\r\n"), "{text}");
        }
        let escaped = "a\r\nAuthorization: Digest response=\"a\\\"bc\", nc=1\r\n";
        assert_eq!(masked(escaped), "a\r\nAuthorization: Digest response=\"xxxxx\", nc=1\r\n");
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
