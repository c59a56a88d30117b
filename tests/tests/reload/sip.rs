//! The SIP edge.

use futures_util::StreamExt as _;
use tests::{SipPeer, SipUpstream, request, response};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use super::*;

fn settings(upstreams: &[&SipUpstream], more: &str) -> Settings {
    let list: Vec<_> = upstreams
        .iter()
        .map(|upstream| format!("{{ uri: '{}', advertise: 'edge.test:5060' }}", upstream.uri()))
        .collect();
    let sip = format!("probe_interval: 1h, sip_upstream: [ {} ]{more}", list.join(", "));
    Settings { sip_tcp: Some("127.0.0.1:0".into()), sip: Some(sip), ..Settings::default() }
}

/// The edge's next connection, taken in.
async fn connection(upstream: &SipUpstream) -> SipPeer {
    let mut proxy = upstream.accept().await.answering_probes();
    proxy.probed().await;
    proxy.send(&request("OPTIONS", "sip:edge.test:5060", "ready", "", "")).await;
    proxy.expect("200").await;
    proxy
}

#[tokio::test]
async fn the_sip_edge_takes_other_listeners() {
    let site = Site::new();
    let upstream = SipUpstream::bind(Scheme::Sip, &site).await;
    let start = settings(&[&upstream], "");
    let running = Running::start(&start).await;
    let port = free_port();
    let old = running.daemon.address(Scheme::Sip);
    let served = async |peer: &mut SipPeer, port: u16, branch: &str| {
        peer.send(&request("OPTIONS", &format!("sip:relay.test:{port}"), branch, "", "")).await;
        peer.expect("200").await;
    };
    let mut there = SipPeer::connect(&running.daemon, &running.site, Scheme::Sip).await;
    // It is accepted, and does not wait for that with the listener that goes.
    served(&mut there, old.port(), "first").await;
    running.reload(&Settings { sip_tcp: Some(format!("127.0.0.1:{port}")), ..start.clone() }).await;
    until_closed(old).await;
    let mut new = SipPeer::connect_from("127.0.0.1", ([127, 0, 0, 1], port).into()).await;
    served(&mut new, port, "new").await;
    // With another one to take, the one that is gone is still known to its client.
    let next = free_port();
    running.reload(&Settings { sip_tcp: Some(format!("127.0.0.1:{next}")), ..start.clone() }).await;
    let mut newest = SipPeer::connect_from("127.0.0.1", ([127, 0, 0, 1], next).into()).await;
    served(&mut newest, next, "newest").await;
    served(&mut there, old.port(), "again").await;
    running.goes_on().await;
}

/// The end of the edge's handshake on a connection that it has opened: the path it asks for.
async fn opened(socket: TcpStream) -> (String, WebSocketStream<TcpStream>) {
    let mut path = String::new();
    #[expect(clippy::result_large_err, reason = "as the library has it")]
    let answer = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        request.uri().path().clone_into(&mut path);
        let protocol = request.headers()["Sec-WebSocket-Protocol"].clone();
        response.headers_mut().append("Sec-WebSocket-Protocol", protocol);
        Ok(response)
    };
    let socket = within("a WebSocket", tokio_tungstenite::accept_hdr_async(socket, answer)).await.unwrap();
    (path, socket)
}

/// Waits until the edge has closed it.
async fn ends(mut socket: WebSocketStream<TcpStream>) {
    within("its end", async { while socket.next().await.is_some_and(|frame| frame.is_ok()) {} }).await;
}

#[tokio::test]
async fn an_upstream_that_has_another_path_now_is_connected_to_there() {
    let upstream = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = upstream.local_addr().unwrap();
    let accepted = async || within("the edge's connection", upstream.accept()).await.unwrap().0;
    let at = |path: &str| Settings {
        sip_tcp: Some("127.0.0.1:0".into()),
        sip: Some(format!(
            "probe_interval: 1h, sip_upstream: [ {{ uri: 'ws://{address}/{path}', advertise: 'edge.test:5060' }} ]"
        )),
        ..Settings::default()
    };
    let running = Running::start(&at("first")).await;
    // While its handshake is under way, there is no connection to close yet.
    let held = accepted().await;
    running.reload(&at("second")).await;
    let (path, first) = opened(held).await;
    assert_eq!(path, "/first");
    ends(first).await;
    let (path, second) = opened(accepted().await).await;
    assert_eq!(path, "/second");
    running.daemon.log().wait_for_lines(&["SIP upstream connected", "/second"], 1).await;
    // And one that is there.
    running.reload(&at("third")).await;
    ends(second).await;
    let (path, _third) = opened(accepted().await).await;
    assert_eq!(path, "/third");
    running.goes_on().await;
}

