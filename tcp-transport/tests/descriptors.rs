//! Running out of descriptors. A process of its own, because the limit is the process'.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::Arc;

use rlimit::Resource;
use tcp_transport::tls::HandshakeError;
use tcp_transport::{Acceptor, BoundListener, ListenerSettings, Stream, Transport};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

#[derive(Debug)]
enum Told {
    Accepted,
    Paused(String),
}

struct Reporter(mpsc::UnboundedSender<Told>);

impl Acceptor for Reporter {
    fn accepted(&self, _stream: Stream) {
        let _ = self.0.send(Told::Accepted);
    }

    fn handshake_failed(&self, _peer: SocketAddr, error: HandshakeError) {
        panic!("{error}");
    }

    fn accept_paused(&self, error: &std::io::Error) {
        let _ = self.0.send(Told::Paused(error.to_string()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_listener_survives_want_of_descriptors() {
    let settings = ListenerSettings::new("127.0.0.1:0".parse().unwrap(), Transport::Tcp);
    let listener = BoundListener::bind(settings, Arc::default()).unwrap();
    let address = listener.local_addr();
    // The kernel completes the connection; only the accept is missing.
    let _first = TcpStream::connect(address).await.unwrap();
    let _second = TcpStream::connect(address).await.unwrap();

    let (soft, hard) = Resource::NOFILE.get().unwrap();
    // Descriptors below the limit that are free are used up by these.
    Resource::NOFILE.set(64, hard).unwrap();
    let mut ballast = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        ballast.push(file);
    }
    let (sender, mut told) = mpsc::unbounded_channel();
    tokio::spawn(listener.run(Arc::new(Reporter(sender))));
    match told.recv().await {
        Some(Told::Paused(error)) => assert!(error.contains("Too many open files"), "{error}"),
        other => panic!("{other:?}"),
    }
    // Many pauses long nothing is told again.
    let silence = tokio::time::timeout(std::time::Duration::from_secs(60), told.recv()).await;
    assert!(silence.is_err(), "{silence:?}");

    ballast.clear();
    Resource::NOFILE.set(soft, hard).unwrap();
    for _ in 0..2 {
        assert!(matches!(told.recv().await, Some(Told::Accepted)));
    }
}
