//! Who leaves when there are no descriptors left (RFC 4976 §6.5), so that somebody new gets in.
//!
//! First go those who have shown nothing: a TLS or WebSocket handshake that does not end, and an accepted connection
//! without a session, after [`GRACE`]. Then those with sessions on which nothing has moved for
//! `timeouts.reclaim_after`, the longest silent first. A connection with a message under way, waiting to be written
//! or waiting for its response never goes.
//!
//! Each time some of the connections are looked at, the next ones the next time, and the best of those who may stay this
//! time are remembered: so the order is that of least use among few connections, and close to it among many.

use std::cmp::Reverse;
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
        let leaver = |entry: &Arc<Entry>| {
            let facts = facts(&network, entry, now).filter(|facts| facts.may_leave(reclaim_after))?;
            Some((facts.standing, facts.unused))
        };
        let next_round = |most| ledger.next_round(most).into_iter().map(|entry| (entry.id(), entry));
        let mut search = Search::new(leaver, most);
        let found = search.among(&mut self.next.lock(), |id| ledger.entry(id), ledger.len(), next_round);
        let mut asked = 0;
        for entry in found {
            let close = || {
                let open = network.connections.by_id(entry.id());
                open.map(|(handle, _)| handle.close(CloseReason::Local(REASON.into()))).is_some()
            };
            asked += usize::from(ledger.leave(&entry, close));
        }
        if asked > 0
            && let Some(unsaid) = self.told.happens(now)
        {
            warn!(asked, unsaid, "no descriptors are left: connections that are used least are closed");
        }
    }
}

/// One look for those who are to leave.
struct Search<F> {
    /// What a connection that may leave is sorted by.
    leaver: F,
    most: usize,
}

impl<F> Search<F> {
    fn new(leaver: F, most: usize) -> Self {
        Self { leaver, most }
    }

    /// Those who go, at most `most`: of the `remembered` and of as many rounds of the `all` connections as it takes. Who
    /// would be next is remembered.
    fn among<E, R: IntoIterator<Item = (ConnectionId, E)>>(
        &mut self,
        remembered: &mut Vec<ConnectionId>,
        by_id: impl Fn(ConnectionId) -> Option<E>,
        all: usize,
        mut next_round: impl FnMut(usize) -> R,
    ) -> Vec<E>
    where
        F: FnMut(&E) -> Option<(Standing, Duration)>,
    {
        let before = std::mem::take(remembered);
        let mut found: Vec<((Standing, Reverse<Duration>), ConnectionId, E)> = Vec::new();
        let mut look_at = |id: ConnectionId, entry: E| {
            if let Some((standing, unused)) = (self.leaver)(&entry) {
                found.push(((standing, Reverse(unused)), id, entry));
            }
            found.len()
        };
        for id in &before {
            if let Some(entry) = by_id(*id) {
                look_at(*id, entry);
            }
        }
        let mut left = MOST_LOOKED_AT.min(all);
        while left > 0 {
            let size = ROUND.min(left);
            left -= size;
            let others = next_round(size).into_iter().filter(|(id, _)| !before.contains(id));
            if others.fold(0, |_, (id, entry)| look_at(id, entry)) >= self.most {
                break;
            }
        }
        found.sort_unstable_by_key(|(order, ..)| *order);
        let rest = found.split_off(self.most.min(found.len()));
        remembered.extend(rest.into_iter().take(REMEMBERED).map(|(_, id, _)| id));
        found.into_iter().map(|(.., entry)| entry).collect()
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

    /// So many connections, of which those may leave that `unused` has a time for, the same for each that it was asked
    /// about before. How often each was looked at.
    struct Crowd {
        looked_at: Vec<u32>,
        hand: usize,
        remembered: Vec<ConnectionId>,
    }

    impl Crowd {
        fn of(count: usize) -> Self {
            Self { looked_at: vec![0; count], hand: 0, remembered: Vec::new() }
        }

        fn leave(&mut self, most: usize, unused: impl Fn(usize) -> Option<(Standing, u64)>) -> Vec<usize> {
            let Self { looked_at, hand, remembered } = self;
            let all = looked_at.len();
            let leaver = |number: &usize| {
                looked_at[*number] += 1;
                unused(*number).map(|(standing, seconds)| (standing, Duration::from_secs(seconds)))
            };
            let id = |number: usize| ConnectionId::from(number as u64);
            let next_round = |size: usize| {
                let round: Vec<_> = (0..size).map(|step| (*hand + step) % all).collect();
                *hand = (*hand + size) % all;
                round.into_iter().map(move |number| (id(number), number))
            };
            let by_id = |id: ConnectionId| Some(id.as_u64() as usize);
            Search::new(leaver, most).among(remembered, by_id, all, next_round)
        }

        fn remembered(&self) -> Vec<u64> {
            self.remembered.iter().map(|id| id.as_u64()).collect()
        }
    }

    #[test]
    fn no_more_are_looked_at_than_it_takes_and_never_more_than_4096() {
        for (count, looked_at) in [(1, 1), (256, 256), (4095, 4095), (4096, 4096), (4097, 4096), (9000, 4096)]
        {
            let mut crowd = Crowd::of(count);
            assert_eq!(crowd.leave(1, |_| None), [0; 0]);
            assert_eq!(crowd.looked_at.iter().sum::<u32>(), looked_at, "{count}");
        }
        // Those that the first time left out have their turn the second time.
        let mut crowd = Crowd::of(9000);
        let last = |number| (number == 8999).then_some((Standing::Known, 1));
        assert_eq!([crowd.leave(1, last), crowd.leave(1, last), crowd.leave(1, last)].concat(), [8999]);
        // Who is found in the first round makes it the last.
        let mut crowd = Crowd::of(9000);
        assert_eq!(crowd.leave(1, |number| (number == 255).then_some((Standing::Known, 1))), [255]);
        assert_eq!(crowd.looked_at.iter().sum::<u32>(), 256);
        let mut crowd = Crowd::of(9000);
        assert_eq!(crowd.leave(2, |number| (number % 256 == 0).then_some((Standing::Known, 1))), [0, 256]);
        assert_eq!(crowd.looked_at.iter().sum::<u32>(), 512);
    }

    #[test]
    fn strangers_go_first_then_the_longest_unused_and_64_are_remembered_as_the_next() {
        let unused = |number: usize| match number {
            7 => Some((Standing::Stranger, 1)),
            number => Some((Standing::Known, 1000 - number as u64)),
        };
        for (count, next) in [(66, 62), (67, 63), (68, 64), (69, 64), (256, 64)] {
            let mut crowd = Crowd::of(count);
            assert_eq!(crowd.leave(4, unused), [7, 0, 1, 2]);
            assert_eq!(crowd.remembered().len(), next, "{count}");
            assert_eq!(crowd.remembered()[..4], [3, 4, 5, 6]);
        }
        // They are looked at before others, once, and go only if they still may.
        let mut crowd = Crowd::of(600);
        crowd.leave(1, unused);
        assert_eq!(crowd.remembered()[0], 0);
        crowd.looked_at.fill(0);
        assert_eq!(crowd.leave(1, |number| unused(number).filter(|_| number != 0 && number != 7)), [1]);
        assert!(crowd.looked_at.iter().all(|times| *times <= 1));
        assert_eq!(crowd.looked_at[..65].iter().sum::<u32>(), 64, "all but the one that has gone");
    }
}
