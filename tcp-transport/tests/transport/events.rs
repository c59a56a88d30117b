//! Connection events: which are told, in which order, to whom, and that they block nobody.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{Domain, Socket, Type};
use tcp_transport::event::{Direction, Ending, Subscription};
use tcp_transport::{
    Acceptor, BoundListener, CloseReason, ConnectionEvent, ConnectionLimits, Connector, DriverSettings,
    EventKind, Events, Handle, Ledger, ListenerSettings, Reporting, Scheme, Stream, Target, Transport,
    connection,
};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::common::{
    Echo, LOCALHOST, Pki, client_domain, patiently, read_up_to, server_domains, server_settings,
};

/// Echoes, and hands out the handles.
struct Server(UnboundedSender<Handle>);

impl Acceptor for Server {
    fn accepted(&self, stream: Stream) {
        let (handle, driver) = connection::open(stream, DriverSettings::default());
        let _ = self.0.send(handle);
        tokio::spawn(driver.run(Echo::default()));
    }

    fn handshake_failed(&self, _peer: SocketAddr, _error: tcp_transport::tls::HandshakeError) {}
}

fn ledger(queue: usize, reporting: Reporting) -> Arc<Ledger> {
    Ledger::new(ConnectionLimits::default(), Events::new(queue, reporting))
}

fn serve(ledger: &Arc<Ledger>) -> (SocketAddr, UnboundedReceiver<Handle>) {
    let settings = ListenerSettings {
        scheme: Some(Scheme::Msrp),
        ..ListenerSettings::new(LOCALHOST.parse().unwrap(), Transport::Tcp)
    };
    let listener = BoundListener::bind(settings, Arc::default()).unwrap().with_ledger(ledger.clone());
    let address = listener.local_addr();
    let (sender, handles) = unbounded_channel();
    tokio::spawn(listener.run(Arc::new(Server(sender))));
    (address, handles)
}

async fn next(events: &mut Subscription) -> Arc<ConnectionEvent> {
    patiently("event", events.next()).await.unwrap()
}

fn ending(event: &ConnectionEvent) -> &Ending {
    event.kind.ending().unwrap_or_else(|| panic!("{event}"))
}

#[tokio::test]
async fn a_connection_is_told_of_from_its_first_moment_to_its_last() {
    let ledger = ledger(100, Reporting::All);
    let (address, _handles) = serve(&ledger);
    let mut events = ledger.events().subscribe();
    let dialling = self::ledger(100, Reporting::All);
    let mut dialled = dialling.events().subscribe();
    let connector = Connector::new(Default::default(), |_, _| true).with_ledger(dialling.clone());
    let target = Target { host: "127.0.0.1".into(), port: address.port(), transport: Transport::Tcp };
    let client = connector.connect_for(&target, None, Some(Scheme::Msrp)).await.unwrap();
    let client_address = client.local_addr();

    let started = next(&mut dialled).await;
    assert_eq!((&started.kind, started.remote, started.local), (&EventKind::ConnectStarted, address, None));
    let connected = next(&mut dialled).await;
    assert_eq!((&connected.kind, connected.id), (&EventKind::Connected, started.id));
    assert_eq!((connected.direction, connected.local), (Direction::Outbound, Some(client_address)));

    let accepted = next(&mut events).await;
    assert_eq!((&accepted.kind, accepted.direction), (&EventKind::Accepted, Direction::Inbound));
    assert_eq!((accepted.remote, accepted.local), (client_address, Some(address)));
    assert_eq!((accepted.scheme, accepted.transport), (Some(Scheme::Msrp), Transport::Tcp));
    assert!(accepted.tls.is_none() && accepted.proxy.is_none());

    client.write_all(b"hello").await.unwrap();
    patiently("echo", read_up_to(&client, 5)).await;
    drop(client);
    let closed = next(&mut events).await;
    assert_eq!((closed.kind.name(), closed.id), ("tcp:closed", accepted.id));
    let ending = ending(&closed);
    assert_eq!((ending.bytes_in, ending.bytes_out, &*ending.reason), (5, 5, "closed by the peer"));
    assert!(ending.duration > Duration::ZERO && ending.duration < Duration::from_secs(60));
    let line = closed.to_string();
    assert!(line.starts_with("tcp:closed connection=") && line.contains(" in=5 out=5 "), "{line}");
    // The stream had no driver; its end is told all the same.
    assert_eq!(next(&mut dialled).await.kind.name(), "tcp:closed");
    assert!(events.try_next().is_none() && dialled.try_next().is_none());

    // The totals say the same, and each connection's bytes once.
    let totals = |ledger: &Ledger| <[_; 1]>::try_from(ledger.totals()).unwrap()[0];
    let ((scheme, direction), accepted) = totals(&ledger);
    assert_eq!((scheme, direction), (Some(Scheme::Msrp), Direction::Inbound));
    assert_eq!((accepted.begun, accepted.opened, accepted.closed), (1, 1, 1));
    assert_eq!((accepted.bytes_in, accepted.bytes_out), (5, 5));
    let ((_, direction), connected) = totals(&dialling);
    assert_eq!((direction, connected.opened, connected.closed), (Direction::Outbound, 1, 1));
}

