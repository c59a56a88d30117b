//! The example programs through the real relay.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::Duration;

use clap::Parser as _;
use examples::options::{ChatOptions, ReceiveFileOptions, SendFileOptions};
use examples::path::MsrpPath;
use examples::{chat, receive_file, send_file};
use tests::{Daemon, Scheme, Settings, Site};
use tokio::sync::{mpsc, oneshot};

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// Longer than anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The options by which `user` finds the daemon: by its address, under the name in its certificate.
fn dial(daemon: &Daemon, site: &Site, scheme: Scheme, user: &str) -> Vec<String> {
    let port = daemon.address(scheme).port();
    let relay = format!("{}://localhost:{port}", scheme.as_str());
    let ca = site.path("ca.pem").display().to_string();
    let connect = format!("127.0.0.1:{port}");
    let password = format!("{user}pw");
    ["--relay", &relay, "--connect", &connect, "--user", user, "--password", &password, "--ca", &ca]
        .map(str::to_owned)
        .to_vec()
}

fn settings() -> Settings {
    Settings { domain: "localhost".into(), ..Settings::default() }
}

async fn a_file_goes(of_sender: Scheme, of_receiver: Scheme, len: usize, chunk_size: Option<&str>) {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &settings()).await;
    let folder = site.path("received");
    std::fs::create_dir(&folder).unwrap();
    let content: Vec<u8> = (0..len).map(|place| (place % 251) as u8 ^ (place >> 10) as u8).collect();
    let file = site.path("holiday.jpg");
    std::fs::write(&file, &content).unwrap();

    let mut options = vec!["receive-file".to_owned(), folder.display().to_string()];
    options.extend(dial(&daemon, &site, of_receiver, "bob"));
    let receiving = ReceiveFileOptions::try_parse_from(options).unwrap();
    let (told, path) = oneshot::channel();
    let mut told = Some(told);
    let receiver = tokio::spawn(async move {
        let show = move |path: &MsrpPath| {
            if let Some(told) = told.take() {
                told.send(path.to_string()).unwrap();
            }
        };
        receive_file::run(&receiving, show).await
    });
    let to = path.await.unwrap();

    let mut options = vec!["send-file".to_owned(), file.display().to_string(), "--to".to_owned(), to];
    options.extend(dial(&daemon, &site, of_sender, "alice"));
    options.extend(chunk_size.into_iter().flat_map(|size| ["--chunk-size".to_owned(), size.to_owned()]));
    let sending = SendFileOptions::try_parse_from(options).unwrap();
    let sent = tokio::time::timeout(PATIENCE, send_file::run(&sending)).await.unwrap().unwrap();
    let stored = tokio::time::timeout(PATIENCE, receiver).await.unwrap().unwrap().unwrap();

    assert_eq!(stored.size, len as u64);
    assert_eq!(stored.hash, sent.hash);
    assert!(stored.verified);
    assert_eq!(stored.path.file_name(), Path::new("holiday.jpg").file_name());
    assert!(std::fs::read(&stored.path).unwrap() == content);
    daemon.assert_well();
}

#[tokio::test]
async fn a_file_goes_over_tls_in_a_single_chunk() {
    a_file_goes(Scheme::Msrps, Scheme::Msrps, 10 << 20, None).await;
}

#[tokio::test]
async fn a_file_goes_from_plain_tcp_to_tls_in_small_chunks() {
    a_file_goes(Scheme::Msrp, Scheme::Msrps, 1_000_001, Some("2KiB")).await;
}

#[tokio::test]
async fn an_empty_file_goes() {
    a_file_goes(Scheme::Msrps, Scheme::Msrp, 0, None).await;
}

#[tokio::test]
async fn two_chat_through_the_relay() {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &settings()).await;
    let start = |user: &str, peer: Option<String>| {
        let mut options = vec!["chat".to_owned()];
        options.extend(dial(&daemon, &site, Scheme::Msrps, user));
        options.extend(peer.into_iter().flat_map(|peer| ["--peer".to_owned(), peer]));
        let options = ChatOptions::try_parse_from(options).unwrap();
        let (lines, typed) = mpsc::channel(10);
        let (shown, screen) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            chat::run(&options, typed, move |what| {
                let _ = shown.send(what);
            })
            .await
        });
        (lines, screen, task)
    };
    async fn until<T>(
        screen: &mut mpsc::UnboundedReceiver<chat::Shown>,
        pick: impl Fn(chat::Shown) -> Option<T>,
    ) -> T {
        let picked = async {
            loop {
                let shown = screen.recv().await.expect("the chat goes on");
                if let Some(picked) = pick(shown) {
                    return picked;
                }
            }
        };
        tokio::time::timeout(PATIENCE, picked).await.expect("it is shown")
    }
    let path = |shown| match shown {
        chat::Shown::Path(path) => Some(path.to_string()),
        _ => None,
    };
    let received = |shown| match shown {
        chat::Shown::Received(text) => Some(text),
        _ => None,
    };
    let delivered = |shown| match shown {
        chat::Shown::Delivered(text) => Some(text),
        _ => None,
    };

    let (from_bob, mut bob, bob_ends) = start("bob", None);
    let to_bob = until(&mut bob, path).await;
    let (from_alice, mut alice, alice_ends) = start("alice", Some(to_bob));
    from_alice.send("Hello, Bob!".into()).await.unwrap();
    assert_eq!(until(&mut bob, received).await, "Hello, Bob!");
    assert_eq!(until(&mut alice, delivered).await, "Hello, Bob!");
    from_bob.send("Hello, Alice!".into()).await.unwrap();
    assert_eq!(until(&mut alice, received).await, "Hello, Alice!");
    assert_eq!(until(&mut bob, delivered).await, "Hello, Alice!");
    drop(from_alice);
    tokio::time::timeout(PATIENCE, alice_ends).await.unwrap().unwrap().unwrap();
    drop(from_bob);
    tokio::time::timeout(PATIENCE, bob_ends).await.unwrap().unwrap().unwrap();
    daemon.assert_well();
}
