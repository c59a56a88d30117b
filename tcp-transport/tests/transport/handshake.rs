//! Handshakes: who is accepted, and what is known about the peer afterwards.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, date_time_ymd};
use tcp_transport::tls::{ClientDomain, ClientDomainSettings, HandshakeError, ServerDomain, ServerDomains};
use tcp_transport::{PeerCertificate, Stream};

use crate::common::{
    Ca, Identity, Pki, client_domain, handshake, patiently, server_domains, server_settings, tcp_pair,
};

/// A server that names `relay.test` and two addresses, and the CA of everybody in the test.
struct Setting {
    pki: Pki,
    ca: Ca,
    relay: Identity,
}

impl Setting {
    fn new() -> Self {
        let pki = Pki::new();
        let ca = pki.ca("ca");
        let relay = pki.identity(&ca, "relay", &["relay.test", "127.0.0.1", "2001:db8::1"]);
        Self { pki, ca, relay }
    }

    fn domains(&self, verify: bool, require: bool) -> Arc<ServerDomains> {
        let mut settings = server_settings("relay", &self.relay, &self.ca);
        settings.verify_cert = verify;
        settings.require_cert = require;
        server_domains(&settings)
    }

    fn expired(&self) -> Identity {
        self.pki.identity_with(&self.ca, "expired", &["old.test"], |p: &mut CertificateParams| {
            p.not_before = date_time_ymd(2001, 1, 1);
            p.not_after = date_time_ymd(2002, 1, 1);
        })
    }

    fn stranger(&self) -> Identity {
        self.pki.identity(&self.pki.ca("other"), "stranger", &["peer.test"])
    }

    /// What the server knows about a client with this certificate.
    async fn judged(&self, domains: &ServerDomains, identity: Option<&Identity>) -> PeerCertificate {
        let (server, client) = handshake(domains, &client_domain(&self.ca, identity), "relay.test").await;
        client.unwrap();
        server.unwrap().tls().unwrap().peer().clone()
    }
}

fn reason(peer: PeerCertificate) -> String {
    match peer {
        PeerCertificate::Unverified { reason } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_optional_client_certificate_is_recorded_never_refused() {
    let setting = Setting::new();
    let domains = setting.domains(true, false);
    assert_eq!(setting.judged(&domains, None).await, PeerCertificate::None);
    assert_eq!(reason(setting.judged(&domains, Some(&setting.stranger())).await), "not issued by a known CA");
    assert_eq!(reason(setting.judged(&domains, Some(&setting.expired())).await), "expired");

    let server_only = setting.pki.identity_with(&setting.ca, "eku", &["peer.test"], |p| {
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    assert_eq!(
        reason(setting.judged(&domains, Some(&server_only)).await),
        "its extended key usage does not allow this use"
    );

    let peer = setting.pki.identity(&setting.ca, "peer", &["Peer.Test", "*.wild.test", "192.0.2.7"]);
    let peer = setting.judged(&domains, Some(&peer)).await;
    let PeerCertificate::Verified { dns_names, ip_addresses } = &peer else { panic!("{peer:?}") };
    assert_eq!(dns_names, &["peer.test", "*.wild.test"]);
    assert_eq!(ip_addresses, &["192.0.2.7".parse::<IpAddr>().unwrap()]);
    assert!(peer.matches_host("PEER.test") && peer.matches_host("192.0.2.7"));
    assert!(!peer.matches_host("a.wild.test"));
}

#[tokio::test]
async fn no_certificate_is_asked_for_without_verify_cert() {
    let setting = Setting::new();
    let peer = setting.pki.identity(&setting.ca, "peer", &["peer.test"]);
    for require in [false, true] {
        let domains = setting.domains(false, require);
        assert_eq!(setting.judged(&domains, Some(&peer)).await, PeerCertificate::None);
    }
}

#[tokio::test]
async fn a_required_client_certificate_must_be_there_and_verify() {
    let setting = Setting::new();
    let domains = setting.domains(true, true);
    let refused = async |identity: Option<&Identity>| {
        let (server, client) = handshake(&domains, &client_domain(&setting.ca, identity), "relay.test").await;
        // TLS 1.3 lets the client finish first; then the refusal comes with its first read.
        if let Ok(client) = client {
            assert!(client.read(&mut BytesMut::new(), 100).await.is_err());
        }
        server.unwrap_err().to_string()
    };
    assert_eq!(
        refused(None).await,
        "the TLS domain requires a client certificate and the client presented none"
    );
    assert_eq!(
        refused(Some(&setting.stranger())).await,
        "peer certificate refused: not issued by a known CA"
    );
    assert_eq!(refused(Some(&setting.expired())).await, "peer certificate refused: expired");
    let peer = setting.pki.identity(&setting.ca, "peer", &["peer.test"]);
    assert!(setting.judged(&domains, Some(&peer)).await.matches_host("peer.test"));
}

#[tokio::test]
async fn a_client_must_hold_the_key_of_its_certificate_even_if_nobody_vouches_for_it() {
    // The certificate of one, the key of another: rustls itself would refuse to be such a client, so
    // the mismatch is made below our own loading, with a resolver that does not check.
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    let setting = Setting::new();
    let (one, two) = (setting.stranger(), setting.pki.identity(&setting.ca, "two", &["two.test"]));
    let key =
        rustls::crypto::aws_lc_rs::sign::any_supported_type(&PrivateKeyDer::from_pem_file(&one.key).unwrap())
            .unwrap();
    let chain = vec![CertificateDer::from_pem_file(&two.certificate).unwrap()];
    let stolen = rustls::sign::CertifiedKey::new(chain, key);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&setting.ca.file).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(stolen.clone())));
        let (accepted, connected) = tcp_pair().await;
        let peer = accepted.peer_addr().unwrap();
        let domains = setting.domains(true, false);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("relay.test").unwrap();
        let (server, _client) = tokio::join!(
            tcp_transport::tls::accept(accepted, peer, &domains, None, Duration::from_secs(30)),
            connector.connect(name, connected)
        );
        let error = server.unwrap_err().to_string();
        assert!(error.contains("signature"), "{version:?}: {error}");
    }
}

