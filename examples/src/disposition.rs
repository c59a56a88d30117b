//! Content-Disposition of a file (RFC 2183), which goes with every chunk of it.
//!
//! ```text
//! Content-Disposition: attachment; filename="a b.txt"; size=5; hash="sha-256:2C:F2:…"
//! ```
//!
//! `filename` and `size` are of RFC 2183. `hash` is not: it holds the `hash` selector of RFC 5547 §6,
//! which with SIP would have come in SDP. Who does not know it passes over it.

use std::fmt;

use crate::hash::FileHash;

/// The header field's name.
pub const NAME: &str = "Content-Disposition";

/// What a Content-Disposition says about a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disposition {
    /// The name, as the sender calls it: not to be trusted, see [`file_name`](crate::file_name).
    pub filename: Option<String>,
    /// The size in bytes.
    pub size: Option<u64>,
    /// The hash of its content.
    pub hash: Option<FileHash>,
}

impl Disposition {
    /// Reads the value of a header field. What is malformed or unknown is left out.
    pub fn parse(value: &str) -> Self {
        let mut found = Self::default();
        let mut extended = None;
        let (_, mut rest) = value.split_once(';').unwrap_or((value, ""));
        while let Some((name, text, after)) = parameter(rest) {
            rest = after;
            match name.to_ascii_lowercase().as_str() {
                "filename" => found.filename = Some(text),
                "filename*" => extended = decoded(&text),
                "size" => found.size = text.parse().ok(),
                "hash" => found.hash = FileHash::from_selector(&text),
                _ => {}
            }
        }
        // RFC 6266 §4.3: the extended one is preferred.
        found.filename = extended.or(found.filename);
        found
    }
}

impl fmt::Display for Disposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("attachment")?;
        if let Some(filename) = &self.filename {
            let printable = filename.chars().map(|c| if c.is_control() { '_' } else { c });
            let quoted: String = printable
                .flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c]))
                .collect();
            write!(f, "; filename=\"{quoted}\"")?;
        }
        if let Some(size) = self.size {
            write!(f, "; size={size}")?;
        }
        if let Some(hash) = &self.hash {
            write!(f, "; hash=\"{}\"", hash.selector())?;
        }
        Ok(())
    }
}

/// The first parameter's name and value, and what follows.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let text = text.trim_start_matches(|c: char| c == ';' || c.is_ascii_whitespace());
    let (name, rest) = text.split_once('=')?;
    let rest = rest.trim_start();
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find(';').unwrap_or(rest.len());
        return Some((name.trim(), rest[..end].trim().to_owned(), &rest[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((name.trim(), value, &quoted[at + 1..])),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    Some((name.trim(), value, ""))
}

/// `UTF-8''a%20b` (RFC 8187).
fn decoded(text: &str) -> Option<String> {
    let mut parts = text.splitn(3, '\'');
    let (charset, _language, value) = (parts.next()?, parts.next()?, parts.next()?);
    if !charset.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    let mut bytes = Vec::new();
    let mut rest = value.as_bytes();
    while let [first, others @ ..] = rest {
        rest = others;
        if *first == b'%' {
            let (pair, others) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?);
            rest = others;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Hasher;

    #[test]
    fn what_is_written_is_read() {
        for name in ["a.txt", "a b; c=\"d\".txt", r"back\slash", "Öl.pdf", ""] {
            let disposition = Disposition {
                filename: Some(name.to_owned()),
                size: Some(12),
                hash: Some(Hasher::default().finish()),
            };
            assert_eq!(Disposition::parse(&disposition.to_string()), disposition);
        }
    }

    #[test]
    fn a_name_cannot_break_out_of_its_line() {
        let disposition = Disposition { filename: Some("a\r\nTo-Path: x".into()), ..Disposition::default() };
        assert_eq!(disposition.to_string(), "attachment; filename=\"a__To-Path: x\"");
    }

    #[test]
    fn others_write_it_their_way() {
        for (value, filename) in [
            ("attachment;filename=a.txt;size=1", Some("a.txt")),
            ("render; FileName = \"a.txt\" ; x=y", Some("a.txt")),
            ("attachment; filename=x; filename*=UTF-8''%c3%96l%20x.pdf", Some("Öl x.pdf")),
            ("attachment; filename=x; filename*=UTF-8''%c3%9", Some("x")),
            ("attachment; filename=\"open", Some("open")),
            ("attachment", None),
            ("", None),
            (";;;", None),
        ] {
            assert_eq!(Disposition::parse(value).filename.as_deref(), filename, "{value}");
        }
    }
}
