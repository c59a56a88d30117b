//! Connections that are held open by saying next to nothing.

use std::time::Duration;

use tests::{CLIENT_HELLO, Client, Daemon, Scheme, Send, Settings, Site, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use super::{MIB, Scene};

/// At the same time.
const ATTACKERS: usize = 200;

/// Says `bytes`, one every 50 ms, and begins again with the last of them, until the relay has closed.
async fn drip(daemon: std::net::SocketAddr, bytes: Vec<u8>) {
    let mut socket = tokio::net::TcpStream::connect(daemon).await.unwrap();
    let mut byte = [0];
    for next in 0.. {
        let piece = bytes.get(next).or(bytes.last()).copied().unwrap();
        if socket.write_all(&[piece]).await.is_err() {
            return;
        }
        let read = tokio::time::timeout(Duration::from_millis(50), socket.read(&mut byte)).await;
        if matches!(read, Ok(Ok(0) | Err(_))) {
            return;
        }
    }
}

/// Lines that the log has of one kind within a minute: failed handshakes of a listener, connections that break off.
const LINES: usize = 100;

/// All attackers are closed, and as many as there are lines for have one in the log with the words of `why`.
async fn slowly(what: &str, settings: Settings, scheme: Scheme, bytes: impl AsRef<[u8]>, why: &[&str]) {
    let mut scene = Scene::new(&settings).await;
    let address = scene.daemon.address(scheme);
    let bytes = bytes.as_ref().to_vec();
    let attack = async move |_: &Site, _: &Daemon| {
        let mut attackers = JoinSet::new();
        for _ in 0..ATTACKERS {
            attackers.spawn(drip(address, bytes.clone()));
        }
        within("all of them to be closed", attackers.join_all()).await;
    };
    scene.under(&format!("{ATTACKERS} connections, {what} a byte at a time"), 24 * MIB, attack).await;
    let words: Vec<&str> = ["connection closed"].iter().chain(why).copied().collect();
    scene.daemon.log().wait_for_lines(&words, LINES).await;
}

#[tokio::test]
async fn a_tls_handshake() {
    let settings = Settings { tls_section: "tls_handshake_timeout: 1s".into(), ..Settings::default() };
    let why = ["TLS handshake failed", "not complete after 1s"];
    slowly("a TLS handshake", settings, Scheme::Msrps, CLIENT_HELLO, &why).await;
}

#[tokio::test]
async fn a_websocket_handshake() {
    let settings = Settings {
        ws: Some("127.0.0.1:0".into()),
        websocket: "handshake_timeout: 1s".into(),
        ..Settings::default()
    };
    let why = ["WebSocket handshake failed", "no WebSocket within 1s"];
    let head = "GET /msrp HTTP/1.1\r\nX: a";
    slowly("a WebSocket handshake", settings, Scheme::Ws, head, &why).await;
}

#[tokio::test]
async fn a_head() {
    let settings = Settings { timeouts: "head_timeout: 1s".into(), ..Settings::default() };
    let head = "MSRP a123 SEND\r\nTo-Path: msrp";
    slowly("a head", settings, Scheme::Msrp, head, &["too slow", "`head_timeout`"]).await;
}

#[tokio::test]
async fn nothing_at_all() {
    let settings = Settings { timeouts: "probation: 1s".into(), ..Settings::default() };
    // More of them than it has time for: one byte alone of them would be no line end.
    let line_ends = "\r\n".repeat(1000);
    slowly("line ends", settings, Scheme::Msrp, line_ends, &["no valid request in time"]).await;
}

/// By those who have a session each, and send their messages a byte at a time.
#[tokio::test]
async fn a_body() {
    let timeouts = "progress_timeout: 1s".into();
    let limits = "min_progress: 100B".into();
    let mut scene = Scene::new(&Settings { timeouts, limits, ..Settings::default() }).await;
    let mut attackers = JoinSet::new();
    let (mut receiver, to) = Client::with_session(&scene.daemon, &scene.site, Scheme::Msrp, "bob").await;
    for _ in 0..50 {
        let (mut client, own) = Client::with_session(&scene.daemon, &scene.site, Scheme::Msrp, "alice").await;
        let message = Send { range: "1-100000/100000".into(), ..Send::text(&own.to(&to), "m", "") };
        client.tx.begin(&message).await;
        attackers.spawn(async move {
            while client.tx.try_raw(b"x").await.is_ok() {
                let answer = tokio::time::timeout(Duration::from_millis(50), client.rx.try_next()).await;
                if matches!(answer, Ok(Ok(None) | Err(_))) {
                    return;
                }
            }
        });
    }
    let ended = async |_: &Site, _: &Daemon| {
        tokio::select! {
            _ = within("all of them to be closed", attackers.join_all()) => {}
            _ = async { while let Ok(Some(_)) = receiver.rx.event().await {} } => panic!("the receiver was closed"),
        }
    };
    scene.under("50 sessions, a body a byte at a time", 24 * MIB, ended).await;
    scene.daemon.log().wait_for_lines(&["connection closed", "too slow", "min_progress"], 50).await;
}
