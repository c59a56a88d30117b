//! Writing messages (RFC 4975 §7.1, §7.2) into any [`BufMut`].
//!
//! [`HeadWriter`] writes a head field by field, in the order it is called: To-Path and From-Path
//! first, Content-Type last. The body is the caller's own bytes, which are not copied through here;
//! [`end_line`] closes it.
//!
//! ```
//! use msrp_proto::encoder::HeadWriter;
//! use msrp_proto::flag::Flag;
//! use msrp_proto::header::Name;
//! use msrp_proto::ident::TransactionId;
//! use msrp_proto::status::StatusCode;
//!
//! let id = TransactionId::new(b"d93kswow")?;
//! let mut out = Vec::new();
//! HeadWriter::response(&mut out, &id, StatusCode::OK)
//!     .field(Name::ToPath, "msrp://alice.example.com:7777/iau39;tcp")
//!     .field(Name::FromPath, "msrp://bob.example.com:8888/9di4ea;tcp")
//!     .end(Flag::Complete);
//! assert!(out.ends_with(b"\r\n-------d93kswow$\r\n"));
//! # Ok::<(), msrp_proto::ident::IdentError>(())
//! ```

use std::fmt::{self, Display, Write};

use bytes::BufMut;

use crate::flag::Flag;
use crate::header::Name;
use crate::ident::TransactionId;
use crate::status::StatusCode;

/// Writes the head of one message.
#[must_use = "a head ends with `end` or `body`"]
pub struct HeadWriter<'a, B: BufMut> {
    out: &'a mut B,
    transaction: TransactionId,
}

impl<'a, B: BufMut> HeadWriter<'a, B> {
    /// Begins a request.
    pub fn request(out: &'a mut B, transaction: &TransactionId, method: &str) -> Self {
        Self::start(out, transaction, method.as_bytes())
    }

    /// Begins a response, with the comment that belongs to the status.
    pub fn response(out: &'a mut B, transaction: &TransactionId, status: StatusCode) -> Self {
        let head = Self::start(out, transaction, b"");
        head.out.put_slice(&status.digits());
        if !status.comment().is_empty() {
            head.out.put_u8(b' ');
            head.out.put_slice(status.comment().as_bytes());
        }
        head.with_start_line_ended()
    }

    /// Begins with a start line whose end is given: what
    /// [`Head::after_transaction_id`](crate::head::Head::after_transaction_id) gave.
    pub fn forwarded(out: &'a mut B, transaction: &TransactionId, after_transaction_id: &[u8]) -> Self {
        Self::start(out, transaction, after_transaction_id)
    }

    fn start(out: &'a mut B, transaction: &TransactionId, rest: &[u8]) -> Self {
        out.put_slice(b"MSRP ");
        out.put_slice(transaction.as_bytes());
        out.put_u8(b' ');
        out.put_slice(rest);
        let head = Self { out, transaction: *transaction };
        if rest.is_empty() { head } else { head.with_start_line_ended() }
    }

    fn with_start_line_ended(self) -> Self {
        self.out.put_slice(b"\r\n");
        self
    }

    /// Writes a field.
    pub fn field(mut self, name: Name, value: impl Display) -> Self {
        self.write(format_args!("{}: {value}\r\n", name.as_str()));
        self
    }

    /// Writes a field whose value is a path: URIs and pieces of paths, put together with spaces;
    /// empty ones are left out.
    pub fn path(self, name: Name, uris: impl IntoIterator<Item: AsRef<[u8]>>) -> Self {
        self.out.put_slice(name.as_str().as_bytes());
        self.out.put_u8(b':');
        for uri in uris {
            let uri = uri.as_ref();
            if !uri.is_empty() {
                self.out.put_u8(b' ');
                self.out.put_slice(uri);
            }
        }
        self.out.put_slice(b"\r\n");
        self
    }

