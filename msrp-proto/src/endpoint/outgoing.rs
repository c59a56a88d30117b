//! Messages on their way out (RFC 4975 §7.1.1).
//!
//! A message is *active* while it has bytes to send, *aborting* when it has failed and its receiver
//! has yet to be told with `#`, *sent* when its last byte is out, *failed* when nothing more is sent
//! and nothing more expected. Active and aborting messages take turns; the one whose chunk is open
//! is `current`, all others wait in `turn`. Sent and failed ones are remembered for the REPORTs that
//! may come, the latest [`REMEMBERED`] of them.
//!
//! A chunk is opened only when enough of its body is at hand to make it as long as it must be, so a
//! slow source never keeps the connection from other traffic.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};

use super::Config;
use super::event::{Event, OutgoingHandle, SendError, SessionHandle, UsageError};
use super::message::{Body, Message};
use super::session::Sessions;
use super::shared::{Purpose, Shared};
use crate::chunk::{Coverage, EndLineGuard, MIN_INTERRUPT, Splitter};
use crate::encoder::{self, HeadWriter};
use crate::flag::Flag;
use crate::head::Head;
use crate::header::{ByteRange, FailureReport, Name};
use crate::ident::TransactionId;
use crate::status::StatusCode;

/// How many messages are remembered after they were sent, for their REPORTs. Later REPORTs for
/// earlier ones are ignored.
pub const REMEMBERED: usize = 1024;

/// How many chunks may await their response; no new one is begun then. Far more than a connection
/// holds, unless the peer answers nothing.
pub const MAX_UNANSWERED: usize = 16_384;

/// How many body bytes a message sends, when others have begun too, before it is their turn. New
/// messages need not wait for that.
const TURN: u64 = 64 * 1024;

#[derive(Default)]
pub(super) struct Outgoing {
    messages: HashMap<OutgoingHandle, Sending>,
    by_id: HashMap<String, OutgoingHandle>,
    turn: VecDeque<OutgoingHandle>,
    current: Option<Current>,
    over: VecDeque<OutgoingHandle>,
    begun: u64,
}

/// The open chunk.
struct Current {
    message: OutgoingHandle,
    transaction: TransactionId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Active,
    Aborting,
    Sent,
    Failed,
}

struct Sending {
    session: SessionHandle,
    message_id: String,
    /// To-Path and From-Path.
    paths: Arc<[u8]>,
    /// All fields after Byte-Range.
    fields: Vec<u8>,
    failure_report: FailureReport,
    success_report: bool,
    phase: Phase,
    splitter: Splitter,
    /// Body at hand and not sent, none of it empty, and how much it is.
    pending: VecDeque<Bytes>,
    buffered: usize,
    /// How much body the application has given so far.
    provided: u64,
    /// Whether it was asked for more and has not answered.
    asked: bool,
    /// Chunks without a response.
    unanswered: usize,
    delivered: Coverage,
}

/// What one step of sending did.
pub(super) enum Step {
    /// Something was written, or a chunk begun or ended.
    Done,
    /// The next thing does not fit into this output.
    Full,
    /// Nothing can be sent now.
    Idle,
}

