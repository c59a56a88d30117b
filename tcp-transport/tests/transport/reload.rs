//! TLS domains that are replaced while connections are served.

use std::fs;

use tcp_transport::tls::{
    Changes, ClientDomain, ClientDomainSettings, ClientDomains, ServerDomain, ServerDomains,
};
use tcp_transport::{ListenerSettings, Transport};

use crate::common::{
    LOCALHOST, Pki, Told, client_domain, handshake, listen, patiently, read_up_to, server_domains,
    server_settings,
};

fn changes(added: &[&str], changed: &[&str], removed: &[&str]) -> Changes {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Changes { added: owned(added), changed: owned(changed), removed: owned(removed) }
}

#[tokio::test]
async fn new_connections_get_the_new_certificate_and_old_ones_go_on() {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let settings = server_settings("relay", &pki.identity(&ca, "relay", &["relay.test"]), &ca);
    let domains = server_domains(&settings);
    let listener = ListenerSettings {
        tls_domain: Some("relay".into()),
        ..ListenerSettings::new(LOCALHOST.parse().unwrap(), Transport::Tls)
    };
    let (address, mut told) = listen(listener, domains.clone());
    let client = client_domain(&ca, None);
    let mut connect = async || {
        let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        let limit = std::time::Duration::from_secs(30);
        let client = tcp_transport::tls::connect(tcp, address, &client, "relay.test", limit).await.unwrap();
        let Some(Told::Accepted(server)) = patiently("a connection", told.recv()).await else { panic!() };
        // TLS 1.3 tickets come with the first data.
        server.write_all(b"x").await.unwrap();
        read_up_to(&client, 1).await;
        let serial = client.tls().unwrap().peer_facts().unwrap().certificate.serial.clone();
        (client, server, serial)
    };
    let (old_client, old_server, first) = connect().await;
    let (_, again, same) = connect().await;
    assert_eq!(first, same);
    assert!(again.tls().unwrap().resumed(), "sessions are resumed as long as nothing has changed");

    // The same files: nothing changes, and sessions are still resumed.
    let reload = || domains.replace(ServerDomains::load(std::slice::from_ref(&settings)).unwrap());
    assert_eq!(reload(), Changes::default());
    assert!(connect().await.1.tls().unwrap().resumed());

    // Another certificate under the same name.
    pki.identity(&ca, "relay", &["relay.test"]);
    assert_eq!(reload(), changes(&[], &["relay"], &[]));
    let (_, server, second) = connect().await;
    assert_ne!(first, second);
    assert!(!server.tls().unwrap().resumed());

    old_client.write_all(b"still here").await.unwrap();
    assert_eq!(read_up_to(&old_server, 10).await, b"still here");

    // A broken file: there is no set of domains to replace anything with.
    fs::write(&settings.certificate, "nonsense").unwrap();
    let error = ServerDomains::load(std::slice::from_ref(&settings)).unwrap_err().to_string();
    assert!(error.contains("relay.crt: no certificate in it"), "{error}");
    assert_eq!(connect().await.2, second);
}

#[tokio::test]
async fn a_client_that_was_revoked_does_not_resume_its_session() {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let relay = pki.identity(&ca, "relay", &["relay.test"]);
    let peer = pki.identity_with(&ca, "peer", &["peer.test"], |p| p.serial_number = Some(5.into()));
    pki.directory("crls");
    pki.crl(&ca, "crls/ca.pem", &[], 2099);
    let mut settings = server_settings("relay", &relay, &ca);
    settings.crl_dir = Some(pki.path("crls"));
    let domains = server_domains(&settings);
    let client = client_domain(&ca, Some(&peer));
    let verified = async || {
        let (server, client) = handshake(&domains, &client, "relay.test").await;
        let (server, client) = (server.unwrap(), client.unwrap());
        // TLS 1.3 tickets come with the first data.
        server.write_all(b"x").await.unwrap();
        read_up_to(&client, 1).await;
        server.tls().unwrap().peer().is_verified()
    };
    assert!(verified().await && verified().await);
    pki.crl(&ca, "crls/ca.pem", &[5], 2099);
    assert!(verified().await, "files are read when they are loaded");
    let changed = domains.replace(ServerDomains::new([ServerDomain::load(&settings).unwrap()]).unwrap());
    assert_eq!(changed.changed, ["relay"]);
    assert!(!verified().await);
}

#[test]
fn replacing_tells_what_changed_and_keeps_what_did_not() {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let one = pki.identity(&ca, "one", &["one.test"]);
    let server = |name: &str| server_settings(name, &one, &ca);
    let mut other = server("b");
    other.require_cert = true;
    let domains = ServerDomains::load(&[server("a"), server("b"), server("c")]).unwrap();
    let before = domains.by_name("a").unwrap();
    let told = domains.replace(ServerDomains::load(&[server("d"), other, server("a")]).unwrap());
    assert_eq!(told, changes(&["d"], &["b"], &["c"]));
    assert_eq!(told.to_string(), "added d; changed b; removed c");
    assert!(std::sync::Arc::ptr_eq(&before, &domains.by_name("a").unwrap()));
    let names: Vec<_> = domains.snapshot().iter().map(|d| d.name().to_owned()).collect();
    assert_eq!(names, ["d", "b", "a"]);
    assert_eq!(Changes::default().to_string(), "nothing");

    let client = |name: &str, listener: &str| ClientDomainSettings {
        ca_list: Some(ca.file.clone()),
        match_listener: vec![listener.into()],
        ..ClientDomainSettings::new(name)
    };
    let load =
        |others: &[ClientDomainSettings]| ClientDomains::load(&client("default", "*"), others).unwrap();
    let domains = load(&[client("a", "in-1"), client("b", "in-2")]);
    let key = |listener| domains.reuse_key("x.test", 1, Some(listener));
    let (first, second) = (key("in-1"), key("in-2"));
    let told = domains.replace(load(&[client("a", "in-1"), client("b", "in-3")]));
    assert_eq!(told, changes(&[], &["b"], &[]));
    assert_eq!(domains.select("x.test", "192.0.2.1:1".parse().unwrap(), Some("in-3")).name(), "b");
    // What connections are reused for changes with the domain.
    assert_eq!(key("in-1"), first);
    assert_ne!(key("in-3"), second);
    let _ = ClientDomain::load(&client("c", "*")).unwrap();
}
