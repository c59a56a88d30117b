//! AUTH against a scripted relay (RFC 4976 §5.1, §9.1).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod common;

use std::time::{Duration, Instant};

use common::{Side, Wire, parse_all, uri};
use msrp_proto::digest::{Algorithm, AuthenticationInfo, Authorization, Ha1};
use msrp_proto::endpoint::{
    AuthError, Config, Credentials, Event, MAX_CHALLENGES, OwnSecret, RelayLogin, SendError, UsageError,
    relay_uri,
};
use msrp_proto::header::Name;
use msrp_proto::uri::Scheme;

const OWN: &str = "msrps://alice.example.com:9892/98cjs;tcp";
const INTRA: &str = "msrps://alice@intra.example.com;tcp";
const EXTRA: &str = "msrps://extra.example.com;tcp";
const INTRA_USE: &str = "msrps://intra.example.com:9000/jui787s2f;tcp";
const EXTRA_USE: &str = "msrps://extra.example.com:9000/mywdEe1233;tcp";

fn login(relay: &str) -> RelayLogin {
    RelayLogin { relay: uri(relay), credentials: Credentials::new("Alice", "s3cret"), expires: None }
}

/// Alice and what she does next.
struct Client {
    side: Side,
    now: Instant,
}

impl Client {
    fn new() -> Self {
        Self { side: Side::new(Config::default(), 7), now: Instant::now() }
    }

    fn asking(relays: &[&str]) -> Self {
        let mut client = Self::new();
        client.ask(relays);
        client
    }

    fn ask(&mut self, relays: &[&str]) {
        let relays = relays.iter().map(|relay| login(relay)).collect();
        self.side.endpoint.authenticate(uri(OWN), relays).unwrap();
    }

    /// The one AUTH that she sends now.
    fn auth(&mut self) -> Wire {
        let mut sent = parse_all(&self.side.transmit_all(self.now));
        assert_eq!(sent.len(), 1, "{sent:?}");
        let auth = sent.remove(0);
        assert_eq!(auth.start(), "AUTH");
        auth
    }

    /// Answers it, the whole path back.
    fn answer(&mut self, auth: &Wire, status: &str, fields: &[String]) {
        let mut hops: Vec<_> = auth.head.to_path_text(0).split(' ').collect();
        hops.reverse();
        let lines: String = fields.iter().map(|line| format!("{line}\r\n")).collect();
        let text = format!(
            "MSRP {id} {status}\r\nTo-Path: {OWN}\r\nFrom-Path: {from}\r\n{lines}-------{id}$\r\n",
            id = auth.id(),
            from = hops.join(" "),
        );
        self.side.feed(text.as_bytes(), self.now);
    }

    fn event(&mut self) -> Event {
        let mut events = self.side.take_events();
        assert_eq!(events.len(), 1, "{events:?}");
        events.remove(0)
    }

    fn error(&mut self) -> AuthError {
        match self.event() {
            Event::AuthFailed { error, .. } => error,
            event => panic!("{event:?}"),
        }
    }
}

fn challenge(realm: &str, nonce: &str) -> String {
    format!("WWW-Authenticate: Digest realm=\"{realm}\", qop=\"auth\", nonce=\"{nonce}\"")
}

fn authorization(auth: &Wire) -> Authorization {
    Authorization::parse(auth.head.value(Name::Authorization).expect("Authorization")).unwrap()
}

fn ha1(realm: &str, algorithm: Algorithm) -> Ha1 {
    Ha1::from_password(algorithm, "Alice", realm, "s3cret")
}

fn confirmation(auth: &Wire, realm: &str, next: Option<&str>) -> String {
    let authorization = authorization(auth);
    let ha1 = ha1(realm, authorization.algorithm());
    let uri = auth.head.to_path().next_back().unwrap();
    let info = AuthenticationInfo::confirm(&authorization, &ha1, uri.as_str(), next).unwrap();
    format!("Authentication-Info: {info}")
}

fn use_path(uris: &str) -> String {
    format!("Use-Path: {uris}")
}

