//! Two daemons with mutual TLS between a client and its peer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;

use tests::{
    Client, Content, Daemon, Listener, Proxy, Scheme, Send, Session, Settings, Site, tls_config,
    tls_handshake,
};
use tokio::net::TcpStream;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// Relay A is `localhost`, relay B `127.0.0.1`: the names in their URIs resolve, differ, and are the
/// only ones in their certificates. All that goes from one to the other goes through proxies, whose
/// ports they advertise.
struct Chain {
    site: Site,
    a: Daemon,
    b: Daemon,
    to_a: Proxy,
    to_b: Proxy,
}

impl Chain {
    async fn start() -> Self {
        Self::start_with("a", "").await
    }

    /// With this identity as A's client certificate, and these timeouts in both.
    async fn start_with(identity_of_a: &str, timeouts: &str) -> Self {
        let site = Site::new();
        site.issue("a", &["localhost"]);
        site.issue("b", &["127.0.0.1"]);
        let (to_a, to_b) = (Proxy::new().await, Proxy::new().await);
        let settings = |name: &str, domain: &str, proxy: &Proxy, client: &str| Settings {
            domain: domain.into(),
            tls: Some(format!("127.0.0.1:0, advertise: \"{domain}:{}\"", proxy.port())),
            identity: name.into(),
            client_domain: format!("ca_list: ca.pem, certificate: {client}.crt, private_key: {client}.key"),
            auth: "allow_auth_without_tls: false".into(),
            timeouts: timeouts.into(),
            ..Settings::default()
        };
        let a = settings("a", "localhost", &to_a, identity_of_a);
        let a = Daemon::start_as(Command::new(RELAY), &site, "a.yaml", &a).await;
        let b = settings("b", "127.0.0.1", &to_b, "b");
        let b = Daemon::start_as(Command::new(RELAY), &site, "b.yaml", &b).await;
        to_a.lead_to(a.address(Scheme::Msrps));
        to_b.lead_to(b.address(Scheme::Msrps));
        Self { site, a, b, to_a, to_b }
    }

    fn uri_of_a(&self) -> String {
        format!("msrps://localhost:{};tcp", self.to_a.port())
    }

    fn uri_of_b(&self) -> String {
        format!("msrps://127.0.0.1:{};tcp", self.to_b.port())
    }

    /// A client of A with a session there.
    async fn client_of_a(&self, user: &str) -> (Client, Session) {
        let mut client = Client::connect(&self.a, &self.site, Scheme::Msrps).await;
        let session = client.auth_at(&[self.uri_of_a()], user, &format!("{user}pw")).await;
        (client, session)
    }

    /// A client of A with a session at B, reached through A.
    async fn client_through_both(&self, user: &str) -> (Client, Session) {
        let (mut client, near) = self.client_of_a(user).await;
        let to = [near.use_path[0].clone(), self.uri_of_b()];
        let session = client.auth_at(&to, user, &format!("{user}pw")).await;
        (client, session)
    }

    fn assert_well(&mut self) {
        self.a.assert_well();
        self.b.assert_well();
    }
}

/// One message and its success REPORT. When that is there, no hop on the way waits for a response.
/// What a relay sends over a connection of which it does not know yet that it is lost fails with 481,
/// and is sent again.
async fn exchange(from: (&mut Client, &Session), to: (&mut Client, &Session)) {
    let message = Send::text(&from.1.to(to.1), "exchange", "a message").with("Success-Report: yes");
    let received = loop {
        let status = from.0.send(&message).await.status();
        if status != 200 {
            assert_eq!(status, 481);
            continue;
        }
        tokio::select! {
            received = to.0.rx.next() => break received,
            lost = from.0.receive_report() => assert_eq!(lost.reported(), 481),
        }
    };
    to.0.tx.respond(&received, 200).await;
    to.0.tx.report(&received, 200).await;
    assert_eq!(from.0.receive_report().await.reported(), 200);
}

#[tokio::test]
async fn auth_goes_through_the_first_relay_to_the_second() {
    let mut chain = Chain::start().await;
    let (mut alice, near) = chain.client_of_a("alice").await;
    assert!(near.use_path[0].starts_with(&format!("msrps://localhost:{}/", chain.to_a.port())), "{near:?}");

    let to = [near.use_path[0].clone(), chain.uri_of_b()];
    let refused = alice.request("AUTH", &to, "").await;
    assert_eq!(refused.status(), 401, "the certificate is the relay's, not the user's");
    assert_eq!(refused.to_path(), [alice.uri()]);
    assert_eq!(refused.from_path(), to);

    let far = alice.auth_at(&to, "alice", "alicepw").await;
    assert_eq!(far.use_path.len(), 2);
    assert_eq!(far.use_path[0], near.use_path[0]);
    assert!(far.use_path[1].starts_with(&format!("msrps://127.0.0.1:{}/", chain.to_b.port())), "{far:?}");
    assert_eq!(chain.to_b.accepted(), 1, "one connection serves all");
    chain.assert_well();
}

