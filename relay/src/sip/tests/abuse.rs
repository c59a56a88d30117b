//! Attempts to send through the edge where it does not lead.

use tcp_transport::sip::Name;

use super::harness::*;
use crate::sip::{Destination, Flow, Outcome, Reason};

#[test]
fn what_a_client_sends_goes_to_an_upstream_whatever_it_names() {
    let mut net = Net::new();
    let mallory = net.client(9, TCP);
    for uri in [
        "sip:victim@198.51.100.1:25",
        "sip:10.0.0.99:5060;transport=tcp",
        "sip:x;maddr=198.51.100.1",
        "tel:+1900",
    ] {
        let (index, sent) = net.upwards(&mallory, &Request { uri, ..Request::default() }.text());
        assert!(
            index < 2 && sent.starts_with(&format!("MESSAGE {uri} ")),
            "the upstream may decide about it"
        );
    }
}

#[test]
fn a_route_through_the_edge_to_elsewhere_is_refused() {
    let mut net = Net::new();
    let (mallory, proxy) = (net.client(9, TCP), net.upstream(0));
    for entry in [
        "<sip:198.51.100.1;lr>",
        "<sip:edge.example.com.evil.test;lr>",
        "<sip:edge.example.com:9;lr>",
        "<sip:edge.example.com@evil.test;lr>",
        "<tel:+1900>",
        "<sip:10.0.0.1:25;lr>",
    ] {
        let fields = format!("Route: {entry}\r\n");
        let request = Request { fields: &fields, ..Request::default() }.text();
        assert_eq!(net.answered(&mallory, &request).0, 403, "{entry}");
        assert_eq!(net.answered(&proxy, &request).0, 403, "{entry}");
    }
    // Behind our own entry it is for the upstream to refuse.
    let fields = "Route: <sip:edge.example.com:5060;lr>, <sip:198.51.100.1;lr>\r\n";
    let (_, sent) = net.upwards(&mallory, &Request { fields, ..Request::default() }.text());
    assert_eq!(values(&sent, Name::Route), ["<sip:198.51.100.1;lr>"]);
    // An upstream's entry leads where all leads.
    let fields = "Route: <sip:10.0.0.2:5060;lr>\r\n";
    let (index, sent) = net.upwards(&mallory, &Request { fields, ..Request::default() }.text());
    assert_eq!((index, values(&sent, Name::Route).len()), (1, 1));
}

#[test]
fn a_forged_token_is_403_on_either_side() {
    let mut net = Net::new();
    let (bob, mallory) = (net.client(8, TLS), net.client(9, TCP));
    let (index, sent) = net.upwards(&bob, &Request { method: "REGISTER", ..Request::default() }.text());
    let proxy = net.upstream(index);
    let path = values(&sent, Name::Path).remove(0);
    let token = token(&sent, Name::Path);
    let mut other = token.clone().into_bytes();
    other[20] ^= 1;
    for forged in [String::from_utf8(other).unwrap(), "alice".into(), token[..20].into(), format!("{token}A")]
    {
        let fields = format!("Route: {}\r\n", path.replace(&token, &forged));
        let request = Request { fields: &fields, via: VIA_OF_UPSTREAM, ..Request::default() }.text();
        assert_eq!(net.answered(&proxy, &request).0, 403, "{forged}");
        assert_eq!(net.answered(&mallory, &request).0, 403, "{forged}");
        let ack = Request { method: "ACK", fields: &fields, ..Request::default() }.text();
        assert_eq!(net.receive(&proxy, &ack).0, Outcome::Drop(Reason::Ack(403)), "nobody answers an ACK");
    }
}

#[test]
fn a_token_of_another_client_leads_to_an_upstream_and_not_to_that_client() {
    let mut net = Net::new();
    let (bob, mallory) = (net.client(8, TLS), net.client(9, TCP));
    let (_, sent) = net.upwards(&bob, &Request { method: "REGISTER", ..Request::default() }.text());
    let fields = route(&values(&sent, Name::Path));
    let request = Request { fields: &fields, ..Request::default() }.text();
    assert!(matches!(net.sent(&mallory, &request).0, Destination::Upstream { .. }));
}

