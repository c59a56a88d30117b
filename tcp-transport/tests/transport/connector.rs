//! Outbound connections: addresses in order, time limits, policy, and errors that say what was tried.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{Domain, Socket, Type};
use tcp_transport::connector::{AttemptError, Resolver};
use tcp_transport::{
    ConnectError, ConnectSettings, Connector, ListenerSettings, PeerCertificate, Target, Transport,
};
use tokio::net::TcpListener;

use crate::common::{
    LOCALHOST, Pki, Told, client_domain, listen, patiently, server_domains, server_settings,
};

/// Names that mean what a test wants.
struct Book(Vec<SocketAddr>);

impl Resolver for Book {
    async fn resolve(&self, _host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(self.0.clone())
    }
}

fn target(host: &str, port: u16, transport: Transport) -> Target {
    Target { host: host.into(), port, transport }
}

fn anything(_: SocketAddr, _: Transport) -> bool {
    true
}

/// An address where nobody listens.
async fn refusing() -> SocketAddr {
    TcpListener::bind(LOCALHOST).await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn the_addresses_of_a_name_are_tried_in_order() {
    let good = TcpListener::bind(LOCALHOST).await.unwrap();
    let later = TcpListener::bind(LOCALHOST).await.unwrap();
    let addresses =
        vec![refusing().await, refusing().await, good.local_addr().unwrap(), later.local_addr().unwrap()];
    let connector = Connector::with_resolver(ConnectSettings::default(), anything, Book(addresses));
    let stream = connector.connect(&target("relay.test", 1, Transport::Tcp), None).await.unwrap();
    assert_eq!(stream.peer_addr(), good.local_addr().unwrap());
}

#[tokio::test]
async fn an_error_lists_what_was_tried() {
    let (one, two) = (refusing().await, refusing().await);
    let connector = Connector::with_resolver(
        ConnectSettings::default(),
        move |address: SocketAddr, _: Transport| address != two,
        Book(vec![one, two]),
    );
    let error = connector.connect(&target("relay.test", 2855, Transport::Tcp), None).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("cannot connect to tcp:relay.test:2855: {one}: Connection refused")),
        "{text}"
    );
    assert!(text.ends_with(&format!("; {two}: denied by the outbound policy")), "{text}");
    let ConnectError::Failed { attempts, .. } = error else { panic!("{error:?}") };
    assert!(matches!(attempts[0].error, AttemptError::Io(_)));
    assert!(matches!(attempts[1].error, AttemptError::Denied));
}

#[tokio::test]
async fn what_the_policy_denies_is_not_dialled() {
    let open = TcpListener::bind(LOCALHOST).await.unwrap();
    let address = open.local_addr().unwrap();
    let mapped = format!("[::ffff:127.0.0.1]:{}", address.port()).parse().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let policy = {
        let asked = asked.clone();
        move |address: SocketAddr, transport: Transport| {
            asked.lock().push((address, transport));
            !address.ip().is_loopback()
        }
    };
    let connector =
        Connector::with_resolver(ConnectSettings::default(), policy.clone(), Book(vec![address, mapped]));
    let error = connector.connect(&target("inner.test", 1, Transport::Tcp), None).await.unwrap_err();
    assert!(matches!(&error, ConnectError::Denied { addresses, .. } if addresses.len() == 2), "{error:?}");
    assert!(error.to_string().starts_with("the outbound policy denies every address of inner.test: "));
    // The mapped address is asked for as the one it is.
    assert_eq!(*asked.lock(), [(address, Transport::Tcp); 2]);

    let literal = target("[::ffff:127.0.0.1]", address.port(), Transport::Tcp);
    let error = Connector::new(ConnectSettings::default(), policy).connect(&literal, None).await.unwrap_err();
    assert!(matches!(error, ConnectError::Denied { .. }));
    let nobody = tokio::time::timeout(Duration::from_millis(1), open.accept()).await;
    assert!(nobody.is_err(), "nobody has dialled");
}

