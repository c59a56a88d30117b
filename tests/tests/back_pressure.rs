//! Receivers that do not read: the relay's memory stays bounded, their senders wait, others do not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use msrp_proto::flag::Flag;
use tests::{Client, Content, DEADLINE, Daemon, Neighbours, Scheme, Send, Sender, Settings, Site, within};
use tokio::task::JoinHandle;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

const MIB: u64 = 1024 * 1024;

/// How much the daemon's memory may grow.
const MEMORY: u64 = 64 * MIB;

/// How much is sent to somebody who does not read.
const FILE: u64 = 200 * MIB;

/// How many chats must pass while the sender's count stands still.
const CHATS: usize = 100;

/// Has the neighbours chat until nothing more was taken from a sender during [`CHATS`] of their chats.
async fn chat_until_still(neighbours: &mut Neighbours, sent: &AtomicU64) -> u64 {
    let still = async {
        let mut last = (sent.load(Ordering::Relaxed), 0);
        while last.1 < CHATS {
            neighbours.chat().await;
            let now = sent.load(Ordering::Relaxed);
            last = if now == last.0 && now > 0 { (now, last.1 + 1) } else { (now, 0) };
        }
        last.0
    };
    match tokio::time::timeout(4 * DEADLINE, still).await {
        Ok(sent) => sent,
        Err(_) => panic!("the sender is never paused: {sent:?} bytes so far"),
    }
}

/// Writes the body of a chunk in the background, and counts what the relay has taken.
fn write(mut tx: Sender, content: Content, sent: &Arc<AtomicU64>) -> JoinHandle<Sender> {
    let sent = Arc::clone(sent);
    tokio::spawn(async move {
        let mut place = 0;
        while place < content.len() {
            let Ok(len) = tx.write_some(content.piece(place, 64 * 1024)).await else { break };
            place += len as u64;
            sent.store(place, Ordering::Relaxed);
        }
        tx
    })
}

fn file(to: Vec<String>) -> Send {
    Send { to, message: "file".into(), range: format!("1-*/{FILE}"), ..Send::default() }
}

#[tokio::test]
async fn a_stalled_receiver_pauses_its_sender_and_nobody_else_and_gets_all_when_it_reads_on() {
    stalled_receiver(Scheme::Msrp).await;
}

#[tokio::test]
async fn a_stalled_browser_pauses_its_sender_and_nobody_else_and_gets_all_when_it_reads_on() {
    stalled_receiver(Scheme::Ws).await;
}

async fn stalled_receiver(of_bob: Scheme) {
    let site = Site::new();
    let settings = Settings { ws: Some("127.0.0.1:0".into()), ..Settings::default() };
    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
    let mut neighbours = Neighbours::join(&daemon, &site).await;
    let (alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrp, "alice").await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, of_bob, "bob").await;
    let Client { mut tx, mut rx, .. } = alice;
    let before = daemon.resources();

    let content = Content::new(FILE);
    let transaction = tx.begin(&file(from_alice.to(&from_bob))).await;
    let sent = Arc::new(AtomicU64::new(0));
    let writer = write(tx, content.clone(), &sent);
    let taken = chat_until_still(&mut neighbours, &sent).await;
    assert!(taken < FILE, "all was taken from the sender although nobody reads");
    let grown = daemon.resources().peak_memory.saturating_sub(before.memory);
    assert!(grown < MEMORY, "the daemon grew by {grown} bytes");

    let finish = async {
        let mut tx = writer.await.unwrap();
        tx.end(&transaction, Flag::Complete).await;
        assert_eq!(rx.response(&transaction).await.status(), 200);
    };
    let (others, ()) = tokio::join!(bob.rx.file(&content, Some(&mut bob.tx)), finish);
    assert_eq!(others.len(), 0);
    neighbours.chat().await;
    let grown = daemon.resources().peak_memory.saturating_sub(before.memory);
    assert!(grown < MEMORY, "the daemon grew by {grown} bytes");
    daemon.assert_well();
}

#[tokio::test]
async fn a_receiver_that_takes_nothing_is_closed_and_its_sender_told() {
    let site = Site::new();
    let settings = Settings { timeouts: "send_timeout: 1s".into(), ..Settings::default() };
    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
    let mut neighbours = Neighbours::join(&daemon, &site).await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let (bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrps, "bob").await;
    let before = daemon.resources();
    let transaction = alice.tx.begin(&file(from_alice.to(&from_bob))).await;
    let Client { tx, mut rx, .. } = alice;
    let sent = Arc::new(AtomicU64::new(0));
    let writer = write(tx, Content::new(FILE), &sent);

    assert_eq!(rx.response(&transaction).await.status(), 408);
    daemon.log().wait_for(&["connection closed", &bob.address(), "took no data"]).await;
    // What is left of the chunk is thrown away, and the sender's connection goes on.
    let mut tx = within("the rest of the file to be taken", writer).await.unwrap();
    tx.end(&transaction, Flag::Complete).await;
    let transaction = tx.send(&Send::text(&from_alice.to(&from_bob), "m2", "gone")).await;
    assert_eq!(rx.response(&transaction).await.status(), 481);
    neighbours.chat().await;
    let grown = daemon.resources().peak_memory.saturating_sub(before.memory);
    assert!(grown < MEMORY, "the daemon grew by {grown} bytes");
    daemon.assert_well();
}

