//! Small programs on `msrp-proto` and `tcp-transport`: a chat client for the terminal, file
//! transfer, a HEP collector ([`hep_print`]), and load to measure relays with ([`load`]).
//!
//! The programs in `src/bin` only read options and print; what they do is here, to be called by
//! others (tests, for one) as well:
//!
//! 1. [`options`] says what is wanted.
//! 2. [`rendezvous`] gives a [`Line`](rendezvous::Line): a connection on which a session can be
//!    opened, and the path to give to the other side. There are three ways: log in at a relay, which
//!    [`locate`] finds; listen; or connect to the first hop of the other side's path.
//! 3. [`chat`], [`send_file`] and [`receive_file`] do their work on it. Each drives the
//!    connection's [`Client`](client::Client), the one place where the sans-IO endpoint meets a
//!    socket and a clock.
//!
//! Files go through [`source`] and [`store`], a thread and a short queue each: memory does not grow
//! with the file. Their name, size and hash travel in a [`disposition`].
//!
//! There is no signalling: what SIP and SDP would do, the user does, who hands over one line
//! `a=path:…`. Only the side that begins needs the other's path; the other one learns it from the
//! From-Path of the first message.

pub mod chat;
pub mod client;
pub mod disposition;
pub mod file_name;
pub mod hash;
pub mod hep_print;
pub mod load;
pub mod locate;
pub mod options;
pub mod path;
pub mod progress;
pub mod receive_file;
pub mod rendezvous;
pub mod send_file;
pub mod source;
pub mod store;