#[tokio::test]
async fn ends_are_told_apart() {
    let ledger = ledger(100, Reporting::All);
    let (address, mut handles) = serve(&ledger);
    let mut events = ledger.events().subscribe();
    for (reason, name) in [
        (CloseReason::Local("test".into()), "tcp:closed"),
        (CloseReason::IdleTimeout, "tcp:timeout"),
        (CloseReason::SendTimeout, "tcp:timeout"),
        (CloseReason::TooSlow("head".into()), "tcp:timeout"),
        (CloseReason::Reset, "tcp:reset"),
        (CloseReason::Internal, "tcp:failed"),
    ] {
        let client = TcpStream::connect(address).await.unwrap();
        let handle = patiently("accept", handles.recv()).await.unwrap();
        assert_eq!(next(&mut events).await.kind.name(), "tcp:accepted");
        handle.close(reason.clone());
        drop(client);
        let event = next(&mut events).await;
        assert_eq!((event.kind.name(), event.id), (name, handle.id()), "{reason}");
        assert_eq!(*ending(&event).reason, *reason.to_string());
    }
    let [(_, totals)] = ledger.totals()[..] else { panic!("one protocol, one direction") };
    assert_eq!((totals.begun, totals.opened), (6, 6));
    assert_eq!((totals.closed, totals.timed_out, totals.reset, totals.failed), (1, 3, 1, 1));
    // A real reset: who closes with unread bytes sends one.
    let client = TcpStream::connect(address).await.unwrap();
    let handle = patiently("accept", handles.recv()).await.unwrap();
    handle.stream().write_all(b"never read").await.unwrap();
    client.readable().await.unwrap();
    drop(client);
    assert_eq!(next(&mut events).await.kind.name(), "tcp:accepted");
    assert_eq!(next(&mut events).await.kind.name(), "tcp:reset");
}

#[tokio::test(start_paused = true)]
async fn connections_that_never_come_up_are_told_of() {
    let ledger = ledger(100, Reporting::All);
    let mut events = ledger.events().subscribe();
    let connector = Connector::new(Default::default(), |_, _| true).with_ledger(ledger);
    let to = |address: SocketAddr| Target {
        host: address.ip().to_string(),
        port: address.port(),
        transport: Transport::Tcp,
    };
    let nobody = tokio::net::TcpListener::bind(LOCALHOST).await.unwrap().local_addr().unwrap();
    connector.connect(&to(nobody), None).await.unwrap_err();
    assert_eq!(next(&mut events).await.kind, EventKind::ConnectStarted);
    let failed = next(&mut events).await;
    assert_eq!(failed.kind.name(), "tcp:failed");
    assert!(ending(&failed).reason.contains("refused"), "{failed}");

    let deaf = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    deaf.bind(&LOCALHOST.parse::<SocketAddr>().unwrap().into()).unwrap();
    deaf.listen(0).unwrap();
    let address = deaf.local_addr().unwrap().as_socket().unwrap();
    let mut fill = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(address)).await
    {
        fill.push(stream);
    }
    connector.connect(&to(address), None).await.unwrap_err();
    assert_eq!(next(&mut events).await.kind, EventKind::ConnectStarted);
    let timed_out = next(&mut events).await;
    assert_eq!((timed_out.kind.name(), &*ending(&timed_out).reason), ("tcp:timeout", "no answer in 3s"));
}