#[tokio::test(start_paused = true)]
async fn an_address_that_does_not_answer_is_given_up() {
    // With its queue of waiting connections full, a listener answers no more SYNs.
    let deaf = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    deaf.bind(&LOCALHOST.parse::<SocketAddr>().unwrap().into()).unwrap();
    deaf.listen(0).unwrap();
    let deaf_address = deaf.local_addr().unwrap().as_socket().unwrap();
    let mut fill = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_secs(1), tokio::net::TcpStream::connect(deaf_address)).await
    {
        fill.push(stream);
    }
    let good = TcpListener::bind(LOCALHOST).await.unwrap();
    let addresses = vec![deaf_address, good.local_addr().unwrap()];
    let connector = Connector::with_resolver(ConnectSettings::default(), anything, Book(addresses));
    let start = tokio::time::Instant::now();
    let stream = connector.connect(&target("relay.test", 1, Transport::Tcp), None).await.unwrap();
    assert_eq!(stream.peer_addr(), good.local_addr().unwrap());
    assert!(start.elapsed() >= Duration::from_secs(3));

    let connector =
        Connector::with_resolver(ConnectSettings::default(), anything, Book(vec![deaf_address; 6]));
    let error = connector.connect(&target("relay.test", 1, Transport::Tcp), None).await.unwrap_err();
    let ConnectError::TimeLimit { attempts, limit, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*limit, Duration::from_secs(15));
    assert!((4..6).contains(&attempts.len()), "{error}");
    assert!(error.to_string().contains(&format!("{deaf_address}: no answer in 3s")), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_whole_has_a_limit_also_without_an_address() {
    struct Silent;
    impl Resolver for Silent {
        async fn resolve(&self, _host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
            pending().await
        }
    }
    let connector = Connector::with_resolver(ConnectSettings::default(), anything, Silent);
    let error = connector.connect(&target("relay.test", 1, Transport::Tcp), None).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot connect to tcp:relay.test:1 in 15s: no answer yet");
}

#[tokio::test]
async fn a_name_without_addresses_is_an_error_of_its_own() {
    let connector = Connector::with_resolver(ConnectSettings::default(), anything, Book(vec![]));
    let error = connector.connect(&target("relay.test", 1, Transport::Tcp), None).await.unwrap_err();
    assert_eq!(error.to_string(), "relay.test has no address");
}

#[tokio::test]
async fn names_resolve_as_the_system_does() {
    let listener = TcpListener::bind(LOCALHOST).await.unwrap();
    let address = listener.local_addr().unwrap();
    let connector = Connector::new(ConnectSettings::default(), anything);
    let target = target("localhost", address.port(), Transport::Tcp);
    let stream = patiently("connect to localhost", connector.connect(&target, None)).await.unwrap();
    assert_eq!(stream.peer_addr(), address);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_says_so() {
    struct Unknown;
    impl Resolver for Unknown {
        async fn resolve(&self, _host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
            Err(io::Error::other("Name or service not known"))
        }
    }
    let connector = Connector::with_resolver(ConnectSettings::default(), anything, Unknown);
    let error = connector.connect(&target("relay.test", 1, Transport::Tcp), None).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot resolve relay.test: Name or service not known");
}

#[tokio::test]
async fn tls_checks_the_name_not_the_address() {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let identity = pki.identity(&ca, "relay", &["relay.test"]);
    let domains = server_domains(&server_settings("relay", &identity, &ca));
    let (address, mut told) =
        listen(ListenerSettings::new(LOCALHOST.parse().unwrap(), Transport::Tls), domains);
    let domain = client_domain(&ca, None);
    let connector = Connector::with_resolver(ConnectSettings::default(), anything, Book(vec![address]));

    let stream = connector.connect(&target("relay.test", 1, Transport::Tls), Some(&domain)).await.unwrap();
    assert!(matches!(stream.tls().unwrap().peer(), PeerCertificate::Verified { .. }));
    assert!(matches!(patiently("accept", told.recv()).await, Some(Told::Accepted(_))));

    let error = connector.connect(&target("other.test", 1, Transport::Tls), Some(&domain)).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("{address}: peer certificate refused: made for")), "{text}");

    let error = connector.connect(&target("relay.test", 1, Transport::Tls), None).await.unwrap_err();
    assert_eq!(error.to_string(), "no TLS client domain for tls:relay.test:1");
}