#[test]
fn one_relay_challenges_and_lets_in_as_in_rfc_4976_5_1() {
    let mut alice = Client::asking(&[INTRA]);
    let first = alice.auth();
    assert_eq!((first.head.to_path_text(0), first.head.from_path_text()), (INTRA, OWN));
    assert_eq!(first.field("Authorization"), None);
    assert!(!first.head.has_body());
    alice.answer(&first, "401 Unauthorized", &[challenge("intra.example.com", "dcd98b")]);

    let second = alice.auth();
    assert_ne!(first.id(), second.id());
    let sent = authorization(&second);
    assert_eq!((sent.username(), sent.realm(), sent.nonce()), ("Alice", "intra.example.com", "dcd98b"));
    assert_eq!((sent.nc(), sent.uri(), sent.algorithm()), (1, None, Algorithm::Md5));
    assert!(sent.cnonce().len() >= 8);
    assert!(sent.verify(&ha1("intra.example.com", Algorithm::Md5), "AUTH", INTRA));
    let confirmed = confirmation(&second, "intra.example.com", Some("40f2e8"));
    alice.answer(&second, "200 OK", &[use_path(INTRA_USE), confirmed, "Expires: 900".into()]);

    let Event::Authenticated { use_path, expires, verified, .. } = alice.event() else { panic!() };
    assert!(verified);
    assert_eq!(expires, Some(Duration::from_secs(900)));
    assert_eq!(use_path.uris(), [uri(INTRA_USE)]);
    assert_eq!(use_path.path_for_sdp(&uri(OWN)), format!("{INTRA_USE} {OWN}"));
}

#[test]
fn the_second_relay_is_asked_through_the_first() {
    let mut alice = Client::asking(&[INTRA, EXTRA]);
    let first = alice.auth();
    alice.answer(&first, "401 Unauthorized", &[challenge("intra.example.com", "n1")]);
    let second = alice.auth();
    let confirmed = confirmation(&second, "intra.example.com", None);
    alice.answer(&second, "200 OK", &[use_path(INTRA_USE), confirmed, "Expires: 1800".into()]);
    assert!(alice.side.events.is_empty(), "not yet");

    let third = alice.auth();
    assert_eq!(third.head.to_path_text(0), format!("{INTRA_USE} {EXTRA}"));
    assert_eq!(third.head.from_path_text(), OWN);
    assert_eq!(third.field("Authorization"), None);
    alice.answer(&third, "401 Unauthorized", &[challenge("extra.example.com", "n2")]);
    let fourth = alice.auth();
    assert!(authorization(&fourth).verify(&ha1("extra.example.com", Algorithm::Md5), "AUTH", EXTRA));
    let confirmed = confirmation(&fourth, "extra.example.com", None);
    let path = format!("{INTRA_USE} {EXTRA_USE}");
    alice.answer(&fourth, "200 OK", &[use_path(&path), confirmed, "Expires: 900".into()]);

    let Event::Authenticated { use_path, expires, .. } = alice.event() else { panic!() };
    assert_eq!(expires, Some(Duration::from_secs(900)), "the shortest of all");
    assert_eq!(use_path.uris(), [uri(INTRA_USE), uri(EXTRA_USE)]);
    assert_eq!(use_path.path_for_sdp(&uri(OWN)), format!("{EXTRA_USE} {INTRA_USE} {OWN}"));
}

#[test]
fn a_stale_nonce_is_replaced_and_a_wrong_password_is_not_tried_again() {
    let mut alice = Client::asking(&[INTRA]);
    let auth = alice.auth();
    alice.answer(&auth, "401 Unauthorized", &[challenge("r", "n1")]);
    let auth = alice.auth();
    alice.answer(&auth, "401 Unauthorized", &[challenge("r", "n2") + ", stale=true"]);
    let auth = alice.auth();
    assert_eq!((authorization(&auth).nonce(), authorization(&auth).nc()), ("n2", 1));
    alice.answer(&auth, "401 Unauthorized", &[challenge("r", "n3")]);
    assert_eq!(alice.error(), AuthError::WrongCredentials);
    assert!(alice.side.transmit_all(alice.now).is_empty());
}

#[test]
fn stale_with_the_same_nonce_is_no_new_chance_and_stale_for_ever_is_not_obeyed() {
    let mut alice = Client::asking(&[INTRA]);
    for _ in 0..2 {
        let auth = alice.auth();
        alice.answer(&auth, "401 Unauthorized", &[challenge("r", "n1") + ", stale=true"]);
    }
    assert_eq!(alice.error(), AuthError::WrongCredentials);

    alice.ask(&[INTRA]);
    for nonce in 0..=MAX_CHALLENGES {
        let auth = alice.auth();
        alice.answer(&auth, "401 Unauthorized", &[challenge("r", &format!("n{nonce}")) + ", stale=true"]);
    }
    assert_eq!(alice.error(), AuthError::TooManyChallenges);
}

