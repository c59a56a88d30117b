//! From chunks to the message.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use thiserror::Error;

use super::Coverage;
use crate::flag::Flag;
use crate::header::ByteRange;

/// How many separate runs of bytes a message may have at one time. Relays may change the order of
/// chunks, so there are some; a message in thousands of pieces is an attack on our memory.
pub const MAX_RUNS: usize = 256;

/// Why a chunk was not taken. The message it belongs to cannot become complete any more: answer 413.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReassemblyError {
    /// The message is, or says it is, longer than allowed.
    #[error("message exceeds {0} bytes")]
    TooLong(u64),
    /// More than [`MAX_RUNS`] runs.
    #[error("message arrives in more than {MAX_RUNS} pieces")]
    TooManyRuns,
    /// As many messages are open as may be.
    #[error("more than {0} messages are incomplete")]
    TooManyMessages(usize),
    /// Data or an end without a chunk that was started.
    #[error("no chunk of that message has begun")]
    NotStarted,
}

/// What the end of a chunk means for its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkEnd {
    /// Bytes are missing yet.
    More,
    /// All bytes are there; the message has that many.
    Complete(u64),
    /// The sender has abandoned the message.
    Aborted,
}

/// Which bytes of one message have arrived. Holds no bytes.
#[derive(Clone, Debug)]
pub struct Progress {
    max: u64,
    arrived: Coverage,
    /// Defined by the chunk with `$` (RFC 4975 §7.3.1), whatever the heads said.
    total: Option<u64>,
    /// Start of the open chunk, and the place of its next byte.
    chunk: (u64, u64),
}

impl Progress {
    /// A message of which nothing has arrived, and which may have up to `max` bytes.
    pub fn new(max: u64) -> Self {
        Self { max, arrived: Coverage::default(), total: None, chunk: (0, 0) }
    }

    /// A chunk begins.
    ///
    /// # Errors
    /// [`ReassemblyError::TooLong`] if by its Byte-Range the message is too long. Nothing has
    /// changed then.
    pub fn start(&mut self, range: &ByteRange) -> Result<(), ReassemblyError> {
        let start = range.start.saturating_sub(1);
        if start > self.max || range.total.is_some_and(|total| total > self.max) {
            return Err(ReassemblyError::TooLong(self.max));
        }
        self.chunk = (start, start);
        Ok(())
    }

    /// `len` bytes of the open chunk have arrived; gives their place in the message, from 0.
    ///
    /// # Errors
    /// [`ReassemblyError::TooLong`], [`ReassemblyError::TooManyRuns`]. Nothing has changed then.
    pub fn advance(&mut self, len: usize) -> Result<u64, ReassemblyError> {
        let at = self.chunk.1;
        let end = at
            .checked_add(len as u64)
            .filter(|end| *end <= self.max)
            .ok_or(ReassemblyError::TooLong(self.max))?;
        if self.arrived.runs().len() >= MAX_RUNS && self.arrived.end() != at {
            let mut grown = self.arrived.clone();
            grown.insert(at..end);
            if grown.runs().len() > MAX_RUNS {
                return Err(ReassemblyError::TooManyRuns);
            }
            self.arrived = grown;
        } else {
            self.arrived.insert(at..end);
        }
        self.chunk.1 = end;
        Ok(at)
    }

    /// The open chunk ends. `$` defines the message's length; what came for places behind it does
    /// not count.
    pub fn end(&mut self, flag: Flag) -> ChunkEnd {
        match flag {
            Flag::Abort => return ChunkEnd::Aborted,
            Flag::Complete => self.total = Some(self.chunk.1),
            Flag::More => {}
        }
        match self.total {
            Some(total) if self.arrived.covers(total) => ChunkEnd::Complete(total),
            _ => ChunkEnd::More,
        }
    }

    /// The range that the open chunk, or the last one, really held so far.
    pub fn chunk_range(&self, total: Option<u64>) -> ByteRange {
        ByteRange { start: self.chunk.0 + 1, end: Some(self.chunk.1), total: self.total.or(total) }
    }

    /// The bytes that have arrived.
    pub fn arrived(&self) -> &Coverage {
        &self.arrived
    }

    /// Changes how long the message may be.
    pub fn set_max(&mut self, max: u64) {
        self.max = max;
    }
}

