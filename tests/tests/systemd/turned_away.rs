//! Sockets that a service manager keeps open while nobody here serves them.

use std::net::SocketAddr;

use serde_json::json;
use tests::within;

use super::*;

/// Somebody accepts there, and closes the connection at once.
async fn is_turned_away(address: SocketAddr) {
    let turned_away = async {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let end = tokio::io::AsyncReadExt::read(&mut socket, &mut [0]).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    };
    within("the end of a connection", turned_away).await;
}

#[tokio::test]
async fn whoever_connects_where_nobody_serves_is_turned_away_until_somebody_does() {
    let site = Site::new();
    let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (msrp, ws, stray, hep) = (tcp(), tcp(), tcp(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let address = |socket: &TcpListener| socket.local_addr().unwrap();
    let settings = Settings {
        plain: Some(address(&msrp).to_string()),
        ws: Some(address(&ws).to_string()),
        hep_udp: Some(hep.local_addr().unwrap().to_string()),
        hep: Some(String::new()),
        admin: Some("listen: 'http://127.0.0.1:0'".into()),
        timeouts: "drain_timeout: 1h".into(),
        ..Settings::default()
    };
    let sockets = [msrp.as_fd(), hep.as_fd(), ws.as_fd(), stray.as_fd()];
    // The service manager, which has them open for as long as this test.
    let command = activated(&sockets, "msrp:hep:ws:stray");
    let mut daemon = Daemon::start_as(command, &site, "relay.yaml", &settings).await;
    let admin = Admin::of(&daemon).await.remove(0);
    let (alice, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let serves = async |at: SocketAddr| {
        let socket = tokio::net::TcpStream::connect(at).await.unwrap();
        let uri = format!("msrp://relay.test:{};tcp", at.port());
        let mut client = Client::over(tests::Stream::Plain(socket), "msrp://c.invalid:2855/s;tcp", &uri);
        client.auth("bob", "bobpw").await;
        client.close().await;
    };
    serves(address(&msrp)).await;
    is_turned_away(address(&stray)).await;

    // While it drains, and it serves again when that is taken back.
    admin.mi("drain", json!([])).await;
    for socket in [&msrp, &ws, &stray] {
        is_turned_away(address(socket)).await;
    }
    admin.mi("drain:cancel", json!([])).await;
    serves(address(&msrp)).await;

    // A listener that a reload takes away, and one that another brings back, or brings at last.
    let reload = async |settings: &Settings| {
        site.write("relay.yaml", &settings.to_yaml());
        admin.mi("tls_mgm:reload", json!([])).await;
    };
    reload(&Settings { plain: None, hep_udp: None, hep: None, ..settings.clone() }).await;
    is_turned_away(address(&msrp)).await;
    reload(&Settings { plain: Some(address(&stray).to_string()), ..settings.clone() }).await;
    serves(address(&stray)).await;
    is_turned_away(address(&msrp)).await;
    reload(&settings).await;
    serves(address(&msrp)).await;
    is_turned_away(address(&stray)).await;

    daemon.signal(Signal::TERM);
    daemon.log().wait_for(&["draining"]).await;
    is_turned_away(address(&msrp)).await;
    alice.close().await;
    assert_eq!(daemon.exit().await.code(), Some(0));
    // They listen on: who connects now waits for the next process.
    msrp.set_nonblocking(true).unwrap();
    let _waits = tokio::net::TcpStream::connect(address(&msrp)).await.unwrap();
    let accepted = async {
        while msrp.accept().is_err() {
            tokio::task::yield_now().await;
        }
    };
    within("the one who waits", accepted).await;
}

#[tokio::test]
async fn the_next_process_knows_whose_sockets_they_are() {
    let site = Site::new();
    let msrp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = msrp.local_addr().unwrap();
    let settings = Settings {
        plain: Some(address.to_string()),
        admin: Some("listen: 'http://127.0.0.1:0'".into()),
        upgrade: Some("socket: upgrade.sock".into()),
        ..Settings::default()
    };
    let mut old = Daemon::start_as(activated(&[msrp.as_fd()], "msrp"), &site, "relay.yaml", &settings).await;
    let new = Daemon::start_as(successor(RELAY), &site, "relay.yaml", &settings).await;
    assert_eq!(old.exit().await.code(), Some(0));
    let (_alice, _) = Client::with_session(&new, &site, Scheme::Msrp, "alice").await;
    let admin = Admin::of(&new).await.remove(0);
    admin.mi("drain", json!([])).await;
    is_turned_away(address).await;
    admin.mi("drain:cancel", json!([])).await;
    let (_bob, _) = Client::with_session(&new, &site, Scheme::Msrp, "bob").await;
}
