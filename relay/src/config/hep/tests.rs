//! Listeners for HEP, and the section `hep`.

use std::path::Path;

use super::super::Config;
use super::*;

fn parse(listeners: &str, more: &str) -> Result<Config, String> {
    let text = format!("domain: a\nlisteners: [ {{ uri: 'msrp://127.0.0.1:1' }}, {listeners} ]\n{more}\n");
    Config::parse(&text, Path::new(""), "relay.yaml").map_err(|errors| errors.to_string())
}

const UDP: &str = "{ uri: 'hep_udp://127.0.0.1' }";
const TRACE: &str =
    "trace: { destinations: { a: { uri: 'hep_udp://192.0.2.1' }, b: { uri: 'hep_tcp://192.0.2.1' } } }\n";

fn warnings(config: &Config) -> String {
    let warnings = config.warnings.iter().map(ToString::to_string);
    warnings.filter(|text| !text.contains(": auth")).collect::<Vec<_>>().join("; ")
}

#[test]
fn listeners_of_hep_serve_nothing_else() {
    let config =
        parse("{ uri: 'hep_udp://[::1]' }, { uri: 'hep_tcp://[::1]', max_connections: 3 }", TRACE).unwrap();
    let [_, udp, tcp] = &config.listeners[..] else { panic!("three") };
    assert_eq!(
        (udp.port, &udp.transport, &tcp.transport),
        (5656, &ListenerTransport::Udp, &ListenerTransport::Tcp)
    );
    assert!(udp.hep && tcp.hep && !udp.serves_msrp() && !tcp.serves_msrp() && !udp.sip);
    assert_eq!(
        (udp.to_string(), tcp.to_string()),
        ("hep_udp://[::1]:5656".into(), "hep_tcp://[::1]:5656".into())
    );
    assert_eq!((udp.scheme(), tcp.max_connections), (tcp_transport::Scheme::Hep, Some(3)));
    for (listener, message) in [
        (
            "{ uri: 'hep_udp://127.0.0.1', max_connections: 1 }",
            "max_connections: is for connections, and `hep_udp://`",
        ),
        ("{ uri: 'hep_udp://127.0.0.1', backlog: 1 }", "backlog: is for connections"),
        ("{ uri: 'hep_udp://127.0.0.1', proxy_from: 127.0.0.1 }", "proxy_from: is for connections"),
        ("{ uri: 'hep_udp://127.0.0.1', tcp: {} }", "tcp: is for connections"),
        ("{ uri: 'hep_tcp://127.0.0.1', advertise: b }", "advertise: is for what has URIs of its own"),
        ("{ uri: 'hep_tcp://127.0.0.1', behind_tls: true }", "behind_tls: is for what has URIs of its own"),
        ("{ uri: 'hep_tcp://127.0.0.1', websocket: {} }", "this listener is `hep_tcp://`"),
        ("{ uri: 'hep_tcp://127.0.0.1', tls_domain: x }", "this listener is `hep_tcp://`"),
        ("{ uri: 'hep_tls://127.0.0.1' }", "`hep_tls://` needs one"),
        ("{ uri: 'hep_udp://127.0.0.1' }, { uri: 'hep_udp://127.0.0.1:5656' }", "has the same address"),
    ] {
        let error = parse(listener, TRACE).unwrap_err();
        assert!(error.contains(message), "{listener}: {error}");
    }
    let alone = "domain: a\nlisteners: [ { uri: 'hep_udp://127.0.0.1' } ]\n";
    let error = Config::parse(alone, Path::new(""), "relay.yaml").unwrap_err().to_string();
    assert!(error.contains("are all WebSocket, SIP or HEP"), "{error}");
}

