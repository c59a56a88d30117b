//! What is wrong with a message, and what its sender is told.

use super::head::Name;

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Defect {
    /// The start line is not by the grammar (RFC 3261 §7.1, §7.2).
    #[error("malformed start line")]
    StartLine,
    /// The start line names another version of SIP.
    #[error("version not supported")]
    Version,
    /// CR or LF alone. Who takes that for the end of a line sees another message than who does not.
    #[error("CR or LF alone")]
    BareLineBreak,
    /// A control character in the head.
    #[error("control character in the head")]
    Control,
    /// A line that is no header field: no colon, or no name before it.
    #[error("malformed header line")]
    HeaderLine,
    /// More header fields than [`Limits::headers`](super::Limits::headers).
    #[error("too many header fields")]
    TooManyFields,
    /// The head exceeds [`Limits::head_bytes`](super::Limits::head_bytes).
    #[error("head too long")]
    HeadTooLong,
    /// Head and body together exceed [`Limits::message_bytes`](super::Limits::message_bytes).
    #[error("message too long")]
    MessageTooLong,
    /// The head does not end where the WebSocket message does, or before.
    #[error("no empty line after the head")]
    HeadIncomplete,
    /// A field that must be there is not. For Content-Length that is so on streams alone (RFC 3261 §18.3).
    #[error("no {0}")]
    Missing(Name),
    /// A field that may be there once is there twice.
    #[error("more than one {0}")]
    Repeated(Name),
    /// A field's value is not by the grammar.
    #[error("malformed {0}")]
    Field(Name),
    /// CSeq names another method than the start line (RFC 3261 §8.1.1.5).
    #[error("CSeq names another method")]
    Method,
    /// The WebSocket message ends before Content-Length says (RFC 3261 §18.3).
    #[error("body shorter than Content-Length")]
    BodyTooShort,
}

impl Defect {
    /// The status a request with it is answered with, and its reason phrase (RFC 3261 §21.4, §21.5).
    #[must_use]
    pub fn status(self) -> (u16, &'static str) {
        match self {
            Self::Version => (505, "Version Not Supported"),
            Self::MessageTooLong => (413, "Request Entity Too Large"),
            Self::HeadTooLong => (513, "Message Too Large"),
            _ => (400, "Bad Request"),
        }
    }
}
