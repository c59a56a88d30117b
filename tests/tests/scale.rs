//! Many connections, and what is left of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use tests::{
    Client, DEADLINE, Daemon, Listener, Resources, Scheme, Send, Session, Settings, Site, tls_config, within,
};
use tokio::task::JoinSet;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

const CLIENTS: usize = 500;
const MIB: u64 = 1024 * 1024;

/// Waits until the daemon has no more descriptors than this.
async fn descriptors_fall_to(daemon: &Daemon, wanted: usize) -> Resources {
    let fall = async {
        loop {
            let now = daemon.resources();
            if now.descriptors <= wanted {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(DEADLINE, fall).await {
        Ok(now) => now,
        Err(_) => panic!("descriptors {} where {wanted} are expected", daemon.resources().descriptors),
    }
}

#[tokio::test]
async fn five_hundred_clients_chat_and_leave_nothing_behind() {
    let site = Site::new();
    let daemon = Arc::new(Daemon::start(RELAY, &site, &Settings::default()).await);
    let (mut witness, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let before = daemon.resources();

    let config = tls_config(&site, None);
    let mut joining = JoinSet::new();
    for number in 0..CLIENTS {
        let (daemon, config) = (Arc::clone(&daemon), Arc::clone(&config));
        let scheme = if number % 2 == 0 { Scheme::Msrps } else { Scheme::Msrp };
        joining.spawn(async move {
            let mut client = Client::connect_with(&daemon, config, scheme).await;
            let session = client.auth("bob", "bobpw").await;
            (client, session)
        });
    }
    let mut clients = joining.join_all().await;
    assert!(daemon.resources().descriptors >= before.descriptors + CLIENTS);

    // Each with a neighbour, all at once.
    let mut chatting = JoinSet::new();
    while let (Some((mut a, from_a)), Some((mut b, from_b))) = (clients.pop(), clients.pop()) {
        chatting.spawn(async move {
            for round in 0..20 {
                let there = Send::text(&from_a.to(&from_b), "there", &format!("there {round}"));
                let back = Send::text(&from_b.to(&from_a), "back", &format!("back {round}"));
                assert_eq!(a.send(&there).await.status(), 200);
                assert_eq!(b.receive().await.text(), format!("there {round}"));
                assert_eq!(b.send(&back).await.status(), 200);
                assert_eq!(a.receive().await.text(), format!("back {round}"));
            }
            (a, b)
        });
    }
    let pairs = chatting.join_all().await;
    assert_eq!(pairs.len(), CLIENTS / 2);
    let busy = daemon.resources();
    for (number, (a, b)) in pairs.into_iter().enumerate() {
        if number % 2 == 0 {
            tokio::join!(a.close(), b.close());
        } else {
            a.reset();
            drop(b);
        }
    }

    let after = descriptors_fall_to(&daemon, before.descriptors).await;
    assert_eq!(after.descriptors, before.descriptors);
    let per_client = busy.peak_memory.saturating_sub(before.memory) / CLIENTS as u64;
    assert!(per_client < 256 * 1024, "{per_client} bytes for each client");
    let left = after.memory.saturating_sub(before.memory);
    assert!(left < 48 * MIB, "{left} bytes are left of {CLIENTS} clients");
    witness.auth("alice", "alicepw").await;
    for word in ["panicked", "internal error"] {
        assert_eq!(daemon.log().with(&[word]), [""; 0]);
    }
}

/// A second wave finds what the first one left: memory does not grow with every wave.
#[tokio::test]
async fn waves_of_clients_do_not_add_up() {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &Settings::default()).await;
    let idle = daemon.resources().descriptors;
    let mut memory = Vec::new();
    for _ in 0..6 {
        let mut wave = Vec::new();
        for _ in 0..100 {
            wave.push(Client::with_session(&daemon, &site, Scheme::Msrp, "alice").await);
        }
        drop(wave);
        memory.push(descriptors_fall_to(&daemon, idle).await.memory);
    }
    let grown = memory[5].saturating_sub(memory[1]);
    assert!(grown < 4 * MIB, "{memory:?}");
    daemon.assert_well();
}

/// Peers that connected to a session and left: the session lives on without their sockets.
#[tokio::test]
async fn peers_that_left_hold_no_descriptors() {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &Settings::default()).await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let before = daemon.resources().descriptors;
    for _ in 0..20 {
        let mut peer = Client::connect(&daemon, &site, Scheme::Msrp).await;
        let message = Send::text(&from_alice.inward(), "m", "hello");
        assert_eq!(peer.send(&message).await.status(), 200);
        alice.receive().await;
        let address = peer.address();
        peer.close().await;
        // Until then the session is in use by this one, and the next is refused.
        daemon.log().wait_for(&["connection closed", &address]).await;
    }
    descriptors_fall_to(&daemon, before).await;
    daemon.assert_well();
}

/// Peers that were connected to and left, likewise.
#[tokio::test]
async fn peers_that_were_connected_to_and_left_hold_no_descriptors() {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &Settings::default()).await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let before = daemon.resources().descriptors;
    for _ in 0..20 {
        let listener = Listener::bind("127.0.0.1", None).await.unwrap();
        let uri = listener.uri("127.0.0.1");
        let message = Send::text(&from_alice.to(&Session::without_relay(&uri)), "m", "hello");
        assert_eq!(alice.send(&message).await.status(), 200);
        let mut peer = listener.accept(&uri).await;
        peer.receive().await;
        peer.close().await;
    }
    descriptors_fall_to(&daemon, before).await;
    daemon.assert_well();
}

#[tokio::test]
async fn connections_above_the_limit_are_closed_with_a_line() {
    let site = Site::new();
    let settings = Settings { limits: "max_connections: 3".into(), ..Settings::default() };
    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await);
    }
    let mut fourth = Client::connect(&daemon, &site, Scheme::Msrp).await;
    assert_eq!(fourth.rx.rest().await.len(), 0);
    daemon.log().wait_for_lines(&[&fourth.address()], 1).await;
    daemon.log().wait_for(&["connection closed", &fourth.address(), "max_connections"]).await;
    // One leaves, one may come.
    let (leaving, _) = clients.pop().unwrap();
    let address = leaving.address();
    leaving.close().await;
    daemon.log().wait_for(&["connection closed", &address]).await;
    let room = async {
        loop {
            let mut next = Client::connect(&daemon, &site, Scheme::Msrp).await;
            let to = [next.relay_uri().to_owned()];
            next.tx.request("AUTH", &to, "").await;
            if let Ok(Some(refused)) = next.rx.try_next().await {
                break refused.status();
            }
        }
    };
    assert_eq!(within("room for one more", room).await, 401);
    daemon.assert_well();
}
