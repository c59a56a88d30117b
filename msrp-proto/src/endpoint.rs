//! The client: one connection, its authentications, sessions and messages (RFC 4975 §5–§7, RFC 4976
//! §5), without a socket and without a clock.
//!
//! # Contract with the driver
//!
//! The driver owns the socket, the two buffers and the clock. For each connection it makes one
//! [`Endpoint`], and then, over and over:
//!
//! 1. appends what it reads to a buffer and calls [`receive`](Endpoint::receive) while that gives
//!    `true`; each time, it takes all events with [`poll_event`](Endpoint::poll_event) first. An
//!    endpoint whose events are not taken reads no further: a slow application slows its peer;
//! 2. takes events after every other call too, since most give some;
//! 3. calls [`poll_transmit`](Endpoint::poll_transmit) and writes what that has appended, in **one**
//!    write, before it calls it again; it stops when nothing is appended. An end-line is never
//!    divided between two outputs. After writing it calls `receive` again if the buffer is not empty:
//!    input rests while too many responses wait to be written;
//! 4. waits for the socket, for the application, or until [`deadline`](Endpoint::deadline), after
//!    which it calls [`handle_timeout`](Endpoint::handle_timeout);
//! 5. calls [`connection_lost`](Endpoint::connection_lost) when the connection ends, and closes it
//!    when [`is_closed`](Endpoint::is_closed).
//!
//! # Who owns what
//!
//! [`auth`](RelayLogin) asks relays for a Use-Path; what it gives belongs to the application, which
//! opens sessions with it. `session` knows which To-Path is ours. `outgoing` has the messages being
//! sent and the chunk that is open; `incoming` those being received. They share identifiers, events,
//! [transactions](crate::transaction) and a queue of short messages that go out whole and first.
//!
//! # What an application does
//!
//! ```
//! use std::time::Instant;
//! use bytes::BytesMut;
//! use msrp_proto::endpoint::{Config, Endpoint, Event, Message, Role, SessionOptions};
//!
//! let now = Instant::now();
//! let mut count = 0u8;
//! let mut random = move |bytes: &mut [u8]| { count += 1; bytes.fill(count) }; // a real one in earnest
//! let mut alice = Endpoint::new(Config::default(), random.clone());
//! let mut bob = Endpoint::new(Config::default(), random);
//! let (a, b) = ("msrp://alice.invalid:2855/a;tcp".parse()?, "msrp://bob.invalid:2855/b;tcp".parse()?);
//! let (a, b): (msrp_proto::uri::MsrpUri, msrp_proto::uri::MsrpUri) = (a, b);
//! let chat = alice.open_session(SessionOptions::new(a.clone(), vec![], vec![b.clone()], Role::Active))?;
//! bob.open_session(SessionOptions::new(b, vec![], vec![a], Role::Passive))?;
//! alice.send(chat, Message::new("text/plain", "hello"))?;
//!
//! let mut wire = BytesMut::new();
//! while alice.poll_transmit(&mut wire, 16_384, now) > 0 {}
//! let mut heard = None;
//! while bob.receive(&mut wire, now) {
//!     while let Some(event) = bob.poll_event() {
//!         if let Event::Message { body, .. } = event {
//!             heard = Some(body);
//!         }
//!     }
//! }
//! assert_eq!(heard.as_deref(), Some(b"hello".as_slice()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod auth;
mod event;
mod incoming;
mod message;
mod outgoing;
mod session;
mod shared;

use std::fmt;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

pub use auth::{AuthError, Credentials, MAX_CHALLENGES, OwnSecret, RelayLogin, UsePath, relay_uri};
pub use event::{
    AuthHandle, CloseReason, Event, IncomingHandle, IncomingMessage, Outcome, OutgoingHandle, SendError,
    SessionHandle, UsageError,
};
pub use message::{Body, Message};
pub use outgoing::{MAX_UNANSWERED, REMEMBERED};
pub use session::{Role, SessionOptions};

