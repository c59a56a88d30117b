//! What waits for a destination, and what has become of everything that was meant for it.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::hep::{DestinationSettings, EncodeError};

/// Packets written at once at most: as many as one vectored write takes that is worth it.
pub(super) const BATCH: usize = 64;

/// What has become of the packets for one destination, and of its connections. All figures of one look belong
/// together: [`submitted`](Self::submitted) is [`sent`](Self::sent), the three that are dropped, and
/// [`waiting`](Self::waiting) added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Packets meant for it while it was switched on.
    pub submitted: u64,
    /// Packets that the kernel, or the TLS session above it, has taken whole.
    pub sent: u64,
    /// Octets of those.
    pub sent_bytes: u64,
    /// Packets dropped because the queue was full.
    pub dropped_by_queue: u64,
    /// Packets dropped because it was down, after all retries, or is shut down.
    pub dropped_while_down: u64,
    /// Packets that cannot be sent there: too long, or without what their version needs.
    pub dropped_unsendable: u64,
    /// Packets that wait, those included that are just being written.
    pub waiting: u64,
    /// Octets of [`sent_bytes`](Self::sent_bytes) that may have got lost with a connection: an upper bound. It is
    /// counted for each one that broke, or was closed and not answered by the collector's own end, in time. Of each
    /// it is what was written to it, but no more than can lie between us and the collector's program: our send
    /// buffer, what TLS held, and [`PEER_BUFFER`](super::PEER_BUFFER).
    pub possibly_lost_bytes: u64,
    /// UDP: how often the network said that nobody listens. Each time at least one packet of those sent was lost.
    pub refused: u64,
    /// Connections that came up (UDP: sockets).
    pub connected: u64,
    /// Connections that broke.
    pub broken: u64,
    /// Attempts to connect that failed.
    pub failed_attempts: u64,
}

pub(super) struct Queue {
    state: Mutex<State>,
    /// For the task: something waits, or is to be ended.
    wake: Notify,
    max_packets: usize,
    max_bytes: usize,
}

#[derive(Default)]
struct State {
    packets: VecDeque<Bytes>,
    /// Of those that wait, and of those that are being written.
    bytes: usize,
    availability: Availability,
    counters: Counters,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Availability {
    #[default]
    Up,
    Down,
    /// Nothing more is taken; what waits is still sent.
    Closing,
}

impl Queue {
    pub(super) fn new(settings: &DestinationSettings) -> Self {
        Self {
            state: Mutex::default(),
            wake: Notify::new(),
            max_packets: settings.queue_packets,
            max_bytes: settings.queue_bytes,
        }
    }

    /// Takes a packet, or counts why not. Never waits for more than the lock.
    pub(super) fn push(&self, packet: &Result<Bytes, EncodeError>) {
        let mut state = self.state.lock();
        state.counters.submitted += 1;
        let Ok(packet) = packet else {
            state.counters.dropped_unsendable += 1;
            return;
        };
        if state.availability != Availability::Up {
            state.counters.dropped_while_down += 1;
            return;
        }
        let waiting = state.counters.waiting;
        if waiting >= self.max_packets as u64 || state.bytes.saturating_add(packet.len()) > self.max_bytes {
            state.counters.dropped_by_queue += 1;
            return;
        }
        state.bytes += packet.len();
        state.counters.waiting += 1;
        let first = state.packets.is_empty();
        state.packets.push_back(packet.clone());
        drop(state);
        if first {
            self.wake.notify_one();
        }
    }

    /// Waits until there may be something to do.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Whether so many packets may wait.
    pub(super) fn has_room_for(&self, packets: usize) -> bool {
        self.max_packets >= packets
    }

    /// Moves what waits into `batch`, up to [`BATCH`]; it counts as waiting until it is settled.
    pub(super) fn take(&self, batch: &mut VecDeque<Bytes>) {
        let mut state = self.state.lock();
        let n = state.packets.len().min(BATCH.saturating_sub(batch.len()));
        batch.extend(state.packets.drain(..n));
    }