#[test]
fn of_several_challenges_the_strongest_that_we_can_answer_is_taken() {
    let all = [
        challenge("r", "n1"),
        challenge("r", "n1") + ", algorithm=SHA-256",
        challenge("r", "n1") + ", algorithm=SHA-512-256",
        challenge("r", "n1") + ", algorithm=MD5-sess",
    ];
    let mut alice = Client::asking(&[INTRA]);
    let auth = alice.auth();
    alice.answer(&auth, "401 Unauthorized", &all);
    let strongest = authorization(&alice.auth()).algorithm();
    assert_ne!(strongest, Algorithm::Md5);

    // With HA1 for MD5 alone, MD5 is the one.
    let mut alice = Client::new();
    let mut login = login(INTRA);
    login.credentials.secret = OwnSecret::Ha1(ha1("r", Algorithm::Md5));
    alice.side.endpoint.authenticate(uri(OWN), vec![login]).unwrap();
    let auth = alice.auth();
    alice.answer(&auth, "401 Unauthorized", &all);
    let answer = authorization(&alice.auth());
    assert!(answer.verify(&ha1("r", Algorithm::Md5), "AUTH", INTRA));
}

#[test]
fn without_a_challenge_that_can_be_answered_it_fails() {
    for lines in [vec![], vec!["WWW-Authenticate: Basic realm=\"r\"".to_owned()]] {
        let mut alice = Client::asking(&[INTRA]);
        let auth = alice.auth();
        alice.answer(&auth, "401 Unauthorized", &lines);
        assert!(matches!(alice.error(), AuthError::Challenge(_)));
    }
}

#[test]
fn the_next_nonce_saves_a_round_and_a_forgotten_one_costs_one() {
    let mut alice = Client::asking(&[INTRA]);
    let auth = alice.auth();
    alice.answer(&auth, "401 Unauthorized", &[challenge("r", "n1")]);
    let auth = alice.auth();
    let confirmed = confirmation(&auth, "r", Some("n2"));
    alice.answer(&auth, "200 OK", &[use_path(INTRA_USE), confirmed]);
    assert!(matches!(alice.event(), Event::Authenticated { expires: None, .. }));

    alice.ask(&[INTRA]);
    let auth = alice.auth();
    assert_eq!((authorization(&auth).nonce(), authorization(&auth).nc()), ("n2", 1));
    let confirmed = confirmation(&auth, "r", None);
    alice.answer(&auth, "200 OK", &[use_path(INTRA_USE), confirmed]);
    assert!(matches!(alice.event(), Event::Authenticated { .. }));

    // No nextnonce this time: the same nonce serves again, counted on.
    alice.ask(&[INTRA]);
    let auth = alice.auth();
    assert_eq!((authorization(&auth).nonce(), authorization(&auth).nc()), ("n2", 2));
    // The relay has forgotten it, and does not even say stale.
    alice.answer(&auth, "401 Unauthorized", &[challenge("r", "n3")]);
    let auth = alice.auth();
    assert_eq!((authorization(&auth).nonce(), authorization(&auth).nc()), ("n3", 1));
    alice.answer(&auth, "401 Unauthorized", &[challenge("r", "n4")]);
    assert_eq!(alice.error(), AuthError::WrongCredentials);
    // What failed is not offered again unasked.
    alice.ask(&[INTRA]);
    assert_eq!(alice.auth().field("Authorization"), None);
}

#[test]
fn a_relay_that_does_not_know_the_secret_is_found_out() {
    let mut alice = Client::asking(&[INTRA]);
    let auth = alice.auth();
    alice.answer(&auth, "401 Unauthorized", &[challenge("r", "n1")]);
    let auth = alice.auth();
    let other = confirmation(&auth, "another realm", None);
    alice.answer(&auth, "200 OK", &[use_path(INTRA_USE), other]);
    assert_eq!(alice.error(), AuthError::RelayNotVerified);
}

#[test]
fn a_relay_without_proof_is_used_and_said_to_be_unverified() {
    let mut alice = Client::asking(&[INTRA]);
    let auth = alice.auth();
    alice.answer(&auth, "200 OK", &[use_path(INTRA_USE)]);
    assert!(matches!(alice.event(), Event::Authenticated { verified: false, .. }));
}

#[test]
fn expires_is_asked_for_and_its_bounds_are_told() {
    let mut alice = Client::new();
    let login = RelayLogin { expires: Some(7200), ..login(INTRA) };
    alice.side.endpoint.authenticate(uri(OWN), vec![login]).unwrap();
    let auth = alice.auth();
    assert_eq!(auth.field("Expires").as_deref(), Some("7200"));
    alice.answer(&auth, "423 Parameter Out Of Bounds", &["Max-Expires: 3600".into()]);
    assert_eq!(alice.error(), AuthError::ExpiresOutOfBounds { min: None, max: Some(3600) });
}