use crate::decoder::{self, Decoder};
use crate::head::{Head, Kind, Method};
use crate::header::ByteRange;
use crate::status::StatusCode;
use crate::transaction::{RESPONSE_TIMEOUT, Transactions};
use crate::uri::{MsrpUri, Scheme, UriError};
use auth::Auths;
use incoming::Incoming;
use outgoing::{Outgoing, Step};
use session::Sessions;
use shared::{Identifiers, Purpose, Shared};

/// The least [`Config::body_window`] that has an effect: a chunk needs 2048 bytes at hand to begin.
pub const MIN_BODY_WINDOW: usize = 8 * 1024;

/// Below this much room in an output no new chunk is begun in it; heads are rarely longer.
const ROOM_FOR_HEAD: usize = 1024;

/// The settings of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What the decoder takes.
    pub limits: decoder::Limits,
    /// Messages of at most that many bytes are given to the application whole
    /// ([`Event::Message`]), longer ones piece by piece. Default 64 KiB; 0 gives all piece by piece.
    pub assemble_up_to: u64,
    /// Messages that are received and incomplete at one time; one more is answered with 413. With
    /// [`assemble_up_to`](Self::assemble_up_to) this bounds the memory. Default 64.
    pub max_incoming_messages: usize,
    /// Messages that wait to be sent or are being sent; one more is a [`UsageError`]. Default 1024.
    pub max_outgoing_messages: usize,
    /// Bytes that are held of a message whose body is streamed. Default 64 KiB, at least
    /// [`MIN_BODY_WINDOW`].
    pub body_window: usize,
    /// Bytes of responses and REPORTs that wait to be written; no input is taken beyond. Default
    /// 1 MiB: a peer that sends and does not read.
    pub max_queued_bytes: usize,
    /// How long a response may take. Default 30 s (RFC 4975 §7.1.1).
    pub response_timeout: Duration,
    /// How long before its end [`Event::AuthExpiring`] comes; at most half of the time there is.
    /// Default 30 s.
    pub expiry_margin: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: decoder::Limits::default(),
            assemble_up_to: 64 * 1024,
            max_incoming_messages: 64,
            max_outgoing_messages: 1024,
            body_window: 64 * 1024,
            max_queued_bytes: 1024 * 1024,
            response_timeout: RESPONSE_TIMEOUT,
            expiry_margin: Duration::from_secs(30),
        }
    }
}

/// The client side of one connection. See the [module](self) for how it is driven.
pub struct Endpoint {
    config: Config,
    decoder: Decoder,
    shared: Shared,
    auths: Auths,
    sessions: Sessions,
    incoming: Incoming,
    outgoing: Outgoing,
    closed: bool,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("closed", &self.closed).finish_non_exhaustive()
    }
}

/// Driving.
impl Endpoint {
    /// An endpoint for a connection that is open. `random` fills a slice with random bytes, fit for
    /// identifiers that must not be guessed.
    pub fn new(config: Config, random: impl FnMut(&mut [u8]) + Send + 'static) -> Self {
        let shared = Shared {
            ids: Identifiers::new(random),
            events: std::collections::VecDeque::new(),
            transactions: Transactions::new(config.response_timeout),
            control: shared::ControlQueue::default(),
        };
        Self {
            decoder: Decoder::new(config.limits.clone()),
            config,
            shared,
            auths: Auths::default(),
            sessions: Sessions::default(),
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            closed: false,
        }
    }

    /// Takes from the front of `buf` until there is an event. `true`: there is one; take it, and call
    /// again. `false`: more bytes are needed, or output has to be written first.
    ///
    /// Body bytes are given on as slices of `buf`.
    pub fn receive(&mut self, buf: &mut BytesMut, now: Instant) -> bool {
        while self.shared.events.is_empty() {
            if self.closed || self.shared.control.bytes() > self.config.max_queued_bytes {
                return false;
            }
            match self.decoder.decode(buf) {
                Ok(Some(event)) => self.on_decoded(event, now),
                Ok(None) => return false,
                Err(error) => self.close(CloseReason::Protocol(error)),
            }
        }
        true
    }