/// Has the client take the session tickets that the server sends behind the handshake.
async fn take_tickets(server: &Stream, client: &Stream) {
    server.write_all(b"!").await.unwrap();
    patiently("byte", client.read(&mut BytesMut::new(), 100)).await.unwrap();
}

#[tokio::test]
async fn a_resumed_session_knows_the_same_about_the_client() {
    let setting = Setting::new();
    let domains = setting.domains(true, false);
    let peer = setting.pki.identity(&setting.ca, "peer", &["peer.test"]);
    let stranger = setting.stranger();
    for identity in [Some(&peer), Some(&stranger), None] {
        let client_domain = client_domain(&setting.ca, identity);
        let mut first = None;
        for round in 0..3 {
            let (server, client) = handshake(&domains, &client_domain, "relay.test").await;
            let (server, client) = (server.unwrap(), client.unwrap());
            take_tickets(&server, &client).await;
            let info = server.tls().unwrap();
            assert_eq!((info.resumed(), client.tls().unwrap().resumed()), (round > 0, round > 0));
            assert_eq!(first.get_or_insert(info.peer().clone()), info.peer());
            assert!(client.tls().unwrap().peer().matches_host("relay.test"));
        }
    }
}

#[tokio::test]
async fn the_servers_certificate_must_be_for_the_host() {
    let setting = Setting::new();
    let domains = setting.domains(true, false);
    let client = client_domain(&setting.ca, None);
    for host in ["relay.test", "RELAY.test", "relay.test.", "127.0.0.1", "2001:db8::1", "[2001:db8::1]"] {
        let (server, stream) = handshake(&domains, &client, host).await;
        let stream = stream.unwrap_or_else(|e| panic!("{host}: {e}"));
        assert!(stream.tls().unwrap().peer().matches_host(host), "{host}");
        let sni = server.unwrap().tls().unwrap().sni().map(str::to_ascii_lowercase);
        assert_eq!(sni.as_deref(), host.to_ascii_lowercase().starts_with("relay").then_some("relay.test"));
    }
    for (host, expected) in [
        ("other.test", "peer certificate refused: made for"),
        ("x.relay.test", "peer certificate refused: made for"),
        ("127.0.0.2", "peer certificate refused: made for"),
        ("not a host", "\"not a host\" is not a name a certificate can be checked against"),
    ] {
        let (server, stream) = handshake(&domains, &client, host).await;
        let error = stream.unwrap_err().to_string();
        assert!(error.starts_with(expected), "{host}: {error}");
        assert!(server.is_err());
    }
}

