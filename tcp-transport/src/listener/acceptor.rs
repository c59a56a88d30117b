//! What a listener tells, and whom it asks.

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use crate::limits::LimitReached;
use crate::proxy_protocol::ProxyError;
use crate::stream::Stream;
use crate::tls::HandshakeError;
use crate::ws;

/// What a listener tells, and whom it asks. Called from the accept loop and from handshake tasks, so
/// an implementation does not block.
pub trait Acceptor: Send + Sync + 'static {
    /// Whether a connection from `peer` is taken at all; asked before any handshake. `false` closes
    /// it at once.
    fn admit(&self, peer: SocketAddr) -> bool {
        let _ = peer;
        true
    }

    /// A connection is there, its handshake (if any) done: start its driver.
    fn accepted(&self, stream: Stream);

    /// A client of a listener with [`websocket`](super::ListenerSettings::websocket) asks for a WebSocket: its
    /// request is an opening handshake by RFC 6455, and whether its path, origin and protocols are welcome is decided
    /// here. It may take its time (a database of credentials), within the handshake's time limit. All
    /// are refused with 404 unless this says otherwise.
    ///
    /// A 401 lets the client ask again on the same connection, up to [`ws::handshake::MAX_REQUESTS`] times.
    fn upgrade<'a>(
        &'a self,
        request: &'a ws::Request<'a>,
        stream: &'a Stream,
    ) -> impl Future<Output = ws::Answer> + Send + 'a {
        let _ = (request, stream);
        std::future::ready(ws::Answer::refuse(404, "There is nothing here.\n"))
    }

    /// A WebSocket is open: start its driver, with what was read already
    /// ([`connection::open_with`](crate::connection::open_with)).
    fn upgraded(&self, stream: Stream, opened: ws::Opened) {
        drop((stream, opened));
    }

    /// A client's opening handshake came to nothing; the connection is closed.
    fn upgrade_failed(&self, peer: SocketAddr, error: ws::UpgradeError) {
        let _ = (peer, error);
    }

    /// A handshake came to nothing; the connection is closed.
    fn handshake_failed(&self, peer: SocketAddr, error: HandshakeError);

    /// A connection was closed because a limit is reached; `peer` is the client if a proxy has named it.
    fn limit_reached(&self, peer: SocketAddr, limit: LimitReached) {
        let _ = (peer, limit);
    }

    /// A connection of a trusted proxy was closed for want of a good PROXY protocol header.
    fn proxy_failed(&self, proxy: SocketAddr, error: ProxyError) {
        let _ = (proxy, error);
    }

    /// Accepting pauses because of `error` (descriptors or memory ran out). Told once until it works
    /// again; it is logged already.
    fn accept_paused(&self, error: &io::Error) {
        let _ = error;
    }
}
