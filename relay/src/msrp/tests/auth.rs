//! AUTH for this relay (RFC 4976 §5.1, §6.3, §9.1).

use std::sync::Arc;
use std::time::Duration;

use msrp_proto::digest::{Algorithm, AuthenticationInfo, Authorization, Challenge, Ha1};
use tcp_transport::connection::CloseReason;
use tcp_transport::tls::PeerCertificate;

use super::harness::*;
use crate::config::Secret;
use crate::credentials::{CredentialChain, UserTable};
use crate::msrp::{Owner, ProcessTag};

/// Sends an AUTH without credentials, and gives the challenge.
fn challenge(world: &mut World, client: ClientId, to: &str) -> Challenge {
    let tid = world.tid();
    world.write(client, auth_request(&tid, to, &own_uri("alice"), ""));
    let response = world.take_one(client);
    assert_eq!((response.status(), response.tid()), (Some(401), tid));
    Challenge::parse(response.field("WWW-Authenticate")).unwrap()
}

/// Sends an AUTH with this Authorization and these other lines, and gives the answer.
fn attempt(world: &mut World, client: ClientId, to: &str, authorization: &str, lines: &str) -> Message {
    let tid = world.tid();
    let lines = format!("{lines}Authorization: {authorization}\r\n");
    world.write(client, auth_request(&tid, to, &own_uri("alice"), &lines));
    let response = world.take_one(client);
    assert_eq!(response.tid(), tid);
    response
}

/// Both steps with right credentials, the second with these lines.
fn granted_or_not(world: &mut World, client: ClientId, lines: &str) -> Message {
    let asked = challenge(world, client, RELAY);
    attempt(world, client, RELAY, &answer(&asked, "alice", RELAY, 1).to_string(), lines)
}

#[test]
fn the_first_auth_is_challenged_with_nonce_opaque_realm_and_quoted_qop() {
    let mut world = World::new();
    let client = world.connect();
    world.write(client, auth_request("49fh", RELAY, &own_uri("alice"), ""));
    let response = world.take_one(client);
    assert_eq!((response.status(), response.tid().as_str()), (Some(401), "49fh"));
    assert_eq!((response.to(), response.from()), (own_uri("alice").as_str(), RELAY));
    let [value] = response.fields("WWW-Authenticate")[..] else { panic!("{response:?}") };
    assert!(value.starts_with("Digest "), "{value}");
    for part in ["realm=\"relay.test\"", "qop=\"auth\"", "nonce=\"", "opaque=\""] {
        assert!(value.contains(part), "{part} in {value}");
    }
    assert!(!value.contains("domain") && !value.contains("stale=true"), "{value}");
    world.assert_open(client);
    assert!(world.relay(0).sessions().is_empty());
}

#[test]
fn there_is_one_challenge_for_each_algorithm_with_the_same_nonce_and_opaque() {
    let mut settings = settings();
    settings.auth.algorithms = vec![Algorithm::Sha256, Algorithm::Md5, Algorithm::Sha512_256];
    let mut world = World::with(settings);
    let client = world.connect();
    world.write(client, auth_request("49fh", RELAY, &own_uri("alice"), ""));
    let response = world.take_one(client);
    let challenges: Vec<_> = response
        .fields("WWW-Authenticate")
        .into_iter()
        .map(|value| Challenge::parse(value).unwrap())
        .collect();
    let algorithms: Vec<_> = challenges.iter().map(Challenge::algorithm).collect();
    assert_eq!(algorithms, [Algorithm::Sha256, Algorithm::Md5, Algorithm::Sha512_256]);
    assert!(challenges.iter().all(|other| other.nonce() == challenges[0].nonce()));
    assert!(challenges.iter().all(|other| other.opaque() == challenges[0].opaque()));
    assert!(challenges[0].opaque().is_some());
}