impl Outgoing {
    pub(super) fn send(
        &mut self,
        session: SessionHandle,
        paths: &Arc<[u8]>,
        message: Message,
        config: &Config,
        shared: &mut Shared,
    ) -> Result<OutgoingHandle, UsageError> {
        let waiting = self.turn.len() + usize::from(self.current.is_some());
        if waiting >= config.max_outgoing_messages {
            return Err(UsageError::TooManyMessages(config.max_outgoing_messages));
        }
        let fields = message.fields()?;
        let message_id = match message.message_id {
            Some(id) => id,
            None => shared.ids.text(),
        };
        let (total, whole) = match message.body {
            Body::Whole(bytes) => (Some(bytes.len() as u64), bytes),
            Body::Streamed { total } => (total, Bytes::new()),
        };
        self.begun += 1;
        let handle = OutgoingHandle(self.begun);
        self.by_id.insert(message_id.clone(), handle);
        self.messages.insert(
            handle,
            Sending {
                session,
                message_id,
                paths: paths.clone(),
                fields,
                failure_report: message.failure_report,
                success_report: message.success_report,
                phase: Phase::Active,
                splitter: Splitter::new(message.chunking, total),
                buffered: whole.len(),
                provided: whole.len() as u64,
                pending: Some(whole).filter(|bytes| !bytes.is_empty()).into_iter().collect(),
                asked: false,
                unanswered: 0,
                delivered: Coverage::default(),
            },
        );
        self.turn.push_back(handle);
        self.ask_for_body(handle, config, shared);
        Ok(handle)
    }

    pub(super) fn provide(
        &mut self,
        handle: OutgoingHandle,
        bytes: Bytes,
        config: &Config,
        shared: &mut Shared,
    ) -> Result<(), UsageError> {
        let message = self.messages.get_mut(&handle).ok_or(UsageError::UnknownHandle)?;
        if message.phase != Phase::Active {
            return Ok(());
        }
        let provided = message.provided.checked_add(bytes.len() as u64).ok_or(UsageError::BodyTooLong)?;
        if message.splitter.total().is_some_and(|total| provided > total) {
            return Err(UsageError::BodyTooLong);
        }
        message.provided = provided;
        message.asked = false;
        message.buffered += bytes.len();
        if !bytes.is_empty() {
            message.pending.push_back(bytes);
        }
        self.ask_for_body(handle, config, shared);
        Ok(())
    }

    pub(super) fn finish(&mut self, handle: OutgoingHandle) -> Result<(), UsageError> {
        let message = self.messages.get_mut(&handle).ok_or(UsageError::UnknownHandle)?;
        match message.splitter.total() {
            _ if message.phase != Phase::Active => Ok(()),
            Some(total) if message.provided < total => Err(UsageError::BodyTooShort),
            Some(_) => Ok(()),
            None => {
                message.splitter.set_total(message.provided);
                Ok(())
            }
        }
    }

    pub(super) fn abort(&mut self, handle: OutgoingHandle, shared: &mut Shared) -> Result<(), UsageError> {
        let message = self.messages.get(&handle).ok_or(UsageError::UnknownHandle)?;
        if message.awaits_something() {
            self.fail(handle, SendError::Aborted, shared);
        }
        Ok(())
    }

    pub(super) fn close_session(&mut self, session: SessionHandle, shared: &mut Shared) {
        for handle in self.in_order(|message| message.session == session) {
            if self.messages.get(&handle).is_some_and(Sending::awaits_something) {
                self.fail(handle, SendError::SessionClosed, shared);
            }
        }
    }

    pub(super) fn connection_lost(&mut self, shared: &mut Shared) {
        self.current = None;
        for handle in self.in_order(Sending::awaits_something) {
            self.fail(handle, SendError::ConnectionLost, shared);
        }
        *self = Self { begun: self.begun, ..Self::default() };
    }

    pub(super) fn on_response(&mut self, handle: OutgoingHandle, status: StatusCode, shared: &mut Shared) {
        if status.is_success() {
            self.answered(handle, true, shared);
        } else {
            self.answered(handle, false, shared);
            self.fail(handle, SendError::Refused(status), shared);
        }
    }

    pub(super) fn timed_out(&mut self, handle: OutgoingHandle, failed: bool, shared: &mut Shared) {
        self.answered(handle, false, shared);
        if failed {
            self.fail(handle, SendError::Timeout, shared);
        }
    }

