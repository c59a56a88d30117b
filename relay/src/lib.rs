//! The relay: configuration, authentication, sessions, forwarding.
//!
//! The daemon `msrp-relay` is a thin shell around this crate. [`config`] reads the YAML file,
//! [`credentials`] knows the users, [`msrp`] is the relay itself without a socket or a clock of its
//! own, [`sip`] the same for the SIP edge, [`server`] puts them on real sockets, [`admin`] is how it is
//! managed, [`records`] is what is written of sessions, [`cli`] is the command line, and [`demo`] shows
//! it all at work.
//!
//! # How it is driven
//!
//! A [`Config`](config::Config) that exists can be run: users and secrets are loaded, and every mistake in
//! the file has been told with its line. [`Server::start`](server::Server::start) binds the listeners, and
//! everything else happens in tasks of the runtime it is called in, until
//! [`Server::stop`](server::Server::stop) ends it in order. [`Server::control`](server::Server::control)
//! is how a running relay is asked and changed.
//!
//! ```
//! use std::future::ready;
//! use std::path::Path;
//!
//! use relay::config::Config;
//! use relay::server::Server;
//! use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
//! use tokio::net::TcpStream;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let yaml = "
//! domain: relay.test
//! listeners:
//!   - uri: msrp://127.0.0.1:0     # port 0: the system chooses
//! auth:
//!   allow_auth_without_tls: true  # for trying out
//!   users: { alice: { password: alicepw } }
//! ";
//! let config = Config::parse(yaml, Path::new("."), "relay.yaml")?;
//! let server = Server::start(config).await?;
//! let (scheme, address) = server.addresses()[0];
//! assert_eq!(scheme, "msrp");
//!
//! // Who wants a session is asked for a password first (RFC 4976 §5.1).
//! let mut client = TcpStream::connect(address).await?;
//! let us = format!("msrp://relay.test:{};tcp", address.port());
//! let auth = format!(
//!     "MSRP 49fi AUTH\r\nTo-Path: {us}\r\nFrom-Path: msrp://alice.invalid:2855/9892;tcp\r\n-------49fi$\r\n"
//! );
//! client.write_all(auth.as_bytes()).await?;
//! let mut answer = Vec::new();
//! while !answer.ends_with(b"-------49fi$\r\n") {
//!     assert_ne!(client.read_buf(&mut answer).await?, 0);
//! }
//! assert!(answer.starts_with(b"MSRP 49fi 401 "));
//!
//! server.stop(ready(())).await; // the future: who does not want to wait for messages under way
//! # Ok(())
//! # }
//! ```
//!
//! # What it never does
//!
//! It does not panic on anything a peer sends, holds no whole chunk, forwards nothing that it has not
//! checked, dials nothing that `outbound` denies, and shows no password, key or message in its log.

pub mod admin;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod demo;
pub mod logging;
pub mod msrp;
mod recent;
pub mod records;
pub mod server;
pub mod sip;
