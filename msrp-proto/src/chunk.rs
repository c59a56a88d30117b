//! Messages and their chunks (RFC 4975 §5.1, §7.1.1, §7.3.1): splitting and reassembly.
//!
//! # Sending
//!
//! A [`Splitter`] stands for one outgoing message. It holds no bytes: it says what Byte-Range the
//! next chunk's head has, how many of the bytes at hand may go into the open chunk, and with which
//! flag the chunk ends. Between two chunks it is *closed*; [`Splitter::open`] and
//! [`Splitter::close`] change that. The owner of the bytes (the [endpoint](crate::endpoint)) decides
//! when to interrupt. [`EndLineGuard`] watches that no chunk's body contains the chunk's own
//! end-line (§7.1).
//!
//! # Receiving
//!
//! [`Progress`] knows which bytes of one message have arrived, in any order, overlapping or not, and
//! whether it is complete; it serves whoever writes a body to disk as it comes. [`Assembly`] adds a
//! buffer, in which the last bytes received win. [`Reassembler`] holds assemblies for many messages
//! and limits both their size and their number.
//!
//! ```
//! use msrp_proto::chunk::{Reassembled, Reassembler, ReassemblyLimits};
//! use msrp_proto::flag::Flag;
//! use msrp_proto::header::ByteRange;
//!
//! let mut messages = Reassembler::new(ReassemblyLimits::default());
//! // The second chunk of a message comes first.
//! messages.start("4564dpWd", &ByteRange::parse(b"5-8/8")?)?;
//! messages.data(&"4564dpWd", b"EFGH")?;
//! assert_eq!(messages.end(&"4564dpWd", Flag::Complete)?, Reassembled::More);
//! messages.start("4564dpWd", &ByteRange::parse(b"1-*/8")?)?;
//! messages.data(&"4564dpWd", b"abcd")?;
//! let whole = messages.end(&"4564dpWd", Flag::More)?;
//! assert_eq!(whole, Reassembled::Complete(b"abcdEFGH".to_vec()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod coverage;
mod guard;
mod reassemble;
mod split;

pub use coverage::Coverage;
pub use guard::EndLineGuard;
pub use reassemble::{
    Assembly, ChunkEnd, MAX_RUNS, Progress, Reassembled, Reassembler, ReassemblyError, ReassemblyLimits,
};
pub use split::{Chunking, MIN_INTERRUPT, Splitter};
