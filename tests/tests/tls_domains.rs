//! TLS domains in the running daemon: which certificate is shown to whom, over which connection, and
//! what SIGHUP changes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tests::{
    Client, Daemon, Identity, Scheme, Send, Session, Settings, Site, Stream, tls_config, tls_handshake,
    within,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// Longer than an answer takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What any client begins with; the answer is a challenge.
const AUTH: &str = "MSRP a1b2 AUTH\r\nTo-Path: msrps://localhost;tcp\r\n\
                    From-Path: msrps://client.invalid:2855/a;tcp\r\n-------a1b2$\r\n";

fn certificate(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).expect("a certificate")
}

/// A server that requires certificates, and tells which connection of whom brings what.
struct Peer {
    port: u16,
    arrivals: mpsc::UnboundedReceiver<(usize, CertificateDer<'static>, Vec<u8>)>,
    read: HashMap<usize, Vec<u8>>,
}

impl Peer {
    /// With this identity, and for clients of the site's authority.
    async fn start(site: &Site, identity: &Identity) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&site.path("ca.pem"))).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![certificate(&identity.certificate)],
                PrivateKeyDer::from_pem_file(&identity.key).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, arrivals) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            for connection in 0.. {
                let (socket, _) = listener.accept().await.unwrap();
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    let mut tls = acceptor.accept(socket).await.expect("TLS handshake");
                    let shown = tls.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
                    let mut buffer = vec![0; 4096];
                    while let Ok(length @ 1..) = tls.read(&mut buffer).await {
                        let _ = sender.send((connection, shown.clone(), buffer[..length].to_vec()));
                    }
                });
            }
        });
        Self { port, arrivals, read: HashMap::new() }
    }

    /// Waits for this text; over which connection it came, and the certificate shown there.
    async fn receive(&mut self, text: &str) -> (usize, CertificateDer<'static>) {
        let arrival = async {
            loop {
                let (connection, shown, bytes) = self.arrivals.recv().await.expect("more to read");
                let read = self.read.entry(connection).or_default();
                read.extend(bytes);
                if String::from_utf8_lossy(read).contains(text) {
                    return (connection, shown);
                }
            }
        };
        within(format_args!("`{text}` at the peer"), arrival).await
    }
}

/// Two TLS listeners, each of which has a client domain of its own.
fn two_tenants_yaml(tls: &str) -> String {
    format!(
        "domain: relay.test
listeners:
  - {{ uri: 'msrps://127.0.0.1:0', tls_domain: main }}
  - {{ uri: 'msrps://127.0.0.2:0', tls_domain: main }}
tls:
  {tls}
  server_domains:
    main: {{ certificate: relay.crt, private_key: relay.key, ca_list: ca.pem }}
  client_domains:
    default: {{ ca_list: ca.pem }}
    one: {{ ca_list: ca.pem, certificate: one.crt, private_key: one.key, match_listener: 'msrps://127.0.0.1:0' }}
    two: {{ ca_list: ca.pem, certificate: two.crt, private_key: two.key, match_listener: 'msrps://127.0.0.2:0' }}
auth: {{ realm: relay.test, users: {{ alice: {{ password: alicepw }}, bob: {{ password: bobpw }} }} }}
"
    )
}

/// A daemon with those.
async fn two_tenants(site: &Site, tls: &str) -> Daemon {
    for name in ["one", "two"] {
        site.issue(name, &[&format!("{name}.test")]);
    }
    let config = site.write("relay.yaml", &two_tenants_yaml(tls));
    let daemon = Daemon::spawn(Command::new(RELAY), &config);
    daemon.log().wait_for(&["ready", "listening"]).await;
    daemon
}

/// A client with a session, of the listener with this address.
async fn client_at(daemon: &Daemon, site: &Site, address: &str, user: &str) -> (Client, Session) {
    let ready = daemon.log().wait_for(&["ready", "listening"]).await;
    let at = ready.find(address).expect("the listener");
    let port: String = ready[at + address.len() + 1..].chars().take_while(char::is_ascii_digit).collect();
    let socket = TcpStream::connect((address, port.parse().unwrap())).await.unwrap();
    let stream = tls_handshake(tls_config(site, None), socket, "relay.test").await.unwrap();
    let uri = format!("msrps://{user}.invalid:2855/s;tcp");
    let mut client = Client::over(stream, &uri, &format!("msrps://relay.test:{port};tcp"));
    let session = client.auth(user, &format!("{user}pw")).await;
    (client, session)
}

