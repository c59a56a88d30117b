//! Why bytes are no HEP packet, and why a packet cannot be sent as one.

/// Bytes that are no HEP packet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// They begin neither with `HEP3` or `EEP3` nor with the version 1 or 2.
    #[error("not HEP")]
    NotHep,
    /// They end before the packet does.
    #[error("truncated: {present} octets of {expected}")]
    Truncated {
        /// How many there are.
        present: usize,
        /// How many there should be.
        expected: usize,
    },
    /// There are more of them than the packet has.
    #[error("{0} octets after the end of the packet")]
    Trailing(usize),
    /// The length of the whole is none that a packet can have.
    #[error("a packet of {0} octets")]
    PacketLength(usize),
    /// The length of a chunk is less than its header, or reaches beyond the packet.
    #[error("chunk {vendor:#06x}/{kind:#06x} of {length} octets, where there are {room}")]
    ChunkLength {
        /// Its vendor.
        vendor: u16,
        /// Its type.
        kind: u16,
        /// What it says.
        length: usize,
        /// What remains of the packet, from the chunk's begin.
        room: usize,
    },
    /// Octets after the last chunk that are too few for another one.
    #[error("{0} octets that are no chunk")]
    ChunkHeader(usize),
    /// A generic chunk whose value has not the length of its type.
    #[error("chunk {kind:#06x} with a value of {length} octets instead of {expected}")]
    ValueLength {
        /// Its type.
        kind: u16,
        /// Octets of its value.
        length: usize,
        /// Octets of a value of its type.
        expected: usize,
    },
    /// Version 1 or 2 with an address family that is neither IPv4 nor IPv6.
    #[error("unknown address family {0}")]
    Family(u8),
    /// Version 1 or 2 with a header length that does not fit the version and family.
    #[error("a header of {length} octets instead of {expected}")]
    HeaderLength {
        /// What it says.
        length: u8,
        /// What it should say.
        expected: u8,
    },
    /// A compressed payload that does not inflate.
    #[error("the compressed payload is broken: {0}")]
    Compressed(String),
    /// A compressed payload that inflates to more than it may.
    #[error("the compressed payload inflates to more than {0} octets")]
    Inflated(usize),
}

/// A packet that cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// It is longer than 65 535 octets.
    #[error("a packet of {0} octets")]
    TooLong(usize),
    /// Version 1 or 2, and addresses or ports are missing, or of two families.
    #[error("no pair of addresses")]
    Addresses,
    /// Version 1 or 2, which have no compressed payload.
    #[error("this version has no compressed payload")]
    Compressed,
}
