//! The relay: configuration, authentication, sessions, forwarding.

pub mod config;
pub mod credentials;
