//! Connections to the upstreams, and from them.

use futures_util::StreamExt as _;
use tests::{Daemon, Scheme, Settings, SipPeer, SipUpstream, Site, request, response, within};

use crate::harness::{Edge, RELAY, connection, register, settings};

const OPTIONS: &str = "sip:edge.test:5060";

#[tokio::test]
async fn a_bad_message_of_an_upstream_ends_alone() {
    let mut edge = Edge::start("").await;
    let (mut client, path) = edge.registered(Scheme::Wss, "r1").await;
    let route = format!("Route: {path}\r\n");
    let good = request("MESSAGE", "sip:a@x.invalid", "m", &route, "hello");
    let long = format!("X: {}\r\n", "x".repeat(1000)).repeat(70);
    for (bad, answer) in [
        (good.replace("\r\n", "\n"), None),
        (good.replace("Content-Length: 5", "l: 5\r\nContent-Length: 5"), Some("400")),
        (good.replace("Content-Length", &format!("{long}Content-Length")), Some("513")),
        (good.replace("Call-ID", "Not-Call-ID"), None),
        (good.replace("Content-Length: 5", "Content-Length: 700000") + &"x".repeat(699_995), Some("413")),
    ] {
        edge.proxy.send(&bad).await;
        if let Some(status) = answer {
            edge.proxy.expect(status).await;
        }
        edge.proxy.send(&good).await;
        let seen = client.expect("MESSAGE").await;
        client.send(&response(&seen, "200 OK", "")).await;
        edge.proxy.expect("200").await;
    }
    edge.daemon.log().wait_for(&["SIP message refused or dropped", "CR or LF alone"]).await;
    // Where nobody can know what comes next, it is opened anew, and the log says why.
    edge.proxy.send(&good.replace("Content-Length: 5\r\n", "")).await;
    edge.proxy.expect("400").await;
    assert_eq!(edge.proxy.next().await, None);
    edge.daemon.log().wait_for(&["SIP connection closed", "no Content-Length"]).await;
    edge.proxy = connection(&edge.upstream).await;
    edge.proxy.send(&good).await;
    client.expect("MESSAGE").await;
    edge.daemon.assert_well();
}

#[tokio::test]
async fn over_websocket_what_is_no_sip_ends_alone_too() {
    let mut edge = Edge::start_with(Scheme::Ws, |upstream| settings(&[upstream], "")).await;
    edge.proxy.send("GET / HTTP/1.1\r\n\r\n").await;
    edge.proxy.send(&request("OPTIONS", OPTIONS, "o", "", "")).await;
    edge.proxy.expect("200").await;
    edge.daemon.assert_well();
}

#[tokio::test]
async fn an_upstream_that_comes_back_is_asked_at_once() {
    let site = Site::new();
    let upstream = SipUpstream::bind_at(Scheme::Sip, &site, "127.0.0.9:0").await;
    let (uri, settings) = (upstream.uri(), settings(&[&upstream], "probe_interval: 1h"));
    let daemon = Daemon::start(RELAY, &site, &settings).await;
    drop((connection(&upstream).await, upstream));
    daemon.log().wait_for(&["SIP upstream is down"]).await;
    // Its next probe by the interval would come in an hour.
    let upstream = SipUpstream::bind_at(Scheme::Sip, &site, &uri[6..]).await;
    let mut proxy = upstream.accept().await;
    let probe = proxy.expect("OPTIONS").await;
    let mut client = SipPeer::connect(&daemon, &site, Scheme::Sip).await;
    client.send(&request("REGISTER", "sip:example.com", "r0", "", "")).await;
    client.expect("503").await;
    proxy.send(&response(&probe, "200 OK", "")).await;
    daemon.log().wait_for(&["SIP upstream is up"]).await;
    register(&mut client, &mut proxy, "r1").await;
}

/// Along `path` to the client and back, over the connection `proxy`.
async fn reaches(proxy: &mut SipPeer, client: &mut SipPeer, path: &str, branch: &str) {
    let route = format!("Route: {path}\r\n");
    proxy.send(&request("MESSAGE", "sip:alice@x7.invalid", branch, &route, "")).await;
    let seen = client.expect("MESSAGE").await;
    client.send(&response(&seen, "200 OK", "")).await;
    proxy.expect("200").await;
}

/// What comes over this connection is a client's: a token in it leads to an upstream.
async fn is_a_client(peer: &mut SipPeer, proxy: &mut SipPeer, path: &str, branch: &str) {
    let route = format!("Route: {path}\r\n");
    peer.send(&request("MESSAGE", "sip:alice@x7.invalid", branch, &route, "")).await;
    let seen = proxy.expect("MESSAGE").await;
    assert_eq!(seen.field("Call-ID"), format!("{branch}@client.invalid"));
}

