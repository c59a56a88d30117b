//! Where a forwarded request came from, and what it carries on.
//!
//! One [`Origin`] is the only thing copied of a request: the two paths as they go on, the other
//! header lines, and what an answer or a REPORT to the previous hop needs. It lives as long as the
//! transaction, up to 30 s, so it must not pin the buffer that the request was read into; it is a
//! few hundred bytes, and the objects are used again, so that forwarding allocates nothing for it.

use std::ops::Range;
use std::sync::Arc;

use bytes::BufMut;
use msrp_proto::encoder::HeadWriter;
use msrp_proto::flag::Flag;
use msrp_proto::head::{Head, Kind, Method};
use msrp_proto::header::{ByteRange, FailureReport, Name};
use msrp_proto::ident::TransactionId;
use msrp_proto::status::StatusCode;

use super::link::Link;

/// By how much what is kept of a head may exceed it before more room has to be found for it.
const SPARE_TEXT: usize = 64;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Origin {
    /// The connection the request came from; `None` only while the object waits to be used again.
    pub(crate) source: Option<Arc<Link>>,
    /// The transaction id the previous hop chose.
    pub(crate) transaction: TransactionId,
    /// Which failures the sender wants to hear of.
    pub(crate) failure_report: FailureReport,
    /// How many of our own URIs were moved from To-Path to From-Path.
    pub(crate) own_hops: usize,
    /// The Byte-Range, or what its absence means.
    pub(crate) range: ByteRange,
    /// It is an AUTH with credentials, so that 401 to it is a failed one (RFC 4976 §6.3).
    pub(crate) is_auth_attempt: bool,
    /// It came by way of another relay.
    pub(crate) is_relayed: bool,
    /// The session it is traced under: see [`tap`](super::tap).
    pub(crate) session: Option<u128>,
    text: Vec<u8>,
    after_transaction: Range<usize>,
    /// To-Path without our URIs.
    to_path: Range<usize>,
    /// From-Path with our URIs before the others.
    from_path: Range<usize>,
    /// From-Path as it was received: the way back.
    back_path: Range<usize>,
    /// The first URI of it: the previous hop.
    previous_hop: Range<usize>,
    /// The URI by which the previous hop addressed us.
    our_uri: Range<usize>,
    message_id: Range<usize>,
    lines_before_range: Range<usize>,
    range_line: Range<usize>,
    lines_after_range: Range<usize>,
}

