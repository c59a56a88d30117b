//! The content of the file: made while it is sent, so that the demo needs no room on disk, and
//! different at every place, so that nothing can be swapped or lost unseen.

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};

/// Bytes that are made or taken in order, and their hash.
pub(super) struct Content {
    state: u64,
    hash: Sha256,
}

impl Content {
    pub(super) fn new() -> Self {
        Self { state: 0x9e37_79b9_7f4a_7c15, hash: Sha256::new() }
    }

    /// The next `len` bytes.
    pub(super) fn next(&mut self, len: usize) -> Bytes {
        let mut bytes = BytesMut::with_capacity(len + 8);
        while bytes.len() < len {
            // xorshift64: quick, and of a period no file reaches.
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            bytes.extend_from_slice(&self.state.to_le_bytes());
        }
        bytes.truncate(len);
        self.hash.update(&bytes);
        bytes.freeze()
    }

    /// Takes bytes that came.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
    }

    /// The SHA-256 of all so far, in hexadecimal.
    pub(super) fn hash(self) -> String {
        self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
