//! Flows through the edge, of clients, upstreams, and who would abuse it.

mod abuse;
mod answers;
mod changes;
mod dialogs;
mod harness;
mod health;
mod properties;
mod registration;
mod sips;
