//! Flows over the whole core, with wires in memory and a virtual clock.

mod harness;

mod auth;
mod auth_aside;
mod auth_ephemeral;
mod auth_throttle;
mod chain;
mod chunks;
mod drain;
mod failure;
mod forwarding;
mod kin;
mod memory;
mod pressure;
mod queue;
mod reload;
mod reuse;
mod reuse_towards_owner;
mod simulation;
mod tap;
mod user_limits;
mod websocket;
mod websocket_frames;
