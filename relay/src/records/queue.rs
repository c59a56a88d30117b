//! What waits for one sink, and what happens at the limit: no clock, no thread, no sink.

use std::collections::VecDeque;
use std::sync::Arc;

use super::record::SessionRecord;

/// Records since the start, and those that wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// That the sink has taken.
    pub written: u64,
    /// That were lost, since the queue was full, or the relay stopped.
    pub lost: u64,
    /// That the sink would never take.
    pub refused: u64,
    /// Interim ones that were left out, since the queue was half full.
    pub skipped: u64,
    /// That wait.
    pub queued: usize,
}

impl std::ops::AddAssign for RecordCounts {
    fn add_assign(&mut self, other: Self) {
        self.written += other.written;
        self.lost += other.lost;
        self.refused += other.refused;
        self.skipped += other.skipped;
        self.queued += other.queued;
    }
}

/// What came of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits.
    Queued,
    /// It is an interim one, and there is little room.
    Skipped,
    /// The queue is full: the first record that is lost, or one more.
    Lost {
        /// Whether it is the first.
        begins: bool,
    },
}

/// The queue.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: VecDeque<Arc<SessionRecord>>,
    limit: usize,
    /// The relay stops: the limit does not count any more.
    stopping: bool,
    /// How many were lost since that began, until half of the queue is free.
    losing: Option<u64>,
    counts: RecordCounts,
}

impl Queue {
    pub(super) fn new(limit: usize) -> Self {
        let waiting = VecDeque::new();
        Self { waiting, limit, stopping: false, losing: None, counts: RecordCounts::default() }
    }

    /// From now on so many may wait; those that do already stay.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Takes a record, unless there is no room.
    pub(super) fn push(&mut self, record: Arc<SessionRecord>) -> Pushed {
        if record.is_interim() && self.waiting.len() >= self.limit.div_ceil(2) {
            self.counts.skipped += 1;
            return Pushed::Skipped;
        }
        if self.waiting.len() >= self.limit && !self.stopping {
            self.counts.lost += 1;
            let begins = self.losing.is_none();
            *self.losing.get_or_insert(0) += 1;
            return Pushed::Lost { begins };
        }
        self.waiting.push_back(record);
        Pushed::Queued
    }

    /// The oldest, `most` of them. They stay until they are known to be [written](Self::written).
    pub(super) fn oldest(&self, most: usize) -> Vec<Arc<SessionRecord>> {
        self.waiting.iter().take(most).cloned().collect()
    }

    /// The sink has the oldest `count`. If that ends a loss: how many were lost.
    pub(super) fn written(&mut self, count: usize) -> Option<u64> {
        let count = count.min(self.waiting.len());
        self.waiting.drain(..count);
        self.counts.written += count as u64;
        self.loss_ends()
    }

    /// The sink will never take the oldest one. If that ends a loss: how many were lost.
    pub(super) fn refused(&mut self) -> Option<u64> {
        if self.waiting.pop_front().is_some() {
            self.counts.refused += 1;
        }
        self.loss_ends()
    }

    fn loss_ends(&mut self) -> Option<u64> {
        if self.waiting.len() <= self.limit / 2 { self.losing.take() } else { None }
    }

