//! The settings of a TLS domain, each by what happens in a handshake.

use std::fs;
use std::time::{Duration, SystemTime};

use rcgen::date_time_ymd;
use tcp_transport::tls::{
    ClientDomain, ClientDomainSettings, DEFAULT_EXPIRY_WARNING, ExpiryKind, ServerDomain,
    ServerDomainSettings,
};
use tcp_transport::{PeerCertificate, Stream, TlsInfo};

use crate::common::{Ca, Identity, Pki, handshake, server_domains, server_settings};

const HOST: &str = "relay.test";

fn client_settings(ca: &Ca) -> ClientDomainSettings {
    let mut settings = ClientDomainSettings::new("hop");
    settings.ca_list = Some(ca.file.clone());
    settings
}

fn presenting(ca: &Ca, identity: &Identity) -> ClientDomainSettings {
    let mut settings = client_settings(ca);
    settings.certificate = Some(identity.certificate.clone());
    settings.private_key = Some(identity.key.clone());
    settings
}

/// Both ends of a handshake, or why there are none.
async fn ends(
    server: &ServerDomainSettings,
    client: &ClientDomainSettings,
) -> Result<(Stream, Stream), String> {
    let (server, client) =
        handshake(&server_domains(server), &ClientDomain::load(client).unwrap(), HOST).await;
    match (server, client) {
        (Ok(server), Ok(client)) => Ok((server, client)),
        (server, client) => {
            let text = |side: Result<Stream, _>| {
                side.err().map(|e: tcp_transport::tls::HandshakeError| e.to_string())
            };
            Err(format!("{:?} / {:?}", text(server), text(client)))
        }
    }
}

/// What both ends settled on.
async fn settled(server: &ServerDomainSettings, client: &ClientDomainSettings) -> Result<TlsInfo, String> {
    ends(server, client).await.map(|(server, client)| {
        let (server, client) = (server.tls().unwrap().clone(), client.tls().unwrap());
        assert_eq!((server.version(), server.cipher()), (client.version(), client.cipher()));
        assert_eq!(server.key_exchange(), client.key_exchange());
        server
    })
}

fn pki() -> (Pki, Ca, Identity) {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let relay = pki.identity(&ca, "relay", &[HOST]);
    (pki, ca, relay)
}

#[tokio::test]
async fn tls_method_bounds_the_version_on_either_side() {
    let (_pki, ca, relay) = pki();
    for (server, client, expected) in [
        ("-", "-", Some("TLSv1.3")),
        ("TLSv1_2", "-", Some("TLSv1.2")),
        ("-", "TLSv1_2", Some("TLSv1.2")),
        ("TLSv1_3", "-", Some("TLSv1.3")),
        ("1.2-1.3", "-TLSv1_2", Some("TLSv1.2")),
        ("TLSv1_3", "TLSv1_2", None),
        ("TLSv1_2", "TLSv1_3", None),
    ] {
        let mut server_side = server_settings("relay", &relay, &ca);
        server_side.tls_method = server.parse().unwrap();
        let mut client_side = client_settings(&ca);
        client_side.tls_method = client.parse().unwrap();
        let version = settled(&server_side, &client_side).await.ok().map(|info| info.version());
        assert_eq!(version, expected, "{server} {client}");
    }
}

#[tokio::test]
async fn ciphers_list_bounds_the_suites_on_either_side() {
    let (_pki, ca, relay) = pki();
    let (one, other) = ("TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256");
    for (server, client, expected) in [
        (vec![], vec![one], Some(("TLS13_AES_128_GCM_SHA256", 128))),
        (vec![other], vec![], Some(("TLS13_CHACHA20_POLY1305_SHA256", 256))),
        // A list without a suite of TLS 1.3 leaves TLS 1.2, for which the key is an ECDSA one here.
        (
            vec!["ECDHE-ECDSA-AES128-GCM-SHA256"],
            vec![],
            Some(("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", 128)),
        ),
        (vec![one], vec![other], None),
    ] {
        let parse = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        let mut server_side = server_settings("relay", &relay, &ca);
        server_side.ciphers_list = parse(&server);
        let mut client_side = client_settings(&ca);
        client_side.ciphers_list = parse(&client);
        let info = settled(&server_side, &client_side).await.ok();
        let found = info.map(|info| (info.cipher(), info.cipher_bits().unwrap()));
        assert_eq!(found, expected, "{server:?} {client:?}");
    }
    let mut impossible = server_settings("relay", &relay, &ca);
    impossible.tls_method = "TLSv1_2".parse().unwrap();
    impossible.ciphers_list = vec![one.parse().unwrap()];
    let error = ServerDomain::load(&impossible).unwrap_err().to_string();
    assert_eq!(error, "TLS domain relay: no suite in `ciphers_list` is one of TLSv1.2 (`tls_method`)");
}