/// Alice and Bob use different listeners, so what they send asks for different client domains.
async fn connections_for(tls: &str) -> Vec<(usize, CertificateDer<'static>)> {
    let site = Site::new();
    let mut daemon = two_tenants(&site, tls).await;
    let mut peer = Peer::start(&site, &site.identity("relay")).await;
    let mut users = [
        client_at(&daemon, &site, "127.0.0.1", "alice").await,
        client_at(&daemon, &site, "127.0.0.2", "bob").await,
    ];
    let mut found = Vec::new();
    for (user, name, text) in [
        (0, "x", "first of alice"),
        (1, "y", "first of bob"),
        // Other sessions of the peer's, so that they are asked for connections anew.
        (0, "z", "second of alice"),
        (1, "w", "second of bob"),
    ] {
        let (client, session) = &mut users[user];
        let uri = format!("msrps://localhost:{}/{name};tcp", peer.port);
        let message = Send::text(&session.to(&Session::without_relay(&uri)), name, text);
        assert_eq!(client.send(&message).await.status(), 200);
        found.push(peer.receive(text).await);
    }
    let shown = |name: &str| certificate(&site.path(&format!("{name}.crt")));
    assert_eq!(found[0].1, shown("one"));
    if found[1].0 != found[0].0 {
        assert_eq!(found[1].1, shown("two"));
    }
    daemon.assert_well();
    found
}

#[tokio::test]
async fn without_cert_check_on_conn_reusage_one_connection_serves_both_client_domains() {
    let connections: Vec<_> = connections_for("").await.into_iter().map(|(number, _)| number).collect();
    assert_eq!(connections, [0, 0, 0, 0]);
}

#[tokio::test]
async fn with_cert_check_on_conn_reusage_each_client_domain_has_its_own_connection() {
    let found = connections_for("cert_check_on_conn_reusage: true").await;
    let connections: Vec<_> = found.into_iter().map(|(number, _)| number).collect();
    assert_eq!(connections, [0, 1, 0, 1], "and it is used again for the same domain");
}

#[tokio::test]
async fn sighup_takes_cert_check_on_conn_reusage_for_sessions_that_choose_a_connection() {
    let site = Site::new();
    let mut daemon = two_tenants(&site, "").await;
    let mut peer = Peer::start(&site, &site.identity("relay")).await;
    let mut users = [
        client_at(&daemon, &site, "127.0.0.1", "alice").await,
        client_at(&daemon, &site, "127.0.0.2", "bob").await,
    ];
    let mut connections = Vec::new();
    for (user, name, tls) in [
        (0, "a", ""),
        (1, "b", ""),
        (1, "c", "cert_check_on_conn_reusage: true"),
        // Its session has a connection already, and stays there.
        (1, "b", "cert_check_on_conn_reusage: true"),
        (1, "d", "cert_check_on_conn_reusage: false"),
    ] {
        site.write("relay.yaml", &two_tenants_yaml(tls));
        reload(&daemon, &["TLS reloaded"]).await;
        let (client, session) = &mut users[user];
        let uri = format!("msrps://localhost:{}/{name};tcp", peer.port);
        let text = format!("{name} as number {}", connections.len());
        let message = Send::text(&session.to(&Session::without_relay(&uri)), name, &text);
        assert_eq!(client.send(&message).await.status(), 200);
        connections.push(peer.receive(&text).await.0);
    }
    assert_eq!(connections, [0, 0, 1, 0, 0]);
    daemon.assert_well();
}

/// The certificate that the daemon shows now.
async fn shown_by(daemon: &Daemon, site: &Site) -> CertificateDer<'static> {
    let socket = TcpStream::connect(daemon.address(Scheme::Msrps)).await.unwrap();
    let stream = tls_handshake(tls_config(site, None), socket, daemon.domain()).await.unwrap();
    let Stream::Tls(tls) = stream else { panic!("TLS") };
    tls.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// Sends SIGHUP, and gives the line that answers it.
