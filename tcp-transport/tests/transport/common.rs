//! What the tests share: certificates, connected pairs of streams, protocols that record.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, RevokedCertParams, date_time_ymd,
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use tcp_transport::tls::{
    self, ClientDomain, ClientDomainSettings, HandshakeError, ServerDomain, ServerDomainSettings,
    ServerDomains,
};
use tcp_transport::{
    Acceptor, BoundListener, CloseReason, Flow, ListenerSettings, Protocol, Stream, Transmit, Transport,
};

pub(crate) const LOCALHOST: &str = "127.0.0.1:0";

/// Far more than anything here takes; only a hang meets it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Fails a test that hangs, with what it waited for.
pub(crate) async fn patiently<F: Future>(what: &'static str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("nothing happened: {what}"))
}

// ---- certificates -----------------------------------------------------------------------------

/// A directory with the PEM files of one test.
pub(crate) struct Pki {
    dir: TempDir,
}

/// A CA with its file.
pub(crate) struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(crate) file: PathBuf,
}

/// A certificate with its key, in files.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Pki {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn ca(&self, name: &str) -> Ca {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = self.write(&format!("{name}.pem"), &issuer.pem());
        Ca { issuer, file }
    }

    /// A CA that another one vouches for.
    pub(crate) fn intermediate(&self, ca: &Ca, name: &str, serial: u64) -> Ca {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.serial_number = Some(serial.into());
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &ca.issuer).unwrap();
        let file = self.write(&format!("{name}.pem"), &issuer.pem());
        Ca { issuer, file }
    }

    /// A revocation list of `ca`, good until the end of the year given.
    pub(crate) fn crl(&self, ca: &Ca, file: &str, revoked: &[u64], until: i32) -> PathBuf {
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(until, 12, 31),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.write(file, &params.signed_by(&ca.issuer).unwrap().pem().unwrap())
    }

    /// A directory for PEM files, made if it is not there.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn identity(&self, ca: &Ca, name: &str, sans: &[&str]) -> Identity {
        self.identity_with(ca, name, sans, |_| {})
    }

    pub(crate) fn identity_with(
        &self,
        ca: &Ca,
        name: &str,
        sans: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(sans.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let certificate = params.signed_by(&key, &ca.issuer).unwrap();
        Identity {
            certificate: self.write(&format!("{name}.crt"), &certificate.pem()),
            key: self.write(&format!("{name}.key"), &key.serialize_pem()),
        }
    }
}

/// A server domain that asks for certificates of `ca` and requires none.
pub(crate) fn server_settings(name: &str, identity: &Identity, ca: &Ca) -> ServerDomainSettings {
    let mut settings = ServerDomainSettings::new(name, &identity.certificate, &identity.key);
    settings.ca_list = Some(ca.file.clone());
    settings.require_cert = false;
    settings
}

pub(crate) fn server_domains(settings: &ServerDomainSettings) -> Arc<ServerDomains> {
    Arc::new(ServerDomains::new([ServerDomain::load(settings).unwrap()]).unwrap())
}

pub(crate) fn client_domain(ca: &Ca, identity: Option<&Identity>) -> ClientDomain {
    let mut settings = ClientDomainSettings::new("default");
    settings.ca_list = Some(ca.file.clone());
    settings.certificate = identity.map(|i| i.certificate.clone());
    settings.private_key = identity.map(|i| i.key.clone());
    ClientDomain::load(&settings).unwrap()
}

// ---- connected pairs --------------------------------------------------------------------------

/// Two ends of a TCP connection: the accepted one and the connecting one.
pub(crate) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(LOCALHOST).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (server.unwrap().0, client.unwrap())
}

/// Two ends of a plain stream.
pub(crate) async fn plain_pair() -> (Stream, Stream) {
    let (server, client) = tcp_pair().await;
    let (server_peer, client_peer) = (server.peer_addr().unwrap(), client.peer_addr().unwrap());
    (Stream::plain(server, server_peer).unwrap(), Stream::plain(client, client_peer).unwrap())
}

