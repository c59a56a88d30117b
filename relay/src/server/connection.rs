//! MSRP on one connection: joins `tcp-transport`'s driver with the relay's core.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use msrp_proto::status::StatusCode;
use tcp_transport::Stream;
use tcp_transport::connection::{CloseReason, Flow, Handle, Protocol, Transmit};
use tcp_transport::hep::trace::ConnectionTrace;
use tcp_transport::ws::{self, Payload};
use tracing::{debug, info, warn};

use super::network::Network;
use super::pace::{Pace, Place};
use super::trace::ConnectionTap;
use crate::msrp::{Flushed, Inbound, Link, Tap, Wire};

/// A connection's writing side, for whoever has something to send over it.
pub(super) struct ConnectionWire {
    handle: Handle,
    tap: Arc<ConnectionTap>,
}

impl ConnectionWire {
    pub(super) fn new(handle: Handle, trace: Option<ConnectionTrace>) -> Self {
        let tap = ConnectionTap::new(handle.clone(), trace);
        Self { handle, tap }
    }
}

impl Wire for ConnectionWire {
    fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.handle.stream().try_write(bufs)
    }

    fn flush(&self) -> io::Result<()> {
        self.handle.stream().flush()
    }

    fn write_unit(&self) -> usize {
        self.handle.stream().write_unit()
    }

    fn wake(&self) {
        self.handle.wake();
    }

    fn close(&self, reason: CloseReason) {
        self.handle.close(reason);
    }

    fn tap(&self) -> Option<Arc<dyn Tap>> {
        Some(self.tap.clone())
    }
}

/// What a connection's bytes mean.
pub(super) struct MsrpConnection {
    network: Arc<Network>,
    handle: Handle,
    inbound: Inbound,
    pace: Pace,
    /// Apart, as most connections have none.
    websocket: Option<Box<WebSocketFrames>>,
}

/// What is between the socket and MSRP on a WebSocket. Its data frames are made where messages are: in the link's
/// queue; so are the places between them where control frames go.
struct WebSocketFrames {
    incoming: ws::Incoming,
    /// What had been written when the socket took no more; none while it does.
    stuck_at: Option<u64>,
    /// Bytes read, and payload among them, until the last call.
    raw: u64,
    payload: u64,
    /// What of them has brought a message forward.
    counted: u64,
}

impl WebSocketFrames {
    fn received(&mut self, inbound: &mut Inbound, buf: &mut BytesMut, now: Instant) -> Flow {
        self.incoming.received(buf, now, |Payload { buf, end, .. }| {
            let flow = inbound.received(buf, now);
            if flow != Flow::Read || !end {
                return flow;
            }
            match inbound.message_ended(buf) {
                Ok(()) => Flow::Read,
                Err(reason) => Flow::Close(reason),
            }
        })
    }

    /// How many of the `raw` bytes read until now have brought messages forward, and how many of a message that has
    /// no head yet are there. Pings do not: else whoever sends some would have any time for a head.
    fn progress(&mut self, raw: u64, within_message: bool, waiting: usize) -> (u64, usize) {
        let payload = self.incoming.payload_bytes();
        let (fresh_raw, fresh_payload) = (raw - self.raw, payload - self.payload);
        (self.raw, self.payload) = (raw, payload);
        let kept = self.incoming.kept();
        // Where no payload waits, it is the beginning of a frame that does.
        let is_payload = within_message || kept > 0;
        self.counted += if is_payload { fresh_payload } else { fresh_raw };
        (self.counted, if kept > 0 { kept } else { waiting })
    }

