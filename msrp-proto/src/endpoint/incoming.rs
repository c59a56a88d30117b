//! Messages on their way in (RFC 4975 §7.2, §7.3).
//!
//! `current` is the message on the wire that the decoder is in: nothing, a chunk that is taken, or
//! something whose body is of no interest. A received message, which may come in many chunks, is
//! *assembling* while it is short enough to be given to the application whole, *streaming* when it
//! is not, *refused* when the rest of its chunks is answered with an error. It is gone when it is
//! complete or aborted.

use std::collections::HashMap;

use bytes::Bytes;

use super::Config;
use super::event::{Event, IncomingHandle, IncomingMessage, Outcome, SessionHandle, UsageError};
use super::session::Sessions;
use super::shared::Shared;
use crate::chunk::{Assembly, ChunkEnd, Progress};
use crate::encoder::HeadWriter;
use crate::flag::Flag;
use crate::head::{Head, Kind, Method};
use crate::header::{ByteRange, FailureReport, Name};
use crate::status::StatusCode;

#[derive(Default)]
pub(super) struct Incoming {
    current: Current,
    open: HashMap<IncomingHandle, Receiving>,
    by_id: HashMap<(SessionHandle, String), IncomingHandle>,
    begun: u64,
}

#[derive(Default)]
enum Current {
    /// Between messages.
    #[default]
    Nothing,
    /// A SEND's chunk that is taken, and not answered yet.
    Chunk { head: Head, handle: IncomingHandle },
    /// A SEND without a body, not answered yet.
    Bodiless { head: Head },
    /// A SEND that is refused and answered; of a message that is known, if there is a handle.
    Refused { head: Head, handle: Option<IncomingHandle> },
    /// Anything else; it is looked at when it is complete.
    Other { head: Head },
}

struct Receiving {
    session: SessionHandle,
    message: IncomingMessage,
    state: State,
}

enum State {
    Assembling(Assembly),
    Streaming(Progress),
    Refused(StatusCode),
}

impl Incoming {
    pub(super) fn on_head(
        &mut self,
        head: Head,
        sessions: &mut Sessions,
        config: &Config,
        shared: &mut Shared,
    ) {
        self.current = match head.kind() {
            Kind::Request(Method::Send) => match self.on_send(&head, sessions, config, shared) {
                Ok(Some(handle)) => Current::Chunk { head, handle },
                Ok(None) => Current::Bodiless { head },
                Err((status, handle)) => {
                    respond(&head, status, shared);
                    Current::Refused { head, handle }
                }
            },
            _ => Current::Other { head },
        };
    }

    pub(super) fn on_body(&mut self, bytes: Bytes, sessions: &Sessions, shared: &mut Shared) {
        let Current::Chunk { handle, .. } = &self.current else { return };
        let handle = *handle;
        let Some(receiving) = self.open.get_mut(&handle) else { return };
        // What does not stay short enough to be assembled is streamed from here on.
        if let State::Assembling(assembly) = &mut receiving.state {
            if assembly.data(&bytes).is_ok() {
                return;
            }
            let max = sessions.get(receiving.session).map_or(0, |session| session.options.max_message_bytes);
            receiving.stream(handle, max, shared);
        }
        if let State::Streaming(progress) = &mut receiving.state {
            match progress.advance(bytes.len()) {
                Ok(offset) => shared.events.push_back(Event::MessageData { handle, offset, bytes }),
                Err(_) => self.refuse_current(handle, StatusCode::STOP_SENDING, shared),
            }
        }
    }

    /// The message on the wire has ended. Gives back its head.
    pub(super) fn on_end(&mut self, flag: Flag, sessions: &Sessions, shared: &mut Shared) -> Option<Head> {
        match std::mem::take(&mut self.current) {
            Current::Nothing => None,
            Current::Chunk { head, handle } => {
                respond(&head, StatusCode::OK, shared);
                self.chunk_ended(&head, handle, flag, sessions, shared);
                Some(head)
            }
            Current::Bodiless { head } => {
                respond(&head, StatusCode::OK, shared);
                Some(head)
            }
            Current::Refused { head, handle } => {
                // No more chunks come.
                if let Some(handle) = handle.filter(|_| flag != Flag::More) {
                    self.forget(handle);
                }
                Some(head)
            }
            Current::Other { head } => Some(head),
        }
    }

    pub(super) fn refuse(
        &mut self,
        handle: IncomingHandle,
        status: StatusCode,
        shared: &mut Shared,
    ) -> Result<(), UsageError> {
        let receiving = self.open.get_mut(&handle).ok_or(UsageError::UnknownHandle)?;
        if matches!(receiving.state, State::Refused(_)) {
            return Ok(());
        }
        if matches!(&self.current, Current::Chunk { handle: current, .. } if *current == handle) {
            self.refuse_current(handle, status, shared);
        } else {
            receiving.refuse(handle, status, shared);
        }
        Ok(())
    }

