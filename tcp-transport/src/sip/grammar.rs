//! The words of RFC 3261 §25.1: tokens, white space, quoted strings, parameters, lists.

use std::ops::Range;

/// Bytes that are not by the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not by the grammar of SIP")]
pub struct Malformed;

/// `token` of RFC 3261 §25.1.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte)
}

/// Whether it is a token, and not empty.
pub(super) fn token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is_token(byte))
}

/// White space within a value. Line breaks are those of folds: the head has been checked for others.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// `range` of `bytes` without white space around it.
pub(super) fn trim(bytes: &[u8], mut range: Range<usize>) -> Range<usize> {
    while range.start < range.end && is_space(bytes[range.start]) {
        range.start += 1;
    }
    while range.start < range.end && is_space(bytes[range.end - 1]) {
        range.end -= 1;
    }
    range
}

/// A number of digits alone, as large as `max` at most.
pub(super) fn number(bytes: &[u8], max: u32) -> Option<u32> {
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    bytes.iter().try_fold(0u32, |value, digit| {
        value.checked_mul(10)?.checked_add(u32::from(digit - b'0')).filter(|&value| value <= max)
    })
}

/// A place in a field's value. Offsets are those of the whole head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) end: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], range: Range<usize>) -> Self {
        Self { bytes, at: range.start, end: range.end.min(bytes.len()) }
    }

    pub(super) fn peek(&self) -> Option<u8> {
        (self.at < self.end).then(|| self.bytes[self.at])
    }

    pub(super) fn skip_space(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
    }

    /// Takes `byte` if it is the next one.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Takes `byte`, and white space around it.
    pub(super) fn separator(&mut self, byte: u8) -> bool {
        let start = self.at;
        self.skip_space();
        if !self.take(byte) {
            self.at = start;
            return false;
        }
        self.skip_space();
        true
    }

    /// The longest run of bytes that are `wanted`; it may be empty.
    pub(super) fn run(&mut self, wanted: impl Fn(u8) -> bool) -> Range<usize> {
        let start = self.at;
        while self.peek().is_some_and(&wanted) {
            self.at += 1;
        }
        start..self.at
    }

    pub(super) fn token(&mut self) -> Result<Range<usize>, Malformed> {
        let range = self.run(is_token);
        if range.is_empty() { Err(Malformed) } else { Ok(range) }
    }

    /// A quoted string, its quotes included. The next byte is the first quote.
    pub(super) fn quoted(&mut self) -> Result<Range<usize>, Malformed> {
        let start = self.at;
        if !self.take(b'"') {
            return Err(Malformed);
        }
        loop {
            match self.peek().ok_or(Malformed)? {
                b'"' => {
                    self.at += 1;
                    return Ok(start..self.at);
                }
                b'\\' if self.at + 1 < self.end => self.at += 2,
                b'\\' => return Err(Malformed),
                _ => self.at += 1,
            }
        }
    }

    /// A comment, its parentheses included; comments nest. The next byte is the first parenthesis.
    fn comment(&mut self) -> Result<(), Malformed> {
        let mut depth = 0usize;
        loop {
            match self.peek().ok_or(Malformed)? {
                b'(' => depth += 1,
                b')' => depth -= 1,
                b'\\' if self.at + 1 < self.end => self.at += 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// The next value of a list, up to the comma at its end, which is taken. A comma within a quoted
    /// string, angle brackets or, where there may be `comments`, a comment divides nothing.
    pub(super) fn list_value(&mut self, comments: bool) -> Result<Range<usize>, Malformed> {
        let start = self.at;
        while let Some(byte) = self.peek() {
            match byte {
                b',' => {
                    let value = trim(self.bytes, start..self.at);
                    self.at += 1;
                    return Ok(value);
                }
                b'"' => {
                    self.quoted()?;
                }
                b'(' if comments => self.comment()?,
                b'<' => {
                    self.run(|byte| byte != b'>');
                    if !self.take(b'>') {
                        return Err(Malformed);
                    }
                }
                _ => self.at += 1,
            }
        }
        Ok(trim(self.bytes, start..self.at))
    }
}

/// A parameter `;name` or `;name=value`, by its places in the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// From its semicolon to its end.
    pub whole: Range<usize>,
    /// The name.
    pub name: Range<usize>,
    /// The value, with the quotes of a quoted string.
    pub value: Option<Range<usize>>,
}

/// The parameters after an address or a Via's sent-by. Ends with an error at what is none.
#[derive(Clone, Debug)]
pub struct Params<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Params<'a> {
    /// Those in `range` of `bytes`, which begins at a semicolon or the space before it.
    pub(super) fn new(bytes: &'a [u8], range: Range<usize>) -> Self {
        Self { cursor: Cursor::new(bytes, range) }
    }

    /// The first one of this name, whatever its case. What is no parameter counts as the end.
    #[must_use]
    pub fn find(mut self, name: &str) -> Option<Param> {
        let bytes = self.cursor.bytes;
        self.find_map(|param| {
            param.ok().filter(|param| bytes[param.name.clone()].eq_ignore_ascii_case(name.as_bytes()))
        })
    }

    fn read(&mut self) -> Result<Option<Param>, Malformed> {
        let cursor = &mut self.cursor;
        cursor.skip_space();
        let start = cursor.at;
        if cursor.peek().is_none() {
            return Ok(None);
        }
        if !cursor.separator(b';') {
            return Err(Malformed);
        }
        let name = cursor.token()?;
        let value = if cursor.separator(b'=') {
            // A token, a host (brackets and colons of IPv6), or a quoted string (`gen-value`).
            Some(match cursor.peek() {
                Some(b'"') => cursor.quoted()?,
                _ => cursor.run(|byte| is_token(byte) || matches!(byte, b'[' | b']' | b':')),
            })
            .filter(|value| !value.is_empty())
            .map(Some)
            .ok_or(Malformed)?
        } else {
            None
        };
        Ok(Some(Param { whole: start..cursor.at, name, value }))
    }
}

