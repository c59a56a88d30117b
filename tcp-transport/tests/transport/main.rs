//! The crate through its public API, over real sockets on the loopback interface. One binary, because
//! linking is what takes the time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod certificate_rules;
mod client_domains;
mod common;
mod connector;
mod control;
mod domains;
mod driver;
mod events;
mod handshake;
mod listener;
mod peer_facts;
mod reload;
mod settings;
mod threads;
mod time_limits;
mod tls_settings;
mod tls_stream;
mod websocket;
mod websocket_handshake;