    /// Appends to `out` what is to be sent, up to about `max` bytes, and gives how many bytes that
    /// were; 0 when there is nothing to send now. `now` is when they are handed to the connection.
    ///
    /// An end-line is always whole in one output: write it with one write. Heads are whole too, and
    /// only the one that begins last may exceed `max`. With a `max` of 16384 or less, an end-line is
    /// also within one TLS record, unless such a head precedes it.
    pub fn poll_transmit(&mut self, out: &mut BytesMut, max: usize, now: Instant) -> usize {
        let begin = out.len();
        loop {
            let written = out.len() - begin;
            let room = max.saturating_sub(written);
            if room == 0 {
                return written;
            }
            match self.transmit_step(out, room, written == 0, now) {
                Step::Done => {}
                Step::Full | Step::Idle => return out.len() - begin,
            }
        }
    }

    /// Takes the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.shared.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) has to be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let (transactions, auths) = (self.shared.transactions.deadline(), self.auths.deadline());
        transactions.into_iter().chain(auths).min()
    }

    /// Does what is due at `now`. Calling it early or often does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(expired) = self.shared.transactions.expire(now) {
            let shared = &mut self.shared;
            match expired.value {
                Purpose::Auth(handle) => self.auths.timed_out(handle, shared),
                Purpose::Bodiless(handle) => session::bodiless_failed(handle, SendError::Timeout, shared),
                Purpose::Chunk(handle) => self.outgoing.timed_out(handle, expired.failed, shared),
            }
        }
        self.auths.handle_timeout(now, &mut self.shared);
    }

    /// The connection has ended. What was open fails, with events.
    pub fn connection_lost(&mut self) {
        self.close(CloseReason::ConnectionLost);
    }

    /// Whether the connection is over: nothing is sent or received any more, and it is to be closed.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether nothing is to be sent and no response is awaited: a good moment to close.
    pub fn is_idle(&self) -> bool {
        self.shared.control.is_empty() && self.outgoing.is_idle() && self.shared.transactions.is_empty()
    }
}

/// What the application asks for. After each call, take events and transmit.
impl Endpoint {
    /// A URI for ourselves with a session-id of 80 random bits (RFC 4975 §14.1). Behind a relay host
    /// and port need not be reachable; `host` may be a name ending in `.invalid`.
    ///
    /// # Errors
    /// [`UriError`] if `host` is no host.
    pub fn own_uri(&mut self, scheme: Scheme, host: &str, port: u16) -> Result<MsrpUri, UriError> {
        format!("{scheme}://{host}:{port}/{};tcp", self.shared.ids.text()).parse()
    }

    /// Asks relays for a path to use, one after another, each through those before it
    /// (RFC 4976 §5.1). `own` is our URI. Ends with [`Event::Authenticated`] or
    /// [`Event::AuthFailed`]; several may run at the same time.
    ///
    /// # Errors
    /// [`UsageError::EmptyPath`] without a relay, [`UsageError::Closed`].
    pub fn authenticate(&mut self, own: MsrpUri, relays: Vec<RelayLogin>) -> Result<AuthHandle, UsageError> {
        self.open()?;
        self.auths.begin(own, relays, &mut self.shared)
    }

    /// Opens a session on this connection. As the active side it sends a SEND without a body at
    /// once (RFC 4975 §5.4), which may fail with [`Event::SessionFailed`].
    ///
    /// # Errors
    /// [`UsageError::EmptyPath`] without a peer, [`UsageError::SessionIdInUse`],
    /// [`UsageError::Closed`].
    pub fn open_session(&mut self, options: SessionOptions) -> Result<SessionHandle, UsageError> {
        self.open()?;
        self.sessions.open(options, &mut self.shared)
    }

