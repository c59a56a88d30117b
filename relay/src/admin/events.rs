//! `GET /events`: what happens to connections and sessions, as server-sent events, from the moment of the request on.
//!
//! ```text
//! event: connection
//! data: {"time":1700000000.25,"event":"tcp:accepted","connection":7,"protocol":"msrps","direction":"in",…}
//!
//! event: session
//! data: {"time":1700000000.5,"event":"began","session":{"id":"…","user":"alice",…}}
//! ```
//!
//! `?kind=connection` or `?kind=session` asks for one of them only. Who reads too slowly loses the oldest events and is told
//! how many: `event: lost`, `data: {"events":12}`. A comment comes every [`KEEP_ALIVE`] in which nothing else does.
//! Connection events are those that `events.closed_event` lets be told.
//!
//! There are [`MAX_STREAMS`] at most, as each keeps a connection for as long as its client wants: one more is answered with
//! 503. The log says so when it begins.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tcp_transport::event::{ConnectionEvent, Direction, Subscription};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tracing::warn;

use super::MAX_STREAMS;
use super::http::App;
use super::mi::shown::session;
use super::statistics::unix_seconds;
use crate::msrp::SessionEnd;
use crate::server::SessionEvent;

/// How often something comes at least.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
pub(super) struct Wanted {
    kind: Option<Kind>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Connection,
    Session,
}

/// The streams there may be.
#[derive(Debug)]
pub(super) struct Streams {
    free: Arc<Semaphore>,
    /// Whether it was told that none is left.
    told: AtomicBool,
}

impl Default for Streams {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(MAX_STREAMS)), told: AtomicBool::new(false) }
    }
}

impl Streams {
    /// One more, until what this returns is dropped.
    fn take(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(slot) = Arc::clone(&self.free).try_acquire_owned() {
            self.told.store(false, Ordering::Relaxed);
            return Some(slot);
        }
        if !self.told.swap(true, Ordering::Relaxed) {
            warn!(limit = MAX_STREAMS, "admin request refused: no more streams of events at once");
        }
        None
    }
}

struct Source {
    _slot: OwnedSemaphorePermit,
    connections: Option<Subscription>,
    /// What it had lost when that was told last.
    told: u64,
    /// What came when a loss was to be told first.
    put_off: Option<Event>,
    sessions: Option<broadcast::Receiver<Arc<SessionEvent>>>,
    stopped: tokio::sync::watch::Receiver<bool>,
}

pub(super) async fn stream(State(app): State<App>, Query(wanted): Query<Wanted>) -> Response {
    let Some(slot) = app.streams.take() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "no more streams of events at once\n").into_response();
    };
    let source = Source::new(&app, wanted.kind, slot);
    let events = stream::unfold(source, async |mut source| {
        let event = source.next().await?;
        Some((Ok::<_, Infallible>(event), source))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

impl Source {
    fn new(app: &App, kind: Option<Kind>, slot: OwnedSemaphorePermit) -> Self {
        let wants = |wanted| kind.is_none_or(|kind| kind == wanted);
        Self {
            _slot: slot,
            connections: wants(Kind::Connection).then(|| app.control.ledger().events().subscribe()),
            told: 0,
            put_off: None,
            sessions: wants(Kind::Session).then(|| app.control.session_events().subscribe()),
            stopped: app.stopped.clone(),
        }
    }

    /// The next event; `None` when there will be no more.
    async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.put_off.take() {
            return Some(event);
        }
        let connection = async {
            match &mut self.connections {
                Some(events) => (events.next().await, events.lost()),
                None => std::future::pending().await,
            }
        };
        let session = async {
            match &mut self.sessions {
                Some(events) => events.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.stopped.wait_for(|stopped| *stopped) => None,
            (event, lost) = connection => {
                let event = named("connection", &connection_json(&*event?));
                let missed = lost - self.told;
                if missed == 0 {
                    return Some(event);
                }
                self.told = lost;
                self.put_off = Some(event);
                Some(named("lost", &json!({ "events": missed })))
            }
            event = session => match event {
                Ok(event) => Some(named("session", &session_json(&event))),
                Err(broadcast::error::RecvError::Lagged(events)) => Some(named("lost", &json!({ "events": events }))),
                Err(broadcast::error::RecvError::Closed) => None,
            },
        }
    }
}

fn named(name: &str, data: &Value) -> Event {
    // JSON text has no line break, which is all that could go wrong.
    Event::default().event(name).data(data.to_string())
}

fn connection_json(event: &ConnectionEvent) -> Value {
    let mut object = json!({
        "time": unix_seconds(event.time),
        "event": event.kind.name(),
        "connection": event.id.as_u64(),
        "protocol": event.scheme.map_or(event.transport.as_str(), |scheme| scheme.as_str()),
        "direction": match event.direction { Direction::Inbound => "in", Direction::Outbound => "out" },
        "remote": event.remote.to_string(),
        "local": event.local.map(|local| local.to_string()),
    });
    let Some(fields) = object.as_object_mut() else { return object };
    if let Some(proxy) = event.proxy {
        fields.insert("proxy".to_owned(), proxy.to_string().into());
    }
    if let Some(tls) = &event.tls {
        let tls = json!({ "version": tls.version(), "cipher": tls.cipher(), "domain": tls.domain(), "sni": tls.sni() });
        fields.insert("tls".to_owned(), tls);
    }
    if let Some(ending) = event.kind.ending() {
        fields.insert("reason".to_owned(), (*ending.reason).into());
        fields.insert("bytes_in".to_owned(), ending.bytes_in.into());
        fields.insert("bytes_out".to_owned(), ending.bytes_out.into());
        fields.insert("seconds".to_owned(), ending.duration.as_secs_f64().into());
    }
    object
}

fn session_json(event: &SessionEvent) -> Value {
    json!({
        "time": unix_seconds(event.time),
        "event": if event.end.is_some() { "ended" } else { "began" },
        "reason": event.end.map(SessionEnd::as_str),
        "session": session(&event.session),
    })
}

#[cfg(test)]
mod tests;
