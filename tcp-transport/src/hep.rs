//! HEP, the Homer Encapsulation Protocol: what capture agents tell collectors (Homer, sngrep, Kamailio, OpenSIPS).
//!
//! * **Codec**, without sockets: [`Packet`], [`Packet::encode`] and [`Packet::decode`] for versions 1, 2 and 3
//!   (specification revision 37), [`Framer`] for version 3 in a stream.
//! * **Sender**: [`Sender`], any number of destinations; traffic waits for none.
//! * **Tracing**: [`trace`] makes packets of connection events and messages.
//! * **Receiver**: [`Receiver`] gives what comes to the handlers of a [`Dispatch`], in order.
//!
//! Times, addresses and lengths come from whoever sent a packet and are believed by nobody: a length that does
//! not fit is a [`DecodeError`], never a panic, and what inflates has its limit.
//!
//! ```
//! use bytes::Bytes;
//! use tcp_transport::hep::{Encoding, Packet, PayloadType, TimeOrder, Version};
//!
//! let payload = Bytes::from_static(b"OPTIONS sip:bob@example.org SIP/2.0\r\n\r\n");
//! let (from, to) = ("192.0.2.1:5060".parse()?, "192.0.2.2:5060".parse()?);
//! let mut packet = Packet::new(from, to, std::time::SystemTime::now(), PayloadType::SIP, payload);
//! packet.capture_id = Some(1);
//! let wire = packet.encode(Encoding::default())?;
//! assert_eq!(Packet::decode(&wire, TimeOrder::default())?, (Version::V3, packet));
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod chunk;
mod codec;
mod destination;
mod error;
mod framer;
mod inflate;
mod legacy;
mod packet;
mod receiver;
mod sender;
pub mod trace;

pub use chunk::{Chunk, ChunkOrder};
pub use codec::{Encoding, MAGIC, MAGIC_EEP, MAX_PACKET, Version};
pub use destination::{
    BadHepUri, DEFAULT_CAPTURE_ID, DEFAULT_HEP_SEND_TIMEOUT, DEFAULT_MAX_RETRIES, DEFAULT_QUEUE_BYTES,
    DEFAULT_QUEUE_PACKETS, DEFAULT_RETRY_COOLDOWN, DEFAULT_RETRY_PAUSE, DestinationSettings, EventFormat,
    HepTransport, HepUri,
};
pub use error::{DecodeError, EncodeError};
pub use framer::{DEFAULT_MAX_MSG_CHUNKS, FrameError, FrameLimits, Framer};
pub use inflate::DEFAULT_INFLATE_LIMIT;
pub use legacy::TimeOrder;
pub use packet::{FAMILY_IPV4, FAMILY_IPV6, PROTOCOL_TCP, PROTOCOL_UDP, Packet, PayloadType};
pub use receiver::{
    DEFAULT_PACKET_TIMEOUT, Dispatch, HepHandler, Received, Receiver, ReceiverCounters, ReceiverSettings,
    Refusal, receive,
};
pub use sender::{Counters, PEER_BUFFER, Sender, SenderError};
