//! AUTH: who gets a session, and who does not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use msrp_proto::digest::{Algorithm, Answer, AuthenticationInfo, Authorization, Challenge, Ha1, Secret};
use tests::{Client, Daemon, Message, Scheme, Send, Settings, Site, tls_config, tls_handshake};
use tokio::net::TcpStream;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

async fn daemon(site: &Site, auth: &str) -> Daemon {
    Daemon::start(RELAY, site, &Settings { auth: auth.into(), ..Settings::default() }).await
}

fn answer<'a>(user: &'a str, password: &'a str, digest_uri: &'a str, nc: u32) -> Answer<'a> {
    let secret = Secret::Password(password);
    Answer { username: user, secret, method: "AUTH", digest_uri, cnonce: "cn0nce", nc, send_uri: false }
}

/// Sends an AUTH with this Authorization.
async fn authorize(client: &mut Client, authorization: &str) -> Message {
    let to = [client.relay_uri().to_owned()];
    client.request("AUTH", &to, &format!("Authorization: {authorization}\r\n")).await
}

#[tokio::test]
async fn a_client_gets_a_session_over_tls_and_a_relay_that_proves_itself() {
    let site = Site::new();
    let daemon = daemon(&site, "allow_auth_without_tls: false").await;
    let mut alice = Client::connect(&daemon, &site, Scheme::Msrps).await;
    let uri = alice.relay_uri().to_owned();

    let refused = alice.request("AUTH", std::slice::from_ref(&uri), "").await;
    assert_eq!(refused.status(), 401);
    assert_eq!((refused.to_path(), refused.from_path()), (vec![alice.uri().to_owned()], vec![uri.clone()]));
    let challenges = refused.headers("WWW-Authenticate");
    assert_eq!(challenges.len(), 1, "MD5 alone is offered: {challenges:?}");
    let challenge = Challenge::parse(&challenges[0]).unwrap();
    assert_eq!((challenge.realm(), challenge.algorithm()), ("relay.test", Algorithm::Md5));
    assert!(challenge.opaque().is_some(), "clients in the field want it");

    let authorization = Authorization::answer(&challenge, &answer("alice", "alicepw", &uri, 1)).unwrap();
    let granted = authorize(&mut alice, &authorization.to_string()).await;
    assert_eq!(granted.status(), 200);
    assert_eq!(granted.header("Expires"), "1800");
    let info = AuthenticationInfo::parse(granted.header("Authentication-Info")).unwrap();
    let ha1 = Ha1::from_password(Algorithm::Md5, "alice", "relay.test", "alicepw");
    assert!(info.verify(&authorization, &ha1, &uri));

    let session = alice.session(&granted);
    let (base, id) = session.use_path[0].rsplit_once('/').unwrap();
    assert_eq!(format!("{base};tcp"), uri, "as clients call it, letter by letter");
    assert!(id.len() >= 16 + ";tcp".len() && id.ends_with(";tcp"), "{id}");

    // The next nonce serves at once, and the one used once more with a higher count.
    let next = challenge.renewed(&info).unwrap();
    for (challenge, nc) in [(&next, 1), (&challenge, 2)] {
        let again = Authorization::answer(challenge, &answer("alice", "alicepw", &uri, nc)).unwrap();
        let granted = authorize(&mut alice, &again.to_string()).await;
        assert_eq!(granted.status(), 200);
        assert_ne!(granted.header("Use-Path"), session.use_path[0], "a session of its own");
    }
}

#[tokio::test]
async fn auth_over_plain_tcp_is_refused_by_default() {
    let site = Site::new();
    let mut daemon = daemon(&site, "").await;
    let mut alice = Client::connect(&daemon, &site, Scheme::Msrp).await;
    let to = [alice.relay_uri().to_owned()];
    let refused = alice.request("AUTH", &to, "").await;
    assert_eq!(refused.status(), 403);
    assert_eq!(refused.headers("WWW-Authenticate"), [""; 0], "no password may be sent in clear");
    let address = alice.address();
    daemon.log().wait_for(&["AUTH refused", &address, "plain TCP"]).await;
    daemon.assert_well();
}