#[test]
fn every_setting_reaches_the_receiver() {
    let hep = "hep: { hep_max_msg_chunks: 7, packet_size: 100B, packet_timeout: 3s, time_order: big, from: [192.0.2.0/24], auth_key: k3y }";
    let config = parse(UDP, &format!("{TRACE}{hep}")).unwrap();
    let wanted = ReceiverSettings {
        from: vec!["192.0.2.0/24".parse().unwrap()],
        auth_key: Some("k3y".into()),
        time_order: tcp_transport::hep::TimeOrder::Big,
        frame: FrameLimits { max_msg_chunks: 7, max_packet: 100 },
        packet_timeout: Duration::from_secs(3),
    };
    assert!(config.hep.receiver == wanted, "{:?}", config.hep);
    assert_eq!(warnings(&config), "");
    // What is not said.
    let plain = parse(UDP, TRACE).unwrap();
    let default = ReceiverSettings { from: plain.hep.receiver.from.clone(), ..ReceiverSettings::default() };
    assert!(plain.hep.receiver == default && default.frame.max_msg_chunks == 32);
    for (ip, may) in [
        ("127.0.0.1", true),
        ("10.1.2.3", true),
        ("192.168.1.1", true),
        ("::1", true),
        ("fd00::1", true),
        ("100.127.0.1", true),
        ("192.0.2.1", false),
        ("172.32.0.1", false),
        ("2001:db8::1", false),
    ] {
        let ip: IpAddr = ip.parse().unwrap();
        assert_eq!(default.from.iter().any(|network| network.contains(ip)), may, "{ip}");
    }
    let error = parse(UDP, &format!("{TRACE}hep: {{ from: [] }}")).unwrap_err();
    assert!(error.contains("hep.from: is empty"), "{error}");
}

#[test]
fn every_condition_of_a_rule_reaches_it() {
    let all = "hep: { filter: [ { forward: [b, a], remote: 10.0.0.0/8, listener: 'hep_udp://127.0.0.1', transport: [tcp, udp], \
               protocol: [udp, sctp, 6], payload_type: [sip, 100, event], capture_id: [1, 4294967295] }, \
               { forward: none, transport: tls, protocol: tcp, payload_type: log, capture_id: 5 }, { forward: all } ] }";
    let config = parse(UDP, &format!("{TRACE}{all}")).unwrap();
    let [first, second, last] = &config.hep.filter[..] else { panic!("three") };
    let any = HepRule {
        forward: Forward::All,
        remote: None,
        listener: None,
        transport: vec![],
        protocol: vec![],
        payload_type: vec![],
        capture_id: vec![],
    };
    let wanted = HepRule {
        forward: Forward::To(vec!["b".into(), "a".into()]),
        remote: Some("10.0.0.0/8".parse().unwrap()),
        listener: Some("hep_udp://127.0.0.1:5656".into()),
        transport: vec![HepTransport::Tcp, HepTransport::Udp],
        protocol: vec![17, 132, 6],
        payload_type: vec![PayloadType::SIP, PayloadType::LOG, PayloadType::CONNECTION_EVENT],
        capture_id: vec![1, u32::MAX],
    };
    assert_eq!((first, last), (&wanted, &any));
    let wanted = HepRule {
        forward: Forward::None,
        transport: vec![HepTransport::Tls],
        protocol: vec![6],
        payload_type: vec![PayloadType::LOG],
        capture_id: vec![5],
        ..any
    };
    assert_eq!(*second, wanted);
    for (rule, message) in [
        ("{ remote: 10.0.0.0/8 }", "missing key `forward`"),
        ("{ forward: c }", "there is no `c` in trace.destinations"),
        ("{ forward: [a, none] }", "there is no `none` in trace.destinations"),
        ("{ forward: [] }", "forward: is empty"),
        (
            "{ forward: all, listener: 'msrp://127.0.0.1:1' }",
            "there is no listener `msrp://127.0.0.1:1` for HEP",
        ),
        ("{ forward: all, transport: sctp }", "`sctp` is not a transport of HEP"),
        ("{ forward: all, protocol: [icmp] }", "`icmp` is not an IP protocol"),
        ("{ forward: all, protocol: 256 }", "filter[0].protocol: expected an IP protocol"),
        ("{ forward: all, payload_type: msrp }", "`msrp` is not a payload type"),
        ("{ forward: all, capture_id: 4294967296 }", "expected a capture id"),
        ("{ forward: all, capture_id: x }", "`x` is not a capture id"),
    ] {
        let error = parse(UDP, &format!("{TRACE}hep: {{ filter: [ {rule} ] }}")).unwrap_err();
        assert!(error.contains(message), "{rule}: {error}");
    }
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let open = "{ uri: 'hep_udp://0.0.0.0' }";
    for (listener, more, wanted) in [
        (UDP, TRACE, ""),
        ("", TRACE, ""),
        ("", &*format!("{TRACE}hep: {{}}"), "hep: has no effect"),
        (UDP, "", "hep: what is received goes nowhere"),
        (open, TRACE, "listeners[1].uri: takes HEP of everybody with a private address"),
        (open, &*format!("{TRACE}hep: {{ from: 10.0.0.0/8 }}"), ""),
        (open, &*format!("{TRACE}hep: {{ auth_key: k }}"), ""),
    ] {
        let said = warnings(&parse(listener, more).unwrap());
        assert!(said.contains(wanted) && said.is_empty() == wanted.is_empty(), "{listener} {more}: {said}");
    }
}

