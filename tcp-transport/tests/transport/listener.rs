//! Listeners: binding, accepting, and what becomes of those who do not speak TLS.

use std::sync::Arc;

use tcp_transport::tls::{DEFAULT_HANDSHAKE_TIMEOUT, HandshakeError, ServerDomains};
use tcp_transport::{Accepting, BindError, BoundListener, Connector, ListenerSettings, Target, Transport};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::common::{
    Ca, LOCALHOST, PATIENCE, Pki, Told, client_domain, listen, patiently, read_up_to, server_domains,
    server_settings,
};

fn tls_setting() -> (Pki, Ca, Arc<ServerDomains>) {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let identity = pki.identity(&ca, "relay", &["127.0.0.1"]);
    let domains = server_domains(&server_settings("relay", &identity, &ca));
    (pki, ca, domains)
}

fn tls_listener() -> ListenerSettings {
    let mut settings = ListenerSettings::new(LOCALHOST.parse().unwrap(), Transport::Tls);
    settings.tls_domain = Some("relay".into());
    settings
}

async fn failure(told: &mut UnboundedReceiver<Told>) -> HandshakeError {
    match patiently("failure", told.recv()).await {
        Some(Told::Failed(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn plain_connections_are_accepted_as_they_come() {
    let (address, mut told) =
        listen(ListenerSettings::new(LOCALHOST.parse().unwrap(), Transport::Tcp), Arc::default());
    for _ in 0..3 {
        let client = TcpStream::connect(address).await.unwrap();
        match patiently("accept", told.recv()).await {
            Some(Told::Accepted(stream)) => {
                assert_eq!(stream.peer_addr(), client.local_addr().unwrap());
                assert_eq!(stream.local_addr(), address);
                assert!(stream.tls().is_none());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_slow_handshake_keeps_nobody_waiting() {
    let (_pki, ca, domains) = tls_setting();
    let (address, mut told) = listen(tls_listener(), domains);
    let _silent = TcpStream::connect(address).await.unwrap();
    let connector = Connector::new(Default::default(), |_, _| true);
    let target = Target { host: "127.0.0.1".into(), port: address.port(), transport: Transport::Tls };
    let client =
        patiently("connect", connector.connect(&target, Some(&client_domain(&ca, None)))).await.unwrap();
    let Some(Told::Accepted(server)) = patiently("accept", told.recv()).await else { panic!("not accepted") };
    assert_eq!(server.tls().unwrap().domain(), "relay");
    client.write_all(b"hello").await.unwrap();
    assert_eq!(patiently("hello", read_up_to(&server, 5)).await, b"hello");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_end_is_ended() {
    let (_pki, _ca, domains) = tls_setting();
    let (address, mut told) = listen(tls_listener(), domains);
    // One says nothing at all, one stops in the middle of its ClientHello.
    for first in [&b""[..], &[22, 3, 1, 2, 0, 1, 0, 1, 252]] {
        let start = tokio::time::Instant::now();
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(first).await.unwrap();
        let error = told.recv().await;
        assert!(
            matches!(&error, Some(Told::Failed(HandshakeError::Timeout(t))) if *t == DEFAULT_HANDSHAKE_TIMEOUT),
            "{error:?}"
        );
        assert!(start.elapsed() >= DEFAULT_HANDSHAKE_TIMEOUT);
        assert_eq!(client.read(&mut [0; 10]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn plain_bytes_on_the_tls_port_are_quoted() {
    let (_pki, _ca, domains) = tls_setting();
    let (address, mut told) = listen(tls_listener(), domains);
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"MSRP a786hjs2 AUTH\r\nTo-Path: x\r\n").await.unwrap();
    assert_eq!(failure(&mut told).await.to_string(), "not TLS: first bytes \"MSRP a786hjs2 AU\"");
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"\r\n").await.unwrap();
    assert_eq!(failure(&mut told).await.to_string(), "not TLS: first bytes \"\\r\\n\"");
}

#[tokio::test]
async fn those_who_leave_during_the_handshake_are_named_so() {
    let (_pki, _ca, domains) = tls_setting();
    let (address, mut told) = listen(tls_listener(), domains);
    drop(TcpStream::connect(address).await.unwrap());
    assert!(matches!(failure(&mut told).await, HandshakeError::Closed));
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
    drop(client);
    assert!(matches!(failure(&mut told).await, HandshakeError::Closed));
}

#[tokio::test]
async fn tls_garbage_is_an_error_in_words() {
    let (_pki, _ca, domains) = tls_setting();
    let (address, mut told) = listen(tls_listener(), domains);
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(&[22, 3, 1, 0, 4, 9, 9, 9, 9]).await.unwrap();
    let error = failure(&mut told).await.to_string();
    assert!(error.starts_with("TLS handshake failed: "), "{error}");
}

#[tokio::test]
async fn a_plain_server_is_not_taken_for_tls() {
    let (address, mut told) =
        listen(ListenerSettings::new(LOCALHOST.parse().unwrap(), Transport::Tcp), Arc::default());
    let (_pki, ca, _domains) = tls_setting();
    let server = tokio::spawn(async move {
        let Some(Told::Accepted(stream)) = told.recv().await else { panic!("not accepted") };
        stream.write_all(b"MSRP 1234 400 Bad Request\r\n").await.unwrap();
        stream
    });
    let connector = Connector::new(Default::default(), |_, _| true);
    let target = Target { host: "127.0.0.1".into(), port: address.port(), transport: Transport::Tls };
    let error = connector.connect(&target, Some(&client_domain(&ca, None))).await.unwrap_err().to_string();
    assert_eq!(error, format!("cannot connect to {target}: {address}: not TLS: first bytes (unknown)"));
    server.await.unwrap();
}

#[tokio::test]
async fn a_listener_says_why_it_cannot_be() {
    let none = Arc::new(ServerDomains::default());
    let error = BoundListener::bind(tls_listener(), none.clone()).unwrap_err();
    assert_eq!(error.to_string(), "listener 127.0.0.1:0: there is no TLS server domain \"relay\"");
    let mut settings = tls_listener();
    settings.tls_domain = None;
    assert!(matches!(BoundListener::bind(settings, none.clone()), Err(BindError::NoDomain { .. })));

    let settings = ListenerSettings::new(LOCALHOST.parse().unwrap(), Transport::Tcp);
    let first = BoundListener::bind(settings.clone(), none.clone()).unwrap();
    let taken = ListenerSettings { addr: first.local_addr(), ..settings };
    let error = BoundListener::bind(taken, none).unwrap_err().to_string();
    assert_eq!(error, format!("cannot listen on {}", first.local_addr()));
}

#[tokio::test]
async fn ipv4_and_ipv6_listen_side_by_side() {
    let any = ListenerSettings::new("0.0.0.0:0".parse().unwrap(), Transport::Tcp);
    let v4 = BoundListener::bind(any, Arc::default()).unwrap();
    let address = format!("[::]:{}", v4.local_addr().port()).parse().unwrap();
    match BoundListener::bind(ListenerSettings::new(address, Transport::Tcp), Arc::default()) {
        Ok(v6) => assert_eq!(v6.local_addr(), address),
        // A machine without IPv6.
        Err(BindError::Socket { source, .. }) => assert_ne!(source.kind(), std::io::ErrorKind::AddrInUse),
        Err(e) => panic!("{e}"),
    }
}

#[tokio::test]
async fn whoever_is_not_admitted_is_closed_before_any_handshake() {
    struct Closed(tokio::sync::mpsc::UnboundedSender<()>);
    impl tcp_transport::Acceptor for Closed {
        fn admit(&self, _peer: std::net::SocketAddr) -> bool {
            let _ = self.0.send(());
            false
        }
        fn accepted(&self, _stream: tcp_transport::Stream) {
            panic!("not admitted")
        }
        fn handshake_failed(&self, _peer: std::net::SocketAddr, _error: HandshakeError) {
            panic!("not admitted")
        }
    }
    let (_pki, _ca, domains) = tls_setting();
    let listener = BoundListener::bind(tls_listener(), domains).unwrap();
    let address = listener.local_addr();
    let (sender, mut asked) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(listener.run(Arc::new(Closed(sender))));
    for _ in 0..2 {
        let mut client = TcpStream::connect(address).await.unwrap();
        assert_eq!(patiently("question", asked.recv()).await, Some(()));
        assert_eq!(patiently("end", client.read(&mut [0; 10])).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_stopped_listener_ends_its_handshakes() {
    let (_pki, _ca, domains) = tls_setting();
    let mut settings = tls_listener();
    settings.tls_handshake_timeout = 2 * PATIENCE;
    let listener = BoundListener::bind(settings, domains).unwrap();
    let address = listener.local_addr();
    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    let task = tokio::spawn(listener.run(Arc::new(crate::common::Reporter(sender))));
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(&[22]).await.unwrap();
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"x").await.unwrap();
    failure(&mut told).await; // Both are accepted by now, in their order.
    task.abort();
    let mut buf = [0; 10];
    let end = patiently("end", slow.read(&mut buf)).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    assert!(patiently("refusal", TcpStream::connect(address)).await.is_err());
}

#[tokio::test]
async fn a_listener_that_is_paused_leaves_connections_waiting() {
    let settings = ListenerSettings::new(LOCALHOST.parse().unwrap(), Transport::Tcp);
    let listener = BoundListener::bind(settings, Arc::default()).unwrap();
    let (control, address) = (listener.control().clone(), listener.local_addr());
    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    control.set_accepting(Accepting::Paused);
    let task = tokio::spawn(listener.run(Arc::new(crate::common::Reporter(sender))));
    let _waits = patiently("the kernel", TcpStream::connect(address)).await.unwrap();
    tokio::task::yield_now().await;
    assert!(told.try_recv().is_err());
    control.set_accepting(Accepting::On);
    assert!(matches!(patiently("accept", told.recv()).await, Some(Told::Accepted(_))));

    // For good: the socket is closed, and nothing opens it again.
    control.set_accepting(Accepting::Off);
    patiently("the end", task).await.unwrap();
    control.set_accepting(Accepting::On);
    drop(control);
    assert!(patiently("refusal", TcpStream::connect(address)).await.is_err());
}

#[tokio::test]
async fn a_listener_that_ends_finishes_its_handshakes() {
    let (_pki, _ca, domains) = tls_setting();
    let mut settings = tls_listener();
    settings.tls_handshake_timeout = 2 * PATIENCE;
    let listener = BoundListener::bind(settings, domains).unwrap();
    let (control, address) = (listener.control().clone(), listener.local_addr());
    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    let task = tokio::spawn(listener.run(Arc::new(crate::common::Reporter(sender))));
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(&[22]).await.unwrap();
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"x").await.unwrap();
    failure(&mut told).await; // Both are accepted by now, in their order.
    control.set_accepting(Accepting::Off);
    drop(control);
    // Somebody still listens to what it says, and answers.
    slow.write_all(b"no TLS").await.unwrap();
    failure(&mut told).await;
    patiently("the end", task).await.unwrap();
    assert!(patiently("refusal", TcpStream::connect(address)).await.is_err());
}