    /// Closes a session. Its messages fail; an open chunk of it is ended with `#`.
    ///
    /// # Errors
    /// [`UsageError::UnknownHandle`].
    pub fn close_session(&mut self, session: SessionHandle) -> Result<(), UsageError> {
        self.sessions.close(session)?;
        self.outgoing.close_session(session, &mut self.shared);
        self.incoming.close_session(session, &mut self.shared);
        Ok(())
    }

    /// The session's peer has come on another connection: requests for it on this one are answered
    /// with 506 (RFC 4975 §5.4).
    ///
    /// # Errors
    /// [`UsageError::UnknownHandle`].
    pub fn set_bound_elsewhere(&mut self, session: SessionHandle) -> Result<(), UsageError> {
        self.sessions.set_elsewhere(session)
    }

    /// Sends a SEND without a body: traffic for the sake of traffic (RFC 4975 §7.1).
    ///
    /// # Errors
    /// [`UsageError::UnknownHandle`], [`UsageError::Closed`].
    pub fn keep_alive(&mut self, session: SessionHandle) -> Result<(), UsageError> {
        self.open()?;
        self.sessions.keep_alive(session, &mut self.shared)
    }

    /// Sends a message. It waits its turn, and for the session to be bound where that is needed.
    ///
    /// # Errors
    /// [`UsageError::UnknownHandle`], [`UsageError::Field`], [`UsageError::TooManyMessages`],
    /// [`UsageError::Closed`].
    pub fn send(&mut self, session: SessionHandle, message: Message) -> Result<OutgoingHandle, UsageError> {
        self.open()?;
        let paths = self.sessions.get(session)?.paths.clone();
        self.outgoing.send(session, &paths, message, &self.config, &mut self.shared)
    }

    /// Gives the next bytes of a streamed body, as asked for with [`Event::BodyWanted`]; not copied
    /// before they are sent. For a message that has failed they are dropped.
    ///
    /// # Errors
    /// [`UsageError::BodyTooLong`], [`UsageError::UnknownHandle`].
    pub fn provide_body(&mut self, message: OutgoingHandle, bytes: Bytes) -> Result<(), UsageError> {
        self.outgoing.provide(message, bytes, &self.config, &mut self.shared)
    }

    /// The streamed body of a message without an announced length ends here.
    ///
    /// # Errors
    /// [`UsageError::BodyTooShort`] if more was announced: [`abort`](Self::abort) it then;
    /// [`UsageError::UnknownHandle`].
    pub fn finish_body(&mut self, message: OutgoingHandle) -> Result<(), UsageError> {
        self.outgoing.finish(message)
    }

    /// Abandons a message: its receiver is told with `#` if it has heard of it. Gives
    /// [`Event::SendFailed`], unless all has been sent and answered, or it had failed before.
    ///
    /// # Errors
    /// [`UsageError::UnknownHandle`].
    pub fn abort(&mut self, message: OutgoingHandle) -> Result<(), UsageError> {
        self.outgoing.abort(message, &mut self.shared)
    }

    /// Refuses the rest of a message: 413 to make its sender stop, 415 for a media type we do not
    /// understand (RFC 4975 §10). A chunk that is arriving is answered at once, those that follow
    /// when they begin. Gives [`Event::MessageEnd`].
    ///
    /// # Errors
    /// [`UsageError::UnknownHandle`].
    pub fn refuse(&mut self, message: IncomingHandle, status: StatusCode) -> Result<(), UsageError> {
        self.incoming.refuse(message, status, &mut self.shared)
    }