impl Origin {
    /// Takes over what is needed of `head`. `own` are the URIs at the beginning of its To-Path that are
    /// ours, as we handed them out: clients compare the From-Path they become with their Use-Path as
    /// text, however the previous hop wrote them. `session` is what it is traced under. The `wishes` are of the head:
    /// which failures its sender wants to hear of, and its Byte-Range.
    pub(crate) fn set<'u>(
        &mut self,
        source: Arc<Link>,
        head: &Head,
        wishes: (FailureReport, Option<ByteRange>),
        own: impl DoubleEndedIterator<Item = &'u str> + ExactSizeIterator,
        session: Option<u128>,
    ) {
        let own_hops = own.len();
        self.source = Some(source);
        self.transaction = head.transaction_id();
        self.failure_report = wishes.0;
        self.own_hops = own_hops;
        self.session = session;
        self.range = wishes.1.unwrap_or(ByteRange::UNKNOWN);
        self.is_auth_attempt =
            head.kind() == Kind::Request(Method::Auth) && head.value(Name::Authorization).is_some();
        self.is_relayed = head.from_path().len() > 1;

        let text = &mut self.text;
        text.clear();
        // All of it, written differently: the URIs that are ours may be longer than those that came.
        text.reserve(head.as_bytes().len() + SPARE_TEXT);
        self.after_transaction = put(text, head.after_transaction_id());
        self.to_path = put(text, head.to_path_text(own_hops).as_bytes());
        let from_path = text.len();
        // The URI removed last stands first: it is the nearest to the next hop.
        let mut ours = own.rev().peekable();
        self.our_uri = from_path..from_path;
        while let Some(uri) = ours.next() {
            let place = put(text, uri.as_bytes());
            if ours.peek().is_none() {
                self.our_uri = place;
            }
            text.push(b' ');
        }
        self.back_path = put(text, head.from_path_text().as_bytes());
        self.from_path = from_path..text.len();
        let previous = head.from_path().next().map_or(0, |uri| uri.as_bytes().len());
        self.previous_hop = self.back_path.start..self.back_path.start + previous;
        if own_hops == 0 {
            // What is passed on as it is (`super::kin`) is answered in the name of who it is for.
            let uri = head.to_path().next().map_or("", |uri| uri.as_str());
            self.our_uri = put(text, uri.as_bytes());
        }
        self.message_id = put(text, head.value(Name::MessageId).unwrap_or_default());

        let start = text.len();
        self.range_line = start..start;
        for (name, line) in head.lines_after_paths() {
            let place = put(text, line);
            if name == Name::ByteRange && self.range_line.is_empty() {
                self.range_line = place;
            }
        }
        self.lines_before_range = start..self.range_line.start;
        self.lines_after_range = self.range_line.end..text.len();
    }

    /// Makes this one a copy, for the next fragment of an interrupted chunk.
    pub(crate) fn copy_from(&mut self, other: &Self) {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        text.extend_from_slice(&other.text);
        *self = Self {
            source: other.source.clone(),
            text,
            after_transaction: other.after_transaction.clone(),
            to_path: other.to_path.clone(),
            from_path: other.from_path.clone(),
            back_path: other.back_path.clone(),
            previous_hop: other.previous_hop.clone(),
            our_uri: other.our_uri.clone(),
            message_id: other.message_id.clone(),
            lines_before_range: other.lines_before_range.clone(),
            range_line: other.range_line.clone(),
            lines_after_range: other.lines_after_range.clone(),
            ..*other
        };
    }

    /// Whether the request had a Byte-Range.
    pub(crate) fn has_range(&self) -> bool {
        !self.range_line.is_empty()
    }

    /// Bytes held.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// Writes the head of the request as it goes on, up to the last field, under a transaction id
    /// of ours. `range` replaces the Byte-Range, or is added where there was none; `None` leaves it
    /// as it is.
    pub(crate) fn write_head<'a, B: BufMut>(
        &self,
        out: &'a mut B,
        transaction: &TransactionId,
        range: Option<ByteRange>,
    ) -> HeadWriter<'a, B> {
        let head = HeadWriter::forwarded(out, transaction, self.bytes(&self.after_transaction))
            .path(Name::ToPath, [self.bytes(&self.to_path)])
            .path(Name::FromPath, [self.bytes(&self.from_path)]);
        let Some(range) = range else {
            return head.lines(&self.text[self.lines_before_range.start..self.lines_after_range.end]);
        };
        head.lines(self.bytes(&self.lines_before_range))
            .field(Name::ByteRange, range)
            .lines(self.bytes(&self.lines_after_range))
    }

    /// Writes the response to a SEND, which goes to the previous hop only (RFC 4976 §6.4.1).
    pub(crate) fn write_hop_response(&self, out: &mut impl BufMut, status: StatusCode) {
        HeadWriter::response(out, &self.transaction, status)
            .path(Name::ToPath, [self.bytes(&self.previous_hop)])
            .path(Name::FromPath, [self.bytes(&self.our_uri)])
            .end(Flag::Complete);
    }

    /// Writes the response to any other request, which travels the whole way back.
    pub(crate) fn write_path_response(&self, out: &mut impl BufMut, status: StatusCode) {
        HeadWriter::response(out, &self.transaction, status)
            .path(Name::ToPath, [self.bytes(&self.back_path)])
            .path(Name::FromPath, [self.bytes(&self.our_uri)])
            .end(Flag::Complete);
    }

    /// Writes a failure REPORT to the original sender (RFC 4975 §7.1.4, RFC 4976 §6.4.1).
    pub(crate) fn write_report(
        &self,
        out: &mut impl BufMut,
        transaction: &TransactionId,
        status: StatusCode,
        range: ByteRange,
    ) {
        HeadWriter::request(out, transaction, "REPORT")
            .path(Name::ToPath, [self.bytes(&self.back_path)])
            .path(Name::FromPath, [self.bytes(&self.our_uri)])
            .field(Name::MessageId, self.str(&self.message_id))
            .field(Name::ByteRange, range)
            .field(Name::Status, format_args!("000 {status} {}", status.comment()))
            .end(Flag::Complete);
    }

    /// Where it goes in the end.
    pub(crate) fn destination(&self) -> &str {
        let path = self.str(&self.to_path);
        path.rsplit_once(' ').map_or(path, |(_, last)| last)
    }

    /// Bytes reserved.
    pub(crate) fn capacity(&self) -> usize {
        self.text.capacity()
    }

    /// The Message-ID, for logs.
    pub(crate) fn message_id(&self) -> &str {
        self.str(&self.message_id)
    }

    fn bytes(&self, range: &Range<usize>) -> &[u8] {
        &self.text[range.clone()]
    }

    /// For parts that the decoder has found to be ASCII.
    fn str(&self, range: &Range<usize>) -> &str {
        std::str::from_utf8(self.bytes(range)).unwrap_or_default()
    }
}

fn put(text: &mut Vec<u8>, bytes: &[u8]) -> Range<usize> {
    let start = text.len();
    text.extend_from_slice(bytes);
    start..text.len()
}