    pub(super) fn on_report(&mut self, session: SessionHandle, head: &Head, shared: &mut Shared) {
        // What is malformed or about nothing we know is ignored (RFC 4975 §7.1.2).
        let Ok(Some(status)) = head.status() else { return };
        let Ok(Some(message_id)) = head.message_id() else { return };
        let Ok(range) = head.byte_range() else { return };
        let Some(&handle) = self.by_id.get(message_id) else { return };
        let Some(message) = self.messages.get_mut(&handle).filter(|message| message.session == session)
        else {
            return;
        };
        let (namespace, status) = (status.namespace, status.code);
        shared.events.push_back(Event::Report {
            message: handle,
            namespace,
            status,
            range: range.unwrap_or_default(),
        });
        if namespace != 0 {
            return;
        }
        if !status.is_success() {
            self.fail(handle, SendError::Reported(status), shared);
        } else if let Some(total) = message.splitter.total()
            && message.success_report
        {
            let before = message.delivered.covers(total);
            let range = range.unwrap_or_default();
            let end = range.end.unwrap_or(total).min(total);
            message.delivered.insert(range.start - 1..end);
            // An empty message is covered before it is sent.
            if message.delivered.covers(total) && (!before || total == 0) {
                shared.events.push_back(Event::Delivered { message: handle });
            }
        }
    }

    pub(super) fn has_open_chunk(&self) -> bool {
        self.current.is_some()
    }

    /// Whether nothing is left to be sent.
    pub(super) fn is_idle(&self) -> bool {
        self.current.is_none() && self.turn.is_empty()
    }

    /// Goes on with the open chunk: writes body of up to `room` bytes, or ends it.
    pub(super) fn continue_chunk(
        &mut self,
        room: usize,
        first: bool,
        (out, now): (&mut BytesMut, Instant),
        (sessions, config, shared): (&Sessions, &Config, &mut Shared),
    ) -> Step {
        let Some(Current { message: handle, transaction }) = &self.current else { return Step::Idle };
        let (handle, transaction) = (*handle, *transaction);
        let Some(message) = self.messages.get(&handle) else {
            self.current = None;
            return Step::Done;
        };
        let others_wait = !shared.control.is_empty() || {
            let long_enough = message.splitter.chunk_len() >= TURN;
            let waits = |other: &OutgoingHandle| {
                let other = self.messages.get(other);
                other.is_some_and(|other| {
                    (long_enough || other.is_urgent()) && other.is_ready(sessions, shared)
                })
            };
            self.turn.iter().any(waits)
        };
        let flag = match message.phase {
            Phase::Active => message.splitter.must_end(),
            _ => Some(Flag::Abort),
        };
        let flag = flag.or((others_wait && message.splitter.may_interrupt()).then_some(Flag::More));
        if let Some(flag) = flag {
            if encoder::end_line_len(transaction.as_bytes().len()) > room && !first {
                return Step::Full;
            }
            encoder::end_line(out, &transaction, flag);
            shared.transactions.sent(&transaction, now);
            self.current = None;
            self.chunk_ended(handle, flag, shared);
            return Step::Done;
        }
        let Some(message) = self.messages.get_mut(&handle) else { return Step::Idle };
        let room = if others_wait {
            // Only as far as it takes to be interrupted.
            let until = MIN_INTERRUPT.saturating_sub(message.splitter.chunk_len()).max(1);
            room.min(usize::try_from(until).unwrap_or(room))
        } else {
            room
        };
        let written = message.write_body(room, out);
        self.ask_for_body(handle, config, shared);
        let ended = self.messages.get(&handle).is_some_and(|message| message.splitter.must_end().is_some());
        if written > 0 || ended { Step::Done } else { Step::Idle }
    }