/// Both sides of one handshake, whatever comes of them.
pub(crate) async fn handshake(
    domains: &ServerDomains,
    client: &ClientDomain,
    host: &str,
) -> (Result<Stream, HandshakeError>, Result<Stream, HandshakeError>) {
    let (accepted, connected) = tcp_pair().await;
    let (peer, server) = (accepted.peer_addr().unwrap(), connected.peer_addr().unwrap());
    let limit = Duration::from_secs(30);
    tokio::join!(
        tls::accept(accepted, peer, domains, None, limit),
        tls::connect(connected, server, client, host, limit)
    )
}

/// Two ends of a TLS stream.
pub(crate) async fn tls_pair() -> (Stream, Stream) {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let identity = pki.identity(&ca, "relay", &["relay.test"]);
    let domains = server_domains(&server_settings("relay", &identity, &ca));
    let (server, client) = handshake(&domains, &client_domain(&ca, None), "relay.test").await;
    (server.unwrap(), client.unwrap())
}

pub(crate) async fn pair(transport: Transport) -> (Stream, Stream) {
    match transport {
        Transport::Tcp => plain_pair().await,
        Transport::Tls => tls_pair().await,
    }
}

// ---- a listener that reports ------------------------------------------------------------------

/// What a listener told.
#[derive(Debug)]
pub(crate) enum Told {
    Accepted(Stream),
    Failed(HandshakeError),
}

pub(crate) struct Reporter(pub(crate) mpsc::UnboundedSender<Told>);

impl Acceptor for Reporter {
    fn accepted(&self, stream: Stream) {
        let _ = self.0.send(Told::Accepted(stream));
    }

    fn handshake_failed(&self, _peer: SocketAddr, error: HandshakeError) {
        let _ = self.0.send(Told::Failed(error));
    }
}

/// A running listener, and what it tells.
pub(crate) fn listen(
    settings: ListenerSettings,
    domains: Arc<ServerDomains>,
) -> (SocketAddr, mpsc::UnboundedReceiver<Told>) {
    let listener = BoundListener::bind(settings, domains).unwrap();
    let address = listener.local_addr();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(listener.run(Arc::new(Reporter(sender))));
    (address, receiver)
}

// ---- protocols --------------------------------------------------------------------------------

/// Sends everything back. It stops reading while more than `HIGH` bytes wait, as a real protocol does.
#[derive(Default)]
pub(crate) struct Echo {
    queue: Outbox,
    paused: Option<Instant>,
}

const HIGH: usize = 256 * 1024;

impl Protocol for Echo {
    fn received(&mut self, buf: &mut BytesMut, now: Instant) -> Flow {
        if !buf.is_empty() {
            self.queue.push(buf.split().freeze());
        }
        self.paused = (self.queue.len > HIGH).then_some(now);
        if self.paused.is_some() { Flow::Pause } else { Flow::Read }
    }

    fn transmit(&mut self, stream: &Stream, _now: Instant) -> io::Result<Transmit> {
        self.queue.transmit(stream)
    }

    fn deadline(&self) -> Option<Instant> {
        // The simplest way to come back to `received` without anybody's wake.
        self.paused.filter(|_| self.queue.len <= HIGH)
    }

    fn expired(&mut self, _now: Instant) -> Flow {
        Flow::Read
    }

    fn closed(&mut self, _reason: &CloseReason, _now: Instant) {}
}

/// A queue of bytes for a stream.
#[derive(Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Bytes>,
    pub(crate) len: usize,
}

impl Outbox {
    pub(crate) fn push(&mut self, data: Bytes) {
        self.len += data.len();
        self.queue.push_back(data);
    }

    pub(crate) fn transmit(&mut self, stream: &Stream) -> io::Result<Transmit> {
        while !self.queue.is_empty() {
            let slices: Vec<IoSlice<'_>> = self.queue.iter().take(64).map(|b| IoSlice::new(b)).collect();
            let mut taken = match stream.try_write(&slices) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Transmit::Blocked),
                Err(e) => return Err(e),
            };
            self.len -= taken;
            while let Some(first) = self.queue.front_mut().filter(|_| taken > 0) {
                let n = taken.min(first.len());
                first.advance(n);
                taken -= n;
                if first.is_empty() {
                    self.queue.pop_front();
                }
            }
        }
        match stream.flush() {
            Ok(()) => Ok(Transmit::Idle),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Transmit::Blocked),
            Err(e) => Err(e),
        }
    }
}

