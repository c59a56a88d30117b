//! Which client domain a connection is made with, and when one may stand in for another.

use std::net::SocketAddr;
use std::sync::Arc;

use tcp_transport::connector::{Connector, Resolver};
use tcp_transport::tls::{ClientDomain, ClientDomainSettings, ClientDomains};
use tcp_transport::{ListenerSettings, Target, Transport};

use crate::common::{LOCALHOST, Pki, Told, listen, patiently, server_domains, server_settings};

/// A domain with these three, each as one text.
fn settings(name: &str, host: &str, address: &str, listener: &str) -> ClientDomainSettings {
    let words =
        |text: &str| text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    ClientDomainSettings {
        match_sip_domain: words(host).iter().map(|word| word.parse().unwrap()).collect(),
        match_ip_address: words(address).iter().map(|word| word.parse().unwrap()).collect(),
        match_listener: words(listener),
        ..ClientDomainSettings::new(name)
    }
}

fn domains(others: &[ClientDomainSettings]) -> ClientDomains {
    ClientDomains::load(&ClientDomainSettings::new("default"), others).unwrap()
}

#[test]
fn the_client_domain_is_chosen_by_host_address_and_listener() {
    let domains = domains(&[
        settings("exact", "a.example.org", "", ""),
        settings("wild", "*.example.org", "", ""),
        settings("deep", "*.deep.example.org", "", ""),
        settings("gateway", "*", "192.0.2.1:2855", ""),
        settings("machine", "", "192.0.2.1", ""),
        settings("tenant", "", "", "in-1"),
        settings("both", "*.example.org", "", "in-1"),
        settings("never", "b.test", "192.0.2.9", "in-2"),
    ]);
    let select = |host: &str, address: &str, listener: Option<&str>| {
        domains.select(host, address.parse().unwrap(), listener).name().to_owned()
    };
    let elsewhere = "203.0.113.1:2855";
    for (host, address, listener, expected) in [
        ("A.Example.ORG.", elsewhere, None, "exact"),
        ("b.example.org", elsewhere, None, "wild"),
        ("b.deep.example.org", elsewhere, None, "deep"),
        // The host comes before the address, the address before the listener.
        ("a.example.org", "192.0.2.1:2855", Some("in-1"), "exact"),
        ("b.example.org", elsewhere, Some("in-1"), "both"),
        ("b.example.org", elsewhere, Some("in-2"), "wild"),
        ("other.test", "192.0.2.1:2855", Some("in-1"), "gateway"),
        ("other.test", "192.0.2.1:1", Some("in-1"), "machine"),
        ("192.0.2.1", "192.0.2.1:1", None, "machine"),
        ("other.test", elsewhere, Some("in-1"), "tenant"),
        // All that a domain asks for must fit.
        ("b.test", "192.0.2.9:1", Some("in-2"), "never"),
        ("b.test", "192.0.2.9:1", None, "default"),
        ("b.test", elsewhere, Some("in-2"), "default"),
        ("203.0.113.1", elsewhere, None, "default"),
        ("other.test", elsewhere, None, "default"),
    ] {
        assert_eq!(select(host, address, listener), expected, "{host} {address} {listener:?}");
    }
    assert!(ClientDomains::load(&ClientDomainSettings::new("d"), &[settings("d", "", "", "")]).is_err());
}

#[test]
fn equal_reuse_keys_mean_the_same_domain_whatever_the_address() {
    let domains = domains(&[
        settings("one", "", "", "in-1"),
        settings("two", "", "", "in-2"),
        settings("gateway", "", "192.0.2.1", ""),
        settings("exact", "exact.test", "", ""),
        settings("never", "never.test", "192.0.2.1", "in-3"),
    ]);
    let key = |host: &str, listener| domains.reuse_key(host, 2855, listener);
    let (one, two, none) = (Some("in-1"), Some("in-2"), None);
    assert_eq!(key("a.test", one), key("A.TEST.", one));
    assert_ne!(key("a.test", one), key("a.test", two));
    assert_ne!(key("a.test", one), key("a.test", none));
    assert_eq!(key("a.test", none), key("a.test", Some("in-4")), "neither has a domain of its own");
    // A domain that is for the host, whoever asks, is one for all.
    assert_eq!(key("exact.test", one), key("exact.test", two));
    assert!(key("exact.test", one).starts_with("exact#"), "{}", key("exact.test", one));
    // An address is known at once.
    assert_eq!(key("192.0.2.1", one), key("192.0.2.1", two));
    assert_ne!(key("192.0.2.2", one), key("192.0.2.2", two));
    // Who is only perhaps asked, by its address, is part of the key.
    assert_eq!(key("never.test", one), key("a.test", one));
    assert_ne!(key("never.test", Some("in-3")), key("never.test", none));
}

/// Every name leads to the same address.
#[derive(Clone, Copy)]
struct Here(SocketAddr);

impl Resolver for Here {
    async fn resolve(&self, _: &str, _: u16) -> std::io::Result<Vec<SocketAddr>> {
        Ok(vec![self.0])
    }
}

#[tokio::test]
async fn a_connector_takes_the_domain_that_is_for_the_address() {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let relay = pki.identity(&ca, "relay", &["a.test", "b.test"]);
    let domains = server_domains(&server_settings("relay", &relay, &ca));
    let (address, mut told) = listen(
        ListenerSettings {
            tls_domain: Some("relay".into()),
            ..ListenerSettings::new(LOCALHOST.parse().unwrap(), Transport::Tls)
        },
        domains,
    );
    let presenting = |name: &str, host: &str, address: &str, listener: &str| {
        let own = pki.identity(&ca, name, &[&format!("{name}.test")]);
        ClientDomainSettings {
            ca_list: Some(ca.file.clone()),
            certificate: Some(own.certificate),
            private_key: Some(own.key),
            ..settings(name, host, address, listener)
        }
    };
    let clients = ClientDomains::load(
        &presenting("default", "", "", ""),
        &[
            presenting("by-host", "b.test", "", ""),
            presenting("by-address", "", &address.to_string(), "in-1"),
        ],
    )
    .unwrap();
    let connector = Connector::with_resolver(Default::default(), |_: SocketAddr, _| true, Here(address));
    for (host, listener, expected) in [
        ("a.test", None, "default"),
        ("b.test", Some("in-1"), "by-host"),
        ("a.test", Some("in-1"), "by-address"),
    ] {
        let target = Target { host: host.into(), port: address.port(), transport: Transport::Tls };
        let choice = clients.for_listener(listener);
        let client = connector.connect_for(&target, Some(&choice), None).await.unwrap();
        let Some(Told::Accepted(server)) = patiently("a connection", told.recv()).await else { panic!() };
        assert_eq!(client.tls().unwrap().domain(), expected);
        assert!(server.tls().unwrap().peer().matches_host(&format!("{expected}.test")), "{:?}", server.tls());
    }
    let _ = Arc::new(ClientDomain::load(&presenting("one", "", "", "")).unwrap());
}
