//! Requests for SIPS URIs (RFC 3261 §16.6 step 4, §26.2.2).

use tcp_transport::sip::Name;

use super::harness::*;
use crate::sip::{Flow, Settings, Transport};

const SIPS: &str = "sips:bob@example.com";

/// The second upstream is reached by TLS.
fn mixed() -> Settings {
    let mut settings = settings();
    settings.upstreams[1].peer.transport = Transport::Tls;
    settings.upstreams[1].local.transport = Transport::Tls;
    settings.upstreams[1].local.port = 5061;
    settings
}

#[test]
fn a_sips_request_goes_over_tls_alone_and_is_recorded_as_such() {
    let mut net = Net::with(mixed(), 1);
    for (listener, own) in [(WSS, "443;transport=ws"), (TLS, "5061;transport=tcp")] {
        let client = net.client(7, listener);
        for n in 0..20 {
            let invite = Request { method: "INVITE", uri: SIPS, ..Request::default() };
            let (index, up) = net.upwards(&client, &invite.text().replace("c1@", &format!("c{n}@")));
            assert_eq!(index, 1);
            let records = values(&up, Name::RecordRoute);
            let token = token(&up, Name::RecordRoute);
            let expected = |own: &str| format!("<sips:{token}@edge.example.com:{own};lr>");
            assert_eq!(records[0], expected("5061;transport=tcp"));
            assert_eq!(records[records.len() - 1], expected(own));
        }
        let register = Request { method: "REGISTER", uri: "sips:example.com", ..Request::default() };
        let (_, up) = net.upwards(&client, &register.text());
        let path = values(&up, Name::Path);
        assert!(path[0].starts_with("<sips:") && path[0].ends_with(":5061;transport=tcp;lr;ob>"), "{path:?}");
        // Back along it.
        let proxy = net.upstream(1);
        let fields = route(&path);
        let down = Request { uri: SIPS, via: VIA_OF_UPSTREAM, fields: &fields, ..Request::default() };
        let (_, text) = net.sent(&proxy, &down.text());
        assert!(values(&text, Name::Route).is_empty());
    }
}

#[test]
fn the_next_route_says_sips_too() {
    let mut net = Net::with(mixed(), 1);
    let client = net.client(7, WSS);
    let fields = "Route: <sip:edge.example.com:443;transport=ws;lr>, <sips:x.test;lr>, <sip:y.test;lr>\r\n";
    let request = Request { method: "INVITE", fields, ..Request::default() };
    let (index, up) = net.upwards(&client, &request.text());
    assert_eq!(index, 1);
    assert!(values(&up, Name::RecordRoute).iter().all(|record| record.starts_with("<sips:")), "{up}");
    // The one after it is for others to obey.
    let fields =
        "Route: <sip:x.test;lr>, <sips:y.test;lr>\r\n".replace("<sip:x", "<sip:10.0.0.1;lr>, <sip:x");
    let request = Request { method: "INVITE", fields: &fields, ..Request::default() };
    let (_, up) = net.upwards(&client, &request.text());
    assert!(values(&up, Name::RecordRoute).iter().all(|record| record.starts_with("<sip:")), "{up}");
}

#[test]
fn without_tls_on_both_sides_it_is_480() {
    let plain = Request { uri: SIPS, ..Request::default() }.text();
    let mut net = Net::with(mixed(), 1);
    let refused = |(status, answer): (u16, String)| {
        assert_eq!(status, 480);
        assert!(answer.contains("\r\nWarning: 380 edge.example.com \"SIPS Not Allowed\"\r\n"), "{answer}");
    };
    let phone = net.client(8, TCP);
    refused(net.answered(&phone, &plain));
    // From an upstream: the way is the token's.
    let browser = net.client(7, WSS);
    let ways = [(phone, 1), (browser, 0)].map(|(client, upstream)| {
        let register = Request { method: "REGISTER", uri: "sip:example.com", ..Request::default() }.text();
        let (_, up) = net.upwards(&client, &register);
        (route(&values(&up, Name::Path)), net.upstream(upstream))
    });
    for (fields, proxy) in ways {
        let down = Request { uri: SIPS, via: VIA_OF_UPSTREAM, fields: &fields, ..Request::default() }.text();
        refused(net.answered(&proxy, &down));
        net.sent(&proxy, &down.replacen("sips:", "sip:", 1));
    }
    // All upstreams are plain; or the one that is not is down, which will pass.
    let mut all_plain = Net::new();
    let browser = all_plain.client(7, WSS);
    refused(all_plain.answered(&browser, &plain));
    let browser = net.client(9, WSS);
    net.upstreams.disconnected(1);
    assert_eq!(net.answered(&browser, &plain).0, 503);
}

#[test]
fn the_connection_decides_and_not_its_listener() {
    let mut net = Net::with(mixed(), 1);
    let plain = Request { uri: SIPS, ..Request::default() }.text();
    // Around the proxy that ends TLS in front of this listener.
    let around = Flow { secure: false, ..net.client(8, WSS) };
    assert_eq!(net.answered(&around, &plain).0, 480);
    // And towards it, or from an upstream that came without TLS.
    let register = Request { method: "REGISTER", uri: "sip:example.com", ..Request::default() }.text();
    let (_, up) = net.upwards(&around, &register);
    let fields = route(&values(&up, Name::Path));
    let down = Request { uri: SIPS, via: VIA_OF_UPSTREAM, fields: &fields, ..Request::default() }.text();
    let proxy = net.upstream(1);
    net.sent(&proxy, &down);
    net.open.insert(8, around);
    assert_eq!(net.answered(&proxy, &down).0, 480);
    net.client(8, WSS);
    assert_eq!(net.answered(&Flow { secure: false, ..proxy }, &down).0, 480);
}
