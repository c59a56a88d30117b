//! What goes through the edge, and what it keeps back.

use std::time::Duration;

use tests::{
    Client, Daemon, Scheme, Settings, SipMessage, SipPeer, SipUpstream, Site, request, response, within,
};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::harness::{Edge, KINDS, RELAY, connection, register, settings};

fn text(from: &SipMessage) -> (&str, &str) {
    (from.kind(), from.body())
}

#[tokio::test]
async fn a_client_registers_and_messages_go_both_ways() {
    let mut edge = Edge::start("").await;
    for scheme in KINDS {
        let (mut client, path) = edge.registered(scheme, &format!("r{scheme:?}")).await;
        client.send(&request("MESSAGE", "sip:bob@example.com", "m1", "", "hello, bob")).await;
        let seen = edge.proxy.message().await;
        assert_eq!(text(&seen), ("MESSAGE", "hello, bob"));
        edge.proxy.send(&response(&seen, "202 Accepted", "")).await;
        client.expect("202").await;
        // Towards the client along its Path, whatever Contact says.
        let route = format!("Route: {path}\r\n");
        edge.proxy
            .send(&request("MESSAGE", "sip:alice@x7.invalid;transport=ws", "m2", &route, "hällo"))
            .await;
        let seen = client.message().await;
        assert_eq!(text(&seen), ("MESSAGE", "hällo"));
        assert_eq!(seen.fields("Route"), [""; 0]);
        client.send(&response(&seen, "200 OK", "")).await;
        edge.proxy.expect("200").await;
    }
    edge.daemon.assert_well();
}

#[tokio::test]
async fn upstreams_are_reached_over_tcp_tls_and_websocket() {
    for scheme in KINDS {
        let mut edge = Edge::start_with(scheme, |upstream| settings(&[upstream], "")).await;
        let (mut client, path) = edge.registered(Scheme::Wss, "r1").await;
        let long = "x".repeat(40_000);
        edge.proxy
            .send(&request("MESSAGE", "sip:a@b.invalid", "m", &format!("Route: {path}\r\n"), &long))
            .await;
        let seen = client.message().await;
        assert_eq!(text(&seen), ("MESSAGE", &*long));
        client.send(&response(&seen, "200 OK", "")).await;
        edge.proxy.expect("200").await;
        edge.daemon.assert_well();
    }
}

#[tokio::test]
async fn the_rules_of_outbound_are_not_asked_about_upstreams() {
    let mut edge = Edge::start_with(Scheme::Sip, |upstream| Settings {
        outbound: "deny: ['127.0.0.0/8'], no_new_connections: true, bind_address: 127.0.0.7".into(),
        ..settings(&[upstream], "")
    })
    .await;
    assert_eq!(edge.proxy.socket().peer_addr().unwrap().ip().to_string(), "127.0.0.7");
    edge.registered(Scheme::Sip, "r1").await;
}

#[tokio::test]
async fn a_dialog_stays_on_its_way_until_its_end() {
    let mut edge = Edge::start("").await;
    let (mut alice, _) = edge.registered(Scheme::Wss, "ra").await;
    let (mut bob, path) = edge.registered(Scheme::Sips, "rb").await;
    alice
        .send(&request("INVITE", "sip:bob@example.com", "i1", "Contact: <sip:a@x.invalid>\r\n", "v=0\r\n"))
        .await;
    let up = edge.proxy.expect("INVITE").await;
    let routes = up.fields("Record-Route").join(", ");
    assert!(up.fields("Record-Route").len() >= 2, "both sides of the edge: {}", up.0);
    // The proxy sends it on to bob, along his Path.
    edge.proxy
        .send(&request("INVITE", "sip:bob@y.invalid", "i2", &format!("Route: {path}\r\n"), "v=0\r\n"))
        .await;
    let down = bob.expect("INVITE").await;
    for (status, phrase) in [("180", "180 Ringing"), ("200", "200 OK")] {
        bob.send(&response(&down, phrase, "Contact: <sip:bob@y.invalid>\r\n")).await;
        edge.proxy.expect(status).await;
        edge.proxy.send(&response(&up, phrase, "Contact: <sip:bob@y.invalid>\r\n")).await;
        alice.expect(status).await;
    }
    // Within the dialog the route set brings alice's requests up, and the proxy's to alice.
    let route = format!("Route: {routes}\r\n");
    for method in ["ACK", "BYE"] {
        alice.send(&request(method, "sip:bob@y.invalid", method, &route, "")).await;
        let seen = edge.proxy.expect(method).await;
        assert_eq!(seen.fields("Route"), [""; 0], "{}", seen.0);
    }
    edge.proxy.send(&request("BYE", "sip:a@x.invalid", "bye", &route, "")).await;
    alice.expect("BYE").await;
    edge.daemon.assert_well();
}

