//! A tap that is off costs no allocation: what forwarding allocates is the same with it and without any. A process of
//! its own with one test in it, as the allocator counts for all of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::alloc::System;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use bytes::BytesMut;
use msrp_proto::decoder::{Decoder, Event};
use msrp_proto::digest::{Answer, Authorization, Challenge, Secret};
use msrp_proto::header::Name;
use relay::config::Config;
use relay::msrp::{Advertised, Inbound, Peer, Random, Relay, Settings, Tap, WallClock, Wire};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tcp_transport::PeerCertificate;
use tcp_transport::connection::{CloseReason, Flow};
use tcp_transport::hep::trace::SentBy;

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

/// Takes everything, and keeps it while somebody wants to see it.
struct Sink {
    kept: Arc<Mutex<Option<Vec<u8>>>>,
    tap: Option<Arc<Counting>>,
}

impl Wire for Sink {
    fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        if let Some(kept) = self.kept.lock().unwrap().as_mut() {
            bufs.iter().for_each(|buf| kept.extend_from_slice(buf));
        }
        Ok(bufs.iter().map(|buf| buf.len()).sum())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn write_unit(&self) -> usize {
        usize::MAX
    }
    fn wake(&self) {}
    fn close(&self, _: CloseReason) {}
    fn tap(&self) -> Option<Arc<dyn Tap>> {
        Some(self.tap.clone()?)
    }
}

struct Counter(AtomicU64);

impl Random for Counter {
    fn fill(&self, bytes: &mut [u8]) {
        let next = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).to_le_bytes();
        bytes.iter_mut().zip(next.iter().cycle()).for_each(|(byte, next)| *byte = *next);
    }
}

struct Epoch;

impl WallClock for Epoch {
    fn unix_millis(&self) -> u64 {
        1_000_000
    }
}

struct Client {
    inbound: Inbound,
    kept: Arc<Mutex<Option<Vec<u8>>>>,
    buf: BytesMut,
    uri: String,
    relay: String,
}

impl Client {
    fn give(&mut self, bytes: &[u8], now: Instant) {
        self.buf.extend_from_slice(bytes);
        assert_eq!(self.inbound.received(&mut self.buf, now), Flow::Read);
    }

    fn ask(&mut self, text: &str, now: Instant) -> msrp_proto::head::Head {
        *self.kept.lock().unwrap() = Some(Vec::new());
        self.give(text.as_bytes(), now);
        let answer = self.kept.lock().unwrap().take().unwrap();
        match Decoder::default().decode(&mut BytesMut::from(&answer[..])) {
            Ok(Some(Event::Head(head))) => head,
            other => panic!("{other:?}"),
        }
    }
}

fn connect(relay: &Arc<Relay>, name: &str, tap: Option<Arc<Counting>>, now: Instant) -> Client {
    let kept: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
    let peer =
        Peer { address: name.into(), secure: false, certificate: PeerCertificate::None, principal: None };
    let link = relay.accepted(0, peer, Box::new(Sink { kept: Arc::clone(&kept), tap }), now);
    let inbound = Inbound::new(Arc::clone(relay), link, now);
    let uri = format!("msrp://{name}.example.com:7777/iau39;tcp");
    let mut client =
        Client { inbound, kept, buf: BytesMut::with_capacity(4 << 20), uri, relay: String::new() };
    let to = "msrp://relay.test:2855;tcp";
    let paths = format!("To-Path: {to}\r\nFrom-Path: {}\r\n", client.uri);
    let challenged = client.ask(&format!("MSRP a001 AUTH\r\n{paths}-------a001$\r\n"), now);
    let challenge = Challenge::parse(challenged.value(Name::WwwAuthenticate).unwrap()).unwrap();
    let answer = Answer {
        username: "u",
        secret: Secret::Password("p"),
        method: "AUTH",
        digest_uri: to,
        cnonce: "cnonce",
        nc: 1,
        send_uri: false,
    };
    let authorization = Authorization::answer(&challenge, &answer).unwrap();
    let request = format!("MSRP a002 AUTH\r\n{paths}Authorization: {authorization}\r\n-------a002$\r\n");
    let granted = client.ask(&request, now);
    client.relay = String::from_utf8(granted.value(Name::UsePath).unwrap().to_vec()).unwrap();
    client
}

/// Allocations for so many messages from one client to another, with their 200, once buffers have grown.
fn allocations(tap: Option<&Arc<Counting>>) -> usize {
    let text = "domain: relay.test\nlisteners: [{uri: 'msrp://127.0.0.1:2855'}]\n\
                auth: {allow_auth_without_tls: true, users: {u: {password: p}}}\n";
    let config = Config::parse(text, Path::new("."), "test.yaml").unwrap();
    let listener = Advertised {
        scheme: config.listeners[0].msrp_scheme(),
        host: "relay.test".into(),
        port: 2855,
        bound_port: 2855,
        websocket: None,
    };
    let settings = Settings {
        domain: config.domain.to_string(),
        listeners: vec![listener],
        auth: config.auth,
        limits: config.limits,
        timeouts: config.timeouts,
    };
    let relay = Relay::new(settings, Arc::new(Counter(AtomicU64::new(1))), Box::new(Epoch)).unwrap();
    let now = Instant::now();
    let mut alice = connect(&relay, "alice", tap.cloned(), now);
    let bob = connect(&relay, "bob", tap.cloned(), now);
    let message = format!(
        "MSRP tr000001 SEND\r\nTo-Path: {} {} {}\r\nFrom-Path: {}\r\nMessage-ID: m\r\nFailure-Report: partial\r\n\
         Byte-Range: 1-300/300\r\nContent-Type: text/plain\r\n\r\n{}\r\n-------tr000001$\r\n",
        alice.relay,
        bob.relay,
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
