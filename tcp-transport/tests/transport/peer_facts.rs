//! What is known about a peer's certificate, for policy, logs, traces and the admin interface.

use std::time::SystemTime;

use rcgen::{CertificateParams, DnType, SanType, date_time_ymd};
use tcp_transport::tls::{PeerFacts, Verification, VerifyFailure};

use crate::common::{Ca, Identity, Pki, client_domain, handshake, server_domains, server_settings};

/// What the server knows about a client with this certificate, and what it logs.
async fn facts(pki: &Pki, ca: &Ca, identity: Option<&Identity>) -> (Option<PeerFacts>, String) {
    let relay = pki.identity_with(ca, "relay", &["relay.test"], |p| p.serial_number = Some(0x0102.into()));
    let domains = server_domains(&server_settings("relay", &relay, ca));
    let (server, _client) = handshake(&domains, &client_domain(ca, identity), "relay.test").await;
    let server = server.unwrap();
    let tls = server.tls().unwrap();
    assert_eq!(tls.own_certificate().unwrap().serial, "01:02");
    assert_eq!(tls.own_certificate().unwrap().dns_names, ["relay.test"]);
    (tls.peer_facts().cloned(), tls.to_string())
}

#[tokio::test]
async fn all_that_a_certificate_says_is_known() {
    let pki = Pki::new();
    let ca = pki.ca("Facts CA");
    let peer = pki.identity_with(&ca, "peer", &["Peer.Test", "192.0.2.7"], |p: &mut CertificateParams| {
        p.serial_number = Some(0x1a2b.into());
        p.not_before = date_time_ymd(2024, 1, 2);
        p.not_after = date_time_ymd(2098, 3, 4);
        for (part, value) in [
            (DnType::CountryName, "AT"),
            (DnType::StateOrProvinceName, "Vienna"),
            (DnType::LocalityName, "Wieden"),
            (DnType::OrganizationName, "enum.at"),
            (DnType::OrganizationalUnitName, "Relays"),
        ] {
            p.distinguished_name.push(part, value);
        }
        p.subject_alt_names.push(SanType::URI("sip:peer.test".try_into().unwrap()));
        p.subject_alt_names.push(SanType::Rfc822Name("admin@peer.test".try_into().unwrap()));
    });
    let (facts, log) = facts(&pki, &ca, Some(&peer)).await;
    let PeerFacts { certificate, verification } = facts.unwrap();
    assert_eq!(verification, Verification::Verified);
    assert_eq!((certificate.version, certificate.serial.as_str()), (3, "1a:2b"));
    let subject = &certificate.subject;
    let part = |part: &Option<String>| part.clone().unwrap();
    assert_eq!(part(&subject.common_name), "peer");
    assert_eq!(
        (part(&subject.country), part(&subject.state), part(&subject.locality)),
        ("AT".into(), "Vienna".into(), "Wieden".into())
    );
    assert_eq!((part(&subject.organization), part(&subject.unit)), ("enum.at".into(), "Relays".into()));
    assert!(subject.name.contains("O=enum.at") && subject.name.contains("CN=peer"), "{}", subject.name);
    assert_eq!(part(&certificate.issuer.common_name), "Facts CA");
    assert_eq!(certificate.dns_names, ["peer.test"]);
    assert_eq!(certificate.ip_addresses, ["192.0.2.7".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(
        (certificate.uris[0].as_str(), certificate.emails[0].as_str()),
        ("sip:peer.test", "admin@peer.test")
    );
    assert!(!certificate.self_signed && !certificate.is_expired(SystemTime::now()));
    assert_eq!(certificate.not_before, SystemTime::from(date_time_ymd(2024, 1, 2)));
    assert_eq!(certificate.not_after, SystemTime::from(date_time_ymd(2098, 3, 4)));
    assert_eq!(certificate.fingerprint().len(), 64);
    for part in [
        "TLSv1.3 TLS13_AES_256_GCM_SHA384 X25519",
        "domain=relay",
        "sni=relay.test",
        "CN=peer",
        "peer.test 192.0.2.7",
        "1a:2b",
        "until 2098-03-04",
        ", verified",
    ] {
        assert!(log.contains(part), "{part} in {log}");
    }
}

#[tokio::test]
async fn why_a_certificate_did_not_verify_is_known() {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let (none, log) = facts(&pki, &ca, None).await;
    assert!(none.is_none() && log.ends_with("peer=(none)"), "{log}");
    let stranger = pki.identity(&pki.ca("other"), "stranger", &["peer.test"]);
    let dated = |name: &str, from: i32, until: i32| {
        pki.identity_with(&ca, name, &["peer.test"], |p| {
            p.not_before = date_time_ymd(from, 1, 1);
            p.not_after = date_time_ymd(until, 1, 1);
        })
    };
    for (identity, expected, words) in [
        (&stranger, VerifyFailure::UnknownIssuer, "not issued by a known CA"),
        (&dated("old", 2001, 2002), VerifyFailure::Expired, "expired"),
        (&dated("new", 2097, 2098), VerifyFailure::NotYetValid, "not valid yet"),
    ] {
        let (facts, log) = facts(&pki, &ca, Some(identity)).await;
        let facts = facts.unwrap();
        let Verification::Failed { cause, reason } = &facts.verification else { panic!("{facts:?}") };
        assert_eq!((*cause, reason.as_str()), (expected, words));
        assert_eq!(facts.certificate.dns_names, ["peer.test"], "what it claims is shown all the same");
        assert!(log.contains(&format!("not verified: {words}")), "{log}");
        assert_eq!(facts.certificate.is_expired(SystemTime::now()), expected == VerifyFailure::Expired);
    }
    // A self-signed one.
    let key = rcgen::KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["peer.test".into()]).unwrap().self_signed(&key).unwrap();
    let own = Identity {
        certificate: pki.write("own.crt", &own.pem()),
        key: pki.write("own.key", &key.serialize_pem()),
    };
    let (facts, _) = facts(&pki, &ca, Some(&own)).await;
    assert!(facts.unwrap().certificate.self_signed);
}