    pub(super) fn close_session(&mut self, session: SessionHandle, shared: &mut Shared) {
        self.lose(|receiving| receiving.session == session, shared);
    }

    pub(super) fn connection_lost(&mut self, shared: &mut Shared) {
        self.lose(|_| true, shared);
        self.current = Current::Nothing;
    }

    /// Gives the message the chunk belongs to, none for a SEND without a body, or what it is refused
    /// with.
    fn on_send(
        &mut self,
        head: &Head,
        sessions: &mut Sessions,
        config: &Config,
        shared: &mut Shared,
    ) -> Result<Option<IncomingHandle>, (StatusCode, Option<IncomingHandle>)> {
        let bad = |_| (StatusCode::BAD_REQUEST, None);
        let session = sessions.of_request(head, shared).map_err(|status| (status, None))?;
        if !head.has_body() {
            return Ok(None);
        }
        let options = sessions.get(session).map_err(|_| (StatusCode::NO_SUCH_SESSION, None))?;
        let range = head.byte_range().map_err(bad)?.unwrap_or_default();
        let message_id = head.message_id().map_err(bad)?.ok_or((StatusCode::BAD_REQUEST, None))?;
        let failure_report = head.failure_report().map_err(bad)?;
        let success_report = head.success_report().map_err(bad)?;
        let key = (session, message_id.to_owned());
        let known = self.by_id.get(&key).copied();
        if let Some(handle) = known
            && let Some(receiving) = self.open.get_mut(&handle)
        {
            let started = match &mut receiving.state {
                State::Refused(status) => return Err((*status, Some(handle))),
                State::Streaming(progress) => progress.start(&range),
                State::Assembling(assembly) => assembly.start(&range).or_else(|_| {
                    let max = options.options.max_message_bytes;
                    receiving.stream(handle, max, shared);
                    match &mut receiving.state {
                        State::Streaming(progress) => progress.start(&range),
                        State::Assembling(_) | State::Refused(_) => Ok(()),
                    }
                }),
            };
            return match started {
                Ok(()) => Ok(Some(handle)),
                Err(_) => {
                    receiving.refuse(handle, StatusCode::STOP_SENDING, shared);
                    Err((StatusCode::STOP_SENDING, Some(handle)))
                }
            };
        }
        let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
        let message = IncomingMessage {
            message_id: key.1.clone(),
            content_type: text(head.value(Name::ContentType)),
            total: range.total,
            from_path: head.from_path_text().to_owned(),
            fields: head
                .fields()
                .filter(|(name, _)| Name::from_bytes(name.as_bytes()) == Name::Other)
                .map(|(name, value)| (name.to_owned(), Bytes::copy_from_slice(value)))
                .collect(),
            success_report,
            failure_report,
        };
        if !options.accepts(&message.content_type) {
            return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, None));
        }
        let stop = (StatusCode::STOP_SENDING, None);
        if self.open.len() >= config.max_incoming_messages {
            return Err(stop);
        }
        let max = options.options.max_message_bytes;
        Progress::new(max).start(&range).map_err(|_| stop)?;
        let assembled_max = config.assemble_up_to.min(max);
        let mut assembly = Assembly::new(assembled_max);
        let short = config.assemble_up_to > 0 && assembly.start(&range).is_ok();
        self.begun += 1;
        let handle = IncomingHandle(self.begun);
        let mut receiving = Receiving { session, message, state: State::Assembling(assembly) };
        if !short {
            receiving.stream(handle, max, shared);
            if let State::Streaming(progress) = &mut receiving.state {
                progress.start(&range).map_err(|_| stop)?;
            }
        }
        self.open.insert(handle, receiving);
        self.by_id.insert(key, handle);
        Ok(Some(handle))
    }

    fn chunk_ended(
        &mut self,
        head: &Head,
        handle: IncomingHandle,
        flag: Flag,
        sessions: &Sessions,
        shared: &mut Shared,
    ) {
        let Some(receiving) = self.open.get_mut(&handle) else { return };
        let (end, held) = match &mut receiving.state {
            State::Assembling(assembly) => {
                (assembly.end(flag), assembly.progress().chunk_range(receiving.message.total))
            }
            State::Streaming(progress) => (progress.end(flag), progress.chunk_range(receiving.message.total)),
            State::Refused(_) => return,
        };
        let session = sessions.get(receiving.session).ok();
        let each_chunk = session.is_some_and(|session| session.options.report_each_chunk);
        let wanted = receiving.message.success_report;
        let report = match end {
            ChunkEnd::Aborted => None,
            _ if each_chunk => Some(held),
            ChunkEnd::Complete(total) => Some(ByteRange { start: 1, end: Some(total), total: Some(total) }),
            ChunkEnd::More => None,
        };
        if let (Some(range), Some(session), true) = (report, session, wanted) {
            let local = session.options.local.as_str();
            let id = &receiving.message.message_id;
            send_report(head.from_path_text(), local, id, range, StatusCode::OK, shared);
        }
        let outcome = match end {
            ChunkEnd::More => return,
            ChunkEnd::Complete(total) => Outcome::Complete { total },
            ChunkEnd::Aborted => Outcome::Aborted,
        };
        let Some(receiving) = self.forget(handle) else { return };
        match (receiving.state, outcome) {
            (State::Assembling(assembly), Outcome::Complete { total }) => {
                let (_, mut body) = assembly.into_parts();
                body.truncate(usize::try_from(total).unwrap_or(usize::MAX));
                shared.events.push_back(Event::Message {
                    session: receiving.session,
                    message: receiving.message,
                    body: body.into(),
                });
            }
            // The application has not heard of it.
            (State::Assembling(_) | State::Refused(_), _) => {}
            (State::Streaming(_), outcome) => shared.events.push_back(Event::MessageEnd { handle, outcome }),
        }
    }

    /// Refuses the message whose chunk is arriving.
    fn refuse_current(&mut self, handle: IncomingHandle, status: StatusCode, shared: &mut Shared) {
        if let Some(receiving) = self.open.get_mut(&handle) {
            receiving.refuse(handle, status, shared);
        }
        if let Current::Chunk { head, handle } = std::mem::take(&mut self.current) {
            respond(&head, status, shared);
            self.current = Current::Refused { head, handle: Some(handle) };
        }
    }

    fn lose(&mut self, lost: impl Fn(&Receiving) -> bool, shared: &mut Shared) {
        let mut handles: Vec<_> =
            self.open.iter().filter(|(_, receiving)| lost(receiving)).map(|(handle, _)| *handle).collect();
        handles.sort_unstable();
        for handle in handles {
            if let Some(Receiving { state: State::Streaming(_), .. }) = self.forget(handle) {
                shared.events.push_back(Event::MessageEnd { handle, outcome: Outcome::Lost });
            }
        }
    }

    fn forget(&mut self, handle: IncomingHandle) -> Option<Receiving> {
        let receiving = self.open.remove(&handle)?;
        self.by_id.remove(&(receiving.session, receiving.message.message_id.clone()));
        Some(receiving)
    }
}

