//! The list of parameters that all digest headers are made of (RFC 4976 §7, RFC 7235 §2.1).
//!
//! Reading is more tolerant than the grammar where the meaning stays certain: any order, white
//! space around `,` and `=`, empty list elements, a value quoted or not.

use std::borrow::Cow;
use std::fmt;

use smallvec::SmallVec;

use super::algorithm::Algorithm;
use super::error::{BuildError, DigestError, Malformed, Unsupported};

/// How many parameters a digest header may have, unknown ones included; one with more is refused
/// as malformed. The RFCs name a dozen, so this leaves room for extensions and none for floods.
pub const MAX_PARAMS: usize = 32;

/// The only quality of protection RFC 4976 §9.1 leaves.
pub(super) const QOP: &str = "auth";

const WHITE_SPACE: [char; 2] = [' ', '\t'];

/// Parameters that were read and not yet taken.
pub(super) struct Params<'a>(SmallVec<[(&'a str, Cow<'a, str>); 12]>);

impl<'a> Params<'a> {
    /// Reads `Digest` and the parameters after it.
    pub(super) fn after_scheme(value: &'a [u8]) -> Result<Self, DigestError> {
        let value = utf8(value)?;
        let trimmed = value.trim_start_matches(WHITE_SPACE);
        let (scheme, rest) = trimmed.split_once(WHITE_SPACE).unwrap_or((trimmed, ""));
        if !is_token(scheme) {
            return Err(Malformed::Syntax { at: value.len() - trimmed.len() }.into());
        }
        if !scheme.eq_ignore_ascii_case("Digest") {
            return Err(Unsupported::Scheme.into());
        }
        Ok(Self::list(value, rest)?)
    }

    /// Reads parameters that stand alone, as in Authentication-Info.
    pub(super) fn without_scheme(value: &'a [u8]) -> Result<Self, Malformed> {
        let value = utf8(value)?;
        Self::list(value, value)
    }

    /// Takes the parameter `name`, if it is there.
    pub(super) fn take(&mut self, name: &'static str) -> Result<Option<String>, Malformed> {
        let mut found = None;
        for (candidate, value) in &mut self.0 {
            if candidate.eq_ignore_ascii_case(name)
                && found.replace(std::mem::take(value).into_owned()).is_some()
            {
                return Err(Malformed::Duplicate(name));
            }
        }
        Ok(found)
    }

    /// Takes the parameter `name`, which must be there.
    pub(super) fn require(&mut self, name: &'static str) -> Result<String, Malformed> {
        self.take(name)?.ok_or(Malformed::Missing(name))
    }

    /// Takes `algorithm`, if it is there.
    pub(super) fn take_algorithm(&mut self) -> Result<Option<Algorithm>, DigestError> {
        Ok(self.take("algorithm")?.map(|name| name.parse()).transpose()?)
    }

    fn list(value: &'a str, mut rest: &'a str) -> Result<Self, Malformed> {
        let syntax = |rest: &str| Malformed::Syntax { at: value.len() - rest.len() };
        let mut params = SmallVec::new();
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() {
                return Ok(Self(params));
            }
            if params.len() == MAX_PARAMS {
                return Err(Malformed::TooManyParams);
            }
            let (param, after) = param(rest).ok_or_else(|| syntax(rest))?;
            params.push(param);
            rest = after.trim_start_matches(WHITE_SPACE);
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err(syntax(rest));
            }
        }
    }
}

/// The number of requests sent with one nonce: 8 hexadecimal digits (RFC 4976 §7 `nc-value`).
///
/// The digits are kept as they were sent, since it is them that are hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NonceCount {
    value: u32,
    digits: String,
}

impl NonceCount {
    pub(super) fn new(value: u32) -> Self {
        Self { value, digits: format!("{value:08x}") }
    }

    pub(super) fn parse(digits: String) -> Result<Self, Malformed> {
        if digits.len() != 8 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Malformed::Invalid("nc"));
        }
        let value = u32::from_str_radix(&digits, 16).map_err(|_| Malformed::Invalid("nc"))?;
        Ok(Self { value, digits })
    }

    pub(super) fn value(&self) -> u32 {
        self.value
    }

    pub(super) fn digits(&self) -> &str {
        &self.digits
    }
}