/// What a [`Probe`] does and has seen, shared with the test.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) received: Vec<u8>,
    pub(crate) outbox: Outbox,
    pub(crate) paused: bool,
    /// Leave what came in the driver's buffer while paused.
    pub(crate) keep: bool,
    pub(crate) deadline: Option<Instant>,
    pub(crate) close_on: Option<u8>,
    pub(crate) panic_on: Option<u8>,
    pub(crate) stay_after_end: bool,
    /// Tell of the next time that nothing has happened for a while.
    pub(crate) tell_quiet: bool,
    pub(crate) calls: usize,
}

/// A protocol under a test's control.
pub(crate) struct Probe {
    pub(crate) seen: Arc<Mutex<Seen>>,
    pub(crate) events: mpsc::UnboundedSender<Event>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Received(usize),
    Ended,
    Expired(Instant),
    Quiet,
    Closed(CloseReason),
}

impl Probe {
    pub(crate) fn new(seen: Seen) -> (Self, Arc<Mutex<Seen>>, mpsc::UnboundedReceiver<Event>) {
        let seen = Arc::new(Mutex::new(seen));
        let (events, receiver) = mpsc::unbounded_channel();
        (Self { seen: seen.clone(), events }, seen, receiver)
    }

    fn flow(seen: &Seen) -> Flow {
        if seen.paused { Flow::Pause } else { Flow::Read }
    }
}

impl Protocol for Probe {
    fn received(&mut self, buf: &mut BytesMut, _now: Instant) -> Flow {
        let mut seen = self.seen.lock();
        seen.calls += 1;
        let _ = self.events.send(Event::Received(buf.len()));
        if seen.paused && seen.keep {
            return Flow::Pause;
        }
        let data = buf.split();
        seen.received.extend_from_slice(&data);
        if seen.panic_on.is_some_and(|byte| data.contains(&byte)) {
            panic!("as the test wants it");
        }
        if seen.close_on.is_some_and(|byte| data.contains(&byte)) {
            return Flow::Close(CloseReason::Protocol("the byte came".into()));
        }
        Self::flow(&seen)
    }

    fn quiet(&mut self) {
        if std::mem::take(&mut self.seen.lock().tell_quiet) {
            let _ = self.events.send(Event::Quiet);
        }
    }

    fn ended(&mut self, _buf: &mut BytesMut, _now: Instant) -> Flow {
        let _ = self.events.send(Event::Ended);
        let seen = self.seen.lock();
        if seen.stay_after_end { Self::flow(&seen) } else { Flow::Close(CloseReason::PeerClosed) }
    }

    fn transmit(&mut self, stream: &Stream, _now: Instant) -> io::Result<Transmit> {
        self.seen.lock().outbox.transmit(stream)
    }

    fn deadline(&self) -> Option<Instant> {
        self.seen.lock().deadline
    }

    fn expired(&mut self, now: Instant) -> Flow {
        let mut seen = self.seen.lock();
        seen.deadline = None;
        let _ = self.events.send(Event::Expired(now));
        Self::flow(&seen)
    }

    fn closed(&mut self, reason: &CloseReason, _now: Instant) {
        let _ = self.events.send(Event::Closed(reason.clone()));
    }
}

/// Reads until the end, or until `wanted` bytes are there.
pub(crate) async fn read_up_to(stream: &Stream, wanted: usize) -> Vec<u8> {
    let mut buf = BytesMut::new();
    while buf.len() < wanted {
        if stream.read(&mut buf, 65536).await.unwrap() == 0 {
            break;
        }
    }
    buf.to_vec()
}

/// Bytes that differ from place to place.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 ^ (i / 251 % 256) as u8).collect()
}
