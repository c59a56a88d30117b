//! The sessions of one connection (RFC 4975 §5.4).
//!
//! A session is *gated* while it may not send: the passive side of a connection without a relay does
//! not know who has connected until the first request arrives. It becomes *bound* with that request;
//! on the active side, which knows whom it has connected to, it is so from the beginning.

use std::collections::HashMap;
use std::sync::Arc;

use super::event::{Event, SendError, SessionHandle, UsageError};
use super::shared::{Purpose, Shared};
use crate::encoder::HeadWriter;
use crate::flag::Flag;
use crate::head::Head;
use crate::header::{FailureReport, Name};
use crate::status::StatusCode;
use crate::uri::MsrpUri;

/// Who begins (RFC 4975 §5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We do, and send a SEND without a body at once, which binds the connection to the session.
    Active,
    /// The peer does. Without a relay of our own nothing is sent before its first request.
    Passive,
}

/// A session as the signalling has agreed on it.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Our own URI, as it stands last in the path we gave to the peer.
    pub local: MsrpUri,
    /// Our relays, the nearest first: what Use-Path gave. Empty without a relay.
    pub use_path: Vec<MsrpUri>,
    /// The path the peer gave us, in its order: the peer's own URI last.
    pub peer_path: Vec<MsrpUri>,
    /// Who begins.
    pub role: Role,
    /// Media types we take: `text/plain`, `image/*` or `*`. Others are answered with 415
    /// (RFC 4975 §7.3.1). Empty takes all.
    pub accept_types: Vec<String>,
    /// The longest message we take, in bytes. Longer ones are answered with 413, as soon as it
    /// shows. The default is no limit: what is not assembled is not held.
    pub max_message_bytes: u64,
    /// Success REPORTs for each chunk, with its range, and not one for the whole message
    /// (RFC 4975 §7.1.3).
    pub report_each_chunk: bool,
}

impl SessionOptions {
    /// A session with the default options. `use_path` is empty without a relay.
    pub fn new(local: MsrpUri, use_path: Vec<MsrpUri>, peer_path: Vec<MsrpUri>, role: Role) -> Self {
        Self {
            local,
            use_path,
            peer_path,
            role,
            accept_types: Vec::new(),
            max_message_bytes: u64::MAX,
            report_each_chunk: false,
        }
    }
}

pub(super) struct Session {
    pub(super) options: SessionOptions,
    /// To-Path and From-Path of our requests, as lines.
    pub(super) paths: Arc<[u8]>,
    bound: bool,
    elsewhere: bool,
}

#[derive(Default)]
pub(super) struct Sessions {
    open: HashMap<SessionHandle, Session>,
    by_id: HashMap<String, SessionHandle>,
    opened: u64,
}

impl Sessions {
    pub(super) fn open(
        &mut self,
        options: SessionOptions,
        shared: &mut Shared,
    ) -> Result<SessionHandle, UsageError> {
        if options.peer_path.is_empty() {
            return Err(UsageError::EmptyPath);
        }
        let id = options.local.as_ref().session_id().unwrap_or_default().to_owned();
        if self.by_id.contains_key(&id) {
            return Err(UsageError::SessionIdInUse(id));
        }
        self.opened += 1;
        let handle = SessionHandle(self.opened);
        let mut paths = b"To-Path:".to_vec();
        for uri in options.use_path.iter().chain(&options.peer_path) {
            paths.push(b' ');
            paths.extend_from_slice(uri.as_str().as_bytes());
        }
        paths.extend_from_slice(format!("\r\nFrom-Path: {}\r\n", options.local).as_bytes());
        let active = options.role == Role::Active;
        let session = Session { options, paths: paths.into(), bound: active, elsewhere: false };
        if active {
            bodiless(handle, &session, shared);
        }
        self.open.insert(handle, session);
        self.by_id.insert(id, handle);
        Ok(handle)
    }

    pub(super) fn get(&self, handle: SessionHandle) -> Result<&Session, UsageError> {
        self.open.get(&handle).ok_or(UsageError::UnknownHandle)
    }

    pub(super) fn close(&mut self, handle: SessionHandle) -> Result<(), UsageError> {
        let session = self.open.remove(&handle).ok_or(UsageError::UnknownHandle)?;
        self.by_id.remove(session.options.local.as_ref().session_id().unwrap_or_default());
        Ok(())
    }

    pub(super) fn set_elsewhere(&mut self, handle: SessionHandle) -> Result<(), UsageError> {
        self.open.get_mut(&handle).ok_or(UsageError::UnknownHandle)?.elsewhere = true;
        Ok(())
    }

    pub(super) fn keep_alive(&self, handle: SessionHandle, shared: &mut Shared) -> Result<(), UsageError> {
        bodiless(handle, self.get(handle)?, shared);
        Ok(())
    }

    /// Whether requests of the session may be sent. Those of one that was closed may: they end what
    /// was begun.
    pub(super) fn may_send(&self, handle: SessionHandle) -> bool {
        self.open.get(&handle).is_none_or(|session| session.bound || !session.options.use_path.is_empty())
    }

    /// The session a request belongs to; the first one binds it.
    ///
    /// # Errors
    /// 481 if there is none, 506 if it is in use on another connection (RFC 4975 §5.4, §7.3).
    pub(super) fn of_request(
        &mut self,
        head: &Head,
        shared: &mut Shared,
    ) -> Result<SessionHandle, StatusCode> {
        let mut path = head.to_path();
        let (Some(uri), None) = (path.next(), path.next()) else { return Err(StatusCode::NO_SUCH_SESSION) };
        let handle = self.by_id.get(uri.session_id().unwrap_or_default());
        let found = handle.and_then(|handle| Some((*handle, self.open.get_mut(handle)?)));
        let Some((handle, session)) = found.filter(|(_, session)| session.options.local.as_ref() == uri)
        else {
            return Err(StatusCode::NO_SUCH_SESSION);
        };
        if session.elsewhere {
            return Err(StatusCode::SESSION_IN_USE);
        }
        if !session.bound {
            session.bound = true;
            shared.events.push_back(Event::SessionBound { session: handle });
        }
        Ok(handle)
    }
}

impl Session {
    pub(super) fn accepts(&self, content_type: &str) -> bool {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let accepts = |accepted: &String| match accepted.strip_suffix('*') {
            Some(prefix) => {
                media_type.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
            }
            None => accepted.eq_ignore_ascii_case(media_type),
        };
        let types = &self.options.accept_types;
        types.is_empty() || types.iter().any(accepts)
    }
}

fn bodiless(handle: SessionHandle, session: &Session, shared: &mut Shared) {
    let id = shared.begin(FailureReport::Yes, Purpose::Bodiless(handle));
    let message_id = shared.ids.text();
    let mut bytes = Vec::new();
    HeadWriter::request(&mut bytes, &id, "SEND")
        .lines(&session.paths)
        .field(Name::MessageId, message_id)
        .end(Flag::Complete);
    shared.control.push(bytes, Some(id));
}

pub(super) fn bodiless_failed(session: SessionHandle, error: SendError, shared: &mut Shared) {
    shared.events.push_back(Event::SessionFailed { session, error });
}
