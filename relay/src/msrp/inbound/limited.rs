//! What a user with limits sends (`limits.user`): how large its messages are, and how fast they come.
//!
//! It counts what a user sends out of its own session, over all its sessions and connections; what others send to it
//! is theirs. Sizes are refused with 413, upon which a client stops sending that message (RFC 4975 §10.5). A user who
//! sends too fast is read from more slowly; over the connection of a relay, which others share, the SEND is refused
//! with 413 instead.

use std::sync::Arc;
use std::time::Instant;

use msrp_proto::header::ByteRange;
use msrp_proto::status::StatusCode;
use tracing::info;

use super::{Current, Inbound};
use crate::msrp::Owner;
use crate::msrp::route::Route;
use crate::msrp::user::User;

/// One SEND of such a user.
#[derive(Debug)]
pub(super) struct Limited {
    user: Arc<User>,
    /// How far into the message its chunks have come.
    position: u64,
    message_size: Option<u64>,
    /// It comes over a connection that others share.
    shared: bool,
}

/// What becomes of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They go on.
    Take,
    /// They go on, and nothing more is read until then.
    Slow(Instant),
    /// They are too many: the chunk ends here.
    Refuse,
}

/// The SEND is refused on its head.
pub(super) struct TooMuch;

impl Limited {
    /// So many more bytes of the body.
    pub(super) fn takes(&mut self, bytes: usize, now: Instant) -> Verdict {
        self.position = self.position.saturating_add(bytes as u64);
        if self.message_size.is_some_and(|most| self.position > most) {
            return Verdict::Refuse;
        }
        match self.user.has_sent(bytes, now) {
            Some(until) if !self.shared => Verdict::Slow(until),
            // Over a shared connection the next SEND is what is refused.
            _ => Verdict::Take,
        }
    }
}

impl Inbound {
    /// A SEND has ended: the next one may have to wait.
    pub(super) fn limited_ended(&mut self, limited: Option<&Limited>, now: Instant) {
        if let Some(limited) = limited.filter(|limited| !limited.shared) {
            self.slowed = self.slowed.max(limited.user.waits(now));
        }
    }

    /// What counts for a SEND on its way out of the session of a user with limits.
    pub(super) fn limited(
        &self,
        range: Option<ByteRange>,
        route: &Route,
        now: Instant,
    ) -> Result<Option<Limited>, TooMuch> {
        let Some(session) = route.through.first() else { return Ok(None) };
        let user = session.account();
        if !user.limits_sending() || !session.is_owned_by(&self.link) {
            return Ok(None);
        }
        let shared = matches!(session.owner(), Owner::Relay { .. });
        let message_size = user.message_size();
        let total = range.and_then(|range| range.total);
        let start = range.map_or(0, |range| range.start.saturating_sub(1));
        let too_large =
            message_size.is_some_and(|most| total.is_some_and(|total| total > most) || start > most);
        let too_fast = shared && user.waits(now).is_some();
        if too_large || too_fast {
            let reason =
                if too_large { "larger than its user may send" } else { "faster than its user may send" };
            info!(
                link = self.link.id(),
                peer = self.link.address(),
                user = user.name(),
                reason,
                "SEND refused"
            );
            return Err(TooMuch);
        }
        // Whether the next one has to wait is asked at the end of this one, which is to arrive whole.
        let _ = user.sends(now);
        Ok(Some(Limited { user: Arc::clone(user), position: start, message_size, shared }))
    }

    /// The current chunk has become too large for its user.
    pub(super) fn refuse_for_user(&mut self, now: Instant) {
        if let Current::Forward(forward) = &self.current
            && let Some(limited) = &forward.limited
        {
            let user = limited.user.name();
            info!(
                link = self.link.id(),
                peer = self.link.address(),
                user,
                "a message is larger than its user may send"
            );
        }
        self.refuse_current(StatusCode::STOP_SENDING);
        self.flush(now);
    }
}