    /// Begins the chunk whose turn it is.
    pub(super) fn begin_chunk(
        &mut self,
        out: &mut BytesMut,
        sessions: &Sessions,
        shared: &mut Shared,
    ) -> Step {
        let Some(place) = self.next_in_turn(sessions, shared) else { return Step::Idle };
        let Some(handle) = self.turn.remove(place) else { return Step::Idle };
        let Some(message) = self.messages.get_mut(&handle) else { return Step::Done };
        // What is not stored cannot be matched; only errors for `partial` are lost, in a flood of
        // chunks of which none is ever answered.
        let wish = match message.failure_report {
            FailureReport::Partial if shared.transactions.len() >= MAX_UNANSWERED => FailureReport::No,
            wish => wish,
        };
        let transaction = loop {
            let id = shared.ids.transaction();
            if message.may_begin_under(&id) && shared.transactions.begin(id, wish, Purpose::Chunk(handle)) {
                break id;
            }
        };
        if wish != FailureReport::No {
            message.unanswered += 1;
        }
        let range = match message.phase {
            Phase::Active => message.splitter.open(&transaction),
            // No content, so its place is the first (RFC 4975 §7.1.1).
            _ => ByteRange { start: 1, end: Some(0), total: message.splitter.total() },
        };
        HeadWriter::request(out, &transaction, "SEND")
            .lines(&message.paths)
            .field(Name::MessageId, &message.message_id)
            .field(Name::ByteRange, range)
            .lines(&message.fields)
            .body();
        self.current = Some(Current { message: handle, transaction });
        Step::Done
    }

    /// New messages first, then the one that has waited longest.
    fn next_in_turn(&self, sessions: &Sessions, shared: &Shared) -> Option<usize> {
        let ready = |urgent: bool| {
            self.turn.iter().position(|handle| {
                self.messages.get(handle).is_some_and(|message| {
                    (!urgent || message.is_urgent()) && message.is_ready(sessions, shared)
                })
            })
        };
        ready(true).or_else(|| ready(false))
    }

    fn chunk_ended(&mut self, handle: OutgoingHandle, flag: Flag, shared: &mut Shared) {
        let Some(message) = self.messages.get_mut(&handle) else { return };
        if message.phase == Phase::Active {
            message.splitter.close();
        }
        match flag {
            Flag::More => self.turn.push_back(handle),
            Flag::Abort => {
                message.phase = Phase::Failed;
                self.remember(handle);
            }
            Flag::Complete => {
                message.phase = Phase::Sent;
                shared.events.push_back(Event::Sent { message: handle });
                if message.is_accepted() {
                    shared.events.push_back(Event::Accepted { message: handle });
                }
                self.remember(handle);
            }
        }
    }

    fn answered(&mut self, handle: OutgoingHandle, success: bool, shared: &mut Shared) {
        let Some(message) = self.messages.get_mut(&handle) else { return };
        message.unanswered = message.unanswered.saturating_sub(1);
        if success && message.is_accepted() {
            shared.events.push_back(Event::Accepted { message: handle });
        }
    }

    fn fail(&mut self, handle: OutgoingHandle, error: SendError, shared: &mut Shared) {
        let is_current = self.current.as_ref().is_some_and(|current| current.message == handle);
        let Some(message) = self.messages.get_mut(&handle) else { return };
        match message.phase {
            Phase::Aborting | Phase::Failed => return,
            Phase::Sent => message.phase = Phase::Failed,
            Phase::Active if is_current || message.splitter.sent() > 0 => message.phase = Phase::Aborting,
            Phase::Active => {
                message.phase = Phase::Failed;
                self.turn.retain(|waiting| *waiting != handle);
                self.remember(handle);
            }
        }
        if let Some(message) = self.messages.get_mut(&handle) {
            message.pending.clear();
            message.buffered = 0;
        }
        shared.events.push_back(Event::SendFailed { message: handle, error });
    }

    fn remember(&mut self, handle: OutgoingHandle) {
        self.over.push_back(handle);
        let forgettable = self
            .messages
            .get(&handle)
            .is_some_and(|message| message.failure_report == FailureReport::No && !message.success_report);
        let gone = if forgettable {
            self.over.pop_back()
        } else if self.over.len() > REMEMBERED {
            self.over.pop_front()
        } else {
            None
        };
        if let Some(gone) = gone
            && let Some(message) = self.messages.remove(&gone)
            && self.by_id.get(&message.message_id) == Some(&gone)
        {
            self.by_id.remove(&message.message_id);
        }
    }

