//! What the endpoint tells the application, and the names of things in it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;

use super::auth::{AuthError, UsePath};
use crate::decoder::DecodeError;
use crate::header::{ByteRange, FailureReport};
use crate::status::StatusCode;

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub(super) u64);
    };
}

handle! {
    /// Names a session of one endpoint. Never used again.
    SessionHandle
}
handle! {
    /// Names a message that is sent, of one endpoint. Never used again.
    OutgoingHandle
}
handle! {
    /// Names a message that is received piece by piece, of one endpoint. Never used again.
    IncomingHandle
}
handle! {
    /// Names an authentication, of one endpoint. Never used again.
    AuthHandle
}

/// What happened. From [`Endpoint::poll_event`](super::Endpoint::poll_event).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// All relays of [`Endpoint::authenticate`](super::Endpoint::authenticate) have let us in.
    Authenticated {
        /// Which.
        auth: AuthHandle,
        /// What the outermost relay gave us to use (RFC 4976 §5.1).
        use_path: UsePath,
        /// The shortest time for which one of the relays serves it, if one said so.
        expires: Option<Duration>,
        /// Every relay proved with `rspauth` that it knows the secret too. One that gives a wrong
        /// proof is an [`Event::AuthFailed`]; this is `false` if one gave none.
        verified: bool,
    },
    /// A relay has not let us in.
    AuthFailed {
        /// Which.
        auth: AuthHandle,
        /// The place of the relay in the chain, from 0.
        relay: usize,
        /// Why.
        error: AuthError,
    },
    /// What an authentication gave is about to expire: authenticate again, or let it end.
    AuthExpiring {
        /// Which.
        auth: AuthHandle,
        /// When it ends.
        at: Instant,
    },
    /// On the passive side: the first request for the session has arrived, so the peer is on this
    /// connection (RFC 4975 §5.4).
    SessionBound {
        /// Which.
        session: SessionHandle,
    },
    /// The session's bodiless SEND, the first one or a keep-alive, was not accepted. The session
    /// cannot be used.
    SessionFailed {
        /// Which.
        session: SessionHandle,
        /// Why.
        error: SendError,
    },
    /// A whole message of at most [`Config::assemble_up_to`](super::Config::assemble_up_to) bytes.
    Message {
        /// Where.
        session: SessionHandle,
        /// What it is.
        message: IncomingMessage,
        /// All of it.
        body: Bytes,
    },
    /// A message begins that comes piece by piece. Refuse it now
    /// ([`Endpoint::refuse`](super::Endpoint::refuse)), or take what comes.
    MessageStart {
        /// Where.
        session: SessionHandle,
        /// How the following events call it.
        handle: IncomingHandle,
        /// What it is.
        message: IncomingMessage,
    },
    /// Bytes of such a message. They may come out of order and more than once; the last ones count
    /// (RFC 4975 §7.3.1).
    MessageData {
        /// Which.
        handle: IncomingHandle,
        /// Their place in the message, from 0.
        offset: u64,
        /// The bytes: a slice of the buffer that was received.
        bytes: Bytes,
    },
    /// Such a message has ended.
    MessageEnd {
        /// Which.
        handle: IncomingHandle,
        /// How.
        outcome: Outcome,
    },
    /// Body bytes are wanted: give some with [`Endpoint::provide_body`](super::Endpoint::provide_body).
    /// Comes again only after that.
    BodyWanted {
        /// Of which message.
        message: OutgoingHandle,
        /// The place of the next byte in the message, from 0.
        offset: u64,
        /// How many bytes at most. Fewer will do.
        len: usize,
    },
    /// The last byte of a message was handed to the connection.
    Sent {
        /// Which.
        message: OutgoingHandle,
    },
    /// The next hop has answered every chunk of a message with 200. Only with Failure-Report `yes`.
    Accepted {
        /// Which.
        message: OutgoingHandle,
    },
    /// A REPORT has come. Unsuccessful ones in namespace 0 are followed by [`Event::SendFailed`].
    Report {
        /// About which message.
        message: OutgoingHandle,
        /// 0 for the codes of RFC 4975 §10. Others have no effect here.
        namespace: u16,
        /// What became of it.
        status: StatusCode,
        /// About which bytes.
        range: ByteRange,
    },
    /// Success REPORTs for all bytes of a message have come.
    Delivered {
        /// Which.
        message: OutgoingHandle,
    },
    /// A message has failed, or may have; comes once for a message. What was not sent yet is not
    /// sent: the open chunk ends with `#` (RFC 4975 §7.3.2).
    SendFailed {
        /// Which.
        message: OutgoingHandle,
        /// Why.
        error: SendError,
    },
    /// The connection is over, with all its sessions. The last event.
    Closed {
        /// Why.
        reason: CloseReason,
    },
}

