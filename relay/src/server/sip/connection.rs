//! What arrives on one connection that carries SIP: joins `tcp-transport`'s driver with the edge.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use tcp_transport::Stream;
use tcp_transport::connection::{CloseReason, Flow, Protocol, Transmit};
use tcp_transport::sip::{Event, FrameError, Framer};
use tcp_transport::ws::{self, Payload};
use tracing::{debug, info, warn};

use super::SipEdge;
use super::clock::{Clock, Due};
use super::link::{Flushed, SipLink};
use crate::sip::{Outcome, Reason, Scratch, Side};

const CRLF: Bytes = Bytes::from_static(b"\r\n");
const PING: Bytes = Bytes::from_static(b"\r\n\r\n");

/// What a connection's bytes mean.
pub(super) struct SipConnection {
    inbound: Inbound,
    websocket: Option<WebSocketFrames>,
}

/// What is between the socket and SIP on a WebSocket.
struct WebSocketFrames {
    incoming: ws::Incoming,
    /// A message has begun, and some of it is there.
    within: bool,
    /// What had been written when the socket took no more; none while it does.
    stuck_at: Option<u64>,
}

/// The reading side, whatever is under it.
struct Inbound {
    sip: Arc<SipEdge>,
    link: Arc<SipLink>,
    framer: Framer,
    clock: Clock,
    scratch: Scratch,
    out: Vec<Bytes>,
    /// The connections that got something in this read.
    touched: SmallVec<[Arc<SipLink>; 8]>,
    /// What was said in the log about this connection's messages: the statuses, 0 for what was dropped.
    told: SmallVec<[u16; 8]>,
    /// Messages of this read.
    came: u64,
}

impl SipConnection {
    pub(super) fn new(
        sip: Arc<SipEdge>,
        link: Arc<SipLink>,
        incoming: Option<ws::Incoming>,
        clock: Clock,
    ) -> Self {
        let limits = match link.flow().side {
            Side::Client(_) => sip.tuning.load().config.limits,
            // An answer to our own ping is no noise.
            Side::Upstream(_) => {
                tcp_transport::sip::Limits { crlf_drop: false, ..sip.tuning.load().config.limits.shared() }
            }
        };
        let inbound = Inbound {
            sip,
            link,
            framer: Framer::new(limits),
            clock,
            scratch: Scratch::default(),
            out: Vec::new(),
            touched: SmallVec::new(),
            told: SmallVec::new(),
            came: 0,
        };
        let websocket = incoming.map(|incoming| WebSocketFrames { incoming, within: false, stuck_at: None });
        Self { inbound, websocket }
    }
}

impl Inbound {
    /// Takes all that is whole off a stream's buffer.
    fn stream(&mut self, buf: &mut BytesMut, now: Instant) -> Flow {
        let mut events = 0;
        let flow = loop {
            match self.framer.decode(buf) {
                Ok(Some(event)) => {
                    events += 1;
                    match self.event(event, now) {
                        Flow::Read => {}
                        other => break other,
                    }
                }
                Ok(None) => break Flow::Read,
                Err(error) => break not_sip(&error),
            }
        };
        self.clock.read(events, !self.framer.is_between_messages(), now);
        flow
    }

    /// Takes a WebSocket message.
    fn whole(&mut self, bytes: Bytes, now: Instant) -> Flow {
        match self.framer.whole(bytes) {
            Ok(None) => Flow::Read,
            Ok(Some(event)) => {
                self.clock.read(1, false, now);
                self.event(event, now)
            }
            Err(error) => not_sip(&error),
        }
    }

    fn event(&mut self, event: Event, now: Instant) -> Flow {
        match &event {
            Event::Message(message) => {
                self.came += 1;
                self.link.came(|| [message.head.bytes().clone(), message.body.clone()]);
            }
            Event::Refused(refused) => {
                self.came += 1;
                self.link.came(|| [refused.head.bytes().clone(), Bytes::new()]);
            }
            Event::Ping | Event::Pong => {}
        }
        let mut outcome = {
            let Self { sip, link, scratch, out, .. } = self;
            out.clear();
            let upstreams = sip.upstreams.read();
            sip.edge.load().received(&event, link.flow(), &**sip, &upstreams, scratch, out)
        };
        if let Outcome::Send(to) = outcome {
            match self.sip.send(self.link.flow().side, to, &self.out, now) {
                Ok(link) => self.touch(link),
                Err(why) => {
                    let Self { sip, link, scratch, out, .. } = self;
                    let Event::Message(message) = &event else { return Flow::Read };
                    out.clear();
                    outcome = sip.edge.load().unsendable(message, link.flow(), to, why, scratch, out);
                }
            }
        }
        let flow = self.follow(&event, &outcome, now);
        match event {
            Event::Message(message) => self.framer.recycle(message.head),
            Event::Refused(refused) => self.framer.recycle(refused.head),
            Event::Ping | Event::Pong => {}
        }
        flow
    }