#[tokio::test]
async fn a_wrong_password_at_the_second_relay_is_refused_by_it() {
    let mut chain = Chain::start().await;
    let (mut alice, near) = chain.client_of_a("alice").await;
    let to = [near.use_path[0].clone(), chain.uri_of_b()];
    // As often as the client's connection to the first relay allows.
    for _ in 0..5 {
        assert_eq!(alice.try_auth_at(&to, "alice", "wrong").await.status(), 401);
    }
    alice.rx.end().await.expect("several failed AUTHs close the client's connection in order");
    // The relays' connection stays: it serves others.
    chain.client_through_both("bob").await;
    assert_eq!(chain.to_b.accepted(), 1);
    chain.assert_well();
}

#[tokio::test]
async fn messages_and_reports_go_both_ways_through_both_relays() {
    let mut chain = Chain::start().await;
    let (mut alice, from_alice) = chain.client_through_both("alice").await;
    let (mut bob, from_bob) = {
        let mut bob = Client::connect(&chain.b, &chain.site, Scheme::Msrps).await;
        let session = bob.auth_at(&[chain.uri_of_b()], "bob", "bobpw").await;
        (bob, session)
    };
    // Client, relay A, relay B (which is bob's too), bob.
    let out = Send::text(&from_alice.to(&from_bob), "m1", "from afar").with("Success-Report: yes");
    assert_eq!(alice.send(&out).await.status(), 200);
    let received = bob.receive().await;
    assert_eq!(received.text(), "from afar");
    assert_eq!(
        received.from_path(),
        [&from_bob.use_path[0], &from_alice.use_path[1], &from_alice.use_path[0], alice.uri()]
    );
    bob.tx.report(&received, 200).await;
    assert_eq!(alice.receive_report().await.reported(), 200);

    let back = Send::text(&from_bob.to(&from_alice), "m2", "to afar").with("Success-Report: yes");
    assert_eq!(bob.send(&back).await.status(), 200);
    let received = alice.receive().await;
    assert_eq!(received.text(), "to afar");
    alice.tx.report(&received, 200).await;
    assert_eq!(bob.receive_report().await.reported(), 200);

    // A failure at the far end comes back as a REPORT.
    assert_eq!(alice.send(&out).await.status(), 200);
    let unwanted = bob.rx.next().await;
    bob.tx.respond(&unwanted, 413).await;
    let report = alice.receive_report().await;
    assert_eq!((report.reported(), report.header("Message-ID")), (413, "m1".into()));
    chain.assert_well();
}

#[tokio::test]
async fn a_client_of_each_relay_reach_each_other() {
    let mut chain = Chain::start().await;
    let (mut alice, from_alice) = chain.client_of_a("alice").await;
    let mut bob = Client::connect(&chain.b, &chain.site, Scheme::Msrps).await;
    let from_bob = bob.auth_at(&[chain.uri_of_b()], "bob", "bobpw").await;
    assert_eq!(alice.send(&Send::text(&from_alice.to(&from_bob), "m1", "over there")).await.status(), 200);
    assert_eq!(bob.receive().await.text(), "over there");
    assert_eq!(bob.send(&Send::text(&from_bob.to(&from_alice), "m2", "over here")).await.status(), 200);
    assert_eq!(alice.receive().await.text(), "over here");
    assert_eq!((chain.to_a.accepted(), chain.to_b.accepted()), (0, 1), "one connection serves both ways");
    chain.assert_well();
}

#[tokio::test]
async fn a_file_goes_through_both_relays_to_a_peer_without_one() {
    let mut chain = Chain::start().await;
    let (mut alice, from_alice) = chain.client_through_both("alice").await;
    let listener = Listener::bind("127.0.0.1", None).await.unwrap();
    let uri = listener.uri("127.0.0.1");
    let content = Content::new(8 * 1024 * 1024);
    let file =
        Send { to: from_alice.to(&Session::without_relay(&uri)), message: "f".into(), ..Send::default() };
    let receive = async {
        let mut peer = listener.accept(&uri).await;
        peer.rx.file(&content, Some(&mut peer.tx)).await;
        peer
    };
    let ((), _peer) = tokio::join!(alice.tx.file(&file, &content, None), receive);
    assert_eq!(alice.rx.next().await.status(), 200);
    chain.assert_well();
}