async fn reload(daemon: &Daemon, words: &[&str]) -> String {
    let before = daemon.log().with(words).len();
    daemon.signal(Signal::HUP);
    let told = async {
        loop {
            let lines = daemon.log().with(words);
            if lines.len() > before {
                return lines[before].clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(format_args!("{words:?} in {:?}", daemon.log()), told).await
}

#[tokio::test]
async fn sighup_takes_new_certificates_for_new_connections_and_old_ones_go_on() {
    let site = Site::new();
    let settings = Settings::default();
    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
    let (mut alice, session) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let old = certificate(&site.path("relay.crt"));
    assert_eq!(shown_by(&daemon, &site).await, old);

    let line = reload(&daemon, &["TLS reloaded"]).await;
    assert!(line.contains("nothing has changed"), "{line}");

    site.issue("relay", &["relay.test", "localhost"]);
    assert_eq!(shown_by(&daemon, &site).await, old, "files are read when they are loaded");
    let line = reload(&daemon, &["TLS reloaded"]).await;
    assert!(line.contains("server domains: changed main; client domains: changed default"), "{line}");
    let new = certificate(&site.path("relay.crt"));
    assert_eq!(shown_by(&daemon, &site).await, new);

    // A broken certificate, then a broken file: nothing changes, and the log says where it is.
    let good = fs::read_to_string(site.path("relay.crt")).unwrap();
    site.write("relay.crt", "nonsense");
    let line = reload(&daemon, &["not reloaded"]).await;
    assert!(line.contains("relay.yaml:") && line.contains("tls.server_domains.main"), "{line}");
    assert!(line.contains("relay.crt: no certificate in it"), "{line}");
    site.write("relay.crt", &good);
    site.write("relay.yaml", "domain: relay.test\nlisteners: [\n");
    let line = reload(&daemon, &["not reloaded"]).await;
    assert!(line.contains("relay.yaml:3:1"), "{line}");
    assert_eq!(shown_by(&daemon, &site).await, new);
    // A domain by another name, which the listeners have too.
    site.write("relay.yaml", &settings.to_yaml().replace(" main", " other"));
    let line = reload(&daemon, &["TLS reloaded"]).await;
    assert!(line.contains("added other") && line.contains("removed main"), "{line}");
    assert_eq!(shown_by(&daemon, &site).await, new);

    // Alice's connection has gone through all of it.
    let message = Send::text(&session.to(&session), "m", "still here");
    assert_eq!(alice.send(&message).await.status(), 200);
    assert_eq!(alice.receive().await.body, b"still here");
    let errors = daemon.log().with(&[" ERROR "]);
    // Of the broken certificate two: it is that of a client domain too.
    assert_eq!(errors.len(), 3, "{errors:?}");
    daemon.signal(Signal::TERM);
    assert!(daemon.exit().await.success());
}

#[tokio::test]
async fn the_log_warns_of_certificates_that_end_within_expiry_warning() {
    let site = Site::new();
    let mut soon = rcgen::CertificateParams::new(vec!["relay.test".into()]).unwrap();
    soon.not_after = (SystemTime::now() + Duration::from_secs(20 * 86400 + 3600)).into();
    let key = rcgen::KeyPair::generate().unwrap();
    site.write("soon.crt", &soon.self_signed(&key).unwrap().pem());
    site.write("soon.key", &key.serialize_pem());
    let warned = async |identity: &str, window: &str| {
        let settings = Settings { identity: identity.into(), ..Settings::default() };
        let yaml = settings.to_yaml().replace("tls:\n", &format!("tls:\n  {window}\n"));
        let daemon = Daemon::spawn(Command::new(RELAY), &site.write("relay.yaml", &yaml));
        daemon.log().wait_for(&["ready"]).await;
        let warnings = daemon.log().with(&["WARN", "TLS server domain main", &format!("{identity}.crt")]);
        let check =
            Command::new(RELAY).args(["check", "--config"]).arg(site.path("relay.yaml")).output().unwrap();
        assert!(check.status.success());
        let told = String::from_utf8_lossy(&check.stdout).contains("warning: TLS server domain main");
        assert_eq!(told, !warnings.is_empty(), "`check` says the same");
        warnings.concat()
    };
    let line = warned("expired", "").await;
    assert!(line.contains("has expired on 2021-01-01"), "{line}");
    assert!(warned("soon", "").await.contains("expires in 20 days"));
    assert!(warned("soon", "expiry_warning: 21d").await.contains("expires in 20 days"));
    assert_eq!(warned("soon", "expiry_warning: 20d").await, "");
    assert_eq!(warned("soon", "expiry_warning: 0s").await, "");
    assert!(warned("expired", "expiry_warning: 0s").await.contains("has expired"));
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// The example as it is, but for the ports: other tests run at the same time.
fn example_yaml() -> String {
    fs::read_to_string(examples().join("tls-domains.yaml")).unwrap().replace(":2855\"", ":0\"")
}

#[tokio::test]
async fn the_example_of_tls_domains_runs_with_what_its_script_makes() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("no openssl here: the script is not run");
        return;
    }
    let site = Site::new();
    let script =
        Command::new("sh").arg(examples().join("tls-domains.sh")).arg(site.path("tls")).output().unwrap();
    assert!(script.status.success(), "{script:?}");
    fs::copy(site.path("tls/ca.pem"), site.path("ca.pem")).unwrap();
    let config = site.write("relay.yaml", &example_yaml());
    let mut daemon = Daemon::spawn(Command::new(RELAY), &config);
    let ready = daemon.log().wait_for(&["ready", "listening"]).await;
    let port = |address: &str| -> u16 {
        let rest = ready.split(&format!("{address}:")).nth(1).expect("the listener");
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    let identity = |name: &str| Identity {
        certificate: site.path(&format!("tls/{name}.crt")),
        key: site.path(&format!("tls/{name}.key")),
    };
    let connect = async |address: &str, config: Arc<rustls::ClientConfig>, name: &str| {
        let socket = TcpStream::connect((address, port(address))).await.unwrap();
        let Stream::Tls(mut tls) = tls_handshake(config, socket, name).await.ok()? else { panic!("TLS") };
        let shown = tls.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
        let version = tls.get_ref().1.protocol_version().unwrap();
        // With TLS 1.3, a refusal of our certificate comes with the first read; else the challenge does.
        let _ = tls.write_all(AUTH.as_bytes()).await;
        let first = tokio::time::timeout(PATIENCE, tls.read_u8()).await.expect("an answer or an end");
        (first.ok()? == b'M').then_some((shown, version))
    };

    // Clients, by the name they ask for.
    for (name, expected, version) in [
        ("atlanta.example.com", "atlanta", rustls::ProtocolVersion::TLSv1_3),
        ("chat.atlanta.example.com", "atlanta", rustls::ProtocolVersion::TLSv1_3),
        ("biloxi.example.com", "biloxi", rustls::ProtocolVersion::TLSv1_2),
        ("localhost", "fallback", rustls::ProtocolVersion::TLSv1_3),
    ] {
        let (shown, spoken) = connect("127.0.0.1", tls_config(&site, None), name).await.expect(name);
        assert_eq!((shown, spoken), (certificate(&identity(expected).certificate), version), "{name}");
    }
    // Relays, by their certificates.
    fs::copy(site.path("tls/relay-ca.pem"), site.path("ca.pem")).unwrap();
    for (name, accepted) in
        [(Some("partner"), true), (Some("lost"), false), (Some("atlanta"), false), (None, false)]
    {
        let own = name.map(identity);
        let connected = connect("127.0.0.2", tls_config(&site, own.as_ref()), "localhost").await;
        assert_eq!(connected.is_some(), accepted, "{name:?}");
    }
    for reason in ["revoked", "not issued by a known CA", "the client presented none"] {
        daemon.log().wait_for(&["TLS handshake failed", reason]).await;
        assert_eq!(daemon.log().with(&["TLS handshake failed", reason]).len(), 1, "{reason}");
    }
    assert_eq!(daemon.log().with(&["WARN"]).len(), 3, "nothing else is amiss: {:?}", daemon.log());
    daemon.assert_well();
}

/// Relays share their connections among sessions: one that brings a message slowly is left to the others'
/// limits. A client that does the same is closed, and has been for a while when the relay goes on.
#[tokio::test]
async fn a_verified_relay_may_take_its_time_within_a_message() {
    let site = Site::new();
    let settings = Settings {
        limits: "min_progress: 50B".into(),
        timeouts: "progress_timeout: 500ms".into(),
        ..Settings::default()
    };
    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
    let (mut alice, session) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let relay_b = tls_config(&site, Some(&site.identity("relay-b")));
    let mut relay = Client::connect_with(&daemon, relay_b, Scheme::Msrps).await;
    let message = Send {
        range: "1-*/*".into(),
        ..Send::text(&session.inward(), "slow", "").with("Success-Report: no")
    };
    let slow = relay.tx.begin(&message).await;
    relay.tx.raw(b"the first half, ").await;
    // Twice, so that the relay's interval is over for sure.
    for _ in 0..2 {
        let mut client = Client::connect(&daemon, &site, Scheme::Msrps).await;
        let (_, own) = Client::with_session(&daemon, &site, Scheme::Msrps, "bob").await;
        client.tx.begin(&Send { range: "1-*/*".into(), ..Send::text(&own.inward(), "slow", "") }).await;
        within("its end", client.rx.rest()).await;
        daemon.log().wait_for(&["connection closed", &client.address(), "min_progress"]).await;
    }
    relay.tx.raw(b"the second half").await;
    relay.tx.end(&slow, msrp_proto::flag::Flag::Complete).await;
    assert_eq!(relay.rx.response(&slow).await.status(), 200);
    assert_eq!(alice.receive().await.text(), "the first half, the second half");
    assert_eq!(daemon.log().with(&["min_progress"]).len(), 2);
    // Its heads have to come in time all the same: see `server::pace`.
    daemon.assert_well();
}
