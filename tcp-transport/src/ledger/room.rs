//! Room for new connections where the system has no descriptor left (RFC 4976 §6.5): which are used least is noted
//! here, who may be asked to leave is for a [`MakeRoom`] to say.
//!
//! That costs nothing while there are descriptors: when a connection was used last its own task notes as it goes along,
//! and no list is kept in that order. Whoever looks for the least used looks at some of the connections at a time, and
//! goes on with the next ones the next time ([`Ledger::next_round`]).

use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::task::AbortHandle;

use super::{Entry, Ledger, Phase};
use crate::connection::ConnectionId;

/// The most connections that are asked to leave and have not left yet: 64. A peer that does not answer takes a second
/// ([`CLOSE_LINGER`](crate::connection::CLOSE_LINGER)) to be rid of, so 64 connections a second get in past such.
const MAX_LEAVING: usize = 64;

/// Of so many connections one at a time is asked to leave: 8, so that a small process does not close all it has while it
/// waits for the first to be gone.
const OPEN_FOR_EACH_LEAVING: usize = 8;

/// Why a handshake ends that has to make room.
pub(super) const NO_DESCRIPTORS: &str = "to make room: there were no descriptors left";

/// Decides who leaves when there are no descriptors left.
pub trait MakeRoom: Send + Sync {
    /// Asks at most `most` connections of `ledger` to leave, by [`Ledger::leave`]. Called where a connection cannot be accepted or opened, so it neither
    /// blocks nor looks at all connections there are.
    fn make_room(&self, ledger: &Ledger, most: usize);
}

#[derive(Default)]
pub(super) struct Room {
    maker: OnceLock<Box<dyn MakeRoom>>,
    /// How many were asked to leave and are there still.
    leaving: AtomicUsize,
    /// How many were asked since the start.
    asked: AtomicU64,
    /// Up to which connection they were looked at.
    hand: AtomicU64,
    left: Notify,
}

impl Room {
    /// A connection's descriptor is closed, or about to be.
    pub(super) fn left(&self, entry: &Entry) {
        if entry.is_leaving() {
            self.leaving.fetch_sub(1, Ordering::AcqRel);
        }
        self.left.notify_waiters();
    }
}

/// How many of so many connections may be leaving at the same time.
fn most_leaving(connections: usize) -> usize {
    (connections / OPEN_FOR_EACH_LEAVING).clamp(1, MAX_LEAVING)
}

impl Ledger {
    /// Has `maker` asked when there are no descriptors left; once. Without one, connections wait until others end.
    pub fn set_room_maker(&self, maker: Box<dyn MakeRoom>) {
        let _ = self.room.maker.set(maker);
    }

    /// The connections that are the next to be looked at, at most `most` of them: each call goes on where the one before
    /// ended, and begins anew behind the last.
    #[must_use]
    pub fn next_round(&self, most: usize) -> Vec<Arc<Entry>> {
        let book = self.book.lock();
        let hand = ConnectionId::from(self.room.hand.load(Ordering::Relaxed));
        let behind = book.entries.range((Bound::Excluded(hand), Bound::Unbounded));
        let before = book.entries.range(..=hand);
        let round: Vec<_> = behind.chain(before).take(most).map(|(_, entry)| Arc::clone(entry)).collect();
        drop(book);
        if let Some(last) = round.last() {
            self.room.hand.store(last.id().as_u64(), Ordering::Relaxed);
        }
        round
    }

    /// Asks a connection to leave: ends its handshake if it is in one that its peer began, or has `close` end it if it is
    /// up, by [`Handle::close`](crate::Handle::close); that says whether it could. False: it was asked before, has left by
    /// itself, or could not be ended, and may be asked again.
    pub fn leave(&self, entry: &Entry, close: impl FnOnce() -> bool) -> bool {
        {
            // Its end is noted under the same lock, so each that is counted is taken off once.
            let book = self.book.lock();
            if !book.entries.contains_key(&entry.id) || entry.leaving.swap(true, Ordering::AcqRel) {
                return false;
            }
            self.room.leaving.fetch_add(1, Ordering::AcqRel);
        }
        let ends = match entry.phase() {
            Phase::Opening => {
                if let Some(handshake) = &*entry.handshake.lock() {
                    handshake.abort();
                }
                true
            }
            Phase::Open => close(),
            Phase::Ended => true,
        };
        if ends {
            self.room.asked.fetch_add(1, Ordering::Relaxed);
        } else {
            self.stays(entry);
        }
        ends
    }

