//! A relay that runs out of descriptors (RFC 4976 §6.5): somebody new gets in, and who has something under way stays.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;
use std::time::Duration;

use msrp_proto::flag::Flag;
use tests::{Admin, Client, Content, Daemon, Listener, Scheme, Send, Session, Settings, Site, within};
use tokio::net::TcpStream;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// What the relay may have open.
const LIMIT: usize = 96;

/// More connections than that.
const MANY: usize = LIMIT + 16;

async fn start(site: &Site, timeouts: &str) -> Daemon {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {LIMIT} && exec \"$0\" \"$@\""), RELAY]);
    let settings = Settings {
        admin: Some("listen: 'http://127.0.0.1:0'".into()),
        wss: Some("127.0.0.1:0".into()),
        timeouts: timeouts.into(),
        ..Settings::default()
    };
    Daemon::start_as(command, site, "relay.yaml", &settings).await
}

/// How many of those it has that the limit counts. One that it was started with may be beyond that.
fn used(daemon: &Daemon) -> usize {
    let names = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    let numbers = names.flatten().filter_map(|name| name.file_name().to_str()?.parse::<usize>().ok());
    numbers.filter(|number| *number < LIMIT).count()
}

/// Waits until it has none left.
async fn full(daemon: &Daemon) {
    daemon.log().wait_for(&["cannot accept connections", "Too many open files"]).await;
}

/// Connections that say nothing.
async fn silent(daemon: &Daemon, scheme: Scheme, count: usize) -> Vec<TcpStream> {
    let mut silent = Vec::new();
    for _ in 0..count {
        silent.push(TcpStream::connect(daemon.address(scheme)).await.unwrap());
    }
    silent
}

/// A message of which the first half has come: silent since, and not over.
struct UnderWay {
    alice: Client,
    bob: Client,
    content: Content,
    transaction: String,
}

impl UnderWay {
    async fn begin(daemon: &Daemon, site: &Site) -> Self {
        let (mut alice, from_alice) = Client::with_session(daemon, site, Scheme::Msrps, "alice").await;
        let (mut bob, from_bob) = Client::with_session(daemon, site, Scheme::Msrp, "bob").await;
        let content = Content::new(40_000);
        let message =
            Send { range: "1-40000/40000".into(), ..Send::text(&from_alice.to(&from_bob), "m", "") };
        let transaction = alice.tx.begin(&message).await;
        alice.tx.raw(content.piece(0, 20_000)).await;
        bob.rx.head().await;
        Self { alice, bob, content, transaction }
    }

    async fn finish(mut self) {
        self.alice.tx.raw(self.content.piece(20_000, 20_000)).await;
        self.alice.tx.end(&self.transaction, Flag::Complete).await;
        let (body, flag) = self.bob.rx.rest_of_chunk().await;
        assert_eq!((body.len(), flag), (40_000, Flag::Complete));
        self.content.check(0, &body);
        assert_eq!(self.alice.rx.response(&self.transaction).await.status(), 200);
    }
}

#[tokio::test]
async fn those_who_say_nothing_leave_first_and_a_message_under_way_stays() {
    for scheme in [Scheme::Msrp, Scheme::Msrps, Scheme::Wss] {
        let site = Site::new();
        let mut daemon = start(&site, "reclaim_after: 1s").await;
        let admin = Admin::of(&daemon).await.remove(0);
        let (mut carol, from_carol) = Client::with_session(&daemon, &site, Scheme::Msrps, "carol").await;
        let under_way = UnderWay::begin(&daemon, &site).await;
        let silent = silent(&daemon, scheme, MANY).await;
        full(&daemon).await;
        // Behind all of them in the queue.
        let (mut dave, from_dave) = Client::with_session(&daemon, &site, Scheme::Msrps, "dave").await;
        daemon.log().wait_for(&["WARN", "no descriptors are left", "asked="]).await;
        if scheme == Scheme::Msrp {
            daemon.log().wait_for(&["INFO", "connection closed", "to make room", "peer=\"127.0.0.1"]).await;
        }
        assert_eq!(dave.send(&Send::text(&from_dave.to(&from_carol), "m", "hello")).await.status(), 200);
        assert_eq!(
            carol.receive().await.text(),
            "hello",
            "silent for as long as the others, but no stranger"
        );
        under_way.finish().await;
        drop(silent);
        let reclaimed = within("the metrics", admin.metric("msrp_relay_connections_reclaimed_total")).await;
        assert!(reclaimed > 0.0 && reclaimed < MANY as f64, "{reclaimed}");
        daemon.assert_well();
    }
}

