//! Time limits of coming up, just before and at their end. The clock is virtual up to the moment before, and
//! real from there on: a handshake is work, which takes time that the runtime does not see.

use std::sync::Arc;
use std::time::Duration;

use tcp_transport::connector::AttemptError;
use tcp_transport::tls::{HandshakeError, ServerDomains};
use tcp_transport::{
    BoundListener, ConnectError, ConnectSettings, Connector, ListenerSettings, Stream, Target, Transport, tls,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::common::{
    Ca, LOCALHOST, Pki, Told, client_domain, listen, patiently, server_domains, server_settings,
};

const LIMIT: Duration = Duration::from_secs(90);
/// What is left of it when the other side begins at last.
const LEFT: Duration = Duration::from_secs(30);

fn setting() -> (Pki, Ca, Arc<ServerDomains>) {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let identity = pki.identity(&ca, "relay", &["127.0.0.1"]);
    let domains = server_domains(&server_settings("relay", &identity, &ca));
    (pki, ca, domains)
}

async fn nearly() {
    tokio::time::sleep(LIMIT - LEFT).await;
    tokio::time::resume();
}

#[tokio::test(start_paused = true)]
async fn an_accepted_handshake_has_its_time_and_no_more() {
    let (_pki, ca, domains) = setting();
    let settings = ListenerSettings {
        tls_handshake_timeout: LIMIT,
        ..ListenerSettings::new(LOCALHOST.parse().unwrap(), Transport::Tls)
    };
    let (address, mut told) = listen(settings, domains);
    let start = Instant::now();
    let _silent = TcpStream::connect(address).await.unwrap();
    let failed = told.recv().await;
    assert!(matches!(failed, Some(Told::Failed(HandshakeError::Timeout(LIMIT)))), "{failed:?}");
    assert_eq!(start.elapsed().as_secs(), LIMIT.as_secs());

    let late = TcpStream::connect(address).await.unwrap();
    nearly().await;
    let client = tls::connect(late, address, &client_domain(&ca, None), "127.0.0.1", LIMIT).await.unwrap();
    let told = patiently("accept", told.recv()).await;
    assert!(matches!(told, Some(Told::Accepted(_))), "{told:?}");
    drop(client);
}

/// A connector with this limit.
async fn connect(address: std::net::SocketAddr, ca: &Ca) -> Result<Stream, ConnectError> {
    let settings = ConnectSettings {
        tls_handshake_timeout: LIMIT,
        connect_time_limit: 2 * LIMIT,
        ..ConnectSettings::default()
    };
    let target = Target { host: "127.0.0.1".into(), port: address.port(), transport: Transport::Tls };
    Connector::new(settings, |_, _| true).connect(&target, Some(&client_domain(ca, None))).await
}

#[tokio::test(start_paused = true)]
async fn a_handshake_we_begin_has_its_time_and_no_more() {
    let (_pki, ca, domains) = setting();
    let silent = TcpListener::bind(LOCALHOST).await.unwrap();
    let address = silent.local_addr().unwrap();
    let start = Instant::now();
    let (failed, _accepted) = tokio::join!(connect(address, &ca), silent.accept());
    let Err(ConnectError::Failed { attempts, .. }) = failed else { panic!("{failed:?}") };
    assert!(
        matches!(attempts[0].error, AttemptError::Tls(HandshakeError::Timeout(LIMIT))),
        "{}",
        attempts[0].error
    );
    assert_eq!(start.elapsed().as_secs(), LIMIT.as_secs());

    let late = async {
        let (socket, peer) = silent.accept().await.unwrap();
        nearly().await;
        tls::accept(socket, peer, &domains, None, LIMIT).await
    };
    let (connected, accepted) = tokio::join!(connect(address, &ca), late);
    accepted.unwrap();
    connected.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_proxy_header_has_its_time_and_no_more() {
    let settings = ListenerSettings {
        proxy_from: vec!["127.0.0.1".parse().unwrap()],
        ..ListenerSettings::new(LOCALHOST.parse().unwrap(), Transport::Tcp)
    };
    let listener = BoundListener::bind(settings, Arc::default()).unwrap();
    let address = listener.local_addr();
    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(listener.run(Arc::new(crate::common::Reporter(sender))));
    let header = b"PROXY TCP4 203.0.113.9 192.0.2.7 40000 2855\r\n";

    // Each piece comes in time, the whole does not.
    let mut slow = TcpStream::connect(address).await.unwrap();
    let start = Instant::now();
    slow.write_all(&header[..10]).await.unwrap();
    let more = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        slow.write_all(&header[10..20]).await.unwrap();
        slow.read(&mut [0]).await
    };
    assert_eq!(more.await.unwrap(), 0);
    assert_eq!(start.elapsed().as_secs(), tcp_transport::proxy_protocol::PROXY_HEADER_TIMEOUT.as_secs());
    assert!(told.try_recv().is_err(), "it never was a connection");

    let mut late = TcpStream::connect(address).await.unwrap();
    late.write_all(&header[..10]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    tokio::time::resume();
    late.write_all(&header[10..]).await.unwrap();
    match patiently("accept", told.recv()).await {
        Some(Told::Accepted(stream)) => {
            assert_eq!(stream.peer_addr(), "203.0.113.9:40000".parse().unwrap());
        }
        other => panic!("{other:?}"),
    }
}
