//! Where another process finds this one, and what it may take.

use tests::successor;

use super::*;

#[tokio::test]
async fn the_next_process_finds_this_one_where_the_file_says_by_then() {
    let with = |upgrade: &str| Settings { upgrade: Some(upgrade.into()), ..Settings::default() };
    let mut running = Running::start(&Settings::default()).await;
    let is_there = |name: &str| running.site.path(name).exists();
    let first = with("socket: first.sock, drain_timeout: 1h");
    running.reload(&first).await;
    assert!(is_there("first.sock"));
    // All or nothing.
    let wrong = Settings { log: "to: 'file:none/such/folder'".into(), ..with("socket: second.sock") };
    running.refuse(&wrong, &["log.to"]).await;
    assert!(is_there("first.sock") && !is_there("second.sock"));
    running.refuse(&with("socket: none/such/folder/a.sock"), &["upgrade.socket"]).await;
    let second = with("socket: second.sock, drain_timeout: 300ms");
    let lines = running.reload(&second).await;
    assert!(!lines.iter().any(|line| line.contains("starts again")), "{lines:?}");
    within("the former one's end", async {
        while is_there("first.sock") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(is_there("second.sock"));
    // Nobody takes over where the section is gone.
    running.reload(&Settings::default()).await;
    within("the end of all", async {
        while is_there("second.sock") {
            tokio::task::yield_now().await;
        }
    })
    .await;

    running.reload(&second).await;
    let new = Daemon::start_as(successor(RELAY), &running.site, "relay.yaml", &second).await;
    running.daemon.log().wait_for(&["draining", "upgrade"]).await;
    // By the time that counts now its sessions end soon.
    assert_eq!(running.daemon.exit().await.code(), Some(0));
    assert!(running.site.path("second.sock").exists(), "it is the next process' now");
    let (_carol, _) = Client::with_session(&new, &running.site, Scheme::Msrps, "carol").await;
}

#[tokio::test]
async fn a_process_that_does_not_get_ready_has_the_time_that_the_file_says_by_then() {
    let with = |timeout: &str| Settings {
        upgrade: Some(format!("socket: upgrade.sock, start_timeout: {timeout}")),
        ..Settings::default()
    };
    let running = Running::start(&with("1h")).await;
    running.reload(&with("50ms")).await;
    let silent = {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
        let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(running.site.path("upgrade.sock")).unwrap()).unwrap();
        socket
    };
    running
        .daemon
        .log()
        .wait_for(&["another process wanted to take over", "did not get ready in time"])
        .await;
    drop(silent);
    running.goes_on().await;
}
