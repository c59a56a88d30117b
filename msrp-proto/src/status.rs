//! Status codes (RFC 4975 §10, RFC 4976) and the comments we send with them.

use std::fmt;

/// A three-digit status code of a response or, in namespace 000, of a REPORT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StatusCode(u16);

impl StatusCode {
    /// The chunk arrived.
    pub const OK: Self = Self(200);
    /// The request was unintelligible.
    pub const BAD_REQUEST: Self = Self(400);
    /// AUTH must be answered to this challenge (RFC 4976 §5.1).
    pub const UNAUTHORIZED: Self = Self(401);
    /// The attempted action is not allowed.
    pub const FORBIDDEN: Self = Self(403);
    /// A downstream transaction did not complete in the allotted time.
    pub const REQUEST_TIMEOUT: Self = Self(408);
    /// The sender should stop sending this message.
    pub const STOP_SENDING: Self = Self(413);
    /// The media type is not understood.
    pub const UNSUPPORTED_MEDIA_TYPE: Self = Self(415);
    /// One of the request's parameters is out of bounds: Expires (RFC 4976 §6.3).
    pub const OUT_OF_BOUNDS: Self = Self(423);
    /// The session does not exist.
    pub const NO_SUCH_SESSION: Self = Self(481);
    /// The method is not understood.
    pub const UNKNOWN_METHOD: Self = Self(501);
    /// The session is already bound to another connection.
    pub const SESSION_IN_USE: Self = Self(506);

    /// The code for a number of three digits.
    pub fn new(code: u16) -> Option<Self> {
        (code < 1000).then_some(Self(code))
    }

    /// The number.
    pub fn as_u16(self) -> u16 {
        self.0
    }

    /// The number as it stands on the wire.
    pub(crate) fn digits(self) -> [u8; 3] {
        [self.0 / 100, self.0 / 10 % 10, self.0 % 10].map(|digit| b'0' + digit as u8)
    }

    /// Whether the code is of the 200 class.
    pub fn is_success(self) -> bool {
        (200..300).contains(&self.0)
    }

    /// The comment we send with the code; empty for a code we do not know.
    pub fn comment(self) -> &'static str {
        match self.0 {
            200 => "OK",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            408 => "Request Timeout",
            413 => "Stop Sending",
            415 => "Unsupported Media Type",
            423 => "Parameter Out Of Bounds",
            481 => "No Such Session",
            501 => "Unknown Method",
            506 => "Session In Use",
            _ => "",
        }
    }
}

/// Three digits, as they stand on the wire.
impl fmt::Display for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03}", self.0)
    }
}