#[tokio::test]
async fn tls_facts_are_in_the_event() {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let identity = pki.identity(&ca, "relay", &["127.0.0.1"]);
    let ledger = ledger(100, Reporting::All);
    let mut events = ledger.events().subscribe();
    let settings = ListenerSettings::new(LOCALHOST.parse().unwrap(), Transport::Tls);
    let domains = server_domains(&server_settings("relay", &identity, &ca));
    let listener = BoundListener::bind(settings, domains).unwrap().with_ledger(ledger);
    let address = listener.local_addr();
    let (sender, _handles) = unbounded_channel();
    tokio::spawn(listener.run(Arc::new(Server(sender))));
    let connector = Connector::new(Default::default(), |_, _| true);
    let target = Target { host: "127.0.0.1".into(), port: address.port(), transport: Transport::Tls };
    let client = connector.connect(&target, Some(&client_domain(&ca, None))).await.unwrap();
    let accepted = next(&mut events).await;
    let tls = accepted.tls.as_ref().unwrap();
    assert_eq!((tls.version(), tls.domain()), ("TLSv1.3", "relay"));
    assert!(accepted.to_string().contains(" tls=TLSv1.3 cipher=TLS13_"), "{accepted}");
    drop(client);
    assert!(next(&mut events).await.tls.is_some());

    // Also at the end of one that nobody has ended, but only dropped.
    let own = self::ledger(100, Reporting::All);
    let mut own_events = own.events().subscribe();
    let connector = connector.with_ledger(own);
    drop(connector.connect(&target, Some(&client_domain(&ca, None))).await.unwrap());
    for kind in ["tcp:connecting", "tcp:connected", "tcp:closed"] {
        let event = next(&mut own_events).await;
        assert_eq!(event.kind.name(), kind);
        assert_eq!(event.tls.is_some(), kind != "tcp:connecting", "{event}");
    }
    for _ in 0..2 {
        next(&mut events).await;
    }

    drop(TcpStream::connect(address).await.unwrap());
    let failed = next(&mut events).await;
    assert_eq!(failed.kind.name(), "tcp:failed");
    assert!(ending(&failed).reason.contains("during the TLS handshake"), "{failed}");
}

#[tokio::test]
async fn none_all_or_marked_connections_are_told_of() {
    let ledger = ledger(100, Reporting::None);
    let (address, mut handles) = serve(&ledger);
    let mut events = ledger.events().subscribe();
    for (reporting, mark, expected) in [
        (Reporting::None, true, 0),
        (Reporting::All, false, 2),
        (Reporting::Marked, false, 0),
        (Reporting::Marked, true, 1),
    ] {
        ledger.events().set_reporting(reporting);
        let client = TcpStream::connect(address).await.unwrap();
        let handle = patiently("accept", handles.recv()).await.unwrap();
        if mark {
            handle.enable_closed_event();
        }
        drop(client);
        let over = async {
            while handle.state() != tcp_transport::State::None {
                tokio::task::yield_now().await;
            }
        };
        patiently("end", over).await;
        let told = std::iter::from_fn(|| events.try_next()).count();
        assert_eq!(told, expected, "{reporting:?} {mark}");
    }
}

#[tokio::test]
async fn a_slow_subscriber_loses_the_oldest_events_and_blocks_nobody() {
    // Two events for each connection, in a queue of four: below, at and above its length.
    for (connections, left, lost) in [(1, 2, 0), (2, 4, 0), (3, 4, 2), (10, 4, 16)] {
        let ledger = ledger(4, Reporting::All);
        let (address, mut handles) = serve(&ledger);
        let mut slow = ledger.events().subscribe();
        for _ in 0..connections {
            drop(TcpStream::connect(address).await.unwrap());
            let handle = patiently("accept", handles.recv()).await.unwrap();
            while handle.state() != tcp_transport::State::None {
                tokio::task::yield_now().await;
            }
        }
        let found = std::iter::from_fn(|| slow.try_next()).count();
        assert_eq!((found, slow.lost(), ledger.events().lost()), (left, lost, lost), "{connections}");
    }
}

#[tokio::test]
async fn a_callback_gets_the_names_that_tcpops_gives() {
    let ledger = ledger(100, Reporting::All);
    let (address, mut handles) = serve(&ledger);
    let names = Arc::new(Mutex::new(Vec::new()));
    let guard = ledger.events().on_event({
        let names = names.clone();
        move |event| {
            names.lock().push(event.kind.name());
            // One that panics is called again.
            assert_ne!(event.kind.name(), "tcp:accepted");
        }
    });
    for reason in [CloseReason::Local("test".into()), CloseReason::IdleTimeout, CloseReason::Reset] {
        let client = TcpStream::connect(address).await.unwrap();
        patiently("accept", handles.recv()).await.unwrap().close(reason);
        drop(client);
    }
    let all = async {
        while names.lock().len() < 6 {
            tokio::task::yield_now().await;
        }
    };
    patiently("events", all).await;
    let mut ends: Vec<_> = names.lock().iter().copied().filter(|name| *name != "tcp:accepted").collect();
    ends.sort_unstable();
    assert_eq!(ends, ["tcp:closed", "tcp:reset", "tcp:timeout"]);
    drop(guard);
}