#[tokio::test]
async fn ec_curve_bounds_the_key_exchange_on_either_side() {
    let (_pki, ca, relay) = pki();
    for (server, client, expected) in [
        (None, None, Some("X25519")),
        (Some("prime256v1"), None, Some("P-256")),
        (None, Some("P-384"), Some("P-384")),
        (Some("X25519MLKEM768"), None, Some("X25519MLKEM768")),
        (Some("P-256"), Some("P-384"), None),
    ] {
        let mut server_side = server_settings("relay", &relay, &ca);
        server_side.ec_curve = server.iter().map(|name| name.parse().unwrap()).collect();
        let mut client_side = client_settings(&ca);
        client_side.ec_curve = client.iter().map(|name| name.parse().unwrap()).collect();
        let curve = settled(&server_side, &client_side).await.ok().map(|info| info.key_exchange().unwrap());
        assert_eq!(curve, expected, "{server:?} {client:?}");
    }
}

#[tokio::test]
async fn the_cas_of_a_directory_are_trusted_besides_those_of_the_file() {
    let (pki, ca, relay) = pki();
    let (other, stranger) = (pki.ca("other"), pki.ca("stranger"));
    let by_other = pki.identity(&other, "by-other", &["peer.test"]);
    let by_stranger = pki.identity(&stranger, "by-stranger", &["peer.test"]);
    let directory = pki.directory("cas");
    fs::copy(&other.file, directory.join("other.pem")).unwrap();
    // As `openssl rehash` leaves a directory: the same once more, under its hash; and what is no CA.
    std::os::unix::fs::symlink("other.pem", directory.join("01234567.0")).unwrap();
    fs::write(directory.join("README"), "no certificate").unwrap();
    fs::create_dir(directory.join("more")).unwrap();

    for (with_list, with_dir) in [(true, false), (false, true), (true, true)] {
        let mut server = server_settings("relay", &relay, &ca);
        server.ca_list = with_list.then(|| ca.file.clone());
        server.ca_dir = with_dir.then(|| directory.clone());
        let by_ca = pki.identity(&ca, "by-ca", &["peer.test"]);
        for (identity, expected) in [(&by_ca, with_list), (&by_other, with_dir), (&by_stranger, false)] {
            let info = settled(&server, &presenting(&ca, identity)).await.unwrap();
            assert_eq!(info.peer().is_verified(), expected, "{with_list} {with_dir} {identity:?}");
        }
    }
    // A client's, the same.
    let mut client = ClientDomainSettings::new("hop");
    client.ca_dir = Some(directory.clone());
    assert!(settled(&server_settings("relay", &relay, &ca), &client).await.is_err());
    fs::copy(&ca.file, directory.join("ca.pem")).unwrap();
    assert!(settled(&server_settings("relay", &relay, &ca), &client).await.is_ok());

    client.ca_dir = Some(pki.directory("empty"));
    let error = ClientDomain::load(&client).unwrap_err().to_string();
    assert!(error.contains("empty: no certificate in any of its files"), "{error}");
    client.ca_dir = Some(pki.path("missing"));
    assert!(ClientDomain::load(&client).unwrap_err().to_string().contains("missing: No such file"));
    fs::write(directory.join("broken.pem"), "-----BEGIN CERTIFICATE-----\n???\n-----END CERTIFICATE-----\n")
        .unwrap();
    client.ca_dir = Some(directory);
    assert!(ClientDomain::load(&client).unwrap_err().to_string().contains("broken.pem: not valid PEM"));
}

