//! The decisions about certificates that the RFCs leave open, or that surprise: wildcards, and what a
//! certificate may be used for. `docs/migration.md` tells them to operators.

use rcgen::ExtendedKeyUsagePurpose as Usage;
use tcp_transport::PeerCertificate;
use tcp_transport::tls::{
    ClientDomain, ClientDomainSettings, HandshakeError, PeerFacts, Verification, VerifyFailure,
};

use crate::common::{Pki, client_domain, handshake, server_domains, server_settings};

/// id-kp-sipDomain (RFC 5924 §4).
const SIP_DOMAIN: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 20];

fn usages() -> [(&'static str, Vec<Usage>, bool, bool); 6] {
    let sip = || Usage::Other(SIP_DOMAIN.to_vec());
    // For a client, for a server.
    [
        ("none", vec![], true, true),
        ("client", vec![Usage::ClientAuth], true, false),
        ("server", vec![Usage::ServerAuth], false, true),
        ("both", vec![Usage::ServerAuth, Usage::ClientAuth], true, true),
        ("any", vec![Usage::Any], false, false),
        ("sip", vec![sip()], false, false),
    ]
}

/// RFC 5280 §4.2.1.12: a certificate that says what it is for is for nothing else.
#[tokio::test]
async fn a_certificate_is_good_only_for_what_its_extended_key_usage_names() {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let relay = pki.identity(&ca, "relay", &["relay.test"]);
    for (name, usages, for_client, for_server) in usages() {
        let identity = pki.identity_with(&ca, name, &["relay.test"], |p| p.extended_key_usages = usages);
        for required in [false, true] {
            let mut settings = server_settings("relay", &relay, &ca);
            settings.require_cert = required;
            let client = client_domain(&ca, Some(&identity));
            let (server, _) = handshake(&server_domains(&settings), &client, "relay.test").await;
            match (server, for_client, required) {
                (Ok(stream), true, _) => assert!(stream.tls().unwrap().peer().is_verified(), "{name}"),
                // A server's certificate makes no relay of its holder; where none is required, it is as if it
                // had shown none.
                (Ok(stream), false, false) => {
                    let tls = stream.tls().unwrap();
                    assert!(!tls.peer().is_verified() && !tls.peer().matches_host("relay.test"), "{name}");
                    let Some(PeerFacts { verification: Verification::Failed { cause, reason }, .. }) =
                        tls.peer_facts()
                    else {
                        panic!("{name}: {tls}")
                    };
                    assert_eq!(*cause, VerifyFailure::Other);
                    assert_eq!(reason, "its extended key usage does not allow this use");
                }
                (Err(error), false, true) => {
                    assert!(error.to_string().contains("extended key usage"), "{name}: {error}");
                }
                (outcome, ..) => panic!("{name}, required {required}: {outcome:?}"),
            }
        }
        let domains = server_domains(&server_settings("relay", &identity, &ca));
        let (_, connected) = handshake(&domains, &client_domain(&ca, None), "relay.test").await;
        match connected {
            Ok(_) => assert!(for_server, "{name}"),
            Err(error) => {
                assert!(!for_server && error.to_string().contains("extended key usage"), "{name}: {error}");
            }
        }
    }
}

/// A server may show a wildcard (RFC 9525 §6.3): the relays of a domain may share a certificate, and MSRP
/// does not forbid it. It stands for one whole label.
#[tokio::test]
async fn a_wildcard_in_a_servers_certificate_stands_for_one_label() {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let identity = pki.identity(&ca, "farm", &["*.relay.test"]);
    let domains = server_domains(&server_settings("relay", &identity, &ca));
    for (host, good) in
        [("a.relay.test", true), ("A.Relay.test", true), ("relay.test", false), ("a.b.relay.test", false)]
    {
        let (_, connected) = handshake(&domains, &client_domain(&ca, None), host).await;
        match connected {
            Ok(stream) => {
                assert!(good, "{host}");
                assert!(stream.tls().unwrap().peer().is_verified());
            }
            Err(error) => {
                assert!(
                    !good && matches!(error, HandshakeError::PeerCertificate { .. }),
                    "{host}: {error:?}"
                );
            }
        }
    }
}

/// Nor is it ever a relay's identity: it says which domain somebody belongs to, not who it is (RFC 5922 §7.2
/// forbids it to SIP for the same reason).
#[tokio::test]
async fn a_wildcard_in_a_clients_certificate_is_nobodys_name() {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let relay = pki.identity(&ca, "relay", &["relay.test"]);
    let farm = pki.identity(&ca, "farm", &["*.peer.test", "one.peer.test"]);
    let domains = server_domains(&server_settings("relay", &relay, &ca));
    let (server, _) = handshake(&domains, &client_domain(&ca, Some(&farm)), "relay.test").await;
    let server = server.unwrap();
    let peer = server.tls().unwrap().peer();
    assert!(peer.is_verified() && peer.matches_host("one.peer.test"));
    for host in ["two.peer.test", "*.peer.test", "peer.test"] {
        assert!(!peer.matches_host(host), "{host}");
    }
}

/// `verify_cert: false` in a client domain: what the server shows is known, and worth nothing.
#[tokio::test]
async fn a_certificate_that_nobody_checks_is_shown_and_proves_nothing() {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let relay = pki.identity(&ca, "relay", &["relay.test"]);
    let domains = server_domains(&server_settings("relay", &relay, &ca));
    let mut settings = ClientDomainSettings::new("careless");
    settings.verify_cert = false;
    // Not even CAs that would vouch for it make a difference.
    for ca_list in [None, Some(ca.file.clone())] {
        settings.ca_list = ca_list;
        let domain = ClientDomain::load(&settings).unwrap();
        for (resumed, host) in [(false, "relay.test"), (false, "other.test"), (true, "relay.test")] {
            let (server, client) = handshake(&domains, &domain, host).await;
            let (server, client) = (server.unwrap(), client.unwrap());
            let tls = client.tls().unwrap();
            let PeerFacts { certificate, verification } = tls.peer_facts().unwrap();
            assert_eq!(*verification, Verification::NotChecked);
            assert_eq!(certificate.dns_names, ["relay.test"]);
            assert!(
                matches!(tls.peer(), PeerCertificate::Unverified { reason } if reason == "verify_cert is off")
            );
            assert!(!tls.peer().is_verified() && !tls.peer().matches_host("relay.test"));
            assert!(tls.to_string().ends_with(", not checked)"), "{tls}");
            assert_eq!(tls.resumed(), resumed, "{host}");
            // The tickets of TLS 1.3 come with the first bytes.
            server.write_all(b"x").await.unwrap();
            assert_eq!(crate::common::read_up_to(&client, 1).await, b"x");
        }
    }
}
