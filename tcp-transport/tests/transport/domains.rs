//! TLS domains: loading them, and choosing among them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256};
use tcp_transport::tls::{
    AddressPattern, ClientDomain, ClientDomainSettings, ServerDomain, ServerDomainSettings, ServerDomains,
    SniPattern, TlsConfigError,
};

use crate::common::{Ca, Identity, Pki, server_settings};

fn load_error(settings: &ServerDomainSettings) -> String {
    ServerDomain::load(settings).unwrap_err().to_string()
}

#[test]
fn a_domain_that_cannot_be_loaded_names_file_and_reason() {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let one = pki.identity(&ca, "one", &["one.test"]);
    let two = pki.identity(&ca, "two", &["two.test"]);
    let with = |certificate: &std::path::Path, key: &std::path::Path| {
        load_error(&ServerDomainSettings::new("d", certificate, key))
    };

    let missing = pki.path("missing.crt");
    let text = with(&missing, &one.key);
    assert!(text.starts_with(&format!("{}: No such file", missing.display())), "{text}");

    let text = with(&one.key, &one.key);
    assert!(text.contains("one.key: no certificate in it"), "{text}");
    let text = with(&one.certificate, &one.certificate);
    assert!(text.contains("one.crt: no private key in it"), "{text}");
    let text = with(&one.certificate, &two.key);
    assert!(text.contains("two.key does not match the certificate in") && text.contains("one.crt"), "{text}");

    let broken = pki.write("broken.crt", "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n");
    let text = with(&broken, &one.key);
    assert!(text.contains("broken.crt: not valid PEM"), "{text}");
    let empty = pki.write("empty.crt", "");
    assert!(with(&empty, &one.key).contains("empty.crt: no certificate in it"));
    let encrypted = pki.write(
        "encrypted.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    assert!(with(&one.certificate, &encrypted).contains("encrypted.key: the private key is encrypted"));
    let nonsense =
        pki.write("nonsense.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let text = with(&one.certificate, &nonsense);
    assert!(text.contains("nonsense.key: the private key cannot be used"), "{text}");

    let mut settings = ServerDomainSettings::new("d", &one.certificate, &one.key);
    settings.ca_list = Some(pki.path("missing.pem"));
    assert!(load_error(&settings).contains("missing.pem: No such file"));
    settings.ca_list = Some(one.key.clone());
    assert!(load_error(&settings).contains("one.key: no certificate in it"));
}

#[test]
fn a_client_identity_is_whole_or_absent() {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let one = pki.identity(&ca, "one", &["one.test"]);
    let mut settings = ClientDomainSettings::new("d");
    settings.ca_list = Some(ca.file.clone());
    settings.certificate = Some(one.certificate.clone());
    assert!(matches!(ClientDomain::load(&settings), Err(TlsConfigError::HalfIdentity { .. })));
    settings.private_key = Some(one.key);
    assert_eq!(ClientDomain::load(&settings).unwrap().name(), "d");
}

#[test]
fn the_systems_cas_stand_in_for_a_missing_ca_list() {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let one = pki.identity(&ca, "one", &["one.test"]);
    // Whatever this machine has, also nothing: it is no error.
    ServerDomain::load(&ServerDomainSettings::new("d", &one.certificate, &one.key)).unwrap();
    ClientDomain::load(&ClientDomainSettings::new("d")).unwrap();
}

fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in STANDARD.encode(der).as_bytes().chunks(64) {
        text.push_str(std::str::from_utf8(line).unwrap());
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

#[test]
fn keys_are_read_in_all_three_forms() {
    let pki = Pki::new();
    // A PKCS#8 key is a header before the traditional form, which is its last OCTET STRING.
    for (label, key, header) in [
        ("RSA PRIVATE KEY", KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap(), 26),
        ("EC PRIVATE KEY", KeyPair::generate().unwrap(), 29),
    ] {
        let certificate = CertificateParams::new(vec!["a.test".into()]).unwrap().self_signed(&key).unwrap();
        let certificate = pki.write("a.crt", &certificate.pem());
        let der = key.serialize_der();
        for (label, der) in [("PRIVATE KEY", &der[..]), (label, &der[header..])] {
            let key = pki.write("a.key", &pem(label, der));
            let mut settings = ServerDomainSettings::new("d", &certificate, &key);
            settings.verify_cert = false;
            assert!(ServerDomain::load(&settings).is_ok(), "{label}: {:?}", ServerDomain::load(&settings));
        }
    }
}

fn domain(identity: &Identity, ca: &Ca, name: &str, sni: &[&str], addresses: &[&str]) -> ServerDomain {
    let mut settings = server_settings(name, identity, ca);
    settings.match_sip_domain = sni.iter().map(|p| p.parse::<SniPattern>().unwrap()).collect();
    settings.match_ip_address = addresses.iter().map(|p| p.parse::<AddressPattern>().unwrap()).collect();
    ServerDomain::load(&settings).unwrap()
}

#[test]
fn the_domain_is_chosen_by_name_and_address() {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let identity = pki.identity(&ca, "one", &["one.test"]);
    let make = |name, sni: &[&str], addresses: &[&str]| domain(&identity, &ca, name, sni, addresses);
    let domains = ServerDomains::new([
        make("listener", &[], &["192.0.2.99"]),
        make("exact", &["a.example.org", "b.example.org"], &[]),
        make("wild", &["*.example.org"], &[]),
        make("deep", &["*.deep.example.org"], &[]),
        make("inner", &["*.example.org"], &["10.0.0.1:2855"]),
        make("nameless", &["none"], &["10.0.0.1"]),
    ])
    .unwrap();
    let select = |address: &str, own: Option<&str>, sni: Option<&str>| {
        domains.select(address.parse().unwrap(), own, sni).map(|d| d.name().to_owned())
    };
    let outside = "203.0.113.1:2855";
    for (address, own, sni, expected) in [
        (outside, None, Some("a.example.org"), Some("exact")),
        (outside, None, Some("B.EXAMPLE.ORG."), Some("exact")),
        (outside, None, Some("c.example.org"), Some("wild")),
        (outside, None, Some("c.deep.example.org"), Some("deep")),
        // The more specific address wins among equal names, and only there.
        ("10.0.0.1:2855", None, Some("c.example.org"), Some("inner")),
        ("10.0.0.1:2855", None, Some("a.example.org"), Some("exact")),
        ("10.0.0.1:2856", None, Some("c.example.org"), Some("wild")),
        ("10.0.0.1:1", None, None, Some("nameless")),
        // Nobody's.
        (outside, None, None, None),
        (outside, None, Some("other.test"), None),
        ("192.0.2.99:1", None, Some("other.test"), Some("listener")),
        // The listener's own domain takes what nobody claims, whatever its addresses.
        (outside, Some("listener"), None, Some("listener")),
        (outside, Some("listener"), Some("other.test"), Some("listener")),
        (outside, Some("listener"), Some("a.example.org"), Some("exact")),
        ("10.0.0.1:1", Some("listener"), None, Some("nameless")),
        (outside, Some("exact"), Some("other.test"), Some("exact")),
    ] {
        assert_eq!(select(address, own, sni).as_deref(), expected, "{address} {own:?} {sni:?}");
    }
}

#[test]
fn of_two_equal_claims_the_earlier_one_counts() {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let identity = pki.identity(&ca, "one", &["one.test"]);
    let make = |name, sni: &[&str]| domain(&identity, &ca, name, sni, &[]);
    let domains =
        ServerDomains::new([make("first", &["a.test"]), make("second", &["a.test"]), make("any", &["*"])])
            .unwrap();
    let select =
        |own, sni| domains.select("10.0.0.1:1".parse().unwrap(), own, sni).unwrap().name().to_owned();
    assert_eq!(select(None, Some("a.test")), "first");
    assert_eq!(select(None, Some("b.test")), "any");
    assert_eq!(select(None, None), "any");
    assert_eq!(
        select(Some("second"), Some("b.test")),
        "second",
        "`*` claims nothing from a listener's own domain"
    );
}

#[test]
fn a_name_is_given_once() {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let identity = pki.identity(&ca, "one", &["one.test"]);
    let settings = [server_settings("d", &identity, &ca), server_settings("d", &identity, &ca)];
    assert_eq!(ServerDomains::load(&settings).unwrap_err().to_string(), "TLS domain d is defined twice");
}
