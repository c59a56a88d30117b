//! The process that takes over.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use super::channel::{Channel, Endpoint, Packet};
use super::generations::{Generation, Generations};
use super::message::{Message, Thing, VERSION};
use crate::config::Upgrade;
use crate::msrp::ProcessTag;
use crate::server::Inherited;

/// How long the process that runs may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A process that does not let this one take over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TakeoverError {
    /// It is not reached.
    #[error("the relay that runs cannot be asked at {path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It has not answered.
    #[error("the relay that runs does not answer at {0}")]
    Silent(PathBuf),
    /// It does not want to.
    #[error("the relay that runs refuses: {0}")]
    Refused(String),
    /// It says what is not understood.
    #[error("the relay that runs says what is not understood")]
    Misunderstood,
}

/// What another process gives away, before this one serves.
#[derive(Debug)]
pub struct Takeover {
    channel: Channel,
    tag: ProcessTag,
    pid: u32,
    /// The processes before that one.
    older: Vec<Arc<Generation>>,
    pub(in crate::server) inherited: Inherited,
    /// Where the next process will find this one.
    endpoint: Option<(OwnedFd, PathBuf)>,
    path: PathBuf,
}

impl Takeover {
    /// Asks the process that runs. `None`: there is none.
    ///
    /// # Errors
    /// [`TakeoverError`]; it runs on then.
    pub async fn ask(settings: &Upgrade) -> Result<Option<Self>, TakeoverError> {
        let path = &settings.socket;
        let failed = |source| TakeoverError::Io { path: path.clone(), source };
        let channel = match Channel::connect(path) {
            Ok(channel) => channel,
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        if !channel.is_trusted() {
            return Err(failed(io::ErrorKind::PermissionDenied.into()));
        }
        let hello = Message::Hello { version: VERSION, pid: std::process::id() };
        if let Err(error) = channel.send(&hello, &[], &[]).await {
            // What it has said before it hung up is still there.
            return Err(match channel.receive().await {
                Ok(Some(Packet { message: Message::Refused { reason }, .. })) => {
                    TakeoverError::Refused(reason)
                }
                _ => failed(error),
            });
        }
        let (mut inherited, mut endpoint, mut older) = (Inherited::default(), None, Vec::new());
        loop {
            let answer = timeout(ANSWER_TIMEOUT, channel.receive()).await;
            let answer = answer.map_err(|_| TakeoverError::Silent(path.clone()))?.map_err(failed)?;
            let Some(packet) = answer else {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            };
            let (tag, pid, things, more) = match packet.message {
                Message::Offer { tag, pid, things, more } => (tag, pid, things, more),
                Message::Refused { reason } => return Err(TakeoverError::Refused(reason)),
                _ => return Err(TakeoverError::Misunderstood),
            };
            if things.len() != packet.descriptors.len() {
                return Err(TakeoverError::Misunderstood);
            }
            for (thing, socket) in things.into_iter().zip(packet.descriptors) {
                match thing {
                    Thing::Tcp { listener, managed: false } => {
                        inherited.push_tcp(socket.into(), Some(listener));
                    }
                    Thing::Tcp { listener, managed: true } => {
                        inherited.push_managed_tcp(socket.into(), Some(listener));
                    }
                    Thing::Udp { listener, managed: false } => {
                        inherited.push_udp(socket.into(), Some(listener));
                    }
                    Thing::Udp { listener, managed: true } => {
                        inherited.push_managed_udp(socket.into(), Some(listener));
                    }
                    Thing::AdminUnix { path, managed: false } => {
                        inherited.push_unix(UnixListener::from(socket), path);
                    }
                    Thing::AdminUnix { path, managed: true } => {
                        inherited.push_managed_unix(UnixListener::from(socket), path);
                    }
                    Thing::Endpoint { path } => endpoint = Some((socket, path)),
                    Thing::Process { tag, pid } => {
                        let tag = tag.parse().map_err(|_| TakeoverError::Misunderstood)?;
                        older.push(Generation::new(tag, pid, Channel::new(socket).map_err(failed)?));
                    }
                }
            }
            if !more {
                let tag = tag.parse().map_err(|_| TakeoverError::Misunderstood)?;
                let path = path.clone();
                info!(pid, "taking over from the relay that runs");
                return Ok(Some(Self { channel, tag, pid, older, inherited, endpoint, path }));
            }
        }
    }

    /// The tags of the processes that still have sessions.
    pub(in crate::server) fn tags(&self) -> Vec<ProcessTag> {
        self.older.iter().map(|generation| generation.tag).chain([self.tag]).collect()
    }

    /// Where the next process finds this one, if it is where the one before was found.
    pub(in crate::server) fn take_endpoint(&mut self, settings: &Upgrade) -> io::Result<Option<Endpoint>> {
        let Some((socket, path)) = self.endpoint.take_if(|(_, path)| *path == settings.socket) else {
            return Ok(None);
        };
        Endpoint::new(socket, &path).map(Some)
    }

    /// Everything is there, and nothing is accepted yet: has the process before accept nothing any more, and then calls
    /// `accept`. Gives the processes that still have sessions, to be listened to.
    ///
    /// # Errors
    /// It does not want any more: it goes on, and this one must not serve.
    pub(in crate::server) async fn finish(
        self,
        taken: Vec<PathBuf>,
        generations: &Arc<Generations>,
        accept: impl FnOnce(),
    ) -> Result<Vec<Arc<Generation>>, TakeoverError> {
        let Self { channel, tag, pid, older, path, .. } = self;
        let paused = async {
            // If that fails, what it has said before it hung up is still there.
            let sent = channel.send(&Message::Ready { taken }, &[], &[]).await;
            let received = channel.receive().await?;
            if received.is_none() { sent.map(|()| None) } else { Ok(received) }
        };
        let paused = timeout(ANSWER_TIMEOUT, paused).await.map_err(|_| TakeoverError::Silent(path))?;
        let message = match paused {
            Ok(packet) => packet.map(|packet| packet.message),
            Err(error) => {
                warn!(pid, %error, "the relay that ran is not reached any more");
                None
            }
        };
        let mut all = older;
        match message {
            Some(Message::Paused) => all.push(Generation::new(tag, pid, channel)),
            Some(Message::Refused { reason }) => return Err(TakeoverError::Refused(reason)),
            Some(_) => return Err(TakeoverError::Misunderstood),
            // Who gives up says so. It has died, and everything is here.
            None => warn!(pid, "the relay that ran has ended while this one took over"),
        }
        all.iter().for_each(|generation| generations.add(Arc::clone(generation)));
        accept();
        if let Some(generation) = generations.of(tag)
            && let Err(error) = generation.channel.send(&Message::Serving, &[], &[]).await
        {
            // It may have waited for too long, and goes on then.
            if let Ok(Some(Packet { message: Message::Refused { reason }, .. })) =
                generation.channel.receive().await
            {
                return Err(TakeoverError::Refused(reason));
            }
            warn!(pid, %error, "the relay that ran has ended while this one took over");
        }
        Ok(all)
    }
}