#[test]
fn an_upstream_reaches_nobody_without_a_token() {
    let mut net = Net::new();
    net.client(8, TLS);
    let proxy = net.upstream(0);
    for uri in ["sip:bob@203.0.113.8:40000", "sip:8@edge.example.com:5061", "sip:edge.example.com", "tel:+1"]
    {
        assert_eq!(net.answered(&proxy, &Request { uri, ..Request::default() }.text()).0, 404, "{uri}");
    }
    let fields = "Route: <sip:edge.example.com:5060;lr>\r\n";
    assert_eq!(net.answered(&proxy, &Request { fields, ..Request::default() }.text()).0, 404);
}

#[test]
fn a_return_token_is_of_no_use_as_a_flow_token() {
    let mut net = Net::new();
    let bob = net.client(8, TLS);
    let (index, sent) = net.upwards(&bob, &Request::default().text());
    let message = parse(&sent);
    let via = message.head.top_via().unwrap();
    let token = std::str::from_utf8(via.param("rt").unwrap()).unwrap();
    let fields = format!("Route: <sip:{token}@edge.example.com:5060;lr>\r\n");
    let proxy = net.upstream(index);
    assert_eq!(net.answered(&proxy, &Request { fields: &fields, ..Request::default() }.text()).0, 403);
}

#[test]
fn a_route_without_a_port_leads_to_the_default_port() {
    let mut settings = settings();
    // Not on default ports but for WSS, on 443, and TLS, on 5061.
    settings.listeners[TCP].port = 5080;
    settings.upstreams.iter_mut().for_each(|upstream| upstream.local.port = 5090);
    let mut net = Net::with(settings, 1);
    let client = net.client(8, TCP);
    for (entry, own) in [
        ("<sip:edge.example.com:5080;lr>", true),
        ("<sip:edge.example.com;lr>", false),
        ("<sip:edge.example.com;transport=tcp;lr>", false),
        ("<sip:edge.example.com;transport=tls;lr>", true),
        ("<sips:edge.example.com;lr>", true),
        ("<sips:edge.example.com;transport=tcp;lr>", true),
        ("<sip:edge.example.com;transport=ws;lr>", true),
        ("<sip:edge.example.com;transport=WSS;lr>", true),
        ("<sips:edge.example.com;transport=ws;lr>", true),
        ("<sip:edge.example.com:443;lr>", true),
        ("<sip:edge.example.com:80;transport=ws;lr>", false),
    ] {
        let fields = format!("Route: {entry}\r\n");
        let request = Request { fields: &fields, ..Request::default() }.text();
        if own {
            let (_, up) = net.upwards(&client, &request);
            assert!(values(&up, Name::Route).is_empty(), "{entry}");
        } else {
            assert_eq!(net.answered(&client, &request).0, 403, "{entry}: it is somebody else's");
        }
    }
}

#[test]
fn a_route_with_the_address_that_the_client_connected_to_is_ours() {
    let mut net = Net::new();
    for (local, entry, own) in [
        ("192.0.2.1:5061", "<sip:192.0.2.1:5061;transport=tls;lr>", true),
        ("192.0.2.1:5061", "<sips:192.0.2.1;lr>", true),
        ("[::ffff:192.0.2.1]:5061", "<sip:192.0.2.1:5061;lr>", true),
        ("[2001:db8::1]:5061", "<sip:[2001:DB8:0::1]:5061;lr>", true),
        ("192.0.2.1:5061", "<sip:192.0.2.1:5060;lr>", false),
        ("192.0.2.1:5061", "<sip:192.0.2.2:5061;lr>", false),
    ] {
        let client = Flow { local: Some(local.parse().unwrap()), ..net.client(8, TLS) };
        let fields = format!("Route: {entry}\r\n");
        let request = Request { fields: &fields, ..Request::default() }.text();
        if own {
            let (_, up) = net.upwards(&client, &request);
            assert!(values(&up, Name::Route).is_empty(), "{entry}");
        } else {
            assert_eq!(net.answered(&client, &request).0, 403, "{entry}: it is somebody else's");
        }
    }
}