#[tokio::test]
async fn an_alert_says_what_the_peer_thinks_of_us() {
    let setting = Setting::new();
    let (server, client) = handshake(
        &setting.domains(true, false),
        &client_domain(&setting.pki.ca("other"), None),
        "relay.test",
    )
    .await;
    assert_eq!(client.unwrap_err().to_string(), "peer certificate refused: not issued by a known CA");
    assert_eq!(server.unwrap_err().to_string(), "peer refused the TLS handshake: UnknownCA");
}

#[tokio::test]
async fn a_common_name_is_no_host() {
    let setting = Setting::new();
    let nameless = setting.pki.identity(&setting.ca, "relay.test", &[]);
    let domains = server_domains(&server_settings("relay", &nameless, &setting.ca));
    let (_, client) = handshake(&domains, &client_domain(&setting.ca, None), "relay.test").await;
    let error = client.unwrap_err().to_string();
    assert_eq!(error, "peer certificate refused: it names no host in subjectAltName, relay.test is wanted");
}

#[tokio::test]
async fn a_name_does_not_vouch_for_an_address() {
    let setting = Setting::new();
    let named = setting.pki.identity(&setting.ca, "named", &["relay.test"]);
    let domains = server_domains(&server_settings("relay", &named, &setting.ca));
    let (_, client) = handshake(&domains, &client_domain(&setting.ca, None), "127.0.0.1").await;
    assert!(client.unwrap_err().to_string().starts_with("peer certificate refused: made for"));
}

#[tokio::test]
async fn without_verify_cert_anybody_is_a_server_and_nobody_is_verified() {
    let setting = Setting::new();
    let mut settings = ClientDomainSettings::new("careless");
    settings.verify_cert = false;
    let domain = ClientDomain::load(&settings).unwrap();
    let (_, client) = handshake(&setting.domains(true, false), &domain, "other.test").await;
    let client = client.unwrap();
    assert_eq!(client.tls().unwrap().domain(), "careless");
    assert_eq!(reason(client.tls().unwrap().peer().clone()), "verify_cert is off");
}

#[tokio::test]
async fn the_server_name_chooses_the_certificate() {
    let setting = Setting::new();
    let make = |name: &str, sni: &[&str]| {
        let identity = setting.pki.identity(&setting.ca, name, &[&format!("{name}.test"), "127.0.0.1"]);
        let mut settings = server_settings(name, &identity, &setting.ca);
        settings.match_sip_domain = sni.iter().map(|p| p.parse().unwrap()).collect();
        ServerDomain::load(&settings).unwrap()
    };
    let domains =
        ServerDomains::new([make("one", &["one.test"]), make("two", &["two.test"]), make("bare", &["none"])])
            .unwrap();
    let client = client_domain(&setting.ca, None);
    for (host, domain) in [("one.test", "one"), ("two.test", "two"), ("127.0.0.1", "bare")] {
        let (server, client) = handshake(&domains, &client, host).await;
        assert_eq!(server.unwrap().tls().unwrap().domain(), domain);
        assert!(client.unwrap().tls().unwrap().peer().matches_host(&format!("{domain}.test")));
    }
    let (server, client) = handshake(&domains, &client, "three.test").await;
    let error = server.unwrap_err();
    assert!(
        matches!(&error, HandshakeError::NoDomain { sni: Some(sni), .. } if sni == "three.test"),
        "{error}"
    );
    assert_eq!(client.unwrap_err().to_string(), "peer refused the TLS handshake: UnrecognisedName");
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken() {
    use rustls::pki_types::pem::PemObject as _;
    let setting = Setting::new();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(&setting.ca.file).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    for (version, text) in [(&rustls::version::TLS12, "TLSv1.2"), (&rustls::version::TLS13, "TLSv1.3")] {
        let config = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        let (accepted, connected) = tcp_pair().await;
        let peer = accepted.peer_addr().unwrap();
        let domains = setting.domains(true, false);
        let (server, client) = tokio::join!(
            tcp_transport::tls::accept(accepted, peer, &domains, None, Duration::from_secs(30)),
            tokio_rustls::TlsConnector::from(Arc::new(config))
                .connect("relay.test".try_into().unwrap(), connected)
        );
        client.unwrap();
        let server = server.unwrap();
        let info = server.tls().unwrap();
        assert_eq!(info.version(), text);
        assert!(info.cipher().starts_with("TLS"), "{}", info.cipher());
    }
}
