//! What can be wrong with a digest header, by blame.

use thiserror::Error;

/// Why the value of a digest header was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DigestError {
    /// The sender broke the grammar: a relay answers 400.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It is well-formed, and asks for something RFC 4976 §9.1 or this implementation leaves out: a
    /// relay answers 401 with a challenge of its own, a client looks for another challenge.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
}

/// The value breaks the grammar (RFC 4976 §7, RFC 7616 §3.3 to §3.5).
///
/// The names in it are names of parameters, and never text that the other side chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The value is not UTF-8.
    #[error("the digest header is not UTF-8")]
    NotUtf8,
    /// No `name=value` or `name="value"` where one had to stand: an unclosed quote, a control
    /// character, a missing comma.
    #[error("the digest header breaks the grammar at byte {at}")]
    Syntax {
        /// Offset in bytes of the offending element in the header value.
        at: usize,
    },
    /// More than [`MAX_PARAMS`](super::MAX_PARAMS) parameters.
    #[error("the digest header has too many parameters")]
    TooManyParams,
    /// A parameter appears twice: which one counts would be a guess.
    #[error("digest parameter {0} appears more than once")]
    Duplicate(&'static str),
    /// A parameter that RFC 4976 §9.1 requires is not there.
    #[error("digest parameter {0} is missing")]
    Missing(&'static str),
    /// A parameter has a value outside its own grammar.
    #[error("digest parameter {0} has an invalid value")]
    Invalid(&'static str),
}

/// The value asks for something that is not served here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// A scheme other than Digest. Basic is forbidden by RFC 4976 §9.1.
    #[error("only the Digest scheme is supported")]
    Scheme,
    /// An algorithm other than those of [`Algorithm`](super::Algorithm). The `-sess` variants are
    /// left out by RFC 4976 §9.1.
    #[error("the digest algorithm is not supported")]
    Algorithm,
    /// A qop other than `auth`. `auth-int` is left out by RFC 4976 §9.1.
    #[error("only the quality of protection \"auth\" is supported")]
    Qop,
}

/// Our own caller asked for a header that cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The value of the named parameter has a control character, which no quoting can carry in an
    /// MSRP header line (a line feed in it would start a header of its own).
    #[error("digest parameter {0} cannot carry a control character")]
    ControlCharacter(&'static str),
    /// The [`Ha1`](super::Ha1) was made with another algorithm than the header is about.
    #[error("the HA1 belongs to another digest algorithm")]
    AlgorithmMismatch,
    /// Nonce counts start at 1 (RFC 7616 §3.4).
    #[error("the nonce count starts at 1")]
    ZeroNonceCount,
}
