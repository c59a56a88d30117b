//! WebSocket frames that no browser sends, and more of others than any does.

use std::time::Duration;

use tests::{Daemon, Scheme, Settings, Site, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{MIB, Scene};

fn settings() -> Settings {
    Settings {
        ws: Some("127.0.0.1:0".into()),
        websocket: "max_frame_size: 64KiB, max_message_size: 64KiB".into(),
        timeouts: "progress_timeout: 1s, head_timeout: 1s".into(),
        ..Settings::default()
    }
}

/// The head of the answer to an opening handshake with these header lines besides.
async fn open(daemon: &Daemon, lines: &str) -> (TcpStream, String) {
    let mut socket = Scene::socket(daemon, Scheme::Ws).await;
    let request = format!(
        "GET /msrp HTTP/1.1\r\nHost: relay.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: msrp\r\n{lines}\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("the answer's head", socket.read_u8()).await.unwrap());
    }
    (socket, String::from_utf8(head).unwrap().to_ascii_lowercase())
}

/// A masked frame: its first byte, and its payload.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// The code of the relay's Close, which must come; what else it sends is passed over.
async fn close_code(socket: &mut TcpStream) -> u16 {
    within("a Close", async {
        loop {
            let first = socket.read_u8().await.unwrap();
            let mut len = u64::from(socket.read_u8().await.unwrap());
            if len == 126 {
                len = u64::from(socket.read_u16().await.unwrap());
            }
            let mut payload = vec![0; usize::try_from(len).unwrap()];
            socket.read_exact(&mut payload).await.unwrap();
            if first == 0x88 {
                return u16::from_be_bytes([payload[0], payload[1]]);
            }
        }
    })
    .await
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_their_connection() {
    let mut scene = Scene::new(&settings()).await;
    let huge = [&[0x82, 0xff][..], &(1_u64 << 62).to_be_bytes(), &[0; 4]].concat();
    let above = [&[0x82, 0xff][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("not masked", vec![0x82, 0x05, b'M', b'S', b'R', b'P', b' '], 1002),
        ("4 EiB", huge, 1009),
        ("a length above 63 bits", above, 1002),
        ("a ping in fragments", frame(0x09, b"ping"), 1002),
        ("a ping of 126 bytes", frame(0x89, &[b'p'; 126]), 1002),
        ("compressed, which was not agreed", frame(0xc2, b"MSRP "), 1002),
        ("an opcode of nobody", frame(0x83, b"MSRP "), 1002),
        ("a continuation of nothing", frame(0x80, b"MSRP "), 1002),
        ("a message within another", [frame(0x02, b"MSRP "), frame(0x82, b"MSRP ")].concat(), 1002),
        ("a Close of one byte", frame(0x88, &[3]), 1002),
        (
            "a message that is too long",
            [frame(0x02, b"MSRP a123 SEND\r\n"), frame(0x80, &[b'x'; 65_535])].concat(),
            1009,
        ),
    ];
    let attack = async |_: &Site, daemon: &Daemon| {
        for (what, bytes, code) in cases {
            let (mut socket, _) = open(daemon, "").await;
            socket.write_all(&bytes).await.unwrap();
            assert_eq!(close_code(&mut socket).await, code, "{what}");
        }
    };
    scene.under("frames that break the protocol", 16 * MIB, attack).await;
}

#[tokio::test]
async fn compression_is_not_agreed_to() {
    let mut scene = Scene::new(&settings()).await;
    let attack = async |_: &Site, daemon: &Daemon| {
        for offer in ["permessage-deflate", "permessage-deflate; server_max_window_bits=15, permessage-bzip2"]
        {
            let (_, head) = open(daemon, &format!("Sec-WebSocket-Extensions: {offer}\r\n")).await;
            assert!(head.starts_with("http/1.1 101") && !head.contains("extensions"), "{head}");
        }
    };
    scene.under("offers of compression", 16 * MIB, attack).await;
}

/// How many flood at once.
const FLOODS: usize = 20;

/// Many at once, until the relay closes them because their message does not begin.
async fn flood(what: &str, begin: Vec<u8>, piece: Vec<u8>, memory: u64) {
    let mut scene = Scene::new(&settings()).await;
    let attack = async |_: &Site, daemon: &Daemon| {
        let mut attackers = JoinSet::new();
        for _ in 0..FLOODS {
            let (mut socket, _) = open(daemon, "").await;
            socket.write_all(&begin).await.unwrap();
            let piece = piece.clone();
            attackers.spawn(async move {
                let mut rest = vec![0; 64 * 1024];
                loop {
                    // It reads what comes, as else the relay would not read either.
                    let (mut read, mut write) = socket.split();
                    let ended = tokio::select! {
                        written = write.write_all(&piece) => written.is_err(),
                        got = read.read(&mut rest) => matches!(got, Ok(0) | Err(_)),
                    };
                    if ended {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
        within("all of them to be closed", attackers.join_all()).await;
    };
    scene.under(what, memory, attack).await;
    scene.daemon.log().wait_for_lines(&["connection closed", "too slow", "`head_timeout`"], FLOODS).await;
}

/// A message that never ends, of fragments with nothing in them.
#[tokio::test]
async fn empty_fragments_without_end() {
    let (begin, empty) = (frame(0x02, b"MSRP a123 SEND\r\n"), frame(0x00, b""));
    flood("20 connections of empty fragments", begin, empty.repeat(500), 24 * MIB).await;
}

/// Pings within a message that does not go on.
#[tokio::test]
async fn pings_without_end() {
    let begin = frame(0x02, b"MSRP a123 SEND\r\n");
    flood("20 connections of pings", begin, frame(0x89, &[b'p'; 125]).repeat(500), 24 * MIB).await;
}
