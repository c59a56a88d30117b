//! Owners and peers that vanish at every stage, in order or not: who waits for them is told, and
//! nobody else notices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use msrp_proto::flag::Flag;
use tests::{
    CLIENT_HELLO, Client, Content, Daemon, Listener, Neighbours, Scheme, Send, Session, Settings, Site,
    Stream,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// How somebody vanishes.
#[derive(Clone, Copy, Debug)]
enum How {
    /// TLS close_notify, where there is TLS, and FIN.
    InOrder,
    /// The socket is closed under TLS: FIN alone.
    Cut,
    /// RST.
    Reset,
}

impl How {
    const ALL: [Self; 3] = [Self::InOrder, Self::Cut, Self::Reset];

    async fn vanish(self, client: Client) {
        match self {
            Self::InOrder => client.close().await,
            Self::Cut => drop(client),
            Self::Reset => client.reset(),
        }
    }
}

/// A relay with neighbours that must not notice anything.
struct Scene {
    site: Site,
    daemon: Daemon,
    neighbours: Neighbours,
}

impl Scene {
    async fn new() -> Self {
        let site = Site::new();
        let daemon = Daemon::start(RELAY, &site, &Settings::default()).await;
        let neighbours = Neighbours::join(&daemon, &site).await;
        Self { site, daemon, neighbours }
    }

    async fn client(&self, scheme: Scheme) -> Client {
        Client::connect(&self.daemon, &self.site, scheme).await
    }

    async fn session(&self, scheme: Scheme, user: &str) -> (Client, Session) {
        Client::with_session(&self.daemon, &self.site, scheme, user).await
    }

    /// The relay has noted the end of a connection, in one line, and the neighbours have not noticed.
    async fn noted(&mut self, address: &str) {
        self.daemon.log().wait_for_lines(&["connection closed", address], 1).await;
        self.neighbours.chat().await;
        self.daemon.assert_well();
    }
}

const SCHEMES: [Scheme; 2] = [Scheme::Msrp, Scheme::Msrps];

#[tokio::test]
async fn during_the_tls_handshake() {
    let mut scene = Scene::new().await;
    for (bytes, reset) in [
        (&[][..], false),
        (&[], true),
        (CLIENT_HELLO, false),
        (CLIENT_HELLO, true),
        (&CLIENT_HELLO[..1], false),
    ] {
        let mut socket = TcpStream::connect(scene.daemon.address(Scheme::Msrps)).await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        socket.write_all(bytes).await.unwrap();
        let stream = Stream::Plain(socket);
        if reset {
            stream.reset();
        } else {
            drop(stream);
        }
        scene.daemon.log().wait_for_lines(&["connection closed", "TLS handshake", &address], 1).await;
        scene.neighbours.chat().await;
    }
    scene.daemon.assert_well();
}

#[tokio::test]
async fn after_the_connect() {
    let mut scene = Scene::new().await;
    for (how, scheme) in How::ALL.into_iter().flat_map(|how| SCHEMES.map(|scheme| (how, scheme))) {
        let client = scene.client(scheme).await;
        let address = client.address();
        how.vanish(client).await;
        scene.noted(&address).await;
    }
}

#[tokio::test]
async fn after_the_challenge() {
    let mut scene = Scene::new().await;
    for how in How::ALL {
        let mut client = scene.client(Scheme::Msrps).await;
        let to = [client.relay_uri().to_owned()];
        client.challenge(&to).await;
        let address = client.address();
        how.vanish(client).await;
        scene.noted(&address).await;
    }
}

#[tokio::test]
async fn after_auth_and_the_session_ends_with_the_connection() {
    let mut scene = Scene::new().await;
    for how in How::ALL {
        let (alice, from_alice) = scene.session(Scheme::Msrps, "alice").await;
        let (mut bob, from_bob) = scene.session(Scheme::Msrps, "bob").await;
        let mut stranger = scene.client(Scheme::Msrp).await;
        let address = alice.address();
        how.vanish(alice).await;
        scene.noted(&address).await;
        assert_eq!(bob.send(&Send::text(&from_bob.to(&from_alice), "m", "too late")).await.status(), 481);
        assert_eq!(stranger.send(&Send::text(&from_alice.inward(), "m", "too late")).await.status(), 481);
    }
}

#[tokio::test]
async fn within_a_head() {
    let mut scene = Scene::new().await;
    for how in How::ALL {
        let (mut alice, from_alice) = scene.session(Scheme::Msrps, "alice").await;
        let (mut bob, from_bob) = scene.session(Scheme::Msrps, "bob").await;
        let head = alice.tx.head_text(&Send::text(&from_alice.to(&from_bob), "m", "x"), "abcdefgh");
        alice.tx.raw(&head.as_bytes()[..head.len() - 10]).await;
        let address = alice.address();
        how.vanish(alice).await;
        scene.noted(&address).await;
        // Nothing of it has reached the receiver.
        let (mut carol, from_carol) = scene.session(Scheme::Msrps, "carol").await;
        assert_eq!(carol.send(&Send::text(&from_carol.to(&from_bob), "next", "y")).await.status(), 200);
        assert_eq!(bob.receive().await.header("Message-ID"), "next");
    }
}

/// The receiver has the beginning, and learns that the rest will not come: `#`.
#[tokio::test]
async fn a_sender_within_a_body() {
    let mut scene = Scene::new().await;
    let content = Content::new(20_000);
    for how in How::ALL {
        // A chunk that is cut through, one of unknown length, and one that waits until it is whole.
        for (range, len) in [("1-20000/20000", 10_000), ("1-*/*", 10), ("1-100/100", 50)] {
            let (mut alice, from_alice) = scene.session(Scheme::Msrps, "alice").await;
            let (mut bob, from_bob) = scene.session(Scheme::Msrps, "bob").await;
            let message = Send { range: range.into(), ..Send::text(&from_alice.to(&from_bob), "m", "") };
            alice.tx.begin(&message).await;
            alice.tx.raw(content.piece(0, len)).await;
            if range != "1-100/100" {
                bob.rx.head().await;
            }
            let address = alice.address();
            how.vanish(alice).await;
            if range == "1-100/100" {
                bob.rx.head().await;
            }
            let (body, flag) = bob.rx.rest_of_chunk().await;
            assert_eq!(flag, Flag::Abort, "{how:?} {range}");
            content.check(0, &body);
            if !matches!(how, How::Reset) {
                assert_eq!(body.len(), len, "{how:?} {range}: all that came is sent on");
            }
            scene.noted(&address).await;
        }
    }
}

/// The chunk is unanswered: its sender gets 481 for a response.
#[tokio::test]
async fn a_receiver_within_a_body() {
    let mut scene = Scene::new().await;
    for how in How::ALL {
        let (mut alice, from_alice) = scene.session(Scheme::Msrps, "alice").await;
        let (mut bob, from_bob) = scene.session(Scheme::Msrps, "bob").await;
        let message = Send { range: "1-*/*".into(), ..Send::text(&from_alice.to(&from_bob), "m", "") };
        let transaction = alice.tx.begin(&message).await;
        alice.tx.raw(&[b'x'; 10_000]).await;
        bob.rx.head().await;
        let address = bob.address();
        how.vanish(bob).await;
        assert_eq!(alice.rx.response(&transaction).await.status(), 481, "{how:?}");
        alice.tx.end(&transaction, Flag::Complete).await;
        scene.noted(&address).await;
        let again = alice.send(&Send::text(&from_alice.to(&from_bob), "m2", "x")).await;
        assert_eq!(again.status(), 481, "its session has ended");
    }
}

/// The chunk was answered with 200: its sender gets a REPORT.
#[tokio::test]
async fn a_receiver_before_its_response() {
    let mut scene = Scene::new().await;
    for how in How::ALL {
        let (mut alice, from_alice) = scene.session(Scheme::Msrps, "alice").await;
        let (mut bob, from_bob) = scene.session(Scheme::Msrps, "bob").await;
        let to = from_alice.to(&from_bob);
        assert_eq!(alice.send(&Send::text(&to, "m", "12345")).await.status(), 200);
        alice.tx.send(&Send::text(&to, "silent", "12345").with("Failure-Report: no")).await;
        for _ in 0..2 {
            bob.rx.next().await;
        }
        let address = bob.address();
        how.vanish(bob).await;
        let report = alice.receive_report().await;
        assert_eq!((report.reported(), report.header("Message-ID")), (481, "m".into()), "{how:?}");
        assert_eq!(report.header("Byte-Range"), "1-5/5");
        scene.noted(&address).await;
        // Of the other nothing is told: the next is the answer to another request.
        alice.auth("alice", "alicepw").await;
    }
}

/// A peer that connected to the relay, and vanishes: the owner's session stays, and serves another.
#[tokio::test]
async fn a_peer_without_a_relay() {
    let mut scene = Scene::new().await;
    let (mut alice, from_alice) = scene.session(Scheme::Msrps, "alice").await;
    for how in How::ALL {
        let mut peer = scene.client(Scheme::Msrp).await;
        let to_alice = Send::text(&from_alice.inward(), "m", "hello");
        assert_eq!(peer.send(&to_alice).await.status(), 200);
        alice.receive().await;
        let to_peer = from_alice.to(&peer.without_relay());
        assert_eq!(alice.send(&Send::text(&to_peer, "m1", "12345")).await.status(), 200);
        peer.rx.next().await;
        let address = peer.address();
        how.vanish(peer).await;
        assert_eq!(alice.receive_report().await.reported(), 481, "{how:?}");
        scene.noted(&address).await;
        // There is no connection, and its URI leads nowhere.
        assert_eq!(alice.send(&Send::text(&to_peer, "m2", "12345")).await.status(), 200);
        assert_eq!(alice.receive_report().await.reported(), 408);
    }
}

#[tokio::test]
async fn an_owner_while_its_peer_is_being_connected_to() {
    let mut scene = Scene::new().await;
    for how in How::ALL {
        let listener = Listener::bind("127.0.0.1", Some(scene.site.identity("relay"))).await.unwrap();
        let uri = listener.uri("localhost");
        let (mut alice, from_alice) = scene.session(Scheme::Msrps, "alice").await;
        alice.tx.send(&Send::text(&from_alice.to(&Session::without_relay(&uri)), "m", "x")).await;
        // The relay waits in its handshake.
        let socket = listener.accept_socket().await;
        let address = alice.address();
        how.vanish(alice).await;
        scene.noted(&address).await;
        drop(socket);
        scene.daemon.log().wait_for(&["connection failed", &format!("localhost:{}", listener.port())]).await;
        scene.neighbours.chat().await;
    }
    scene.daemon.assert_well();
}

#[tokio::test]
async fn a_peer_while_it_is_being_connected_to() {
    let mut scene = Scene::new().await;
    for reset in [false, true] {
        let listener = Listener::bind("127.0.0.1", Some(scene.site.identity("relay"))).await.unwrap();
        let uri = listener.uri("localhost");
        let (mut alice, from_alice) = scene.session(Scheme::Msrps, "alice").await;
        let message = Send::text(&from_alice.to(&Session::without_relay(&uri)), "m", "12345");
        assert_eq!(alice.send(&message).await.status(), 200);
        let stream = Stream::Plain(listener.accept_socket().await);
        if reset {
            stream.reset();
        } else {
            drop(stream);
        }
        let report = alice.receive_report().await;
        assert_eq!((report.reported(), report.header("Byte-Range")), (408, "1-5/5".into()));
        scene.neighbours.chat().await;
    }
    scene.daemon.assert_well();
}

/// The peer took what was sent before its connection was up, and vanishes.
#[tokio::test]
async fn a_peer_that_was_connected_to() {
    let mut scene = Scene::new().await;
    for how in How::ALL {
        let listener = Listener::bind("127.0.0.1", None).await.unwrap();
        let uri = listener.uri("localhost");
        let (mut alice, from_alice) = scene.session(Scheme::Msrps, "alice").await;
        let message = Send::text(&from_alice.to(&Session::without_relay(&uri)), "m", "12345");
        assert_eq!(alice.send(&message).await.status(), 200);
        let mut peer = listener.accept(&uri).await;
        peer.rx.next().await;
        how.vanish(peer).await;
        assert_eq!(alice.receive_report().await.reported(), 481, "{how:?}");
        // It is connected to anew.
        assert_eq!(alice.send(&message).await.status(), 200);
        let mut peer = listener.accept(&uri).await;
        assert_eq!(peer.receive().await.text(), "12345");
        scene.neighbours.chat().await;
    }
    scene.daemon.assert_well();
}

/// A sender that hangs up after its last byte has sent all the same.
#[tokio::test]
async fn a_sender_before_the_response_and_its_message_arrives() {
    let mut scene = Scene::new().await;
    for scheme in SCHEMES {
        let (mut alice, from_alice) = scene.session(scheme, "alice").await;
        let (mut bob, from_bob) = scene.session(Scheme::Msrps, "bob").await;
        alice.tx.send(&Send::text(&from_alice.to(&from_bob), "m", "farewell")).await;
        let address = alice.address();
        How::InOrder.vanish(alice).await;
        assert_eq!(bob.receive().await.text(), "farewell");
        scene.noted(&address).await;
    }
}