#[test]
fn success_brings_use_path_expires_and_authentication_info() {
    let mut world = World::new();
    let client = world.connect();
    let asked = challenge(&mut world, client, RELAY);
    let authorization = answer(&asked, "alice", RELAY, 1);
    let response = attempt(&mut world, client, RELAY, &authorization.to_string(), "");
    assert_eq!(response.status(), Some(200));
    assert_eq!((response.to(), response.from()), (own_uri("alice").as_str(), RELAY));
    assert_eq!(response.field("Expires"), "1800");

    let use_path = response.field("Use-Path");
    let id = use_path.strip_prefix("msrps://relay.test:2855/").unwrap().strip_suffix(";tcp").unwrap();
    assert_eq!(id.len(), 37);
    assert_eq!(ProcessTag::of_session_id(id), Some(world.relay(0).sessions().tag()));

    let info = response.field("Authentication-Info");
    for part in ["rspauth=\"", "cnonce=\"c0ffee\"", "nc=00000001", "qop=auth", "nextnonce=\""] {
        assert!(info.contains(part), "{part} in {info}");
    }
    let info = AuthenticationInfo::parse(info).unwrap();
    let ha1 = Ha1::from_password(Algorithm::Md5, "alice", REALM, "alicepw");
    assert!(info.verify(&authorization, &ha1, RELAY));
    assert_ne!(info.nextnonce(), Some(asked.nonce()));

    assert_eq!(world.relay(0).sessions().len(), 1);
    let session = world
        .relay(0)
        .sessions()
        .find(&use_path.parse::<msrp_proto::uri::MsrpUri>().unwrap().as_ref(), world.now);
    let session = session.unwrap();
    assert_eq!(session.user(), "alice");
    assert!(matches!(session.owner(), Owner::Client(link) if link.id() == world.link(client).id()));
}

#[test]
fn the_next_nonce_serves_the_next_auth_and_each_auth_makes_another_session() {
    let mut world = World::new();
    let client = world.connect();
    let (first, renewed) = world.auth_along(client, "alice", RELAY, &own_uri("alice"));
    let renewed = renewed.unwrap();
    for nc in 1..=2 {
        let value = answer(&renewed, "alice", RELAY, nc).to_string();
        let response = attempt(&mut world, client, RELAY, &value, "");
        assert_eq!(response.status(), Some(200));
        assert_ne!(response.field("Use-Path"), first);
        let info = response.field("Authentication-Info");
        assert!(info.contains(&format!("nc={nc:08}")), "{info}");
    }
    assert_eq!(world.relay(0).sessions().len(), 3);
}

#[test]
fn a_nonce_count_that_was_used_is_refused() {
    let mut world = World::new();
    let client = world.connect();
    let asked = challenge(&mut world, client, RELAY);
    let second = answer(&asked, "alice", RELAY, 2).to_string();
    assert_eq!(attempt(&mut world, client, RELAY, &second, "").status(), Some(200));
    for nc in [2, 1] {
        let replay = answer(&asked, "alice", RELAY, nc).to_string();
        let response = attempt(&mut world, client, RELAY, &replay, "");
        assert_eq!(response.status(), Some(401));
        assert!(!Challenge::parse(response.field("WWW-Authenticate")).unwrap().stale());
    }
    // From another connection as well.
    let other = world.connect();
    assert_eq!(attempt(&mut world, other, RELAY, &second, "").status(), Some(401));
    let third = answer(&asked, "alice", RELAY, 3).to_string();
    assert_eq!(attempt(&mut world, client, RELAY, &third, "").status(), Some(200));
}

#[test]
fn the_digest_uri_may_be_sent_literally_or_written_otherwise_but_not_be_another() {
    for (sent, status) in [
        (RELAY, 200),
        // Equal by RFC 4975 §6.1: the client has hashed what it wrote.
        ("msrps://RELAY.test:2855;TCP", 200),
        ("msrps://alice@relay.test:2855;tcp", 200),
        ("msrps://relay.test:2856;tcp", 400),
        ("msrps://relay.test;tcp", 400),
        ("msrps://other.test:2855;tcp", 400),
        ("nonsense", 400),
    ] {
        let mut world = World::new();
        let client = world.connect();
        let asked = challenge(&mut world, client, RELAY);
        let authorization = answer_with(&asked, "alice", "alicepw", sent, 1, true);
        assert!(authorization.to_string().contains("uri="));
        let response = attempt(&mut world, client, RELAY, &authorization.to_string(), "");
        assert_eq!(response.status(), Some(status), "{sent}");
        if status == 200 {
            let info = AuthenticationInfo::parse(response.field("Authentication-Info")).unwrap();
            let ha1 = Ha1::from_password(Algorithm::Md5, "alice", REALM, "alicepw");
            assert!(info.verify(&authorization, &ha1, sent), "{sent}");
        }
    }
}

