//! Connections that carry SIP: how messages may come over them, and who may open one.

use futures_util::SinkExt as _;
use msrp_proto::digest::{Answer, Authorization, Challenge, Secret};
use rustix::process::Signal;
use tests::{Scheme, Settings, SipPeer, Stream, request, response, within};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::harness::{Edge, KINDS, register, settings};

const OPTIONS: &str = "sip:edge.test:5060";

#[tokio::test]
async fn a_large_message_passes_however_its_packets_are_cut() {
    // A busy machine takes its time.
    let mut edge = Edge::start("message_size: 256KiB, max_msg_time: 1m").await;
    let body = "x".repeat(200_000);
    for scheme in KINDS {
        let mut client = edge.client(scheme).await;
        let message = request("MESSAGE", "sip:bob@example.com", "m", "", &body);
        client.send(&message).await;
        let seen = edge.proxy.expect("MESSAGE").await;
        assert_eq!(seen.body().len(), body.len());
        edge.proxy.send(&response(&seen, "200 OK", "")).await;
        client.expect("200").await;
    }
    // Each packet by itself, as small as they come.
    let mut client = edge.client(Scheme::Sip).await;
    let message = request("MESSAGE", "sip:bob@example.com", "m", "", &body[..20_000]);
    for packet in message.as_bytes().chunks(536) {
        client.send(std::str::from_utf8(packet).unwrap()).await;
        client.read_by_other().await;
    }
    edge.proxy.expect("MESSAGE").await;
    edge.daemon.assert_well();
}

#[tokio::test]
async fn pings_between_fragments_do_not_prolong_a_message() {
    let edge = Edge::start("max_msg_time: 500ms").await;
    let mut client = edge.client(Scheme::Ws).await;
    let socket = client.websocket();
    let text = OpCode::Data(Data::Text);
    let part = Message::Frame(Frame::message("OPTIONS sip:edge", text, false));
    within("a fragment", socket.send(part)).await.unwrap();
    let closed = async {
        // As long as it is open; the pause keeps the log and the machine quiet.
        while socket.send(Message::Ping("".into())).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within("the end", closed).await;
    edge.daemon.log().wait_for(&["SIP connection closed", "max_msg_time"]).await;
}

/// A stream to the listener for WebSocket, and where it leads to.
async fn to_websocket(edge: &Edge) -> (Stream, String) {
    let socket = within("a connection", TcpStream::connect(edge.daemon.address(Scheme::Ws))).await.unwrap();
    (Stream::Plain(socket), edge.daemon.websocket_url(Scheme::Ws))
}

async fn websocket(websocket: &str) -> Edge {
    let websocket = websocket.to_owned();
    Edge::start_with(Scheme::Sip, |upstream| Settings { websocket, ..settings(&[upstream], "") }).await
}

#[tokio::test]
async fn who_may_open_a_websocket_is_the_same_for_sip() {
    let edge = websocket("allow_origins: 'https://chat.test', require_origin: true").await;
    let (stream, url) = to_websocket(&edge).await;
    assert_eq!(SipPeer::open_websocket(stream, &url, &[]).await.err().unwrap().status, 403);
    let (stream, _) = to_websocket(&edge).await;
    let other = [("Origin", "https://other.test")];
    assert_eq!(SipPeer::open_websocket(stream, &url, &other).await.err().unwrap().status, 403);
    let (stream, _) = to_websocket(&edge).await;
    let unknown = SipPeer::open_websocket(stream, &format!("{url}x"), &[]).await;
    assert_eq!(unknown.err().unwrap().status, 404);
    let (stream, _) = to_websocket(&edge).await;
    let page = SipPeer::open_websocket(stream, &url, &[("Origin", "https://chat.test")]).await;
    let mut page = page.ok().unwrap();
    page.send(&request("OPTIONS", OPTIONS, "o", "", "")).await;
    page.expect("200").await;
}

#[tokio::test]
async fn digest_in_the_handshake_is_asked_for_sip_too() {
    let mut edge = websocket("auth: { digest: true }").await;
    let (stream, url) = to_websocket(&edge).await;
    let refused = SipPeer::open_websocket(stream, &url, &[]).await.err().unwrap();
    assert_eq!(refused.status, 401);
    let challenge = Challenge::strongest(refused.challenges.iter().map(|value| &**value)).unwrap();
    let credentials = |password| {
        let secret = Secret::Password(password);
        let (method, digest_uri) = ("GET", "/msrp");
        let (cnonce, username) = ("page", "alice");
        let answer = Answer { username, secret, method, digest_uri, cnonce, nc: 1, send_uri: true };
        Authorization::answer(&challenge, &answer).unwrap().to_string()
    };
    let (stream, _) = to_websocket(&edge).await;
    let wrong = [("Authorization", &*credentials("bobpw"))];
    assert_eq!(SipPeer::open_websocket(stream, &url, &wrong).await.err().unwrap().status, 401);
    let (stream, _) = to_websocket(&edge).await;
    let right = [("Authorization", &*credentials("alicepw"))];
    let mut page = SipPeer::open_websocket(stream, &url, &right).await.ok().unwrap();
    // Who may register as whom stays with the registrar: this is bob's, or anybody's.
    register(&mut page, &mut edge.proxy, "r1").await;
}

#[tokio::test]
async fn a_token_in_the_handshake_is_none_of_sips_business() {
    let token = "auth: { token: { secret: '0123456789abcdef0123456789abcdef', query: t } }";
    let mut edge = websocket(token).await;
    for (index, query) in ["", "?t=forged"].into_iter().enumerate() {
        let (stream, url) = to_websocket(&edge).await;
        let page = SipPeer::open_websocket(stream, &format!("{url}{query}"), &[]).await;
        register(&mut page.ok().unwrap(), &mut edge.proxy, &format!("r{index}")).await;
    }
}

#[tokio::test]
async fn sighup_gives_new_sip_connections_new_certificates_and_old_ones_go_on() {
    let mut edge = Edge::start_with(Scheme::Sips, |upstream| settings(&[upstream], "")).await;
    let mut old = Vec::new();
    for scheme in [Scheme::Sips, Scheme::Wss] {
        old.push(edge.registered(scheme, &format!("r{scheme:?}")).await);
    }
    // Clients no longer trust the old certificate's host name: the new one is for another.
    edge.site.issue("relay", &["new.test"]);
    edge.daemon.signal(Signal::HUP);
    edge.daemon.log().wait_for(&["TLS reloaded", "changed main"]).await;
    for scheme in [Scheme::Sips, Scheme::Wss] {
        let socket = TcpStream::connect(edge.daemon.address(scheme)).await.unwrap();
        let config = tests::tls_config(&edge.site, None);
        let stream = within("TLS", tests::tls_handshake(config, socket, "new.test")).await.unwrap();
        let mut client = match scheme {
            Scheme::Wss => {
                let url = edge.daemon.websocket_url(scheme);
                SipPeer::open_websocket(stream, &url, &[]).await.ok().unwrap()
            }
            _ => SipPeer::over_stream(stream),
        };
        register(&mut client, &mut edge.proxy, &format!("n{scheme:?}")).await;
    }
    for (client, path) in &mut old {
        let route = format!("Route: {path}\r\n");
        edge.proxy.send(&request("MESSAGE", "sip:a@x.invalid", "m", &route, "")).await;
        client.expect("MESSAGE").await;
    }
    edge.daemon.assert_well();
}