/// Writes a quoted-string, with `"` and `\` escaped.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        let mut rest = self.0;
        while let Some(at) = rest.find(['"', '\\']) {
            let (plain, special) = rest.split_at(at);
            write!(f, "{plain}\\{}", &special[..1])?;
            rest = &special[1..];
        }
        write!(f, "{rest}\"")
    }
}

/// `text`, if a quoted-string can carry it.
pub(super) fn quotable(name: &'static str, text: &str) -> Result<String, BuildError> {
    if text.chars().any(is_control) {
        return Err(BuildError::ControlCharacter(name));
    }
    Ok(text.to_owned())
}

fn utf8(value: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(value).map_err(|_| Malformed::NotUtf8)
}

/// The parameter at the start of `input`, and what follows it.
fn param(input: &str) -> Option<((&str, Cow<'_, str>), &str)> {
    let (name, after) = input.split_once('=')?;
    let name = name.trim_end_matches(WHITE_SPACE);
    if !is_token(name) {
        return None;
    }
    let after = after.trim_start_matches(WHITE_SPACE);
    let (value, rest) = match after.strip_prefix('"') {
        Some(after) => quoted(after)?,
        None => unquoted(after)?,
    };
    Some(((name, value), rest))
}

/// The rest of a quoted-string whose opening quote has been read.
fn quoted(input: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut unescaped: Option<String> = None;
    let mut chars = input.char_indices();
    while let Some((at, char)) = chars.next() {
        let char = match char {
            '"' => {
                let text = unescaped.map_or(Cow::Borrowed(&input[..at]), Cow::Owned);
                return Some((text, &input[at + 1..]));
            }
            '\\' => {
                unescaped.get_or_insert_with(|| input[..at].to_owned());
                chars.next()?.1
            }
            char => char,
        };
        if is_control(char) {
            return None;
        }
        if let Some(text) = &mut unescaped {
            text.push(char);
        }
    }
    None
}

/// A value without quotes. More than a token: nonces and URIs are sent so, too.
fn unquoted(input: &str) -> Option<(Cow<'_, str>, &str)> {
    let end = input.find([',', ' ', '\t']).unwrap_or(input.len());
    let (value, rest) = input.split_at(end);
    let plain = !value.is_empty() && !value.contains(|char| char == '"' || is_control(char));
    plain.then_some((Cow::Borrowed(value), rest))
}

/// RFC 4975 §9 `token`, which is that of RFC 7230 §3.2.6.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn is_control(char: char) -> bool {
    char.is_ascii_control() && char != '\t'
}

/// Strings that any quoted parameter can carry, rich in what has to be escaped.
#[cfg(test)]
pub(super) fn any_text() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    prop_oneof!["[\"\\\\, =\ta-cé]{0,24}", "[^\\x00-\\x08\\x0a-\\x1f\\x7f]{0,64}"]
}

