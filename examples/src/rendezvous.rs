//! The three ways to a connection on which a session can be opened: through a relay of ours, by
//! listening, and by connecting to the first hop of the other side's path.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::BytesMut;
use msrp_proto::decoder::{self, Decoder};
use msrp_proto::endpoint::{
    AuthError, AuthHandle, Config, Event, RelayLogin, Role, SessionHandle, SessionOptions,
};
use msrp_proto::uri::{DEFAULT_PORT, MsrpUri, Scheme};
use tcp_transport::connector::Resolver;
use tcp_transport::tls::{HandshakeError, ServerDomainSettings, ServerDomains};
use tcp_transport::{
    Acceptor, BoundListener, ConnectSettings, Connector, ListenerSettings, Stream, Target, Transport,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::{self, Client};
use crate::locate::{self, Place, in_uri};
use crate::options::{DialOptions, ListenOptions};
use crate::path::MsrpPath;

/// How long somebody who has connected to us may take to send the first request: 30 s, as relays
/// wait (RFC 4976 §6.1).
const FIRST_REQUEST: Duration = Duration::from_secs(30);

/// Connections that wait to be looked at, and those being looked at; more are closed.
const ARRIVALS: usize = 16;

/// A connection on which a session can be opened.
pub struct Line {
    /// The connection.
    pub client: Client,
    /// Our own URI.
    pub own: MsrpUri,
    /// What our relay gave us to use; empty without one.
    pub use_path: Vec<MsrpUri>,
    /// How to log in again.
    login: Option<RelayLogin>,
}

impl Line {
    /// Connects to our relay and logs in (RFC 4976 §5.1).
    ///
    /// # Errors
    /// No place of the relay can be reached, or it does not let us in.
    pub async fn through_relay(options: &DialOptions, config: Config) -> anyhow::Result<Self> {
        let relay = options.relay.as_ref().context("--relay is missing")?;
        let mut login = options.login()?;
        let places = match &options.connect {
            Some(place) => vec![place.clone()],
            None => locate::locate(relay).await?,
        };
        let mut client =
            Client::new(dial(options, relay.scheme, &relay.host, &places).await?, BytesMut::new(), config);
        // Nobody connects to it: it is our relay that knows the way.
        let own = client.endpoint().own_uri(relay.scheme, "client.invalid", DEFAULT_PORT)?;
        let use_path = log_in(&mut client, &own, &mut login).await?;
        Ok(Self { client, own, use_path, login: Some(login) })
    }

    /// Connects to the first hop of `peer`.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn direct(options: &DialOptions, peer: &MsrpPath, config: Config) -> anyhow::Result<Self> {
        let first = peer.first().as_ref();
        ensure!(first.is_tcp(), "only tcp can be reached, not {}", first.transport());
        let place = Place { host: first.host().to_owned(), port: first.port().unwrap_or(DEFAULT_PORT) };
        let places = [options.connect.clone().unwrap_or(place)];
        let stream = dial(options, first.scheme(), first.host(), &places).await?;
        let local = stream.local_addr();
        let mut client = Client::new(stream, BytesMut::new(), config);
        let host = in_uri(&local.ip().to_string());
        let own = client.endpoint().own_uri(first.scheme(), &host, local.port())?;
        Ok(Self { client, own, use_path: Vec::new(), login: None })
    }

    /// The path to give to the other side.
    pub fn path(&self) -> MsrpPath {
        MsrpPath::to_own(&self.own, &self.use_path)
    }

    /// What to open a session with `peer` with.
    pub fn session(&self, peer: &MsrpPath, role: Role) -> SessionOptions {
        SessionOptions::new(self.own.clone(), self.use_path.clone(), peer.uris().to_vec(), role)
    }

    /// Opens a session for whoever knows our path: as the passive side that does not know the
    /// peer's. It can receive, and answer with responses and REPORTs, and not send.
    ///
    /// # Errors
    /// The connection is closed.
    pub fn open_for_anyone(
        &mut self,
        change: impl FnOnce(&mut SessionOptions),
    ) -> anyhow::Result<SessionHandle> {
        // The endpoint wants a path of the peer. Nothing is ever sent to this one.
        let nobody = MsrpPath::to_own(&self.own, &[]);
        let mut options = self.session(&nobody, Role::Passive);
        change(&mut options);
        Ok(self.client.endpoint().open_session(options)?)
    }

    /// Logs in again, when [`Event::AuthExpiring`] has come. Ends with [`Event::Authenticated`],
    /// whose Use-Path is another one: our path changes with it.
    ///
    /// # Errors
    /// The connection is closed. Nothing happens without a relay.
    pub fn renew(&mut self) -> anyhow::Result<Option<AuthHandle>> {
        let Some(login) = self.login.clone() else { return Ok(None) };
        Ok(Some(self.client.endpoint().authenticate(self.own.clone(), vec![login])?))
    }
}

