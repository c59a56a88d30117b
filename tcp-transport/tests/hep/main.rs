//! HEP through its public API: codec, sender, tracing, receiver; over sockets on the loopback interface.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod codec;
mod common;
mod outage;
mod receiver;
mod sender;
mod trace;
