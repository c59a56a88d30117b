//! What every relay writes on every connection: it must be MSRP, no request may have the id of another, and a response
//! between relays answers a request of the other one, once.

use std::collections::HashMap;

use bytes::BytesMut;
use msrp_proto::decoder::{Decoder, Event};
use msrp_proto::head::{Head, Kind, Method};
use msrp_proto::header::FailureReport;

use super::super::harness::{World, generous_decoder};
use super::super::websocket_frames::take_frame;
use super::Trace;

/// One direction of a connection.
struct Wire {
    /// Where each message is a frame: what has come of it.
    frames: Option<BytesMut>,
    decoder: Decoder,
    buf: BytesMut,
    /// Between relays: the connection's other end.
    other: Option<usize>,
    /// The requests that were written, and how often each was answered.
    requests: HashMap<String, (Method2, FailureReport, usize)>,
}

/// What kind of answer a request gets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method2 {
    Send,
    Report,
    Other,
}

/// Every direction in which a relay writes.
#[derive(Default)]
pub(super) struct Wires(Vec<Wire>);

impl Wires {
    /// Looks at what was written since the last time.
    pub(super) fn look(&mut self, world: &mut World, trace: &Trace) {
        for conn in self.0.len()..world.connections() {
            self.0.push(Wire {
                frames: world.is_websocket_at(conn).then(BytesMut::new),
                decoder: generous_decoder(),
                buf: BytesMut::new(),
                other: world.other_end(conn),
                requests: HashMap::new(),
            });
        }
        let mut responses = Vec::new();
        for conn in 0..self.0.len() {
            for record in world.take_written_at(conn) {
                self.0[conn].read(&record, |head| {
                    trace.tell(|| {
                        let text = String::from_utf8_lossy(head.as_bytes()).replace("\r\n", " | ");
                        format!("    wire {conn}: {text}")
                    });
                    if matches!(head.kind(), Kind::Response(_)) {
                        responses.push((conn, head));
                    }
                });
            }
        }
        for (conn, head) in responses {
            let Some(other) = self.0[conn].other else { continue };
            let tid = head.transaction_id().to_string();
            let asked = self.0[other].requests.get_mut(&tid);
            let (method, wish, answers) = asked.unwrap_or_else(|| panic!("{tid} answers nothing: {head:?}"));
            *answers += 1;
            assert!(*answers == 1 && *method != Method2::Report, "{tid} is answered again: {head:?}");
            let Kind::Response(status) = head.kind() else { continue };
            let may = match wish {
                FailureReport::Yes => true,
                FailureReport::Partial => !status.is_success(),
                FailureReport::No => false,
            };
            assert!(may || *method == Method2::Other, "{tid} was not to be answered so: {head:?}");
        }
    }

    /// Between relays, on what is still open, whatever was asked is answered. `is_open` says what is.
    pub(super) fn check_answered(&self, is_open: impl Fn(usize) -> bool) {
        for (conn, wire) in self.0.iter().enumerate() {
            let Some(other) = wire.other.filter(|other| is_open(*other) && is_open(conn)) else { continue };
            for (tid, (method, wish, answers)) in &wire.requests {
                let wanted = match method {
                    Method2::Send => *wish == FailureReport::Yes,
                    Method2::Report => false,
                    Method2::Other => true,
                };
                assert!(!wanted || *answers == 1, "{tid} on {conn} was not answered by {other}");
            }
        }
    }
}

impl Wire {
    fn read(&mut self, bytes: &[u8], mut seen: impl FnMut(Head)) {
        let Some(frames) = &mut self.frames else {
            self.buf.extend_from_slice(bytes);
            return self.decode(&mut seen);
        };
        frames.extend_from_slice(bytes);
        while let Some((opcode, payload)) = self.frames.as_mut().and_then(take_frame) {
            assert_eq!(opcode, 2, "nobody pings here");
            self.buf.extend_from_slice(&payload);
            self.decode(&mut seen);
            assert!(self.buf.is_empty() && self.decoder.is_between_messages(), "a frame is one message");
        }
    }

    fn decode(&mut self, seen: &mut impl FnMut(Head)) {
        while let Some(event) = self.decoder.decode(&mut self.buf).expect("what a relay writes is MSRP") {
            let Event::Head(head) = event else { continue };
            let method = match head.kind() {
                Kind::Response(_) => {
                    seen(head);
                    continue;
                }
                Kind::Request(Method::Send) => Method2::Send,
                Kind::Request(Method::Report) => Method2::Report,
                Kind::Request(_) => Method2::Other,
            };
            let wish = head.failure_report().unwrap();
            let before = self.requests.insert(head.transaction_id().to_string(), (method, wish, 0));
            assert!(before.is_none(), "the same id again: {head:?}");
            seen(head);
        }
    }
}