#[test]
fn without_a_digest_uri_the_rightmost_of_to_path_counts_as_it_was_sent() {
    for to in [
        "msrps://alice@relay.test;tcp",
        "msrps://relay.test;tcp",
        "msrps://relay.test:2855;tcp",
        "msrps://bob@RELAY.TEST:2855;tcp",
    ] {
        let mut world = World::new();
        let client = world.connect();
        let asked = challenge(&mut world, client, to);
        let response = attempt(&mut world, client, to, &answer(&asked, "alice", to, 1).to_string(), "");
        assert_eq!(response.status(), Some(200), "{to}");
        // It calls itself what the client called it, and hands out the advertised name.
        assert_eq!(response.from(), to);
        assert!(response.field("Use-Path").starts_with("msrps://relay.test:2855/"));
    }
}

#[test]
fn auth_finds_this_relay_by_domain_or_by_listener() {
    let mut settings = settings();
    settings.domain = "example.test".into();
    settings.listeners[TLS].bound_port = 12855;
    for (to, ours) in [
        ("msrps://example.test;tcp", true),
        ("msrps://alice@example.test;tcp", true),
        ("msrps://example.test:2855;tcp", true),
        ("msrp://example.test:2856;tcp", true),
        ("msrps://relay.test:2855;tcp", true),
        ("msrps://example.test:2854;tcp", false),
        ("msrps://example.test:2856;tcp", false),
        ("msrps://relay.test;tcp", true),
        ("msrps://relay.test:2856;tcp", false),
        // The port behind the advertised one: for our domain, not for the name that is advertised.
        ("msrps://example.test:12855;tcp", true),
        ("msrps://relay.test:12855;tcp", false),
        // RFC 7977: a WebSocket listener is found by its own transport, and no other by it.
        ("msrps://example.test;ws", true),
        ("msrps://relay.test;WS", true),
        ("msrps://alice@relay.test:443;ws", true),
        ("msrps://example.test:443;ws", true),
        ("msrp://relay.test:80;ws", true),
        ("msrps://relay.test:80;ws", false),
        ("msrps://relay.test:2855;ws", false),
        ("msrps://relay.test:443;tcp", false),
        ("msrps://other.test;ws", false),
        ("msrps://example.test;sctp", false),
        ("msrps://other.test:2855;tcp", false),
    ] {
        let mut world = World::with(settings.clone());
        let client = world.connect();
        world.write(client, auth_request("t0001", to, &own_uri("alice"), ""));
        if ours {
            assert_eq!(world.take_one(client).status(), Some(401), "{to}");
        } else {
            world.nothing_for(client);
            assert!(matches!(world.closed(client), Some(CloseReason::Protocol(_))), "{to}");
        }
    }
}

#[test]
fn use_path_is_what_the_listener_advertises() {
    let mut settings = settings();
    settings.auth.allow_auth_without_tls = true;
    let mut world = World::with(settings);
    for (listener, begins) in [(TLS, "msrps://relay.test:2855/"), (PLAIN, "msrp://relay.test:2856/")] {
        let client = world.connect_to(0, listener);
        let (session, _) = world.auth_along(client, "alice", "msrps://relay.test;tcp", &own_uri("alice"));
        assert!(session.starts_with(begins), "{session}");
    }
}