#[tokio::test]
async fn a_flow_that_is_gone_is_430() {
    let mut edge = Edge::start("").await;
    let (client, path) = edge.registered(Scheme::Ws, "r1").await;
    drop(client);
    let route = format!("Route: {path}\r\n");
    // Until the edge has seen the end, it may still send there.
    for attempt in 0.. {
        let branch = format!("m{attempt}");
        edge.proxy.send(&request("MESSAGE", "sip:a@x.invalid", &branch, &route, "")).await;
        edge.proxy.send(&request("OPTIONS", "sip:edge.test:5060", "after", "", "")).await;
        let answer = edge.proxy.message().await;
        if answer.kind() == "430" {
            break;
        }
        assert_eq!(answer.kind(), "200", "{}", answer.0);
    }
    edge.proxy.expect("200").await;
    edge.daemon
        .log()
        .wait_for(&["SIP message refused", "status=430", "the client's connection is gone"])
        .await;
}

#[tokio::test]
async fn it_is_no_open_proxy() {
    let mut edge = Edge::start("").await;
    let (mut client, path) = edge.registered(Scheme::Sip, "r1").await;
    let token = path.split("sip:").nth(1).unwrap().split('@').next().unwrap();
    let forged: String = token.chars().rev().collect();
    for (route, status) in [
        ("Route: <sip:victim.test;lr>\r\n".to_owned(), "403"),
        (format!("Route: <sip:{forged}@edge.test:5060;lr>\r\n"), "403"),
        (format!("Route: <sip:{token}@victim.test;lr>\r\n"), "403"),
    ] {
        client.send(&request("MESSAGE", "sip:bob@victim.test", "m1", &route, "")).await;
        client.expect(status).await;
    }
    // The Request-URI is the upstream's business.
    client.send(&request("MESSAGE", "sip:bob@victim.test", "m2", "", "")).await;
    edge.proxy.expect("MESSAGE").await;
    // From an upstream, along tokens alone.
    for (route, status) in [
        (String::new(), "404"),
        ("Route: <sip:victim.test;lr>\r\n".to_owned(), "403"),
        (format!("Route: <sip:{forged}@edge.test:5060;lr>\r\n"), "403"),
    ] {
        edge.proxy.send(&request("MESSAGE", "sip:bob@victim.test", "m3", &route, "")).await;
        edge.proxy.expect(status).await;
    }
    // A response that nobody asked for.
    let stray = SipMessage(request("MESSAGE", "sip:a@b", "stray", "", ""));
    client.send(&response(&stray, "200 OK", "")).await;
    edge.daemon.log().wait_for(&["SIP message refused or dropped", "that this edge did not send"]).await;
    edge.daemon.log().wait_for_lines(&["SIP message refused", "status=403"], 2).await;
}

#[tokio::test]
async fn when_an_upstream_dies_another_one_takes_over() {
    let site = Site::new();
    let first = SipUpstream::bind(Scheme::Sip, &site).await;
    let second = SipUpstream::bind(Scheme::Sip, &site).await;
    let daemon = Daemon::start(RELAY, &site, &settings(&[&first, &second], "")).await;
    let (mut one, mut two) = (connection(&first).await, connection(&second).await);
    let mut client = SipPeer::connect(&daemon, &site, Scheme::Sip).await;
    register(&mut client, &mut one, "r1").await;
    // Its socket too: it is connected to again at once.
    let address = first.uri()[6..].to_owned();
    drop((one, first));
    daemon.log().wait_for(&["SIP upstream not connected", &address]).await;
    register(&mut client, &mut two, "r2").await;
    // It comes back, and takes its requests again.
    let first = SipUpstream::bind_at(Scheme::Sip, &site, &address).await;
    let mut one = connection(&first).await;
    register(&mut client, &mut one, "r3").await;
    // None is there: 503.
    let other = second.uri()[6..].to_owned();
    drop((one, first));
    drop((two, second));
    daemon.log().wait_for_lines(&["SIP upstream not connected", &address], 2).await;
    daemon.log().wait_for(&["SIP upstream not connected", &other]).await;
    client.send(&request("REGISTER", "sip:example.com", "r4", "", "")).await;
    let answer = client.expect("503").await;
    assert_eq!(answer.field("Retry-After"), "3600");
    daemon.log().wait_for(&["SIP message refused", "status=503"]).await;
}

