//! Connections on threads of their own.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::mpsc;

use tcp_transport::listener::MAX_UNSTARTED;
use tcp_transport::threads::Thread;
use tcp_transport::tls::{ClientDomain, HandshakeError, ServerDomains};
use tcp_transport::{
    Acceptor, BoundListener, CloseReason, Connector, DriverSettings, Flow, Ledger, ListenerSettings,
    Protocol, Stream, Target, Threads, Transmit, Transport, connection,
};

use crate::common::{LOCALHOST, Pki, client_domain, patiently, read_up_to, server_domains, server_settings};

fn threads(count: usize) -> Arc<Threads> {
    Arc::new(Threads::start(NonZeroUsize::new(count).unwrap(), "test").unwrap())
}

/// Where a connection was, and how it ended.
#[derive(Debug, PartialEq)]
enum Seen {
    Accepted(String),
    Received(String),
    Expired(String),
    Closed(CloseReason),
    Failed(String),
}

fn here() -> String {
    thread::current().name().unwrap_or_default().to_owned()
}

struct Teller {
    seen: mpsc::UnboundedSender<Seen>,
    deadline: Option<Instant>,
}

impl Protocol for Teller {
    fn received(&mut self, buf: &mut BytesMut, now: Instant) -> Flow {
        buf.clear();
        self.deadline = Some(now + Duration::from_millis(1));
        let _ = self.seen.send(Seen::Received(here()));
        Flow::Read
    }

    fn transmit(&mut self, _: &Stream, _: Instant) -> io::Result<Transmit> {
        Ok(Transmit::Idle)
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn expired(&mut self, _: Instant) -> Flow {
        self.deadline = None;
        let _ = self.seen.send(Seen::Expired(here()));
        Flow::Read
    }

    fn closed(&mut self, reason: &CloseReason, _: Instant) {
        let _ = self.seen.send(Seen::Closed(reason.clone()));
    }
}

struct Tellers(mpsc::UnboundedSender<Seen>);

impl Acceptor for Tellers {
    fn accepted(&self, stream: Stream) {
        let _ = self.0.send(Seen::Accepted(here()));
        let (_, driver) = connection::open(stream, DriverSettings::default());
        tokio::spawn(driver.run(Teller { seen: self.0.clone(), deadline: None }));
    }