#[test]
fn wrong_credentials_are_challenged_anew_and_close_after_max_failures() {
    for max_failures in [1, 5] {
        for (user, password, realm) in
            [("alice", "wrong", REALM), ("nobody", "pw", REALM), ("alice", "alicepw", "other.test")]
        {
            let mut settings = settings();
            settings.auth.max_failures = max_failures;
            let mut world = World::with(settings);
            let client = world.connect();
            let asked = challenge(&mut world, client, RELAY);
            let asked = asked.to_string().replace(REALM, realm);
            let asked = Challenge::parse(asked).unwrap();
            for nc in 1..=max_failures {
                world.assert_open(client);
                let value = answer_with(&asked, user, password, RELAY, nc as u32, false).to_string();
                let response = attempt(&mut world, client, RELAY, &value, "");
                assert_eq!(response.status(), Some(401));
                assert!(!Challenge::parse(response.field("WWW-Authenticate")).unwrap().stale());
            }
            assert!(matches!(world.closed(client), Some(CloseReason::Protocol(_))));
        }
    }
}

/// Who has one password may not try others' for ever.
#[test]
fn success_does_not_wipe_failures_out_and_challenges_are_none() {
    let mut settings = settings();
    settings.auth.max_failures = 3;
    let mut world = World::with(settings);
    let client = world.connect();
    for round in 1..=3 {
        for _ in 0..3 {
            challenge(&mut world, client, RELAY);
        }
        let asked = challenge(&mut world, client, RELAY);
        world.assert_open(client);
        let wrong = answer_with(&asked, "alice", "wrong", RELAY, 1, false).to_string();
        assert_eq!(attempt(&mut world, client, RELAY, &wrong, "").status(), Some(401));
        if round < 3 {
            let right = answer(&asked, "alice", RELAY, 2).to_string();
            assert_eq!(attempt(&mut world, client, RELAY, &right, "").status(), Some(200));
        }
    }
    assert!(matches!(world.closed(client), Some(CloseReason::Protocol(_))));
}

#[test]
fn a_nonce_is_stale_when_its_lifetime_is_over_and_not_before() {
    for (millis, status) in [(29_999, 200), (30_000, 401), (30_001, 401)] {
        let mut world = World::new();
        // Probation is for somebody else to test.
        let client = world.member("alice").id;
        let asked = challenge(&mut world, client, RELAY);
        world.advance(Duration::from_millis(millis));
        let response = attempt(&mut world, client, RELAY, &answer(&asked, "alice", RELAY, 1).to_string(), "");
        assert_eq!(response.status(), Some(status), "{millis}");
        if status == 401 {
            let anew = Challenge::parse(response.field("WWW-Authenticate")).unwrap();
            assert!(anew.stale());
            let response =
                attempt(&mut world, client, RELAY, &answer(&anew, "alice", RELAY, 1).to_string(), "");
            assert_eq!(response.status(), Some(200));
        }
    }
}

#[test]
fn a_stale_nonce_is_told_to_those_who_know_the_password_only() {
    let mut world = World::new();
    let client = world.member("alice").id;
    let asked = challenge(&mut world, client, RELAY);
    world.advance(Duration::from_secs(31));
    let wrong = answer_with(&asked, "alice", "wrong", RELAY, 1, false).to_string();
    let response = attempt(&mut world, client, RELAY, &wrong, "");
    assert_eq!(response.status(), Some(401));
    assert!(!Challenge::parse(response.field("WWW-Authenticate")).unwrap().stale());
}

#[test]
fn the_nonces_lifetime_is_the_configured_one() {
    let mut settings = settings();
    settings.auth.nonce_expire = Duration::from_secs(2);
    let mut world = World::with(settings);
    let client = world.connect();
    let asked = challenge(&mut world, client, RELAY);
    world.advance(Duration::from_millis(1999));
    let value = answer(&asked, "alice", RELAY, 1).to_string();
    assert_eq!(attempt(&mut world, client, RELAY, &value, "").status(), Some(200));
    let asked = challenge(&mut world, client, RELAY);
    world.advance(Duration::from_millis(2000));
    let value = answer(&asked, "alice", RELAY, 1).to_string();
    assert_eq!(attempt(&mut world, client, RELAY, &value, "").status(), Some(401));
}