/// RFC 4976 §6.3: a session owned by a relay does not end with a connection.
#[tokio::test]
async fn a_session_of_a_relay_survives_the_loss_of_the_connection_between_the_relays() {
    let mut chain = Chain::start().await;
    let (mut alice, from_alice) = chain.client_through_both("alice").await;
    let mut peer = Client::connect(&chain.b, &chain.site, Scheme::Msrps).await;
    let from_peer = peer.without_relay();
    exchange((&mut peer, &from_peer), (&mut alice, &from_alice)).await;

    // The peer sends first: relay B connects to A.
    assert_eq!(chain.to_b.cut(), 1);
    chain.a.log().wait_for(&["connection closed"]).await;
    chain.b.log().wait_for(&["connection closed"]).await;
    exchange((&mut peer, &from_peer), (&mut alice, &from_alice)).await;
    assert_eq!(chain.to_a.accepted(), 1);
    exchange((&mut alice, &from_alice), (&mut peer, &from_peer)).await;

    // The client sends first: relay A connects to B.
    assert_eq!(chain.to_a.cut(), 1);
    chain.a.log().wait_for_lines(&["connection closed"], 2).await;
    chain.b.log().wait_for_lines(&["connection closed"], 2).await;
    exchange((&mut alice, &from_alice), (&mut peer, &from_peer)).await;
    assert_eq!(chain.to_b.accepted(), 2);
    exchange((&mut peer, &from_peer), (&mut alice, &from_alice)).await;
    chain.assert_well();
}

#[tokio::test]
async fn a_chunk_within_the_lost_connection_is_told_to_its_sender() {
    let mut chain = Chain::start().await;
    let (mut alice, from_alice) = chain.client_through_both("alice").await;
    let mut peer = Client::connect(&chain.b, &chain.site, Scheme::Msrps).await;
    let from_peer = peer.without_relay();
    exchange((&mut peer, &from_peer), (&mut alice, &from_alice)).await;

    let to_peer = from_alice.to(&peer.without_relay());
    let open = Send { range: "1-*/*".into(), ..Send::text(&to_peer, "open", "") };
    let transaction = alice.tx.begin(&open).await;
    alice.tx.raw(&[b'x'; 5000]).await;
    peer.rx.head().await;
    chain.to_b.cut();
    // Relay B ends what it has begun; relay A refuses what has not ended.
    assert_eq!(peer.rx.rest_of_chunk().await.1, msrp_proto::flag::Flag::Abort);
    assert_eq!(alice.rx.response(&transaction).await.status(), 481);
    alice.tx.end(&transaction, msrp_proto::flag::Flag::Complete).await;
    assert_eq!(alice.send(&Send::text(&to_peer, "m2", "two")).await.status(), 200);
    assert_eq!(peer.receive().await.text(), "two");
    chain.assert_well();
}

#[tokio::test]
async fn a_relay_whose_certificate_has_another_name_is_refused() {
    let mut chain = Chain::start_with("relay-b", "").await;
    let (mut alice, near) = chain.client_of_a("alice").await;
    let to = [near.use_path[0].clone(), chain.uri_of_b()];
    assert_eq!(alice.request("AUTH", &to, "").await.status(), 403);
    chain.b.log().wait_for(&["AUTH refused", "localhost"]).await;
    chain.assert_well();
}

#[tokio::test]
async fn a_relay_without_a_certificate_that_verifies_is_refused() {
    let mut chain = Chain::start_with("foreign", "").await;
    let (mut alice, near) = chain.client_of_a("alice").await;
    let to = [near.use_path[0].clone(), chain.uri_of_b()];
    assert_eq!(alice.request("AUTH", &to, "").await.status(), 403);
    chain.assert_well();
}

#[tokio::test]
async fn an_unreachable_second_relay_is_told_with_408() {
    let mut chain = Chain::start().await;
    let (mut alice, near) = chain.client_of_a("alice").await;
    let port = Listener::bind("127.0.0.1", None).await.unwrap().port();
    let to = [near.use_path[0].clone(), format!("msrps://127.0.0.1:{port};tcp")];
    let response = alice.request("AUTH", &to, "").await;
    assert_eq!(response.status(), 408);
    assert_eq!(response.to_path(), [alice.uri()]);
    chain.assert_well();
}

/// Somebody with relay A's certificate may use a connection of its own for A's sessions; a stranger
/// may not.
#[tokio::test]
async fn only_a_holder_of_the_relays_certificate_speaks_for_it() {
    let mut chain = Chain::start().await;
    let (_alice, from_alice) = chain.client_through_both("alice").await;
    let (mut bob, from_bob) = {
        let mut bob = Client::connect(&chain.b, &chain.site, Scheme::Msrps).await;
        let session = bob.auth_at(&[chain.uri_of_b()], "bob", "bobpw").await;
        (bob, session)
    };
    let path: Vec<_> = from_alice.use_path[1..].iter().cloned().chain(from_bob.inward()).collect();
    for (identity, status) in [(None, 403), (Some("relay-b"), 403), (Some("a"), 200)] {
        let identity = identity.map(|name| chain.site.identity(name));
        let socket = TcpStream::connect(chain.b.address(Scheme::Msrps)).await.unwrap();
        let config = tls_config(&chain.site, identity.as_ref());
        let stream = tls_handshake(config, socket, "127.0.0.1").await.unwrap();
        let mut other = Client::over(stream, "msrps://localhost:1/x;tcp", &chain.uri_of_b());
        assert_eq!(other.send(&Send::text(&path, "m", "as relay A")).await.status(), status);
    }
    assert_eq!(bob.receive().await.text(), "as relay A");
    chain.assert_well();
}