    fn handshake_failed(&self, _: std::net::SocketAddr, error: HandshakeError) {
        let _ = self.0.send(Seen::Failed(error.to_string()));
    }
}

/// A listener whose connections are on these, and what they tell.
fn listen(
    settings: ListenerSettings,
    domains: Arc<ServerDomains>,
    threads: &Arc<Threads>,
) -> (std::net::SocketAddr, mpsc::UnboundedReceiver<Seen>) {
    let listener = BoundListener::bind(settings, domains).unwrap().with_threads(Arc::clone(threads));
    let address = listener.local_addr();
    let (sender, seen) = mpsc::unbounded_channel();
    tokio::spawn(listener.run(Arc::new(Tellers(sender))));
    (address, seen)
}

fn plain() -> ListenerSettings {
    ListenerSettings::new(LOCALHOST.parse().unwrap(), Transport::Tcp)
}

/// TLS at a listener, and what a client needs for it.
fn tls() -> (ListenerSettings, Arc<ServerDomains>, ClientDomain) {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let identity = pki.identity(&ca, "relay", &["127.0.0.1"]);
    let domains = server_domains(&server_settings("relay", &identity, &ca));
    let mut settings = ListenerSettings::new(LOCALHOST.parse().unwrap(), Transport::Tls);
    settings.tls_domain = Some("relay".into());
    (settings, domains, client_domain(&ca, None))
}

/// A task on it that does not end its turn before what this gives is dropped.
fn hang(thread: &Thread) -> std::sync::mpsc::Sender<()> {
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let _entered = thread.enter();
    tokio::spawn(async move {
        let _ = wait.recv();
    });
    done
}

async fn next(seen: &mut mpsc::UnboundedReceiver<Seen>) -> Seen {
    patiently("what a connection tells", seen.recv()).await.unwrap()
}

async fn connect(address: std::net::SocketAddr) -> Stream {
    let connector = Connector::new(Default::default(), |_, _| true);
    let target = Target { host: "127.0.0.1".into(), port: address.port(), transport: Transport::Tcp };
    connector.connect(&target, None).await.unwrap()
}

#[tokio::test]
async fn a_connection_stays_on_one_thread_with_its_reads_and_its_timers() {
    let threads = threads(3);
    let (address, mut seen) = listen(plain(), Arc::default(), &threads);
    let client = connect(address).await;
    // It is taken in where it is accepted, and served there from its first byte.
    assert!(!matches!(next(&mut seen).await, Seen::Accepted(name) if name.starts_with("test-")));
    let mut places = Vec::new();
    for _ in 0..20 {
        client.write_all(b"x").await.unwrap();
        let Seen::Received(read) = next(&mut seen).await else { panic!("not read") };
        let Seen::Expired(timed) = next(&mut seen).await else { panic!("no timer") };
        places.extend([read, timed]);
    }
    assert!(places[0].starts_with("test-"), "{places:?}");
    assert!(places.iter().all(|place| *place == places[0]), "{places:?}");
}

#[tokio::test]
async fn tls_is_negotiated_where_the_connection_will_be() {
    let (settings, domains, client) = tls();
    let threads = threads(2);
    let (address, mut seen) = listen(settings, domains, &threads);
    let connector = Connector::new(Default::default(), |_, _| true);
    let target = Target { host: "127.0.0.1".into(), port: address.port(), transport: Transport::Tls };
    let client = connector.connect(&target, Some(&client)).await.unwrap();
    let Seen::Accepted(negotiated) = next(&mut seen).await else { panic!("not accepted") };
    assert!(negotiated.starts_with("test-"), "{negotiated}");
    client.write_all(b"x").await.unwrap();
    assert_eq!(next(&mut seen).await, Seen::Received(negotiated));
}

#[tokio::test]
async fn a_new_connection_goes_where_the_fewest_are() {
    let threads = threads(3);
    let (address, mut seen) = listen(plain(), Arc::default(), &threads);
    let mut clients = std::collections::BTreeMap::<String, Vec<Stream>>::new();
    let join = async |seen: &mut mpsc::UnboundedReceiver<Seen>| {
        let client = connect(address).await;
        assert!(matches!(next(seen).await, Seen::Accepted(_)));
        client.write_all(b"x").await.unwrap();
        let Seen::Received(place) = next(seen).await else { panic!("not read") };
        assert!(matches!(next(seen).await, Seen::Expired(_)));
        (place, client)
    };
    for _ in 0..9 {
        let (place, client) = join(&mut seen).await;
        clients.entry(place).or_default().push(client);
    }
    let spread: Vec<_> = clients.values().map(Vec::len).collect();
    assert_eq!(spread, [3, 3, 3]);
    assert_eq!(threads.all().iter().map(Thread::tasks).collect::<Vec<_>>(), [3, 3, 3]);
    // All of one thread's leave: it gets the next ones.
    let left = clients.insert("test-1".to_owned(), Vec::new()).unwrap();
    for client in left {
        drop(client);
        assert_eq!(next(&mut seen).await, Seen::Closed(CloseReason::PeerClosed));
    }
    patiently("its tasks to end", async {
        while threads.all()[1].tasks() > 0 {
            threads.all()[1].turn().await.unwrap();
        }
    })
    .await;
    for _ in 0..3 {
        let (place, client) = join(&mut seen).await;
        assert_eq!(place, "test-1");
        clients.entry(place).or_default().push(client);
    }
}

#[tokio::test]
async fn when_they_stop_what_is_still_there_ends() {
    let threads = threads(2);
    let (address, mut seen) = listen(plain(), Arc::default(), &threads);
    let client = connect(address).await;
    assert!(matches!(next(&mut seen).await, Seen::Accepted(_)));
    // A name that is looked up for ever keeps nobody.
    let (hang, hanging) = std::sync::mpsc::channel::<()>();
    {
        let _entered = threads.enter();
        tokio::task::spawn_blocking(move || hanging.recv());
    }
    threads.all()[0].turn().await.unwrap();
    patiently("the end", threads.stop()).await;
    assert_eq!(next(&mut seen).await, Seen::Closed(CloseReason::Aborted));
    assert_eq!(patiently("the client's end", read_up_to(&client, 1)).await, b"");
    for thread in threads.all() {
        assert_eq!(thread.turn().await, Err(tcp_transport::threads::Ended));
    }
    // Once more does nothing.
    patiently("the end", threads.stop()).await;
    // Who comes after that is closed.
    let late = connect(address).await;
    assert!(matches!(next(&mut seen).await, Seen::Failed(_)));
    assert_eq!(patiently("the client's end", read_up_to(&late, 1)).await, b"");
    drop(hang);
}

#[tokio::test]
async fn the_last_owner_ends_them() {
    let threads = threads(1);
    let (ended, end) = tokio::sync::oneshot::channel::<()>();
    {
        let _entered = threads.enter();
        tokio::spawn(async move {
            let _ended = ended;
            std::future::pending::<()>().await;
        });
    }
    drop(threads);
    assert!(patiently("its task to be dropped", end).await.is_err());
}

#[tokio::test]
async fn whether_one_gets_on_is_told_from_much_to_do() {
    let threads = threads(1);
    let thread = &threads.all()[0];
    let moment = Duration::from_millis(200);
    assert!(thread.gets_on(Duration::from_secs(60)).await, "it is idle");
    let done = hang(&threads.all()[0]);
    assert!(!thread.gets_on(moment).await, "a task does not end its turn");
    drop(done);
    assert!(thread.gets_on(Duration::from_secs(60)).await, "it is over");
    {
        let _entered = threads.enter();
        for _ in 0..10_000 {
            tokio::spawn(async { thread::sleep(Duration::from_millis(1)) });
        }
    }
    assert!(thread.gets_on(Duration::from_secs(2)).await, "it has much to do, and does it");
    threads.end();
    patiently("the end", threads.stop()).await;
    assert!(!thread.gets_on(moment).await);
}

#[tokio::test]
async fn a_busy_thread_still_looks_after_its_other_connections() {
    let threads = threads(1);
    let (address, mut seen) = listen(plain(), Arc::default(), &threads);
    let client = connect(address).await;
    assert!(matches!(next(&mut seen).await, Seen::Accepted(_)));
    // One that has always more to do, and counts its turns.
    let turns = Arc::new(std::sync::atomic::AtomicU64::new(0));
    {
        let _entered = threads.enter();
        let turns = Arc::clone(&turns);
        // As a connection's task does that has more to read; tokio's own yield would look for events each time.
        tokio::spawn(std::future::poll_fn::<(), _>(move |cx| {
            turns.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            thread::sleep(Duration::from_millis(1));
            cx.waker().wake_by_ref();
            std::task::Poll::Pending
        }));
    }
    let mut waited = Vec::new();
    for _ in 0..41 {
        let before = turns.load(std::sync::atomic::Ordering::Relaxed);
        client.write_all(b"x").await.unwrap();
        let Seen::Received(_) = next(&mut seen).await else { panic!("not read") };
        waited.push(turns.load(std::sync::atomic::Ordering::Relaxed) - before);
        let Seen::Expired(_) = next(&mut seen).await else { panic!("no timer") };
    }
    waited.sort_unstable();
    assert!(waited[20] <= 16, "turns of another task before it was read: {waited:?}");
}

#[tokio::test]
async fn handshakes_that_have_to_wait_are_bounded() {
    let (settings, domains, _) = tls();
    let threads = threads(1);
    let done = hang(&threads.all()[0]);
    let ledger = Arc::<Ledger>::default();
    let listener = BoundListener::bind(settings, domains).unwrap();
    let listener = listener.with_threads(Arc::clone(&threads)).with_ledger(Arc::clone(&ledger));
    let address = listener.local_addr();
    let (sender, _seen) = mpsc::unbounded_channel();
    tokio::spawn(listener.run(Arc::new(Tellers(sender))));
    let mut clients = Vec::new();
    for _ in 0..MAX_UNSTARTED + 10 {
        clients.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    patiently("so many to be taken", async {
        while ledger.len() < MAX_UNSTARTED {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ledger.len(), MAX_UNSTARTED);
    drop(done);
    patiently("all to be taken", async {
        while ledger.len() < MAX_UNSTARTED + 10 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn one_that_hangs_does_not_keep_others_from_handshakes() {
    let (settings, domains, client) = tls();
    let threads = threads(2);
    let done = hang(&threads.all()[0]);
    let (address, mut seen) = listen(settings, domains, &threads);
    let target = Target { host: "127.0.0.1".into(), port: address.port(), transport: Transport::Tls };
    let connector = Connector::new(Default::default(), |_, _| true);
    // Its share goes to the one that hangs, and waits there; nobody else does.
    let mut waiting = Vec::new();
    for _ in 0..MAX_UNSTARTED + 20 {
        waiting.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    patiently("the share of the one that hangs", async {
        while threads.all()[0].tasks() < MAX_UNSTARTED / 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let _client = patiently("a handshake", connector.connect(&target, Some(&client))).await.unwrap();
    assert!(matches!(next(&mut seen).await, Seen::Accepted(name) if name == "test-1"));
    drop(done);
}

#[tokio::test]
async fn one_that_is_busy_is_seen_to_be() {
    let threads = threads(1);
    let thread = &threads.all()[0];
    {
        let _entered = threads.enter();
        tokio::spawn(async { thread::sleep(Duration::from_millis(50)) });
    }
    thread.turn().await.unwrap();
    patiently("its time to be counted", async {
        while thread.busy() < Duration::from_millis(50) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