/// Asks the relay; if we ask for too long or too short a time, asks again for what it grants.
async fn log_in(client: &mut Client, own: &MsrpUri, login: &mut RelayLogin) -> anyhow::Result<Vec<MsrpUri>> {
    let mut bargained = false;
    client.endpoint().authenticate(own.clone(), vec![login.clone()])?;
    loop {
        match client.next().await? {
            Event::Authenticated { use_path, .. } => return Ok(use_path.uris().to_vec()),
            Event::AuthFailed { error: AuthError::ExpiresOutOfBounds { min, max }, .. } if !bargained => {
                bargained = true;
                login.expires = max.or(min);
                client.endpoint().authenticate(own.clone(), vec![login.clone()])?;
            }
            Event::AuthFailed { error: AuthError::ConnectionLost, .. } => {
                // As relays do with a request whose To-Path does not begin with them (RFC 4976 §6.2).
                let relay = login.relay.as_ref();
                bail!(
                    "{} closed the connection without an answer; is \"{}\" the name it calls itself (its `domain`), \
                     and {} the right scheme?",
                    login.relay,
                    relay.host(),
                    relay.scheme()
                )
            }
            Event::AuthFailed { error, .. } => {
                bail!("{} was not let in by {}: {error}", login.credentials.username, login.relay)
            }
            _ => {}
        }
    }
}

/// Connects to the first of `places` that answers. With TLS it has to prove that it is `host`.
async fn dial(options: &DialOptions, scheme: Scheme, host: &str, places: &[Place]) -> anyhow::Result<Stream> {
    let (transport, trust) = match scheme {
        Scheme::Msrp => (Transport::Tcp, None),
        Scheme::Msrps => (Transport::Tls, Some(options.trust()?)),
    };
    let mut failures = Vec::new();
    for place in places {
        // A literal is dialled as it is, whatever a resolver says; without TLS its name is nothing.
        let name = if trust.is_some() { host } else { &place.host };
        let is_elsewhere = name != place.host && name.parse::<std::net::IpAddr>().is_ok();
        ensure!(!is_elsewhere, "--connect needs a URI with a name, not with an address");
        let anywhere = |_: SocketAddr, _: Transport| true;
        let connector =
            Connector::with_resolver(ConnectSettings::default(), anywhere, At(place.host.clone()));
        let target = Target { host: name.to_owned(), port: place.port, transport };
        match connector.connect(&target, trust.as_ref()).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failures.push(format!("{place}: {error}")),
        }
    }
    bail!("{host} cannot be reached: {}", failures.join("; "))
}

/// Every name is at this host.
pub(crate) struct At(pub(crate) String);

impl Resolver for At {
    async fn resolve(&self, _name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((self.0.as_str(), port)).await?.collect())
    }
}

/// Somebody who waits to be connected to.
pub struct Listening {
    own: MsrpUri,
    arrivals: mpsc::Receiver<Stream>,
    /// Ends the listener when it is dropped.
    _listener: JoinSet<()>,
}

