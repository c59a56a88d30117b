//! Credentials that are good for a while.

use std::sync::Arc;
use std::time::Duration;

use msrp_proto::digest::{Algorithm, Secret as ClientSecret};
use msrp_proto::digest::{Answer, Authorization, Challenge};
use tcp_transport::tls::PeerCertificate;

use super::harness::*;
use crate::config::{Secret, UserLimits};
use crate::credentials::{Ephemeral, EphemeralAlgorithm, UserTable};
use crate::msrp::Attempt;

/// The virtual clock's beginning, in seconds since the Unix epoch.
const START: u64 = 1_700_000_000;

fn source() -> Ephemeral {
    Ephemeral::new(EphemeralAlgorithm::Sha1, Secret::new("0123456789abcdef"), None)
}

fn relay() -> World {
    let mut settings = settings();
    let mut known = UserTable::default();
    known.insert_password(REALM, "yves", "yvespw");
    known.insert_limits(REALM, "yves", UserLimits { sessions: Some(1), ..UserLimits::default() });
    settings.auth.credentials.push(Arc::new(known));
    settings.auth.credentials.push(Arc::new(source()));
    settings.limits.user = UserLimits { sessions: Some(3), ..UserLimits::default() };
    World::with(settings)
}

fn login(world: &mut World, client: ClientId, expiry: u64, lines: &str) -> Message {
    let user = format!("{expiry}:zoe");
    world.credentials(client, &user, &source().password(&user), lines);
    world.take_one(client)
}

#[test]
fn the_session_is_the_users_and_ends_with_the_credentials() {
    for (left, lines, expires) in [
        (10_000, "", "1800"),
        (10_000, "Expires: 3600\r\n", "3600"),
        (1801, "", "1800"),
        (1799, "", "1799"),
        (600, "Expires: 3600\r\n", "600"),
        (1, "", "1"),
    ] {
        let mut world = relay();
        let client = world.connect();
        let response = login(&mut world, client, START + left, lines);
        assert_eq!((response.status(), response.field("Expires")), (Some(200), expires), "{left} {lines}");
        let uri: msrp_proto::uri::MsrpUri = response.field("Use-Path").parse().unwrap();
        assert_eq!(world.relay(0).sessions().find(&uri.as_ref(), world.now).unwrap().user(), "zoe");
        world.advance(Duration::from_secs(expires.parse().unwrap()));
        assert!(world.relay(0).sessions().find(&uri.as_ref(), world.now).is_none());
    }
}

#[test]
fn they_are_refused_when_they_have_expired_or_are_others() {
    let mut world = relay();
    let client = world.connect();
    for expiry in [START, START - 1, 0] {
        assert_eq!(login(&mut world, client, expiry, "").status(), Some(401), "{expiry}");
    }
    let client = world.connect();
    let later = format!("{}:zoe", START + 60);
    for (user, password) in [
        (later.clone(), source().password(&format!("{}:zoe", START + 61))),
        (format!("{}:bob", START + 60), source().password(&later)),
        ("zoe".to_owned(), source().password("zoe")),
    ] {
        world.credentials(client, &user, &password, "");
        assert_eq!(world.take_one(client).status(), Some(401), "{user}");
    }
    assert!(world.relay(0).sessions().is_empty());
}

#[test]
fn the_limits_of_a_user_count_for_all_its_credentials() {
    let mut world = relay();
    let client = world.connect();
    for left in [60, 61, 62] {
        assert_eq!(login(&mut world, client, START + left, "").status(), Some(200));
    }
    assert_eq!(login(&mut world, client, START + 63, "").status(), Some(403));
    // They are those of a user of that name, if there is one.
    for status in [200, 403] {
        let user = format!("{}:yves", START + 60);
        world.credentials(client, &user, &source().password(&user), "");
        assert_eq!(world.take_one(client).status(), Some(status));
    }
}

#[test]
fn a_handshake_with_them_gives_sessions_until_they_end() {
    let mut world = relay();
    let user = format!("{}:zoe", START + 600);
    let password = source().password(&user);
    let http = |authorization: Option<&str>| {
        let relay = world.relay(0);
        relay.http_digest("GET", "/msrp", authorization, "192.0.2.1:1", &mut Attempt::default(), world.now)
    };
    let crate::msrp::HandshakeDenial::Challenge(challenges) = http(None).unwrap_err() else { panic!() };
    let challenge = Challenge::parse(&challenges[0]).unwrap();
    assert_eq!(challenge.algorithm(), Algorithm::Md5);
    let answer = Answer {
        username: &user,
        secret: ClientSecret::Password(&password),
        method: "GET",
        digest_uri: "/msrp",
        cnonce: "c",
        nc: 1,
        send_uri: true,
    };
    let authorization = Authorization::answer(&challenge, &answer).unwrap().to_string();
    let principal = http(Some(&authorization)).unwrap();

    let client = world.connect_as(&principal, WSS, PeerCertificate::None);
    let ask = |world: &mut World| {
        let tid = world.tid();
        world.write(client, auth_request(&tid, "msrps://relay.test:443;ws", &web_uri("zoe"), ""));
        world.take_one(client)
    };
    let response = ask(&mut world);
    assert_eq!((response.status(), response.field("Expires")), (Some(200), "600"));
    let uri: msrp_proto::uri::MsrpUri = response.field("Use-Path").parse().unwrap();
    assert_eq!(world.relay(0).sessions().find(&uri.as_ref(), world.now).unwrap().user(), "zoe");
    world.advance(Duration::from_secs(599));
    assert_eq!(ask(&mut world).field("Expires"), "1");
    world.advance(Duration::from_secs(1));
    assert_eq!(ask(&mut world).status(), Some(403));
}
