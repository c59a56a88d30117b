//! The SIP edge: real sockets, scripted clients and a scripted proxy (RFC 3261, RFC 5626, RFC 7118).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod connections;
mod harness;
mod traffic;
mod upstreams;
