//! Listeners that come, go and change.

use super::*;

#[tokio::test]
async fn a_listener_that_is_added_serves_and_one_that_is_gone_leaves_its_connections() {
    let running = Running::start(&Settings::default()).await;
    let plain = running.daemon.address(Scheme::Msrp);
    let (mut dave, from_dave) =
        Client::with_session(&running.daemon, &running.site, Scheme::Msrp, "dave").await;
    let another = dave.auth("dave", "davepw").await;
    let mut without_session = Client::connect(&running.daemon, &running.site, Scheme::Msrp).await;
    // It is accepted, and does not wait for that with the listener that goes.
    let to = [without_session.relay_uri().to_owned()];
    without_session.challenge(&to).await;

    let port = free_port();
    let moved = Settings { plain: Some(format!("127.0.0.1:{port}")), ..Settings::default() };
    let lines = running.reload(&moved).await;
    let told = lines.join("\n");
    assert!(
        told.contains(&format!("setting=\"listeners[msrp://127.0.0.1:{port}]\" from=\"(not set)\"")),
        "{told}"
    );
    assert!(told.contains("setting=\"listeners[msrp://127.0.0.1:0]\""), "{told}");
    until_closed(plain).await;
    // What is there goes on, with the URIs it was given.
    let to_self = Send::text(&from_dave.to(&from_dave), "m", "by the old name");
    assert_eq!(dave.send(&to_self).await.status(), 200);
    assert_eq!(dave.receive().await.body, b"by the old name");
    // An AUTH on a connection of the one that is gone: by its old name, and the new session has a name that leads here.
    let mut late = without_session;
    let session = late.auth("carol", "carolpw").await;
    let uri = session.use_path.last().unwrap();
    assert!(!uri.contains(&format!(":{}/", plain.port())), "{uri}");

    // The new one serves, under its own name.
    let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let relay = format!("msrp://relay.test:{port};tcp");
    let mut new = Client::over(tests::Stream::Plain(socket), "msrp://client.invalid:1/a;tcp", &relay);
    let session = new.auth("carol", "carolpw").await;
    assert!(
        session.use_path.last().unwrap().starts_with(&format!("msrp://relay.test:{port}/")),
        "{session:?}"
    );
    let to_dave = Send::text(&session.to(&another), "n", "to the old name");
    assert_eq!(new.send(&to_dave).await.status(), 200);
    assert_eq!(dave.receive().await.body, b"to the old name");
    running.goes_on().await;
}

#[tokio::test]
async fn a_listener_at_the_same_place_keeps_its_socket_and_changes_what_it_serves() {
    let port = free_port();
    let at = |more: &str| Settings { plain: Some(format!("127.0.0.1:{port}{more}")), ..Settings::default() };
    let running = Running::start(&at("")).await;
    // How many connections it takes.
    running.reload(&at(", max_connections: 1")).await;
    let mut refused = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    closes(&mut refused).await;
    // What it calls itself.
    running.reload(&at(", advertise: 'other.test:4711'")).await;
    let (_carol, session) = Client::with_session(&running.daemon, &running.site, Scheme::Msrp, "carol").await;
    assert!(session.use_path.last().unwrap().starts_with("msrp://other.test:4711/"), "{session:?}");
    // What belongs to the socket is told.
    let lines = running.reload(&at(", reuse_port: true")).await;
    assert!(
        lines.iter().any(|line| line.contains(".reuse_port\"") && line.contains("starts again")),
        "{lines:?}"
    );
    // Another protocol, at the same address.
    let sip = Settings {
        plain: None,
        ws: Some(format!("127.0.0.1:{port}")),
        websocket: "allow_origins: ['https://chat.test']".into(),
        ..Settings::default()
    };
    running.reload(&sip).await;
    let opened = |origin: &'static str| {
        let url = format!("ws://relay.test:{port}/msrp");
        async move {
            let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let headers = [("Sec-WebSocket-Protocol", "msrp"), ("Origin", origin)];
            tests::WebSocket::open(tests::Stream::Plain(socket), &url, &headers).await.is_ok()
        }
    };
    assert_eq!((opened("https://chat.test").await, opened("https://evil.test").await), (true, false));
    running.reload(&Settings { websocket: "allow_origins: ['https://evil.test']".into(), ..sip }).await;
    assert_eq!((opened("https://chat.test").await, opened("https://evil.test").await), (false, true));
    running.goes_on().await;
}

#[tokio::test]
async fn while_it_drains_all_is_taken_over_but_other_listeners() {
    let admin = Some("listen: 'http://127.0.0.1:0'".to_owned());
    let settings = Settings { admin, ..Settings::default() };
    let mut running = Running::start(&settings).await;
    let admin = Admin::of(&running.daemon).await.remove(0);
    admin.mi("drain", json!([])).await;
    let moved = Settings { plain: Some(format!("127.0.0.1:{}", free_port())), ..settings.clone() };
    running.refuse(&moved, &["listeners: cannot change while the relay drains"]).await;
    running.reload(&Settings { users: ", new: { password: newpw }".into(), ..settings }).await;
    admin.mi("drain:cancel", Value::Null).await;
    assert_eq!(auth(&running, "new").await, 200, "where it listened before");
    running.arrives().await;
}