#[test]
fn relays_with_one_secret_know_each_others_nonces_and_others_do_not() {
    for (secrets, status) in [(["0123456789abcdef"; 2], 200), (["0123456789abcdef", "fedcba9876543210"], 401)]
    {
        let mut first = settings();
        first.auth.nonce_secret = Some(Secret::new(secrets[0]));
        let mut second = settings_for("second.test", 2855);
        second.auth.nonce_secret = Some(Secret::new(secrets[1]));
        let mut world = World::with(first);
        let second = world.add_relay(second);
        // What was used with a process before is refused, so the nonce must be younger than both.
        world.advance(Duration::from_millis(1));
        let client = world.connect();
        let asked = challenge(&mut world, client, RELAY);
        let other = world.connect_to(second, TLS);
        let to = "msrps://second.test:2855;tcp";
        let response = attempt(&mut world, other, to, &answer(&asked, "alice", to, 1).to_string(), "");
        assert_eq!(response.status(), Some(status));
        if status == 401 {
            assert!(!Challenge::parse(response.field("WWW-Authenticate")).unwrap().stale());
        }
    }
}

#[test]
fn a_restarted_relay_with_a_lasting_secret_takes_no_nonce_from_before() {
    let mut settings = settings();
    settings.auth.nonce_secret = Some(Secret::new("0123456789abcdef"));
    let mut world = World::with(settings.clone());
    world.advance(Duration::from_millis(1));
    let client = world.connect();
    let asked = challenge(&mut world, client, RELAY);
    let value = answer(&asked, "alice", RELAY, 1).to_string();
    assert_eq!(attempt(&mut world, client, RELAY, &value, "").status(), Some(200));
    let restarted = world.add_relay(settings);
    let client = world.connect_to(restarted, TLS);
    let response = attempt(&mut world, client, RELAY, &value, "");
    assert!(Challenge::parse(response.field("WWW-Authenticate")).unwrap().stale());
}

#[test]
fn a_forged_nonce_is_no_nonce() {
    let mut world = World::new();
    let client = world.connect();
    for nonce in ["", "x", "AAABi8_laAAAAQIDBAUGB_LbPQ1a5moNkNSZQvt4-0M"] {
        let forged = Challenge::new(Algorithm::Md5, REALM, nonce).unwrap();
        let value = answer(&forged, "alice", RELAY, 1).to_string();
        let response = attempt(&mut world, client, RELAY, &value, "");
        assert_eq!(response.status(), Some(401));
        assert!(!Challenge::parse(response.field("WWW-Authenticate")).unwrap().stale());
    }
}

#[test]
fn an_answer_without_algorithm_is_md5() {
    let mut settings = settings();
    settings.auth.algorithms = vec![Algorithm::Sha256, Algorithm::Md5];
    let mut world = World::with(settings);
    let client = world.connect();
    let asked = challenge(&mut world, client, RELAY);
    assert_eq!(asked.algorithm(), Algorithm::Sha256);
    // A client that knows MD5 only, and reads the first challenge there is.
    let asked = Challenge::parse(
        asked.to_string().replace("algorithm=SHA-256, ", "").replace(", algorithm=SHA-256", ""),
    )
    .unwrap();
    let value = answer(&asked, "alice", RELAY, 1).to_string();
    assert!(!value.contains("algorithm"), "{value}");
    assert_eq!(attempt(&mut world, client, RELAY, &value, "").status(), Some(200));
}

#[test]
fn an_algorithm_serves_when_it_is_configured_only() {
    for algorithm in [Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512_256] {
        for configured in [Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512_256] {
            let mut settings = settings();
            settings.auth.algorithms = vec![configured];
            let mut world = World::with(settings);
            let client = world.connect();
            let asked = challenge(&mut world, client, RELAY);
            assert_eq!(asked.algorithm(), configured);
            let asked = Challenge::new(algorithm, REALM, asked.nonce()).unwrap();
            let value = answer(&asked, "alice", RELAY, 1).to_string();
            let status = if algorithm == configured { 200 } else { 401 };
            assert_eq!(attempt(&mut world, client, RELAY, &value, "").status(), Some(status));
        }
    }
}

