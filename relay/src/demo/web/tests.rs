#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;

use super::*;

fn status(request: &str) -> &'static str {
    answer(request.as_bytes()).expect("an answer").status
}

#[test]
fn every_file_of_the_page_is_served_and_nothing_else() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/browser-chat");
    let of_the_page = |name: &str| !name.ends_with(".md") && name != "package.json";
    let there: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| of_the_page(name))
        .collect();
    let served: BTreeSet<String> = FILES.iter().map(|(path, ..)| path[1..].to_owned()).collect();
    assert_eq!(served, there);
}

#[test]
fn requests_are_answered() {
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "200 OK"),
        ("GET /?x HTTP/1.1\r\n\r\n", "200 OK"),
        ("GET /app.js HTTP/1.0\r\n\r\n", "200 OK"),
        ("HEAD /style.css HTTP/1.1\r\n\r\n", "200 OK"),
        ("GET /favicon.ico HTTP/1.1\r\n\r\n", "404 Not Found"),
        ("GET /../Cargo.toml HTTP/1.1\r\n\r\n", "404 Not Found"),
        ("GET //app.js HTTP/1.1\r\n\r\n", "404 Not Found"),
        ("GET /%61pp.js HTTP/1.1\r\n\r\n", "404 Not Found"),
        ("GET * HTTP/1.1\r\n\r\n", "404 Not Found"),
        ("POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", "405 Method Not Allowed"),
        ("get / HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
        ("GET / HTTP/2.0\r\n\r\n", "400 Bad Request"),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", "400 Bad Request"),
        ("\u{16}\u{3}\u{1}", "400 Bad Request"),
    ] {
        assert_eq!(status(request), expected, "{request:?}");
    }
}

#[test]
fn a_head_may_come_in_pieces() {
    let request = b"GET /icon.svg HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for len in 0..request.len() {
        assert_eq!(answer(&request[..len]), None, "{len} bytes");
    }
    assert_eq!(answer(request).unwrap().media_type, "image/svg+xml");
}

#[test]
fn a_head_has_a_limit() {
    let request = |len: usize| {
        let frame = "GET / HTTP/1.1\r\nX: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(len - frame))
    };
    for len in [MAX_HEAD - 1, MAX_HEAD] {
        assert_eq!(status(&request(len)), "200 OK", "{len} bytes");
    }
    // No more than that is ever read.
    assert!(status(&request(MAX_HEAD + 1)[..MAX_HEAD]).starts_with("431 "));
    let fields = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(count));
    for count in [MAX_FIELDS - 1, MAX_FIELDS] {
        assert_eq!(status(&fields(count)), "200 OK", "{count} fields");
    }
    assert!(status(&fields(MAX_FIELDS + 1)).starts_with("431 "));
}

/// All that comes back for a request.
async fn exchanged(request: &str) -> String {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let served = tokio::spawn(exchange(server));
    client.write_all(request.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    served.await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn head_gets_the_length_and_no_body() {
    let page = exchanged("GET / HTTP/1.1\r\n\r\n").await;
    let (head, body) = page.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("\r\nContent-Type: text/html; charset=utf-8\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
    assert!(body.starts_with("<!doctype html>"), "{body}");
    let (only_head, nothing) = exchanged("HEAD / HTTP/1.1\r\n\r\n")
        .await
        .split_once("\r\n\r\n")
        .map(|(head, rest)| (head.to_owned(), rest.len()))
        .unwrap();
    assert_eq!((&*only_head, nothing), (head, 0));
    assert_eq!(exchanged("GET / HTTP/1.1\r\nHost").await, "", "nothing for half a request");
}

#[tokio::test(start_paused = true)]
async fn whoever_sends_no_request_is_closed_and_makes_room() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener));
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    let mut last = tokio::net::TcpStream::connect(address).await.unwrap();
    last.write_all(b"GET /icon.svg HTTP/1.1\r\n\r\n").await.unwrap();
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }
    let mut answer = Vec::new();
    last.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    server.abort();
}
