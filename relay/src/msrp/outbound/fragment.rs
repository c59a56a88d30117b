//! A chunk on the wire as a stream of bytes: begun when its turn comes, continued while its body
//! arrives, interrupted when others wait.

use msrp_proto::encoder;
use msrp_proto::flag::Flag;
use msrp_proto::header::{ByteRange, FailureReport};
use msrp_proto::ident::TransactionId;

use super::{LANE_QUANTUM, MAX_SPARE, Outbound};
use crate::msrp::transactions::Failure;
use crate::msrp::wire::Random;

/// The fragment whose head is on the wire, and whose end is not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Current {
    pub(super) lane: usize,
    pub(super) transaction: TransactionId,
    /// The place in the message of the fragment's first byte.
    pub(super) start: u64,
    /// Whether the head says that the chunk may end anywhere.
    pub(super) interruptible: bool,
    /// The next hop has answered before the end: nothing is awaited any more.
    pub(super) answered: bool,
}

/// The head as it is traced: without the empty line before a body.
pub(super) fn head_of(head: &[u8], has_body: bool) -> &[u8] {
    if has_body { head.strip_suffix(b"\r\n").unwrap_or(head) } else { head }
}

pub(super) fn new_transaction(random: &dyn Random) -> TransactionId {
    let mut bits = [0; 10];
    random.fill(&mut bits);
    TransactionId::from_random(bits)
}

impl Outbound {
    /// Puts the head of the next lane's first chunk on the wire.
    pub(super) fn begin_fragment(&mut self, random: &dyn Random) -> bool {
        if self.is_full_of_transactions() || self.winding_up {
            return false;
        }
        let Some(index) = self.lanes.next_turn() else { return false };
        let lane = self.lanes.at(index);
        let Some(chunk) = lane.chunks.front_mut() else { return true };
        let Some(origin) = &chunk.origin else { return true };

        let transaction = new_transaction(random);
        // A chunk that is whole and small goes on as it came, or as the rest of what it was. One that
        // will never be whole must not say where it ends.
        let interruptible =
            chunk.silent || chunk.end.is_none() || chunk.buffered > self.settings.interrupt_size;
        let open = origin.range.end.is_none();
        let range = match (chunk.interrupted, interruptible) {
            (false, false) => None,
            // As it came, but the end is open: it says so already.
            (false, true) if open && origin.has_range() => None,
            (_, true) => Some(ByteRange { start: chunk.position, end: None, total: origin.range.total }),
            (true, false) => {
                let last = (chunk.position + chunk.buffered).saturating_sub(1);
                let end = (chunk.buffered > 0).then_some(last);
                Some(ByteRange { start: chunk.position, end, total: origin.range.total })
            }
        };
        let has_body = chunk.has_body;
        let head = self.wire.text(|out| {
            let head = origin.write_head(out, &transaction, range);
            if has_body {
                head.body();
            } else {
                head.no_body();
            }
        });
        if let Some(watch) = self.watch.as_mut().filter(|watch| watch.is_on()) {
            watch.begin(origin.session, head_of(head, has_body), has_body);
        }
        chunk.fragment = 0;
        self.current =
            Some(Current { lane: index, transaction, start: chunk.position, interruptible, answered: false });
        true
    }

    /// Goes on with the current fragment; `false` if nothing of it can go now.
    pub(super) fn advance(&mut self, current: Current) -> bool {
        let waits_control = !self.control.is_empty();
        // In an orderly stop nothing would go on after an interruption.
        let waits = (waits_control || self.lanes.any_ready()) && !self.winding_up;
        let lane = self.lanes.at(current.lane);
        let Some(chunk) = lane.chunks.front_mut() else {
            self.current = None;
            return true;
        };
        let sendable = chunk.sendable();
        if sendable == 0 {
            if let Some(flag) = chunk.end {
                self.finish(current, flag);
                return true;
            }
            if waits && current.interruptible && chunk.fragment > 0 {
                self.finish(current, Flag::More);
                return true;
            }
            return false;
        }
        let interrupt_size = self.settings.interrupt_size;
        let turn = if waits_control { interrupt_size } else { LANE_QUANTUM };
        let nearly_done = chunk.end.is_some() && chunk.buffered <= interrupt_size;
        if waits && current.interruptible && chunk.fragment >= turn && !nearly_done {
            self.finish(current, Flag::More);
            return true;
        }
        // Up to where a turn may end, so that the question is asked again there.
        let to_turn = if waits { turn.saturating_sub(chunk.fragment).max(1) } else { LANE_QUANTUM };
        let len = if current.interruptible && !nearly_done { sendable.min(to_turn) } else { sendable };
        self.place_body(current.lane, len);
        true
    }

    /// Puts so many bytes of the lane's first chunk on the wire.
    pub(super) fn place_body(&mut self, index: usize, len: u64) {
        let lane = self.lanes.at(index);
        let Some(chunk) = lane.chunks.front_mut() else { return };
        if let Some(watch) = self.watch.as_mut().filter(|watch| watch.wants_body()) {
            let mut left = len;
            for bytes in &chunk.body {
                let bytes = &bytes[..bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
                left -= bytes.len() as u64;
                watch.body(bytes);
            }
        }
        let placed = self.wire.body(&mut chunk.body, len);
        chunk.buffered -= placed as u64;
        chunk.position += placed as u64;
        chunk.fragment += placed as u64;
        lane.queued -= placed;
        self.relieve(index);
    }

    /// Writes the end-line of the current fragment.
    pub(super) fn finish(&mut self, current: Current, flag: Flag) {
        self.current = None;
        let lane = self.lanes.at(current.lane);
        let Some(chunk) = lane.chunks.front_mut() else { return };
        let has_body = chunk.has_body;
        if let Some(watch) = &mut self.watch {
            watch.end();
        }
        self.wire.end(|out| {
            if has_body {
                encoder::end_line(out, &current.transaction, flag);
            } else {
                encoder::end_line_after_head(out, &current.transaction, flag);
            }
        });

        let interrupted = chunk.end != Some(flag) || chunk.buffered > 0;
        let end = chunk.position.saturating_sub(1);
        let silent = chunk.silent || current.answered;
        // A fragment that has left is reported on, even while the rest still arrives.
        let answered = chunk.answered || interrupted;
        let wanted = chunk.origin.as_ref().map_or(FailureReport::No, |origin| origin.failure_report);
        let origin = if interrupted {
            chunk.interrupted = true;
            chunk.fragment = 0;
            (!silent && wanted != FailureReport::No).then(|| {
                let mut copy = self.spare_origins.pop().unwrap_or_default();
                if let Some(origin) = &chunk.origin {
                    copy.copy_from(origin);
                }
                copy
            })
        } else {
            let origin = chunk.origin.take();
            if let Some(mut chunk) = lane.chunks.pop_front()
                && self.spare_chunks.len() < MAX_SPARE
            {
                chunk.reset();
                self.spare_chunks.push(chunk);
            }
            lane.queued -= origin.as_ref().map_or(0, |origin| origin.len());
            origin
        };
        self.relieve(current.lane);
        if let Some(origin) = origin {
            if silent || wanted == FailureReport::No {
                self.recycle(origin);
            } else {
                let range = ByteRange { start: current.start, end: Some(end), total: origin.range.total };
                let failure = Failure { origin, answered, range };
                self.transactions.await_chunk_response(current.transaction, failure, self.wire.placed());
            }
        }
        self.make_ready(current.lane);
        self.lanes.retire(current.lane);
    }
}
