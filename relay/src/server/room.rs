//! Who leaves when there are no descriptors left (RFC 4976 §6.5), so that somebody new gets in.
//!
//! First go those who have shown nothing: a TLS or WebSocket handshake that does not end, and an accepted connection
//! without a session, after [`GRACE`]. Then those with sessions on which nothing has moved for
//! `timeouts.reclaim_after`, the longest silent first. A connection with a message under way, waiting to be written
//! or waiting for its response never goes.
//!
//! Each time some of the connections are looked at, the next ones the next time, and the best of those who may stay this
//! time are remembered: so the order is that of least use among few connections, and close to it among many.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tcp_transport::connection::{CloseReason, ConnectionId};
use tcp_transport::event::Direction;
use tcp_transport::ledger::{Entry, Phase};
use tcp_transport::{Ledger, MakeRoom};
use tracing::warn;

use super::network::{Carried, Network};
use super::now;
use super::occasion::Occasion;

/// How long a handshake, and a connection without a session, has before it may be asked to leave: 5 s, for a handshake
/// and an AUTH over a bad link.
const GRACE: Duration = Duration::from_secs(5);

/// How many connections are looked at together.
const ROUND: usize = 256;

/// How many are looked at at most before it is tried again: less than a millisecond.
const MOST_LOOKED_AT: usize = 4096;

/// How many are remembered as the next to go.
const REMEMBERED: usize = 64;

/// Why a connection is closed to make room.
const REASON: &str = "to make room, as it was used least: there were no descriptors left";

/// See the [module](self). It knows the network weakly: that owns the ledger that asks it.
#[derive(Debug)]
pub(super) struct RoomMaker {
    network: Weak<Network>,
    next: Mutex<Vec<ConnectionId>>,
    told: Occasion,
}

/// In which order they go: the smallest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// It has shown nothing.
    Stranger,
    /// Its client, or the relay behind it, has.
    Known,
}

/// What is looked at in a connection.
#[derive(Debug, Clone, Copy)]
struct Facts {
    standing: Standing,
    /// Nothing has moved for so long.
    unused: Duration,
    /// Nothing is under way.
    quiet: bool,
}

impl Facts {
    /// Whether it may be asked to leave.
    fn may_leave(self, reclaim_after: Duration) -> bool {
        let after = match self.standing {
            Standing::Stranger => GRACE.min(reclaim_after),
            Standing::Known => reclaim_after,
        };
        self.quiet && self.unused >= after
    }
}

impl RoomMaker {
    pub(super) fn new(network: &Arc<Network>) -> Self {
        Self { network: Arc::downgrade(network), next: Mutex::default(), told: Occasion::default() }
    }
}

impl MakeRoom for RoomMaker {
    fn make_room(&self, ledger: &Ledger, most: usize) {
        let Some(network) = self.network.upgrade() else { return };
        let reclaim_after = network.relay.settings().timeouts.reclaim_after;
        if reclaim_after.is_zero() {
            return;
        }
        let now = now();
        let mut next = self.next.lock();
        let mut found: Vec<(Standing, Duration, Arc<Entry>)> = Vec::new();
        let mut look_at = |entry: Arc<Entry>| {
            let leaves = facts(&network, &entry, now).filter(|facts| facts.may_leave(reclaim_after));
            if let Some(Facts { standing, unused, .. }) = leaves {
                found.push((standing, unused, entry));
            }
            found.len()
        };
        let remembered = std::mem::take(&mut *next);
        for entry in remembered.iter().filter_map(|id| ledger.entry(*id)) {
            look_at(entry);
        }
        let mut left = MOST_LOOKED_AT.min(ledger.len());
        while left > 0 {
            let round = ledger.next_round(ROUND.min(left));
            left -= round.len().max(1).min(left);
            let enough = round
                .into_iter()
                .filter(|entry| !remembered.contains(&entry.id()))
                .fold(0, |_, entry| look_at(entry))
                >= most;
            if enough {
                break;
            }
        }
        found.sort_unstable_by_key(|(standing, unused, _)| (*standing, std::cmp::Reverse(*unused)));
        let rest = found.split_off(most.min(found.len()));
        next.extend(rest.iter().take(REMEMBERED).map(|(.., entry)| entry.id()));
        drop(next);
        let mut asked = 0;
        for (_, _, entry) in found {
            if !ledger.leave(&entry) {
                continue;
            }
            asked += 1;
            if let Some((handle, _)) = network.connections.by_id(entry.id()) {
                handle.close(CloseReason::Local(REASON.into()));
            }
        }
        if asked > 0
            && let Some(unsaid) = self.told.happens(now)
        {
            warn!(asked, unsaid, "no descriptors are left: connections that are used least are closed");
        }
    }
}

/// None: it is not for us to end, or is ending already.
fn facts(network: &Network, entry: &Entry, now: Instant) -> Option<Facts> {
    if entry.is_leaving() {
        return None;
    }
    match (entry.phase(), entry.direction()) {
        (Phase::Opening, Direction::Inbound) => {
            Some(Facts { standing: Standing::Stranger, unused: entry.age(), quiet: true })
        }
        (Phase::Open, direction) => {
            let (handle, carried) = network.connections.by_id(entry.id())?;
            let inbound = direction == Direction::Inbound;
            if !inbound && matches!(carried, Carried::Sip(_)) {
                // An upstream, which would be connected to again at once.
                return None;
            }
            handle.is_open().then(|| Facts {
                standing: if inbound { standing(&carried) } else { Standing::Known },
                unused: entry.unused_for(now),
                quiet: !entry.is_busy() && carried.is_quiet(),
            })
        }
        _ => None,
    }
}

fn standing(carried: &Carried) -> Standing {
    match carried {
        Carried::Msrp(link) if link.sessions() == 0 && !link.is_verified() => Standing::Stranger,
        Carried::Msrp(_) | Carried::Sip(_) | Carried::Hep => Standing::Known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_have_their_grace_and_the_known_what_is_configured() {
        let minute = Duration::from_secs(60);
        let facts = |standing, unused, quiet| Facts { standing, unused, quiet };
        let tick = Duration::from_nanos(1);
        for (standing, after, configured) in [
            (Standing::Stranger, GRACE, minute),
            (Standing::Stranger, Duration::from_secs(1), Duration::from_secs(1)),
            (Standing::Known, minute, minute),
        ] {
            assert!(!facts(standing, after - tick, true).may_leave(configured));
            assert!(facts(standing, after, true).may_leave(configured));
            assert!(!facts(standing, after * 100, false).may_leave(configured), "something is under way");
        }
        assert!(Standing::Stranger < Standing::Known);
    }
}