#[test]
fn credentials_that_cannot_be_read_are_a_bad_request() {
    for value in
        ["Basic YWxpY2U6YWxpY2Vwdw==", "Digest", "Digest username=\"alice\"", "Digest qop=auth-int, nc=1"]
    {
        let mut world = World::new();
        let client = world.connect();
        assert_eq!(attempt(&mut world, client, RELAY, value, "").status(), Some(400), "{value}");
    }
}

#[test]
fn expires_is_granted_within_its_limits_and_refused_beyond_them() {
    for (wish, status, field, value) in [
        ("", 200, "Expires", "1800"),
        ("Expires: 60\r\n", 200, "Expires", "60"),
        ("Expires: 61\r\n", 200, "Expires", "61"),
        ("Expires: 3599\r\n", 200, "Expires", "3599"),
        ("Expires: 3600\r\n", 200, "Expires", "3600"),
        ("Expires: 59\r\n", 423, "Min-Expires", "60"),
        ("Expires: 0\r\n", 423, "Min-Expires", "60"),
        ("Expires: 3601\r\n", 423, "Max-Expires", "3600"),
        ("Expires: 18446744073709551615\r\n", 423, "Max-Expires", "3600"),
        ("Expires: soon\r\n", 400, "Expires", ""),
    ] {
        let mut world = World::new();
        let client = world.connect();
        let response = granted_or_not(&mut world, client, wish);
        assert_eq!(response.status(), Some(status), "{wish}");
        assert_eq!(response.field(field), value, "{wish}");
        for other in ["Min-Expires", "Max-Expires"] {
            assert!(other == field || response.field(other).is_empty(), "{wish}");
        }
        assert_eq!(world.relay(0).sessions().len(), usize::from(status == 200), "{wish}");
    }
}

#[test]
fn the_limits_of_expires_are_the_configured_ones() {
    let mut settings = settings();
    settings.auth.expires.default = Duration::from_secs(7);
    settings.auth.expires.min = Duration::from_secs(5);
    settings.auth.expires.max = Duration::from_secs(9);
    for (wish, status, field, value) in [
        ("", 200, "Expires", "7"),
        ("Expires: 4\r\n", 423, "Min-Expires", "5"),
        ("Expires: 5\r\n", 200, "Expires", "5"),
        ("Expires: 9\r\n", 200, "Expires", "9"),
        ("Expires: 10\r\n", 423, "Max-Expires", "9"),
    ] {
        let mut world = World::with(settings.clone());
        let client = world.connect();
        let response = granted_or_not(&mut world, client, wish);
        assert_eq!((response.status(), response.field(field)), (Some(status), value), "{wish}");
    }
}

#[test]
fn auth_over_plain_tcp_is_refused_by_default() {
    let mut world = World::new();
    let client = world.connect_to(0, PLAIN);
    world.write(client, auth_request("t0001", "msrp://relay.test:2856;tcp", &own_uri("alice"), ""));
    let response = world.take_one(client);
    assert_eq!(response.status(), Some(403));
    assert_eq!(response.field("WWW-Authenticate"), "");

    let mut settings = settings();
    settings.auth.allow_auth_without_tls = true;
    let mut world = World::with(settings);
    let client = world.connect_to(0, PLAIN);
    let to = "msrp://relay.test:2856;tcp";
    let (session, _) = world.auth_along(client, "alice", to, &own_uri("alice"));
    assert!(session.starts_with("msrp://relay.test:2856/"));
}

#[test]
fn who_asks_for_another_must_be_a_relay_by_its_certificate() {
    let from = format!("msrps://inner.test:2855/s1;tcp {}", own_uri("alice"));
    let inner = ["inner.test"];
    for (certificate, status) in [
        (PeerCertificate::None, 403),
        (PeerCertificate::Unverified { reason: "expired".into() }, 403),
        (verified(&["other.test"]), 403),
        (verified(&["*.test"]), 403),
        (verified(&inner), 401),
        (verified(&["other.test", "INNER.test"]), 401),
    ] {
        let mut world = World::new();
        let client = world.connect_with(0, TLS, certificate.clone());
        world.write(client, auth_request("t0001", RELAY, &from, ""));
        assert_eq!(world.take_one(client).status(), Some(status), "{certificate:?}");
    }
}

