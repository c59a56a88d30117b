//! `msrp-relay demo --browser`: a page, a relay for it, and an end in order.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tests::{Client, Send, Stream, WebSocket, within};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Error;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// A running demo.
struct Demo {
    process: Child,
    /// The page's origin.
    origin: String,
    /// The relay's address.
    websocket: String,
    /// Names and passwords.
    users: Vec<(String, String)>,
    _stdout: BufReader<tokio::process::ChildStdout>,
}

impl Demo {
    async fn start() -> Self {
        let mut process = Command::new(RELAY)
            .args(["demo", "--browser"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let (mut origin, mut websocket, mut users) = (String::new(), String::new(), Vec::new());
        loop {
            let mut line = String::new();
            assert_ne!(within("a line", stdout.read_line(&mut line)).await.unwrap(), 0, "the demo has ended");
            if line.contains("Ctrl-C") {
                break;
            }
            let Some((page, rest)) = line.trim().split_once("/#relay=") else { continue };
            let (relay, rest) = rest.split_once("&user=").unwrap();
            let (user, password) = rest.split_once("  password: ").unwrap();
            (origin, websocket) = (page.to_owned(), relay.to_owned());
            users.push((user.to_owned(), password.to_owned()));
        }
        Self { process, origin, websocket, users, _stdout: stdout }
    }

    async fn connect(&self, url: &str) -> TcpStream {
        let (_, address) = url.split_once("://localhost:").unwrap();
        let port: u16 = address.split('/').next().unwrap().parse().unwrap();
        within("a connection", TcpStream::connect(("127.0.0.1", port))).await.unwrap()
    }

    async fn fetch(&self, path: &str) -> String {
        let mut socket = self.connect(&self.origin).await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within("the page", socket.read_to_string(&mut answer)).await.unwrap();
        answer
    }

    async fn open(&self, origin: &str) -> Result<WebSocket, Box<Error>> {
        let stream = Stream::Plain(self.connect(&self.websocket).await);
        let headers = [("Sec-WebSocket-Protocol", "msrp"), ("Origin", origin)];
        let opened = within("a handshake", WebSocket::open(stream, &self.websocket, &headers)).await;
        opened.map(|(websocket, _)| websocket)
    }
}

#[tokio::test]
async fn the_page_is_there_and_its_users_talk() {
    let mut demo = Demo::start().await;
    let page = demo.fetch("/").await;
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("<title>MSRP chat</title>"), "{page}");
    assert!(demo.fetch("/msrp.js").await.contains("\r\nContent-Type: text/javascript"));
    assert!(demo.fetch("/nothing").await.starts_with("HTTP/1.1 404 "));

    // No other page of this browser may use the relay.
    let Error::Http(refused) = *demo.open("http://evil.test").await.err().unwrap() else {
        panic!("an answer")
    };
    assert_eq!(refused.status().as_u16(), 403);

    let relay = demo.websocket.replace("ws://", "msrp://").replace("/msrp", ";ws");
    let mut parties = Vec::new();
    for (user, password) in &demo.users {
        let stream = Stream::WebSocket(Box::new(demo.open(&demo.origin).await.unwrap()));
        let mut client = Client::over(stream, &format!("msrp://{user}.invalid:2855/s;ws"), &relay);
        let session = client.auth(user, password).await;
        parties.push((client, session));
    }
    let [(alice, from_alice), (bob, from_bob)] = &mut parties[..] else { panic!("two users") };
    alice.tx.send(&Send::text(&from_alice.to(from_bob), "hello", "Hello Bob")).await;
    assert_eq!(bob.rx.head().await.message_id().unwrap(), Some("hello"));
    assert_eq!(bob.rx.rest_of_chunk().await.0, b"Hello Bob".to_vec());

    let pid = Pid::from_raw(i32::try_from(demo.process.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(within("its end", demo.process.wait()).await.unwrap().code(), Some(0));
}
