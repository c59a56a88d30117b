//! A chat: lines typed go out as text/plain, with success reports; what comes is shown.
//!
//! **Who knows whom.** The side that begins is given the other's path. The other side learns the way
//! back: when it listens, from the first request; behind a relay, from the From-Path of the first
//! message, unless it is given a path before that.
//!
//! **When the relay's time is over.** A new AUTH gives a new URI (RFC 4976 §5.1), so our path changes.
//! SIP would send a re-INVITE. Here, shortly before the end, we log in again, show the new path, go on
//! with it as soon as no message is under way, and send the shortest message that nobody sees: "I am
//! not typing" (RFC 3994). The other side follows the From-Path of what it receives, as long as its
//! last URI is the same. Clients that do not follow need the new path by hand.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use msrp_proto::endpoint::{Config, Event, IncomingMessage, Message, OutgoingHandle, Role, SessionHandle};
use msrp_proto::header::FailureReport;
use msrp_proto::uri::MsrpUri;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::options::ChatOptions;
use crate::path::MsrpPath;
use crate::rendezvous::{Line, Listening};

/// The longest message that is taken, in bytes: 64 KiB, long for a line. A longer one is refused.
pub const MAX_MESSAGE: u64 = 64 * 1024;

/// How long the end waits for messages to be delivered: 10 s.
pub const FAREWELL: Duration = Duration::from_secs(10);

/// "I am not typing" (RFC 3994).
const IDLE: (&str, &str) = (
    "application/im-iscomposing+xml",
    r#"<isComposing xmlns="urn:ietf:params:xml:ns:im-iscomposing"><state>idle</state></isComposing>"#,
);

/// Something to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Our path, to be given to the other side; comes again when it changes.
    Path(MsrpPath),
    /// Whom we talk to.
    Peer(MsrpPath),
    /// What the other side wrote, without control characters.
    Received(String),
    /// A line of ours has been received.
    Delivered(String),
    /// A line of ours has not, or perhaps not.
    Failed {
        /// The line.
        text: String,
        /// Why.
        reason: String,
    },
    /// Anything else the user should know.
    Note(String),
}

/// Chats until `lines` end and all of them are delivered, or the other side leaves. A line with
/// nothing in it is not sent.
///
/// # Errors
/// There is no way to the other side, or no longer; a line was not delivered until the end.
pub async fn run(
    options: &ChatOptions,
    mut lines: mpsc::Receiver<String>,
    mut show: impl FnMut(Shown),
) -> anyhow::Result<()> {
    let config = Config::default();
    let mut peer = options.peer.clone();
    let mut typed = Vec::new();
    let mut ended = false;
    // Whether we have to say that we are there: the side that listens does not.
    let mut introduce = true;
    let line = if options.dial.relay.is_some() {
        Line::through_relay(&options.dial, config).await?
    } else if options.listen.listen.is_some() {
        let listening = Listening::open(&options.listen)?;
        show(Shown::Path(listening.path()));
        let accepting = listening.accept(config);
        tokio::pin!(accepting);
        let (line, from) = loop {
            tokio::select! {
                accepted = &mut accepting => break accepted?,
                next = lines.recv(), if !ended => match next {
                    Some(text) => typed.push(text),
                    None if typed.is_empty() => return Ok(()),
                    None => ended = true,
                },
            }
        };
        (peer, introduce) = (Some(from), false);
        line
    } else {
        let peer = peer.as_ref().context("one of --relay, --listen and --peer is needed")?;
        Line::direct(&options.dial, peer, config).await?
    };
    if introduce {
        show(Shown::Path(line.path()));
    }
    let ours = line.use_path.clone();
    let mut chat = Chat {
        line,
        session: None,
        peer,
        stale: true,
        introduce,
        moved: false,
        ours,
        shown: None,
        pending: HashMap::new(),
        show,
    };
    chat.reopen()?;
    let result = chat.talk(typed, ended, lines).await;
    chat.line.client.finish().await;
    result
}

struct Chat<F> {
    line: Line,
    session: Option<SessionHandle>,
    peer: Option<MsrpPath>,
    /// The session is not the one that our path and the peer's make.
    stale: bool,
    introduce: bool,
    /// Our path has changed, and the other side has not heard of it.
    moved: bool,
    /// All that our relay ever gave us: the other side hears of the latest after a while.
    ours: Vec<MsrpUri>,
    /// Who was shown last.
    shown: Option<MsrpPath>,
    /// Lines that are not delivered yet.
    pending: HashMap<OutgoingHandle, String>,
    show: F,
}