/// What a received message is. From the head of the first of its chunks that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncomingMessage {
    /// The sender's Message-ID. One that was seen before in this session, or the one it replaces,
    /// is probably a duplicate (RFC 4975 §5.4).
    pub message_id: String,
    /// The media type with its parameters; empty if the sender left it out.
    pub content_type: String,
    /// Its length in bytes, if the sender said.
    pub total: Option<u64>,
    /// The From-Path as it came, with all hops.
    pub from_path: String,
    /// The fields this crate does not know, such as Content-Disposition, in order.
    pub fields: Vec<(String, Bytes)>,
    /// Whether the sender wants success REPORTs. They are sent by the endpoint.
    pub success_report: bool,
    /// Which failures the sender wants to hear of.
    pub failure_report: FailureReport,
}

/// How a received message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All bytes have arrived.
    Complete {
        /// How many they are. Bytes that came for places behind do not belong to the message.
        total: u64,
    },
    /// The sender has abandoned it.
    Aborted,
    /// We have refused it, with this code: for what the application or a limit said.
    Refused(StatusCode),
    /// The session or the connection was closed before all had arrived.
    Lost,
}

/// Why a message was not sent, or probably not received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The next hop answered so.
    #[error("refused by the next hop: {0}")]
    Refused(StatusCode),
    /// A REPORT said so.
    #[error("reported as failed: {0}")]
    Reported(StatusCode),
    /// No response came in time (RFC 4975 §7.1.1).
    #[error("no response in time")]
    Timeout,
    /// The application aborted it.
    #[error("aborted")]
    Aborted,
    /// The session was closed.
    #[error("session closed")]
    SessionClosed,
    /// The connection was lost before the message was known to be received.
    #[error("connection lost")]
    ConnectionLost,
}

/// Why the connection is over.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer sent what is not MSRP: close the connection.
    #[error("the peer broke the protocol: {0}")]
    Protocol(DecodeError),
    /// The driver said so.
    #[error("connection lost")]
    ConnectionLost,
}

/// The application called for something that cannot be. Nothing has happened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UsageError {
    /// No such session, message or authentication, or no longer.
    #[error("no such session, message or authentication")]
    UnknownHandle,
    /// The connection is over.
    #[error("the connection is closed")]
    Closed,
    /// A session needs a peer's URI, an authentication a relay.
    #[error("the path is empty")]
    EmptyPath,
    /// Another session of the connection has the same session-id.
    #[error("session-id {0:?} is in use on this connection")]
    SessionIdInUse(String),
    /// A header field with a name or a value that cannot be sent, or one the endpoint writes itself.
    #[error("header field {0:?} cannot be sent")]
    Field(String),
    /// As many messages are waiting to be sent as may be.
    #[error("more than {0} messages wait to be sent")]
    TooManyMessages(usize),
    /// More body than the message has, or body after its end.
    #[error("more body than the message has")]
    BodyTooLong,
    /// The body ended before the length that was announced.
    #[error("the body has fewer bytes than announced")]
    BodyTooShort,
}