impl Iterator for Params<'_> {
    type Item = Result<Param, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let param = self.read();
        if param.is_err() {
            self.cursor.at = self.cursor.end;
        }
        param.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str, comments: bool) -> Result<Vec<&str>, Malformed> {
        let mut cursor = Cursor::new(text.as_bytes(), 0..text.len());
        let mut all = Vec::new();
        loop {
            all.push(&text[cursor.list_value(comments)?]);
            if cursor.peek().is_none() && !text[..cursor.at].ends_with(',') {
                return Ok(all);
            }
        }
    }

    #[test]
    fn only_a_comma_of_the_list_divides_it() {
        assert_eq!(values("a , b", false), Ok(vec!["a", "b"]));
        assert_eq!(values(r#""a, \" <b" <sip:c,d@e>;x="f,g", <sip:h>"#, false).unwrap().len(), 2);
        assert_eq!(values(r"a (b, \) (c,)), d", true), Ok(vec![r"a (b, \) (c,))", "d"]));
        assert_eq!(values("sip:a(b@c, d", false), Ok(vec!["sip:a(b@c", "d"]));
        for bad in [r#""a"#, r#""a\"#, "<a", "x <sip:b, c"] {
            assert_eq!(values(bad, false), Err(Malformed), "{bad}");
        }
        assert_eq!(values("a (b", true), Err(Malformed));
    }

    #[test]
    fn parameters_are_found_in_any_case_and_with_space() {
        let text = " ; Branch = z9hG4bK1;rport;received=[2001:db8::1];x=\"a;b\"";
        let params = || Params::new(text.as_bytes(), 0..text.len());
        assert_eq!(params().filter_map(Result::ok).count(), 4);
        let branch = params().find("branch").unwrap();
        assert_eq!((&text[branch.whole], &text[branch.value.unwrap()]), ("; Branch = z9hG4bK1", "z9hG4bK1"));
        assert_eq!(params().find("rport").unwrap().value, None);
        assert_eq!(&text[params().find("x").unwrap().value.unwrap()], "\"a;b\"");
        for bad in [";", ";;a", ";a=", "a", ";a b", ";a=\"b"] {
            assert!(Params::new(bad.as_bytes(), 0..bad.len()).any(|param| param.is_err()), "{bad}");
        }
    }

    #[test]
    fn numbers_have_digits_alone() {
        assert_eq!(number(b"0070", 255), Some(70));
        assert_eq!(number(b"4294967295", u32::MAX), Some(u32::MAX));
        for bad in [&b""[..], b"+5", b"-1", b"5 ", b"256", b"4294967296", b"99999999999999"] {
            assert_eq!(number(bad, 255), None);
        }
    }
}
