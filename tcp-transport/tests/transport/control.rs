//! What tcpops does, row by row: see `docs/migration.md`.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tcp_transport::control::ConnectionGone;
use tcp_transport::{
    BoundListener, CloseReason, ConnectionId, Connector, DriverSettings, Handle, KeepAlive, Ledger,
    ListenerSettings, OutboundConnection, Registry, ReuseKey, Scheme, State, Stream, Target, Transport,
    connection,
};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::common::{
    Event, LOCALHOST, Pki, Probe, Reporter, Seen, Told, patiently, plain_pair, read_up_to, server_domains,
    server_settings, tcp_pair,
};

/// A connection under a driver, in a registry.
fn register(registry: &Registry<u32>, stream: Stream, seen: Seen) -> (Handle, UnboundedReceiver<Event>) {
    let (handle, driver) = connection::open(stream, DriverSettings::default());
    let (probe, _, events) = Probe::new(seen);
    registry.insert(handle.clone(), None, 0);
    tokio::spawn(driver.run(probe));
    (handle, events)
}

async fn closed(events: &mut UnboundedReceiver<Event>) -> CloseReason {
    loop {
        if let Event::Closed(reason) = patiently("close", events.recv()).await.expect("closed is told") {
            return reason;
        }
    }
}

fn target(address: SocketAddr) -> Target {
    Target { host: address.ip().to_string(), port: address.port(), transport: Transport::Tcp }
}

#[tokio::test]
async fn the_state_of_a_connection_has_tcpops_codes() {
    let registry = Registry::new();
    let nobody = ConnectionId::from(u64::MAX);
    assert_eq!((registry.state(nobody).code(), registry.is_alive(nobody)), (-1, false));

    let (server, client) = plain_pair().await;
    let (handle, mut events) = register(&registry, server, Seen { stay_after_end: true, ..Seen::default() });
    assert_eq!((registry.state(handle.id()).code(), registry.is_alive(handle.id())), (1, true));
    client.shutdown_write().unwrap();
    while patiently("end", events.recv()).await != Some(Event::Ended) {}
    assert_eq!((registry.state(handle.id()).code(), registry.is_alive(handle.id())), (-2, false));
    assert!(registry.close(handle.id()));
    assert_eq!(registry.state(handle.id()).code(), -4);
    drop(client);
    assert_eq!(closed(&mut events).await, CloseReason::Local("by an operator".into()));
    assert_eq!(registry.state(handle.id()).code(), -1);
    registry.remove(handle.id());
    assert!(!registry.close(handle.id()));

    let (server, _client) = plain_pair().await;
    let (handle, _events) = register(&registry, server, Seen::default());
    handle.close(CloseReason::SendTimeout);
    assert_eq!(handle.state().code(), -3);
}

