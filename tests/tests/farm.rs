//! A farm: three daemons under one name that share the users' database and the nonce secret, and nothing else.
//! `docs/farm.md` promises what is tested here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use msrp_proto::digest::Challenge;
use msrp_proto::flag::Flag;
use rustix::process::Signal;
use tests::{
    Client, Content, Daemon, Message, Scheme, Send, Session, Settings, Site, tls_config, tls_handshake,
    within,
};
use tokio::net::TcpStream;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// How AUTH names the farm where SRV records say which member to connect to (RFC 4976 §8).
const FARM: &str = "msrps://farm.test;tcp";

/// Each member has an address of its own, which is its name too: it resolves everywhere.
const NAMES: [&str; 3] = ["127.0.0.11", "127.0.0.12", "127.0.0.13"];

struct Farm {
    site: Site,
    members: Vec<Daemon>,
}

impl Farm {
    async fn start() -> Self {
        Self::start_with("", "").await
    }

    /// With more in `auth`, and with these timeouts.
    async fn start_with(auth: &str, timeouts: &str) -> Self {
        let site = Site::new();
        let mut members = Vec::new();
        for name in NAMES {
            // By the farm's name clients know it, by its own other relays and peers.
            site.issue(name, &["farm.test", name]);
            let settings = Settings {
                domain: "farm.test".into(),
                tls: Some(format!("{name}:0, advertise: \"{name}\"")),
                plain: None,
                identity: name.into(),
                client_domain: format!("ca_list: ca.pem, certificate: {name}.crt, private_key: {name}.key"),
                auth: format!(
                    "nonce_secret: 'shared by all of the farm', database: {{ url: 'sqlite:users.db' }}{auth}"
                ),
                timeouts: timeouts.into(),
                ..Settings::default()
            };
            let file = format!("{name}.yaml");
            site.write(&file, &settings.to_yaml());
            if members.is_empty() {
                for user in ["erin", "frank", "grace"] {
                    add_user(&site, &file, user);
                }
            }
            members.push(Daemon::start_as(Command::new(RELAY), &site, &file, &settings).await);
        }
        // A relay takes no nonce that is as old as itself: its predecessor may have seen it.
        let started = unix_millis();
        while unix_millis() <= started {
            tokio::task::yield_now().await;
        }
        Self { site, members }
    }

    /// A connection to one member, as the SRV records would lead there: the certificate is verified for the farm's name.
    async fn connect(&self, member: usize) -> Client {
        let daemon = &self.members[member];
        let socket = within("a connection", TcpStream::connect(daemon.address(Scheme::Msrps))).await.unwrap();
        let handshake = tls_handshake(tls_config(&self.site, None), socket, "farm.test");
        let stream = within("a TLS handshake", handshake).await.unwrap();
        Client::over(stream, &format!("msrps://client{member}.invalid:2855/c;tcp"), FARM)
    }

    async fn session(&self, member: usize, user: &str) -> (Client, Session) {
        let mut client = self.connect(member).await;
        let session = client.auth(user, &format!("{user}pw")).await;
        (client, session)
    }

    fn assert_well(&mut self, members: &[usize]) {
        for member in members {
            self.members[*member].assert_well();
        }
    }
}

