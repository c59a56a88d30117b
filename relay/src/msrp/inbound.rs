//! The receiving side of one connection: what becomes of each message it brings.
//!
//! # States of the current message
//!
//! *none* → on a head: *forward* (a SEND on its way to the next hop), *whole* (any other request: it is
//! small and handled at its end), *discard* (refused, failed or a response: the rest is thrown away)
//! → on the end: *none*.
//!
//! *forward* goes to *discard* when the chunk fails meanwhile: the next hop is lost, or answered with
//! an error (both tell the sender themselves), the session ended, or it stalled.
//!
//! # Reading pauses
//!
//! while the lane the chunk goes to is full, while the control backlog of a link this one sends to is
//! over its limit, and while this link's own answers pile up because its peer does not read. Whoever
//! drains the queue in question wakes this link. It pauses too while as many AUTHs as may be are put aside (see
//! `aside`), and while its user has sent faster than it may (`limits.user`), for as long as that takes. After `stall_timeout` in front of another link's queue,
//! and only if other sessions use this connection too, the chunk is ended (`#`, 408), or what is no SEND
//! is refused, and reading goes on. What comes too fast over a relay's connection is refused instead (413): others
//! share it.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use msrp_proto::decoder::{Decoder, Event, Limits};
use msrp_proto::encoder::HeadWriter;
use msrp_proto::flag::Flag;
use msrp_proto::head::{Head, Kind, Method};
use msrp_proto::header::{FailureReport, Name};
use msrp_proto::status::StatusCode;
use smallvec::SmallVec;
use tcp_transport::connection::{CloseReason, Flow};
use tcp_transport::hep::trace::SentBy;
use tracing::info;

use self::aside::Aside;
use self::forward::Forward;
use self::limited::Verdict;
use self::memo::Memo;
use super::Relay;
use super::counters::Count;
use super::link::Link;
use super::outbound::LaneKey;
use super::route::MARGIN;
use super::tap::Watch;

mod aside;
mod forward;
mod limited;
mod memo;
mod whole;

/// How much of a chunk is collected before it is handed over, when it comes in one read.
const STAGE: usize = 64 * 1024;

/// The receiving side of one connection; see the module for its states.
#[derive(Debug)]
pub struct Inbound {
    relay: Arc<Relay>,
    link: Arc<Link>,
    decoder: Decoder,
    current: Current,
    waiting: Option<Box<Waiting>>,
    /// The link whose control backlog has held up others here for too long: until that goes down, what
    /// would wait for it is refused.
    overfull: Option<u64>,
    /// Links with something new to write, flushed once at the end of a batch.
    touched: SmallVec<[Arc<Link>; 4]>,
    /// Until when the first good request must have come.
    probation: Option<Instant>,
    /// How many requests were refused during probation.
    refused: usize,
    last_read: Instant,
    staged: Vec<Bytes>,
    /// How many messages have ended since a WebSocket message did.
    ended: usize,
    /// Where they are counted and traced.
    watch: Option<Watch>,
    /// AUTHs that are not decided yet.
    aside: Vec<Aside>,
    next_ticket: u64,
    /// Until when the user has to wait who sends too fast.
    slowed: Option<Instant>,
    /// The way of the last SEND.
    memo: Option<Box<Memo>>,
}

#[derive(Debug)]
enum Current {
    None,
    Discard,
    Whole { head: Head, body: BytesMut },
    Forward(Forward),
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    on: WaitingOn,
}

#[derive(Debug)]
enum WaitingOn {
    Lane(Arc<Link>, LaneKey),
    Control(Arc<Link>),
}

impl Inbound {
    /// The receiving side of `link`, which is attached: its messages are seen by that one's [`Tap`](super::Tap). An accepted connection is on probation (RFC 4976 §6.1).
    pub fn new(relay: Arc<Relay>, link: Arc<Link>, now: Instant) -> Self {
        let current = relay.settings();
        let limits = &current.limits;
        let decoder = Decoder::new(Limits {
            head_bytes: limits.head_size + MARGIN.head_size,
            headers: limits.headers + MARGIN.headers,
            path_len: limits.path_length + MARGIN.path_length,
            other_body: limits.non_send_body_size,
        });
        let probation = link.target().is_none().then(|| now + current.timeouts.probation);
        let tag = relay.sessions.tag();
        let watch = link.tap().map(|tap| Watch::new(tap, SentBy::Peer, tag));
        Self {
            relay,
            link,
            decoder,
            current: Current::None,
            waiting: None,
            overfull: None,
            touched: SmallVec::new(),
            probation,
            refused: 0,
            last_read: now,
            staged: Vec::new(),
            ended: 0,
            watch,
            aside: Vec::new(),
            next_ticket: 0,
            slowed: None,
            memo: None,
        }
    }

