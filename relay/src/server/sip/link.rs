//! The writing side of one connection that carries SIP: a queue that anybody may put messages into.
//!
//! | what | limit | at the limit |
//! |---|---|---|
//! | bytes that wait | `limits.session_buffer` for a client, 16 times that for an upstream | [`Unsendable::Full`]; one message always fits |
//! | messages that wait | `limits.async_max_postponed_chunks` | the same |
//! | time in which the socket takes nothing | `timeouts.send_timeout` | the connection is closed |

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tcp_transport::connection::{CloseReason, Handle};
use tcp_transport::hep::trace::{ConnectionTrace, Message, SentBy};
use tcp_transport::ws::{Role, frame};

use crate::sip::{Flow, Unsendable};

/// Slices of one vectored write.
const MAX_SLICES: usize = 64;

/// How messages are kept apart on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) enum Framing {
    /// By Content-Length.
    Stream,
    /// Each in one frame (RFC 7118 §5).
    WebSocket(Role),
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    pub(super) bytes: usize,
    pub(super) messages: usize,
}

/// What became of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// Nothing waits.
    Idle,
    /// The socket takes no more.
    Blocked,
}

/// A connection that carries SIP, for whoever writes to it.
pub(in crate::server) struct SipLink {
    handle: Handle,
    flow: Flow,
    framing: Framing,
    limits: QueueLimits,
    send_timeout: Duration,
    /// Where its messages are traced.
    trace: Option<ConnectionTrace>,
    queue: Mutex<Queue>,
}

impl std::fmt::Debug for SipLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SipLink").field("flow", &self.flow).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Queue {
    parts: VecDeque<Part>,
    bytes: usize,
    messages: usize,
    /// Messages that have left and are not counted yet.
    sent: u64,
    /// Some of the first message is on the wire.
    within: bool,
    /// A control frame waits for its place.
    control: bool,
    /// Since when the socket takes nothing; `None` while it does.
    blocked: Option<Instant>,
    /// Nothing may follow: a WebSocket's Close is the last.
    closed: bool,
    /// Where frames' headers are made.
    headers: BytesMut,
}

struct Part {
    bytes: Bytes,
    end: End,
}

/// What ends with a part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Nothing,
    Message,
    /// CRLFs between messages.
    KeepAlive,
    Control,
}

impl SipLink {
    pub(super) fn new(
        handle: Handle,
        flow: Flow,
        framing: Framing,
        limits: QueueLimits,
        send_timeout: Duration,
    ) -> Self {
        Self { handle, flow, framing, limits, send_timeout, trace: None, queue: Mutex::default() }
    }

    /// With its messages under trace, of this user if the opening handshake of a WebSocket has proved one: over SIP
    /// itself nobody authenticates to us.
    pub(super) fn with_trace(mut self, trace: Option<ConnectionTrace>, user: Option<&str>) -> Self {
        match (&trace, user) {
            (Some(trace), Some(user)) => trace.authenticated(user),
            (Some(trace), None) => trace.anonymous(),
            (None, _) => {}
        }
        self.trace = trace;
        self
    }

    /// Traces a message that came, in pieces that are made for that alone.
    pub(super) fn came(&self, message: impl FnOnce() -> [Bytes; 2]) {
        if let Some(trace) = self.traced() {
            traced(trace, SentBy::Peer, &message());
        }
    }

