//! A SEND on its way: where it goes is decided on its head, its body is handed over as it comes, and it ends
//! early if the next hop, the session or a stall wants it.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use msrp_proto::flag::Flag;
use msrp_proto::head::Head;
use msrp_proto::header::{ByteRange, FailureReport, ValueError};
use msrp_proto::status::StatusCode;
use tcp_transport::connection::CloseReason;
use tracing::info;

use super::limited::{Limited, TooMuch};
use super::memo::Memo;
use super::{Current, Inbound, Waiting, WaitingOn, foreign, lost, touch};
use crate::msrp::counters::Count;
use crate::msrp::link::{Closed, Link};
use crate::msrp::origin::Origin;
use crate::msrp::outbound::{ChunkId, Gone, LaneKey, Outbound, Pushed};
use crate::msrp::route::{Refusal, Route, Through};

/// Body slices up to this size are copied when they must wait, since each keeps the whole buffer of
/// its read alive: a receiver that takes nothing would cost a multiple of what waits for it.
const COPY_WAITING: usize = 4096;

/// The greatest place in a message where a chunk may begin: one that no message reaches, and from which
/// no chunk gets to where 64 bits end.
const MAX_START: u64 = 1 << 62;

/// A SEND on its way.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) target: Arc<Link>,
    pub(super) key: LaneKey,
    /// Not yet handed over.
    pub(super) origin: Option<Box<Origin>>,
    /// Once handed over.
    pub(super) chunk: Option<ChunkId>,
    pub(super) has_body: bool,
    pub(super) staged_bytes: usize,
    pub(super) expires: Instant,
    /// The sessions it is counted in.
    through: Through,
    pub(super) reply: Reply,
    /// Set if its sender has limits.
    pub(super) limited: Option<Limited>,
}

/// The response to the chunk, kept ready.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) wanted: FailureReport,
    pub(super) head: Head,
    /// What it is traced under.
    pub(super) session: Option<u128>,
}

/// What handing over came to, if not well.
pub(super) enum HandOver {
    /// The chunk has failed, and its sender was told.
    Gone,
    /// The next hop is lost.
    Closed,
    /// The lane takes nothing: it was full for too long.
    Stalled,
}

impl Forward {
    /// Whether a session it goes through has ended.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.expires || self.through.is_over()
    }
}

impl Inbound {
    pub(super) fn send(&mut self, head: Head, now: Instant) -> Result<(), CloseReason> {
        let (wanted, range) = match check_send(&head) {
            Ok(wishes) => wishes,
            Err(error) => {
                self.sees(&head);
                // Who it is for is looked at first: a stranger learns nothing but that.
                let ours = head.to_path().next().is_some_and(|uri| self.relay.is_us(&uri));
                if !ours && self.link.stands_for().is_none() {
                    return Err(foreign(&head));
                }
                info!(link = self.link.id(), peer = self.link.address(), %error, "SEND refused");
                let wanted = head.failure_report().unwrap_or_default();
                self.refuse(&head, wanted, StatusCode::BAD_REQUEST);
                return self.count_refusal();
            }
        };
        let route = self.route(&head, now);
        if route.is_ok() {
            self.proved();
        }
        self.sees(&head);
        let (route, mut origin) = match route {
            Ok(found) => found,
            Err(Refusal::Foreign) => return Err(foreign(&head)),
            Err(Refusal::Status(status, reason)) => {
                info!(link = self.link.id(), peer = self.link.address(), %status, reason, to = head.to_path_text(0), "SEND refused");
                self.refuse(&head, wanted, status);
                return self.count_refusal();
            }
        };
        let limited = match self.limited(range, &route, now) {
            Ok(limited) => limited,
            Err(TooMuch) => {
                // What it was asked for may be the first that it has for a while: it is to be given back.
                touch(&mut self.touched, &route.link);
                self.refuse(&head, wanted, StatusCode::STOP_SENDING);
                return Ok(());
            }
        };
        let session = route.correlation();
        origin.set(Arc::clone(&self.link), &head, (wanted, range), route.own_uris(), session);
        self.current = Current::Forward(Forward {
            target: route.link,
            key: LaneKey { source: self.link.id(), session: route.session },
            origin: Some(origin),
            chunk: None,
            has_body: head.has_body(),
            staged_bytes: 0,
            expires: route.expires,
            through: route.through,
            reply: Reply { wanted, head, session },
            limited,
        });
        Ok(())
    }

    /// Where a SEND goes, and an object to fill for it.
    fn route(&mut self, head: &Head, now: Instant) -> Result<(Route, Box<Origin>), Refusal> {
        if let Some(route) = self.memo.as_ref().and_then(|memo| memo.route(&self.relay, head, now))
            && let Ok(origin) = route.link.with_queue(Outbound::spare_origin)
        {
            return Ok((route, origin));
        }
        let before = self.memo.take();
        // What changes meanwhile is seen by the next one.
        let settings = self.relay.current().number();
        let (route, changes) = self.relay.route(head, &self.link, now)?;
        if let Some(memo) = Memo::of(&self.relay, head, &route, changes, settings) {
            // In the same place, where there is one: connections that many sessions share get here each time.
            self.memo = Some(match before {
                Some(mut place) => {
                    *place = memo;
                    place
                }
                None => Box::new(memo),
            });
        }
        let origin = route.link.with_queue(Outbound::spare_origin).unwrap_or_default();
        Ok((route, origin))
    }

