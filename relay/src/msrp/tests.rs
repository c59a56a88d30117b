//! Flows over the whole core, with wires in memory and a virtual clock.

mod harness;

mod auth;
mod chain;
mod chunks;
mod failure;
mod forwarding;
mod pressure;
mod queue;
mod reuse;
mod reuse_towards_owner;
mod simulation;
mod tap;
mod websocket;
mod websocket_frames;