    /// The relay stops.
    pub(super) fn set_stopping(&mut self) {
        self.stopping = true;
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Drops what waits: how many that are.
    pub(super) fn give_up(&mut self) -> usize {
        let left = self.waiting.len();
        self.waiting.clear();
        self.counts.lost += left as u64;
        left
    }

    /// Takes over what waits in another one, before what waits here, and what it has counted. The limit does not count.
    pub(super) fn adopt(&mut self, former: &mut Self) {
        let mut waiting = std::mem::take(&mut former.waiting);
        waiting.append(&mut self.waiting);
        self.waiting = waiting;
        self.counts += std::mem::take(&mut former.counts);
        if let Some(lost) = former.losing.take() {
            *self.losing.get_or_insert(0) += lost;
        }
    }

    pub(super) fn counts(&self) -> RecordCounts {
        RecordCounts { queued: self.waiting.len(), ..self.counts }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{ended, interim};
    use super::*;

    fn push(queue: &mut Queue, count: usize) -> Vec<Pushed> {
        (0..count).map(|_| queue.push(ended("s"))).collect()
    }

    #[test]
    fn records_leave_in_order_and_only_once_written() {
        let mut queue = Queue::new(10);
        for id in ["a", "b", "c"] {
            assert_eq!(queue.push(ended(id)), Pushed::Queued);
        }
        let ids = |queue: &Queue, most| -> Vec<_> {
            queue.oldest(most).iter().map(|record| record.session.clone()).collect()
        };
        assert_eq!(ids(&queue, 2), ["a", "b"]);
        assert_eq!(ids(&queue, 2), ["a", "b"]);
        assert_eq!(queue.written(1), None);
        assert_eq!(ids(&queue, 5), ["b", "c"]);
        queue.refused();
        assert_eq!(ids(&queue, 5), ["c"]);
        queue.written(7);
        assert!(queue.is_empty());
        let counts = RecordCounts { written: 2, refused: 1, ..RecordCounts::default() };
        assert_eq!(queue.counts(), counts);
    }

    #[test]
    fn at_the_limit_the_newest_are_lost_and_each_is_counted() {
        let mut queue = Queue::new(4);
        assert_eq!(push(&mut queue, 4), [Pushed::Queued; 4]);
        assert_eq!(queue.counts().queued, 4);
        let lost =
            [Pushed::Lost { begins: true }, Pushed::Lost { begins: false }, Pushed::Lost { begins: false }];
        assert_eq!(push(&mut queue, 3), lost);
        // Room for one: it is taken, and the loss goes on.
        assert_eq!(queue.written(1), None);
        assert_eq!(push(&mut queue, 2), [Pushed::Queued, Pushed::Lost { begins: false }]);
        assert_eq!(queue.written(1), None);
        assert_eq!(queue.written(1), Some(4));
        assert_eq!(queue.written(1), None);
        assert_eq!(push(&mut queue, 4)[3], Pushed::Lost { begins: true });
        let counts = RecordCounts { written: 4, lost: 5, queued: 4, ..RecordCounts::default() };
        assert_eq!(queue.counts(), counts);
    }

    #[test]
    fn a_limit_of_one_holds_one() {
        let mut queue = Queue::new(1);
        assert_eq!(push(&mut queue, 2), [Pushed::Queued, Pushed::Lost { begins: true }]);
        assert_eq!(queue.written(1), Some(1));
        assert_eq!(push(&mut queue, 1), [Pushed::Queued]);
        assert_eq!(queue.push(interim("s")), Pushed::Skipped);
    }

    #[test]
    fn interim_records_are_left_out_when_half_of_the_queue_is_full() {
        let mut queue = Queue::new(4);
        assert_eq!(queue.push(interim("s")), Pushed::Queued);
        assert_eq!(queue.push(interim("s")), Pushed::Queued);
        assert_eq!(queue.push(interim("s")), Pushed::Skipped);
        assert_eq!(push(&mut queue, 1), [Pushed::Queued]);
        assert_eq!((queue.counts().skipped, queue.counts().lost), (1, 0));
    }

    #[test]
    fn what_is_adopted_comes_first_and_is_counted_here() {
        let (mut former, mut queue) = (Queue::new(3), Queue::new(3));
        for id in ["a", "b", "c", "lost"] {
            former.push(ended(id));
        }
        former.written(1);
        for id in ["d", "e"] {
            queue.push(ended(id));
        }
        queue.adopt(&mut former);
        let ids: Vec<_> = queue.oldest(9).iter().map(|record| record.session.clone()).collect();
        assert_eq!(ids, ["b", "c", "d", "e"]);
        assert_eq!(former.counts(), RecordCounts::default());
        assert_eq!(
            queue.counts(),
            RecordCounts { written: 1, lost: 1, queued: 4, ..RecordCounts::default() }
        );
        // The loss is over when half of this one is free.
        assert_eq!((queue.written(2), queue.written(1)), (None, Some(1)));
    }

    #[test]
    fn a_stopping_relay_takes_all_and_counts_what_it_gives_up() {
        let mut queue = Queue::new(2);
        queue.set_stopping();
        assert_eq!(push(&mut queue, 5), [Pushed::Queued; 5]);
        assert_eq!(queue.give_up(), 5);
        assert_eq!(queue.give_up(), 0);
        assert_eq!(queue.counts(), RecordCounts { lost: 5, ..RecordCounts::default() });
    }
}