#[tokio::test]
async fn auth_over_plain_tcp_is_served_where_it_is_allowed() {
    let site = Site::new();
    let daemon = daemon(&site, "allow_auth_without_tls: true").await;
    let (_alice, session) = Client::with_session(&daemon, &site, Scheme::Msrp, "alice").await;
    assert!(session.use_path[0].starts_with("msrp://relay.test:"), "{session:?}");
}

#[tokio::test]
async fn the_relay_is_known_by_its_domain_with_or_without_port_and_userinfo() {
    let site = Site::new();
    let daemon = daemon(&site, "").await;
    let port = daemon.address(Scheme::Msrps).port();
    let mut alice = Client::connect(&daemon, &site, Scheme::Msrps).await;
    for uri in [
        "msrps://relay.test;tcp".to_owned(),
        "msrps://alice@relay.test;tcp".to_owned(),
        format!("msrps://alice@RELAY.test:{port};tcp"),
    ] {
        alice.auth_at(&[uri], "alice", "alicepw").await;
    }
}

#[tokio::test]
async fn sha256_is_offered_and_taken_where_it_is_configured() {
    let site = Site::new();
    let daemon = daemon(&site, "algorithms: [SHA-256, MD5]").await;
    let mut alice = Client::connect(&daemon, &site, Scheme::Msrps).await;
    let uri = alice.relay_uri().to_owned();
    let refused = alice.request("AUTH", std::slice::from_ref(&uri), "").await;
    let challenges: Vec<_> =
        refused.headers("WWW-Authenticate").iter().map(|value| Challenge::parse(value).unwrap()).collect();
    let [sha256, md5] = &challenges[..] else { panic!("{challenges:?}") };
    assert_eq!((sha256.algorithm(), md5.algorithm()), (Algorithm::Sha256, Algorithm::Md5));
    assert_eq!((sha256.nonce(), sha256.opaque()), (md5.nonce(), md5.opaque()));

    let by_sha256 = Authorization::answer(sha256, &answer("alice", "alicepw", &uri, 1)).unwrap().to_string();
    assert!(by_sha256.contains("SHA-256"), "{by_sha256}");
    assert_eq!(authorize(&mut alice, &by_sha256).await.status(), 200);
    // An answer that names no algorithm is MD5, whichever challenge was read.
    let by_md5 = Authorization::answer(md5, &answer("alice", "alicepw", &uri, 2)).unwrap().to_string();
    let nameless = by_md5.replace(", algorithm=MD5", "");
    assert!(!nameless.contains("algorithm"), "{nameless}");
    assert_eq!(authorize(&mut alice, &nameless).await.status(), 200);
}

#[tokio::test]
async fn users_come_from_hashes_and_from_an_htdigest_file_too() {
    let site = Site::new();
    let hash = |user: &str| {
        Ha1::from_password(Algorithm::Md5, user, "relay.test", &format!("{user}pw")).as_hex().to_owned()
    };
    site.write(
        "users.htdigest",
        &format!("gina:relay.test:{}\nfrank:other:{}\n", hash("gina"), hash("frank")),
    );
    let settings = Settings {
        users: format!(", erin: {{ ha1: \"{}\" }}", hash("erin")),
        auth: "htdigest: users.htdigest".into(),
        ..Settings::default()
    };
    let daemon = Daemon::start(RELAY, &site, &settings).await;
    for user in ["alice", "erin", "gina"] {
        Client::with_session(&daemon, &site, Scheme::Msrps, user).await;
    }
    let mut stranger = Client::connect(&daemon, &site, Scheme::Msrps).await;
    let to = [stranger.relay_uri().to_owned()];
    for (user, password) in [("frank", "frankpw"), ("erin", "ginapw"), ("nobody", "nobodypw")] {
        assert_eq!(stranger.try_auth_at(&to, user, password).await.status(), 401, "{user}");
    }
}