#[test]
fn a_relayed_auth_is_challenged_and_use_path_names_the_relays_in_the_clients_order() {
    let mut world = World::new();
    let relay = world.connect_with(0, TLS, verified(&["b.test"]));
    let b = "msrps://b.test:2855/s2;tcp";
    let a = "msrps://a.test:2855/s1;tcp";
    // The nearest to us stands first: A is the client's first relay, B its second, we are its third.
    let from = format!("{b} {a} {}", own_uri("alice"));
    let (use_path, _) = world.auth_along(relay, "alice", RELAY, &from);
    let hops: Vec<_> = use_path.split(' ').collect();
    assert_eq!(hops[..2], [a, b]);
    assert!(hops.len() == 3 && hops[2].starts_with("msrps://relay.test:2855/"), "{use_path}");
    let uri: msrp_proto::uri::MsrpUri = hops[2].parse().unwrap();
    let session = world.relay(0).sessions().find(&uri.as_ref(), world.now).unwrap();
    assert!(matches!(session.owner(), Owner::Relay { host } if &**host == "b.test"));

    // Its certificate speaks for the relay, not for the user.
    let asked = challenge(&mut world, relay, RELAY);
    let wrong = answer_with(&asked, "alice", "wrong", RELAY, 1, false);
    let lines = format!("Authorization: {wrong}\r\n");
    world.write(relay, auth_request("t0001", RELAY, &from, &lines));
    assert_eq!(world.take_one(relay).status(), Some(401));
}

#[test]
fn failed_auths_close_no_connection_of_a_relay() {
    let mut world = World::new();
    let relay = world.connect_with(0, TLS, verified(&["b.test"]));
    let from = format!("msrps://b.test:2855/s2;tcp {}", own_uri("alice"));
    let asked = challenge(&mut world, relay, RELAY);
    for nc in 1..20 {
        let wrong = answer_with(&asked, "alice", "wrong", RELAY, nc, false);
        world.write(relay, auth_request("t0001", RELAY, &from, &format!("Authorization: {wrong}\r\n")));
        assert_eq!(world.take_one(relay).status(), Some(401));
    }
    world.assert_open(relay);
}

#[test]
fn a_connection_obtains_so_many_sessions_and_not_one_more() {
    for limit in [1, 3] {
        let mut settings = settings();
        settings.limits.sessions_per_connection = limit;
        settings.auth.max_failures = 2;
        let mut world = World::with(settings);
        let client = world.connect();
        for _ in 0..limit {
            assert_eq!(granted_or_not(&mut world, client, "").status(), Some(200));
        }
        assert_eq!(granted_or_not(&mut world, client, "").status(), Some(403));
        assert_eq!(world.relay(0).sessions().len(), limit);
        // Another connection has its own.
        let other = world.connect();
        assert_eq!(granted_or_not(&mut world, other, "").status(), Some(200));
        world.hang_up(client);
        assert_eq!(world.relay(0).sessions().len(), 1);
    }
}

#[test]
fn a_session_that_ended_makes_room_for_another() {
    let mut settings = settings();
    settings.limits.sessions_per_connection = 1;
    let mut world = World::with(settings);
    let client = world.connect();
    assert_eq!(granted_or_not(&mut world, client, "Expires: 60\r\n").status(), Some(200));
    assert_eq!(granted_or_not(&mut world, client, "").status(), Some(403));
    world.advance(Duration::from_secs(60));
    world.relay(0).sweep(world.now);
    assert_eq!(granted_or_not(&mut world, client, "").status(), Some(200));
}