    /// Nothing has come for a while: lets go of what is kept for the next message.
    pub fn quiet(&mut self) {
        self.memo = None;
        self.decoder.forget();
        self.staged = Vec::new();
        self.link.quiet();
    }

    /// Whether the last read ended within a message whose head is known.
    pub fn is_within_message(&self) -> bool {
        !matches!(self.current, Current::None)
    }

    /// Whether something it brought is not decided yet: an AUTH whose user is being asked for.
    pub fn is_deciding(&self) -> bool {
        !self.aside.is_empty()
    }

    /// The link whose receiving side this is.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Takes what it can of `buf`. To be called after each read, and again when the link is woken
    /// while paused.
    pub fn received(&mut self, buf: &mut BytesMut, now: Instant) -> Flow {
        self.last_read = now;
        if let Err(reason) = self.resume(now) {
            return Flow::Close(reason);
        }
        let flow = self.take(buf, now);
        self.flush(now);
        if let Some(watch) = &mut self.watch {
            watch.tell_count();
        }
        flow
    }

    /// The WebSocket message that brought the last bytes is over, and `rest` is what
    /// [`received`](Self::received) has left of it. To be called when that reads on, or has left nothing.
    ///
    /// # Errors
    /// [`CloseReason::Protocol`] unless it was exactly one MSRP message (RFC 7977 §5.1).
    pub fn message_ended(&mut self, rest: &BytesMut) -> Result<(), CloseReason> {
        let ended = std::mem::take(&mut self.ended);
        let reason = match ended {
            _ if self.is_within_message() || !rest.is_empty() => {
                "a WebSocket message ends within an MSRP message"
            }
            0 => "a WebSocket message without an MSRP message",
            1 => return Ok(()),
            _ => "more than one MSRP message in one WebSocket message",
        };
        Err(CloseReason::Protocol(reason.into()))
    }

