//! `msrp-relay demo`: the relay at work, in one command.
//!
//! It starts the relay as a child process on loopback, with certificates made for the occasion and
//! two users, connects two clients to it over TLS, and sends a chat message and a file from one to
//! the other through it. It shows the call flow, compares the file's hash at both ends, and prints
//! throughput and the relay's peak memory. With `--browser` it serves the page of `examples/browser-chat` instead.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{bail, ensure};
use msrp_proto::chunk::Chunking;
use msrp_proto::endpoint::{Event, Message, OutgoingHandle};
use tokio::sync::oneshot;

use crate::config::ByteSize;

mod browser;
mod content;
mod flow;
mod party;
mod process;
mod progress;
mod web;

use self::content::Content;
use self::flow::Direction;
use self::party::{Party, meet};
use self::process::RelayProcess;
use self::progress::Progress;

/// What the relay may take at most, whatever the size of the file.
const MEMORY: u64 = 64 << 20;

/// The options of `msrp-relay demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// The size of the file.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    size: ByteSize,
    /// Send the file in chunks of that size; without it, in a single chunk.
    #[arg(long, value_name = "SIZE")]
    chunk_size: Option<ByteSize>,
    /// Serve a page instead, by which browsers chat through the relay, until Ctrl-C.
    #[arg(long, conflicts_with_all = ["size", "chunk_size"])]
    browser: bool,
    /// The page's TCP port on loopback; without it, a free one.
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true, requires = "browser")]
    port: u16,
}

/// Runs the demo; an error says what did not work.
///
/// # Errors
/// Whatever keeps the chat message or the file from arriving as they were sent.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime
        .block_on(async { if args.browser { browser::run(args.port).await } else { demo(args).await } })?;
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, reason = "the demo speaks to the user")]
async fn demo(args: &DemoArgs) -> anyhow::Result<()> {
    let mut relay = RelayProcess::start().await?;
    println!("The relay runs as process {} and listens on {}.\n", relay.id(), relay.address()?);

    let mut alice = Party::connect("alice", &relay).await?;
    let mut bob = Party::connect("bob", &relay).await?;
    alice.log_in(&relay).await?;
    bob.log_in(&relay).await?;
    meet(&mut alice, &mut bob)?;

    println!("\nAlice opens the session with an empty SEND and says hello. Each 200 is one hop's; Bob's");
    println!("success REPORT comes back the whole way.\n");
    chat(&mut alice, &mut bob).await?;

    let chunking = args.chunk_size.map_or(Chunking::Interruptible, |size| Chunking::Fixed(size.bytes()));
    let how = args.chunk_size.map_or_else(|| "a single chunk".into(), |size| format!("chunks of {size}"));
    println!("\nAlice sends a file of {} in {how}.\n", args.size);
    let file = transfer(alice, bob, args.size.bytes(), chunking).await?;

    let memory = relay.peak_memory()?;
    relay.stop().await?;
    println!("\nSHA-256 sent by Alice:    {}", file.hash);
    println!("SHA-256 received by Bob:  {} (identical)", file.hash);
    println!("Throughput:               {:.0} MB/s", file.throughput / 1e6);
    println!("Peak memory of the relay: {:.1} MiB", memory as f64 / f64::from(1 << 20));
    ensure!(memory <= MEMORY, "the relay took more than {} MiB", MEMORY >> 20);
    println!("\nEverything arrived. Next: README.md, \"Set it up\".");
    Ok(())
}

async fn chat(alice: &mut Party, bob: &mut Party) -> anyhow::Result<()> {
    const TEXT: &str = "Hello Bob, this goes through the relay.";
    let mut hello = Message::new("text/plain", TEXT);
    hello.success_report = true;
    let hello = alice.send(hello)?;
    let (mut heard, mut delivered) = (false, false);
    while !(heard && delivered) {
        tokio::select! {
            event = alice.next() => match event? {
                Event::Delivered { message } if message == hello => delivered = true,
                Event::SendFailed { error, .. } => bail!("the message was not delivered: {error}"),
                _ => {}
            },
            event = bob.next() => if let Event::Message { body, .. } = event? {
                ensure!(body == TEXT.as_bytes(), "Bob received something else: {body:?}");
                heard = true;
            },
        }
    }
    Ok(())
}

/// What a transfer came to.
struct Transferred {
    hash: String,
    /// Bytes a second.
    throughput: f64,
}

async fn transfer(
    mut alice: Party,
    mut bob: Party,
    size: u64,
    chunking: Chunking,
) -> anyhow::Result<Transferred> {
    let progress = Progress::new(size)?;
    alice.file_begins(Direction::ToRelay);
    bob.file_begins(Direction::FromRelay);
    let mut message = Message::streamed("application/octet-stream", Some(size));
    message.chunking = chunking;
    message.success_report = true;
    message.fields.push(("Content-Disposition".into(), "attachment; filename=\"demo.bin\"".into()));
    let begun = Instant::now();
    let file = alice.send(message)?;

    // Each end in a task of its own, as two machines would be. Bob stays until Alice has his REPORT.
    let (delivered, stay) = oneshot::channel();
    let sender = tokio::spawn(send_file(alice, file));
    let receiver = tokio::spawn(receive_file(bob, size, progress, stay));
    let sent = async {
        let sent = sender.await?;
        drop(delivered);
        sent
    };
    let (sent, received) = tokio::try_join!(sent, async { receiver.await? })?;
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(sent == received, "the file's hash was {sent}, and is {received} now");
    Ok(Transferred { hash: sent, throughput: size as f64 / seconds })
}

async fn send_file(mut alice: Party, file: OutgoingHandle) -> anyhow::Result<String> {
    let mut content = Content::new();
    loop {
        match alice.next().await? {
            Event::BodyWanted { message, len, .. } => {
                let bytes = content.next(len);
                alice.provide(message, bytes)?;
            }
            Event::Delivered { message } if message == file => return Ok(content.hash()),
            Event::SendFailed { error, .. } => bail!("the file was not delivered: {error}"),
            _ => {}
        }
    }
}

async fn receive_file(
    mut bob: Party,
    size: u64,
    mut progress: Progress,
    mut stay: oneshot::Receiver<()>,
) -> anyhow::Result<String> {
    let mut content = Content::new();
    let mut place = 0;
    loop {
        let event = tokio::select! {
            event = bob.next() => event?,
            _ = &mut stay => break,
        };
        match event {
            Event::MessageData { offset, bytes, .. } => {
                ensure!(offset == place, "byte {place} was expected, and {offset} came");
                place += bytes.len() as u64;
                content.take(&bytes);
                progress.reached(place);
            }
            // A file so small that it comes at once.
            Event::Message { body, .. } => {
                place = body.len() as u64;
                content.take(&body);
            }
            _ => {}
        }
    }
    ensure!(place == size, "{size} bytes were sent, and {place} came");
    Ok(content.hash())
}