#[tokio::test]
async fn an_upstream_that_answers_no_probe_is_down_until_it_does() {
    let probes = "probe_interval: 200ms, probe_timeout: 200ms, probe_failures: 2";
    let mut edge = Edge::start(probes).await;
    // Silent: it is down after two probes, and its connection is opened anew.
    edge.daemon.log().wait_for(&["SIP upstream is down"]).await;
    let mut client = edge.client(Scheme::Sip).await;
    client.send(&request("REGISTER", "sip:example.com", "r1", "", "")).await;
    client.expect("503").await;
    edge.proxy = edge.upstream.accept().await;
    let probe = edge.proxy.expect("OPTIONS").await;
    assert!(probe.field("Via").ends_with(";alias"), "{}", probe.0);
    edge.proxy.send(&response(&probe, "404 Not Found", "")).await;
    edge.daemon.log().wait_for(&["SIP upstream is up"]).await;
}

#[tokio::test]
async fn a_double_crlf_is_answered_unless_that_is_off() {
    let edge = Edge::start("").await;
    let mut client = edge.client(Scheme::Sip).await;
    client.send("\r\n\r\n").await;
    assert_eq!(client.keep_alive().await, "pong");
    let edge = Edge::start("crlf_pingpong: false").await;
    let mut client = edge.client(Scheme::Sip).await;
    client.send(&("\r\n\r\n".to_owned() + &request("OPTIONS", "sip:edge.test:5060", "o", "", ""))).await;
    let answer = client.expect("200").await;
    assert!(answer.field("Via").contains(";rport="), "{}", answer.0);
}

#[tokio::test]
async fn a_lone_crlf_is_a_sign_of_life_unless_it_is_dropped() {
    for (drop, ends) in [(true, true), (false, false)] {
        let edge = Edge::start_with(Scheme::Sip, |upstream| {
            let timeouts = "probation: 300ms".into();
            Settings { timeouts, ..settings(&[upstream], &format!("crlf_drop: {drop}")) }
        })
        .await;
        let mut client = edge.client(Scheme::Sip).await;
        client.send("\r\n").await;
        if ends {
            assert_eq!(client.next().await, None);
            edge.daemon.log().wait_for(&["SIP connection closed", "no valid request in time"]).await;
            continue;
        }
        // One that came later and said nothing ends first.
        let mut silent = edge.client(Scheme::Sip).await;
        assert_eq!(silent.next().await, None);
        client.send(&request("OPTIONS", "sip:edge.test:5060", "o", "", "")).await;
        client.expect("200").await;
    }
}

#[tokio::test]
async fn a_silent_upstream_is_asked_by_double_crlf() {
    let mut edge = Edge::start("crlf_ping_interval: 200ms, crlf_pong_timeout: 300ms").await;
    for _ in 0..2 {
        assert_eq!(edge.proxy.keep_alive().await, "ping");
        edge.proxy.send("\r\n").await;
    }
    assert_eq!(edge.proxy.keep_alive().await, "ping");
    assert_eq!(edge.proxy.next().await, None);
    edge.daemon.log().wait_for(&["SIP connection closed", "crlf_pong_timeout"]).await;
    edge.upstream.accept().await;
}

#[tokio::test]
async fn messages_have_their_limits() {
    let mut edge = Edge::start("head_size: 1KiB, message_size: 2KiB, headers: 16").await;
    let sized = |whole: usize| {
        let empty = request("MESSAGE", "sip:bob@example.com", "m", "", &"x".repeat(1000)).len() - 1000;
        request("MESSAGE", "sip:bob@example.com", "m", "", &"x".repeat(whole - empty))
    };
    for scheme in KINDS {
        let mut client = edge.client(scheme).await;
        for (whole, taken) in [(2047, true), (2048, true), (2049, false)] {
            client.send(&sized(whole)).await;
            if taken {
                let seen = edge.proxy.expect("MESSAGE").await;
                edge.proxy.send(&response(&seen, "200 OK", "")).await;
                client.expect("200").await;
            } else {
                client.expect("413").await;
            }
        }
        // Seven fields are there already.
        for (more, kind) in [(9, "200"), (10, "400")] {
            client.send(&request("OPTIONS", "sip:edge.test:5060", "o", &"X: 1\r\n".repeat(more), "")).await;
            client.expect(kind).await;
        }
        let padded = |len: usize| {
            let empty = request("OPTIONS", "sip:edge.test:5060", "o", "X: \r\n", "").len();
            request("OPTIONS", "sip:edge.test:5060", "o", &format!("X: {}\r\n", "x".repeat(len - empty)), "")
        };
        client.send(&padded(1024)).await;
        client.expect("200").await;
        client.send(&padded(1025)).await;
        client.expect("513").await;
        if matches!(scheme, Scheme::Sip | Scheme::Sips) {
            assert_eq!(client.next().await, None, "nobody knows where the next one begins");
        }
    }
    edge.daemon.assert_well();
}

