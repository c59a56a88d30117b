//! An admin interface without sockets, for tests.

use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;
use crate::config::Config;
use crate::server::Server;

/// How many connection events may wait.
pub(super) const EVENT_QUEUE: usize = 4;

/// A relay, and the interface to it.
pub(super) struct Interface {
    pub(super) server: Server,
    pub(super) router: Router,
    /// Set it, and the interface ends.
    pub(super) stop: watch::Sender<bool>,
}

impl Interface {
    pub(super) async fn start() -> Self {
        let text = format!(
            "domain: relay.test\nlisteners: [ {{ uri: 'msrp://127.0.0.1:0' }} ]\nevents: {{ queue: {EVENT_QUEUE} }}\n"
        );
        let config = Config::parse(&text, Path::new(""), "relay.yaml");
        let server = Server::start(config.unwrap_or_else(|errors| panic!("{errors}"))).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let settings = Admin { listen: Vec::new(), token: None, socket_mode: 0o600, allow_hosts: Vec::new() };
        let history = Arc::new(Mutex::new(History::default()));
        let router = http::router(&settings, Arc::clone(server.control()), history, stopped);
        Self { server, router, stop }
    }

    /// A connection to it, over which `buffer` bytes may be under way.
    pub(super) fn connect(&self, buffer: usize) -> Connection {
        let (stream, far) = tokio::io::duplex(buffer);
        tokio::spawn(connection::serve(far, self.router.clone(), self.stop.subscribe()));
        Connection(stream)
    }
}

/// The client's end of a connection.
pub(super) struct Connection(pub(super) DuplexStream);

impl Connection {
    pub(super) async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// What comes until this has come.
    pub(super) async fn until(&mut self, end: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            text.push(self.0.read_u8().await.unwrap_or_else(|error| {
                panic!("{error} instead of {end:?}, after {:?}", String::from_utf8_lossy(&text))
            }));
        }
        String::from_utf8(text).unwrap()
    }

    /// All that comes until it is closed.
    pub(super) async fn rest(&mut self) -> String {
        let mut text = String::new();
        self.0.read_to_string(&mut text).await.unwrap();
        text
    }
}
