//! `msrp-relay demo --browser`: a relay with a WebSocket listener, and the page that talks to it, on loopback.

use std::net::Ipv4Addr;

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::process::{HOST, RelayProcess, USERS};
use super::web;

/// Serves the page at `port`, 0 for a free one, until SIGINT or SIGTERM.
#[expect(clippy::print_stdout, reason = "the demo speaks to the user")]
pub(super) async fn run(port: u16) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .with_context(|| format!("cannot listen on 127.0.0.1:{port}"))?;
    let page = format!("http://{HOST}:{}", listener.local_addr()?.port());
    let mut relay = RelayProcess::start_for_browsers(&page).await?;
    let websocket = format!("ws://{HOST}:{}/msrp", relay.port("ws")?);

    println!("The relay runs as process {} and listens on", relay.id());
    println!("  {websocket}  for browsers, and");
    println!("  msrp://{HOST}:{}  for programs such as examples/chat.", relay.port("msrp")?);
    println!("\nOpen both, each in a window of its own, and log in:\n");
    for (user, password) in USERS {
        println!("  {page}/#relay={websocket}&user={user}  password: {password}");
    }
    println!("\nThen paste the path of one into the page of the other: \"Copy path\", \"Use this path\".");
    println!("Everything stays on this machine. Ctrl-C ends it.");

    tokio::select! {
        never = web::serve(listener) => match never {},
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        status = relay.ended() => bail!("the relay has ended with {}", status?),
    }
    relay.stop().await
}
