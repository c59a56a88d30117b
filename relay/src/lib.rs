//! The relay: configuration, authentication, sessions, forwarding.
//!
//! The daemon `msrp-relay` is a thin shell around this crate. [`config`] reads the YAML file,
//! [`credentials`] knows the users, [`msrp`] is the relay itself without a socket or a clock of its
//! own, [`server`] puts it on real sockets, [`admin`] is how it is managed, [`records`] is what is
//! written of sessions, [`cli`] is the command line, and [`demo`] shows it all at work.

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