/// Root, an intermediate that it revoked, and one certificate by each of them, not revoked itself.
#[tokio::test]
async fn crl_check_all_looks_at_the_whole_chain_and_else_at_the_leaf_alone() {
    let (pki, ca, relay) = pki();
    let middle = pki.intermediate(&ca, "middle", 77);
    let with_serial = |serial: u64| {
        let name = format!("leaf{serial}");
        let leaf =
            pki.identity_with(&middle, &name, &["peer.test"], |p| p.serial_number = Some(serial.into()));
        let chain =
            fs::read_to_string(&leaf.certificate).unwrap() + &fs::read_to_string(&middle.file).unwrap();
        fs::write(&leaf.certificate, chain).unwrap();
        leaf
    };
    let (good, revoked) = (with_serial(1), with_serial(2));
    let crls = pki.directory("crls");
    pki.crl(&ca, "crls/root.pem", &[77], 2099);
    pki.crl(&middle, "crls/middle.pem", &[2], 2099);

    for (crl_dir, crl_check_all, identity, expected) in [
        (false, false, &good, None),
        (false, false, &revoked, None),
        (true, false, &good, None),
        (true, false, &revoked, Some("revoked")),
        (true, true, &good, Some("revoked")),
        (true, true, &revoked, Some("revoked")),
    ] {
        let mut server = server_settings("relay", &relay, &ca);
        server.crl_dir = crl_dir.then(|| crls.clone());
        server.crl_check_all = crl_check_all;
        let info = settled(&server, &presenting(&ca, identity)).await.unwrap();
        let found = match info.peer() {
            PeerCertificate::Unverified { reason } => Some(reason.as_str()),
            PeerCertificate::Verified { .. } => None,
            PeerCertificate::None => panic!("no certificate"),
        };
        assert_eq!(found, expected, "{crl_dir} {crl_check_all} {identity:?}");
        // Where one is required, it is the end of the handshake.
        server.require_cert = true;
        let outcome = ends(&server, &presenting(&ca, identity)).await;
        if let Some(reason) = expected {
            assert!(outcome.unwrap_err().contains(&format!("peer certificate refused: {reason}")));
        } else {
            assert!(outcome.is_ok());
        }
    }
    // The same the other way round: a client and the server's chain.
    for (crl_check_all, identity, expected) in
        [(false, &good, true), (false, &revoked, false), (true, &good, false)]
    {
        let mut client = client_settings(&ca);
        client.crl_dir = Some(crls.clone());
        client.crl_check_all = crl_check_all;
        let (_, connected) = handshake(
            &server_domains(&server_settings("relay", identity, &ca)),
            &ClientDomain::load(&client).unwrap(),
            "peer.test",
        )
        .await;
        match connected {
            Ok(_) => assert!(expected),
            Err(e) => assert!(!expected && e.to_string() == "peer certificate refused: revoked", "{e}"),
        }
    }
}