fn add_user(site: &Site, config: &str, user: &str) {
    let mut command = Command::new(RELAY);
    command.args(["user", "add", user, "--config"]).arg(site.path(config)).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{user}pw\n").as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn unix_millis() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

async fn answer(client: &mut Client, challenge: &Challenge) -> Message {
    client.answer(&[FARM.into()], challenge, "erin", "erinpw", "").await
}

fn is_stale(refused: &Message) -> bool {
    assert_eq!(refused.status(), 401, "{refused:?}");
    Challenge::parse(refused.header("WWW-Authenticate")).unwrap().stale()
}

/// One message each way, and that the other has it.
async fn chat(one: (&mut Client, &Session), other: (&mut Client, &Session)) {
    for (from, to) in [(0, 1), (1, 0)] {
        let ends = [(&mut *one.0, one.1), (&mut *other.0, other.1)];
        let path = ends[from].1.to(ends[to].1);
        let message = Send::text(&path, "chat", "hello").with("Success-Report: yes");
        assert_eq!(ends[from].0.send(&message).await.status(), 200);
        let received = ends[to].0.receive().await;
        assert_eq!(received.text(), "hello");
        ends[to].0.tx.report(&received, 200).await;
        assert_eq!(ends[from].0.receive_report().await.reported(), 200);
    }
}

/// Sends one message that cannot arrive, and gives what tells so.
async fn fails(client: &mut Client, to: &[String]) -> u16 {
    match client.send(&Send::text(to, "lost", "lost")).await.status() {
        200 => client.receive_report().await.reported(),
        status => status,
    }
}

#[tokio::test]
async fn each_member_serves_under_the_farms_name_and_hands_out_its_own() {
    let mut farm = Farm::start().await;
    for (member, name) in NAMES.iter().enumerate() {
        let (_, session) = farm.session(member, "erin").await;
        let port = farm.members[member].address(Scheme::Msrps).port();
        assert_eq!(session.use_path.len(), 1);
        assert!(session.use_path[0].starts_with(&format!("msrps://{name}:{port}/")), "{session:?}");
    }
    farm.assert_well(&[0, 1, 2]);
}

#[tokio::test]
async fn clients_of_two_members_chat_over_both() {
    let mut farm = Farm::start().await;
    let (mut erin, from_erin) = farm.session(0, "erin").await;
    let (mut frank, from_frank) = farm.session(1, "frank").await;
    assert_eq!(from_erin.to(&from_frank).len(), 3, "her member, his member, and he");
    chat((&mut erin, &from_erin), (&mut frank, &from_frank)).await;
    farm.assert_well(&[0, 1, 2]);
}

#[tokio::test]
async fn a_challenge_from_one_member_is_answered_at_another() {
    let mut farm = Farm::start().await;
    let challenge = farm.connect(0).await.challenge(&[FARM.into()]).await;
    let mut erin = farm.connect(1).await;
    let granted = answer(&mut erin, &challenge).await;
    assert_eq!(granted.status(), 200, "{granted:?}");
    assert!(granted.header("Use-Path").starts_with("msrps://127.0.0.12:"), "{granted:?}");
    farm.assert_well(&[0, 1, 2]);
}

#[tokio::test]
async fn a_replay_is_refused_by_the_member_that_saw_it_and_taken_once_by_each_other() {
    let mut farm = Farm::start().await;
    let challenge = farm.connect(0).await.challenge(&[FARM.into()]).await;
    for member in [0, 1, 2] {
        let mut erin = farm.connect(member).await;
        assert_eq!(answer(&mut erin, &challenge).await.status(), 200, "member {member} has not seen it");
        let mut thief = farm.connect(member).await;
        assert_eq!(answer(&mut thief, &challenge).await.status(), 401, "member {member} has seen it");
    }
    farm.assert_well(&[0, 1, 2]);
}

#[tokio::test]
async fn after_nonce_expire_a_replay_is_refused_by_every_member() {
    let mut farm = Farm::start_with(", nonce_expire: 1s", "").await;
    let challenge = farm.connect(0).await.challenge(&[FARM.into()]).await;
    // Not before now was it issued, so after this second it is over everywhere.
    let over = unix_millis() + 1000;
    while unix_millis() < over {
        let left = u64::try_from(over.saturating_sub(unix_millis())).unwrap();
        tokio::time::sleep(Duration::from_millis(left + 1)).await;
    }
    for member in [0, 1, 2] {
        assert!(is_stale(&answer(&mut farm.connect(member).await, &challenge).await));
    }
    farm.assert_well(&[0, 1, 2]);
}

#[tokio::test]
async fn clients_of_a_member_that_was_killed_go_on_at_another() {
    let mut farm = Farm::start().await;
    let (mut erin, from_erin) = farm.session(0, "erin").await;
    let (mut frank, from_frank) = farm.session(1, "frank").await;
    let (mut grace, from_grace) = farm.session(2, "grace").await;
    chat((&mut erin, &from_erin), (&mut frank, &from_frank)).await;

    farm.members[0].signal(Signal::KILL);
    assert_eq!(farm.members[0].exit().await.code(), None, "killed");
    // Whatever is the way it ends: she is told by the connection's end, and he by a failure.
    erin.rx.rest().await;
    let status = fails(&mut frank, &from_frank.to(&from_erin)).await;
    assert!([408, 481].contains(&status), "{status}");

    // The next one on the list of SRV records. Her path is another one; SIP tells him.
    let (mut erin, again) = farm.session(2, "erin").await;
    assert!(again.use_path[0].starts_with("msrps://127.0.0.13:"), "{again:?}");
    chat((&mut erin, &again), (&mut frank, &from_frank)).await;
    chat((&mut frank, &from_frank), (&mut grace, &from_grace)).await;
    farm.assert_well(&[1, 2]);
}

#[tokio::test]
async fn a_member_that_stops_lets_messages_finish_and_clients_go_on_at_another() {
    let mut farm = Farm::start_with("", "drain_timeout: 60s").await;
    let (mut erin, from_erin) = farm.session(0, "erin").await;
    let (mut frank, from_frank) = farm.session(1, "frank").await;
    chat((&mut erin, &from_erin), (&mut frank, &from_frank)).await;

    let content = Content::new(10_000);
    let message = Send {
        to: from_erin.to(&from_frank),
        message: "m".into(),
        range: "1-10000/10000".into(),
        ..Send::default()
    };
    let transaction = erin.tx.begin(&message).await;
    erin.tx.raw(content.piece(0, 5_000)).await;
    frank.rx.head().await;
    farm.members[0].signal(Signal::TERM);
    farm.members[0].log().wait_for(&["stopping", "SIGTERM"]).await;
    erin.tx.raw(content.piece(5_000, 5_000)).await;
    erin.tx.end(&transaction, Flag::Complete).await;
    let (body, flag) = frank.rx.rest_of_chunk().await;
    content.check(0, &body);
    assert_eq!((body.len(), flag), (10_000, Flag::Complete));
    assert_eq!(erin.rx.response(&transaction).await.status(), 200);

    let (mut moved, again) = farm.session(2, "erin").await;
    chat((&mut moved, &again), (&mut frank, &from_frank)).await;
    erin.close().await;
    assert_eq!(farm.members[0].exit().await.code(), Some(0), "{:?}", farm.members[0].log());
    chat((&mut moved, &again), (&mut frank, &from_frank)).await;
    farm.assert_well(&[1, 2]);
}
