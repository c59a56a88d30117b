//! HEP through its public API: codec, sender, tracing, receiver.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod codec;
