//! The bytes of a TLS connection that another process serves: this one keeps the TLS.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use rustix::net::Shutdown;
use tcp_transport::Stream;
use tcp_transport::connection::{CLOSE_LINGER, CloseReason};
use tokio::net::UnixStream;

use crate::server::SHUTDOWN;

/// How many bytes wait at most each way, but for what one read brings: whoever sends more is slowed down.
const LIMIT: usize = 64 * 1024;

/// Bytes of one read.
const READ: usize = 16 * 1024;

/// How often both ways are gone through before other tasks get a turn.
const TURNS: usize = 32;

/// What waits, and which ends are over.
#[derive(Default)]
struct Pump {
    to_server: BytesMut,
    to_peer: BytesMut,
    peer_ended: bool,
    server_told: bool,
    server_ended: bool,
}

/// Relays until the other process has closed its end, the peer is gone, or `ending` is ready.
pub(super) async fn run(stream: Stream, server: UnixStream, ending: impl Future<Output = ()>) {
    let mut pump = Pump::default();
    let reason = tokio::select! {
        ended = poll_fn(|cx| pump.poll(&stream, &server, cx)) => match ended {
            Ok(()) => CloseReason::Local("closed by the process before".into()),
            Err(error) => CloseReason::from_io(&error),
        },
        () = ending => CloseReason::Local(SHUTDOWN.into()),
    };
    drop(server);
    if matches!(reason, CloseReason::Local(_)) {
        take_leave(&stream).await;
    }
    stream.let_go(&reason);
}

/// Ends it in order, so that what was sent last is not lost to an RST.
pub(super) async fn take_leave(stream: &Stream) {
    let leave = async {
        // A peer that is gone already needs no farewell.
        let _ = stream.close_notify();
        let _ = stream.write_all(&[]).await;
        let _ = stream.shutdown_write();
        let mut rest = BytesMut::new();
        while stream.read(&mut rest, READ).await.is_ok_and(|read| read > 0) {
            rest.clear();
        }
    };
    let _ = tokio::time::timeout(CLOSE_LINGER.max(Duration::from_millis(100)), leave).await;
}

impl Pump {
    fn poll(&mut self, stream: &Stream, server: &UnixStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..TURNS {
            let moved = self.inward(stream, server)? | self.outward(stream, server)?;
            let unsent = !self.to_peer.is_empty() || stream.wants_flush();
            if self.server_ended && !unsent {
                return Poll::Ready(Ok(()));
            }
            if moved {
                continue;
            }
            let mut ready = false;
            if !self.peer_ended && self.to_server.len() < LIMIT {
                ready |= stream.poll_read_ready(cx)?.is_ready();
            }
            if unsent {
                ready |= stream.poll_write_ready(cx)?.is_ready();
            }
            if !self.server_ended && self.to_peer.len() < LIMIT {
                ready |= server.poll_read_ready(cx)?.is_ready();
            }
            if !self.to_server.is_empty() {
                ready |= server.poll_write_ready(cx)?.is_ready();
            }
            if !ready {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// From the peer to the process that serves it; whether anything moved.
    fn inward(&mut self, stream: &Stream, server: &UnixStream) -> io::Result<bool> {
        let mut moved = false;
        if !self.peer_ended && self.to_server.len() < LIMIT {
            self.to_server.reserve(READ);
            match stream.try_read(&mut self.to_server, READ) {
                Ok(0) => self.peer_ended = true,
                Ok(_) => moved = true,
                Err(error) if is_transient(&error) => {}
                // Whether it said goodbye matters to the protocol alone, which knows its ends.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.peer_ended = true,
                Err(error) => return Err(error),
            }
        }
        if !self.to_server.is_empty() {
            match server.try_write(&self.to_server) {
                Ok(written) => {
                    self.to_server.advance(written);
                    moved = true;
                }
                Err(error) if is_transient(&error) => {}
                // It takes no more: what it has still to say comes, and its end.
                Err(_) => self.to_server.clear(),
            }
        }
        if self.peer_ended && self.to_server.is_empty() && !self.server_told {
            self.server_told = true;
            rustix::net::shutdown(server, Shutdown::Write)?;
        }
        Ok(moved)
    }

    /// The other way.
    fn outward(&mut self, stream: &Stream, server: &UnixStream) -> io::Result<bool> {
        let mut moved = false;
        if !self.server_ended && self.to_peer.len() < LIMIT {
            self.to_peer.reserve(READ);
            match server.try_read_buf(&mut self.to_peer) {
                Ok(0) => self.server_ended = true,
                Ok(_) => moved = true,
                Err(error) if is_transient(&error) => {}
                Err(_) => self.server_ended = true,
            }
        }
        while !self.to_peer.is_empty() {
            match stream.try_write(&[IoSlice::new(&self.to_peer)]) {
                Ok(written) => {
                    self.to_peer.advance(written);
                    moved = true;
                }
                Err(error) if is_transient(&error) => break,
                Err(error) => return Err(error),
            }
        }
        match stream.flush() {
            Ok(()) => {}
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(moved)
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
