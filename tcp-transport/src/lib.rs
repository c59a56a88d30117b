//! tcp-transport