    fn follow(&mut self, event: &Event, outcome: &Outcome, now: Instant) -> Flow {
        self.sip.counters.count(outcome);
        match *outcome {
            Outcome::Send(_) | Outcome::Alive => Flow::Read,
            Outcome::Respond { status, close } => {
                let why = refusal(event, status);
                // The end of the connection is told with its reason.
                if !close {
                    self.tell(status, event, &why);
                }
                self.answer(now);
                if close { Flow::Close(CloseReason::Protocol(why.into())) } else { Flow::Read }
            }
            // Two answers in a row to our own pings look like a ping.
            Outcome::Pong if self.clock.asks() => Flow::Read,
            Outcome::Pong => {
                self.out.push(CRLF);
                self.answer(now);
                Flow::Read
            }
            Outcome::Probed(probe, status) => {
                let change = self.sip.upstreams.write().answered(probe, status);
                self.sip.tell(change);
                Flow::Read
            }
            Outcome::Drop(ref reason) => {
                self.tell(0, event, &reason.to_string());
                Flow::Read
            }
            Outcome::Close(ref reason) => Flow::Close(broken(reason)),
        }
    }

    /// Puts what is in `out` into the connection's own queue. There is no answer to somebody who does not read.
    fn answer(&mut self, now: Instant) {
        let link = Arc::clone(&self.link);
        match link.push(&self.out, now) {
            Ok(()) => self.touch(link),
            Err(why) => {
                debug!(connection = %link.handle().id(), ?why, "an answer was dropped");
            }
        }
    }

    fn touch(&mut self, link: Arc<SipLink>) {
        if !self.touched.iter().any(|touched| Arc::ptr_eq(touched, &link)) {
            self.touched.push(link);
        }
    }

    /// Writes what the last read has brought.
    fn flush(&mut self, now: Instant) {
        if self.came > 0 {
            self.link.handle().entry().count_messages_in(std::mem::take(&mut self.came));
        }
        for link in self.touched.drain(..) {
            link.flush(now);
        }
    }

    /// Says in the log what became of a message that went nowhere; of each kind once for each connection.
    fn tell(&mut self, status: u16, event: &Event, why: &str) {
        if (200..300).contains(&status) {
            return;
        }
        let flow = self.link.flow();
        let (connection, peer) = (flow.connection, flow.remote);
        let head = match event {
            Event::Message(message) => Some(&message.head),
            Event::Refused(refused) => Some(&refused.head),
            Event::Ping | Event::Pong => None,
        };
        let method = head.and_then(|head| head.method()).map(|method| method.escape_ascii().to_string());
        let first = !self.told.contains(&status);
        if first {
            self.told.push(status);
        }
        let status = (status > 0).then_some(status);
        if first {
            info!(connection, %peer, method, status, why, "SIP message refused or dropped");
        } else {
            debug!(connection, %peer, method, status, why, "SIP message refused or dropped");
        }
    }
}

fn more_broken(unsaid: u64) {
    warn!(unsaid, "more SIP connections of clients closed");
}

fn not_sip(error: &FrameError) -> Flow {
    Flow::Close(match error {
        FrameError::TooManyChunks(_) => CloseReason::TooSlow(error.to_string().into()),
        _ => CloseReason::Protocol(error.to_string().into()),
    })
}

fn broken(reason: &Reason) -> CloseReason {
    CloseReason::Protocol(format!("malformed SIP: {reason}").into())
}

/// Why a request was refused, for the log.
fn refusal(event: &Event, status: u16) -> String {
    if let Event::Refused(refused) = event {
        return format!("malformed SIP: {}", refused.defect);
    }
    let why = match status {
        400 | 416 => "a Request-URI that is none of SIP",
        403 => "a Route that leads elsewhere, or was not made here",
        404 => "it names no client",
        420 => "an extension that is required of us",
        430 => "the client's connection is gone",
        482 => "it has been here before",
        483 => "Max-Forwards is used up",
        480 => "its client does not read, or it is for SIPS and there is no TLS",
        503 => "no upstream takes it, or too much waits already",
        _ => "refused",
    };
    why.to_owned()
}