#[tokio::test]
async fn an_upstream_may_open_connections_of_its_own_from_its_address() {
    let site = Site::new();
    let upstream = SipUpstream::bind_at(Scheme::Sip, &site, "127.0.0.8:0").await;
    let daemon = Daemon::start(RELAY, &site, &settings(&[&upstream], "")).await;
    let mut proxy = connection(&upstream).await;
    let mut client = SipPeer::connect(&daemon, &site, Scheme::Wss).await;
    let path = register(&mut client, &mut proxy, "r1").await;
    let (plain, tls) = (daemon.address(Scheme::Sip), daemon.address(Scheme::Sips));
    let mut own = SipPeer::connect_from("127.0.0.8", plain).await;
    reaches(&mut own, &mut client, &path, "m1").await;
    daemon.log().wait_for(&["SIP upstream connected to us", "peer=127.0.0.8:"]).await;
    reaches(&mut SipPeer::connect_tls_from("127.0.0.8", tls, &site, None).await, &mut client, &path, "m2")
        .await;
    // A response of the edge's own connection may come over it, and it opens nothing but flows.
    client.send(&request("MESSAGE", "sip:bob@example.com", "m3", "", "")).await;
    let seen = proxy.expect("MESSAGE").await;
    own.send(&response(&seen, "200 OK", "")).await;
    client.expect("200").await;
    own.send(&request("MESSAGE", "sip:bob@example.com", "m4", "", "")).await;
    own.expect("404").await;
    // Its end is not that of the edge's.
    drop(own);
    register(&mut client, &mut proxy, "r2").await;
    let mut stranger = SipPeer::connect_from("127.0.0.7", plain).await;
    is_a_client(&mut stranger, &mut proxy, &path, "m5").await;
    assert_eq!(daemon.log().with(&["SIP upstream connected to us"]).len(), 2);
}

#[tokio::test]
async fn an_upstream_of_tls_shows_by_its_certificate_who_it_is() {
    let mut edge = Edge::start_with(Scheme::Sips, |upstream| settings(&[upstream], "")).await;
    let (mut client, path) = edge.registered(Scheme::Ws, "r1").await;
    let (plain, tls) = (edge.daemon.address(Scheme::Sip), edge.daemon.address(Scheme::Sips));
    let site = &edge.site;
    // `relay` is made for the upstream's host.
    let identity = site.identity("relay");
    let mut own = SipPeer::connect_tls_from("127.0.0.1", tls, site, Some(&identity)).await;
    reaches(&mut own, &mut client, &path, "m1").await;
    let other = site.identity("client");
    let strangers = [
        SipPeer::connect_tls_from("127.0.0.1", tls, site, Some(&other)).await,
        SipPeer::connect_tls_from("127.0.0.1", tls, site, None).await,
        SipPeer::connect_from("127.0.0.7", plain).await,
    ];
    for (index, mut stranger) in strangers.into_iter().enumerate() {
        is_a_client(&mut stranger, &mut edge.proxy, &path, &format!("s{index}")).await;
    }
}

#[tokio::test]
async fn the_operator_says_where_an_upstream_connects_from() {
    let site = Site::new();
    let upstream = SipUpstream::bind(Scheme::Sips, &site).await;
    let mut settings = settings(&[], "");
    let entry = format!("uri: '{}', advertise: 'edge.test:5060', connects_from: 127.0.0.7", upstream.uri());
    settings.sip = Some(format!("sip_upstream: [ {{ {entry} }} ], probe_interval: 1h"));
    let daemon = Daemon::start(RELAY, &site, &settings).await;
    let mut proxy = connection(&upstream).await;
    let mut client = SipPeer::connect(&daemon, &site, Scheme::Sip).await;
    let path = register(&mut client, &mut proxy, "r1").await;
    let plain = daemon.address(Scheme::Sip);
    let tls = daemon.address(Scheme::Sips);
    let mut own = SipPeer::connect_tls_from("127.0.0.7", tls, &site, None).await;
    reaches(&mut own, &mut client, &path, "m1").await;
    let mut stranger = SipPeer::connect_tls_from("127.0.0.6", tls, &site, None).await;
    is_a_client(&mut stranger, &mut proxy, &path, "m2").await;
    // It is reached by TLS, and so it has to come.
    let mut plain = SipPeer::connect_from("127.0.0.7", plain).await;
    is_a_client(&mut plain, &mut proxy, &path, "m3").await;
}

#[tokio::test]
async fn a_websocket_to_an_upstream_is_asked_by_ping_as_configured() {
    for scheme in [Scheme::Ws, Scheme::Wss] {
        let edge = Edge::start_with(scheme, |upstream| Settings {
            websocket: "ping_interval: 200ms, pong_timeout: 300ms".into(),
            ..settings(&[upstream], "")
        })
        .await;
        // It is not read any more, so nothing answers.
        edge.daemon.log().wait_for(&["SIP connection closed", "idle for too long"]).await;
        let mut next = edge.upstream.accept().await;
        let ping = async {
            while let Some(Ok(frame)) = next.websocket().next().await {
                if frame.is_ping() {
                    return;
                }
            }
            panic!("the end instead of a ping");
        };
        within("a ping", ping).await;
    }
}

#[tokio::test]
async fn sips_needs_tls_on_both_sides() {
    for scheme in [Scheme::Sip, Scheme::Sips, Scheme::Ws, Scheme::Wss] {
        let mut edge = Edge::start_with(scheme, |upstream| settings(&[upstream], "")).await;
        for client in [Scheme::Sip, Scheme::Sips, Scheme::Ws, Scheme::Wss] {
            let mut peer = edge.client(client).await;
            peer.send(&request("INVITE", "sips:bob@example.com", "i", "", "")).await;
            if scheme.is_secure() && client.is_secure() {
                let seen = edge.proxy.expect("INVITE").await;
                assert!(seen.field("Record-Route").starts_with("<sips:"), "{}", seen.0);
            } else {
                let answer = peer.expect("480").await;
                assert!(answer.field("Warning").starts_with("380 "), "{}", answer.0);
            }
        }
    }
    // TLS that a proxy in front has ended is as good.
    let mut edge = Edge::start_with(Scheme::Sips, |upstream| Settings {
        ws: Some("127.0.0.1:0, behind_tls: true".into()),
        ..settings(&[upstream], "")
    })
    .await;
    let mut page = edge.client(Scheme::Ws).await;
    page.send(&request("INVITE", "sips:bob@example.com", "i", "", "")).await;
    edge.proxy.expect("INVITE").await;
}