    /// Hands control frames over, one at a time: while one waits for its place the next one is not made, and what
    /// many pings ask for is one pong.
    fn pass_on(&mut self, link: &Link) {
        while !link.websocket_control_waits()
            && let Some(frame) = self.incoming.take_output()
        {
            if frame.is_close() {
                link.websocket_close(frame.as_ref());
            } else {
                link.websocket_control(frame.as_ref());
            }
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

impl MsrpConnection {
    /// MSRP in WebSocket frames.
    pub(super) fn over_websocket(self, incoming: ws::Incoming) -> Self {
        let settings = self.network.relay.settings();
        // What a browser's certificate proves is a user, at most (see `Network::accept`).
        let pace = Pace::new(&settings.limits, &settings.timeouts, false);
        let websocket = WebSocketFrames { incoming, stuck_at: None, raw: 0, payload: 0, counted: 0 };
        Self { pace, websocket: Some(Box::new(websocket)), ..self }
    }

    pub(super) fn new(network: Arc<Network>, handle: Handle, inbound: Inbound) -> Self {
        let trusted = inbound.link().is_verified();
        let settings = network.relay.settings();
        let pace = Pace::new(&settings.limits, &settings.timeouts, trusted);
        Self { network, handle, inbound, pace, websocket: None }
    }
}

impl Protocol for MsrpConnection {
    fn received(&mut self, buf: &mut BytesMut, now: Instant) -> Flow {
        let raw = self.handle.entry().bytes_in();
        let arrived = self.websocket.as_ref().map_or(raw, |frames| frames.counted + raw - frames.raw);
        if let Err(reason) = self.pace.arrives(arrived) {
            return Flow::Close(reason);
        }
        let flow = match &mut self.websocket {
            None => self.inbound.received(buf, now),
            Some(websocket) => websocket.received(&mut self.inbound, buf, now),
        };
        let within_message = self.inbound.is_within_message();
        let (received, waiting) = match &mut self.websocket {
            None => (raw, buf.len()),
            Some(websocket) => websocket.progress(raw, within_message, buf.len()),
        };
        let busy = within_message || waiting > 0 || flow == Flow::Pause || self.inbound.is_deciding();
        self.handle.entry().set_busy(busy);
        if flow == Flow::Pause {
            self.pace.paused();
            return flow;
        }
        let place = match (within_message, waiting) {
            (true, _) => Place::Message,
            (false, 0) => Place::Between,
            (false, len) => Place::Head(len),
        };
        self.pace.read(place, received, now);
        flow
    }

    fn transmit(&mut self, _: &Stream, now: Instant) -> io::Result<Transmit> {
        // What woke it may be the answer to a lookup.
        if let Err(reason) = self.inbound.resume(now) {
            self.handle.close(reason);
        }
        let link = self.inbound.link();
        loop {
            if let Some(websocket) = &mut self.websocket {
                websocket.pass_on(link);
            }
            let flushed = link.transmit(now)?;
            if let Some(websocket) = &mut self.websocket {
                websocket.look_at(flushed, self.handle.entry().bytes_out(), now);
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

    fn closing(&mut self, reason: &CloseReason, _: Instant) {
        if let Some(websocket) = &mut self.websocket {
            websocket.incoming.closing(reason);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let websocket = self.websocket.as_ref().and_then(|websocket| websocket.incoming.deadline());
        [self.inbound.deadline(), self.inbound.link().deadline(), self.pace.deadline(), websocket]
            .into_iter()
            .flatten()
            .min()
    }

    fn expired(&mut self, now: Instant) -> Flow {
        if self.inbound.link().expire(now) {
            return Flow::Close(CloseReason::SendTimeout);
        }
        if let Err(reason) = self.pace.expired(now) {
            return Flow::Close(reason);
        }
        if let Some(websocket) = &mut self.websocket
            && let Flow::Close(reason) = websocket.incoming.expired(now)
        {
            return Flow::Close(reason);
        }
        self.inbound.expired(now)
    }

    fn quiet(&mut self) {
        self.inbound.quiet();
    }

    fn closed(&mut self, reason: &CloseReason, now: Instant) {
        let status = match reason {
            CloseReason::SendTimeout => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::NO_SUCH_SESSION,
        };
        // Who has a session is known; who was dialled, too.
        let anybody = {
            let link = self.inbound.link();
            link.sessions() == 0 && link.target().is_none()
        };
        self.inbound.closed(status, now);
        self.network.connections.remove(self.handle.id());
        // Told when it is so: its sessions have ended.
        let link = self.inbound.link();
        let (id, connection) = (link.id(), self.handle.id());
        let peer = link.peer().map(|peer| &*peer.address);
        match reason {
            CloseReason::PeerClosed | CloseReason::Local(_) | CloseReason::IdleTimeout => {
                info!(link = id, %connection, peer, %reason, "connection closed");
            }
            _ if anybody && !self.network.broken.has_line(more_broken) => {
                debug!(link = id, %connection, peer, %reason, "connection closed");
            }
            _ => warn!(link = id, %connection, peer, %reason, "connection closed"),
        }
    }
}

fn more_broken(unsaid: u64) {
    warn!(unsaid, "more connections closed that had no session");
}