#[test]
fn other_failures_are_told_as_they_are() {
    let mut alice = Client::asking(&[INTRA, EXTRA]);
    let auth = alice.auth();
    alice.answer(&auth, "403 Forbidden", &[]);
    assert!(matches!(alice.error(), AuthError::Refused(code) if code.as_u16() == 403));
    for bad in ["Use-Path: http://x", "Use-Path:", "X: y"] {
        alice.ask(&[INTRA]);
        let auth = alice.auth();
        alice.answer(&auth, "200 OK", &[bad.into()]);
        assert_eq!(alice.error(), AuthError::UsePath, "{bad}");
    }
    let none = alice.side.endpoint.authenticate(uri(OWN), vec![]);
    assert_eq!(none, Err(UsageError::EmptyPath));
    let mut wrong = login(INTRA);
    wrong.credentials.username = "a\r\nb".into();
    alice.side.endpoint.authenticate(uri(OWN), vec![wrong]).unwrap();
    let auth = alice.auth();
    alice.answer(&auth, "401 Unauthorized", &[challenge("r", "n1")]);
    assert!(matches!(alice.error(), AuthError::Credentials(_)));
}

#[test]
fn no_answer_for_30_seconds_and_a_lost_connection_fail_it() {
    let mut alice = Client::asking(&[INTRA]);
    assert_eq!(alice.side.endpoint.deadline(), None, "not sent yet");
    let auth = alice.auth();
    let deadline = alice.now + Duration::from_secs(30);
    assert_eq!(alice.side.endpoint.deadline(), Some(deadline));
    alice.side.endpoint.handle_timeout(deadline - Duration::from_millis(1));
    alice.side.drain();
    assert!(alice.side.events.is_empty());
    alice.side.endpoint.handle_timeout(deadline);
    alice.side.drain();
    assert_eq!(alice.error(), AuthError::Timeout);
    // Too late.
    alice.answer(&auth, "200 OK", &[use_path(INTRA_USE)]);
    assert!(alice.side.events.is_empty());

    alice.ask(&[INTRA]);
    alice.auth();
    alice.side.endpoint.connection_lost();
    alice.side.drain();
    let events = alice.side.take_events();
    assert!(matches!(events[0], Event::AuthFailed { error: AuthError::ConnectionLost, .. }));
    assert!(matches!(events[1], Event::Closed { .. }));
    assert_eq!(SendError::ConnectionLost.to_string(), "connection lost");
    assert!(alice.side.endpoint.authenticate(uri(OWN), vec![login(INTRA)]).is_err());
}

#[test]
fn expiry_is_announced_before_it_comes() {
    for (seconds, warned_after) in [(900, 870), (40, 20)] {
        let mut alice = Client::asking(&[INTRA]);
        let auth = alice.auth();
        alice.answer(&auth, "200 OK", &[use_path(INTRA_USE), format!("Expires: {seconds}")]);
        alice.event();
        let warning = alice.now + Duration::from_secs(warned_after);
        assert_eq!(alice.side.endpoint.deadline(), Some(warning));
        alice.side.endpoint.handle_timeout(warning);
        alice.side.drain();
        let Event::AuthExpiring { at, .. } = alice.event() else { panic!() };
        assert_eq!(at, alice.now + Duration::from_secs(seconds));
        assert_eq!(alice.side.endpoint.deadline(), None);
    }
    // One that never ends in practice.
    let mut alice = Client::asking(&[INTRA]);
    let auth = alice.auth();
    alice.answer(&auth, "200 OK", &[use_path(INTRA_USE), format!("Expires: {}", u64::MAX)]);
    assert!(matches!(alice.event(), Event::Authenticated { .. }));
}

#[test]
fn relay_uris_are_formed_as_they_are_asked() {
    let uri = |user, domain, port| relay_uri(Scheme::Msrps, user, domain, port).map(|uri| uri.to_string());
    assert_eq!(uri(None, "relay.test", None).unwrap(), "msrps://relay.test;tcp");
    assert_eq!(uri(Some("alice"), "[::1]", Some(2855)).unwrap(), "msrps://alice@[::1]:2855;tcp");
    assert!(uri(Some("al ice"), "relay.test", None).is_err());
}