    /// It was asked to leave, and does not.
    pub(super) fn stays(&self, entry: &Entry) {
        let _book = self.book.lock();
        if entry.leaving.swap(false, Ordering::AcqRel) {
            self.room.leaving.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// How many connections were asked to leave since the start.
    #[must_use]
    pub fn made_room(&self) -> u64 {
        self.room.asked.load(Ordering::Relaxed)
    }

    /// There is no descriptor for one more: one connection is asked to leave, and where some were that are there still,
    /// as many again. Whether there is hope: some are on their way out.
    pub(crate) fn make_room(&self) -> bool {
        let Some(maker) = self.room.maker.get() else { return false };
        let limit = most_leaving(self.len());
        let leaving = self.room.leaving.load(Ordering::Acquire);
        if leaving < limit {
            maker.make_room(self, (leaving + 1).min(limit - leaving));
        }
        self.some_leave()
    }

    /// Whether some were asked to leave, and are there still.
    pub(crate) fn some_leave(&self) -> bool {
        self.room.leaving.load(Ordering::Acquire) > 0
    }

    /// Done when the next connection is gone, whichever.
    pub(crate) fn one_left(&self) -> Notified<'_> {
        self.room.left.notified()
    }
}

impl Entry {
    /// How long nothing has moved on it, either way, as far as is known: bytes that other tasks have written count as
    /// of when they are first seen, here or by the connection's own task.
    #[must_use]
    pub fn unused_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.used_at(now, false))
    }

    /// Whether a message is under way, as the protocol has [said](Self::set_busy).
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    /// Whether a message is under way: begun and not whole, or not passed on.
    pub fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }

    /// Whether it was asked to leave.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Looks after its bytes: when it was used last, which is now if there are more of them, or if it is `touched`.
    pub(crate) fn used_at(&self, now: Instant, touched: bool) -> Instant {
        let moved = self.bytes_in().wrapping_add(self.bytes_out());
        if touched || moved != self.moved.load(Ordering::Relaxed) {
            self.moved.store(moved, Ordering::Relaxed);
            let used = now.saturating_duration_since(self.since).as_nanos();
            self.used.store(u64::try_from(used).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        self.since + Duration::from_nanos(self.used.load(Ordering::Relaxed))
    }

    /// By which its handshake can be ended.
    pub(crate) fn set_handshake(&self, handshake: AbortHandle) {
        let mut place = self.handshake.lock();
        // It may be over already, and who keeps this keeps the memory of its task.
        if self.phase() == Phase::Opening {
            if self.is_leaving() {
                handshake.abort();
            }
            *place = Some(handshake);
        }
    }

    /// It is over; the phase says so already.
    pub(crate) fn forget_handshake(&self) {
        self.handshake.lock().take();
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::ConnectionLimits;
    use crate::event::{Direction, Events};
    use crate::ledger::{Slots, Ticket};
    use crate::listener::Transport;

    fn enter(ledger: &Arc<Ledger>) -> Ticket {
        let peer = "192.0.2.1:1".parse().unwrap();
        let entry = Entry::new(Direction::Inbound, Transport::Tls, None, None, peer);
        ledger.accepting(entry, &Slots::default(), None).unwrap()
    }

    fn ledger() -> Arc<Ledger> {
        Ledger::new(ConnectionLimits::default(), Events::default())
    }

    #[test]
    fn a_connection_that_has_ended_meanwhile_is_not_asked_to_leave() {
        let ledger = ledger();
        let (gone, here) = (enter(&ledger), enter(&ledger));
        let round = ledger.next_round(2);
        drop(gone);
        let asked: Vec<_> = round.iter().map(|entry| ledger.leave(entry, || unreachable!())).collect();
        assert_eq!((asked, ledger.room.leaving.load(Ordering::Relaxed)), (vec![false, true], 1));
        drop(here);
        assert_eq!(ledger.room.leaving.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn rounds_go_on_where_the_last_one_ended() {
        let ledger = ledger();
        assert_eq!(ledger.next_round(3).len(), 0);
        let tickets: Vec<_> = (0..5).map(|_| enter(&ledger)).collect();
        let round = |most| -> Vec<usize> {
            let place =
                |entry: Arc<Entry>| tickets.iter().position(|t| t.entry().id() == entry.id()).unwrap();
            ledger.next_round(most).into_iter().map(place).collect()
        };
        assert_eq!(round(3), [0, 1, 2]);
        assert_eq!(round(3), [3, 4, 0]);
        assert_eq!(round(9), [1, 2, 3, 4, 0], "each once");
        assert_eq!(round(0), [0; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_either_way_is_a_use() {
        let ledger = ledger();
        let ticket = enter(&ledger);
        let entry = ticket.entry();
        let second = Duration::from_secs(1);
        let start = entry.since;
        assert_eq!(entry.unused_for(start + second), second);
        for count in [Entry::count_in, Entry::count_out] {
            count(entry, 1);
            assert_eq!(entry.unused_for(start + 5 * second), Duration::ZERO);
            assert_eq!(entry.unused_for(start + 7 * second), 2 * second);
        }
        assert_eq!(entry.used_at(start + 9 * second, true), start + 9 * second);
        assert_eq!(entry.unused_for(start + 10 * second), second);
    }

    /// Asks the next ones, whoever they are.
    struct Next(Arc<Mutex<Vec<usize>>>);

    impl MakeRoom for Next {
        fn make_room(&self, ledger: &Ledger, most: usize) {
            self.0.lock().push(most);
            for entry in ledger.next_round(most) {
                assert!(ledger.leave(&entry, || true));
                assert!(!ledger.leave(&entry, || true), "once");
            }
        }
    }

    #[test]
    fn one_in_eight_may_be_leaving_and_at_least_one_and_at_most_64() {
        for (connections, most) in [
            (0, 1),
            (1, 1),
            (7, 1),
            (8, 1),
            (15, 1),
            (16, 2),
            (504, 63),
            (511, 63),
            (512, 64),
            (520, 64),
            (9999, 64),
        ] {
            assert_eq!(most_leaving(connections), most, "{connections}");
        }
    }

    /// Who asks and what is asked are different tasks: one that was seen in its handshake may be up.
    #[test]
    fn whom_nothing_ends_is_not_leaving_and_may_be_asked_again() {
        let ledger = ledger();
        let leaving = || ledger.room.leaving.load(Ordering::Relaxed);
        let ticket = enter(&ledger);
        let entry = Arc::clone(ticket.entry());
        // Its handshake ends well, before it can be ended.
        assert!(ledger.leave(&entry, || unreachable!("it is not up")));
        assert_eq!((entry.is_leaving(), leaving()), (true, 1));
        ticket.opened(None);
        assert_eq!((entry.is_leaving(), leaving()), (false, 0));
        // It is up, and there is no handle yet to close it by.
        assert!(!ledger.leave(&entry, || false));
        assert_eq!((entry.is_leaving(), leaving(), ledger.made_room()), (false, 0, 1));
        assert!(ledger.leave(&entry, || true));
        assert_eq!((entry.is_leaving(), leaving(), ledger.made_room()), (true, 1, 2));
        drop(ticket);
        assert_eq!(leaving(), 0);
    }

    #[test]
    fn one_leaves_for_one_and_more_where_those_asked_stay() {
        let ledger = ledger();
        let mut tickets: Vec<_> = (0..80).map(|_| enter(&ledger)).collect();
        assert!(!ledger.make_room(), "nobody decides");
        let asked = Arc::new(Mutex::default());
        ledger.set_room_maker(Box::new(Next(Arc::clone(&asked))));
        let ask = || {
            assert!(ledger.make_room());
            std::mem::take(&mut *asked.lock())
        };
        assert_eq!(ask(), [1]);
        tickets.remove(0);
        assert_eq!(ask(), [1], "it has left");
        // Those that were asked stay: as many again, up to an eighth of all.
        assert_eq!([ask(), ask(), ask(), ask()], [vec![2], vec![4], vec![2], vec![]]);
        assert_eq!(ledger.made_room(), 10);
        drop(tickets);
        assert_eq!(ledger.room.leaving.load(Ordering::Relaxed), 0);
        assert!(!ledger.make_room(), "there is nobody");
    }

    #[tokio::test]
    async fn a_handshake_ends_when_it_is_to_leave() {
        let ledger = ledger();
        let mut events = ledger.events().subscribe();
        let ticket = enter(&ledger);
        let entry = Arc::clone(ticket.entry());
        let handshake = tokio::spawn(async move {
            let _ticket = ticket;
            std::future::pending::<()>().await;
        });
        entry.set_handshake(handshake.abort_handle());
        let left = ledger.one_left();
        assert!(ledger.leave(&entry, || unreachable!("it is not up")));
        left.await;
        assert!(handshake.await.unwrap_err().is_cancelled());
        let event = events.next().await.unwrap();
        assert_eq!(&*event.kind.ending().unwrap().reason, NO_DESCRIPTORS);
    }
}