    fn traced(&self) -> Option<&ConnectionTrace> {
        self.trace.as_ref().filter(|trace| trace.is_on())
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(super) fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Whether nothing waits.
    pub(in crate::server) fn is_idle(&self) -> bool {
        let queue = self.queue.lock();
        queue.parts.is_empty() && queue.blocked.is_none()
    }

    /// How many bytes wait.
    pub(in crate::server) fn queued_bytes(&self) -> usize {
        self.queue.lock().bytes
    }

    /// Puts a message into the queue. It is written by the next [`flush`](Self::flush).
    pub(super) fn push(&self, slices: &[Bytes], now: Instant) -> Result<(), Unsendable> {
        let len = slices.iter().map(Bytes::len).sum::<usize>();
        let mut queue = self.queue.lock();
        if queue.closed || !self.handle.is_open() {
            return Err(Unsendable::Gone);
        }
        if queue.is_full(len, self.limits) {
            // What came in the same read need not wait for its end.
            self.write(&mut queue, now);
            if queue.is_full(len, self.limits) {
                return Err(Unsendable::Full);
            }
        }
        let is_message = !slices.first().is_some_and(|first| first.starts_with(b"\r\n"));
        if is_message && let Some(trace) = self.traced() {
            traced(trace, SentBy::Us, slices);
        }
        let end = if is_message { End::Message } else { End::KeepAlive };
        queue.bytes += len;
        queue.messages += 1;
        let mask = match self.framing {
            Framing::Stream => None,
            Framing::WebSocket(role) => {
                let mask = role.mask();
                let header = queue.frame_header(slices, len, mask);
                queue.bytes += header.len();
                queue.parts.push_back(Part { bytes: header, end: End::Nothing });
                mask
            }
        };
        if mask.is_some() || queue.blocked.is_some() {
            // Copied for the mask; or because it waits for a slow reader, and a slice would keep all of the read
            // alive that it came with.
            let mut copy = BytesMut::with_capacity(len);
            slices.iter().for_each(|slice| copy.put_slice(slice));
            if let Some(mask) = mask {
                frame::apply_mask(&mut copy, mask, 0);
            }
            queue.parts.push_back(Part { bytes: copy.freeze(), end });
        } else if let Some((last, first)) = slices.split_last() {
            queue.parts.extend(first.iter().map(|slice| Part { bytes: slice.clone(), end: End::Nothing }));
            queue.parts.push_back(Part { bytes: last.clone(), end });
        }
        Ok(())
    }

    /// Writes what waits, as far as the socket takes it; the rest is for the connection's task.
    pub(super) fn flush(&self, now: Instant) {
        let mut queue = self.queue.lock();
        // Once the socket is full its task writes, when there is room.
        if queue.blocked.is_none() {
            self.write(&mut queue, now);
        }
    }

    /// As [`flush`](Self::flush), for the connection's task.
    pub(super) fn transmit(&self, now: Instant) -> io::Result<Flushed> {
        self.queue.lock().write(&self.handle, now)
    }

    fn write(&self, queue: &mut Queue, now: Instant) {
        if queue.blocked.is_some() {
            return;
        }
        match queue.write(&self.handle, now) {
            Ok(Flushed::Idle) => {}
            Ok(Flushed::Blocked) => self.handle.wake(),
            Err(error) => self.handle.close(CloseReason::from_io(&error)),
        }
    }

    /// Whether a control frame waits; another one has to, too.
    pub(super) fn control_waits(&self) -> bool {
        self.queue.lock().control
    }

    /// Puts a WebSocket's control frame where the next message begins; a Close after all of them.
    pub(super) fn control(&self, frame: &[u8], closes: bool) {
        let mut queue = self.queue.lock();
        if queue.closed {
            return;
        }
        let part = Part { bytes: Bytes::copy_from_slice(frame), end: End::Control };
        let place = match (closes, queue.within) {
            (true, _) => queue.parts.len(),
            (false, false) => 0,
            (false, true) => {
                queue.parts.iter().position(|part| part.end != End::Nothing).map_or(0, |last| last + 1)
            }
        };
        queue.bytes += part.bytes.len();
        queue.parts.insert(place, part);
        queue.control = true;
        queue.closed = closes;
    }

    /// When the connection is closed, if its socket takes nothing until then.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.queue.lock().blocked?.checked_add(self.send_timeout)
    }
}

impl Queue {
    fn is_full(&self, len: usize, limits: QueueLimits) -> bool {
        self.messages >= limits.messages || self.bytes > 0 && self.bytes + len > limits.bytes
    }

    /// The header of a message's one frame: text where it may be that (RFC 7118 §5).
    fn frame_header(&mut self, slices: &[Bytes], len: usize, mask: Option<[u8; 4]>) -> Bytes {
        // Head and body are cut at ASCII characters only.
        let text = slices.iter().all(|slice| std::str::from_utf8(slice).is_ok());
        let opcode = if text { frame::Opcode::Text } else { frame::Opcode::Binary };
        self.headers.reserve(frame::MAX_HEADER);
        frame::header(&mut self.headers, true, opcode, len as u64, mask);
        self.headers.split().freeze()
    }

