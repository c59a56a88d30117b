//! The relay: configuration, authentication, sessions, forwarding.
//!
//! The daemon `msrp-relay` is a thin shell around this crate. [`config`] reads the YAML file,
//! [`credentials`] knows the users, [`msrp`] is the relay itself without a socket or a clock of its
//! own.

pub mod config;
pub mod credentials;
pub mod msrp;
