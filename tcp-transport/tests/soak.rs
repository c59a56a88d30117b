//! Many connections. A process of its own, because descriptors and memory are the process'.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use rcgen::{CertificateParams, KeyPair};
use tcp_transport::tls::{
    ClientDomain, ClientDomainSettings, HandshakeError, ServerDomain, ServerDomainSettings, ServerDomains,
};
use tcp_transport::{
    Acceptor, BoundListener, CloseReason, ConnectionLimits, Connector, DriverSettings, Events, Flow, Ledger,
    ListenerSettings, Protocol, Registry, Reporting, Stream, Target, Transmit, Transport, connection,
};

const CONNECTIONS: usize = 5000;
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

    /// Waits until nothing is left.
    async fn settle(&self) {
        let empty = async {
            while !self.ledger.is_empty() || !self.registry.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), empty).await.unwrap_or_else(|_| {
            panic!("left: {:?}", self.ledger.snapshot().iter().take(5).collect::<Vec<_>>())
        });
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

#[tokio::test]
async fn many_connections_leave_nothing_behind() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let bench = Bench::start();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    // What is allocated once for all is there before the count begins.
    echo(&bench.connect(Transport::Tls).await, 100_000).await;
    echo(&bench.connect(Transport::Tcp).await, 100_000).await;
    bench.settle().await;
    let before = (descriptors(), tasks(None).await);

    let mut open: Vec<Stream> = Vec::new();
    let mut made = 0;
    let mut halfway = 0;
    while made < CONNECTIONS || !open.is_empty() {
        match dice.below(3) {
            0 | 1 if made < CONNECTIONS && open.len() < 400 => {
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
        if made == CONNECTIONS / 2 && halfway == 0 {
            halfway = resident();
        }
    }
    bench.settle().await;
    let after = (descriptors(), tasks(Some(before.1)).await);
    assert_eq!(after, before, "descriptors and tasks");
    // The second half of them may not have grown the process by a kilobyte each.
    let grown = resident().saturating_sub(halfway);
    println!(
        "{made} connections; {before:?} descriptors and tasks; resident grew by {grown} bytes in their second half"
    );
    assert!(grown < CONNECTIONS / 2 * 1024, "{grown} bytes");

    // Held, idle, over TLS: both ends are in this process.
    let start = resident();
    let mut held = Vec::with_capacity(IDLE);
    for _ in 0..IDLE {
        held.push(bench.connect(Transport::Tls).await);
    }
    let accepted = async {
        while bench.registry.len() < IDLE {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), accepted).await.unwrap();
    let each = resident().saturating_sub(start) / (2 * IDLE);
    println!("{IDLE} idle TLS connections, both ends here: {each} bytes of memory for each end");
    assert!(each < 64 * 1024, "{each} bytes for one end of an idle TLS connection");
    for stream in &held {
        echo(stream, 10).await;
    }
    drop(held);
    bench.settle().await;
    assert_eq!((descriptors(), tasks(Some(before.1)).await), before);
}
