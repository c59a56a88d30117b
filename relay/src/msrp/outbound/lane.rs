//! The SEND chunks of one sender that wait, in order, and whose turn it is.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use msrp_proto::flag::Flag;

use super::{Gone, QueueSettings, message};
use crate::msrp::link::Link;
use crate::msrp::origin::Origin;

/// Names a lane: the connection the chunks come from, and the session they belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LaneKey {
    pub(crate) source: u64,
    pub(crate) session: u128,
}

/// Names a chunk within its lane.
pub(crate) type ChunkId = u64;

/// A chunk; [`outbound`](super) says what its states are.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) id: ChunkId,
    pub(super) origin: Option<Box<Origin>>,
    pub(super) has_body: bool,
    pub(super) body: VecDeque<Bytes>,
    pub(super) buffered: u64,
    /// Known once the sender, or something that befell it, has ended the chunk.
    pub(super) end: Option<Flag>,
    /// The sender ended it, and has its 200 if it wanted one.
    pub(super) answered: bool,
    /// The place in the message of the first byte not yet put on the wire.
    pub(super) position: u64,
    /// Bytes of the current fragment on the wire.
    pub(super) fragment: u64,
    /// Whether a fragment went before: the Byte-Range must be ours.
    pub(super) interrupted: bool,
    /// An abandoned chunk: what becomes of it concerns nobody.
    pub(super) silent: bool,
}

impl Chunk {
    fn declared_small(&self, gather_size: u64) -> bool {
        let declared = self.origin.as_ref().and_then(|origin| origin.range.declared_len());
        declared.is_some_and(|len| len <= gather_size)
    }

    /// Body bytes that may go now: all if the chunk has ended, else all but one.
    pub(super) fn sendable(&self) -> u64 {
        if self.end.is_some() { self.buffered } else { self.buffered.saturating_sub(1) }
    }

    /// Whether a fragment of it can begin.
    pub(super) fn can_begin(&self, settings: &QueueSettings) -> bool {
        if self.end.is_some() {
            return true;
        }
        if let Some(chunk_size) = settings.chunk_size {
            return message::is_enough(self, chunk_size, settings);
        }
        let gather_size = settings.gather_size();
        let gathering = self.declared_small(gather_size) && self.buffered <= gather_size;
        self.sendable() > 0 && !gathering
    }

    /// Makes it one to be used again.
    pub(super) fn reset(&mut self) {
        self.body.clear();
        *self = Self { body: std::mem::take(&mut self.body), ..Self::default() };
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Lane {
    key: Option<LaneKey>,
    pub(super) chunks: VecDeque<Chunk>,
    /// Bytes held by the chunks.
    pub(super) queued: usize,
    pub(super) source: Option<Arc<Link>>,
    /// The source stopped reading and waits to be woken.
    pub(super) source_waits: bool,
    in_ready: bool,
    /// The lane was full for too long: what comes is refused until it drains.
    pub(super) stalled: bool,
}

impl Lane {
    /// What counts against `session_buffer`. The head of a chunk that is still coming does not: it goes
    /// with the chunk's end only, and a long one would keep that from coming.
    fn held(&self) -> usize {
        let open = self.chunks.back().filter(|chunk| chunk.end.is_none());
        self.queued - open.and_then(|chunk| chunk.origin.as_ref()).map_or(0, |origin| origin.len())
    }

    /// What counts against `async_max_postponed_chunks`. A chunk that is still coming does not: it
    /// may go only when more of it has come.
    fn whole_chunks(&self) -> usize {
        let open = self.chunks.back().is_some_and(|chunk| chunk.end.is_none());
        self.chunks.len() - usize::from(open)
    }

    /// Whether so much waits that the source must stop reading.
    pub(super) fn is_full(&self, settings: &QueueSettings) -> bool {
        self.held() >= settings.session_buffer || self.whole_chunks() >= settings.max_messages
    }

    /// Whether so little waits that it may read on.
    pub(super) fn is_relieved(&self, settings: &QueueSettings) -> bool {
        self.held() <= settings.session_buffer / 2 && self.whole_chunks() <= settings.max_messages / 2
    }
}

/// The lanes of one link.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    all: Vec<Lane>,
    free: Vec<usize>,
    /// The one that was opened last.
    last: usize,
    by_key: HashMap<LaneKey, usize>,
    /// Those whose first chunk can begin, in the order of their turns.
    ready: VecDeque<usize>,
}

impl Lanes {
    /// Gives back the room that nothing stands in.
    pub(super) fn quiet(&mut self) {
        if self.is_empty() && self.ready.is_empty() {
            *self = Self::default();
        }
    }

