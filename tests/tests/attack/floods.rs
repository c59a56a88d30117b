//! Much of something at once.

use tests::{Admin, CLIENT_HELLO, Client, Daemon, Scheme, Send, Settings, Site, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use super::{MIB, Scene};

fn with_admin() -> Settings {
    Settings { admin: Some("listen: 'http://127.0.0.1:0'".into()), ..Settings::default() }
}

/// The log does not become as large as the flood.
#[tokio::test]
async fn tls_handshakes_half_open_and_garbage() {
    let mut scene =
        Scene::new(&Settings { tls_section: "tls_handshake_timeout: 2s".into(), ..with_admin() }).await;
    let admin = Admin::of(&scene.daemon).await.remove(0);
    let address = scene.daemon.address(Scheme::Msrps);
    const HALF_OPEN: usize = 500;
    const GARBAGE: usize = 500;
    let attack = async |_: &Site, _: &Daemon| {
        let mut attackers = JoinSet::new();
        for number in 0..HALF_OPEN + GARBAGE {
            attackers.spawn(async move {
                let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
                let bytes = if number < HALF_OPEN { CLIENT_HELLO } else { &[b'x'; 4096] };
                let _ = socket.write_all(bytes).await;
                let _ = socket.read_to_end(&mut Vec::new()).await;
            });
        }
        within("all of them to be closed", attackers.join_all()).await;
    };
    scene.under("1000 TLS handshakes, half of them garbage", 48 * MIB, attack).await;
    let lines = scene.daemon.log().with(&["TLS handshake failed"]).len();
    assert_eq!(lines, 100, "and one about the rest when the minute is over");
    let failed = async |result: &str| {
        let name = "msrp_relay_connections_ended_total";
        let labels = format!("protocol=\"msrps\",direction=\"in\",result=\"{result}\"");
        admin.metric(&format!("{name}{{{labels}}}")).await
    };
    let told = failed("failed").await + failed("timeout").await + failed("reset").await;
    assert_eq!(told, (HALF_OPEN + GARBAGE) as f64, "each is counted");
}

/// Requests without credentials, as fast as they are answered.
#[tokio::test]
async fn auths_that_want_a_challenge() {
    let mut scene = Scene::new(&Settings::default()).await;
    let attack = async |_: &Site, daemon: &Daemon| {
        let (uri, address) = (daemon.uri(Scheme::Msrp), daemon.address(Scheme::Msrp));
        let mut attackers = JoinSet::new();
        for _ in 0..20 {
            let uri = uri.clone();
            attackers.spawn(async move {
                let socket = tokio::net::TcpStream::connect(address).await.unwrap();
                let own = "msrp://mallory.invalid:2855/s;tcp";
                let mut client = Client::over(tests::Stream::Plain(socket), own, &uri);
                for _ in 0..500 {
                    let _ = client.challenge(std::slice::from_ref(&uri)).await;
                }
            });
        }
        attackers.join_all().await;
    };
    scene.under("10000 AUTHs without credentials", 32 * MIB, attack).await;
}

/// Guesses for one user from one address, over many connections: each failure is a line that fail2ban sees, the pair
/// waits longer and longer, and who knows the password gets in.
#[tokio::test]
async fn guesses_of_a_password() {
    let settings = Settings {
        auth:
            "allow_auth_without_tls: true, throttle: { free: 3, delay: 200ms, max_delay: 400ms, waiting: 8 }"
                .into(),
        ..with_admin()
    };
    let mut scene = Scene::new(&settings).await;
    let admin = Admin::of(&scene.daemon).await.remove(0);
    let (daemon, address) = (scene.daemon.uri(Scheme::Msrp), scene.daemon.address(Scheme::Msrp));
    let attack = async |_: &Site, _: &Daemon| {
        let mut attackers = JoinSet::new();
        for number in 0..60 {
            let uri = daemon.clone();
            attackers.spawn(async move {
                let socket = tokio::net::TcpStream::connect(address).await.unwrap();
                let own = format!("msrp://m{number}.invalid:2855/s;tcp");
                let mut client = Client::over(tests::Stream::Plain(socket), &own, &uri);
                let granted = client.try_session("alice", &format!("guess{number}")).await;
                assert!(granted.is_err(), "{granted:?}");
            });
        }
        within("all guesses to be answered", attackers.join_all()).await;
    };
    scene.under("60 guesses of a password over as many connections", 32 * MIB, attack).await;
    let failed = admin.metric("msrp_relay_msrp_auths_total{result=\"failed\"}").await;
    let lines = scene.daemon.log().with(&["WARN", "AUTH failed", "user=\"alice\"", "127.0.0.1"]).len();
    println!("{failed} of 60 guesses were looked at");
    assert_eq!(lines as f64, failed, "a line for each that was looked at");
    assert!(failed >= 3.0, "at least those that wait for nothing are looked at: {failed}");
    assert!(failed < 60.0, "those that find too many waiting are not looked at");
    // Who knows the password gets in, from the same address too.
    let (client, _) = Client::with_session(&scene.daemon, &scene.site, Scheme::Msrps, "alice").await;
    client.close().await;
}

/// Whoever guesses sessions gets 481 for each, and the same for one that was there once.
#[tokio::test]
async fn guesses_of_session_ids() {
    let mut scene = Scene::new(&with_admin()).await;
    let admin = Admin::of(&scene.daemon).await.remove(0);
    let (mut mallory, own) = Client::with_session(&scene.daemon, &scene.site, Scheme::Msrp, "alice").await;
    let real = own.use_path[0].clone();
    let (front, id) = real.rsplit_once('/').unwrap();
    let (front, id) = (front.to_owned(), id.split(';').next().unwrap().to_owned());
    let attack = async |_: &Site, _: &Daemon| {
        for number in 0..3000_u32 {
            // Another id of the same form: all but its last digits.
            let guess = format!("{}{:08x}", &id[..id.len() - 8], number.wrapping_mul(0x9e37_79b9));
            let to = [format!("{front}/{guess};tcp")];
            let answer = mallory.send(&Send::text(&to, "m", "anybody?")).await;
            assert_eq!(answer.status(), 481, "{guess}");
        }
    };
    scene.under("3000 guesses of session ids", 16 * MIB, attack).await;
    assert_eq!(admin.metric("msrp_relay_msrp_sessions").await, 3.0, "the neighbours' and mallory's own");
}

/// Heads as large as they may be, and larger: header fields, paths, one long value.
#[tokio::test]
async fn heads_of_all_sizes() {
    let mut scene = Scene::new(&Settings::default()).await;
    let (mut bob, from_bob) = Client::with_session(&scene.daemon, &scene.site, Scheme::Msrp, "bob").await;
    let receive = tokio::spawn(async move {
        let mut whole = 0_u32;
        while let Ok(Some(message)) = bob.rx.try_next().await {
            whole += 1;
            let _ = bob.tx.try_respond(&message, 200).await;
        }
        whole
    });
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(Client::with_session(&scene.daemon, &scene.site, Scheme::Msrp, "alice").await);
    }
    let attack = async |_: &Site, _: &Daemon| {
        for (number, (mut client, own)) in clients.into_iter().enumerate() {
            let path = own.to(&from_bob);
            let (lines, path) = match number % 4 {
                0 => ("X-Y: z\r\n".repeat(60 * (number / 4 + 1)), path),
                1 => (format!("X: {}\r\n", "y".repeat(8000 * (number / 4 + 1))), path),
                2 => {
                    let far = (0..10 * (number / 4 + 1)).map(|n| format!("msrp://h{n}.invalid:1/s;tcp"));
                    (String::new(), path.into_iter().chain(far).collect())
                }
                _ => (format!("Content-Disposition: {}\r\n", "a/".repeat(30_000)), path),
            };
            let message = Send { headers: lines, ..Send::text(&path, "m", "x") };
            let transaction = client.tx.transaction();
            let mut bytes = client.tx.head_text(&message, &transaction).into_bytes();
            bytes.extend_from_slice(format!("x\r\n-------{transaction}$\r\n").as_bytes());
            let _ = client.tx.try_raw(&bytes).await;
            // Forwarded, refused, or closed.
            if let Ok(Some(answer)) = client.rx.try_next().await {
                assert!(matches!(answer.status(), 200 | 400 | 403 | 506), "{number}: {answer:?}");
            }
        }
    };
    scene.under("40 large heads", 16 * MIB, attack).await;
    receive.abort();
}