impl Listening {
    /// Listens, with TLS if there is a certificate.
    ///
    /// # Errors
    /// The address is in use or not ours; the certificate cannot be used.
    pub fn open(options: &ListenOptions) -> anyhow::Result<Self> {
        let address = options.listen.context("--listen is missing")?;
        let (scheme, transport, domains) = match (&options.certificate, &options.private_key) {
            (Some(certificate), Some(key)) => {
                let mut domain = ServerDomainSettings::new("examples", certificate, key);
                (domain.verify_cert, domain.require_cert) = (false, false);
                (Scheme::Msrps, Transport::Tls, ServerDomains::load(&[domain])?)
            }
            _ => (Scheme::Msrp, Transport::Tcp, ServerDomains::default()),
        };
        let listener = BoundListener::bind(ListenerSettings::new(address, transport), Arc::new(domains))?;
        let local = listener.local_addr();
        let place = match &options.advertise {
            Some(place) => place.clone(),
            None if local.ip().is_unspecified() => {
                bail!("--advertise is missing: nobody reaches us at {}", local.ip())
            }
            None => Place { host: local.ip().to_string(), port: local.port() },
        };
        let own = client::endpoint(Config::default()).own_uri(scheme, &in_uri(&place.host), place.port)?;
        let (sender, arrivals) = mpsc::channel(ARRIVALS);
        let mut task = JoinSet::new();
        task.spawn(listener.run(Arc::new(Arrivals(sender))));
        Ok(Self { own, arrivals, _listener: task })
    }

    /// The path to give to the other side.
    pub fn path(&self) -> MsrpPath {
        MsrpPath::to_own(&self.own, &[])
    }

    /// Our URI.
    pub fn uri(&self) -> &MsrpUri {
        &self.own
    }

    /// Waits for the next one who connects, whatever it wants.
    ///
    /// # Errors
    /// The listener has ended.
    pub async fn arrival(&mut self) -> anyhow::Result<Stream> {
        self.arrivals.recv().await.context("the listener has ended")
    }

    /// Waits for the first one whose first request is for us; gives the line, with that request still
    /// to be received, and the way back.
    ///
    /// Until then nobody knows who has connected (RFC 4975 §5.4), and strangers may: they keep nobody
    /// waiting.
    ///
    /// # Errors
    /// The listener has ended.
    pub async fn accept(mut self, config: Config) -> anyhow::Result<(Line, MsrpPath)> {
        let mut waiting = JoinSet::new();
        let (stream, input, peer) = loop {
            tokio::select! {
                arrival = self.arrivals.recv() => {
                    let stream = arrival.context("the listener has ended")?;
                    if waiting.len() < ARRIVALS {
                        waiting.spawn(tokio::time::timeout(FIRST_REQUEST, first_request(stream, self.own.clone())));
                    }
                }
                Some(first) = waiting.join_next() => if let Ok(Ok(Ok(found))) = first {
                    break found;
                },
            }
        };
        let client = Client::new(stream, input, config);
        Ok((Line { client, own: self.own, use_path: Vec::new(), login: None }, peer))
    }
}

struct Arrivals(mpsc::Sender<Stream>);

impl Acceptor for Arrivals {
    fn accepted(&self, stream: Stream) {
        // One too many is closed.
        let _ = self.0.try_send(stream);
    }

    fn handshake_failed(&self, _peer: SocketAddr, _error: HandshakeError) {}
}

/// Reads until the first head is there, without taking it from the input.
async fn first_request(stream: Stream, own: MsrpUri) -> anyhow::Result<(Stream, BytesMut, MsrpPath)> {
    let (mut input, mut copy) = (BytesMut::new(), BytesMut::new());
    let mut decoder = Decoder::new(decoder::Limits::default());
    loop {
        let before = input.len();
        ensure!(stream.read(&mut input, 4096).await? > 0, "closed");
        copy.extend_from_slice(&input[before..]);
        if let Some(decoder::Event::Head(head)) = decoder.decode(&mut copy)? {
            ensure!(head.to_path().eq([own.as_ref()]), "not for us");
            let peer = head.from_path_text().parse()?;
            return Ok((stream, input, peer));
        }
    }
}
