//! MSRP on one connection: joins `tcp-transport`'s driver with the relay's core.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use msrp_proto::status::StatusCode;
use tcp_transport::Stream;
use tcp_transport::connection::{CloseReason, Flow, Handle, Protocol, Transmit};
use tracing::{info, warn};

use super::network::Network;
use super::pace::{Pace, Place};
use crate::msrp::{Flushed, Inbound, Wire};

/// A connection's writing side, for whoever has something to send over it.
pub(super) struct ConnectionWire(pub(super) Handle);

impl Wire for ConnectionWire {
    fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.stream().try_write(bufs)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.stream().flush()
    }

    fn write_unit(&self) -> usize {
        self.0.stream().write_unit()
    }

    fn wake(&self) {
        self.0.wake();
    }

    fn close(&self, reason: CloseReason) {
        self.0.close(reason);
    }
}

/// What a connection's bytes mean.
pub(super) struct MsrpConnection {
    network: Arc<Network>,
    handle: Handle,
    inbound: Inbound,
    pace: Pace,
}

impl MsrpConnection {
    pub(super) fn new(network: Arc<Network>, handle: Handle, inbound: Inbound) -> Self {
        let trusted = handle.stream().tls().is_some_and(|tls| tls.peer().is_verified());
        let settings = network.relay.settings();
        let pace = Pace::new(&settings.limits, &settings.timeouts, trusted);
        Self { network, handle, inbound, pace }
    }
}

impl Protocol for MsrpConnection {
    fn received(&mut self, buf: &mut BytesMut, now: Instant) -> Flow {
        let received = self.handle.entry().bytes_in();
        if let Err(reason) = self.pace.arrives(received) {
            return Flow::Close(reason);
        }
        let flow = self.inbound.received(buf, now);
        if flow == Flow::Pause {
            self.pace.paused();
            return flow;
        }
        let place = match (self.inbound.is_within_message(), buf.len()) {
            (true, _) => Place::Message,
            (false, 0) => Place::Between,
            (false, len) => Place::Head(len),
        };
        self.pace.read(place, received, now);
        flow
    }

    fn transmit(&mut self, _: &Stream, now: Instant) -> io::Result<Transmit> {
        match self.inbound.link().transmit(now)? {
            Flushed::Idle => Ok(Transmit::Idle),
            Flushed::Blocked => Ok(Transmit::Blocked),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        [self.inbound.deadline(), self.inbound.link().deadline(), self.pace.deadline()]
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
        self.inbound.expired(now)
    }

    fn closed(&mut self, reason: &CloseReason, now: Instant) {
        let link = self.inbound.link();
        let (id, connection) = (link.id(), self.handle.id());
        let peer = link.peer().map(|peer| &*peer.address);
        match reason {
            CloseReason::PeerClosed | CloseReason::Local(_) | CloseReason::IdleTimeout => {
                info!(link = id, %connection, peer, %reason, "connection closed");
            }
            _ => warn!(link = id, %connection, peer, %reason, "connection closed"),
        }
        let status = match reason {
            CloseReason::SendTimeout => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::NO_SUCH_SESSION,
        };
        self.inbound.closed(status, now);
        self.network.connections.remove(self.handle.id());
    }
}