#[tokio::test]
async fn expires_is_granted_within_bounds_and_refused_outside() {
    let site = Site::new();
    let daemon = daemon(&site, "expires: { default: 10m, min: 60s, max: 1h }").await;
    let mut alice = Client::connect(&daemon, &site, Scheme::Msrps).await;
    let to = [alice.relay_uri().to_owned()];
    for (wish, status, bounds) in [
        ("", 200, ["", "", "600"]),
        ("Expires: 60\r\n", 200, ["", "", "60"]),
        ("Expires: 3600\r\n", 200, ["", "", "3600"]),
        ("Expires: 59\r\n", 423, ["60", "", ""]),
        ("Expires: 3601\r\n", 423, ["", "3600", ""]),
        ("Expires: 0\r\n", 423, ["60", "", ""]),
        ("Expires: -1\r\n", 400, ["", "", ""]),
    ] {
        let challenge = alice.challenge(&to).await;
        let response = alice.answer(&to, &challenge, "alice", "alicepw", wish).await;
        assert_eq!(response.status(), status, "{wish:?}");
        assert_eq!(
            ["Min-Expires", "Max-Expires", "Expires"].map(|name| response.header(name)),
            bounds,
            "{wish:?}"
        );
    }
}

#[tokio::test]
async fn a_session_ends_when_its_time_is_over_and_the_connection_stays() {
    let site = Site::new();
    let daemon = daemon(&site, "expires: { default: 10m, min: 1s, max: 1h }").await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrps, "bob").await;
    let mut alice = Client::connect(&daemon, &site, Scheme::Msrps).await;
    let to = [alice.relay_uri().to_owned()];
    let challenge = alice.challenge(&to).await;
    let granted = alice.answer(&to, &challenge, "alice", "alicepw", "Expires: 1\r\n").await;
    let short = alice.session(&granted);
    daemon.log().wait_for(&["session expired", "alice"]).await;
    assert_eq!(alice.send(&Send::text(&short.to(&from_bob), "m1", "late")).await.status(), 481);
    assert_eq!(bob.send(&Send::text(&from_bob.to(&short), "m2", "late")).await.status(), 481);
    let renewed = alice.auth("alice", "alicepw").await;
    assert_eq!(alice.send(&Send::text(&renewed.to(&from_bob), "m3", "in time")).await.status(), 200);
    assert_eq!(bob.receive().await.text(), "in time");
}

#[tokio::test]
async fn a_replayed_nonce_count_is_refused() {
    let site = Site::new();
    let mut daemon = daemon(&site, "").await;
    let mut alice = Client::connect(&daemon, &site, Scheme::Msrps).await;
    let uri = alice.relay_uri().to_owned();
    let challenge = alice.challenge(std::slice::from_ref(&uri)).await;
    let authorization =
        Authorization::answer(&challenge, &answer("alice", "alicepw", &uri, 1)).unwrap().to_string();
    assert_eq!(authorize(&mut alice, &authorization).await.status(), 200);
    let mut thief = Client::connect(&daemon, &site, Scheme::Msrps).await;
    for client in [&mut alice, &mut thief] {
        let refused = authorize(client, &authorization).await;
        assert_eq!(refused.status(), 401);
        assert_eq!(refused.headers("Use-Path"), [""; 0]);
        let address = client.address();
        daemon.log().wait_for(&["AUTH failed", &address, "replayed"]).await;
    }
    daemon.assert_well();
}

#[tokio::test]
async fn an_outdated_nonce_is_called_stale_and_only_to_who_knows_the_password() {
    let site = Site::new();
    let daemon = daemon(&site, "nonce_expire: 100ms").await;
    let mut alice = Client::connect(&daemon, &site, Scheme::Msrps).await;
    let uri = alice.relay_uri().to_owned();
    let challenge = alice.challenge(std::slice::from_ref(&uri)).await;
    // It must really expire.
    tokio::time::sleep(Duration::from_millis(200)).await;
    for (password, stale) in [("alicepw", true), ("wrong", false)] {
        let old = Authorization::answer(&challenge, &answer("alice", password, &uri, 1)).unwrap().to_string();
        let refused = authorize(&mut alice, &old).await;
        assert_eq!(refused.status(), 401);
        let fresh = Challenge::parse(refused.header("WWW-Authenticate")).unwrap();
        assert_eq!((fresh.stale(), fresh.nonce() == challenge.nonce()), (stale, false));
    }
}

