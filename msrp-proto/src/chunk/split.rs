//! From a message to its chunks.

use super::EndLineGuard;
use crate::flag::Flag;
use crate::header::ByteRange;
use crate::ident::TransactionId;

/// The least body of a chunk that is interrupted, and the greatest of one that may declare its end
/// and so cannot be interrupted, in bytes (RFC 4975 §7.1.1).
pub const MIN_INTERRUPT: u64 = 2048;

/// How a message is split into chunks (RFC 4975 §7.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chunking {
    /// As few chunks as possible: one, unless other traffic waits. What RFC 4975 strongly
    /// recommends.
    #[default]
    Interruptible,
    /// Chunks of that many bytes, but the last one; 0 is taken for 1. One of more than
    /// [`MIN_INTERRUPT`] bytes does not declare its end and is interrupted when other traffic waits.
    Fixed(u64),
}

/// Where an outgoing message stands. See the [module](super).
#[derive(Clone, Debug)]
pub struct Splitter {
    chunking: Chunking,
    total: Option<u64>,
    sent: u64,
    chunk: Option<Chunk>,
}

#[derive(Clone, Debug)]
struct Chunk {
    start: u64,
    /// The position after the chunk's last byte, if it has to end there.
    limit: Option<u64>,
    /// Its end is declared in its head: it must not be interrupted.
    declared: bool,
    guard: EndLineGuard,
    /// The guard has stopped it: nothing more fits into it.
    stopped: bool,
}

impl Splitter {
    /// A message of `total` bytes, if that is known.
    pub fn new(chunking: Chunking, total: Option<u64>) -> Self {
        Self { chunking, total, sent: 0, chunk: None }
    }

    /// The message's length has become known; what was sent must not exceed it.
    pub fn set_total(&mut self, total: u64) {
        self.total = Some(total.max(self.sent));
    }

    /// The message's length, if known.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// How many bytes of the message have been sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether all of it has been sent.
    pub fn is_complete(&self) -> bool {
        self.total == Some(self.sent)
    }

    /// How many bytes must be at hand before the next chunk is opened, so that it can become
    /// [`MIN_INTERRUPT`] bytes long, or as long as it declares, without waiting for its source.
    /// While the length is unknown this is one byte more: what is sent is never all there is, or the
    /// last chunk might turn out to be empty.
    pub fn needed(&self) -> u64 {
        let least = match self.chunking {
            Chunking::Interruptible => MIN_INTERRUPT,
            Chunking::Fixed(size) => size.clamp(1, MIN_INTERRUPT),
        };
        match self.total {
            Some(total) => least.min(total - self.sent),
            None => least + 1,
        }
    }

    /// Opens a chunk and gives its Byte-Range.
    pub fn open(&mut self, transaction: &TransactionId) -> ByteRange {
        let limit = match self.chunking {
            Chunking::Interruptible => None,
            Chunking::Fixed(size) => Some(self.sent.saturating_add(size.max(1))),
        };
        let end = match (limit, self.total) {
            (Some(limit), Some(total)) => Some(limit.min(total)),
            (limit, total) => limit.or(total),
        };
        let declared = end.filter(|end| end - self.sent <= MIN_INTERRUPT);
        self.chunk = Some(Chunk {
            start: self.sent,
            limit,
            declared: declared.is_some(),
            guard: EndLineGuard::new(transaction),
            stopped: false,
        });
        ByteRange {
            // Nothing at all has no other place than the first (§7.1.1).
            start: self.sent + 1,
            end: declared,
            total: self.total,
        }
    }