    /// Hands over what was staged, while more is to come.
    pub(super) fn hand_over_current(&mut self, now: Instant) {
        let Current::Forward(forward) = &mut self.current else { return };
        if forward.staged_bytes == 0 && forward.chunk.is_some() {
            return;
        }
        if forward.is_over(now) {
            self.session_over();
            return;
        }
        let Current::Forward(mut forward) = std::mem::replace(&mut self.current, Current::Discard) else {
            return;
        };
        match self.hand_over(&mut forward, None) {
            Ok(()) => self.current = Current::Forward(forward),
            Err(failure) => self.hand_over_failed(&forward, &failure),
        }
    }

    /// Puts what was staged, and the end if it is there, into the next hop's queue, under one lock.
    pub(super) fn hand_over(&mut self, forward: &mut Forward, end: Option<Flag>) -> Result<(), HandOver> {
        let key = forward.key;
        let staged = &mut self.staged;
        let link = &self.link;
        let staged_bytes = std::mem::take(&mut forward.staged_bytes);
        let pushed = forward.target.with_queue(|queue| {
            let chunk = match (forward.chunk, forward.origin.take()) {
                (Some(chunk), _) => chunk,
                (None, Some(origin)) => {
                    let begun = queue.begin(key, link, origin, forward.has_body).map_err(|origin| {
                        queue.recycle(origin);
                        HandOver::Stalled
                    })?;
                    *forward.chunk.insert(begun)
                }
                (None, None) => return Err(HandOver::Gone),
            };
            let waits = queue.must_wait(end);
            let mut pushed = Pushed { full: false };
            for bytes in staged.drain(..) {
                let bytes =
                    if waits && bytes.len() <= COPY_WAITING { Bytes::copy_from_slice(&bytes) } else { bytes };
                pushed = queue.body(key, chunk, bytes)?;
            }
            if let Some(flag) = end {
                pushed = queue.end(key, chunk, flag)?;
            }
            Ok(pushed)
        });
        self.staged.clear();
        touch(&mut self.touched, &forward.target);
        match pushed {
            Ok(Ok(pushed)) => {
                if staged_bytes > 0 {
                    self.link.count(Count::BodyBytesForwarded, staged_bytes as u64);
                    forward.through.count(|traffic| traffic.count_bytes(staged_bytes));
                }
                if let Some(flag) = end {
                    self.link.count(Count::ChunksForwarded, 1);
                    if flag == Flag::Complete {
                        self.link.count(Count::MessagesForwarded, 1);
                    }
                    forward.through.count(|traffic| traffic.count_chunk(flag));
                }
                if pushed.full {
                    // What can go goes now; the question is asked again before the next read.
                    self.waiting = Some(Box::new(Waiting {
                        since: self.last_read,
                        on: WaitingOn::Lane(Arc::clone(&forward.target), key),
                    }));
                }
                Ok(())
            }
            Ok(Err(failure)) => Err(failure),
            Err(Closed) => Err(HandOver::Closed),
        }
    }

    pub(super) fn hand_over_failed(&mut self, forward: &Forward, failure: &HandOver) {
        let status = match failure {
            // Its sender has been told.
            HandOver::Gone => return,
            // Of a chunk that was begun, the closing link has told.
            HandOver::Closed if forward.chunk.is_some() => return,
            HandOver::Closed => lost(&forward.target),
            HandOver::Stalled => StatusCode::REQUEST_TIMEOUT,
        };
        if forward.reply.wanted != FailureReport::No {
            self.respond(&forward.reply.head, forward.reply.session, status);
        }
    }

    /// The session ended while a chunk was under way (RFC 4976 §6.3).
    pub(super) fn session_over(&mut self) {
        info!(link = self.link.id(), peer = self.link.address(), "a session ended within a chunk");
        self.refuse_current(StatusCode::NO_SUCH_SESSION);
    }

    /// Ends what was handed over with `#`. Says whether the chunk was open.
    pub(super) fn abandon(&mut self, forward: &Forward, drop: bool) -> bool {
        let Some(chunk) = forward.chunk else { return true };
        touch(&mut self.touched, &forward.target);
        let abandoned = forward.target.with_used_queue(|queue| queue.abandon(forward.key, chunk, drop));
        let open = abandoned == Some(true);
        if open {
            self.link.count(Count::ChunksAbandoned, 1);
        }
        open
    }

    /// Answers the current chunk with an error and throws away what is left of it.
    pub(super) fn refuse_current(&mut self, status: StatusCode) {
        if let Current::Forward(forward) = std::mem::replace(&mut self.current, Current::Discard) {
            self.staged.clear();
            let open = self.abandon(&forward, true);
            if open && forward.reply.wanted != FailureReport::No {
                self.respond(&forward.reply.head, forward.reply.session, status);
            }
        }
    }
}

impl From<Gone> for HandOver {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// The values a relay acts on must be readable, and a chunk must name its message (RFC 4975 §7.1.1). Gives which
/// failures its sender wants to hear of, and its Byte-Range.
fn check_send(head: &Head) -> Result<(FailureReport, Option<ByteRange>), ValueError> {
    head.message_id()?.ok_or(ValueError("Message-ID"))?;
    let range = head.byte_range()?;
    if range.is_some_and(|range| range.start > MAX_START) {
        return Err(ValueError("Byte-Range"));
    }
    head.success_report()?;
    Ok((head.failure_report()?, range))
}