#[tokio::test]
async fn bad_credentials_are_refused_each_with_one_line() {
    let site = Site::new();
    let mut daemon = daemon(&site, "max_failures: 100").await;
    let mut alice = Client::connect(&daemon, &site, Scheme::Msrps).await;
    let uri = alice.relay_uri().to_owned();
    let address = alice.address();
    let challenge = alice.challenge(std::slice::from_ref(&uri)).await;
    let good = Authorization::answer(&challenge, &answer("alice", "alicepw", &uri, 1)).unwrap().to_string();
    let bad = |from: &str, to: &str| good.replace(from, to);
    let digest = good.split("response=\"").nth(1).unwrap()[..32].to_owned();
    let not_offered = Challenge::new(Algorithm::Sha256, "relay.test", challenge.nonce()).unwrap();
    let not_offered =
        Authorization::answer(&not_offered, &answer("alice", "alicepw", &uri, 1)).unwrap().to_string();
    let cases = [
        (401, Authorization::answer(&challenge, &answer("alice", "wrong", &uri, 1)).unwrap().to_string()),
        (401, Authorization::answer(&challenge, &answer("nobody", "alicepw", &uri, 1)).unwrap().to_string()),
        (401, bad(&digest, "00000000000000000000000000000000")),
        (401, bad(challenge.nonce(), "f0rged")),
        (401, bad("realm=\"relay.test\"", "realm=\"other.test\"")),
        (401, not_offered),
        (400, bad("algorithm=MD5", "algorithm=SHA-256")),
        (400, bad("Digest", "Basic")),
        (400, bad("algorithm=MD5", "algorithm=MD5-sess")),
        (400, bad("qop=auth", "qop=auth-int")),
        (400, bad("nc=00000001", "nc=xyz")),
        (400, format!("{good}, uri=\"msrps://other.test;tcp\"")),
        (400, "Digest".into()),
        (400, "\"".repeat(1000)),
        (400, "Digest ".to_owned() + &"a=b,".repeat(1000)),
    ];
    for (number, (status, authorization)) in cases.iter().enumerate() {
        assert_eq!(authorize(&mut alice, authorization).await.status(), *status, "{authorization}");
        daemon.log().wait_for_lines(&["AUTH", &address], number + 1).await;
    }
    // None of them has used up the challenge.
    let with_uri = format!("{good}, uri=\"{uri}\"");
    assert_eq!(authorize(&mut alice, &with_uri).await.status(), 200);
    daemon.assert_well();
}

#[tokio::test]
async fn several_failed_auths_close_the_connection_with_one_line() {
    let site = Site::new();
    let mut daemon = daemon(&site, "max_failures: 3").await;
    let (mut bob, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "bob").await;
    let mut mallory = Client::connect(&daemon, &site, Scheme::Msrps).await;
    let to = [mallory.relay_uri().to_owned()];
    for _ in 0..3 {
        assert_eq!(mallory.try_auth_at(&to, "alice", "guess").await.status(), 401);
    }
    mallory.rx.end().await.expect("TLS ends with close_notify");
    daemon.log().wait_for(&["connection closed", &mallory.address(), "3 AUTH requests failed"]).await;
    assert_eq!(daemon.log().with(&["connection closed"]).len(), 1);
    // The neighbour is not touched.
    bob.auth("bob", "bobpw").await;
    daemon.assert_well();
}