#[tokio::test]
async fn a_tls_domain_may_come_with_the_listener_that_serves_it() {
    let running = Running::start(&Settings::default()).await;
    running.site.issue("other", &["other.test"]);
    let port = free_port();
    let yaml = Settings::default().to_yaml();
    let yaml = yaml.replace(
        "listeners:\n",
        &format!("listeners:\n  - {{ uri: 'msrps://127.0.0.1:{port}', tls_domain: other }}\n"),
    );
    let yaml = yaml.replace(
        "  server_domains:\n",
        "  server_domains:\n    other: { certificate: other.crt, private_key: other.key }\n",
    );
    running.site.write("relay.yaml", &yaml);
    hup(&running.daemon, "configuration reloaded").await;
    let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let config = tests::tls_config(&running.site, None);
    tests::tls_handshake(config, socket, "other.test").await.unwrap();
    running.goes_on().await;
}

/// Whether somebody else may bind there: of TCP, and of UDP even one who would share the port.
fn is_free(address: &str) -> bool {
    let address: SocketAddr = address.parse().unwrap();
    TcpListener::bind(address).is_ok() || tests::is_shared(address)
}

#[tokio::test]
async fn an_address_that_somebody_else_has_is_not_said_to_be_one_of_ours() {
    let port = free_port();
    let at = |host: &str| Settings { plain: Some(format!("{host}:{port}")), ..Settings::default() };
    let mut running = Running::start(&at("127.0.0.1")).await;
    let _foreign = TcpListener::bind(("127.0.0.2", port)).unwrap();
    // In the place of ours, and beside it.
    running.write(&at("127.0.0.2"));
    let alone = hup(&running.daemon, "not reloaded, everything stays as it was").await;
    let both = at("127.0.0.1").to_yaml();
    let both =
        both.replace("listeners:\n", &format!("listeners:\n  - {{ uri: 'msrp://127.0.0.2:{port}' }}\n"));
    running.site.write("relay.yaml", &both);
    let beside = hup(&running.daemon, "not reloaded, everything stays as it was").await;
    for line in [alone, beside] {
        assert!(line.contains(&format!("cannot listen on 127.0.0.2:{port}")), "{line}");
        assert!(line.contains("in use") && !line.contains("in the way"), "{line}");
    }
    running.arrives().await;
}

#[tokio::test]
async fn a_listener_moves_to_an_address_that_overlaps_its_own() {
    let port = free_port();
    let at = |host: &str, more: &str| Settings {
        plain: Some(format!("{host}:{port}")),
        hep_udp: Some(format!("{host}:{port}")),
        hep: Some(String::new()),
        auth: format!("allow_auth_without_tls: true{more}"),
        ..Settings::default()
    };
    let (narrow, other) = (format!("127.0.0.1:{port}"), format!("127.0.0.2:{port}"));
    let mut running = Running::start(&at("0.0.0.0", "")).await;
    // All or nothing, as ever: another mistake, and the port is nobody else's afterwards.
    running.refuse(&at("127.0.0.1", ", htdigest: none.such"), &["none.such"]).await;
    let wrong = Settings { log: "to: 'file:none/such/folder'".into(), ..at("127.0.0.1", "") };
    running.refuse(&wrong, &["log.to", "none/such/folder"]).await;
    TcpStream::connect(&other).await.unwrap();
    assert!(!is_free(&narrow) && !is_free(&other));

    running.reload(&at("127.0.0.1", "")).await;
    until_closed(other.parse().unwrap()).await;
    let socket = TcpStream::connect(&narrow).await.unwrap();
    let relay = format!("msrp://relay.test:{port};tcp");
    let mut carol = Client::over(tests::Stream::Plain(socket), "msrp://client.invalid:1/a;tcp", &relay);
    carol.auth("carol", "carolpw").await;
    assert!(!is_free(&narrow));
    // And back.
    running.reload(&at("0.0.0.0", "")).await;
    let socket = TcpStream::connect(&other).await.unwrap();
    let mut dave = Client::over(tests::Stream::Plain(socket), "msrp://client.invalid:1/a;tcp", &relay);
    dave.auth("dave", "davepw").await;
    assert!(!is_free(&narrow) && !is_free(&other));

    // Where the other one stays there is no way, and the line says so.
    let both = at("0.0.0.0", "").to_yaml();
    let both = both.replace("listeners:\n", &format!("listeners:\n  - {{ uri: 'msrp://{narrow}' }}\n"));
    running.site.write("relay.yaml", &both);
    let line = hup(&running.daemon, "not reloaded, everything stays as it was").await;
    let way = format!("the listener msrp://0.0.0.0:{port} of this relay is in the way");
    assert!(line.contains("listeners[0].uri") && line.contains(&way) && line.contains("in use"), "{line}");
    running.arrives().await;
}