/// Bytes that look enough like a digest header to reach deep into the parser, and any bytes.
#[cfg(test)]
pub(super) fn any_value() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
    use proptest::prelude::*;
    let known = "(username|realm|nonce|qop|nc|cnonce|response|algorithm|rspauth|stale|opaque|uri)";
    let value = "(auth|MD5|[0-9a-f]{8}|[ -~é]{0,8})";
    let soup = format!("(Digest )?({known}[ =]{{1,2}}\"?{value}\"?[, ]{{0,2}}){{0,12}}");
    let soup = proptest::string::string_regex(&soup).unwrap();
    prop_oneof![any::<Vec<u8>>(), soup.prop_map(String::into_bytes)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(value: &str) -> Result<Vec<(String, String)>, Malformed> {
        let params = Params::without_scheme(value.as_bytes())?;
        Ok(params.0.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    #[test]
    fn reads_what_senders_write() {
        let two = |a: &str, b: &str| Ok(vec![("a".to_owned(), a.to_owned()), ("b".to_owned(), b.to_owned())]);
        for (value, expected) in [
            (r#"a=1, b="2""#, two("1", "2")),
            (r#"a="1",b=2"#, two("1", "2")),
            ("  a = 1\t,, ,\tb=\t\"2\" , ", two("1", "2")),
            (r#"a="", b=x/y==;z"#, two("", "x/y==;z")),
            (r#"a="x, b=\"y\\", b="é\é""#, two(r#"x, b="y\"#, "éé")),
            ("", Ok(vec![])),
            (" , ,", Ok(vec![])),
        ] {
            assert_eq!(read(value), expected, "{value}");
        }
    }

    #[test]
    fn refuses_what_has_no_certain_meaning() {
        for (value, at) in [
            ("a", 0),
            ("a=", 0),
            ("a=,b=2", 0),
            ("=1", 0),
            (r#"a="1"#, 0),
            (r#"a="1\"#, 0),
            (r#"a="1\""#, 0),
            ("a=\"1\r\nX: y\"", 0),
            ("a=\"\\\n\"", 0),
            ("a=1\n", 0),
            ("a=1\"", 0),
            ("a b=1", 0),
            ("é=1", 0),
            (r#"a="1"b=2"#, 5),
            ("a=1 b=2", 4),
            ("a=1, b", 5),
        ] {
            assert_eq!(read(value), Err(Malformed::Syntax { at }), "{value:?}");
        }
        assert_eq!(Params::without_scheme(b"a=\"\xff\"").err(), Some(Malformed::NotUtf8));
    }

    #[test]
    fn parameters_are_bounded() {
        let many = |count: usize| (0..count).map(|n| format!("p{n}=1")).collect::<Vec<_>>().join(",");
        assert_eq!(read(&many(MAX_PARAMS)).map(|params| params.len()), Ok(MAX_PARAMS));
        assert_eq!(read(&many(MAX_PARAMS + 1)), Err(Malformed::TooManyParams));
    }

    #[test]
    fn duplicates_are_found_in_any_case_and_ignored_when_unknown() {
        let mut params = Params::without_scheme(b"nonce=1, x=1, X=2, NONCE=1").unwrap();
        assert_eq!(params.take("nonce"), Err(Malformed::Duplicate("nonce")));
        assert_eq!(params.take("realm"), Ok(None));
        assert_eq!(params.require("realm"), Err(Malformed::Missing("realm")));
    }

    #[test]
    fn the_scheme_is_digest_in_any_case() {
        for value in ["Digest a=1", "digest a=1", "  DIGEST \t a=1", "Digest", "Digest "] {
            assert!(Params::after_scheme(value.as_bytes()).is_ok(), "{value}");
        }
        for value in ["Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Bearer x", "Digested a=1", "DigestX"] {
            assert_eq!(
                Params::after_scheme(value.as_bytes()).err(),
                Some(Unsupported::Scheme.into()),
                "{value}"
            );
        }
        for (value, at) in [("", 0), (" ", 1), ("a=1", 0), (" \"Digest\" a=1", 1), ("Digest b", 7)] {
            let error = Params::after_scheme(value.as_bytes()).err();
            assert_eq!(error, Some(Malformed::Syntax { at }.into()), "{value:?}");
        }
    }

    #[test]
    fn nonce_counts_are_eight_hexadecimal_digits() {
        let parsed = NonceCount::parse("0000000A".into()).unwrap();
        assert_eq!((parsed.value(), parsed.digits()), (10, "0000000A"));
        assert_eq!(NonceCount::new(10).digits(), "0000000a");
        assert_eq!(NonceCount::new(u32::MAX).digits(), "ffffffff");
        for bad in ["", "1", "0000001", "000000001", "+0000001", "0000000g", "éééé"] {
            assert_eq!(NonceCount::parse(bad.into()), Err(Malformed::Invalid("nc")), "{bad}");
        }
    }

    #[test]
    fn control_characters_are_not_written() {
        for text in ["a\nb", "a\r", "\0", "\x7f"] {
            assert_eq!(quotable("realm", text), Err(BuildError::ControlCharacter("realm")));
        }
        assert_eq!(quotable("realm", "tab\té\"\\"), Ok("tab\té\"\\".to_owned()));
    }

    proptest! {
        #[test]
        fn what_is_quoted_reads_back(text in any_text()) {
            prop_assert_eq!(read(&format!("a={}", Quoted(&text))), Ok(vec![("a".to_owned(), text)]));
        }

        #[test]
        fn any_bytes_are_read_or_refused(value in any_value()) {
            let _ = Params::after_scheme(&value);
            let _ = Params::without_scheme(&value);
        }
    }
}