impl WebSocketFrames {
    fn received(&mut self, inbound: &mut Inbound, buf: &mut BytesMut, now: Instant) -> Flow {
        let Self { incoming, within, .. } = self;
        let flow = incoming.received(buf, now, |Payload { buf, end, .. }| {
            *within = !end;
            // One message is one message: it is looked at when all of it is there.
            if end { inbound.whole(buf.split().freeze(), now) } else { Flow::Read }
        });
        // A read of control frames alone changes nothing about a message that has begun.
        inbound.clock.read(0, *within, now);
        flow
    }

    /// Hands control frames over, one at a time: what many pings ask for is one pong.
    fn pass_on(&mut self, link: &SipLink) {
        while !link.control_waits()
            && let Some(frame) = self.incoming.take_output()
        {
            link.control(frame.as_ref(), frame.is_close());
        }
    }

    /// A full socket that takes bytes again shows a peer who reads, even if its pong waits behind much else.
    fn look_at(&mut self, flushed: Flushed, written: u64, now: Instant) {
        let stuck_at = (flushed == Flushed::Blocked).then_some(written);
        if std::mem::replace(&mut self.stuck_at, stuck_at).is_some_and(|before| before != written) {
            self.incoming.seen_alive(now);
        }
    }
}

impl Protocol for SipConnection {
    fn received(&mut self, buf: &mut BytesMut, now: Instant) -> Flow {
        let flow = match &mut self.websocket {
            None => self.inbound.stream(buf, now),
            Some(websocket) => websocket.received(&mut self.inbound, buf, now),
        };
        self.inbound.flush(now);
        flow
    }

    fn transmit(&mut self, _: &Stream, now: Instant) -> io::Result<Transmit> {
        let link = &self.inbound.link;
        loop {
            if let Some(websocket) = &mut self.websocket {
                websocket.pass_on(link);
            }
            let flushed = link.transmit(now)?;
            if let Some(websocket) = &mut self.websocket {
                websocket.look_at(flushed, link.handle().entry().bytes_out(), now);
                if flushed == Flushed::Idle && websocket.incoming.has_output() {
                    continue;
                }
            }
            return Ok(match flushed {
                Flushed::Idle => Transmit::Idle,
                Flushed::Blocked => Transmit::Blocked,
            });
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let websocket = self.websocket.as_ref().and_then(|websocket| websocket.incoming.deadline());
        let Inbound { clock, link, .. } = &self.inbound;
        [clock.deadline(), link.deadline(), websocket].into_iter().flatten().min()
    }

    fn expired(&mut self, now: Instant) -> Flow {
        let Inbound { clock, link, .. } = &mut self.inbound;
        if link.deadline().is_some_and(|deadline| now >= deadline) {
            return Flow::Close(CloseReason::SendTimeout);
        }
        match clock.expired(now) {
            Due::Nothing => {}
            Due::Close(reason) => return Flow::Close(reason),
            // When it does not fit, enough else waits for the upstream to take.
            Due::Ping => {
                let _ = link.push(&[PING], now);
            }
        }
        match &mut self.websocket {
            Some(websocket) => websocket.incoming.expired(now),
            None => Flow::Read,
        }
    }

    fn closing(&mut self, reason: &CloseReason, _: Instant) {
        if let Some(websocket) = &mut self.websocket {
            websocket.incoming.closing(reason);
        }
    }

    fn closed(&mut self, reason: &CloseReason, _: Instant) {
        let Inbound { sip, link, .. } = &self.inbound;
        let flow = link.flow();
        let (connection, peer) = (flow.connection, flow.remote);
        match (reason, flow.side) {
            (CloseReason::PeerClosed | CloseReason::Local(_) | CloseReason::IdleTimeout, Side::Client(_)) => {
                debug!(connection, %peer, %reason, "SIP connection closed");
            }
            (_, Side::Client(_)) if !sip.broken.has_line(more_broken) => {
                debug!(connection, %peer, %reason, "SIP connection closed");
            }
            _ => warn!(connection, %peer, %reason, "SIP connection closed"),
        }
        sip.closed(link);
    }
}