    /// Whether nothing waits in any.
    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Whether one waits for its turn.
    pub(super) fn any_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether the first chunk of one has left in part.
    pub(super) fn any_begun(&self) -> bool {
        self.iter().any(|lane| lane.chunks.front().is_some_and(|chunk| chunk.interrupted))
    }

    /// Those in use.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Lane> {
        self.by_key.values().map(|&index| &self.all[index])
    }

    /// The lane of this number, which [`find`](Self::find), [`open`](Self::open) or
    /// [`next_turn`](Self::next_turn) gave.
    pub(super) fn at(&mut self, index: usize) -> &mut Lane {
        &mut self.all[index]
    }

    pub(super) fn find(&self, key: LaneKey) -> Option<usize> {
        // Mostly it is the one before.
        if self.all.get(self.last).is_some_and(|lane| lane.key == Some(key)) {
            return Some(self.last);
        }
        self.by_key.get(&key).copied()
    }

    /// The lane with this key, which is made if it is not there.
    pub(super) fn open(&mut self, key: LaneKey, source: &Arc<Link>) -> usize {
        if let Some(index) = self.find(key) {
            return index;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.all.push(Lane::default());
            self.all.len() - 1
        });
        let lane = &mut self.all[index];
        lane.key = Some(key);
        lane.source = Some(Arc::clone(source));
        self.by_key.insert(key, index);
        self.last = index;
        index
    }

    /// The chunk that is still coming, and its lane.
    pub(super) fn open_chunk(&mut self, key: LaneKey, id: ChunkId) -> Result<(usize, &mut Chunk), Gone> {
        let index = self.find(key).ok_or(Gone)?;
        let chunk = self.all[index].chunks.back_mut().ok_or(Gone)?;
        if chunk.id == id && chunk.end.is_none() { Ok((index, chunk)) } else { Err(Gone) }
    }

    /// Lets the lane take its turn if its first chunk can begin.
    pub(super) fn make_ready(&mut self, index: usize, settings: &QueueSettings) {
        let lane = &mut self.all[index];
        if !lane.in_ready && lane.chunks.front().is_some_and(|chunk| chunk.can_begin(settings)) {
            lane.in_ready = true;
            self.ready.push_back(index);
        }
    }

    /// The lane whose turn it is.
    pub(super) fn next_turn(&mut self) -> Option<usize> {
        let index = self.ready.pop_front()?;
        self.all[index].in_ready = false;
        Some(index)
    }

    /// Lets go of the lane if it is empty.
    pub(super) fn retire(&mut self, index: usize) {
        let lane = &mut self.all[index];
        if !lane.chunks.is_empty() {
            return;
        }
        if let Some(key) = lane.key.take() {
            self.by_key.remove(&key);
            lane.source = None;
            lane.queued = 0;
            self.free.push(index);
        }
    }

    /// Those whose first chunk has left in part.
    pub(super) fn begun(&self) -> Vec<usize> {
        let begun = |index: &usize| self.all[*index].chunks.front().is_some_and(|chunk| chunk.interrupted);
        self.by_key.values().copied().filter(begun).collect()
    }

    /// Takes what each lane holds.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Lane> + '_ {
        self.all.drain(..)
    }
}