#[tokio::test]
async fn of_those_with_a_session_the_longest_silent_leave_first() {
    let site = Site::new();
    let mut daemon = start(&site, "reclaim_after: 1s").await;
    let under_way = UnderWay::begin(&daemon, &site).await;
    let mut clients: Vec<(Client, Session)> = Vec::new();
    let mut first = Client::with_session(&daemon, &site, Scheme::Msrp, "carol").await;
    while used(&daemon) < LIMIT {
        clients.push(Client::with_session(&daemon, &site, Scheme::Msrp, "carol").await);
    }
    // It was the first to come, and is the last to have been used.
    let keep = first.0.send(&Send::text(&first.1.to(&clients[0].1), "m", "still here")).await;
    assert_eq!(keep.status(), 200);
    clients[0].0.receive().await;

    let (mut dave, from_dave) = Client::with_session(&daemon, &site, Scheme::Msrp, "dave").await;
    // The second of them is the one that was used before all others.
    assert!(clients[1].0.rx.end().await.is_ok(), "an orderly end");
    daemon.log().wait_for(&["INFO", "connection closed", "to make room", &clients[1].0.address()]).await;
    assert_eq!(dave.send(&Send::text(&from_dave.to(&clients[1].1), "m", "x")).await.status(), 481);
    assert_eq!(dave.send(&Send::text(&from_dave.to(&first.1), "m", "hello")).await.status(), 200);
    assert_eq!(first.0.receive().await.text(), "hello");
    under_way.finish().await;
    daemon.assert_well();
}

/// `0s`: who has a connection keeps it.
#[tokio::test]
async fn where_none_is_to_leave_new_connections_wait_until_others_end() {
    let site = Site::new();
    let mut daemon = start(&site, "reclaim_after: 0s, probation: 1h").await;
    let mut silent = silent(&daemon, Scheme::Msrp, MANY).await;
    full(&daemon).await;
    let mut joining = Box::pin(Client::with_session(&daemon, &site, Scheme::Msrp, "dave"));
    // Longer than strangers have elsewhere.
    let early = tokio::time::timeout(Duration::from_secs(6), &mut joining).await;
    assert!(early.is_err(), "there is no room");
    assert_eq!(daemon.log().with(&["to make room"]), [""; 0]);
    silent.drain(..MANY - 10);
    let (mut dave, _) = joining.await;
    dave.auth("dave", "davepw").await;
    daemon.log().wait_for(&["INFO", "accepting connections again"]).await;
    daemon.assert_well();
}

/// What the relay opens itself needs one too.
#[tokio::test]
async fn a_connection_to_a_next_hop_makes_room_too() {
    let site = Site::new();
    let mut daemon = start(&site, "reclaim_after: 1s").await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let mut silent = Vec::new();
    while used(&daemon) < LIMIT {
        let before = used(&daemon);
        silent.push(TcpStream::connect(daemon.address(Scheme::Msrp)).await.unwrap());
        let accepted = async {
            while used(&daemon) == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        within("the connection to be accepted", accepted).await;
    }
    // Silent for as long as they must be.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut peers = Vec::new();
    for round in 0..8 {
        // Half of the time others wait for what is free, too, and come first.
        if round % 2 == 1 {
            for _ in 0..4 {
                silent.push(TcpStream::connect(daemon.address(Scheme::Msrp)).await.unwrap());
            }
        }
        // Two at once.
        let mut hops = Vec::new();
        for _ in 0..2 {
            let listener = Listener::bind("127.0.0.1", None).await.unwrap();
            let uri = listener.uri("127.0.0.1");
            let message = Send::text(&from_alice.to(&Session::without_relay(&uri)), "m", "hello");
            hops.push((alice.tx.send(&message).await, listener, uri));
        }
        for (transaction, listener, uri) in hops {
            assert_eq!(alice.rx.response(&transaction).await.status(), 200);
            let mut peer = listener.accept(&uri).await;
            assert_eq!(peer.receive().await.text(), "hello");
            peers.push(peer);
        }
    }
    daemon.log().wait_for(&["WARN", "no descriptors are left"]).await;
    daemon.assert_well();
}
