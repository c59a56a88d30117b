//! What the end-to-end tests of `msrp-relay` share.
//!
//! A test writes certificates and a configuration into a [`Site`], starts the daemon there as a child
//! process ([`Daemon`]), and talks to it over real sockets as a [`Client`], byte by byte where it must.
//! Everything is waited for, nothing is slept for: each wait has the [`DEADLINE`] and fails the test
//! with what it was waiting for.
//!
//! ```no_run
//! # use tests::*;
//! # async fn flow() {
//! let site = Site::new();
//! let daemon = Daemon::start(env!("CARGO"), &site, &Settings::default()).await;
//! let mut alice = Client::connect(&daemon, &site, Scheme::Msrps).await;
//! let session = alice.auth("alice", "alicepw").await;
//! # }
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a harness of tests: what it does not expect is a failed test"
)]

use std::time::Duration;

mod admin;
mod certificates;
mod client;
mod content;
mod daemon;
mod database;
mod faults;
mod log;
mod message;
mod neighbours;
mod port;
mod process;
mod proxy;
mod service_manager;
mod settings;
mod sip;
mod stream;
mod websocket;

pub use self::admin::{Admin, Events, HttpResponse};
pub use self::certificates::{Identity, Site};
pub use self::client::{Client, Listener, Receiver, Sender, Session};
pub use self::content::Content;
pub use self::daemon::{Daemon, Scheme, successor};
pub use self::database::{DatabaseKind, DatabaseServer};
pub use self::faults::{Fault, FaultProxy, Toward};
pub use self::log::{Log, until};
pub use self::message::{Message, Send};
pub use self::neighbours::Neighbours;
pub use self::port::is_shared;
pub use self::process::Resources;
pub use self::proxy::Proxy;
pub use self::service_manager::ServiceManager;
pub use self::settings::Settings;
pub use self::sip::{Refused, SipMessage, SipPeer, SipUpstream, request, response};
pub use self::stream::{CLIENT_HELLO, Socket, Stream, tls_config, tls_handshake, tls_record_by_record};
pub use self::websocket::WebSocket;

/// How long a test waits for anything: far longer than it can take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for something that must happen.
///
/// # Panics
/// With `what` when the [`DEADLINE`] has passed.
pub async fn within<T>(what: impl std::fmt::Display, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(done) => done,
        Err(_) => panic!("waited {DEADLINE:?} for {what}"),
    }
}
