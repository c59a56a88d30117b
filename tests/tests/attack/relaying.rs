//! Attempts to have the relay carry something to somebody who never asked for it: nothing of it leads to a connection.

use tests::{Client, Scheme, Send, Session, Settings};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{MIB, Scene};

/// Somebody whom the relay is to be made to connect to.
struct Victim(TcpListener);

impl Victim {
    async fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn uri(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}/victim;tcp", self.0.local_addr().unwrap().port())
    }

    /// The first to connect is this one, and nobody was before.
    async fn was_left_alone(&self) {
        let own = TcpStream::connect(self.0.local_addr().unwrap()).await.unwrap();
        let (_, first) = self.0.accept().await.unwrap();
        assert_eq!(first, own.local_addr().unwrap(), "the relay has connected");
    }
}

/// What a request was answered with; 0: the connection was closed.
async fn outcome(client: &mut Client, method: &str, to: &[String]) -> u16 {
    let headers = match method {
        "SEND" => "Message-ID: m\r\nByte-Range: 1-0/0\r\n",
        "REPORT" => "Message-ID: m\r\nByte-Range: 1-1/1\r\nStatus: 000 200 OK\r\n",
        _ => "",
    };
    if method == "REPORT" {
        // Nobody answers one; what follows it shows that it was read.
        client.tx.request(method, to, headers).await;
        return match client.try_request("SEND", to, "Message-ID: m2\r\nByte-Range: 1-0/0\r\n").await {
            Ok(answer) => answer.status(),
            Err(_) => 0,
        };
    }
    client.try_request(method, to, headers).await.map_or(0, |answer| answer.status())
}

#[tokio::test]
async fn nobody_is_connected_to_for_a_stranger() {
    let mut scene = Scene::new(&Settings::default()).await;
    let victim = Victim::new().await;
    let (site, daemon) = (&scene.site, &scene.daemon);
    let (alice, from_alice) = Client::with_session(daemon, site, Scheme::Msrps, "alice").await;
    let (mallory, from_mallory) = Client::with_session(daemon, site, Scheme::Msrp, "bob").await;
    let relay = daemon.uri(Scheme::Msrp);
    let with_id = |id: &str| relay.replace(";tcp", &format!("/{id};tcp"));
    // One that has ended.
    let (late, ended) = Client::with_session(daemon, site, Scheme::Msrp, "bob").await;
    let address = late.address();
    late.close().await;
    daemon.log().wait_for(&["connection closed", &address]).await;

    let mut attempts: Vec<(&str, Vec<String>)> = Vec::new();
    for scheme in ["msrp", "msrps"] {
        let victim = victim.uri(scheme);
        for way in [
            vec![],
            vec![relay.clone()],
            vec![with_id("guess")],
            vec![with_id("")],
            vec![relay.clone(), relay.clone()],
            vec![ended.use_path[0].clone()],
            vec![from_alice.use_path[0].clone()],
            vec![from_alice.use_path[0].clone(), relay.clone()],
            vec![from_mallory.use_path[0].clone()],
        ] {
            for method in ["SEND", "REPORT", "AUTH", "NICKNAME"] {
                attempts.push((method, way.iter().cloned().chain([victim.clone()]).collect()));
            }
        }
    }
    let count = attempts.len();
    // A request along a session goes to its owner, whatever follows it in the path: they may send to each other.
    let sessions = [&from_alice, &from_mallory].map(|session| session.use_path[0].clone());
    let (count_received, received) = watch::channel(0);
    let owners: [JoinHandle<()>; 2] = [alice, mallory].map(|mut owner| {
        let count = count_received.clone();
        tokio::spawn(async move {
            loop {
                let message = owner.rx.next().await;
                if !message.method().is_empty() && message.method() != "REPORT" {
                    owner.tx.respond(&message, 200).await;
                }
                count.send_modify(|count| *count += 1);
            }
        })
    });
    let attack = async |site: &tests::Site, daemon: &tests::Daemon| {
        for (method, to) in attempts {
            let mut stranger = Client::connect(daemon, site, Scheme::Msrp).await;
            let status = outcome(&mut stranger, method, &to).await;
            let refused = matches!(status, 0 | 400 | 401 | 403 | 481 | 501 | 506);
            assert!(refused || sessions.contains(&to[0]) && status == 200, "{method} {to:?}: {status}");
        }
    };
    scene.under(&format!("{count} attempts of strangers to be relayed"), 16 * MIB, attack).await;
    victim.was_left_alone().await;
    // What came along their sessions came to their owners.
    for owner in owners {
        owner.abort();
        assert!(owner.await.is_err_and(|end| end.is_cancelled()), "a stranger cost an owner its connection");
    }
    assert!(*received.borrow() >= 4, "{}", *received.borrow());
}

/// A session that a peer uses is that peer's: whoever claims to be it, from another connection, is refused.
#[tokio::test]
async fn a_bound_session_is_not_taken_over() {
    let mut scene = Scene::new(&Settings::default()).await;
    let (site, daemon) = (&scene.site, &scene.daemon);
    let (mut alice, from_alice) = Client::with_session(daemon, site, Scheme::Msrps, "alice").await;
    let mut peer = Client::connect(daemon, site, Scheme::Msrp).await;
    let claimed = peer.uri().to_owned();
    assert_eq!(peer.send(&Send::text(&from_alice.inward(), "m", "the first")).await.status(), 200);
    assert_eq!(alice.receive().await.text(), "the first");
    let attack = async |_: &tests::Site, daemon: &tests::Daemon| {
        for _ in 0..50 {
            let socket = TcpStream::connect(daemon.address(Scheme::Msrp)).await.unwrap();
            let mut other = Client::over(tests::Stream::Plain(socket), &claimed, &daemon.uri(Scheme::Msrp));
            let status = other.send(&Send::text(&from_alice.inward(), "m", "let me in")).await.status();
            assert_eq!(status, 506);
        }
    };
    scene.under("50 takeovers of a session in use", 16 * MIB, attack).await;
    let to_peer = from_alice.to(&Session::without_relay(peer.uri()));
    assert_eq!(alice.send(&Send::text(&to_peer, "m", "still you?")).await.status(), 200);
    assert_eq!(peer.receive().await.text(), "still you?");
}
