//! Framing of SIP and what is found in heads, through the public interface.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers fail as tests do")]

mod common;
mod framing;
mod heads;
mod limits;
mod properties;
mod table;