    fn ask_for_body(&mut self, handle: OutgoingHandle, config: &Config, shared: &mut Shared) {
        let Some(message) = self.messages.get_mut(&handle) else { return };
        let window = config.body_window.max(super::MIN_BODY_WINDOW);
        let left = message.splitter.total().map_or(u64::MAX, |total| total - message.provided);
        if message.phase == Phase::Active && !message.asked && left > 0 && message.buffered <= window / 2 {
            message.asked = true;
            let len = (window - message.buffered).min(usize::try_from(left).unwrap_or(usize::MAX));
            shared.events.push_back(Event::BodyWanted { message: handle, offset: message.provided, len });
        }
    }

    fn in_order(&self, of_interest: impl Fn(&Sending) -> bool) -> Vec<OutgoingHandle> {
        let of_interest = self.messages.iter().filter(|(_, message)| of_interest(message));
        let mut chosen: Vec<_> = of_interest.map(|(handle, _)| *handle).collect();
        chosen.sort_unstable();
        chosen
    }
}

impl Sending {
    /// Interrupts others: it has not begun, or only its abortion is left.
    fn is_urgent(&self) -> bool {
        self.phase == Phase::Aborting || self.splitter.sent() == 0
    }

    /// Whether a chunk may begin.
    fn is_ready(&self, sessions: &Sessions, shared: &Shared) -> bool {
        match self.phase {
            Phase::Aborting => true,
            Phase::Active => {
                self.buffered as u64 >= self.splitter.needed()
                    && (self.failure_report != FailureReport::Yes
                        || shared.transactions.len() < MAX_UNANSWERED)
                    && sessions.may_send(self.session)
            }
            Phase::Sent | Phase::Failed => false,
        }
    }

    /// Whether the beginning of the chunk is free of its own end-line: all of a chunk that declares
    /// its end, and enough of any other that it does not become too short.
    fn may_begin_under(&self, transaction: &TransactionId) -> bool {
        let mut guard = EndLineGuard::new(transaction);
        // One that begins before that point and ends behind it would cut the chunk short, too.
        let straddling = encoder::end_line_len(transaction.as_bytes().len());
        let mut left = usize::try_from(self.splitter.needed()).unwrap_or(usize::MAX) + straddling;
        self.pending.iter().all(|bytes| {
            let slice = &bytes[..bytes.len().min(left)];
            left -= slice.len();
            guard.pass(slice) == slice.len()
        })
    }

    fn write_body(&mut self, room: usize, out: &mut BytesMut) -> usize {
        let mut written = 0;
        while written < room
            && let Some(front) = self.pending.front_mut()
        {
            let slice = &front[..front.len().min(room - written)];
            let taken = self.splitter.take(slice, self.buffered > slice.len());
            let all = taken == slice.len();
            out.extend_from_slice(&slice[..taken]);
            front.advance(taken);
            if front.is_empty() {
                self.pending.pop_front();
            }
            self.buffered -= taken;
            written += taken;
            if !all {
                break;
            }
        }
        written
    }

    fn is_accepted(&self) -> bool {
        self.phase == Phase::Sent && self.unanswered == 0 && self.failure_report == FailureReport::Yes
    }

    /// Whether its end would leave something open that the application wants to know.
    fn awaits_something(&self) -> bool {
        let delivered = self.splitter.total().is_some_and(|total| total > 0 && self.delivered.covers(total));
        match self.phase {
            Phase::Active => true,
            Phase::Sent => {
                (self.unanswered > 0 && self.failure_report == FailureReport::Yes)
                    || (self.success_report && !delivered)
            }
            Phase::Aborting | Phase::Failed => false,
        }
    }
}