    /// Sends a REPORT of our own about a received message, for what turns out after it was accepted
    /// (RFC 4975 §7.1.4). Does nothing where the sender's wishes forbid it.
    ///
    /// # Errors
    /// [`UsageError::UnknownHandle`], [`UsageError::Closed`].
    pub fn report(
        &mut self,
        session: SessionHandle,
        message: &IncomingMessage,
        range: ByteRange,
        status: StatusCode,
    ) -> Result<(), UsageError> {
        self.open()?;
        let local = self.sessions.get(session)?.options.local.as_str();
        let wanted = if status.is_success() {
            message.success_report
        } else {
            message.failure_report != crate::header::FailureReport::No
        };
        if wanted {
            let (to, id) = (&message.from_path, &message.message_id);
            incoming::send_report(to, local, id, range, status, &mut self.shared);
        }
        Ok(())
    }

    fn open(&self) -> Result<(), UsageError> {
        if self.closed { Err(UsageError::Closed) } else { Ok(()) }
    }
}

/// Inside.
impl Endpoint {
    fn transmit_step(&mut self, out: &mut BytesMut, room: usize, first: bool, now: Instant) -> Step {
        if self.outgoing.has_open_chunk() {
            let context = (&self.sessions, &self.config, &mut self.shared);
            return self.outgoing.continue_chunk(room, first, (out, now), context);
        }
        if let Some(len) = self.shared.control.next_len() {
            if len > room && !first {
                return Step::Full;
            }
            if let Some(control) = self.shared.control.pop() {
                out.extend_from_slice(&control.bytes);
                if let Some(id) = control.transaction {
                    self.shared.transactions.sent(&id, now);
                }
            }
            return Step::Done;
        }
        if room < ROOM_FOR_HEAD && !first {
            return Step::Full;
        }
        self.outgoing.begin_chunk(out, &self.sessions, &mut self.shared)
    }

    fn on_decoded(&mut self, event: decoder::Event, now: Instant) {
        match event {
            decoder::Event::Head(head) => {
                self.incoming.on_head(head, &mut self.sessions, &self.config, &mut self.shared);
            }
            decoder::Event::Body(bytes) => {
                self.incoming.on_body(bytes, &self.sessions, &mut self.shared);
            }
            decoder::Event::End(flag) => {
                if let Some(head) = self.incoming.on_end(flag, &self.sessions, &mut self.shared) {
                    self.on_complete(&head, now);
                    self.decoder.recycle(head);
                }
            }
        }
    }

    /// Everything but a SEND is looked at when it is complete.
    fn on_complete(&mut self, head: &Head, now: Instant) {
        match head.kind() {
            Kind::Request(Method::Send) => {}
            Kind::Request(Method::Report) => {
                // Never answered, not even for a session we do not know (RFC 4975 §7.1.2).
                if let Ok(session) = self.sessions.of_request(head, &mut self.shared) {
                    self.outgoing.on_report(session, head, &mut self.shared);
                }
            }
            Kind::Request(_) => incoming::respond(head, StatusCode::UNKNOWN_METHOD, &mut self.shared),
            Kind::Response(status) => self.on_response(head, status, now),
        }
    }

    fn on_response(&mut self, head: &Head, status: StatusCode, now: Instant) {
        let shared = &mut self.shared;
        match shared.transactions.answered(&head.transaction_id()) {
            None => {}
            Some(Purpose::Auth(handle)) => {
                self.auths.on_response(handle, head, status, now, self.config.expiry_margin, shared);
            }
            Some(Purpose::Bodiless(handle)) if !status.is_success() => {
                session::bodiless_failed(handle, SendError::Refused(status), shared);
            }
            Some(Purpose::Bodiless(_)) => {}
            Some(Purpose::Chunk(handle)) => self.outgoing.on_response(handle, status, shared),
        }
    }

    fn close(&mut self, reason: CloseReason) {
        if self.closed {
            return;
        }
        self.closed = true;
        self.shared.transactions.clear();
        self.shared.control.clear();
        self.auths.connection_lost(&mut self.shared);
        self.outgoing.connection_lost(&mut self.shared);
        self.incoming.connection_lost(&mut self.shared);
        self.shared.events.push_back(Event::Closed { reason });
    }
}
