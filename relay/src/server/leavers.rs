//! Connections that nobody needs here any more while the relay drains: they are closed, so that their clients come back,
//! where there is something new to be had.
//!
//! | | when it is closed |
//! |---|---|
//! | MSRP | it has no session, and nothing is under way |
//! | SIP, after an upgrade: what was accepted | no message has gone over it for [`SIP_QUIET`], or [`SIP_TIMEOUT`] has passed |
//! | SIP, after an upgrade: what was dialled | nothing that was accepted is left |
//! | HEP, after an upgrade | it is there for [`AGE`]: at the next look, each [`POLL`] |
//!
//! The edge keeps no transactions, so it does not know whether a response is still to come. A client that is there for
//! long gets nothing new over its connection, as the next process' flows are others, so nobody waits for longer than most
//! responses take. In between a proxy may send what is for the next process' clients to this one, which is another reason
//! to be quick.

use std::collections::HashMap;
use std::sync::Weak;
use std::time::{Duration, Instant};

use tcp_transport::connection::CloseReason;
use tcp_transport::event::Direction;
use tcp_transport::{ConnectionId, Registry};

use super::lifecycle::DrainCause;
use super::network::Carried;
use super::now;
use crate::msrp::Link;

/// How often it looks for them.
const POLL: Duration = Duration::from_millis(500);

/// How old a connection is before that. Who has just come may have its first request on the way.
const AGE: Duration = Duration::from_secs(1);

/// How long a SIP connection that was accepted has no message before it is closed.
const SIP_QUIET: Duration = Duration::from_secs(3);

/// How long such connections have at most.
const SIP_TIMEOUT: Duration = Duration::from_secs(6);

/// Who looks for them during one drain.
#[derive(Debug)]
pub(super) struct Leavers {
    /// SIP and HEP, too.
    all: bool,
    since: Instant,
    looked: Option<Instant>,
    /// What it has found then.
    stay: bool,
    quiet: Quiet,
}

impl Leavers {
    pub(super) fn new(cause: DrainCause) -> Self {
        let all = cause == DrainCause::Upgrade;
        Self { all, since: now(), looked: None, stay: false, quiet: Quiet::default() }
    }

    /// Closes those that there are now, if it has not looked lately. Whether some are there that have time left: the drain
    /// is not over before.
    pub(super) fn let_go(&mut self, connections: &Registry<Carried>) -> bool {
        let now = now();
        if self.looked.is_some_and(|at| now < at + POLL) {
            return self.stay;
        }
        self.looked = Some(now);
        let late = is_late(self.since, now);
        let (mut accepted, mut dialled) = (0, Vec::new());
        for (handle, carried) in connections.snapshot() {
            let entry = handle.entry();
            let idle = carried.is_idle() && entry.age() >= AGE;
            let leaves = match &carried {
                // One that stands for another ends with that one.
                Carried::Msrp(link) => link.sessions() == 0 && !stands_for_another(link),
                Carried::Hep => self.all,
                Carried::Sip(_) if self.all && entry.direction() == Direction::Outbound => {
                    dialled.extend(idle.then_some(handle));
                    continue;
                }
                Carried::Sip(_) => {
                    accepted += 1;
                    let messages = entry.messages_in() + entry.messages_out();
                    self.all && (self.quiet.is(handle.id(), messages, now) || late)
                }
            };
            if leaves && idle {
                handle.close(CloseReason::Local("draining".into()));
            }
        }
        let has_time = has_time(self.since, now, accepted);
        if !has_time {
            dialled.iter().for_each(|handle| handle.close(CloseReason::Local("draining".into())));
        }
        self.stay = self.all && has_time;
        self.stay
    }
}

/// Whether SIP connections have no more time, in a drain that has begun at `since`.
fn is_late(since: Instant, now: Instant) -> bool {
    now >= since + SIP_TIMEOUT
}

/// Whether some of the SIP connections that were accepted are left, and have time left.
fn has_time(since: Instant, now: Instant, accepted: usize) -> bool {
    accepted > 0 && !is_late(since, now)
}

fn stands_for_another(link: &Link) -> bool {
    link.stands_for().and_then(Weak::upgrade).is_some_and(|relay| relay.is_open())
}

/// How many messages connections have had, and since when.
#[derive(Debug, Default)]
struct Quiet(HashMap<ConnectionId, (u64, Instant)>);

impl Quiet {
    /// Whether a connection has had so many for [`SIP_QUIET`].
    fn is(&mut self, id: ConnectionId, messages: u64, now: Instant) -> bool {
        let (before, since) = self.0.entry(id).or_insert((messages, now));
        if *before != messages {
            (*before, *since) = (messages, now);
        }
        now >= *since + SIP_QUIET
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sip_connections_have_time_for_so_long() {
        assert_eq!(SIP_TIMEOUT, Duration::from_secs(6), "as the documents say");
        let (since, just) = (Instant::now(), Duration::from_millis(1));
        let end = since + SIP_TIMEOUT;
        for (now, late) in [(since, false), (end - just, false), (end, true), (end + just, true)] {
            assert_eq!(is_late(since, now), late);
            assert_eq!(has_time(since, now, 1), !late);
            assert!(!has_time(since, now, 0), "nobody is waited for");
        }
    }

    #[test]
    fn who_has_had_no_message_for_so_long_is_quiet() {
        let mut quiet = Quiet::default();
        let (id, other) = (ConnectionId::from(1), ConnectionId::from(2));
        let start = Instant::now();
        let just = Duration::from_millis(1);
        assert!(!quiet.is(id, 3, start));
        assert!(!quiet.is(id, 3, start + SIP_QUIET - just));
        // One more: from then on.
        let again = start + SIP_QUIET;
        assert!(!quiet.is(id, 4, again));
        assert!(!quiet.is(other, 9, again));
        assert!(!quiet.is(id, 4, again + SIP_QUIET - just));
        assert!(quiet.is(id, 4, again + SIP_QUIET));
    }
}
