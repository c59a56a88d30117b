//! Sends one file.
//!
//! It is one MSRP message, which takes the session's path as it is when it begins. A new AUTH would
//! give another URI and another session, so the message cannot move there: we ask the relay for as
//! long as it grants, and what does not arrive in that time fails.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use msrp_proto::chunk::Chunking;
use msrp_proto::endpoint::{Config, Event, Message, OutgoingHandle, Role};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::disposition::{self, Disposition};
use crate::options::SendFileOptions;
use crate::progress::Progress;
use crate::rendezvous::Line;
use crate::source::{FileFacts, FileSource};

/// Sends the file; gives what was sent, once the other side has reported it as received.
///
/// # Errors
/// Whatever kept the file from being sent, or from being reported as received.
pub async fn run(options: &SendFileOptions) -> anyhow::Result<FileFacts> {
    let facts = FileFacts::gather(&options.file).await?;
    let config = Config::default();
    let mut line = if options.dial.relay.is_some() {
        Line::through_relay(&options.dial, config).await?
    } else {
        Line::direct(&options.dial, &options.to, config).await?
    };
    let result = send(&mut line, &facts, options).await;
    line.client.finish().await;
    result.with_context(|| format!("{} was not delivered", facts.name))?;
    Ok(facts)
}

async fn send(line: &mut Line, facts: &FileFacts, options: &SendFileOptions) -> anyhow::Result<()> {
    // Before anything is sent, and one for all rounds: from here on no signal is lost.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let session = line.session(&options.to, Role::Active);
    let session = line.client.endpoint().open_session(session)?;
    let message = line.client.endpoint().send(session, message(facts, options))?;
    let mut source = FileSource::open(facts)?;
    let progress = Progress::new(&facts.name, Some(facts.size));
    let mut report_due = None;
    loop {
        let late = async {
            match report_due {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            event = line.client.next() => event?,
            () = late => bail!("all is sent, and the receiver has not reported it as received"),
            _ = interrupt.recv() => {
                // Tells the receiver, with `#`.
                line.client.endpoint().abort(message)?;
                bail!("interrupted");
            }
        };
        match event {
            Event::BodyWanted { message, offset, len } => {
                progress.reached(offset);
                provide(line, message, &mut source, len).await?;
            }
            Event::Sent { .. } => {
                progress.reached(facts.size);
                report_due = Some(Instant::now() + Duration::from_secs(options.report_timeout));
            }
            Event::Delivered { .. } => break,
            Event::SendFailed { error, .. } => bail!("{error}"),
            Event::SessionFailed { error, .. } => bail!("the receiver is not there: {error}"),
            _ => {}
        }
    }
    ensure!(source.finish().await? == facts.hash, "the file has changed while it was sent");
    Ok(())
}

async fn provide(
    line: &mut Line,
    message: OutgoingHandle,
    source: &mut FileSource,
    len: usize,
) -> anyhow::Result<()> {
    match source.next(len).await {
        Some(bytes) => line.client.endpoint().provide_body(message, bytes)?,
        None => {
            line.client.endpoint().abort(message)?;
            bail!("the file has become shorter while it was sent");
        }
    }
    Ok(())
}

fn message(facts: &FileFacts, options: &SendFileOptions) -> Message {
    let mut message = Message::streamed(options.content_type.clone(), Some(facts.size));
    let disposition =
        Disposition { filename: Some(facts.name.clone()), size: Some(facts.size), hash: Some(facts.hash) };
    message.fields.push((disposition::NAME.to_owned(), disposition.to_string()));
    message.chunking = options.chunk_size.map_or(Chunking::Interruptible, Chunking::Fixed);
    message.success_report = true;
    message
}
