//! One of the two who talk: an [`Endpoint`] on a TLS connection, and its call flow on the screen.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use msrp_proto::endpoint::{
    Config, Credentials, Endpoint, Event, Message, OutgoingHandle, RelayLogin, Role, SessionHandle,
    SessionOptions, relay_uri,
};
use msrp_proto::uri::{MsrpUri, Scheme};
use rand::Rng as _;
use tcp_transport::{ConnectSettings, Connector, Stream, Target, Transport};

use super::flow::{Direction, Flow};
use super::process::{HOST, RelayProcess, USERS};

/// The most bytes prepared for one write: one TLS record.
const OUTPUT: usize = 16 * 1024;

/// How much is read ahead while the endpoint takes nothing, because too many of its responses wait.
const INPUT: usize = 256 * 1024;

/// Somebody at a client.
pub(super) struct Party {
    name: &'static str,
    stream: Stream,
    endpoint: Endpoint,
    input: BytesMut,
    output: BytesMut,
    flow: Flow,
    own: MsrpUri,
    /// What the relay gave to use.
    use_path: Vec<MsrpUri>,
    session: Option<SessionHandle>,
}

impl Party {
    /// Connects `name` to the relay over TLS.
    pub(super) async fn connect(name: &'static str, relay: &RelayProcess) -> anyhow::Result<Self> {
        let to = Target { host: HOST.into(), port: relay.port("msrps")?, transport: Transport::Tls };
        let anywhere = |_: SocketAddr, _: Transport| true;
        let connector = Connector::new(ConnectSettings::default(), anywhere);
        let stream = connector.connect(&to, Some(&relay.trust()?)).await?;
        let mut endpoint = Endpoint::new(Config::default(), |bytes| rand::rng().fill_bytes(bytes));
        let own = endpoint.own_uri(Scheme::Msrps, &format!("{name}.invalid"), 2855)?;
        Ok(Self {
            name,
            stream,
            endpoint,
            input: BytesMut::new(),
            output: BytesMut::new(),
            flow: Flow::new(name),
            own,
            use_path: Vec::new(),
            session: None,
        })
    }

    /// Authenticates at the relay, which gives a URI to use.
    pub(super) async fn log_in(&mut self, relay: &RelayProcess) -> anyhow::Result<()> {
        let (user, password) =
            USERS.into_iter().find(|(user, _)| *user == self.name).context("no such user")?;
        let login = RelayLogin {
            relay: relay_uri(Scheme::Msrps, None, HOST, Some(relay.port("msrps")?))?,
            credentials: Credentials::new(user, password),
            expires: None,
        };
        self.endpoint.authenticate(self.own.clone(), vec![login])?;
        loop {
            match self.next().await? {
                Event::Authenticated { use_path, verified, .. } => {
                    if !verified {
                        bail!("the relay did not prove that it knows the password");
                    }
                    self.use_path = use_path.uris().to_vec();
                    return Ok(());
                }
                Event::AuthFailed { error, .. } => bail!("{user} was not let in: {error}"),
                _ => {}
            }
        }
    }

    /// The path to give to the other side, as SDP would carry it: our relay, then ourselves.
    fn path(&self) -> Vec<MsrpUri> {
        self.use_path.iter().rev().chain([&self.own]).cloned().collect()
    }

    /// Sends a message to the other side.
    pub(super) fn send(&mut self, message: Message) -> anyhow::Result<OutgoingHandle> {
        Ok(self.endpoint.send(self.session.context("no session")?, message)?)
    }

    /// Gives the next bytes of a file.
    pub(super) fn provide(&mut self, message: OutgoingHandle, bytes: Bytes) -> anyhow::Result<()> {
        Ok(self.endpoint.provide_body(message, bytes)?)
    }

    /// A file is going to be sent or received.
    pub(super) fn file_begins(&mut self, direction: Direction) {
        self.flow.file_begins(direction);
    }

    /// Drives the connection until something happens. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> anyhow::Result<Event> {
        loop {
            if let Some(event) = self.endpoint.poll_event() {
                return Ok(event);
            }
            let now = Instant::now();
            if self.endpoint.deadline().is_some_and(|at| at <= now) {
                self.endpoint.handle_timeout(now);
                continue;
            }
            if self.endpoint.receive(&mut self.input, now) {
                continue;
            }
            if self.output.is_empty() && self.endpoint.poll_transmit(&mut self.output, OUTPUT, now) > 0 {
                self.flow.show(Direction::ToRelay, &self.output);
                continue;
            }
            let before = self.input.len();
            let wait = self.stream.exchange(&mut self.input, &mut self.output, INPUT);
            match self.endpoint.deadline() {
                None => wait.await,
                Some(at) => match tokio::time::timeout_at(at.into(), wait).await {
                    Ok(moved) => moved,
                    Err(_) => continue,
                },
            }
            .map_err(|error| self.lost(&error))?;
            self.flow.show(Direction::FromRelay, &self.input[before..]);
        }
    }

    fn lost(&mut self, error: &io::Error) -> anyhow::Error {
        self.endpoint.connection_lost();
        anyhow::anyhow!("{} lost the connection to the relay: {error}", self.name)
    }
}

/// Tells each the path of the other, which SIP and SDP would do, and opens the session.
pub(super) fn meet(alice: &mut Party, bob: &mut Party) -> anyhow::Result<()> {
    let (to_alice, to_bob) = (alice.path(), bob.path());
    for (party, peer, role) in [(alice, to_bob, Role::Active), (bob, to_alice, Role::Passive)] {
        let options = SessionOptions::new(party.own.clone(), party.use_path.clone(), peer, role);
        party.session = Some(party.endpoint.open_session(options)?);
    }
    Ok(())
}