    /// Packets of a batch are with the kernel.
    pub(super) fn sent(&self, packets: u64, bytes: usize) {
        let mut state = self.state.lock();
        state.bytes -= bytes;
        state.counters.waiting -= packets;
        state.counters.sent += packets;
        state.counters.sent_bytes += bytes as u64;
    }

    /// A packet of a batch cannot be sent at all.
    pub(super) fn unsendable(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.bytes -= bytes;
        state.counters.waiting -= 1;
        state.counters.dropped_unsendable += 1;
    }

    /// Drops everything, what is in a batch too, which the caller forgets; and everything until [`up`](Self::up).
    pub(super) fn down(&self) {
        let mut state = self.state.lock();
        state.counters.dropped_while_down += state.counters.waiting;
        state.counters.waiting = 0;
        state.bytes = 0;
        state.packets.clear();
        if state.availability == Availability::Up {
            state.availability = Availability::Down;
        }
    }

    pub(super) fn up(&self) {
        let mut state = self.state.lock();
        if state.availability == Availability::Down {
            state.availability = Availability::Up;
        }
    }

    /// Takes nothing more.
    pub(super) fn close(&self) {
        self.state.lock().availability = Availability::Closing;
        self.wake.notify_one();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.state.lock().availability == Availability::Closing
    }

    /// For what concerns connections.
    pub(super) fn count(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.state.lock().counters);
    }

    pub(super) fn counters(&self) -> Counters {
        self.state.lock().counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(packets: usize, bytes: usize) -> Queue {
        let mut settings = DestinationSettings::new("x", "hep_udp://127.0.0.1".parse().unwrap());
        settings.queue_packets = packets;
        settings.queue_bytes = bytes;
        Queue::new(&settings)
    }

    fn push(queue: &Queue, length: usize) {
        queue.push(&Ok(vec![0; length].into()));
        check(queue);
    }

    fn check(queue: &Queue) {
        let c = queue.counters();
        let dropped = c.dropped_by_queue + c.dropped_while_down + c.dropped_unsendable;
        assert_eq!(c.submitted, c.sent + dropped + c.waiting, "{c:?}");
    }

    #[test]
    fn a_queue_takes_as_many_packets_as_it_may() {
        let queue = queue(3, 1000);
        for (n, dropped) in [(1, 0), (2, 0), (3, 0), (4, 1), (5, 2)] {
            push(&queue, 1);
            assert_eq!(queue.counters().dropped_by_queue, dropped, "packet {n}");
        }
        // What is being written still counts; what is sent makes room.
        let mut batch = VecDeque::new();
        queue.take(&mut batch);
        push(&queue, 1);
        assert_eq!((batch.len(), queue.counters().dropped_by_queue), (3, 3));
        queue.sent(1, 1);
        push(&queue, 1);
        assert_eq!(queue.counters().dropped_by_queue, 3);
    }

    #[test]
    fn a_queue_takes_as_many_octets_as_it_may() {
        let queue = queue(100, 10);
        push(&queue, 4);
        push(&queue, 6);
        assert_eq!(queue.counters().dropped_by_queue, 0);
        push(&queue, 1);
        assert_eq!(queue.counters().dropped_by_queue, 1);
        let mut batch = VecDeque::new();
        queue.take(&mut batch);
        queue.unsendable(4);
        check(&queue);
        push(&queue, 5);
        push(&queue, 4);
        assert_eq!(queue.counters().dropped_by_queue, 2);
    }

    #[test]
    fn what_waits_when_the_destination_goes_down_is_dropped_and_what_comes_then_too() {
        let queue = queue(100, 1000);
        push(&queue, 1);
        push(&queue, 1);
        queue.take(&mut VecDeque::new());
        push(&queue, 1);
        queue.down();
        check(&queue);
        push(&queue, 1);
        assert_eq!((queue.counters().dropped_while_down, queue.counters().waiting), (4, 0));
        queue.up();
        push(&queue, 1);
        assert_eq!(queue.counters().waiting, 1);
        queue.close();
        queue.up();
        push(&queue, 1);
        queue.push(&Err(EncodeError::Addresses));
        check(&queue);
        let counters = queue.counters();
        assert_eq!((counters.waiting, counters.dropped_while_down, counters.dropped_unsendable), (1, 5, 1));
    }
}
