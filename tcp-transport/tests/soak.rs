//! Many connections, and what they leave behind: no descriptor, no task, no byte. A process of its own
//! with one test in it, because descriptors and memory are the process'.
//!
//! Bytes are those of Rust's allocator, counted exactly. What is allocated once for all is there before
//! the count begins: tables as large as they get, and session stores that are full. The cryptographic
//! library (aws-lc) allocates by itself, so of what it holds only the resident memory tells.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::alloc::System;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use rcgen::{CertificateParams, KeyPair};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tcp_transport::tls::{
    ClientDomain, ClientDomainSettings, HandshakeError, ServerDomain, ServerDomainSettings, ServerDomains,
};
use tcp_transport::{
    Acceptor, BoundListener, CloseReason, ConnectionLimits, Connector, DriverSettings, Events, Flow, Ledger,
    ListenerSettings, Protocol, Registry, Reporting, Stream, Target, Transmit, Transport, connection,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Opened, used and closed in random order, so many of them at once at most.
const CONNECTIONS: usize = 5000;
const AT_ONCE: usize = 400;
/// Held.
const IDLE: usize = 2000;

/// Sends everything back.
struct Echo {
    registry: Arc<Registry<()>>,
    id: tcp_transport::ConnectionId,
    out: BytesMut,
}

impl Protocol for Echo {
    fn received(&mut self, buf: &mut BytesMut, _now: Instant) -> Flow {
        self.out.extend_from_slice(&buf.split());
        Flow::Read
    }

    fn transmit(&mut self, stream: &Stream, _now: Instant) -> io::Result<Transmit> {
        while !self.out.is_empty() {
            match stream.try_write(&[IoSlice::new(&self.out)]) {
                Ok(n) => self.out.advance(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Transmit::Blocked),
                Err(e) => return Err(e),
            }
        }
        self.out = BytesMut::new();
        Ok(Transmit::Idle)
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn expired(&mut self, _now: Instant) -> Flow {
        Flow::Read
    }

    fn closed(&mut self, _reason: &CloseReason, _now: Instant) {
        self.registry.remove(self.id);
    }
}

struct Server(Arc<Registry<()>>);

impl Acceptor for Server {
    fn accepted(&self, stream: Stream) {
        let (handle, driver) = connection::open(stream, DriverSettings::default());
        self.0.insert(handle.clone(), None, ());
        tokio::spawn(driver.run(Echo { registry: self.0.clone(), id: handle.id(), out: BytesMut::new() }));
    }

    fn handshake_failed(&self, _peer: SocketAddr, error: HandshakeError) {
        // Some leave in the middle, on purpose.
        assert!(matches!(error, HandshakeError::Closed | HandshakeError::Io(_)), "{error}");
    }
}

/// Both ends of everything: listeners, and a connector.
struct Bench {
    ledger: Arc<Ledger>,
    registry: Arc<Registry<()>>,
    plain: SocketAddr,
    tls: SocketAddr,
    connector: Connector,
    domain: ClientDomain,
}

impl Bench {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
        let (crt, pem) = (dir.path().join("crt"), dir.path().join("key"));
        fs::write(&crt, certificate.pem()).unwrap();
        fs::write(&pem, key.serialize_pem()).unwrap();
        let mut settings = ServerDomainSettings::new("soak", &crt, &pem);
        settings.verify_cert = false;
        settings.require_cert = false;
        let domains = Arc::new(ServerDomains::new([ServerDomain::load(&settings).unwrap()]).unwrap());
        let mut settings = ClientDomainSettings::new("soak");
        settings.verify_cert = false;
        let domain = ClientDomain::load(&settings).unwrap();

        let ledger = Ledger::new(ConnectionLimits::default(), Events::new(1024, Reporting::All));
        let registry = Arc::new(Registry::with_ledger(ledger.clone()));
        let listen = |transport| {
            let settings = ListenerSettings {
                tls_handshake_timeout: Duration::from_secs(120),
                ..ListenerSettings::new("127.0.0.1:0".parse().unwrap(), transport)
            };
            let listener =
                BoundListener::bind(settings, domains.clone()).unwrap().with_ledger(ledger.clone());
            let address = listener.local_addr();
            tokio::spawn(listener.run(Arc::new(Server(registry.clone()))));
            address
        };
        let (plain, tls) = (listen(Transport::Tcp), listen(Transport::Tls));
        let connector =
            Connector::new(Default::default(), |_: SocketAddr, _| true).with_ledger(ledger.clone());
        Self { ledger, registry, plain, tls, connector, domain }
    }

    async fn connect(&self, transport: Transport) -> Stream {
        let address = if transport == Transport::Tls { self.tls } else { self.plain };
        let target = Target { host: "127.0.0.1".into(), port: address.port(), transport };
        self.connector.connect(&target, Some(&self.domain)).await.unwrap()
    }

    /// Waits until nothing is left, of what the runtime had for the sockets either: it frees that when it
    /// next looks for events.
    async fn settle(&self) {
        let empty = async {
            while !self.ledger.is_empty() || !self.registry.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), empty).await.unwrap_or_else(|_| {
            panic!("left: {:?}", self.ledger.snapshot().iter().take(5).collect::<Vec<_>>())
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Tasks that are alive once those that are ending have ended.
async fn tasks(expected: Option<usize>) -> usize {
    for _ in 0..500 {
        let alive = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        if expected.is_none_or(|expected| alive == expected) {
            return alive;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1024
}

/// Bytes allocated and not freed.
fn live() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Bytes that are still there once what is ending has ended.
async fn live_falls_to(expected: usize) -> usize {
    for _ in 0..500 {
        if live() <= expected {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    live()
}

/// Sizes, each with how often it occurs, and their extremes and average.
#[derive(Default)]
struct Sizes(BTreeMap<usize, usize>);

impl Sizes {
    fn add(&mut self, bytes: usize) {
        *self.0.entry(bytes).or_default() += 1;
    }

    fn average(&self) -> usize {
        let count: usize = self.0.values().sum();
        self.0.iter().map(|(bytes, times)| bytes * times).sum::<usize>() / count.max(1)
    }

    fn max(&self) -> usize {
        self.0.last_key_value().map_or(0, |(bytes, _)| *bytes)
    }
}

impl std::fmt::Display for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let min = self.0.first_key_value().map_or(0, |(bytes, _)| *bytes);
        write!(f, "min {min}, average {}, max {} bytes; each:", self.average(), self.max())?;
        self.0.iter().try_for_each(|(bytes, times)| write!(f, " {times}×{bytes}"))
    }
}

/// The same numbers in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

async fn echo(stream: &Stream, len: usize) {
    stream.write_all(&vec![b'x'; len]).await.unwrap();
    let mut back = BytesMut::new();
    while back.len() < len {
        assert_ne!(stream.read(&mut back, 65536).await.unwrap(), 0, "the echo ends early");
    }
}

/// Opens, uses and closes so many in random order; how much resident memory there was halfway.
async fn in_random_order(bench: &Bench, connections: usize) -> usize {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut open: Vec<Stream> = Vec::new();
    let mut made = 0;
    let mut halfway = 0;
    while made < connections || !open.is_empty() {
        match dice.below(3) {
            0 | 1 if made < connections && open.len() < AT_ONCE => {
                made += 1;
                // One in ten is TLS, one in fifty leaves in the middle of its handshake.
                match made % 50 {
                    49 => drop(tokio::net::TcpStream::connect(bench.tls).await.unwrap()),
                    n if n % 10 == 0 => open.push(bench.connect(Transport::Tls).await),
                    _ => open.push(bench.connect(Transport::Tcp).await),
                }
            }
            _ if open.is_empty() => {}
            0 => echo(&open[dice.below(open.len())], 1 + dice.below(20_000)).await,
            _ => {
                let n = dice.below(open.len());
                let stream = open.swap_remove(n);
                match dice.below(3) {
                    // In order, cut off, or with data on its way.
                    0 => drop((stream.close_notify(), stream.shutdown_write(), stream)),
                    1 => drop(stream),
                    _ => drop((stream.write_all(b"unread").await, stream)),
                }
            }
        }
        if made == connections / 2 && halfway == 0 {
            halfway = resident();
        }
    }
    bench.settle().await;
    halfway
}

/// Holds so many TLS connections, each used once, and lets go of them: what both ends of each take, and
/// what the end that has connected takes. (The runtime frees what it has for a socket a little later, so
/// that counts for the other end.)
async fn held(bench: &Bench, connections: usize) -> (Sizes, Sizes) {
    let (mut both, mut connecting) = (Sizes::default(), Sizes::default());
    let mut held = Vec::with_capacity(connections);
    for n in 1..=connections {
        let before = live();
        held.push(bench.connect(Transport::Tls).await);
        // Its answer comes from a driver that has nothing more to do then.
        echo(&held[n - 1], 10).await;
        assert_eq!(bench.registry.len(), n);
        both.add(live() - before);
    }
    while let Some(stream) = held.pop() {
        let before = live();
        drop(stream);
        connecting.add(before - live());
        while bench.registry.len() > held.len() {
            tokio::task::yield_now().await;
        }
    }
    bench.settle().await;
    (both, connecting)
}

/// A connection that ends unused takes a ticket and brings none; the stores are to hold the same again.
async fn fill_session_stores(bench: &Bench) {
    for _ in 0..10 {
        echo(&bench.connect(Transport::Tls).await, 10).await;
    }
    bench.settle().await;
}

/// A round leaves exactly what it found. It may be repeated twice: the table of a session store in rustls grows
/// once, at a moment that depends on random keys. What leaks does so in each round.
async fn leaves_nothing_behind(what: &str, round: impl AsyncFn()) {
    let mut found = Vec::new();
    for _ in 0..3 {
        let before = (descriptors(), tasks(None).await, live());
        round().await;
        let after = (descriptors(), tasks(Some(before.1)).await, live_falls_to(before.2).await);
        println!("{what}: {before:?} descriptors, tasks, bytes before, {after:?} after");
        assert_eq!((after.0, after.1), (before.0, before.1), "descriptors, tasks");
        if after.2 == before.2 {
            return;
        }
        found.push((before, after));
    }
    panic!("{what}: bytes are left each time: {found:?}");
}

#[tokio::test]
async fn many_connections_leave_nothing_behind() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let bench = Bench::start();
    let start = resident();
    held(&bench, IDLE).await;
    let each = resident().saturating_sub(start) / (2 * IDLE);
    println!("{IDLE} idle TLS connections for the first time: {each} bytes resident for each end");
    assert!(each < 64 * 1024, "{each} bytes for one end of an idle TLS connection");
    in_random_order(&bench, 2 * AT_ONCE).await;
    // Tables that have twice the room of what follows, so that they never grow for the sake of order alone.
    let mut at_once = Vec::new();
    for _ in 0..2 * IDLE {
        at_once.push(bench.connect(Transport::Tcp).await);
    }
    drop(at_once);
    bench.settle().await;
    fill_session_stores(&bench).await;

    leaves_nothing_behind("opened, used and closed in random order", async || {
        let halfway = in_random_order(&bench, CONNECTIONS).await;
        fill_session_stores(&bench).await;
        // What aws-lc holds: the second half of them may not have grown the process by a kilobyte each.
        let grown = resident().saturating_sub(halfway);
        println!("resident memory grew by {grown} bytes in the second half of {CONNECTIONS} connections");
        assert!(grown < CONNECTIONS / 2 * 1024, "{grown} bytes");
    })
    .await;
    leaves_nothing_behind("held", async || {
        let (both, connecting) = held(&bench, IDLE).await;
        println!("{IDLE} idle TLS connections, both ends: {both}");
        println!("of that, the end that has connected: {connecting}");
        assert!(both.average() < 24 * 1024 && both.max() < 64 * 1024, "{both}");
    })
    .await;
}