#[tokio::test]
async fn a_message_in_too_many_reads_or_too_long_is_closed() {
    let edge = Edge::start("max_msg_chunks: 3, max_msg_time: 20s").await;
    let whole = request("OPTIONS", "sip:edge.test:5060", "o", "", "");
    for (pieces, good) in [(2, true), (3, true), (4, false)] {
        let mut client = edge.client(Scheme::Sip).await;
        for piece in whole.as_bytes().chunks(whole.len().div_ceil(pieces)) {
            let _ = client.try_send(std::str::from_utf8(piece).unwrap()).await;
            client.read_by_other().await;
        }
        let answer = client.next().await;
        assert_eq!(answer.as_ref().map(SipMessage::kind), good.then_some("200"), "{pieces}");
    }
    edge.daemon.log().wait_for(&["SIP connection closed", "in more than 3 reads"]).await;
    let edge = Edge::start("max_msg_time: 300ms").await;
    let mut slow = edge.client(Scheme::Sip).await;
    slow.send(&whole[..50]).await;
    assert_eq!(slow.next().await, None);
    edge.daemon.log().wait_for(&["SIP connection closed", "max_msg_time"]).await;
}

#[tokio::test]
async fn what_is_no_sip_is_closed_and_what_is_malformed_answered() {
    let mut edge = Edge::start("").await;
    let mut client = edge.client(Scheme::Sip).await;
    client.send("GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(client.next().await, None);
    edge.daemon.log().wait_for(&["SIP connection closed", "not SIP: it begins with GET"]).await;

    let mut client = edge.client(Scheme::Ws).await;
    client.send("GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(client.next().await, None);

    let mut client = edge.client(Scheme::Sip).await;
    let good = request("OPTIONS", "sip:edge.test:5060", "o", "", "");
    client.send(&good.replace("CSeq: 1 OPTIONS", "CSeq: one OPTIONS")).await;
    client.expect("400").await;
    client.send(&good.replace("SIP/2.0\r\nVia", "SIP/3.0\r\nVia")).await;
    client.expect("505").await;
    client.send(&good).await;
    client.expect("200").await;
    edge.daemon.log().wait_for(&["SIP message refused", "status=400", "malformed CSeq"]).await;
    // What an upstream sends does not end the connection of all.
    edge.proxy.send(&good.replace("Call-ID: o@client.invalid\r\n", "")).await;
    edge.proxy.send(&good).await;
    edge.proxy.expect("200").await;
    edge.daemon.assert_well();
}

#[tokio::test]
async fn who_does_not_read_is_given_so_much_and_no_more() {
    let mut edge = Edge::start_with(Scheme::Sip, |upstream| Settings {
        limits: "session_buffer: 64KiB, async_max_postponed_chunks: 50".into(),
        timeouts: "send_timeout: 1s".into(),
        ..settings(&[upstream], "")
    })
    .await;
    let (slow, path) = edge.registered(Scheme::Sip, "slow").await;
    let (mut other, _) = edge.registered(Scheme::Ws, "other").await;
    let route = format!("Route: {path}\r\n");
    // More than the kernel's buffers and the queue take: then 480, and once the client is given up, 430.
    let body = "x".repeat(30_000);
    let mut seen = Vec::new();
    let mut round = 0;
    while !seen.iter().any(|kind| kind == "430") {
        round += 1;
        edge.proxy.send(&request("MESSAGE", "sip:a@x.invalid", &format!("m{round}"), &route, &body)).await;
        edge.proxy.send(&request("OPTIONS", "sip:edge.test:5060", "o", "", "")).await;
        // The answer to OPTIONS comes at once, whatever the other one does.
        loop {
            let answer = edge.proxy.message().await;
            if answer.field("CSeq") == "1 OPTIONS" {
                break;
            }
            seen.push(answer.kind().to_owned());
        }
        if round % 100 == 0 {
            register(&mut other, &mut edge.proxy, &format!("r{round}")).await;
        }
    }
    assert_eq!(seen[0], "480", "the queue has a limit");
    edge.daemon.log().wait_for(&["SIP connection closed", "took no data"]).await;
    assert!(edge.daemon.resources().peak_memory < 200 << 20, "{:?}", edge.daemon.resources());
    drop(slow);
    edge.daemon.assert_well();
}

#[tokio::test]
async fn one_listener_carries_both_subprotocols() {
    let mut edge = Edge::start("").await;
    let mut page = Client::connect(&edge.daemon, &edge.site, Scheme::Wss).await;
    page.auth("alice", "alicepw").await;
    edge.registered(Scheme::Wss, "r1").await;
    edge.daemon.assert_well();
}

#[tokio::test]
async fn connections_of_sip_count_with_all_others() {
    let edge = Edge::start_with(Scheme::Sip, |upstream| Settings {
        // One to the upstream, two of clients.
        limits: "max_connections: 3".into(),
        ..settings(&[upstream], "")
    })
    .await;
    let options = request("OPTIONS", "sip:edge.test:5060", "o", "", "");
    let mut clients = Vec::new();
    for scheme in [Scheme::Sip, Scheme::Ws] {
        let mut client = edge.client(scheme).await;
        client.send(&options).await;
        client.expect("200").await;
        clients.push(client);
    }
    let mut third = TcpStream::connect(edge.daemon.address(Scheme::Sip)).await.unwrap();
    let mut rest = Vec::new();
    let _ = within("the end", third.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn tokens_of_the_process_before_are_told_from_forged_ones_by_the_secret() {
    let secret = |text: &str| format!("max_msg_chunks: 9, flow_secret: {text}");
    for (before, after, expected) in [
        (secret("0123456789abcdef"), secret("0123456789abcdef"), "430"),
        (secret("0123456789abcdef"), secret("another0123456789abcdef"), "403"),
        // Drawn at start: nobody can tell, and the flow is gone in any case.
        (String::new(), String::new(), "430"),
    ] {
        let mut edge = Edge::start(&before).await;
        let (_client, path) = edge.registered(Scheme::Sip, "r1").await;
        let mut next = Edge::start(&after).await;
        next.proxy.send(&request("MESSAGE", "sip:a@x", "m", &format!("Route: {path}\r\n"), "")).await;
        next.proxy.expect(expected).await;
        // No token at all.
        let forged = "Route: <sip:alice@edge.test:5060;lr>\r\n";
        next.proxy.send(&request("MESSAGE", "sip:a@x", "m", forged, "")).await;
        next.proxy.expect("403").await;
    }
}

#[tokio::test]
async fn requests_are_spread_by_weight() {
    let site = Site::new();
    let upstreams =
        [SipUpstream::bind(Scheme::Sip, &site).await, SipUpstream::bind(Scheme::Sip, &site).await];
    let entry = |upstream: &SipUpstream, weight| {
        format!("{{ uri: \"{}\", advertise: \"edge.test:5060\", weight: {weight} }}", upstream.uri())
    };
    let list = format!("{}, {}", entry(&upstreams[0], 1), entry(&upstreams[1], 1000));
    let settings =
        Settings { sip: Some(format!("sip_upstream: [ {list} ], probe_interval: 1h")), ..settings(&[], "") };
    let daemon = Daemon::start(RELAY, &site, &settings).await;
    let mut light = connection(&upstreams[0]).await;
    let mut heavy = connection(&upstreams[1]).await;
    let mut client = SipPeer::connect(&daemon, &site, Scheme::Sip).await;
    for number in 0..20 {
        client.send(&request("MESSAGE", "sip:bob@example.com", &format!("m{number}"), "", "")).await;
    }
    // The chance that two or more of twenty go to the light one is some 0.0002; Call-IDs are always the same.
    for _ in 0..18 {
        heavy.expect("MESSAGE").await;
    }
    tokio::select! {
        biased;
        message = light.next() => panic!("{message:?}"),
        () = tokio::time::sleep(Duration::ZERO) => {}
    }
}
