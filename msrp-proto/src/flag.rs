//! The continuation flag of an end-line (RFC 4975 §7.1).

/// What the end-line says of the chunk it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flag {
    /// `$`: the chunk holds the end of its message.
    Complete,
    /// `+`: more chunks of the message follow.
    More,
    /// `#`: the message is abandoned.
    Abort,
}

impl Flag {
    /// The flag's byte on the wire.
    pub const fn as_byte(self) -> u8 {
        match self {
            Self::Complete => b'$',
            Self::More => b'+',
            Self::Abort => b'#',
        }
    }

    /// The flag a byte stands for, if it is one.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'$' => Some(Self::Complete),
            b'+' => Some(Self::More),
            b'#' => Some(Self::Abort),
            _ => None,
        }
    }
}