#[test]
fn without_a_good_request_the_connection_closes_after_probation() {
    let mut world = World::new();
    let silent = world.connect();
    let asking = world.connect();
    let failing = world.connect();
    let asked = challenge(&mut world, asking, RELAY);
    let wrong = answer_with(&asked, "alice", "wrong", RELAY, 1, false).to_string();
    attempt(&mut world, failing, RELAY, &wrong, "");
    let lost = "To-Path: msrps://relay.test:2855/none;tcp msrps://x.test:1/x;tcp\r\nFrom-Path: msrps://y.test:1/y;tcp\r\nMessage-ID: m001\r\n";
    world.write(asking, send("t0001", lost, "hi", '$'));
    assert_eq!(world.take_one(asking).status(), Some(481));

    world.advance(Duration::from_millis(29_999));
    for client in [silent, asking, failing] {
        world.assert_open(client);
    }
    world.advance(Duration::from_millis(1));
    for client in [silent, asking, failing] {
        assert_eq!(world.closed(client), Some(CloseReason::HandshakeTimeout));
    }
}

/// RFC 4976 §6.1: several unsuccessful requests during probation.
#[test]
fn who_has_done_nothing_right_may_not_do_much_wrong() {
    let lost = "To-Path: msrps://relay.test:2855/none;tcp msrps://x.test:1/x;tcp\r\nFrom-Path: msrps://y.test:1/y;tcp\r\nMessage-ID: m001\r\n";
    let mut settings = settings();
    settings.auth.max_failures = 3;
    let mut world = World::with(settings);
    let stranger = world.connect();
    let alice = world.member("alice").id;
    for round in 1..=3 {
        for client in [stranger, alice] {
            world.assert_open(client);
            world.write(client, send("t0001", lost, "hi", '$'));
            assert_eq!(world.take_one(client).status(), Some(481), "{round}");
        }
    }
    assert!(matches!(world.closed(stranger), Some(CloseReason::Protocol(_))));
    world.assert_open(alice);
}

#[test]
fn the_first_good_request_ends_probation() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    // A peer that never authenticates: what it sends to an owner is good.
    let peer = world.connect();
    let paths = format!("To-Path: {}\r\nFrom-Path: msrps://p.invalid:1/p;tcp\r\n", alice.path());
    world.write(peer, send("t0001", &format!("{paths}Message-ID: m001\r\n"), "hi", '$'));
    assert_eq!(world.take_one(peer).status(), Some(200));
    world.advance(Duration::from_secs(29));
    let respondent = world.take_one(alice.id);
    world.write(alice.id, respond(&respondent, "200 OK"));
    world.advance(Duration::from_secs(100));
    for client in [alice.id, bob.id, peer] {
        world.assert_open(client);
    }
}

#[test]
fn probation_is_the_configured_one() {
    let mut settings = settings();
    settings.timeouts.probation = Duration::from_secs(3);
    let mut world = World::with(settings);
    let client = world.connect();
    world.advance(Duration::from_millis(2999));
    world.assert_open(client);
    world.advance(Duration::from_millis(1));
    assert_eq!(world.closed(client), Some(CloseReason::HandshakeTimeout));
}

#[test]
fn the_realm_is_the_configured_one() {
    let mut users = UserTable::default();
    users.insert_password("chat", "alice", "alicepw");
    let mut settings = settings();
    settings.auth.realm = "chat".into();
    settings.auth.credentials = CredentialChain::default();
    settings.auth.credentials.push(Arc::new(users));
    let mut world = World::with(settings);
    let client = world.connect();
    assert_eq!(challenge(&mut world, client, RELAY).realm(), "chat");
    world.auth(client, "alice");
}

#[test]
fn what_the_owner_writes_before_the_answer_is_handled_in_order() {
    let mut world = World::new();
    let client = world.connect();
    let asked = challenge(&mut world, client, RELAY);
    let value: Authorization = answer(&asked, "alice", RELAY, 1);
    let lines = format!("Authorization: {value}\r\n");
    let mut both = auth_request("t0001", RELAY, &own_uri("alice"), &lines);
    both += &auth_request("t0002", RELAY, &own_uri("alice"), "");
    world.write(client, both);
    let responses = world.take(client);
    let statuses: Vec<_> = responses.iter().map(|message| (message.tid(), message.status())).collect();
    assert_eq!(statuses, [("t0001".to_owned(), Some(200)), ("t0002".to_owned(), Some(401))]);
}