    /// How many of `data`, the next bytes of the message, go into the open chunk; they count as
    /// sent. `more` tells that further bytes are at hand behind `data`.
    pub fn take(&mut self, data: &[u8], more: bool) -> usize {
        let Some(chunk) = &mut self.chunk else { return 0 };
        if chunk.stopped {
            return 0;
        }
        let mut room = chunk.limit.map_or(u64::MAX, |limit| limit - self.sent);
        match self.total {
            Some(total) => room = room.min(total - self.sent),
            // The last byte at hand waits until it is known whether it is the last one of all.
            None if !more => room = room.min((data.len() as u64).saturating_sub(1)),
            None => {}
        }
        let offered = &data[..data.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        let taken = chunk.guard.pass(offered);
        chunk.stopped = taken < offered.len();
        self.sent += taken as u64;
        taken
    }

    /// The flag with which the open chunk has to end now, if it has to.
    pub fn must_end(&self) -> Option<Flag> {
        let chunk = self.chunk.as_ref()?;
        if self.is_complete() {
            Some(Flag::Complete)
        } else if chunk.stopped || chunk.limit == Some(self.sent) {
            Some(Flag::More)
        } else {
            None
        }
    }

    /// Whether the open chunk may be ended for other traffic: it is long enough, and did not declare
    /// its end.
    pub fn may_interrupt(&self) -> bool {
        self.chunk.as_ref().is_some_and(|chunk| !chunk.declared && self.sent - chunk.start >= MIN_INTERRUPT)
    }

    /// How many bytes the open chunk holds.
    pub fn chunk_len(&self) -> u64 {
        self.chunk.as_ref().map_or(0, |chunk| self.sent - chunk.start)
    }

    /// Closes the open chunk; gives the range it really held.
    pub fn close(&mut self) -> ByteRange {
        let start = self.chunk.take().map_or(self.sent, |chunk| chunk.start);
        ByteRange { start: start + 1, end: Some(self.sent), total: self.total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(text: &[u8]) -> TransactionId {
        TransactionId::new(text).unwrap()
    }

    #[test]
    fn a_short_message_declares_its_end_and_a_long_one_does_not() {
        for (total, range) in [
            (0, "1-0/0"),
            (1, "1-1/1"),
            (2047, "1-2047/2047"),
            (2048, "1-2048/2048"),
            (2049, "1-*/2049"),
            (u64::MAX - 1, "1-*/18446744073709551614"),
        ] {
            let mut splitter = Splitter::new(Chunking::Interruptible, Some(total));
            assert_eq!(splitter.needed(), total.min(2048));
            assert_eq!(splitter.open(&id(b"abcd")).to_string(), range);
            assert_eq!(splitter.must_end(), (total == 0).then_some(Flag::Complete));
        }
    }

    #[test]
    fn interruption_waits_for_2048_bytes() {
        let mut splitter = Splitter::new(Chunking::Interruptible, Some(5000));
        splitter.open(&id(b"abcd"));
        assert_eq!(splitter.take(&[b'x'; 2047], true), 2047);
        assert!(!splitter.may_interrupt());
        assert_eq!(splitter.take(b"x", true), 1);
        assert!(splitter.may_interrupt());
        assert_eq!(splitter.must_end(), None);
        assert_eq!(splitter.close().to_string(), "1-2048/5000");
        assert_eq!(splitter.open(&id(b"efgh")).to_string(), "2049-*/5000");
        assert_eq!(splitter.take(&[b'x'; 4000], false), 2952);
        assert_eq!(splitter.must_end(), Some(Flag::Complete));
        assert_eq!(splitter.close().to_string(), "2049-5000/5000");
        assert!(splitter.is_complete());
    }

    #[test]
    fn a_chunk_that_declared_its_end_is_not_interrupted() {
        let mut splitter = Splitter::new(Chunking::Interruptible, Some(2048));
        splitter.open(&id(b"abcd"));
        splitter.take(&[b'x'; 2048], false);
        assert!(!splitter.may_interrupt());
    }

    #[test]
    fn fixed_chunks_end_where_they_have_to() {
        let mut splitter = Splitter::new(Chunking::Fixed(4), Some(10));
        for (range, taken, flag) in
            [("1-4/10", 4, Flag::More), ("5-8/10", 4, Flag::More), ("9-10/10", 2, Flag::Complete)]
        {
            assert_eq!(splitter.open(&id(b"abcd")).to_string(), range);
            assert_eq!(splitter.take(b"xxxxxxxxxx", true), taken);
            assert_eq!(splitter.must_end(), Some(flag));
            assert_eq!(splitter.close().to_string(), range);
        }
        let mut large = Splitter::new(Chunking::Fixed(2049), Some(5000));
        assert_eq!(large.open(&id(b"abcd")).to_string(), "1-*/5000");
        assert_eq!(large.take(&[b'x'; 5000], false), 2049);
        assert_eq!(large.must_end(), Some(Flag::More));
    }

    #[test]
    fn of_an_unknown_length_the_last_byte_waits() {
        let mut splitter = Splitter::new(Chunking::Interruptible, None);
        assert_eq!(splitter.needed(), 2049);
        assert_eq!(splitter.open(&id(b"abcd")).to_string(), "1-*/*");
        assert_eq!(splitter.take(b"xyz", true), 3);
        assert_eq!(splitter.take(b"xyz", false), 2);
        assert_eq!(splitter.take(b"z", false), 0);
        splitter.set_total(6);
        assert_eq!(splitter.take(b"z", false), 1);
        assert_eq!(splitter.must_end(), Some(Flag::Complete));
    }

    #[test]
    fn the_chunks_own_end_line_ends_it_before() {
        let mut splitter = Splitter::new(Chunking::Interruptible, Some(3000));
        splitter.open(&id(b"abcd"));
        assert_eq!(splitter.take(b"xy-------abcd$", true), 2);
        assert_eq!(splitter.must_end(), Some(Flag::More));
        assert_eq!(splitter.take(b"-------abcd$", true), 0);
        splitter.close();
        splitter.open(&id(b"efgh"));
        assert_eq!(splitter.take(b"-------abcd$", true), 12);
        assert_eq!(splitter.must_end(), None);
    }

    proptest! {
        #[test]
        fn chunks_lie_one_behind_the_other_and_make_the_message(
            total in 0u64..9000,
            known: bool,
            size in prop::option::of(1u64..5000),
            cuts in prop::collection::vec(1usize..3000, 1..10),
        ) {
            let body = vec![b'x'; total as usize];
            let chunking = size.map_or(Chunking::Interruptible, Chunking::Fixed);
            let mut splitter = Splitter::new(chunking, known.then_some(total));
            let (mut at, mut flags) = (0, Vec::new());
            let mut cuts = cuts.iter().copied().cycle();
            while !flags.contains(&Flag::Complete) {
                if (body.len() - at) as u64 <= splitter.needed() {
                    splitter.set_total(total);
                }
                let range = splitter.open(&id(b"abcd"));
                prop_assert_eq!(range.start, at as u64 + 1);
                let flag = loop {
                    if let Some(flag) = splitter.must_end() {
                        break flag;
                    }
                    if splitter.may_interrupt() {
                        break Flag::More;
                    }
                    let cut = cuts.next().unwrap_or(1).max(2).min(body.len() - at);
                    let taken = splitter.take(&body[at..at + cut], at + cut < body.len());
                    at += taken;
                    if taken == 0 {
                        splitter.set_total(total);
                    }
                };
                let held = splitter.close();
                prop_assert_eq!(held.end, Some(at as u64));
                prop_assert!(range.end.is_none_or(|end| end == at as u64));
                let enough = size.unwrap_or(u64::MAX).min(MIN_INTERRUPT);
                prop_assert!(flag == Flag::Complete || held.declared_len().unwrap_or(0) >= enough);
                flags.push(flag);
            }
            prop_assert_eq!(at as u64, total);
        }
    }
}