#[tokio::test]
async fn upstreams_come_and_go_and_tokens_of_the_secret_before_still_count() {
    let site = Site::new();
    let first = SipUpstream::bind(Scheme::Sip, &site).await;
    let second = SipUpstream::bind_at(Scheme::Sip, &site, "127.0.0.8:0").await;
    let secret = |letter: &str| format!(", flow_secret: {}", letter.repeat(32));
    let admin = Some("listen: 'http://127.0.0.1:0'".to_owned());
    let with = |upstreams: &[&SipUpstream], more: &str| Settings {
        admin: admin.clone(),
        ..settings(upstreams, more)
    };
    let running = Running::start(&with(&[&first], &secret("a"))).await;
    let admin = Admin::of(&running.daemon).await.remove(0);
    let mut proxy = connection(&first).await;
    let mut client = SipPeer::connect(&running.daemon, &running.site, Scheme::Sip).await;
    client.send(&request("REGISTER", "sip:example.com", "r", "", "")).await;
    let register = proxy.expect("REGISTER").await;
    let path = register.field("Path").to_owned();

    let lines = running.reload(&with(&[&second], &secret("b"))).await;
    assert!(!lines.iter().any(|line| line.contains("starts again")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("bbbb")), "{lines:?}");
    let mut other = connection(&second).await;
    // What has gone to the first one is answered by it, and its connection stays for that.
    proxy.send(&response(&register, "200 OK", "")).await;
    client.expect("200").await;
    let up =
        |upstream: &SipUpstream| format!("msrp_relay_sip_upstream_up{{upstream=\"{}\"}}", upstream.uri());
    assert_eq!(admin.metric(&up(&second)).await, 1.0);
    assert!(!admin.get("/metrics").await.body.contains(&up(&first)));
    for number in 0..20 {
        client.send(&request("MESSAGE", "sip:bob@example.com", &format!("m{number}"), "", "")).await;
        let message = other.expect("MESSAGE").await;
        other.send(&response(&message, "202 Accepted", "")).await;
        client.expect("202").await;
    }
    // Wanted again before its connection has ended, it takes requests over that one.
    running.reload(&with(&[&second, &first], &secret("b"))).await;
    let named = format!("Route: <{};lr>\r\n", first.uri().replace("//", ""));
    client.send(&request("MESSAGE", "sip:bob@example.com", "back", &named, "")).await;
    proxy.expect("MESSAGE").await;
    running.reload(&with(&[&second], &secret("b"))).await;
    // The client is still found by the token that it was given with the secret before.
    let route = format!("Route: {path}\r\n");
    other.send(&request("MESSAGE", "sip:alice@x.invalid", "n", &route, "")).await;
    client.expect("MESSAGE").await;
    // One that the upstream has ended is not opened again.
    drop(proxy);
    running.daemon.log().wait_for(&["nothing used it: forgotten", &first.uri()]).await;
    // A second reload brings it back, under another number, and both are served.
    running.reload(&with(&[&first, &second], &secret("b"))).await;
    let mut proxy = connection(&first).await;
    let named = format!("Route: <{};lr>\r\n", first.uri().replace("//", ""));
    client.send(&request("MESSAGE", "sip:bob@example.com", "last", &named, "")).await;
    proxy.expect("MESSAGE").await;
    other.send(&request("OPTIONS", "sip:edge.test:5060", "there", "", "")).await;
    other.expect("200").await;
    running.goes_on().await;
}

#[tokio::test]
async fn what_the_sip_section_says_of_messages_counts_for_the_next_one() {
    let site = Site::new();
    let upstream = SipUpstream::bind(Scheme::Sip, &site).await;
    let running = Running::start(&settings(&[&upstream], "")).await;
    let proxy = connection(&upstream).await;
    let mut client = SipPeer::connect(&running.daemon, &running.site, Scheme::Sip).await;
    client.send("\r\n\r\n").await;
    assert_eq!(client.keep_alive().await, "pong");
    let more = ", crlf_pingpong: false, probe_failures: 1, probe_timeout: 20ms";
    let quick = settings(&[&upstream], more);
    let quick = Settings { sip: quick.sip.map(|sip| sip.replace("1h", "50ms")), ..quick };
    running.reload(&quick).await;
    client.send("\r\n\r\n").await;
    client.send(&request("OPTIONS", "sip:edge.test:5060", "o", "", "")).await;
    // Nothing but that.
    client.expect("200").await;
    // A probe is not answered any more: one that fails is enough, and the connection is opened anew.
    running.daemon.log().wait_for(&["SIP upstream is down"]).await;
    drop(proxy);
    running.goes_on().await;
}
