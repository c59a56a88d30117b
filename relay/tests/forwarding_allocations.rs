//! Forwarding a message allocates nothing, be the receiver a client or behind another relay; with more than two URIs of
//! ours in its path, once. A process of its own with
//! one test in it, as the allocator counts for all of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::alloc::System;
use std::time::Instant;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tcp_transport::PeerCertificate;

use self::in_memory::{Client, relay};

#[path = "common/in_memory.rs"]
mod in_memory;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MESSAGES: usize = 64;

/// The relay behind which Bob is, if he is behind one.
const OTHER: &str = "msrp://b.test:2855/s2;tcp";

/// Who is at the other end, and how he is reached.
#[derive(Clone, Copy, Debug)]
enum To {
    /// Bob is a client, and Alice's messages go through so many sessions of hers before.
    Client { own: usize },
    /// His session is another relay's, which has used so many connections for it.
    Relay { connections: usize },
}

/// Allocations for so many messages from one client to another, once buffers have grown.
fn allocations(to: To) -> usize {
    let (relay, now) = (relay(), Instant::now());
    let mut alice = Client::connect(&relay, "alice", 0, None, now);
    let mut path = String::new();
    // Those that are there must stay.
    let mut links = Vec::new();
    match to {
        To::Client { own } => {
            for _ in 0..own {
                path = format!("{path}{} ", alice.relay_uri);
                alice.log_in(now);
            }
            let bob = Client::connect(&relay, "bob", 0, None, now);
            path = format!("{path}{} {}", bob.relay_uri, bob.uri);
            links.push(bob);
        }
        To::Relay { connections } => {
            let certificate =
                PeerCertificate::Verified { dns_names: vec!["b.test".into()], ip_addresses: Vec::new() };
            let from = format!("{OTHER} msrp://bob.example.com:7777/iau39;tcp");
            for _ in 0..connections {
                links.push(Client::open(&relay, 0, certificate.clone(), None, from.clone(), now));
            }
            links[0].log_in(now);
            let session = links[0].relay_uri.clone();
            for link in &mut links {
                let hello = format!(
                    "MSRP hello001 SEND\r\nTo-Path: {session} {} {}\r\nFrom-Path: {from}\r\nMessage-ID: h\r\n\
                     Failure-Report: no\r\nByte-Range: 1-2/2\r\nContent-Type: text/plain\r\n\r\nhi\r\n-------hello001$\r\n",
                    alice.relay_uri, alice.uri
                );
                link.give(hello.as_bytes(), now);
            }
            path = format!("{} {session} {from}", alice.relay_uri);
        }
    }
    let message = format!(
        "MSRP tr000001 SEND\r\nTo-Path: {path}\r\nFrom-Path: {}\r\nMessage-ID: m\r\nFailure-Report: no\r\n\
         Byte-Range: 1-300/300\r\nContent-Type: text/plain\r\n\r\n{}\r\n-------tr000001$\r\n",
        alice.uri,
        "x".repeat(300)
    );
    links[0].sink.keep(1 << 20);
    for _ in 0..16 {
        alice.give(message.as_bytes(), now);
    }
    assert!(links[0].sink.take().ends_with(b"$\r\n"), "{to:?}: nothing was forwarded");
    let region = Region::new(ALLOCATOR);
    for _ in 0..MESSAGES {
        alice.give(message.as_bytes(), now);
    }
    region.change().allocations
}

#[test]
fn a_message_allocates_nothing_on_its_way() {
    for to in [
        To::Client { own: 0 },
        To::Client { own: 1 },
        To::Relay { connections: 1 },
        To::Relay { connections: 2 },
    ] {
        assert_eq!(allocations(to), 0, "{to:?}");
    }
    // More than two URIs of ours: the list of their sessions.
    assert_eq!(allocations(To::Client { own: 2 }), MESSAGES);
    assert_eq!(allocations(To::Client { own: 4 }), MESSAGES);
}
