//! The Message Session Relay Protocol (RFC 4975, RFC 4976, RFC 7977), sans-IO.
//!
//! This crate holds the protocol and nothing else: it opens no socket, starts no task, reads no
//! clock and draws no random number. Bytes, instants and identifiers come in as arguments; events
//! and bytes go out. A call flow over four nodes is therefore a unit test.
//!
//! # How a caller drives it
//!
//! * [`Decoder`](decoder::Decoder) is fed the bytes of one connection, in slices of any size, and
//!   yields for each message a [`Head`](head::Head), its body as slices of the input buffer, and
//!   its end with the continuation flag. It never holds a whole chunk.
//! * [`Head`](head::Head) gives typed access to the header fields, and keeps the original bytes, so
//!   that a relay forwards what it does not understand unchanged.
//! * [`encode`](encoder) builds requests, responses and end-lines.
//! * [`digest`] is HTTP Digest authentication as RFC 4976 §9.1 restricts it, both sides.
//! * [`endpoint`] is the client: AUTH, SEND in chunks, REPORTs and responses.
//!
//! ```
//! use bytes::BytesMut;
//! use msrp_proto::decoder::{Decoder, Event};
//! use msrp_proto::flag::Flag;
//!
//! let mut input = BytesMut::from(
//!     "MSRP d93kswow SEND\r\n\
//!      To-Path: msrp://bob.example.com:8888/9di4ea;tcp\r\n\
//!      From-Path: msrp://alice.example.com:7777/iau39;tcp\r\n\
//!      Message-ID: 12339sdqwer\r\n\
//!      Byte-Range: 1-5/5\r\n\
//!      Content-Type: text/plain\r\n\r\n\
//!      hello\r\n-------d93kswow$\r\n",
//! );
//! let mut decoder = Decoder::default();
//! let mut body = Vec::new();
//! while let Some(event) = decoder.decode(&mut input)? {
//!     match event {
//!         Event::Head(head) => assert_eq!(head.to_path().count(), 1),
//!         Event::Body(slice) => body.extend_from_slice(&slice),
//!         Event::End(flag) => assert_eq!(flag, Flag::Complete),
//!     }
//! }
//! assert_eq!(body, b"hello");
//! # Ok::<(), msrp_proto::decoder::DecodeError>(())
//! ```
//!
//! # What it never does
//!
//! It never panics on input, never copies a body, never does the same work twice on input that
//! arrives in pieces, and never guesses: what is not a message by the grammar is an error.

pub mod chunk;
pub mod decoder;
pub mod digest;
pub mod encoder;
pub mod endpoint;
pub mod first_hop;
pub mod flag;
mod grammar;
pub mod head;
pub mod header;
pub mod ident;
pub mod status;
pub mod transaction;
pub mod uri;
