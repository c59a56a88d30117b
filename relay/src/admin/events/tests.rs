use std::time::SystemTime;

use tokio::net::TcpStream;

use super::super::testing::{EVENT_QUEUE, Interface};
use super::*;
use crate::server::SessionFacts;

const REQUEST: &str = "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn streams_have_a_bound_of_their_own_and_leave_connections_for_requests() {
    let interface = Interface::start().await;
    let mut streams = Vec::new();
    for _ in 0..MAX_STREAMS {
        let mut stream = interface.connect(4096);
        stream.send(REQUEST).await;
        assert!(stream.until("\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
        streams.push(stream);
    }
    let mut one_more = interface.connect(4096);
    for _ in 0..2 {
        one_more.send(REQUEST).await;
        assert!(one_more.until("\r\n\r\n").await.starts_with("HTTP/1.1 503 "));
        one_more.until("at once\n").await;
    }
    one_more.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    one_more.until("\r\n\r\nok\n").await;

    // One that ends makes room for another.
    streams.pop();
    loop {
        one_more.send(REQUEST).await;
        if one_more.until("\r\n\r\n").await.starts_with("HTTP/1.1 200 ") {
            break;
        }
        one_more.until("at once\n").await;
    }
}

fn source(app: &Interface) -> Source {
    Source {
        _slot: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap(),
        connections: Some(app.server.ledger().events().subscribe()),
        told: 0,
        put_off: None,
        sessions: None,
        stopped: app.stop.subscribe(),
    }
}

fn text(event: Option<Event>) -> String {
    format!("{:?}", event.unwrap())
}

fn session_event() -> Arc<SessionEvent> {
    let session = SessionFacts {
        id: "abc".into(),
        uri: "msrp://relay.test:2855/abc;tcp".into(),
        user: "alice".into(),
        owner: "127.0.0.1:4000".into(),
        by_relay: false,
        peers: Vec::new(),
        more_peers: false,
        began: SystemTime::UNIX_EPOCH,
        seconds: 0.0,
        expires_in: 0.0,
        from_owner: Default::default(),
        to_owner: Default::default(),
    };
    Arc::new(SessionEvent { time: SystemTime::UNIX_EPOCH, session, end: None })
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_told_how_many_session_events_it_has_lost() {
    let interface = Interface::start().await;
    let (sender, receiver) = broadcast::channel(4);
    let mut source = Source { connections: None, sessions: Some(receiver), ..source(&interface) };
    for _ in 0..4 {
        sender.send(session_event()).unwrap();
    }
    assert!(text(source.next().await).contains("event: session"));
    for _ in 0..6 {
        sender.send(session_event()).unwrap();
    }
    let lost = text(source.next().await);
    assert!(lost.contains("event: lost") && lost.contains(r#"{\"events\":5}"#), "{lost}");
    for _ in 0..4 {
        assert!(text(source.next().await).contains("event: session"));
    }
    drop(sender);
    assert!(source.next().await.is_none());
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_told_how_many_connection_events_it_has_lost() {
    let interface = Interface::start().await;
    let (_, address) = interface.server.addresses()[0];
    let mut source = source(&interface);
    // Another reader says when an event has been told.
    let mut all = interface.server.ledger().events().subscribe();
    let mut connections = Vec::new();
    for _ in 0..EVENT_QUEUE + 3 {
        connections.push(TcpStream::connect(address).await.unwrap());
        all.next().await.unwrap();
    }
    assert_eq!(all.lost(), 0);
    let lost = text(source.next().await);
    assert!(lost.contains("event: lost") && lost.contains(r#"{\"events\":3}"#), "{lost}");
    for _ in 0..EVENT_QUEUE {
        assert!(text(source.next().await).contains("event: connection"));
    }
}