    /// Writes a field we have no name for.
    pub fn other_field(mut self, name: &str, value: impl Display) -> Self {
        self.write(format_args!("{name}: {value}\r\n"));
        self
    }

    /// Writes lines as they came, each with its CRLF.
    pub fn lines(self, lines: &[u8]) -> Self {
        self.out.put_slice(lines);
        self
    }

    /// Ends a message without a body.
    pub fn end(self, flag: Flag) {
        end_line_after_head(self.out, &self.transaction, flag);
    }

    /// Ends the head of a message with a body, which follows; Content-Type must have been the last
    /// field. Close the body with [`end_line`].
    pub fn body(self) {
        self.out.put_slice(b"\r\n");
    }

    /// Ends the head of a message without a body, whose end-line the caller writes later with
    /// [`end_line_after_head`].
    pub fn no_body(self) {}

    fn write(&mut self, text: fmt::Arguments<'_>) {
        struct Adapter<'b, B>(&'b mut B);
        impl<B: BufMut> Write for Adapter<'_, B> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.put_slice(text.as_bytes());
                Ok(())
            }
        }
        // A `BufMut` that grows takes everything.
        let _ = Adapter(self.out).write_fmt(text);
    }
}

/// The bytes [`end_line`] writes.
pub const fn end_line_len(transaction_len: usize) -> usize {
    2 + 7 + transaction_len + 1 + 2
}

/// Ends a body: CRLF, seven hyphens, transaction id, flag, CRLF.
pub fn end_line(out: &mut impl BufMut, transaction: &TransactionId, flag: Flag) {
    out.put_slice(b"\r\n");
    end_line_after_head(out, transaction, flag);
}

/// Ends a message without a body.
pub fn end_line_after_head(out: &mut impl BufMut, transaction: &TransactionId, flag: Flag) {
    out.put_slice(b"-------");
    out.put_slice(transaction.as_bytes());
    out.put_u8(flag.as_byte());
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> TransactionId {
        TransactionId::new(b"abcd").unwrap()
    }

    #[test]
    fn a_request_with_a_body_is_written_in_the_order_of_the_calls() {
        let mut out = Vec::new();
        HeadWriter::request(&mut out, &id(), "SEND")
            .path(Name::ToPath, ["msrp://a/b;tcp", "", "msrp://c/d;tcp msrp://e/f;tcp"])
            .field(Name::FromPath, "msrp://g/h;tcp")
            .lines(b"X-Kept:as it came\r\n")
            .other_field("X-Ours", 7)
            .field(Name::ContentType, "text/plain")
            .body();
        out.extend_from_slice(b"hello");
        let before = out.len();
        end_line(&mut out, &id(), Flag::More);
        assert_eq!(out.len() - before, end_line_len(4));
        let expected = "MSRP abcd SEND\r\nTo-Path: msrp://a/b;tcp msrp://c/d;tcp msrp://e/f;tcp\r\n\
            From-Path: msrp://g/h;tcp\r\nX-Kept:as it came\r\nX-Ours: 7\r\nContent-Type: text/plain\r\n\r\n\
            hello\r\n-------abcd+\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_response_has_the_comment_of_its_code_or_none() {
        for (code, start) in
            [(200, "MSRP abcd 200 OK\r\n"), (299, "MSRP abcd 299\r\n"), (0, "MSRP abcd 000\r\n")]
        {
            let mut out = Vec::new();
            StatusCode::new(code)
                .map(|status| HeadWriter::response(&mut out, &id(), status).no_body())
                .unwrap();
            end_line_after_head(&mut out, &id(), Flag::Complete);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{start}-------abcd$\r\n"));
        }
    }

    #[test]
    fn a_forwarded_start_line_keeps_its_end_and_gets_another_id() {
        let mut out = Vec::new();
        HeadWriter::forwarded(&mut out, &id(), b"481 Gone fishing").end(Flag::Abort);
        assert_eq!(out, b"MSRP abcd 481 Gone fishing\r\n-------abcd#\r\n");
    }
}