/// One message in memory: [`Progress`] and the bytes. Of bytes that come twice the last ones count
/// (RFC 4975 §7.3.1).
#[derive(Clone, Debug)]
pub struct Assembly {
    progress: Progress,
    bytes: Vec<u8>,
}

impl Assembly {
    /// A message of up to `max` bytes. Memory is taken up to the last byte that has arrived, holes
    /// before it included.
    pub fn new(max: u64) -> Self {
        Self { progress: Progress::new(max), bytes: Vec::new() }
    }

    /// A chunk begins.
    ///
    /// # Errors
    /// As [`Progress::start`].
    pub fn start(&mut self, range: &ByteRange) -> Result<(), ReassemblyError> {
        self.progress.start(range)
    }

    /// Bytes of the open chunk have arrived.
    ///
    /// # Errors
    /// As [`Progress::advance`]; the bytes are not taken then.
    pub fn data(&mut self, bytes: &[u8]) -> Result<(), ReassemblyError> {
        let Ok(at) = usize::try_from(self.progress.advance(bytes.len())?) else {
            return Err(ReassemblyError::TooLong(usize::MAX as u64));
        };
        let end = at + bytes.len();
        if self.bytes.len() <= at {
            // In order, nothing is written twice.
            self.bytes.resize(at, 0);
            self.bytes.extend_from_slice(bytes);
        } else {
            if self.bytes.len() < end {
                self.bytes.resize(end, 0);
            }
            self.bytes[at..end].copy_from_slice(bytes);
        }
        Ok(())
    }

    /// The open chunk ends.
    pub fn end(&mut self, flag: Flag) -> ChunkEnd {
        self.progress.end(flag)
    }

    /// What has arrived.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The bytes, zeroes where none has arrived; for who wants to go on without the buffer.
    pub fn into_parts(self) -> (Progress, Vec<u8>) {
        (self.progress, self.bytes)
    }
}

/// How much a [`Reassembler`] holds. Its memory is bounded by the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReassemblyLimits {
    /// Bytes of one message. Default 1 MiB: text and small pictures; files should be streamed. A
    /// longer one is refused at the byte or the Byte-Range that says so.
    pub message_bytes: u64,
    /// Messages that are incomplete at one time. Default 16. One more is refused.
    pub open_messages: usize,
}

impl Default for ReassemblyLimits {
    fn default() -> Self {
        Self { message_bytes: 1 << 20, open_messages: 16 }
    }
}

/// What the end of a chunk gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reassembled {
    /// Bytes are missing yet.
    More,
    /// The whole message; it is forgotten here.
    Complete(Vec<u8>),
    /// The sender has abandoned the message; it is forgotten here.
    Aborted,
}

/// Messages in memory, by a key that the caller chooses: a Message-ID within one session, or both.
/// Chunks of one message come one after another, those of different messages in any order.
#[derive(Clone, Debug)]
pub struct Reassembler<K> {
    limits: ReassemblyLimits,
    open: HashMap<K, Assembly>,
}

impl<K: Eq + Hash> Reassembler<K> {
    /// Holds nothing yet.
    pub fn new(limits: ReassemblyLimits) -> Self {
        Self { limits, open: HashMap::new() }
    }

    /// A chunk begins, of a message that is open or of a new one.
    ///
    /// # Errors
    /// [`ReassemblyError::TooManyMessages`] for a new one, [`ReassemblyError::TooLong`]. After the
    /// latter the message is forgotten.
    pub fn start(&mut self, key: K, range: &ByteRange) -> Result<(), ReassemblyError> {
        if let Some(assembly) = self.open.get_mut(&key) {
            let started = assembly.start(range);
            if started.is_err() {
                self.open.remove(&key);
            }
            return started;
        }
        if self.open.len() >= self.limits.open_messages {
            return Err(ReassemblyError::TooManyMessages(self.limits.open_messages));
        }
        let mut assembly = Assembly::new(self.limits.message_bytes);
        assembly.start(range)?;
        self.open.insert(key, assembly);
        Ok(())
    }

