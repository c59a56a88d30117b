//! SIP as a connection carries it: where a message begins and ends, and where in its head the few
//! fields stand that an edge has to read or write (RFC 3261, RFC 5626, RFC 7118).
//!
//! There is no model of a SIP message here. A [`Head`] is the bytes as they came and the places of
//! some fields in them; a [`Rewrite`] is a list of changes that yields slices of those bytes with the
//! new text between them. So every byte that nobody had a reason to touch leaves as it came, and
//! neither head nor body is copied.
//!
//! # How it is driven
//!
//! A [`Framer`] for each direction of each connection. Over TCP and TLS the caller appends what it
//! read to a buffer of its own and calls [`Framer::decode`] until that gives `None`; over WebSocket,
//! where one message is one message, it calls [`Framer::whole`]. Either way an [`Event`] comes out.
//! No sockets and no clock: how long a message may take is for whoever reads the socket, who asks
//! [`Framer::is_between_messages`].
//!
//! ```
//! use bytes::BytesMut;
//! use tcp_transport::sip::{Event, Framer, Name, Rewrite};
//!
//! let mut framer = Framer::default();
//! let mut buf = BytesMut::from(
//!     "MESSAGE sip:bob@example.com SIP/2.0\r\nv: SIP/2.0/TCP 192.0.2.1;branch=z9hG4bK1\r\n\
//!      Max-Forwards: 70\r\nf: <sip:alice@example.com>;tag=1\r\nt: <sip:bob@example.com>\r\n\
//!      i: 1@192.0.2.1\r\nCSeq: 1 MESSAGE\r\nl: 5\r\n\r\nhello",
//! );
//! let Ok(Some(Event::Message(message))) = framer.decode(&mut buf) else { panic!() };
//! assert_eq!(&message.body[..], b"hello");
//!
//! let via = message.head.field(Name::Via).unwrap();
//! let mut rewrite = Rewrite::default();
//! rewrite.insert(via.line().start, b"Via: SIP/2.0/TLS edge.example.com;branch=z9hG4bK2\r\n");
//! let mut slices = Vec::new();
//! rewrite.apply(&message.head, &mut slices);
//! assert!(slices[1].starts_with(b"Via: SIP/2.0/TLS edge"));
//! assert!(slices[2].starts_with(b"v: SIP/2.0/TCP"));
//! ```

mod address;
mod defect;
mod framer;
mod grammar;
mod head;
mod rewrite;
mod scan;
mod via;

pub use self::address::{Address, SipUri, scheme};
pub use self::defect::Defect;
pub use self::framer::{Event, FrameError, Framer, LARGE_READ, Limits, Message, Refused};
pub use self::grammar::{Malformed, Param, Params};
pub use self::head::{CSeq, Field, Head, Name, Start, Values};
pub use self::rewrite::Rewrite;
pub use self::via::Via;
