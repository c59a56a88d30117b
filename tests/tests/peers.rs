//! Peers without a relay: those that the relay connects to, and those that connect to it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use msrp_proto::flag::Flag;
use tests::{Client, Daemon, Listener, Message, Scheme, Send, Session, Settings, Site};

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

struct Flow {
    site: Site,
    daemon: Daemon,
    alice: Client,
    from_alice: Session,
}

impl Flow {
    async fn start(settings: &Settings) -> Self {
        let site = Site::new();
        let daemon = Daemon::start(RELAY, &site, settings).await;
        let (alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
        Self { site, daemon, alice, from_alice }
    }

    fn to(&self, uri: &str) -> Vec<String> {
        self.from_alice.to(&Session::without_relay(uri))
    }

    /// Sends one message to a peer that the relay must connect to, and one back.
    async fn chat_with(&mut self, listener: &Listener, host: &str) {
        let uri = listener.uri(host);
        let message = Send::text(&self.to(&uri), "m1", "out").with("Success-Report: yes");
        let (taken, mut peer) = tokio::join!(self.alice.send(&message), listener.accept(&uri));
        assert_eq!(taken.status(), 200);
        let received = peer.receive().await;
        assert_eq!(received.text(), "out");
        assert_eq!(received.to_path(), [uri]);
        assert_eq!(received.from_path(), [&self.from_alice.use_path[0], self.alice.uri()]);
        peer.tx.report(&received, 200).await;
        assert_eq!(self.alice.receive_report().await.reported(), 200);

        let back = Send::text(&peer.without_relay().to(&self.from_alice), "m2", "back");
        assert_eq!(peer.send(&back).await.status(), 200);
        assert_eq!(self.alice.receive().await.text(), "back");
        // The connection serves on.
        assert_eq!(self.alice.send(&message).await.status(), 200);
        assert_eq!(peer.receive().await.text(), "out");
        self.daemon.assert_well();
    }

    /// Sends the first half of a chunk, which cannot arrive, and gives the error response.
    async fn fails_unanswered(&mut self, uri: &str) -> Message {
        let message = Send { range: "1-*/*".into(), ..Send::text(&self.to(uri), "open", "") };
        let transaction = self.alice.tx.begin(&message).await;
        self.alice.tx.raw(&[b'x'; 5000]).await;
        let response = self.alice.rx.response(&transaction).await;
        self.alice.tx.end(&transaction, Flag::Complete).await;
        response
    }

    /// Sends a whole chunk, which cannot arrive, and gives what tells so: the response, or the REPORT
    /// that follows a 200.
    async fn fails(&mut self, uri: &str) -> u16 {
        let response = self.alice.send(&Send::text(&self.to(uri), "whole", "lost")).await;
        if response.status() != 200 {
            return response.status();
        }
        let report = self.alice.receive_report().await;
        assert_eq!(
            (report.header("Message-ID"), report.header("Byte-Range")),
            ("whole".into(), "1-4/4".into())
        );
        assert_eq!(report.to_path(), [self.alice.uri()]);
        assert_eq!(report.from_path(), self.from_alice.use_path);
        report.reported()
    }

    /// Nothing is told of a chunk that wants no failure reports: the next message is another answer.
    async fn fails_silently(&mut self, uri: &str) {
        self.alice.tx.send(&Send::text(&self.to(uri), "silent", "lost").with("Failure-Report: no")).await;
        self.daemon.log().wait_for(&["connection failed"]).await;
        self.alice.auth("alice", "alicepw").await;
    }
}

/// A port of 127.0.0.1 where nobody listens.
async fn closed_port() -> u16 {
    Listener::bind("127.0.0.1", None).await.unwrap().port()
}

#[tokio::test]
async fn a_peer_is_reached_by_its_address() {
    let mut flow = Flow::start(&Settings::default()).await;
    let listener = Listener::bind("127.0.0.1", None).await.unwrap();
    flow.chat_with(&listener, "127.0.0.1").await;
}

/// RFC 4975 §6.2: where `localhost` is ::1 too, nobody listens there, and 127.0.0.1 is tried next.
#[tokio::test]
async fn a_peer_is_reached_by_a_name_of_etc_hosts() {
    let mut flow = Flow::start(&Settings::default()).await;
    let listener = Listener::bind("127.0.0.1", None).await.unwrap();
    flow.chat_with(&listener, "localhost").await;
}

#[tokio::test]
async fn a_peer_is_reached_by_its_ipv6_address() {
    let mut flow = Flow::start(&Settings::default()).await;
    // A machine may have no IPv6 at all.
    let Ok(listener) = Listener::bind("::1", None).await else { return };
    flow.chat_with(&listener, "[::1]").await;
}

#[tokio::test]
async fn a_peer_is_reached_over_tls_by_name_and_by_address() {
    let mut flow = Flow::start(&Settings::default()).await;
    for host in ["localhost", "127.0.0.1"] {
        let listener = Listener::bind("127.0.0.1", Some(flow.site.identity("relay"))).await.unwrap();
        flow.chat_with(&listener, host).await;
    }
}

#[tokio::test]
async fn a_peer_that_connected_to_the_relay_is_answered_over_its_connection() {
    let mut flow = Flow::start(&Settings::default()).await;
    for scheme in [Scheme::Msrp, Scheme::Msrps] {
        let mut peer = Client::connect(&flow.daemon, &flow.site, scheme).await;
        // Another connection's session: each peer claims one of its own.
        let session = flow.alice.auth("alice", "alicepw").await;
        let first = Send::text(&peer.without_relay().to(&session), "m1", "here I am");
        assert_eq!(peer.send(&first).await.status(), 200);
        let received = flow.alice.receive().await;
        assert_eq!(received.text(), "here I am");
        assert_eq!(received.from_path(), [&session.use_path[0], peer.uri()]);
        // Its URI resolves nowhere.
        let back = Send::text(&session.to(&peer.without_relay()), "m2", "welcome");
        assert_eq!(flow.alice.send(&back).await.status(), 200);
        assert_eq!(peer.receive().await.text(), "welcome");
    }
    assert_eq!(flow.daemon.log().with(&["connection failed"]), [""; 0]);
}

#[tokio::test]
async fn a_session_in_use_is_refused_to_a_second_connection() {
    let mut flow = Flow::start(&Settings::default()).await;
    let mut first = Client::connect(&flow.daemon, &flow.site, Scheme::Msrp).await;
    let mut second = Client::connect(&flow.daemon, &flow.site, Scheme::Msrp).await;
    let to_alice = flow.from_alice.inward();
    assert_eq!(first.send(&Send::text(&to_alice, "m1", "first")).await.status(), 200);
    assert_eq!(second.send(&Send::text(&to_alice, "m2", "second")).await.status(), 506);
    assert_eq!(flow.alice.receive().await.text(), "first");
    // It is free again when the first has gone.
    first.close().await;
    let free = async {
        while second.send(&Send::text(&to_alice, "m3", "third")).await.status() == 506 {
            tokio::task::yield_now().await;
        }
    };
    tests::within("the session to be free", free).await;
    assert_eq!(flow.alice.receive().await.text(), "third");
    flow.daemon.assert_well();
}

#[tokio::test]
async fn a_stranger_sends_to_the_owner_and_to_nobody_else() {
    let mut flow = Flow::start(&Settings::default()).await;
    let (mut bob, from_bob) = Client::with_session(&flow.daemon, &flow.site, Scheme::Msrps, "bob").await;
    let mut stranger = Client::connect(&flow.daemon, &flow.site, Scheme::Msrp).await;
    let through_alice = flow.from_alice.to(&from_bob);
    assert_eq!(stranger.send(&Send::text(&through_alice, "m", "out")).await.status(), 403);
    flow.daemon.log().wait_for(&["SEND refused", "403"]).await;
    // Bob still gets what is for him.
    assert_eq!(flow.alice.send(&Send::text(&through_alice, "m", "for Bob")).await.status(), 200);
    assert_eq!(bob.receive().await.text(), "for Bob");
    flow.daemon.assert_well();
}

#[tokio::test]
async fn a_refused_connect_is_told_with_408() {
    let mut flow = Flow::start(&Settings::default()).await;
    let host = format!("msrp://127.0.0.1:{}", closed_port().await);
    assert_eq!(flow.fails(&format!("{host}/a;tcp")).await, 408);
    assert_eq!(flow.fails_unanswered(&format!("{host}/b;tcp")).await.status(), 408);
    flow.fails_silently(&format!("{host}/c;tcp")).await;
    flow.daemon.log().wait_for(&["connection failed", &host, "refused"]).await;
    flow.daemon.assert_well();
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_told_with_408() {
    let mut flow = Flow::start(&Settings::default()).await;
    assert_eq!(flow.fails("msrp://nobody.invalid:2855/a;tcp").await, 408);
    flow.daemon.log().wait_for(&["connection failed", "nobody.invalid", "resolve"]).await;
    flow.daemon.assert_well();
}

#[tokio::test]
async fn a_tls_peer_with_a_certificate_for_another_name_is_not_talked_to() {
    let mut flow = Flow::start(&Settings::default()).await;
    for identity in ["relay-b", "foreign", "expired"] {
        let listener = Listener::bind("127.0.0.1", Some(flow.site.identity(identity))).await.unwrap();
        let uri = listener.uri("localhost");
        let (status, ()) = tokio::join!(flow.fails(&uri), listener.refuse());
        assert_eq!(status, 408, "{identity}");
        flow.daemon.log().wait_for(&["connection failed", &format!("localhost:{}", listener.port())]).await;
    }
    flow.daemon.assert_well();
}

#[tokio::test]
async fn a_peer_that_is_not_tls_is_told_with_408() {
    let mut flow = Flow::start(&Settings::default()).await;
    let listener = Listener::bind("127.0.0.1", None).await.unwrap();
    let uri = format!("msrps://localhost:{}/peer;tcp", listener.port());
    let not_tls = async {
        let mut peer = listener.accept("").await;
        peer.tx.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        peer.rx.rest().await;
    };
    let (status, ()) = tokio::join!(flow.fails(&uri), not_tls);
    assert_eq!(status, 408);
    flow.daemon.assert_well();
}

#[tokio::test]
async fn the_outbound_policy_denies_with_a_line_and_408() {
    let settings = Settings { outbound: "deny: [\"127.0.0.1/32\"]".into(), ..Settings::default() };
    let mut flow = Flow::start(&settings).await;
    let listener = Listener::bind("127.0.0.1", None).await.unwrap();
    for host in ["127.0.0.1", "localhost"] {
        assert_eq!(flow.fails(&listener.uri(host)).await, 408);
    }
    let denied = flow.daemon.log().with(&["outbound policy", &format!("127.0.0.1:{}", listener.port())]);
    assert!(!denied.is_empty(), "{:?}", flow.daemon.log());
    flow.daemon.assert_well();
}

#[tokio::test]
async fn other_schemes_and_denied_networks_are_not_dialled() {
    let outbound = "schemes: [msrps], deny: [169.254.0.0/16]".into();
    let settings = Settings { outbound, ..Settings::default() };
    let mut flow = Flow::start(&settings).await;
    let listener = Listener::bind("127.0.0.1", None).await.unwrap();
    assert_eq!(flow.fails(&listener.uri("127.0.0.1")).await, 408);
    // Link-local addresses are where clouds keep their secrets.
    assert_eq!(flow.fails("msrps://169.254.169.254:80/a;tcp").await, 408);
    flow.daemon.log().wait_for(&["169.254.169.254:80", "outbound.deny"]).await;
    flow.daemon.assert_well();
}

#[tokio::test]
async fn a_transport_that_the_relay_cannot_open_is_refused() {
    let mut flow = Flow::start(&Settings::default()).await;
    assert_eq!(flow.fails("msrps://peer.invalid:2855/a;sctp").await, 403);
    // A browser is reached over the connection it opened, or not at all (RFC 7977 §5.1).
    assert_eq!(flow.fails("msrps://peer.invalid:2855/a;ws").await, 481);
    flow.daemon.assert_well();
}

#[tokio::test]
async fn no_answer_from_the_peer_is_told_with_408() {
    let settings = Settings { timeouts: "response_timeout: 300ms".into(), ..Settings::default() };
    let mut flow = Flow::start(&settings).await;
    let listener = Listener::bind("127.0.0.1", None).await.unwrap();
    let uri = listener.uri("127.0.0.1");
    let peer = async {
        let mut peer = listener.accept(&uri).await;
        let message = peer.rx.next().await;
        (peer, message)
    };
    let (status, (_peer, message)) = tokio::join!(flow.fails(&uri), peer);
    assert_eq!((status, message.text()), (408, "lost"));
    // `partial` asks for errors that come, not for silence.
    let partial = Send::text(&flow.to(&uri), "p", "1").with("Failure-Report: partial");
    flow.alice.tx.send(&partial).await;
    let second = Send::text(&flow.to(&uri), "y", "2");
    assert_eq!(flow.alice.send(&second).await.status(), 200);
    assert_eq!(flow.alice.receive_report().await.header("Message-ID"), "y");
    flow.daemon.assert_well();
}