    /// Bytes of the open chunk of that message have arrived.
    ///
    /// # Errors
    /// As [`Progress::advance`]; the message is forgotten then. [`ReassemblyError::NotStarted`].
    pub fn data<Q>(&mut self, key: &Q, bytes: &[u8]) -> Result<(), ReassemblyError>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let taken = self.open.get_mut(key).ok_or(ReassemblyError::NotStarted)?.data(bytes);
        if taken.is_err() {
            self.open.remove(key);
        }
        taken
    }

    /// The open chunk of that message ends.
    ///
    /// # Errors
    /// [`ReassemblyError::NotStarted`].
    pub fn end<Q>(&mut self, key: &Q, flag: Flag) -> Result<Reassembled, ReassemblyError>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let end = self.open.get_mut(key).ok_or(ReassemblyError::NotStarted)?.end(flag);
        if end == ChunkEnd::More {
            return Ok(Reassembled::More);
        }
        let assembly = self.open.remove(key).ok_or(ReassemblyError::NotStarted)?;
        Ok(match end {
            ChunkEnd::Complete(total) => {
                let (_, mut bytes) = assembly.into_parts();
                bytes.truncate(usize::try_from(total).unwrap_or(usize::MAX));
                Reassembled::Complete(bytes)
            }
            ChunkEnd::Aborted | ChunkEnd::More => Reassembled::Aborted,
        })
    }

    /// Gives up a message.
    pub fn forget<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.open.remove(key);
    }

    /// How many messages are incomplete.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(text: &str) -> ByteRange {
        ByteRange::parse(text.as_bytes()).unwrap()
    }

    fn chunk(
        messages: &mut Reassembler<&'static str>,
        key: &'static str,
        place: &str,
        bytes: &[u8],
        flag: Flag,
    ) -> Result<Reassembled, ReassemblyError> {
        messages.start(key, &range(place))?;
        messages.data(key, bytes)?;
        messages.end(key, flag)
    }

    fn complete(bytes: &[u8]) -> Result<Reassembled, ReassemblyError> {
        Ok(Reassembled::Complete(bytes.to_vec()))
    }

    const MORE: Result<Reassembled, ReassemblyError> = Ok(Reassembled::More);

    #[test]
    fn chunks_come_in_any_order_and_of_any_messages() {
        let mut all = Reassembler::new(ReassemblyLimits::default());
        assert_eq!(chunk(&mut all, "a", "7-9/9", b"ghi", Flag::Complete), MORE);
        assert_eq!(chunk(&mut all, "b", "1-*/*", b"hello", Flag::Complete), complete(b"hello"));
        assert_eq!(chunk(&mut all, "a", "1-3/9", b"abc", Flag::More), MORE);
        assert_eq!(chunk(&mut all, "a", "4-*/9", b"def", Flag::More), complete(b"abcdefghi"));
        assert!(all.is_empty());
    }

    #[test]
    fn where_chunks_overlap_the_last_one_received_wins() {
        let mut all = Reassembler::new(ReassemblyLimits::default());
        assert_eq!(chunk(&mut all, "a", "1-*/8", b"aaaaa", Flag::More), MORE);
        assert_eq!(chunk(&mut all, "a", "3-*/8", b"bbbbbb", Flag::Complete), complete(b"aabbbbbb"));
        assert_eq!(chunk(&mut all, "a", "3-*/8", b"bbbbbb", Flag::Complete), MORE);
        assert_eq!(chunk(&mut all, "a", "1-*/8", b"aaaaa", Flag::More), complete(b"aaaaabbb"));
    }

    #[test]
    fn the_dollar_defines_the_length_whatever_the_heads_say() {
        let mut all = Reassembler::new(ReassemblyLimits::default());
        assert_eq!(chunk(&mut all, "a", "1-*/999", b"abc", Flag::Complete), complete(b"abc"));
        assert_eq!(chunk(&mut all, "a", "1-*/9", b"abcdefghi", Flag::More), MORE);
        assert_eq!(chunk(&mut all, "a", "3-4/9", b"xy", Flag::Complete), complete(b"abxy"));
        assert_eq!(chunk(&mut all, "a", "1-0/0", b"", Flag::Complete), complete(b""));
    }

    #[test]
    fn a_chunk_shorter_or_longer_than_declared_counts_as_it_is() {
        let mut all = Reassembler::new(ReassemblyLimits::default());
        assert_eq!(chunk(&mut all, "a", "1-6/6", b"abc", Flag::More), MORE);
        assert_eq!(chunk(&mut all, "a", "4-4/6", b"def", Flag::Complete), complete(b"abcdef"));
    }

    #[test]
    fn the_hash_aborts() {
        let mut all = Reassembler::new(ReassemblyLimits::default());
        assert_eq!(chunk(&mut all, "a", "1-*/9", b"abc", Flag::More), MORE);
        assert_eq!(chunk(&mut all, "a", "1-0/9", b"", Flag::Abort), Ok(Reassembled::Aborted));
        assert!(all.is_empty());
        assert_eq!(all.end("a", Flag::More), Err(ReassemblyError::NotStarted));
        assert_eq!(all.data("a", b"x"), Err(ReassemblyError::NotStarted));
    }

    #[test]
    fn message_size_limit_is_exact() {
        let limits = ReassemblyLimits { message_bytes: 8, open_messages: 1 };
        let too_long = Err(ReassemblyError::TooLong(8));
        let mut all = Reassembler::new(limits);
        assert_eq!(chunk(&mut all, "a", "1-*/7", b"1234567", Flag::Complete), complete(b"1234567"));
        assert_eq!(chunk(&mut all, "a", "1-*/8", b"12345678", Flag::Complete), complete(b"12345678"));
        assert_eq!(chunk(&mut all, "a", "1-*/9", b"", Flag::More), too_long);
        assert_eq!(chunk(&mut all, "a", "1-*/*", b"123456789", Flag::More), too_long);
        assert_eq!(chunk(&mut all, "a", "8-*/*", b"8", Flag::More), MORE);
        all.forget("a");
        assert_eq!(chunk(&mut all, "a", "8-*/*", b"89", Flag::More), too_long);
        assert_eq!(chunk(&mut all, "a", "10-*/*", b"", Flag::More), too_long);
        assert_eq!(chunk(&mut all, "a", "18446744073709551615-*/*", b"xx", Flag::More), too_long);
        assert!(all.is_empty(), "what was refused is forgotten");
    }

    #[test]
    fn open_message_limit_is_exact() {
        let limits = ReassemblyLimits { message_bytes: 8, open_messages: 2 };
        let mut all = Reassembler::new(limits);
        assert_eq!(chunk(&mut all, "a", "1-*/8", b"1", Flag::More), MORE);
        assert_eq!(chunk(&mut all, "b", "1-*/8", b"1", Flag::More), MORE);
        let too_many = Err(ReassemblyError::TooManyMessages(2));
        assert_eq!(chunk(&mut all, "c", "1-*/8", b"1", Flag::More), too_many);
        // Those that are open go on, and make room when they end.
        assert_eq!(chunk(&mut all, "a", "2-*/8", b"2", Flag::Complete), complete(b"12"));
        assert_eq!(chunk(&mut all, "c", "1-*/8", b"1", Flag::More), MORE);
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn run_limit_is_exact() {
        let mut progress = Progress::new(u64::MAX);
        for run in 0..MAX_RUNS as u64 {
            progress.start(&ByteRange { start: 2 * run + 1, end: None, total: None }).unwrap();
            progress.advance(1).unwrap();
        }
        progress.start(&ByteRange { start: 10_000, end: None, total: None }).unwrap();
        assert_eq!(progress.advance(1), Err(ReassemblyError::TooManyRuns));
        // One that closes a hole, and one that continues the last run, are still taken.
        progress.start(&range("2-*/*")).unwrap();
        assert_eq!(progress.advance(1), Ok(1));
        progress.start(&ByteRange { start: 2 * MAX_RUNS as u64, end: None, total: None }).unwrap();
        assert_eq!(progress.advance(1), Ok(2 * MAX_RUNS as u64 - 1));
    }

    proptest! {
        #[test]
        fn any_chunks_in_any_order_make_what_the_last_ones_say(
            len in 1usize..60,
            chunks in prop::collection::vec((0usize..60, 1usize..30, any::<u8>()), 0..12),
        ) {
            let mut assembly = Assembly::new(1000);
            let mut expected = vec![0u8; len];
            let pieces = std::iter::once((0, len, 1u8)).chain(chunks);
            let mut end = ChunkEnd::More;
            for (start, size, byte) in pieces {
                let start = start.min(len - 1);
                let size = size.min(len - start);
                assembly.start(&ByteRange { start: start as u64 + 1, end: None, total: None }).unwrap();
                for _ in 0..size {
                    assembly.data(&[byte]).unwrap();
                }
                expected[start..start + size].fill(byte);
                end = assembly.end(if start + size == len { Flag::Complete } else { Flag::More });
            }
            prop_assert_eq!(end, ChunkEnd::Complete(len as u64));
            prop_assert_eq!(assembly.into_parts().1, expected);
        }
    }
}