    fn write(&mut self, handle: &Handle, now: Instant) -> io::Result<Flushed> {
        let result = self.write_parts(handle, now);
        if self.sent > 0 {
            handle.entry().count_messages_out(std::mem::take(&mut self.sent));
        }
        result
    }

    fn write_parts(&mut self, handle: &Handle, now: Instant) -> io::Result<Flushed> {
        let stream = handle.stream();
        while !self.parts.is_empty() {
            let result = {
                let slices: SmallVec<[IoSlice<'_>; MAX_SLICES]> =
                    self.parts.iter().take(MAX_SLICES).map(|part| IoSlice::new(&part.bytes)).collect();
                stream.try_write(&slices)
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.written(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.blocked(stream, now),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        match stream.flush() {
            Ok(()) => {
                self.blocked = None;
                Ok(Flushed::Idle)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.blocked.get_or_insert(now);
                Ok(Flushed::Blocked)
            }
            Err(error) => Err(error),
        }
    }

    /// The socket, or the TLS session, takes no more.
    fn blocked(&mut self, stream: &tcp_transport::Stream, now: Instant) -> io::Result<Flushed> {
        self.blocked.get_or_insert(now);
        match stream.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(Flushed::Blocked),
        }
    }

    fn written(&mut self, mut written: usize) {
        // Whoever takes something is not stuck.
        self.blocked = None;
        while let Some(part) = self.parts.front_mut() {
            let taken = written.min(part.bytes.len());
            written -= taken;
            self.bytes -= taken;
            part.bytes.advance(taken);
            if !part.bytes.is_empty() {
                self.within |= taken > 0;
                return;
            }
            match part.end {
                End::Nothing => self.within = true,
                End::Message | End::KeepAlive => {
                    self.within = false;
                    self.messages -= 1;
                    self.sent += u64::from(part.end == End::Message);
                }
                End::Control => {
                    self.within = false;
                    self.control = false;
                }
            }
            self.parts.pop_front();
        }
        if self.parts.is_empty() {
            self.parts.shrink_to(MAX_SLICES);
        }
    }
}

#[cold]
fn traced(trace: &ConnectionTrace, by: SentBy, message: &[Bytes]) {
    let head: Vec<u8> = message.iter().flat_map(|part| part.iter().copied()).collect();
    let call_id = call_id(&head).unwrap_or_default();
    trace.message(by, SystemTime::now(), || Message::Sip { call_id, message });
}

/// The Call-ID in a head; compact: `i` (RFC 3261 §20.8).
fn call_id(message: &[u8]) -> Option<&str> {
    let lines = message.split(|byte| *byte == b'\n').skip(1).map(<[u8]>::trim_ascii_end);
    let mut values = lines.take_while(|line| !line.is_empty()).filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = line[..colon].trim_ascii_end();
        let is_it = name.eq_ignore_ascii_case(b"Call-ID") || name.eq_ignore_ascii_case(b"i");
        is_it.then(|| line[colon + 1..].trim_ascii())
    });
    std::str::from_utf8(values.next()?).ok()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use bytes::BytesMut;
    use tcp_transport::connection::{self, Driver, DriverSettings};
    use tcp_transport::{Stream, ws};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::sip::Side;

    const SECOND: Duration = Duration::from_secs(1);

    /// A link that is said to be blocked, and the other end of its socket.
    async fn link(framing: Framing, bytes: usize, messages: usize) -> (SipLink, Driver, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let stream = Stream::plain(near.unwrap(), address).unwrap();
        let (handle, driver) = connection::open(stream, DriverSettings::default());
        let flow = Flow { connection: 1, side: Side::Client(0), remote: address, local: None, secure: false };
        let link = SipLink::new(handle, flow, framing, QueueLimits { bytes, messages }, SECOND);
        link.queue.lock().blocked = Some(Instant::now());
        (link, driver, far.unwrap().0)
    }

    #[test]
    fn the_call_id_is_found_under_both_its_names_in_the_head_alone() {
        for (head, wanted) in [
            ("A b SIP/2.0\r\nCall-ID: a@b\r\n\r\n", Some("a@b")),
            ("SIP/2.0 200 OK\r\nTo: x\r\nI :c\r\n", Some("c")),
            ("A b SIP/2.0\r\nX: y\r\n\r\ni: body\r\n", None),
            ("i: a", None),
            ("", None),
        ] {
            assert_eq!(call_id(head.as_bytes()), wanted, "{head}");
        }
    }

    async fn read(far: &mut TcpStream, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        far.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    fn message(len: usize) -> [Bytes; 2] {
        [Bytes::from_static(b"<"), Bytes::from(vec![b'x'; len - 1])]
    }

    #[tokio::test]
    async fn so_many_messages_and_bytes_wait_and_no_more() {
        let now = Instant::now();
        let (link, _driver, mut far) = link(Framing::Stream, 100, 3).await;
        for _ in 0..3 {
            assert_eq!(link.push(&message(10), now), Ok(()));
        }
        assert_eq!(link.push(&message(10), now), Err(Unsendable::Full), "a fourth message");
        assert!(link.deadline().is_some());
        assert_eq!(link.transmit(now).unwrap(), Flushed::Idle);
        assert_eq!(read(&mut far, 30).await, b"<xxxxxxxxx".repeat(3));
        assert!(link.is_idle() && link.deadline().is_none());

        for (second, result) in [(39, Ok(())), (40, Ok(())), (41, Err(Unsendable::Full))] {
            link.queue.lock().blocked = Some(now);
            assert_eq!(link.push(&message(60), now), Ok(()));
            assert_eq!(link.push(&message(second), now), result, "{second}");
            link.transmit(now).unwrap();
            assert!(link.is_idle());
        }
        link.queue.lock().blocked = Some(now);
        assert_eq!(link.push(&message(1000), now), Ok(()), "one always fits");
        // Where the socket takes it, what waits makes room.
        link.queue.lock().blocked = None;
        assert_eq!(link.push(&message(10), now), Ok(()));
        link.handle.close(CloseReason::Local("test".into()));
        assert_eq!(link.push(&message(10), now), Err(Unsendable::Gone));
    }

    #[tokio::test]
    async fn frames_are_masked_by_a_client_and_controls_stand_between_them() {
        let now = Instant::now();
        let (link, _driver, mut far) = link(Framing::WebSocket(Role::Server), 1000, 10).await;
        link.push(&message(3), now).unwrap();
        link.push(&[Bytes::from_static(b"\xff")], now).unwrap();
        link.control(b"P", false);
        assert!(link.control_waits());
        link.control(b"C", true);
        assert_eq!(link.push(&message(3), now), Err(Unsendable::Gone), "nothing follows a Close");
        link.transmit(now).unwrap();
        assert_eq!(read(&mut far, 10).await, b"P\x81\x03<xx\x82\x01\xffC");

        let role = Role::Client { mask: || [1, 2, 3, 4] };
        let (client, _driver, mut far) = self::link(Framing::WebSocket(role), 1000, 10).await;
        client.push(&message(5), now).unwrap();
        client.transmit(now).unwrap();
        let mut bytes = BytesMut::from(&read(&mut far, 11).await[..]);
        let mut incoming = ws::Incoming::new(Role::Server, ws::Settings::default(), now);
        let mut seen = Vec::new();
        let _ = incoming.received(&mut bytes, now, |payload| {
            assert!(payload.text && payload.end);
            seen.extend_from_slice(payload.buf);
            connection::Flow::Read
        });
        assert_eq!(seen, b"<xxxx");
    }

    #[tokio::test]
    async fn a_message_that_has_begun_is_not_cut_by_a_control_frame() {
        let now = Instant::now();
        let (link, _driver, _far) = link(Framing::WebSocket(Role::Server), 1000, 10).await;
        link.push(&message(5), now).unwrap();
        link.push(&message(5), now).unwrap();
        let mut queue = link.queue.lock();
        queue.written(1);
        drop(queue);
        link.control(b"P", false);
        let queue = link.queue.lock();
        let ends: Vec<bool> = queue.parts.iter().map(|part| part.end == End::Control).collect();
        // Header, and the copy, as the socket was full.
        assert_eq!(ends, [false, false, true, false, false]);
    }
}