#[tokio::test]
async fn with_crls_a_certificate_that_none_speaks_for_does_not_verify() {
    let (pki, ca, relay) = pki();
    let peer = pki.identity(&ca, "peer", &["peer.test"]);
    let other = pki.ca("other");
    let crls = pki.directory("crls");
    let reason = async || {
        let mut server = server_settings("relay", &relay, &ca);
        server.crl_dir = Some(crls.clone());
        match settled(&server, &presenting(&ca, &peer)).await.unwrap().peer() {
            PeerCertificate::Unverified { reason } => reason.clone(),
            other => format!("{other:?}"),
        }
    };
    pki.crl(&other, "crls/other.pem", &[], 2099);
    assert_eq!(reason().await, "no CRL in crl_dir speaks for its issuer");
    pki.crl(&ca, "crls/ca.pem", &[], 2021);
    assert_eq!(reason().await, "the CRL of its issuer has expired");
    pki.crl(&ca, "crls/ca.pem", &[], 2099);
    assert!(reason().await.starts_with("Verified"));

    // The same for a client domain, which refuses such a server.
    let connected = async || {
        let mut client = client_settings(&ca);
        client.crl_dir = Some(crls.clone());
        let domains = server_domains(&server_settings("relay", &peer, &ca));
        let (_, connected) = handshake(&domains, &ClientDomain::load(&client).unwrap(), "peer.test").await;
        connected.map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(connected().await, Ok(()));
    pki.crl(&ca, "crls/ca.pem", &[], 2021);
    assert_eq!(connected().await.unwrap_err(), "peer certificate refused: the CRL of its issuer has expired");
    pki.write("crls/ca.pem", "");
    let unknown = "peer certificate refused: no CRL in crl_dir speaks for its issuer";
    assert_eq!(connected().await.unwrap_err(), unknown);

    let load = |directory| {
        let mut settings = server_settings("relay", &relay, &ca);
        settings.crl_dir = Some(directory);
        ServerDomain::load(&settings).unwrap_err().to_string()
    };
    assert!(load(pki.directory("empty")).contains("empty: no CRL in any of its files"));
    let broken = pki.directory("broken");
    pki.write("broken/a.crl", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    assert!(load(broken).contains("a.crl: not a well-formed CRL"));
    let old = pki.directory("old");
    pki.write("old/a.crl", VERSION_1);
    assert!(load(old).contains("a.crl: a CRL of version 1, but version 2 is wanted"));
}

/// What `openssl ca -gencrl` makes without `crl_extensions`.
const VERSION_1: &str = "-----BEGIN X509 CRL-----
MIGUMDwwCgYIKoZIzj0EAwIwDjEMMAoGA1UEAwwDb2xkFw0yNjExMjEwNzI1Mzha
GA8yMTA5MDExMDA3MjUzOFowCgYIKoZIzj0EAwIDSAAwRQIgbaD3OPnpb8+KacKv
Me2RyaATkU5knxpKxxa48D7SO2kCIQC4jfdamKC53EnbGgWqApwmTvofq5Cb+yxY
ZKAiiITExA==
-----END X509 CRL-----
";

#[test]
fn a_domain_knows_when_its_files_end() {
    let (pki, ca, _) = pki();
    let ends = |year| move |p: &mut rcgen::CertificateParams| p.not_after = date_time_ymd(year, 6, 30);
    let relay = pki.identity_with(&ca, "relay", &[HOST], ends(2031));
    pki.directory("crls");
    let crl = pki.crl(&ca, "crls/ca.pem", &[], 2021);
    let mut server = server_settings("relay", &relay, &ca);
    server.crl_dir = Some(pki.path("crls"));
    let domain = ServerDomain::load(&server).unwrap();
    let kinds: Vec<_> = domain.expiries().iter().map(|e| (e.kind, e.file.clone())).collect();
    assert_eq!(
        kinds,
        [
            (ExpiryKind::Certificate, relay.certificate.clone()),
            (ExpiryKind::Authority, ca.file.clone()),
            (ExpiryKind::Crl, crl)
        ]
    );
    let at = |expiry: usize, days_before: u64| {
        let expiry = &domain.expiries()[expiry];
        expiry.warning(expiry.at - Duration::from_secs(days_before * 86400), DEFAULT_EXPIRY_WARNING)
    };
    assert_eq!(at(0, 31), None);
    let text = at(0, 30).unwrap();
    assert!(
        text.contains("relay") && text.ends_with("relay.crt expires in 30 days, on 2031-06-30"),
        "{text}"
    );
    let text = domain.expiries()[2].warning(SystemTime::now(), DEFAULT_EXPIRY_WARNING).unwrap();
    assert!(
        text.contains("ca.pem has expired on 2021-12-31: certificates that it speaks for are refused"),
        "{text}"
    );
    // A client domain, the same.
    let client = ClientDomain::load(&presenting(&ca, &relay)).unwrap();
    assert_eq!(client.expiries().len(), 2);
}

#[test]
fn nothing_of_a_key_is_shown() {
    let (_pki, ca, relay) = pki();
    let key = fs::read_to_string(&relay.key).unwrap();
    let secret: Vec<&str> = key.lines().filter(|line| !line.starts_with("---")).collect();
    assert!(!secret.is_empty());
    let (server, client) = (server_settings("relay", &relay, &ca), presenting(&ca, &relay));
    let (server_domain, client_domain) =
        (ServerDomain::load(&server).unwrap(), ClientDomain::load(&client).unwrap());
    let shown = format!(
        "{server:?} {client:?} {server_domain:?} {client_domain:?} {:?} {:?}",
        server_domain.certificate(),
        server_domains(&server)
    );
    assert!(shown.contains("relay.key"), "the file's name is no secret");
    for line in secret {
        assert!(!shown.contains(line), "{shown}");
    }
    // A file that holds a key where something else should be is not quoted either.
    let mut wrong = server;
    wrong.certificate = relay.key.clone();
    let error = ServerDomain::load(&wrong).unwrap_err();
    assert!(!format!("{error} {error:?}").contains(key.lines().nth(1).unwrap()));
}