#[tokio::test]
async fn a_connection_in_its_handshake_is_accepting_and_one_being_opened_connecting() {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let identity = pki.identity(&ca, "relay", &["relay.test"]);
    let ledger: Arc<Ledger> = Arc::default();
    let registry = Registry::<u32>::with_ledger(ledger.clone());
    let settings = ListenerSettings::new(LOCALHOST.parse().unwrap(), Transport::Tls);
    let listener = BoundListener::bind(settings, server_domains(&server_settings("relay", &identity, &ca)))
        .unwrap()
        .with_ledger(ledger.clone());
    let address = listener.local_addr();
    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(listener.run(Arc::new(Reporter(sender))));
    let silent = TcpStream::connect(address).await.unwrap();
    let entered = async {
        while ledger.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    patiently("accept", entered).await;
    let id = ledger.snapshot()[0].id();
    assert_eq!(registry.state(id), State::Accepting);
    // What has no handle yet cannot be set up.
    assert!(!registry.set_lifetime(id, None) && !registry.enable_closed_event(id));
    drop(silent);
    assert!(matches!(patiently("failure", told.recv()).await, Some(Told::Failed(_))));
    assert_eq!(registry.state(id), State::None);

    // A server that is there and says nothing of TLS.
    let silent = tokio::net::TcpListener::bind(LOCALHOST).await.unwrap();
    let connector = Connector::new(Default::default(), |_, _| true).with_ledger(ledger.clone());
    let to = Target { transport: Transport::Tls, ..target(silent.local_addr().unwrap()) };
    let domain = crate::common::client_domain(&ca, None);
    let connecting = tokio::spawn(async move { connector.connect(&to, Some(&domain)).await });
    let _accepted = patiently("accept", silent.accept()).await.unwrap();
    let id = ledger.snapshot()[0].id();
    assert_eq!(registry.state(id), State::Connecting);
    connecting.abort();
    let _ = connecting.await;
    assert_eq!(registry.state(id), State::None);
    assert!(ledger.is_empty());
}

#[tokio::test]
async fn keep_alive_is_set_and_unset_on_one_connection() {
    let registry = Registry::new();
    let (server, _client) = tcp_pair().await;
    let peer = server.peer_addr().unwrap();
    // A second descriptor of the same socket, to look at it.
    let server = server.into_std().unwrap();
    let looking = server.try_clone().unwrap();
    let looking = SockRef::from(&looking);
    let stream = Stream::plain(TcpStream::from_std(server).unwrap(), peer).unwrap();
    let (handle, _events) = register(&registry, stream, Seen::default());
    assert!(!looking.keepalive().unwrap());
    let keepalive = KeepAlive { idle: Duration::from_secs(60), count: 5, interval: Duration::from_secs(7) };
    registry.keepalive_enable(handle.id(), keepalive).unwrap();
    assert!(looking.keepalive().unwrap());
    assert_eq!(looking.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
    assert_eq!(looking.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
    assert_eq!(looking.tcp_keepalive_retries().unwrap(), 5);
    registry.keepalive_disable(handle.id()).unwrap();
    assert!(!looking.keepalive().unwrap());
    let nobody = ConnectionId::from(u64::MAX);
    assert_eq!(registry.keepalive_enable(nobody, keepalive).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(registry.keepalive_disable(nobody).unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_connection_lives_as_long_as_it_is_told_to_since_its_last_byte() {
    let registry = Registry::new();
    let (server, client) = plain_pair().await;
    let (handle, mut events) = register(&registry, server, Seen::default());
    // Without a lifetime, for ever.
    tokio::time::sleep(Duration::from_secs(100_000)).await;
    assert!(handle.is_alive());

    assert!(registry.set_lifetime(handle.id(), Some(Duration::from_secs(10))));
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(handle.is_alive(), "below its lifetime");
    client.write_all(b"x").await.unwrap();
    assert_eq!(patiently("byte", events.recv()).await, Some(Event::Received(1)));
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(handle.is_alive(), "a byte in gives it as long again");
    // Written by another task, without a turn of the driver.
    handle.stream().write_all(b"y").await.unwrap();
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(handle.is_alive(), "a byte out too");
    let start = tokio::time::Instant::now();
    assert_eq!(closed(&mut events).await, CloseReason::IdleTimeout);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());

    // A new lifetime begins when it is set, shorter or longer.
    let (server, _client) = plain_pair().await;
    let (handle, mut events) = register(&registry, server, Seen::default());
    handle.set_lifetime(Some(Duration::from_secs(10)));
    tokio::time::sleep(Duration::from_secs(9)).await;
    handle.set_lifetime(Some(Duration::from_secs(3605)));
    tokio::time::sleep(Duration::from_secs(3604)).await;
    assert!(handle.is_alive());
    let start = tokio::time::Instant::now();
    assert_eq!(closed(&mut events).await, CloseReason::IdleTimeout);
    // The last second, and the linger for a peer that does not close.
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_id_is_found_by_address_and_protocol() {
    let ledger: Arc<Ledger> = Arc::default();
    let registry = Registry::with_ledger(ledger.clone());
    let listener = tokio::net::TcpListener::bind(LOCALHOST).await.unwrap();
    let address = listener.local_addr().unwrap();
    let connector = Connector::new(Default::default(), |_, _| true).with_ledger(ledger);
    let stream = connector.connect_for(&target(address), None, Some(Scheme::Msrp)).await.unwrap();
    let (handle, mut events) = register(&registry, stream, Seen::default());
    let _peer = listener.accept().await.unwrap();

    assert_eq!(registry.conid(&address.to_string(), Scheme::Msrp), Some(handle.id()));
    assert_eq!(registry.conid(&address.to_string(), Scheme::Sip), None, "another protocol");
    assert_eq!(registry.conid("127.0.0.1:1", Scheme::Msrp), None, "another port");
    assert_eq!(registry.conid("127.0.0.1", Scheme::Msrp), None, "the default port");
    // By the name it was registered for; without a port, the scheme's own: 2855, 5060, …
    for scheme in Scheme::ALL {
        assert_eq!(registry.conid("Relay.Test", scheme), None);
        let key = ReuseKey::new(scheme.as_str(), "relay.test", scheme.default_port());
        registry.add_key(handle.id(), key);
        assert_eq!(registry.conid("Relay.Test", scheme), Some(handle.id()));
    }
    assert_eq!(registry.conid("relay.test:2856", Scheme::Msrp), None);
    assert_eq!(registry.conid("not an address", Scheme::Msrp), None);
    handle.close(CloseReason::Local("test".into()));
    assert_eq!(registry.conid(&address.to_string(), Scheme::Msrp), None, "one that is being closed");
    drop(_peer);
    closed(&mut events).await;
}

#[tokio::test]
async fn the_connection_to_send_on_can_be_chosen() {
    let registry = Registry::new();
    let key = ReuseKey::new("msrp", "relay.test", 2855);
    let mut connections = Vec::new();
    for _ in 0..3 {
        let (server, client) = plain_pair().await;
        let (handle, events) = register(&registry, server, Seen::default());
        connections.push((handle, events, client));
    }
    let [first, second, elsewhere] = [0, 1, 2].map(|n: usize| connections[n].0.clone());
    registry.add_key(first.id(), key.clone());
    registry.add_key(second.id(), key.clone());
    let leaves_on = |conid: Option<ConnectionId>, override_destination| {
        let choice = OutboundConnection { conid, override_destination };
        registry.outbound(choice, &key).map(|found| found.map(|(handle, _)| handle.id()))
    };
    // Nobody has chosen: the destination decides, whatever the flag says.
    assert_eq!(leaves_on(None, false), Ok(Some(first.id())));
    assert_eq!(leaves_on(None, true), Ok(Some(first.id())));
    // Chosen, and it leads there.
    assert_eq!(leaves_on(Some(second.id()), false), Ok(Some(second.id())));
    // Chosen, and it leads elsewhere: taken only by the flag.
    assert_eq!(leaves_on(Some(elsewhere.id()), false), Ok(Some(first.id())));
    assert_eq!(leaves_on(Some(elsewhere.id()), true), Ok(Some(elsewhere.id())));
    // Chosen, and gone.
    second.close(CloseReason::Local("test".into()));
    assert_eq!(leaves_on(Some(second.id()), false), Ok(Some(first.id())));
    assert_eq!(leaves_on(Some(second.id()), true), Err(ConnectionGone(second.id())));
    let nowhere = ReuseKey::new("msrp", "other.test", 2855);
    assert!(registry.outbound(OutboundConnection::default(), &nowhere).unwrap().is_none());
}

#[tokio::test]
async fn bytes_are_counted_both_ways() {
    for transport in [Transport::Tcp, Transport::Tls] {
        let (server, client) = crate::common::pair(transport).await;
        let registry = Registry::new();
        let (handle, driver) = connection::open(server, DriverSettings::default());
        let (probe, seen, mut events) = Probe::new(Seen::default());
        registry.insert(handle.clone(), None, 0);
        tokio::spawn(driver.run(probe));
        seen.lock().outbox.push(Bytes::from(vec![7; 100_000]));
        handle.wake();
        assert_eq!(patiently("answer", read_up_to(&client, 100_000)).await.len(), 100_000);
        client.write_all(&[1; 5000]).await.unwrap();
        client.close_notify().unwrap();
        client.shutdown_write().unwrap();
        closed(&mut events).await;
        assert_eq!((handle.entry().bytes_in(), handle.entry().bytes_out()), (5000, 100_000));
    }
}