#[test]
fn a_key_for_a_collector_that_everybody_on_the_way_can_read_is_a_warning() {
    for (uri, warned) in [
        ("hep_udp://192.0.2.1", true),
        ("hep_tcp://homer.example.com", true),
        ("hep_udp://127.0.0.1", false),
        ("hep_tcp://localhost", false),
        ("hep_udp://[::1]", false),
    ] {
        let config =
            parse("", &format!("trace: {{ destinations: {{ a: {{ uri: '{uri}', auth_key: k }} }} }}"))
                .unwrap();
        assert_eq!(warnings(&config).contains("trace.destinations.a.auth_key: everybody"), warned, "{uri}");
    }
}

#[test]
fn a_destination_that_is_a_listener_of_our_own_is_refused() {
    for (listener, destination, loops) in [
        ("hep_udp://127.0.0.1:9", "hep_udp://127.0.0.1:9", true),
        ("hep_udp://127.0.0.1:9", "hep_udp://localhost:9", true),
        ("hep_udp://localhost:9", "hep_udp://127.0.0.1:9", true),
        ("hep_udp://127.0.0.1:9", "hep_udp://0.0.0.0:9", true),
        ("hep_udp://0.0.0.0:9", "hep_udp://127.0.0.2:9", true),
        ("hep_udp://0.0.0.0:9", "hep_udp://[::ffff:127.0.0.1]:9", true),
        ("hep_udp://relay.test:9", "hep_udp://Relay.Test:9", true),
        ("hep_tcp://192.0.2.1:9", "hep_tcp://192.0.2.1:9", true),
        ("hep_tcp://192.0.2.1:9", "hep_tls://192.0.2.1:9", true),
        ("hep_udp://127.0.0.1:9", "hep_tcp://127.0.0.1:9", false),
        ("hep_udp://127.0.0.1:9", "hep_udp://127.0.0.1:8", false),
        ("hep_udp://127.0.0.1:9", "hep_udp://127.0.0.2:9", false),
        ("hep_udp://[::]:9", "hep_udp://127.0.0.1:9", false),
        ("hep_udp://[::]:9', ipv6_only: false", "hep_udp://127.0.0.1:9", true),
        ("hep_udp://0.0.0.0:9", "hep_udp://192.0.2.1:9", false),
        ("hep_udp://relay.test:9", "hep_udp://192.0.2.1:9", false),
        ("hep_udp://127.0.0.1:0", "hep_udp://127.0.0.1:9", false),
    ] {
        let quote = if listener.contains('\'') { "" } else { "'" };
        let trace = format!(
            "trace: {{ destinations: {{ a: {{ uri: '{destination}' }} }} }}\ntls: {{ client_domains: {{ default: {{}} }} }}"
        );
        let found = parse(&format!("{{ uri: '{listener}{quote} }}"), &trace);
        let error = found.err().unwrap_or_default();
        assert_eq!(
            error.contains("trace.destinations.a.uri: is our own listener"),
            loops,
            "{listener} {destination}: {error}"
        );
        assert!(loops || error.is_empty(), "{error}");
    }
}