impl<F: FnMut(Shown)> Chat<F> {
    async fn talk(
        &mut self,
        typed: Vec<String>,
        mut ended: bool,
        mut lines: mpsc::Receiver<String>,
    ) -> anyhow::Result<()> {
        for text in typed {
            self.typed(text)?;
        }
        let mut give_up = None;
        loop {
            if self.stale && self.pending.is_empty() {
                self.reopen()?;
            }
            if ended && self.pending.is_empty() {
                return Ok(());
            }
            if ended && give_up.is_none() {
                give_up = Some(Instant::now() + FAREWELL);
            }
            let late = async {
                match give_up {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = self.line.client.next() => match event {
                    Ok(Event::Closed { .. }) => return self.left(),
                    Ok(event) => self.happened(event)?,
                    Err(error) => return Err(error),
                },
                next = lines.recv(), if !ended => match next {
                    Some(text) => self.typed(text)?,
                    None => ended = true,
                },
                () = late => bail!("{} messages may not have arrived", self.pending.len()),
            }
        }
    }

    fn typed(&mut self, text: String) -> anyhow::Result<()> {
        let Some(session) = self.session.filter(|_| self.peer.is_some()) else {
            match text.parse() {
                Ok(path) => (self.peer, self.stale, self.introduce) = (Some(path), true, true),
                Err(error) => {
                    (self.show)(Shown::Note(format!("the other side's path is wanted first: {error:#}")));
                }
            }
            // Nothing is under way without a peer.
            return self.reopen();
        };
        if text.is_empty() {
            return Ok(());
        }
        let mut message = Message::new("text/plain;charset=UTF-8", Bytes::from(text.clone()));
        message.success_report = true;
        let sent = self.line.client.endpoint().send(session, message)?;
        self.pending.insert(sent, text);
        Ok(())
    }

    fn happened(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Message { message, body, .. } => self.received(&message, &body),
            Event::Delivered { message } => {
                if let Some(text) = self.pending.remove(&message) {
                    (self.show)(Shown::Delivered(text));
                }
            }
            Event::SendFailed { message, error } => {
                if let Some(text) = self.pending.remove(&message) {
                    (self.show)(Shown::Failed { text, reason: error.to_string() });
                }
            }
            Event::SessionFailed { error, .. } => bail!("the other side is not there: {error}"),
            Event::AuthExpiring { .. } => {
                self.line.renew()?;
            }
            Event::Authenticated { use_path, .. } => {
                self.line.use_path = use_path.uris().to_vec();
                self.ours.extend_from_slice(use_path.uris());
                (self.stale, self.moved) = (true, true);
                (self.show)(Shown::Path(self.line.path()));
            }
            Event::AuthFailed { error, .. } => bail!("the relay does not let us in again: {error}"),
            _ => {}
        }
        Ok(())
    }

    fn received(&mut self, message: &IncomingMessage, body: &[u8]) {
        if let Ok(Some(from)) = MsrpPath::to_sender(&message.from_path, &self.ours) {
            let new = match &self.peer {
                None => true,
                Some(peer) => *peer != from && peer.last() == from.last(),
            };
            if new {
                (self.peer, self.stale) = (Some(from), true);
            }
        }
        if !message.content_type.eq_ignore_ascii_case(IDLE.0) {
            (self.show)(Shown::Received(printable(&String::from_utf8_lossy(body))));
        }
    }

    fn left(&mut self) -> anyhow::Result<()> {
        ensure!(self.line.use_path.is_empty(), "the connection to the relay was lost");
        ensure!(
            self.pending.is_empty(),
            "the other side has left; {} messages may not have arrived",
            self.pending.len()
        );
        (self.show)(Shown::Note("the other side has left".into()));
        Ok(())
    }

    /// Opens the session for our path and the peer's as they are now.
    fn reopen(&mut self) -> anyhow::Result<()> {
        if !self.stale {
            return Ok(());
        }
        self.stale = false;
        if let Some(session) = self.session.take() {
            self.line.client.endpoint().close_session(session)?;
        }
        let Some(peer) = self.peer.clone() else {
            self.session = Some(self.line.open_for_anyone(limit)?);
            return Ok(());
        };
        let role = if std::mem::take(&mut self.introduce) { Role::Active } else { Role::Passive };
        let mut options = self.line.session(&peer, role);
        limit(&mut options);
        let session = self.line.client.endpoint().open_session(options)?;
        self.session = Some(session);
        if std::mem::take(&mut self.moved) {
            let mut message = Message::new(IDLE.0, IDLE.1);
            message.failure_report = FailureReport::No;
            self.line.client.endpoint().send(session, message)?;
        }
        if self.shown.as_ref() != Some(&peer) {
            self.shown = Some(peer.clone());
            (self.show)(Shown::Peer(peer));
        }
        Ok(())
    }
}

fn limit(options: &mut msrp_proto::endpoint::SessionOptions) {
    options.accept_types = vec!["text/*".into(), IDLE.0.into()];
    options.max_message_bytes = MAX_MESSAGE;
}

/// Without what would command the terminal.
fn printable(text: &str) -> String {
    text.trim_end()
        .chars()
        .map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_does_not_command_the_terminal() {
        assert_eq!(
            printable("a\tb\r\nc\u{1b}[2J\u{7}\u{9b}31m\n"),
            "a\tb\u{fffd}\nc\u{fffd}[2J\u{fffd}\u{fffd}31m"
        );
    }
}
