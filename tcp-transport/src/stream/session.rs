//! A rustls session after its handshake, driven by hand.

use std::cell::Cell;
use std::io::{self, BufRead as _, IoSlice, Write};

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::{MAX_PENDING_CIPHERTEXT, MAX_READ, TLS_RECORD, read_socket};

/// The smallest socket read worth a call on a TLS connection.
const MIN_READ: usize = 4096;

/// What a record adds to its plaintext at most: header 5, explicit nonce 8, tag 16, content type 1.
const RECORD_OVERHEAD: usize = 30;

/// Slices of one record that are passed on without being gathered first.
const MAX_SLICES: usize = 32;

thread_local! {
    /// Ciphertext on its way into a session. It holds nothing between two calls, so one for each
    /// thread serves any number of connections.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lends the thread's scratch buffer of [`MAX_READ`] bytes.
pub(super) fn with_scratch<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut scratch = SCRATCH.take();
    if scratch.is_empty() {
        scratch.resize(MAX_READ, 0);
    }
    let result = f(&mut scratch);
    SCRATCH.set(scratch);
    result
}

/// How the peer's direction ended.
enum End {
    /// `close_notify`.
    Closed,
    /// TCP ended without it.
    Truncated,
    /// The peer broke TLS, or sent a fatal alert.
    Failed(rustls::Error),
}

impl End {
    fn result(&self) -> io::Result<usize> {
        match self {
            Self::Closed => Ok(0),
            Self::Truncated => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "peer closed TCP without TLS close_notify"))
            }
            Self::Failed(e) => Err(io::Error::new(io::ErrorKind::InvalidData, e.clone())),
        }
    }
}

/// The session, and what rustls does not tell us about it at any time we like.
pub(super) struct TlsSession {
    connection: rustls::Connection,
    /// An upper bound of the ciphertext that waits in `connection`.
    pending: usize,
    /// Plaintext that rustls held when the handshake ended.
    leftover: bool,
    end: Option<End>,
    sent_close: bool,
}

impl TlsSession {
    pub(super) fn new(mut connection: rustls::Connection) -> Self {
        // The bound is ours (`MAX_PENDING_CIPHERTEXT`): rustls' own would cut a record in two to
        // honour it, and a record is what a caller counts on (`Stream::write_unit`).
        connection.set_buffer_limit(None);
        let mut session = Self { connection, pending: 0, leftover: false, end: None, sent_close: false };
        session.process();
        session
    }

    /// Whether a read yields something without the socket.
    pub(super) fn has_buffered(&self) -> bool {
        self.leftover || self.end.is_some()
    }

    pub(super) fn wants_flush(&self) -> bool {
        self.connection.wants_write()
    }

    /// Ciphertext that waits, at most.
    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    pub(super) fn read(&mut self, tcp: &TcpStream, buf: &mut BytesMut, max: usize) -> io::Result<usize> {
        let before = buf.len();
        if self.leftover {
            self.leftover = false;
            self.take_plaintext(buf);
            if buf.len() > before {
                return Ok(buf.len() - before);
            }
        }
        if let Some(end) = &self.end {
            let result = end.result();
            // An alert about it may still be here. If it cannot be sent now, it never will be.
            let _ = self.flush(tcp);
            return result;
        }

        with_scratch(|scratch| {
            let room = max.clamp(MIN_READ, scratch.len());
            let n = read_socket(tcp, room, |tcp| tcp.try_read(&mut scratch[..room]))?;
            if n == 0 {
                self.end = Some(End::Truncated);
                return Ok(());
            }
            buf.reserve(n);
            self.decrypt(&scratch[..n], buf)
        })?;

        // A key update or an alert may have made an answer. If the socket does not take it now, the
        // driver sees `wants_flush`. A socket that is gone shows itself by the next read.
        if self.connection.wants_write() {
            let _ = self.flush(tcp);
        }
        if buf.len() > before {
            // With an end behind the data, `has_buffered` lets the next read report it.
            return Ok(buf.len() - before);
        }
        match &self.end {
            Some(end) => end.result(),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Feeds all of `ciphertext`. rustls takes 4 KiB at a time, hence the loop; emptying it after
    /// each step keeps its own buffers small.
    fn decrypt(&mut self, mut ciphertext: &[u8], buf: &mut BytesMut) -> io::Result<()> {
        while !ciphertext.is_empty() && self.end.is_none() {
            if self.connection.read_tls(&mut ciphertext)? == 0 {
                break;
            }
            self.process();
            self.take_plaintext(buf);
        }
        self.leftover = false;
        Ok(())
    }

    fn process(&mut self) {
        match self.connection.process_new_packets() {
            Ok(state) => {
                self.leftover = state.plaintext_bytes_to_read() > 0;
                if state.peer_has_closed() {
                    self.end = Some(End::Closed);
                }
            }
            Err(e) => {
                // Records before the bad one were good; they are delivered first.
                self.leftover = true;
                self.end = Some(End::Failed(e));
            }
        }
    }

    fn take_plaintext(&mut self, buf: &mut BytesMut) {
        let mut reader = self.connection.reader();
        while let Ok(chunk) = reader.fill_buf() {
            if chunk.is_empty() {
                break;
            }
            let n = chunk.len();
            // The one copy that TLS costs on the way in: rustls decrypts in its own buffer.
            buf.extend_from_slice(chunk);
            reader.consume(n);
        }
    }

    pub(super) fn write(&mut self, tcp: &TcpStream, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.sent_close {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.pending > MAX_PENDING_CIPHERTEXT {
            match self.flush(tcp) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && self.pending <= MAX_PENDING_CIPHERTEXT => {
                }
                result => result?,
            }
        }
        let taken = self.write_record(bufs)?;
        if taken > 0 {
            self.pending += taken + RECORD_OVERHEAD;
        }
        Ok(taken)
    }

    /// Encrypts the first [`TLS_RECORD`] bytes of `bufs` as one record.
    fn write_record(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut parts = [IoSlice::new(&[]); MAX_SLICES];
        let mut count = 0;
        let mut room = TLS_RECORD;
        for buf in bufs.iter().filter(|b| !b.is_empty()) {
            if room == 0 {
                break;
            }
            if count == MAX_SLICES {
                return self.write_gathered(bufs);
            }
            let part = &buf[..buf.len().min(room)];
            room -= part.len();
            parts[count] = IoSlice::new(part);
            count += 1;
        }
        self.connection.writer().write_vectored(&parts[..count])
    }

    /// As `write_record`, for more slices than it keeps on the stack.
    fn write_gathered(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut record = Vec::with_capacity(TLS_RECORD);
        for buf in bufs {
            let room = TLS_RECORD - record.len();
            record.extend_from_slice(&buf[..buf.len().min(room)]);
        }
        self.connection.writer().write(&record)
    }

    pub(super) fn flush(&mut self, tcp: &TcpStream) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Socket(tcp)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.pending = self.pending.saturating_sub(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.pending = 0;
        Ok(())
    }

    pub(super) fn close_notify(&mut self, tcp: &TcpStream) -> io::Result<()> {
        if !self.sent_close {
            self.sent_close = true;
            self.connection.send_close_notify();
        }
        self.flush(tcp)
    }
}

/// The socket as rustls wants to see it.
struct Socket<'a>(&'a TcpStream);

impl Write for Socket<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.try_write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
