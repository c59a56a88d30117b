//! One connected socket, plain or TLS, that several threads may use at once.
//!
//! The design it serves: *whoever has something to send writes it where it stands*. A task that has
//! data for another connection calls [`Stream::try_write`] on it directly; only what the socket did
//! not take is left to that connection's own task. So every operation here takes `&self`, never
//! waits, and says [`io::ErrorKind::WouldBlock`] when it would have to.
//!
//! Readiness is waited for by one task only, the connection's driver: [`Stream::poll_read_ready`]
//! and [`Stream::poll_write_ready`] each remember the waker of their latest caller alone.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _, BytesMut};
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::connection::CloseReason;
use crate::ledger::{Entry, Phase, Ticket};
use crate::listener::Transport;
use crate::tls::TlsInfo;

mod adopted;
mod session;

pub use adopted::{AdoptError, Adopted};
use session::TlsSession;

/// Plaintext bytes of one full TLS record (RFC 8446 §5.1); see [`Stream::write_unit`].
pub const TLS_RECORD: usize = 16_384;

/// Ciphertext that may wait inside a TLS session before [`Stream::try_write`] refuses more: 64 KiB,
/// that is four full records, enough to fill one vectored write. Beyond it the caller gets
/// [`io::ErrorKind::WouldBlock`] and keeps its data in its own, accounted queue.
pub const MAX_PENDING_CIPHERTEXT: usize = 64 * 1024;

/// Bytes read from the socket at most by one [`Stream::try_read`] over TLS: 33 KiB, two full records with what TLS adds
/// to them. With 64 KiB what is deciphered has left the processor's nearest cache before it is passed on, and a gigabyte
/// costs a third more; with one record there are too many reads.
pub const MAX_READ: usize = 33 * 1024;

/// Where the kernel reports readiness by edges (epoll, kqueue), a read that did not fill its buffer
/// has emptied the socket, and the next byte raises a new edge: no second read is needed to learn
/// that. It saves one system call for every message that comes alone.
const SHORT_READ_DRAINS: bool =
    cfg!(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "freebsd"));

/// A connected socket, plain TCP or TLS. See the [module documentation](self).
pub struct Stream {
    tcp: TcpStream,
    tls: Option<Box<Tls>>,
    peer: SocketAddr,
    local: SocketAddr,
    ticket: Ticket,
}

struct Tls {
    session: Mutex<TlsSession>,
    /// The session holds something that the next `try_read` yields without the socket being
    /// readable: plaintext that came with the handshake, or an end that is not yet reported.
    buffered: AtomicBool,
    info: TlsInfo,
}

impl Stream {
    /// A plain TCP stream. `peer` is given by the caller because `getpeername` fails on a socket
    /// that was reset between accept and now.
    ///
    /// # Errors
    /// Those of `getsockname`.
    pub fn plain(tcp: TcpStream, peer: SocketAddr) -> io::Result<Self> {
        let local = tcp.local_addr()?;
        Ok(Self { tcp, tls: None, peer, local, ticket: Ticket::detached(Transport::Tcp, local, peer) })
    }

    /// A TLS stream over a session whose handshake is complete.
    pub(crate) fn secured(
        tcp: TcpStream,
        peer: SocketAddr,
        session: rustls::Connection,
        info: TlsInfo,
    ) -> io::Result<Self> {
        let local = tcp.local_addr()?;
        let session = TlsSession::new(session);
        let tls =
            Tls { buffered: AtomicBool::new(session.has_buffered()), session: Mutex::new(session), info };
        let ticket = Ticket::detached(Transport::Tls, local, peer);
        Ok(Self { tcp, tls: Some(Box::new(tls)), peer, local, ticket })
    }

    /// Takes its place in a ledger: the connection is up.
    pub(crate) fn enter(&mut self, ticket: Ticket) {
        self.attach(ticket);
        self.opened();
    }

