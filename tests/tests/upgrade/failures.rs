//! One of the processes dies, at whatever moment: what the other one has goes on.

use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tests::{Admin, Client, Daemon, Scheme, Session, Settings, Site};

use crate::{Other, chat, settings, start, successor, tag, upgrade};

async fn is_as_before(site: &Site, old: &mut Daemon, alice: &mut (Client, Session)) {
    let (mut bob, from_bob) = Client::with_session(old, site, Scheme::Msrps, "bob").await;
    assert_eq!(tag(&from_bob), tag(&alice.1));
    chat((&mut bob, &from_bob), (&mut alice.0, &alice.1), "there").await;
    bob.close().await;
    for admin in Admin::of(old).await {
        assert_eq!(admin.get("/readyz").await.status, 200);
    }
}

#[tokio::test]
async fn the_next_process_dies_before_it_is_ready() {
    let site = Site::new();
    let mut old = start(&site).await;
    let mut alice = Client::with_session(&old, &site, Scheme::Msrps, "alice").await;

    // While it starts: nobody ever writes the configuration that it reads.
    let config = site.path("relay.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::remove_file(&config).unwrap();
    assert!(Command::new("mkfifo").arg(&config).status().unwrap().success());
    let admin = Admin::of(&old).await.remove(0);
    let killed = async {
        let line = old.log().wait_for(&["started the process that takes over"]).await;
        let pid = line.split("pid=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    };
    let (answer, ()) = tokio::join!(admin.call("upgrade", json!([])), killed);
    let (code, why) = answer.unwrap_err();
    assert!(
        code == 500 && why.contains("everything goes on as before") && why.contains("has ended"),
        "{why}"
    );
    std::fs::remove_file(&config).unwrap();
    std::fs::write(&config, text).unwrap();
    is_as_before(&site, &mut old, &mut alice).await;

    // While it has all that there is, and when nothing is accepted any more.
    for ready in [false, true] {
        let other = Other::connect(&site);
        if ready {
            other.say(
                &json!({ "is": "ready", "taken": [site.path("upgrade.sock"), site.path("admin.sock")] }),
            );
            assert_eq!(other.hear()["is"], "paused");
        }
        drop(other);
        old.log().wait_for_lines(&["it ended before it served", "as before"], 1 + usize::from(ready)).await;
        is_as_before(&site, &mut old, &mut alice).await;
    }
    // And then one that lives.
    let mut new = upgrade(&site, &old).await;
    let mut bob = Client::with_session(&new, &site, Scheme::Msrps, "bob").await;
    chat((&mut alice.0, &alice.1), (&mut bob.0, &bob.1), "to the new one").await;
    new.assert_well();
}

#[tokio::test]
async fn the_old_process_dies_while_it_drains() {
    let site = Site::new();
    let mut old = start(&site).await;
    let (mut alice, from_alice) = Client::with_session(&old, &site, Scheme::Msrps, "alice").await;
    let kinds = [Scheme::Msrp, Scheme::Msrps, Scheme::Ws, Scheme::Wss];
    let mut clients = Vec::new();
    for scheme in kinds {
        clients.push(Client::with_session(&old, &site, scheme, "dave").await);
    }
    let mut new = upgrade(&site, &old).await;
    let mut peers = Vec::new();
    for (scheme, (client, session)) in kinds.into_iter().zip(&mut clients) {
        let mut peer = Client::connect(&new, &site, scheme).await;
        let to_peer = peer.without_relay();
        chat((&mut peer, &to_peer), (client, session), "there").await;
        peers.push((scheme, peer));
    }
    let (mut bob, from_bob) = Client::with_session(&new, &site, Scheme::Msrps, "bob").await;
    chat((&mut bob, &from_bob), (&mut alice, &from_alice), "new to old").await;
    // When this has come, the first one's response has, too.
    chat((&mut alice, &from_alice), (&mut bob, &from_bob), "old to new").await;
    old.signal(Signal::KILL);
    old.exit().await;
    new.log().wait_for(&["the process before this one has ended"]).await;
    for (scheme, mut peer) in peers {
        // WebSockets without a farewell of their own, as of any process that dies.
        let end = peer.rx.end().await;
        assert!(end.is_ok() || !matches!(scheme, Scheme::Msrp | Scheme::Msrps), "{scheme:?}: {end:?}");
    }
    // Whom bob has talked to is gone, and he is not.
    let to_alice = tests::Send::text(&from_bob.to(&from_alice), "m", "anybody?");
    let answered = bob.send(&to_alice).await.status();
    assert!([408, 481].contains(&answered), "{answered}");
    let admin = Admin::of(&new).await.remove(0);
    assert_eq!(admin.metric("msrp_relay_older_processes").await, 0.0);
    new.assert_well();

    let mut third = upgrade(&site, &new).await;
    let (mut carol, from_carol) = Client::with_session(&third, &site, Scheme::Msrps, "carol").await;
    chat((&mut carol, &from_carol), (&mut bob, &from_bob), "third to second").await;
    third.assert_well();
}

#[tokio::test]
async fn the_next_process_dies_while_the_old_one_drains() {
    let site = Site::new();
    let mut old = start(&site).await;
    let (mut alice, from_alice) = Client::with_session(&old, &site, Scheme::Msrps, "alice").await;
    let (mut carol, from_carol) = Client::with_session(&old, &site, Scheme::Msrps, "carol").await;
    let (mut dave, from_dave) = Client::with_session(&old, &site, Scheme::Wss, "dave").await;
    let mut new = upgrade(&site, &old).await;
    let mut peer = Client::connect(&new, &site, Scheme::Msrp).await;
    let to_peer = peer.without_relay();
    chat((&mut peer, &to_peer), (&mut alice, &from_alice), "there").await;
    new.signal(Signal::KILL);
    new.exit().await;
    old.log().wait_for(&["the next process has ended", "nobody new"]).await;
    chat((&mut carol, &from_carol), (&mut dave, &from_dave), "old to old").await;
    // This one's socket is the old one's by now.
    chat((&mut alice, &from_alice), (&mut peer, &to_peer), "still").await;

    // Who starts the relay now gets another one beside it, at the same addresses.
    let at = |scheme| Some(old.address(scheme).to_string());
    let same = Settings {
        tls: at(Scheme::Msrps),
        plain: at(Scheme::Msrp),
        ws: at(Scheme::Ws),
        wss: at(Scheme::Wss),
        ..settings()
    };
    let mut third = Daemon::start_as(successor(), &site, "relay.yaml", &same).await;
    assert_eq!(third.addresses(), old.addresses());
    let (mut bob, from_bob) = Client::with_session(&third, &site, Scheme::Msrps, "bob").await;
    let to_self = tests::Send::text(&from_bob.to(&from_bob), "m", "to self");
    assert_eq!(bob.send(&to_self).await.status(), 200);
    chat((&mut dave, &from_dave), (&mut carol, &from_carol), "to the end").await;
    alice.close().await;
    carol.close().await;
    dave.close().await;
    peer.close().await;
    assert_eq!(old.exit().await.code(), Some(0));
    third.assert_well();
}
