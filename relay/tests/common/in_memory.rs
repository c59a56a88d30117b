//! A relay in memory with clients on it: no sockets, no tasks. For what forwarding costs: `benches/forwarding.rs`,
//! `tests/tap_allocations.rs`, `tests/forwarding_allocations.rs`.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Instant;

use bytes::BytesMut;
use memchr::memmem::Finder;
use msrp_proto::decoder::{Decoder, Event};
use msrp_proto::digest::{Answer, Authorization, Challenge, Secret};
use msrp_proto::head::Head;
use msrp_proto::header::Name;
use relay::config::Config;
use relay::msrp::{Advertised, Inbound, Peer, Random, Relay, Settings, Tap, WallClock, WebSocketLink, Wire};
use tcp_transport::PeerCertificate;
use tcp_transport::connection::{CloseReason, Flow};

/// What is written to a client: taken at once, all of it, and kept while somebody wants to see it.
#[derive(Default)]
pub(crate) struct Sink(Mutex<Option<Vec<u8>>>, Mutex<Option<Vec<[u8; 16]>>>);

impl Sink {
    /// Notes the transaction ids of the requests that are written from now on.
    #[allow(dead_code, reason = "not all who share this need it")]
    pub(crate) fn watch_ids(&self) {
        self.1.lock().unwrap().get_or_insert_default().clear();
    }

    /// Those noted since.
    #[allow(dead_code, reason = "not all who share this need it")]
    pub(crate) fn take_ids(&self) -> Vec<[u8; 16]> {
        self.1.lock().unwrap().clone().unwrap_or_default()
    }

    /// Keeps what is written from now on.
    pub(crate) fn keep(&self, capacity: usize) {
        *self.0.lock().unwrap() = Some(Vec::with_capacity(capacity));
    }

    /// What was written since; no more is kept.
    pub(crate) fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap().take().unwrap()
    }
}

/// Made once, so that it does not hide what is measured.
static HEAD: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"MSRP "));

/// The transaction ids of the SENDs whose heads are in a slice. Heads are in one piece, behind an end-line or the header of a
/// frame; a slice that begins otherwise is a part of a body.
fn sends(slice: &[u8]) -> impl Iterator<Item = [u8; 16]> {
    let begins = slice[..slice.len().min(16)].windows(5).any(|bytes| matches!(bytes, b"MSRP " | b"-----"));
    let heads = begins.then(|| HEAD.find_iter(slice)).into_iter().flatten();
    heads
        .filter_map(|at| slice[at + 5..].split_first_chunk::<16>())
        .filter_map(|(id, rest)| rest.starts_with(b" SEND").then_some(*id))
}

struct SinkWire {
    sink: Arc<Sink>,
    tap: Option<Arc<dyn Tap>>,
}

impl Wire for SinkWire {
    fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        if let Some(kept) = self.sink.0.lock().unwrap().as_mut() {
            bufs.iter().for_each(|buf| kept.extend_from_slice(buf));
        }
        if let Some(ids) = self.sink.1.lock().unwrap().as_mut() {
            bufs.iter().for_each(|buf| ids.extend(sends(buf)));
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
        self.tap.clone()
    }
}

/// Distinct, and cheap, so that it does not hide what is measured.
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

/// A relay with two listeners: 0 is for TCP, 1 for WebSocket.
pub(crate) fn relay() -> Arc<Relay> {
    let text = "domain: relay.test\nlisteners: [{uri: 'msrp://127.0.0.1:2855'}]\n\
                auth: {allow_auth_without_tls: true, users: {u: {password: p}}}\n";
    let config = Config::parse(text, Path::new("."), "memory.yaml").unwrap();
    let tcp = Advertised {
        scheme: config.listeners[0].msrp_scheme(),
        host: "relay.test".into(),
        port: 2855,
        bound_port: 2855,
        websocket: None,
    };
    let websocket = Some(WebSocketLink { chunk_size: 64 * 1024 });
    let listeners = vec![tcp.clone(), Advertised { port: 80, bound_port: 80, websocket, ..tcp }];
    let settings = Settings {
        domain: config.domain.to_string(),
        listeners,
        auth: config.auth,
        limits: config.limits,
        timeouts: config.timeouts,
    };
    Relay::new(settings, Arc::new(Counter(AtomicU64::new(1))), Box::new(Epoch)).unwrap()
}

/// A client's connection to the relay, with a session.
pub(crate) struct Client {
    inbound: Inbound,
    pub(crate) sink: Arc<Sink>,
    buf: BytesMut,
    pub(crate) uri: String,
    pub(crate) relay_uri: String,
}

impl Client {
    /// Connects to a listener, and logs in.
    pub(crate) fn connect(
        relay: &Arc<Relay>,
        name: &str,
        listener: usize,
        tap: Option<Arc<dyn Tap>>,
        now: Instant,
    ) -> Self {
        let uri = format!("msrp://{name}.example.com:7777/iau39;tcp");
        let mut client = Self::open(relay, listener, PeerCertificate::None, tap, uri, now);
        client.log_in(now);
        client
    }

    /// Connects only. `uri` is what it sends from, with those of the relays before it, the last one first.
    pub(crate) fn open(
        relay: &Arc<Relay>,
        listener: usize,
        certificate: PeerCertificate,
        tap: Option<Arc<dyn Tap>>,
        uri: String,
        now: Instant,
    ) -> Self {
        let sink = Arc::new(Sink::default());
        let peer = Peer { address: "memory".into(), secure: false, certificate, principal: None };
        let wire = SinkWire { sink: Arc::clone(&sink), tap };
        let link = relay.accepted(listener, peer, Box::new(wire), now);
        Self {
            inbound: Inbound::new(Arc::clone(relay), link, now),
            sink,
            buf: BytesMut::with_capacity(4 << 20),
            uri,
            relay_uri: String::new(),
        }
    }

    /// Gets a session.
    pub(crate) fn log_in(&mut self, now: Instant) {
        let client = self;
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
        let use_path = String::from_utf8(granted.value(Name::UsePath).unwrap().to_vec()).unwrap();
        // Behind those of the relays before it.
        client.relay_uri = use_path.split(' ').next_back().unwrap().into();
    }

    /// Has the relay read this.
    pub(crate) fn give(&mut self, bytes: &[u8], now: Instant) {
        self.buf.extend_from_slice(bytes);
        assert_eq!(self.inbound.received(&mut self.buf, now), Flow::Read);
    }

    /// Gives `text`, and the head of what comes back, behind the header of its frame if it has one.
    fn ask(&mut self, text: &str, now: Instant) -> Head {
        self.sink.keep(0);
        self.give(text.as_bytes(), now);
        let answer = self.sink.take();
        let start = answer.windows(5).position(|bytes| bytes == b"MSRP ").unwrap();
        match Decoder::default().decode(&mut BytesMut::from(&answer[start..])) {
            Ok(Some(Event::Head(head))) => head,
            other => panic!("{other:?}"),
        }
    }
}