#[tokio::test]
async fn a_silent_connection_is_closed_after_its_probation() {
    let site = Site::new();
    let settings = Settings { timeouts: "probation: 300ms".into(), ..Settings::default() };
    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
    let (mut alice, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    for scheme in [Scheme::Msrp, Scheme::Msrps] {
        let mut silent = Client::connect(&daemon, &site, scheme).await;
        silent.rx.end().await.expect("an orderly end");
        let address = silent.address();
        silent.close().await;
        daemon.log().wait_for(&["connection closed", &address, "no valid request in time"]).await;
        assert_eq!(daemon.log().with(&[&address]).len(), 1, "{:?}", daemon.log());
    }
    // Nor is one saved by being challenged.
    let mut challenged = Client::connect(&daemon, &site, Scheme::Msrps).await;
    let to = [challenged.relay_uri().to_owned()];
    challenged.challenge(&to).await;
    challenged.rx.end().await.expect("an orderly end");
    alice.auth("alice", "alicepw").await;
    daemon.assert_well();
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_given_up() {
    let site = Site::new();
    let settings = Settings::default();
    let yaml = settings.to_yaml().replace("tls:\n", "tls:\n  tls_handshake_timeout: 300ms\n");
    let config = site.write("relay.yaml", &yaml);
    let mut daemon = Daemon::spawn(std::process::Command::new(RELAY), &config);
    let ready = daemon.log().wait_for(&["ready"]).await;
    let address = ready.split("msrps://").nth(1).unwrap().split([' ', '"']).next().unwrap();
    let socket = TcpStream::connect(address).await.unwrap();
    let silent = socket.local_addr().unwrap().to_string();
    Client::over(tests::Stream::Plain(socket), "", "").rx.rest().await;
    daemon.log().wait_for(&["TLS handshake", &silent]).await;
    daemon.assert_well();
}

#[tokio::test]
async fn a_client_is_served_whatever_certificate_it_has() {
    let site = Site::new();
    let settings = Settings { log: "level: \"info,relay=debug\"".into(), ..Settings::default() };
    let daemon = Daemon::start(RELAY, &site, &settings).await;
    for (name, recorded) in [
        (None, "None"),
        (Some("foreign"), "Unverified"),
        (Some("expired"), "Unverified"),
        (Some("client"), "Verified"),
    ] {
        let identity = name.map(|name| site.identity(name));
        let config = tls_config(&site, identity.as_ref());
        let mut client = Client::connect_with(&daemon, config, Scheme::Msrps).await;
        let session = client.auth("alice", "alicepw").await;
        daemon.log().wait_for(&["accepted", &client.address(), recorded]).await;

        // It is no relay: an AUTH in the name of another client is refused.
        let to = [client.relay_uri().to_owned()];
        let path = format!("msrps://relay.test:9/x;tcp {}", client.uri());
        let transaction = client.tx.transaction();
        let text = format!(
            "MSRP {transaction} AUTH\r\nTo-Path: {}\r\nFrom-Path: {path}\r\n-------{transaction}$\r\n",
            to[0]
        );
        client.tx.raw(text.as_bytes()).await;
        assert_eq!(client.rx.response(&transaction).await.status(), 403, "{name:?}");
        drop(session);
    }
}

#[tokio::test]
async fn a_required_certificate_is_required() {
    let site = Site::new();
    let settings = Settings {
        server_domain: "ca_list: ca.pem, verify_cert: true, require_cert: true".into(),
        ..Settings::default()
    };
    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
    for name in [None, Some("foreign"), Some("expired")] {
        let identity = name.map(|name| site.identity(name));
        let socket = TcpStream::connect(daemon.address(Scheme::Msrps)).await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        // In TLS 1.3 the refusal may come after the client is done.
        if let Ok(stream) = tls_handshake(tls_config(&site, identity.as_ref()), socket, "relay.test").await {
            let mut client = Client::over(stream, "msrps://x.invalid:1/x;tcp", &daemon.uri(Scheme::Msrps));
            assert_eq!(client.rx.rest().await.len(), 0);
        }
        daemon.log().wait_for(&["TLS handshake failed", &address]).await;
    }
    let config = tls_config(&site, Some(&site.identity("client")));
    Client::connect_with(&daemon, config, Scheme::Msrps).await.auth("alice", "alicepw").await;
    daemon.assert_well();
}

#[tokio::test]
async fn sessions_of_one_connection_are_limited() {
    let site = Site::new();
    let settings = Settings { limits: "sessions_per_connection: 3".into(), ..Settings::default() };
    let daemon = Daemon::start(RELAY, &site, &settings).await;
    let mut alice = Client::connect(&daemon, &site, Scheme::Msrps).await;
    for _ in 0..3 {
        alice.auth("alice", "alicepw").await;
    }
    let to = [alice.relay_uri().to_owned()];
    assert_eq!(alice.try_auth_at(&to, "alice", "alicepw").await.status(), 403);
}
