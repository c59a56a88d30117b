//! Bytes to send, known at every place, so that what arrives is compared and not hashed.

/// A file of any length. Its bytes repeat with a period that no buffer size divides, so a piece that
/// is lost, doubled or misplaced shows.
#[derive(Clone)]
pub struct Content {
    block: Vec<u8>,
    len: u64,
}

/// A prime above 64 KiB.
const PERIOD: usize = 65_537;

impl Content {
    /// A file of `len` bytes.
    #[must_use]
    pub fn new(len: u64) -> Self {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let block = (0..2 * PERIOD).scan(0, |_, place| {
            if place == PERIOD {
                state = 0x2545_f491_4f6c_dd1d;
            }
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            Some((state >> 32) as u8)
        });
        Self { block: block.collect(), len }
    }

    /// How many bytes it has.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no test has an empty one")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Some bytes from `offset` on, at most `max` and at most to the end.
    #[must_use]
    pub fn piece(&self, offset: u64, max: usize) -> &[u8] {
        let left = usize::try_from(self.len - offset).unwrap_or(usize::MAX);
        let start = (offset % PERIOD as u64) as usize;
        &self.block[start..start + max.min(left).min(PERIOD)]
    }

    /// Fails unless `bytes` are those at `offset`.
    ///
    /// # Panics
    /// Then.
    pub fn check(&self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            assert!(offset < self.len, "more bytes than the file has");
            let expected = self.piece(offset, bytes.len());
            let (now, rest) = bytes.split_at(expected.len());
            assert!(
                now == expected,
                "other bytes than sent between {offset} and {}",
                offset + now.len() as u64
            );
            offset += now.len() as u64;
            bytes = rest;
        }
    }
}