#[tokio::test]
async fn one_stalled_session_does_not_hold_up_another_of_the_same_sender_for_long() {
    let site = Site::new();
    let settings = Settings { timeouts: "stall_timeout: 300ms".into(), ..Settings::default() };
    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
    let (mut alice, to_stalled) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let to_carol = alice.auth("alice", "alicepw").await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrps, "bob").await;
    let (mut carol, from_carol) = Client::with_session(&daemon, &site, Scheme::Msrps, "carol").await;

    let transaction = alice.tx.begin(&file(to_stalled.to(&from_bob))).await;
    let Client { tx, mut rx, .. } = alice;
    let sent = Arc::new(AtomicU64::new(0));
    let writer = write(tx, Content::new(FILE), &sent);
    assert_eq!(rx.response(&transaction).await.status(), 408);
    let mut tx = within("the rest of the file to be taken", writer).await.unwrap();
    tx.end(&transaction, Flag::Complete).await;
    let chat = tx.send(&Send::text(&to_carol.to(&from_carol), "m", "still here")).await;
    assert_eq!(rx.response(&chat).await.status(), 200);
    assert_eq!(carol.receive().await.text(), "still here");
    // When the stalled one reads on it learns that the rest will not come.
    bob.rx.head().await;
    assert_eq!(bob.rx.rest_of_chunk().await.1, Flag::Abort);
    daemon.assert_well();
}

/// Responses pile up for one who sends and does not read: it is not read from any more.
#[tokio::test]
async fn a_sender_that_reads_no_responses_is_paused() {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &Settings::default()).await;
    let mut neighbours = Neighbours::join(&daemon, &site).await;
    let (alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrp, "alice").await;
    let before = daemon.resources();
    let Client { mut tx, mut rx, .. } = alice;
    // Each is refused with a response: the next hop is no session.
    let mut nowhere = from_alice.use_path.clone();
    nowhere.push("msrp://peer.invalid:2855/p;ws".into());
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let refused = Send::text(&nowhere, "m", "x");
    let mut batch = Vec::new();
    for _ in 0..100 {
        let transaction = tx.transaction();
        batch.extend_from_slice(tx.head_text(&refused, &transaction).as_bytes());
        batch.extend_from_slice(format!("x\r\n-------{transaction}$\r\n").as_bytes());
    }
    let writer = tokio::spawn(async move {
        let mut place = 0;
        while let Ok(len) = tx.write_some(&batch[place..]).await {
            place = (place + len) % batch.len();
            counter.fetch_add(len as u64, Ordering::Relaxed);
        }
    });
    let taken = chat_until_still(&mut neighbours, &sent).await;
    let grown = daemon.resources().peak_memory.saturating_sub(before.memory);
    assert!(grown < MEMORY, "the daemon grew by {grown} bytes");

    let read_on = async {
        while sent.load(Ordering::Relaxed) == taken {
            assert_eq!(rx.next().await.status(), 481);
        }
    };
    within("the sender to go on", read_on).await;
    writer.abort();
    neighbours.chat().await;
    daemon.assert_well();
}

/// What waits for a receiver counts with its heads: tiny messages are no way around the limit.
#[tokio::test]
async fn tiny_messages_to_a_stalled_receiver_are_bounded_too() {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &Settings::default()).await;
    let mut neighbours = Neighbours::join(&daemon, &site).await;
    let (alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrp, "alice").await;
    let (_bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrp, "bob").await;
    let before = daemon.resources();
    let Client { mut tx, mut rx, .. } = alice;
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let tiny = Send::text(&from_alice.to(&from_bob), "m", "x");
    let writer = tokio::spawn(async move {
        loop {
            let transaction = tx.transaction();
            let text = format!("{}x\r\n-------{transaction}$\r\n", tx.head_text(&tiny, &transaction));
            let mut left = text.as_bytes();
            while !left.is_empty() {
                let Ok(len) = tx.write_some(left).await else { return };
                counter.fetch_add(len as u64, Ordering::Relaxed);
                left = &left[len..];
            }
        }
    });
    let reader = tokio::spawn(async move { while rx.next().await.status() == 200 {} });
    chat_until_still(&mut neighbours, &sent).await;
    let grown = daemon.resources().peak_memory.saturating_sub(before.memory);
    assert!(grown < MEMORY, "the daemon grew by {grown} bytes");
    writer.abort();
    reader.abort();
    daemon.assert_well();
}
