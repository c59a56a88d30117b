//! AUTH requests put aside: their user has to be asked for, or they wait because others failed before.
//!
//! Everything else on the connection goes on meanwhile; responses need not come in order. Of each, a copy of its head
//! is kept and nothing more. At [`MOST`] of those whose user is asked for ([`MOST_OF_RELAY`] from a relay that has
//! proved to be one, which brings those of many clients) the connection is not read from until one of them is decided.
//! As many may wait because others failed; one more of those is answered 408 at once, so that nothing but such pairs of
//! address and user is delayed. A connection that is closed takes them along.

use std::time::Instant;

use msrp_proto::head::Head;
use tcp_transport::connection::CloseReason;

use super::{Inbound, touch};
use crate::credentials::{Lookup, Wants};
use crate::msrp::auth::{Attempt, AuthOutcome, Later};

/// The most at once on a client's connection.
pub(super) const MOST: usize = 4;

/// The most at once on a connection of a verified relay.
pub(super) const MOST_OF_RELAY: usize = 64;

/// One of them.
#[derive(Debug)]
pub(super) struct Aside {
    ticket: u64,
    head: Head,
    /// What is known of it.
    attempt: Attempt,
    waits: Waits,
}

#[derive(Debug)]
enum Waits {
    /// For its time.
    Until(Instant),
    /// For what the sources say.
    Lookup(Wants),
}

impl Inbound {
    /// Whether no more can be put aside for which a user has to be asked for.
    pub(super) fn aside_is_full(&self) -> bool {
        let asked = self.aside.iter().filter(|aside| matches!(aside.waits, Waits::Lookup(_)));
        asked.count() >= self.most_aside()
    }

    fn most_aside(&self) -> usize {
        if self.link.is_verified() { MOST_OF_RELAY } else { MOST }
    }

    /// How many wait because others failed.
    fn waiting(&self) -> usize {
        self.aside.iter().filter(|aside| matches!(aside.waits, Waits::Until(_))).count()
    }

    /// When the first of those that wait for their time has waited enough.
    pub(super) fn aside_deadline(&self) -> Option<Instant> {
        let times = self.aside.iter().filter_map(|aside| match aside.waits {
            Waits::Until(time) => Some(time),
            Waits::Lookup(_) => None,
        });
        times.min()
    }

    /// An AUTH for us.
    pub(super) fn auth(&mut self, head: &Head, now: Instant) -> Result<(), CloseReason> {
        let waiting = u32::try_from(self.waiting()).unwrap_or(u32::MAX);
        let attempt = Attempt::after(self.link.failed_auths().saturating_add(waiting));
        self.try_auth(head, attempt, now)
    }

    /// An AUTH for us, with what is known of it by now.
    fn try_auth(&mut self, head: &Head, mut attempt: Attempt, now: Instant) -> Result<(), CloseReason> {
        touch(&mut self.touched, &self.link);
        match self.relay.authenticate(head, &self.link, &mut attempt, now) {
            AuthOutcome::Granted => {
                self.granted();
                self.proved();
            }
            AuthOutcome::Challenged | AuthOutcome::Unanswered => {}
            AuthOutcome::Refused => return self.auth_refused(head),
            AuthOutcome::Later(Later::Until(time)) => {
                if self.waiting() >= self.most_aside() {
                    self.relay.refuse_to_wait(head, &self.link);
                    return self.auth_refused(head);
                }
                self.put_aside(head, attempt, Waits::Until(time));
            }
            AuthOutcome::Later(Later::Lookup(query)) => {
                let ticket = self.next_ticket;
                self.put_aside(head, attempt, Waits::Lookup(query.wants));
                match self.relay.resolver.get() {
                    Some(resolver) => resolver.resolve(query, self.link.clone(), ticket),
                    None => self.link.resolved(ticket, Lookup::Unavailable),
                }
            }
        }
        Ok(())
    }

    fn put_aside(&mut self, head: &Head, attempt: Attempt, waits: Waits) {
        // A copy: the bytes it came with are those of a whole read.
        self.aside.push(Aside { ticket: self.next_ticket, head: head.detached(), attempt, waits });
        self.next_ticket += 1;
    }

    /// Goes on with those that are answered. To be called whenever the link is woken.
    ///
    /// # Errors
    /// Why the connection is to be closed.
    pub fn resume(&mut self, now: Instant) -> Result<(), CloseReason> {
        if self.aside.is_empty() {
            return Ok(());
        }
        for (ticket, found) in self.link.take_resolved() {
            if let Some(index) = self.aside.iter().position(|aside| aside.ticket == ticket) {
                let Aside { head, mut attempt, waits, .. } = self.aside.remove(index);
                if let Waits::Lookup(wants) = waits {
                    attempt.answered(wants, found);
                }
                self.try_auth(&head, attempt, now)?;
            }
        }
        self.flush(now);
        Ok(())
    }

    /// Goes on with those that have waited enough.
    pub(super) fn resume_due(&mut self, now: Instant) -> Result<(), CloseReason> {
        while let Some(index) =
            self.aside.iter().position(|aside| matches!(aside.waits, Waits::Until(time) if time <= now))
        {
            let Aside { head, mut attempt, .. } = self.aside.remove(index);
            attempt.has_waited();
            self.try_auth(&head, attempt, now)?;
        }
        self.flush(now);
        Ok(())
    }
}