impl Receiving {
    /// From assembling to streaming: the application hears of what has arrived so far.
    fn stream(&mut self, handle: IncomingHandle, max: u64, shared: &mut Shared) {
        let empty = State::Streaming(Progress::new(max));
        let State::Assembling(assembly) = std::mem::replace(&mut self.state, empty) else { return };
        shared.events.push_back(Event::MessageStart {
            session: self.session,
            handle,
            message: self.message.clone(),
        });
        let (mut progress, bytes) = assembly.into_parts();
        let bytes = Bytes::from(bytes);
        for run in progress.arrived().runs() {
            // They fit, since they were held.
            let (start, end) = (run.start as usize, run.end as usize);
            let bytes = bytes.slice(start..end);
            shared.events.push_back(Event::MessageData { handle, offset: run.start, bytes });
        }
        progress.set_max(max);
        self.state = State::Streaming(progress);
    }

    fn refuse(&mut self, handle: IncomingHandle, status: StatusCode, shared: &mut Shared) {
        if matches!(self.state, State::Streaming(_)) {
            shared.events.push_back(Event::MessageEnd { handle, outcome: Outcome::Refused(status) });
        }
        self.state = State::Refused(status);
    }
}

/// Answers a request, if its Failure-Report lets us (RFC 4975 §7.1.4, §7.2).
pub(super) fn respond(head: &Head, status: StatusCode, shared: &mut Shared) {
    let wanted = match head.failure_report().unwrap_or_default() {
        FailureReport::Yes => true,
        FailureReport::Partial => !status.is_success(),
        FailureReport::No => false,
    };
    if !wanted {
        return;
    }
    // To a SEND, back to the previous hop only; to all else, back to its origin.
    let hops = match head.kind() {
        Kind::Request(Method::Send) => 1,
        _ => usize::MAX,
    };
    let mut bytes = Vec::new();
    HeadWriter::response(&mut bytes, &head.transaction_id(), status)
        .path(Name::ToPath, head.from_path().take(hops).map(|uri| uri.as_str()))
        .path(Name::FromPath, head.to_path().take(1).map(|uri| uri.as_str()))
        .end(Flag::Complete);
    shared.control.push(bytes, None);
}

pub(super) fn send_report(
    to_path: &str,
    local: &str,
    message_id: &str,
    range: ByteRange,
    status: StatusCode,
    shared: &mut Shared,
) {
    let mut bytes = Vec::new();
    let id = shared.ids.transaction();
    HeadWriter::request(&mut bytes, &id, "REPORT")
        .field(Name::ToPath, to_path)
        .field(Name::FromPath, local)
        .field(Name::MessageId, message_id)
        .field(Name::ByteRange, range)
        .field(Name::Status, format_args!("000 {status} {}", status.comment()))
        .end(Flag::Complete);
    shared.control.push(bytes, None);
}
