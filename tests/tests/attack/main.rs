//! Attacks over real sockets: each has its limit, what it takes of memory is bounded, and two neighbours chat on
//! meanwhile and lose nothing.
//!
//! What it took is printed (`--nocapture`): peak memory beyond what there was before, and processor time. Single wrong
//! inputs are in `bad_input.rs`, `auth.rs`, `peers.rs` and `websocket.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what an attack takes is read by whoever runs it")]

mod bombs;
mod floods;
mod harness;
mod relaying;
mod slow;
mod websocket;

use harness::Scene;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

const MIB: u64 = 1024 * 1024;