    /// When [`expired`](Self::expired) wants to be called.
    pub fn deadline(&self) -> Option<Instant> {
        let stall_timeout = || self.relay.current().timeouts.stall_timeout;
        let stalled = self
            .waiting
            .as_ref()
            .filter(|_| self.link.sessions() > 1)
            .map(|waiting| waiting.since + stall_timeout());
        let session_end = match &self.current {
            Current::Forward(forward) => Some(forward.expires),
            Current::None | Current::Discard | Current::Whole { .. } => None,
        };
        [self.probation, stalled, session_end, self.aside_deadline(), self.slowed].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn expired(&mut self, now: Instant) -> Flow {
        let stall_timeout = self.relay.current().timeouts.stall_timeout;
        if self.probation.is_some_and(|until| now >= until) {
            return Flow::Close(CloseReason::HandshakeTimeout);
        }
        if let Err(reason) = self.resume_due(now) {
            self.flush(now);
            return Flow::Close(reason);
        }
        self.is_slowed(now);
        if matches!(&self.current, Current::Forward(forward) if now >= forward.expires) {
            self.session_over();
            self.flush(now);
        }
        let stalled = self.waiting.as_ref().is_some_and(|waiting| now >= waiting.since + stall_timeout);
        if stalled && self.link.sessions() > 1 {
            self.give_up_waiting(now);
            self.flush(now);
        }
        Flow::Read
    }

    /// The connection is gone: a chunk that is under way ends with `#`, and the sessions end.
    pub fn closed(&mut self, status: StatusCode, now: Instant) {
        if let Some(watch) = &mut self.watch {
            watch.end();
        }
        if let Current::Forward(mut forward) = std::mem::replace(&mut self.current, Current::None) {
            // What came is sent on, so that the receiver learns that the rest will not come.
            let _ = self.hand_over(&mut forward, None);
            self.abandon(&forward, false);
        }
        self.flush(now);
        self.relay.closed(&self.link, status, now);
    }

    fn take(&mut self, buf: &mut BytesMut, now: Instant) -> Flow {
        loop {
            // A message that is here already goes on as it is.
            if self.must_wait(now) || !self.is_within_message() && self.is_slowed(now) {
                return Flow::Pause;
            }
            let event = match self.decoder.decode(buf) {
                Ok(Some(event)) => event,
                Ok(None) => {
                    self.hand_over_current(now);
                    if self.must_wait(now) || self.is_slowed(now) {
                        return Flow::Pause;
                    }
                    return Flow::Read;
                }
                Err(error) => return Flow::Close(CloseReason::Protocol(error.to_string().into())),
            };
            let result = match event {
                Event::Head(head) => self.head(head, now),
                Event::Body(bytes) => {
                    self.body(bytes, now);
                    Ok(())
                }
                Event::End(flag) => {
                    self.ended += 1;
                    if let Some(watch) = &mut self.watch {
                        watch.count(1);
                        watch.end();
                    }
                    self.end(flag, now)
                }
            };
            if let Err(reason) = result {
                return Flow::Close(reason);
            }
        }
    }

    /// Whether its user has sent too much, for the moment.
    fn is_slowed(&mut self, now: Instant) -> bool {
        self.slowed = self.slowed.filter(|until| *until > now);
        self.slowed.is_some()
    }

    /// Whether reading must pause, and stays registered with whoever ends that.
    fn must_wait(&mut self, now: Instant) -> bool {
        // Within a message there is nothing to answer.
        let own = !self.is_within_message()
            && self.link.with_used_queue(|queue| {
                let over = queue.is_full_of_control();
                if over {
                    queue.wait_for_control(&self.link);
                }
                over
            }) == Some(true);
        if own || self.aside_is_full() {
            return true;
        }
        let Some(waiting) = &self.waiting else { return false };
        let still = match &waiting.on {
            WaitingOn::Lane(target, key) => {
                target.flush(now);
                target.with_used_queue(|queue| queue.wait_for_lane(*key))
            }
            WaitingOn::Control(target) => {
                target.flush(now);
                target.with_used_queue(|queue| {
                    let over = !queue.is_relieved_of_control();
                    if over {
                        queue.wait_for_control(&self.link);
                    }
                    over
                })
            }
        };
        let still = still.unwrap_or(false);
        if !still {
            self.waiting = None;
        }
        still
    }

    fn give_up_waiting(&mut self, now: Instant) {
        let (target, key) = match self.waiting.take().map(|waiting| waiting.on) {
            Some(WaitingOn::Lane(target, key)) => (target, key),
            Some(WaitingOn::Control(target)) => {
                info!(
                    link = self.link.id(),
                    peer = self.link.address(),
                    target = target.id(),
                    "a session holds up others: it is refused"
                );
                self.overfull = Some(target.id());
                return;
            }
            None => return,
        };
        info!(
            link = self.link.id(),
            peer = self.link.address(),
            target = target.id(),
            "a session holds up others: its message is ended"
        );
        target.with_used_queue(|queue| queue.stall(key));
        if let Current::Forward(forward) = std::mem::replace(&mut self.current, Current::None) {
            let held_up = forward.key == key && forward.target.id() == target.id();
            self.current = Current::Forward(forward);
            if held_up {
                self.refuse_current(StatusCode::REQUEST_TIMEOUT);
            }
        }
        target.flush(now);
    }

    fn head(&mut self, head: Head, now: Instant) -> Result<(), CloseReason> {
        match head.kind() {
            Kind::Response(status) => {
                let count =
                    if status.is_success() { Count::SuccessesReceived } else { Count::ErrorsReceived };
                self.link.count(count, 1);
                self.relay.response(&head, status, &self.link, now, |session| {
                    if let Some(watch) = self.traced() {
                        // One that answers nothing names a session all the same.
                        let session = session.or_else(|| self.relay.session_of(head.to_path()));
                        watch.whole(session, head.as_bytes(), &[]);
                    }
                });
                touch(&mut self.touched, &self.link);
                self.current = Current::Discard;
                self.decoder.recycle(head);
                Ok(())
            }
            Kind::Request(method @ Method::Send) => {
                self.link.count_received(method);
                self.send(head, now)
            }
            Kind::Request(method) => {
                self.link.count_received(method);
                let first = head.to_path().next();
                let ours = first.is_some_and(|uri| match method {
                    Method::Auth => self.relay.is_us_for_auth(&uri),
                    _ => self.relay.is_us(&uri),
                });
                if !ours && self.link.stands_for().is_none() {
                    self.saw(&head, &[]);
                    return Err(foreign(&head));
                }
                self.current = Current::Whole { head, body: BytesMut::new() };
                Ok(())
            }
        }
    }

    fn body(&mut self, bytes: Bytes, now: Instant) {
        if let Some(watch) = self.watch.as_mut().filter(|watch| watch.wants_body()) {
            watch.body(&bytes);
        }
        match &mut self.current {
            Current::None | Current::Discard => {}
            Current::Whole { body, .. } => body.extend_from_slice(&bytes),
            Current::Forward(forward) => {
                let verdict = forward.limited.as_mut().map(|limited| limited.takes(bytes.len(), now));
                match verdict {
                    Some(Verdict::Refuse) => return self.refuse_for_user(now),
                    Some(Verdict::Slow(until)) => self.slowed = self.slowed.max(Some(until)),
                    Some(Verdict::Take) | None => {}
                }
                self.link.count(Count::BodyBytesReceived, bytes.len() as u64);
                forward.staged_bytes += bytes.len();
                self.staged.push(bytes);
                if forward.staged_bytes >= STAGE {
                    self.hand_over_current(now);
                }
            }
        }
    }

    fn end(&mut self, flag: Flag, now: Instant) -> Result<(), CloseReason> {
        match std::mem::replace(&mut self.current, Current::None) {
            Current::None | Current::Discard => Ok(()),
            Current::Whole { head, body } => {
                let result = self.whole(&head, &body, flag, now);
                self.saw(&head, &body);
                self.decoder.recycle(head);
                result
            }
            Current::Forward(mut forward) => {
                if forward.is_over(now) {
                    self.current = Current::Forward(forward);
                    self.session_over();
                    self.current = Current::None;
                    return Ok(());
                }
                match self.hand_over(&mut forward, Some(flag)) {
                    Ok(()) if forward.reply.wanted == FailureReport::Yes => {
                        self.respond(&forward.reply.head, forward.reply.session, StatusCode::OK);
                    }
                    Ok(()) => {}
                    Err(failure) => self.hand_over_failed(&forward, &failure),
                }
                self.limited_ended(forward.limited.as_ref(), now);
                self.decoder.recycle(forward.reply.head);
                Ok(())
            }
        }
    }

    fn refuse(&mut self, head: &Head, wanted: FailureReport, status: StatusCode) {
        if wanted != FailureReport::No {
            self.respond(head, self.relay.session_of(head.to_path()), status);
        }
        self.current = Current::Discard;
    }

    /// Who has done nothing right yet may not do much wrong (RFC 4976 §6.1).
    fn count_refusal(&mut self) -> Result<(), CloseReason> {
        if self.probation.is_none() {
            return Ok(());
        }
        self.refused += 1;
        if self.refused >= self.relay.current().auth.max_failures {
            return Err(CloseReason::Protocol(
                format!("{} requests refused, and none accepted", self.refused).into(),
            ));
        }
        Ok(())
    }

    /// Answers a SEND, to the previous hop only.
    fn respond(&mut self, head: &Head, session: Option<u128>, status: StatusCode) {
        let previous = head.from_path().next();
        let ours = head.to_path().next();
        let (Some(previous), Some(ours)) = (previous, ours) else { return };
        let _ = self.link.send_control_of(session, |out| {
            HeadWriter::response(out, &head.transaction_id(), status)
                .path(Name::ToPath, [previous.as_bytes()])
                .path(Name::FromPath, [ours.as_bytes()])
                .end(Flag::Complete);
        });
        self.link.count_response(status);
        touch(&mut self.touched, &self.link);
    }

    /// Who has been refused until now has done something right.
    fn proved(&mut self) {
        if self.probation.take().is_some()
            && let Some(watch) = &self.watch
        {
            watch.tap().anonymous();
        }
    }

    /// Who traces, if messages are traced now.
    fn traced(&self) -> Option<&Watch> {
        self.watch.as_ref().filter(|watch| watch.is_on())
    }

    /// Traces a request that is there as a whole.
    fn saw(&self, head: &Head, body: &[u8]) {
        if let Some(watch) = self.traced() {
            watch.whole(self.relay.session_of(head.to_path()), head.as_bytes(), body);
        }
    }

    /// Traces a request whose body is to come.
    fn sees(&mut self, head: &Head) {
        if let Some(watch) = self.watch.as_mut().filter(|watch| watch.is_on()) {
            watch.begin(self.relay.session_of(head.to_path()), head.as_bytes(), head.has_body());
        }
    }

    fn flush(&mut self, now: Instant) {
        for link in self.touched.drain(..) {
            link.flush(now);
        }
    }
}

fn touch(touched: &mut SmallVec<[Arc<Link>; 4]>, link: &Arc<Link>) {
    if !touched.iter().any(|known| known.id() == link.id()) {
        touched.push(Arc::clone(link));
    }
}

/// What befell a request whose next hop was lost before it got there: a peer that cannot be reached, or
/// an owner who is gone.
fn lost(target: &Link) -> StatusCode {
    match target.target() {
        Some(_) => StatusCode::REQUEST_TIMEOUT,
        None => StatusCode::NO_SUCH_SESSION,
    }
}

fn first_hop(head: &Head) -> String {
    head.to_path().next().map(|uri| uri.as_str().to_owned()).unwrap_or_default()
}

fn foreign(head: &Head) -> CloseReason {
    CloseReason::Protocol(format!("a request for {}, which is not this relay", first_hop(head)).into())
}
