//! AUTH requests put aside: their user has to be asked for, or they wait because others failed before.
//!
//! Everything else on the connection goes on meanwhile; responses need not come in order. Of each, a copy of its head
//! is kept and nothing more. At [`MOST`] of them ([`MOST_OF_RELAY`] from a relay that has proved to be one, which
//! brings those of many clients) the connection is not read from until one of them is decided. A connection that is
//! closed takes them along.

use std::time::Instant;

use msrp_proto::head::Head;
use tcp_transport::connection::CloseReason;

use super::{Inbound, touch};
use crate::credentials::Lookup;
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
    waits: Waits,
}

#[derive(Debug)]
enum Waits {
    /// For its time.
    Until(Instant),
    /// For what the source says.
    Lookup,
}

impl Inbound {
    /// Whether no more can be put aside.
    pub(super) fn aside_is_full(&self) -> bool {
        let most = if self.link.is_verified() { MOST_OF_RELAY } else { MOST };
        self.aside.len() >= most
    }

    /// When the first of those that wait for their time has waited enough.
    pub(super) fn aside_deadline(&self) -> Option<Instant> {
        let times = self.aside.iter().filter_map(|aside| match aside.waits {
            Waits::Until(time) => Some(time),
            Waits::Lookup => None,
        });
        times.min()
    }

    /// An AUTH for us, with what is known of it by now.
    pub(super) fn auth(&mut self, head: &Head, attempt: Attempt, now: Instant) -> Result<(), CloseReason> {
        touch(&mut self.touched, &self.link);
        match self.relay.authenticate(head, &self.link, attempt, now) {
            AuthOutcome::Granted => {
                self.granted();
                self.proved();
            }
            AuthOutcome::Challenged | AuthOutcome::Unanswered => {}
            AuthOutcome::Refused => return self.auth_refused(head),
            AuthOutcome::Later(Later::Until(time)) => self.put_aside(head, Waits::Until(time)),
            AuthOutcome::Later(Later::Lookup(query)) => {
                let ticket = self.next_ticket;
                self.put_aside(head, Waits::Lookup);
                match self.relay.resolver.get() {
                    Some(resolver) => resolver.resolve(query, self.link.clone(), ticket),
                    None => self.link.resolved(ticket, Lookup::Unavailable),
                }
            }
        }
        Ok(())
    }

    fn put_aside(&mut self, head: &Head, waits: Waits) {
        // A copy: the bytes it came with are those of a whole read.
        self.aside.push(Aside { ticket: self.next_ticket, head: head.detached(), waits });
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
                let aside = self.aside.remove(index);
                self.auth(&aside.head, Attempt { waited: true, found: Some(found) }, now)?;
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
            let aside = self.aside.remove(index);
            self.auth(&aside.head, Attempt { waited: true, found: None }, now)?;
        }
        self.flush(now);
        Ok(())
    }
}