    /// Takes its place in a ledger, while the connection is still coming up.
    pub(crate) fn attach(&mut self, ticket: Ticket) {
        ticket.entry().set_local(self.local);
        self.ticket = ticket;
    }

    /// The connection is up.
    pub(crate) fn opened(&self) {
        self.ticket.opened(self.tls());
    }

    /// The connection did not come up.
    pub(crate) fn failed(&self, timed_out: bool, reason: &dyn fmt::Display) {
        self.ticket.failed(timed_out, reason);
    }

    /// The connection is over.
    pub(crate) fn ended(&self, reason: &CloseReason) {
        self.ticket.ended(reason, self.tls());
    }

    /// What the ledger knows of the connection: its number, bytes, age.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        self.ticket.entry()
    }

    /// The socket's options, to look at; to change them there is [`Handle`](crate::Handle).
    #[must_use]
    pub fn options(&self) -> SockRef<'_> {
        SockRef::from(&self.tcp)
    }

    /// Reads what is there, appending it to `buf`; returns the number of bytes appended.
    ///
    /// `Ok(0)` is the orderly end (FIN, or TLS `close_notify`). Plain TCP reads straight into the
    /// spare capacity of `buf`, which the caller has reserved, and at most `max` bytes; without any
    /// spare capacity a small piece is reserved here. TLS makes one socket read of about `max`
    /// bytes (within 4 KiB and [`MAX_READ`]) and appends all plaintext that it completes, which can
    /// be up to one record more than `max`; `buf` grows as needed.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`]: nothing there (for TLS also: not yet a whole record).
    /// [`io::ErrorKind::UnexpectedEof`]: TLS only, the peer closed TCP without `close_notify`. Many
    /// implementations do, so it is nothing to fear where the protocol above knows its own ends.
    /// [`io::ErrorKind::InvalidData`]: TLS only, the peer broke TLS; the alert that says so has been
    /// given to the socket. Anything else is the socket's error.
    pub fn try_read(&self, buf: &mut BytesMut, max: usize) -> io::Result<usize> {
        let read = self.read_some(buf, max)?;
        self.entry().count_in(read);
        Ok(read)
    }

    fn read_some(&self, buf: &mut BytesMut, max: usize) -> io::Result<usize> {
        match &self.tls {
            None => {
                if buf.capacity() == buf.len() {
                    buf.reserve(max.clamp(1, 4096));
                }
                let room = (buf.capacity() - buf.len()).min(max.max(1));
                read_socket(&self.tcp, room, |tcp| tcp.try_read_buf(&mut buf.limit(room)))
            }
            Some(tls) => {
                let mut session = tls.session.lock();
                let result = session.read(&self.tcp, buf, max);
                tls.buffered.store(session.has_buffered(), Ordering::Release);
                result
            }
        }
    }

    /// Writes as much of `bufs` as is taken at once; returns the number of bytes taken.
    ///
    /// Plain TCP: one vectored write. TLS: one call makes one record of at most
    /// [`write_unit`](Self::write_unit) bytes and leaves its ciphertext in the session, so that
    /// several records leave in one system call: **call [`flush`](Self::flush) after the last one**.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`]: nothing was taken; for TLS: more than
    /// [`MAX_PENDING_CIPHERTEXT`] waits already. [`io::ErrorKind::BrokenPipe`] after
    /// [`close_notify`](Self::close_notify). Anything else is the socket's or the session's error.
    pub fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = match &self.tls {
            None => self.tcp.try_write_vectored(bufs),
            Some(tls) => tls.session.lock().write(&self.tcp, bufs),
        }?;
        self.entry().count_out(written);
        Ok(written)
    }

    /// What one [`try_write`](Self::try_write) sends as one piece: a caller who passes at most this
    /// many bytes gets them in one TLS record. [`TLS_RECORD`] for TLS, `usize::MAX` for plain TCP.
    #[must_use]
    pub fn write_unit(&self) -> usize {
        if self.tls.is_some() { TLS_RECORD } else { usize::MAX }
    }

    /// Pushes pending ciphertext to the socket. Nothing to do for plain TCP.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if some remains: the driver goes on when the socket is writable
    /// (whoever is not the driver wakes it by [`Handle::wake`](crate::Handle::wake)).
    pub fn flush(&self) -> io::Result<()> {
        match &self.tls {
            None => Ok(()),
            Some(tls) => tls.session.lock().flush(&self.tcp),
        }
    }

    /// Whether ciphertext waits for [`flush`](Self::flush).
    #[must_use]
    pub fn wants_flush(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.session.lock().wants_flush())
    }

    /// How much of that, at most.
    pub(crate) fn pending_ciphertext(&self) -> usize {
        self.tls.as_ref().map_or(0, |tls| tls.session.lock().pending())
    }

    /// Waits until [`try_read`](Self::try_read) is worth a call. Ready at once when the TLS session
    /// already holds something to deliver, whatever the socket says.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.tls.as_ref().is_some_and(|tls| tls.buffered.load(Ordering::Acquire)) {
            return Poll::Ready(Ok(()));
        }
        self.tcp.poll_read_ready(cx)
    }

    /// Waits until the socket takes bytes again.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_write_ready(cx)
    }

    /// Reads, waiting until there is something. For simple programs and tests that have no driver;
    /// not to be mixed with one.
    ///
    /// # Errors
    /// As [`try_read`](Self::try_read), without `WouldBlock`.
    pub async fn read(&self, buf: &mut BytesMut, max: usize) -> io::Result<usize> {
        loop {
            poll_fn(|cx| self.poll_read_ready(cx)).await?;
            buf.reserve(max.min(MAX_READ));
            match self.try_read(buf, max) {
                Err(e) if is_transient(&e) => {}
                result => return result,
            }
        }
    }

    /// Writes all of `data` and flushes, waiting as needed. For simple programs and tests that have
    /// no driver; not to be mixed with one.
    ///
    /// # Errors
    /// As [`try_write`](Self::try_write), without `WouldBlock`.
    pub async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            match self.try_write(&[IoSlice::new(data)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => data = &data[n..],
                Err(e) if is_transient(&e) => poll_fn(|cx| self.poll_write_ready(cx)).await?,
                Err(e) => return Err(e),
            }
        }
        loop {
            match self.flush() {
                Err(e) if is_transient(&e) => poll_fn(|cx| self.poll_write_ready(cx)).await?,
                result => return result,
            }
        }
    }

    /// Writes from `output` and reads into `input`, waiting until either got on; returns how many
    /// bytes were read: 0 if some were written only. What was written has left `output`, whose
    /// ciphertext may still be leaving. Nothing is read while `input` holds `limit` bytes
    /// or more: what is not taken off it slows the peer down. For programs that have no driver; not to
    /// be mixed with one. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`try_read`](Self::try_read) and [`try_write`](Self::try_write), without `WouldBlock`;
    /// [`io::ErrorKind::UnexpectedEof`] when the peer has ended its direction.
    pub async fn exchange(
        &self,
        input: &mut BytesMut,
        output: &mut BytesMut,
        limit: usize,
    ) -> io::Result<usize> {
        poll_fn(|cx| {
            let may_read = input.len() < limit;
            loop {
                let mut moved = false;
                if !output.is_empty() || self.wants_flush() {
                    match self.write_some(output) {
                        Ok(written) => moved = written,
                        Err(e) => return Poll::Ready(Err(e)),
                    }
                }
                if may_read {
                    input.reserve(MAX_READ);
                    match self.try_read(input, MAX_READ) {
                        Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                        Ok(n) => return Poll::Ready(Ok(n)),
                        Err(e) if is_transient(&e) => {}
                        Err(e) => return Poll::Ready(Err(e)),
                    }
                }
                let waits = !output.is_empty() || self.wants_flush();
                if moved || !may_read && !waits {
                    return Poll::Ready(Ok(0));
                }
                let writable = waits && self.poll_write_ready(cx)?.is_ready();
                let readable = may_read && self.poll_read_ready(cx)?.is_ready();
                if !writable && !readable {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Writes from the front of `output`; whether anything moved.
    fn write_some(&self, output: &mut BytesMut) -> io::Result<bool> {
        let mut moved = false;
        while !output.is_empty() {
            match self.try_write(&[IoSlice::new(output)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => output.advance(n),
                Err(e) if is_transient(&e) => break,
                Err(e) => return Err(e),
            }
            moved = true;
        }
        let pending = self.wants_flush();
        match self.flush() {
            Ok(()) => moved |= pending,
            Err(e) if is_transient(&e) => {}
            Err(e) => return Err(e),
        }
        Ok(moved)
    }

    /// Tells the peer that nothing more will be sent (TLS `close_notify`; nothing for plain TCP).
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn close_notify(&self) -> io::Result<()> {
        match &self.tls {
            None => Ok(()),
            Some(tls) => tls.session.lock().close_notify(&self.tcp),
        }
    }

    /// Ends our direction of the TCP connection (FIN).
    ///
    /// # Errors
    /// Those of `shutdown(2)`: mostly that the connection is already gone.
    pub fn shutdown_write(&self) -> io::Result<()> {
        SockRef::from(&self.tcp).shutdown(Shutdown::Write)
    }

    /// Ends both directions at once. With `abort`, what the kernel still holds for the peer is thrown
    /// away when the last user of the stream drops it, and the peer gets an RST.
    pub(crate) fn shutdown_both(&self, abort: bool) {
        // Both calls fail only on a connection that is gone already, which is what is wanted.
        if abort {
            let _ = self.tcp.set_zero_linger();
        }
        let _ = SockRef::from(&self.tcp).shutdown(Shutdown::Both);
    }

    /// Reads from the socket and throws away, past TLS: what comes after we have ended the
    /// connection matters to nobody, but unread bytes would turn our FIN into an RST.
    pub(crate) fn discard(&self) -> io::Result<usize> {
        session::with_scratch(|scratch| read_socket(&self.tcp, scratch.len(), |tcp| tcp.try_read(scratch)))
    }

    /// Waits for the socket itself to be readable, past TLS; goes with `discard`.
    pub(crate) fn poll_discard_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_read_ready(cx)
    }

    /// Closes our copy of a socket that another process has by now: nothing is said to the peer.
    pub fn let_go(self, reason: &CloseReason) {
        self.ended(reason);
    }

    /// The peer's address.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// Our own address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Facts about the TLS session; `None` for plain TCP.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.tls.as_ref().map(|tls| &tls.info)
    }
}

/// The socket, for whoever passes it on to another process.
impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

/// A stream that nobody has ended says so with what it knows, which its ticket does not: its TLS session.
impl Drop for Stream {
    fn drop(&mut self) {
        if self.entry().phase() == Phase::Open {
            self.ended(&CloseReason::Aborted);
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("peer", &self.peer)
            .field("local", &self.local)
            .field("tls", &self.tls())
            .finish_non_exhaustive()
    }
}

/// Not an end of anything: try again when the socket is ready.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// One read of up to `wanted` bytes; a short one clears the readiness (see [`SHORT_READ_DRAINS`]).
///
/// The readiness that is cleared is the one that `try_io` saw before the read, so an edge that
/// arrives in between is not lost; and tokio never clears "closed", so neither is a FIN.
fn read_socket(
    tcp: &TcpStream,
    wanted: usize,
    read: impl FnOnce(&TcpStream) -> io::Result<usize>,
) -> io::Result<usize> {
    if !SHORT_READ_DRAINS {
        return read(tcp);
    }
    let mut short = None;
    let result = tcp.try_io(Interest::READABLE, || match read(tcp)? {
        n if n > 0 && n < wanted => {
            short = Some(n);
            Err(io::ErrorKind::WouldBlock.into())
        }
        n => Ok(n),
    });
    short.map_or(result, Ok)
}
