//! Receives one file.
//!
//! The sender need not be known: whoever has been given our path, whose session-id nobody can guess,
//! may send. While nobody has begun, we log in at our relay again before its time is over, and show
//! the new path. A file that has begun cannot move to another session (see
//! [`send_file`](crate::send_file)).

use std::time::Duration;

use anyhow::{bail, ensure};
use msrp_proto::endpoint::{Config, Event, IncomingHandle, IncomingMessage, Outcome};
use msrp_proto::status::StatusCode;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::disposition::{self, Disposition};
use crate::file_name;
use crate::options::ReceiveFileOptions;
use crate::path::MsrpPath;
use crate::progress::Progress;
use crate::rendezvous::{Line, Listening};
use crate::store::{FileStore, StoredFile};

/// Receives a file; `show_path` is told our path, and again when it changes.
///
/// # Errors
/// Whatever kept the file from arriving whole and right. Nothing of it is left then.
pub async fn run(
    options: &ReceiveFileOptions,
    mut show_path: impl FnMut(&MsrpPath),
) -> anyhow::Result<StoredFile> {
    ensure!(options.folder.is_dir(), "{} is no folder", options.folder.display());
    // Piece by piece, however short the file.
    let config = Config { assemble_up_to: 0, ..Config::default() };
    // Before anything can come, and one for all that follows: no signal is lost.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut line = tokio::select! {
        line = connect(options, config, &mut show_path) => line?,
        _ = interrupt.recv() => bail!("interrupted"),
    };
    line.open_for_anyone(|session| session.max_message_bytes = options.max_size.unwrap_or(u64::MAX))?;
    let mut arriving = None;
    let result = receive(&mut line, options, &mut arriving, &mut interrupt, show_path).await;
    if let Some(Arriving { handle, store, .. }) = arriving {
        // The sender may stop. It is no matter if the message has ended already.
        let _ = line.client.endpoint().refuse(handle, StatusCode::STOP_SENDING);
        store.discard().await;
    }
    line.client.finish().await;
    result
}

/// Logs in at the relay, or waits for somebody to connect.
async fn connect(
    options: &ReceiveFileOptions,
    config: Config,
    mut show_path: impl FnMut(&MsrpPath),
) -> anyhow::Result<Line> {
    if options.dial.relay.is_some() {
        let line = Line::through_relay(&options.dial, config).await?;
        show_path(&line.path());
        return Ok(line);
    }
    ensure!(options.listen.listen.is_some(), "one of --relay and --listen is needed");
    let listening = Listening::open(&options.listen)?;
    show_path(&listening.path());
    Ok(listening.accept(config).await?.0)
}

/// The file that is arriving.
struct Arriving {
    handle: IncomingHandle,
    store: FileStore,
    disposition: Disposition,
    total: Option<u64>,
    reached: u64,
    progress: Progress,
}

/// What is in `arriving` at the end is to be removed.
async fn receive(
    line: &mut Line,
    options: &ReceiveFileOptions,
    arriving: &mut Option<Arriving>,
    interrupt: &mut Signal,
    mut show_path: impl FnMut(&MsrpPath),
) -> anyhow::Result<StoredFile> {
    let stall = Duration::from_secs(options.stall_timeout);
    loop {
        let has_begun = arriving.is_some();
        let stalled = async {
            match has_begun {
                true => tokio::time::sleep(stall).await,
                false => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            event = line.client.next() => event?,
            () = stalled => bail!("the file has not gone on for {stall:?}"),
            _ = interrupt.recv() => bail!("interrupted"),
        };
        match event {
            // One file at a time.
            Event::MessageStart { handle, .. } if has_begun => {
                line.client.endpoint().refuse(handle, StatusCode::STOP_SENDING)?;
            }
            Event::MessageStart { handle, message, .. } => match Arriving::begin(handle, &message, options) {
                Ok(begun) => *arriving = Some(begun),
                Err(error) => {
                    line.client.endpoint().refuse(handle, StatusCode::STOP_SENDING)?;
                    return Err(error);
                }
            },
            Event::MessageData { handle, offset, bytes } => {
                if let Some(arriving) = arriving.as_mut().filter(|arriving| arriving.handle == handle) {
                    arriving.reached = arriving.reached.max(offset + bytes.len() as u64);
                    arriving.progress.reached(arriving.reached);
                    arriving.store.write(offset, bytes).await?;
                }
            }
            Event::MessageEnd { handle, outcome } => {
                if let Some(ended) = arriving.take_if(|arriving| arriving.handle == handle) {
                    return ended.end(outcome).await;
                }
            }
            Event::AuthExpiring { .. } if !has_begun => {
                line.renew()?;
            }
            Event::Authenticated { use_path, .. } => {
                line.use_path = use_path.uris().to_vec();
                show_path(&line.path());
            }
            Event::AuthFailed { error, .. } => bail!("the relay does not let us in again: {error}"),
            _ => {}
        }
    }
}

impl Arriving {
    fn begin(
        handle: IncomingHandle,
        message: &IncomingMessage,
        options: &ReceiveFileOptions,
    ) -> anyhow::Result<Self> {
        let field = message.fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(disposition::NAME));
        let disposition =
            field.map(|(_, value)| Disposition::parse(&String::from_utf8_lossy(value))).unwrap_or_default();
        let wanted = disposition.filename.as_deref().unwrap_or_default();
        let store = FileStore::create(&options.folder, wanted)?;
        let total = message.total.or(disposition.size);
        let progress = Progress::new(&file_name::safe(wanted), total);
        Ok(Self { handle, store, disposition, total, reached: 0, progress })
    }

    async fn end(self, outcome: Outcome) -> anyhow::Result<StoredFile> {
        let failure = match (outcome, self.total) {
            (Outcome::Complete { total }, Some(announced)) if total != announced => {
                format!("the sender announced {announced} bytes, and sent {total}")
            }
            (Outcome::Complete { total }, _) => return self.store.finish(total, self.disposition.hash).await,
            (Outcome::Aborted, _) => "the sender has given up".to_owned(),
            (Outcome::Refused(status), _) => format!("the file was refused: {status}"),
            (Outcome::Lost, _) => "the connection was lost before the file was complete".to_owned(),
        };
        self.store.discard().await;
        bail!(failure)
    }
}
