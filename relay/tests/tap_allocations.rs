//! A tap that is off costs no allocation: what forwarding allocates is the same with it and without any. A process of
//! its own with one test in it, as the allocator counts for all of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::alloc::System;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use relay::msrp::Tap;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tcp_transport::hep::trace::SentBy;

use self::in_memory::{Client, relay};

#[path = "common/in_memory.rs"]
mod in_memory;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MESSAGES: usize = 64;

/// What a connection of the daemon has.
#[derive(Default)]
struct Counting {
    on: AtomicBool,
    counted: AtomicU64,
    traced: AtomicU64,
}

impl Tap for Counting {
    fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }
    fn body(&self) -> usize {
        10
    }
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
    fn message(&self, _: SentBy, _: SystemTime, _: &str, _: &[u8], _: &[u8]) {
        self.traced.fetch_add(1, Ordering::Relaxed);
    }
    fn count(&self, _: SentBy, messages: u64) {
        self.counted.fetch_add(messages, Ordering::Relaxed);
    }
    fn authenticated(&self, _: &str) {}
    fn anonymous(&self) {}
}

/// Allocations for so many messages from one client to another, with their 200, once buffers have grown.
fn allocations(tap: Option<&Arc<Counting>>) -> usize {
    let relay = relay();
    let now = Instant::now();
    let tap = || tap.map(|tap| Arc::clone(tap) as Arc<dyn Tap>);
    let mut alice = Client::connect(&relay, "alice", 0, tap(), now);
    let bob = Client::connect(&relay, "bob", 0, tap(), now);
    let message = format!(
        "MSRP tr000001 SEND\r\nTo-Path: {} {} {}\r\nFrom-Path: {}\r\nMessage-ID: m\r\nFailure-Report: partial\r\n\
         Byte-Range: 1-300/300\r\nContent-Type: text/plain\r\n\r\n{}\r\n-------tr000001$\r\n",
        alice.relay_uri,
        bob.relay_uri,
        bob.uri,
        alice.uri,
        "x".repeat(300)
    );
    // What is remembered of them has its bound, and is used again from there on.
    for _ in 0..2048 {
        alice.give(message.as_bytes(), now);
    }
    let region = Region::new(ALLOCATOR);
    for _ in 0..MESSAGES {
        alice.give(message.as_bytes(), now);
    }
    region.change().allocations
}

#[test]
fn a_tap_that_is_off_allocates_nothing() {
    let without = allocations(None);
    let tap = Arc::new(Counting::default());
    assert_eq!(allocations(Some(&tap)), without);
    assert_eq!(tap.traced.load(Ordering::Relaxed), 0);
    assert!(tap.counted.load(Ordering::Relaxed) > 2 * 2048, "the messages went by it");
    // The measure shows what is allocated.
    tap.on.store(true, Ordering::Relaxed);
    assert!(allocations(Some(&tap)) >= without + MESSAGES);
}
