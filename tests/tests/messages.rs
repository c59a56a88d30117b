//! Chats and files between clients of one relay.

use msrp_proto::flag::Flag;
use tests::{Client, Content, Daemon, Scheme, Send, Session, Settings, Site};

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

const MIB: u64 = 1024 * 1024;

/// How much the daemon's memory may grow while a file goes through it.
const MEMORY: u64 = 64 * MIB;

async fn client(daemon: &Daemon, site: &Site, scheme: Scheme, user: &str) -> (Client, Session) {
    let mut client = Client::connect(daemon, site, scheme).await;
    let session = client.auth(user, &format!("{user}pw")).await;
    (client, session)
}

/// Two clients exchange messages, a success REPORT and a failure.
async fn chat(of_alice: Scheme, of_bob: Scheme) {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &Settings::default()).await;
    let (mut alice, from_alice) = client(&daemon, &site, of_alice, "alice").await;
    let (mut bob, from_bob) = client(&daemon, &site, of_bob, "bob").await;

    let to_bob = from_alice.to(&from_bob);
    let wanted = Send::text(&to_bob, "m1", "Hello, Bob!").with("Success-Report: yes").with("X-Unknown:  kept ");
    let taken = alice.send(&wanted).await;
    assert_eq!(taken.status(), 200);
    assert_eq!(taken.to_path(), [alice.uri()]);
    assert_eq!(taken.from_path(), from_alice.use_path);

    let message = bob.receive().await;
    assert_eq!(message.text(), "Hello, Bob!");
    assert_eq!(message.flag, Flag::Complete);
    assert_eq!(message.to_path(), [bob.uri()]);
    assert_eq!(message.from_path(), [&from_bob.use_path[0], &from_alice.use_path[0], alice.uri()]);
    assert_eq!(message.header("Message-ID"), "m1");
    assert_eq!(message.header("Byte-Range"), "1-11/11");
    assert!(message.headers("X-Unknown")[0].contains("kept"), "{message:?}");

    bob.tx.report(&message, 200).await;
    let report = alice.receive_report().await;
    assert_eq!((report.reported(), report.header("Message-ID")), (200, "m1".into()));
    assert_eq!(report.header("Byte-Range"), "1-11/11");
    assert_eq!(report.from_path(), [&from_alice.use_path[0], &from_bob.use_path[0], bob.uri()]);

    let back = bob.send(&Send::text(&from_bob.to(&from_alice), "m2", "Hello, Alice!")).await;
    assert_eq!(back.status(), 200);
    assert_eq!(alice.receive().await.text(), "Hello, Alice!");

    assert_eq!(alice.send(&Send::text(&to_bob, "m3", "unwanted")).await.status(), 200);
    let unwanted = bob.rx.next().await;
    bob.tx.respond(&unwanted, 415).await;
    let report = alice.receive_report().await;
    assert_eq!((report.reported(), report.header("Message-ID")), (415, "m3".into()));
    assert_eq!(report.header("Byte-Range"), "1-8/8");
    daemon.assert_well();
}

#[tokio::test]
async fn two_clients_chat_over_tls() {
    chat(Scheme::Msrps, Scheme::Msrps).await;
}

#[tokio::test]
async fn two_clients_chat_over_plain_tcp() {
    chat(Scheme::Msrp, Scheme::Msrp).await;
}

#[tokio::test]
async fn a_client_on_tls_chats_with_one_on_plain_tcp() {
    chat(Scheme::Msrps, Scheme::Msrp).await;
}

/// A file arrives whole, and the relay holds little of it.
async fn file(scheme: Scheme, chunk: Option<u64>) {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &Settings::default()).await;
    let (mut alice, from_alice) = client(&daemon, &site, scheme, "alice").await;
    let (mut bob, from_bob) = client(&daemon, &site, scheme, "bob").await;
    let content = Content::new(50 * MIB);
    let before = daemon.resources();

    let message = Send { to: from_alice.to(&from_bob), message: "file".into(), ..Send::default() };
    let chunks = chunk.map_or(1, |chunk| content.len().div_ceil(chunk));
    let answers = async {
        for _ in 0..chunks {
            assert_eq!(alice.rx.next().await.status(), 200);
        }
    };
    let (_, others, ()) = tokio::join!(
        alice.tx.file(&message, &content, chunk),
        bob.rx.file(&content, Some(&mut bob.tx)),
        answers
    );
    assert_eq!(others.len(), 0);
    let grown = daemon.resources().peak_memory.saturating_sub(before.memory);
    assert!(grown < MEMORY, "the daemon grew by {grown} bytes");
    daemon.assert_well();
}

#[tokio::test]
async fn a_file_in_one_chunk_arrives_whole() {
    file(Scheme::Msrps, None).await;
}

#[tokio::test]
async fn a_file_in_small_chunks_arrives_whole() {
    file(Scheme::Msrp, Some(2048)).await;
}
