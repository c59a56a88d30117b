//! A connection that carries MSRP: over TCP, TLS or WebSocket.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{bail, ensure};
use bytes::{BufMut as _, BytesMut};
use msrp_proto::decoder::{Decoder, Event, Limits};
use msrp_proto::endpoint::{Config, Credentials, Event as Happened, RelayLogin};
use msrp_proto::uri::{MsrpUri, Scheme};
use tcp_transport::tls::{ClientDomain, ClientDomainSettings};
use tcp_transport::ws::frame::{self, Opcode};
use tcp_transport::ws::{Incoming, Offer, Role, Settings};
use tcp_transport::{ConnectSettings, Connector, Flow, Stream, Target, Transport};

use super::options::Site;
use crate::client;
use crate::locate::{Place, in_uri, locate};
use crate::rendezvous::At;

/// Bytes that are read before they are looked at, at most.
const INPUT: usize = 256 * 1024;

/// Where connections are opened to.
pub struct Dialer {
    site: Site,
    places: Vec<Place>,
    /// Kept from one connection to the next, it resumes TLS sessions.
    trust: Option<ClientDomain>,
}

impl Dialer {
    /// Finds the relay. `resume`: TLS sessions are resumed.
    ///
    /// # Errors
    /// It cannot be found; the file of --ca is none.
    pub async fn new(site: &Site, resume: bool) -> anyhow::Result<Self> {
        let places = match (&site.connect, &site.websocket) {
            (Some(place), _) => vec![place.clone()],
            (None, Some(url)) => vec![Place { host: url.host.clone(), port: url.port }],
            (None, None) => locate(&site.relay).await?,
        };
        let trust = if resume { Some(trust(site)?) } else { None };
        Ok(Self { site: site.clone(), places, trust })
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// No place answers.
    pub async fn open(&self) -> anyhow::Result<Wire> {
        let (secure, host) = match &self.site.websocket {
            Some(url) => (url.secure, &url.host),
            None => (self.site.relay.scheme == Scheme::Msrps, &self.site.relay.host),
        };
        let own_trust;
        let trust = match &self.trust {
            _ if !secure => None,
            Some(trust) => Some(trust),
            None => {
                own_trust = trust(&self.site)?;
                Some(&own_trust)
            }
        };
        let mut failures = Vec::new();
        for place in &self.places {
            let anywhere = |_: SocketAddr, _: Transport| true;
            let connector =
                Connector::with_resolver(ConnectSettings::default(), anywhere, At(place.host.clone()));
            let transport = if secure { Transport::Tls } else { Transport::Tcp };
            let host = if secure { host } else { &place.host };
            let target = Target { host: host.clone(), port: place.port, transport };
            let opened = match &self.site.websocket {
                None => connector.connect(&target, trust).await.map(|stream| (stream, None)),
                Some(url) => {
                    let offer =
                        Offer { protocols: vec!["msrp".to_owned()], ..Offer::to(&target, &*url.path) };
                    let trust = trust.map(|trust| trust as _);
                    let opened = connector.connect_ws(&target, trust, &offer).await;
                    opened.map(|(stream, opened)| (stream, Some(opened.rest)))
                }
            };
            match opened {
                Ok((stream, websocket)) => return Ok(Wire::new(stream, websocket)),
                Err(error) => failures.push(format!("{place}: {error}")),
            }
        }
        bail!("the relay cannot be reached: {}", failures.join("; "))
    }

    /// Opens a connection to a place that a relay has given as the first hop to its client.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn open_to(&self, hop: &MsrpUri) -> anyhow::Result<Wire> {
        let hop = hop.as_ref();
        let mut site = self.site.clone();
        (site.websocket, site.relay.scheme) = (None, hop.scheme());
        hop.host().clone_into(&mut site.relay.host);
        let place = Place { host: hop.host().to_owned(), port: hop.port().unwrap_or(2855) };
        let places = vec![site.connect.clone().unwrap_or(place)];
        let trust = if hop.scheme() == Scheme::Msrps { Some(trust(&site)?) } else { None };
        Self { site, places, trust }.open().await
    }

    /// Logs in as the client of that number; gives our URI, and what the relay gave us to use.
    ///
    /// # Errors
    /// It does not let us in.
    pub async fn log_in(&self, wire: &mut Wire, number: usize) -> anyhow::Result<(MsrpUri, Vec<MsrpUri>)> {
        let relay = &self.site.relay;
        let mut endpoint = client::endpoint(Config::default());
        let (scheme, kind) = match &self.site.websocket {
            None => (relay.scheme, "tcp"),
            Some(url) => (if url.secure { Scheme::Msrps } else { Scheme::Msrp }, "ws"),
        };
        let own = endpoint.own_uri(scheme, "load.invalid", 2855)?;
        let own: MsrpUri = own.as_str().replace(";tcp", &format!(";{kind}")).parse()?;
        let port = match &self.site.websocket {
            Some(url) => Some(url.port),
            None => relay.port,
        };
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let user = self.site.user.replace('%', &number.to_string());
        let credentials = Credentials {
            send_uri: self.site.send_uri,
            ..Credentials::new(user, self.site.password.clone())
        };
        let login = RelayLogin {
            relay: format!("{scheme}://{}{port};{kind}", in_uri(&relay.host)).parse()?,
            credentials,
            expires: self.site.expires,
        };
        endpoint.authenticate(own.clone(), vec![login])?;
        loop {
            while let Some(event) = endpoint.poll_event() {
                match event {
                    Happened::Authenticated { use_path, .. } => return Ok((own, use_path.uris().to_vec())),
                    Happened::AuthFailed { error, .. } => bail!("not let in: {error}"),
                    _ => {}
                }
            }
            wire.put(|out| {
                endpoint.poll_transmit(out, usize::MAX, Instant::now());
                true
            });
            wire.exchange().await?;
            wire.payload(|bytes| {
                endpoint.receive(bytes, Instant::now());
            })?;
        }
    }
}

fn trust(site: &Site) -> anyhow::Result<ClientDomain> {
    let settings =
        ClientDomainSettings { ca_list: site.ca.clone(), ..ClientDomainSettings::new("msrp-load") };
    Ok(ClientDomain::load(&settings)?)
}

/// One connection.
pub struct Wire {
    stream: Stream,
    websocket: Option<WebSocket>,
    decoder: Decoder,
    input: BytesMut,
    output: BytesMut,
}

struct WebSocket {
    incoming: Incoming,
    /// A message is begun: what follows is its continuation.
    begun: bool,
    scratch: BytesMut,
}

impl Wire {
    /// On an open connection; `websocket`: it is one, and these bytes of it are read already.
    pub fn new(stream: Stream, websocket: Option<BytesMut>) -> Self {
        let incoming = || {
            Incoming::new(
                Role::CLIENT,
                Settings { ping_interval: None, ..Settings::default() },
                Instant::now(),
            )
        };
        let (input, websocket) = match websocket {
            None => (BytesMut::new(), None),
            Some(rest) => {
                (rest, Some(WebSocket { incoming: incoming(), begun: false, scratch: BytesMut::new() }))
            }
        };
        Self { stream, websocket, decoder: Decoder::new(Limits::default()), input, output: BytesMut::new() }
    }

    /// Bytes that wait to be written.
    pub fn waiting(&self) -> usize {
        self.output.len()
    }

    /// Where we are on it.
    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr()
    }

    /// Adds what `write` writes; it says whether an MSRP message ends with that.
    pub fn put(&mut self, write: impl FnOnce(&mut BytesMut) -> bool) {
        let Some(websocket) = &mut self.websocket else {
            write(&mut self.output);
            return;
        };
        let ends = write(&mut websocket.scratch);
        if websocket.scratch.is_empty() {
            return;
        }
        let opcode = if websocket.begun { Opcode::Continuation } else { Opcode::Binary };
        let mask = rand::random();
        frame::header(&mut self.output, ends, opcode, websocket.scratch.len() as u64, Some(mask));
        frame::apply_mask(&mut websocket.scratch, mask, 0);
        self.output.put_slice(&websocket.scratch);
        websocket.scratch.clear();
        websocket.begun = !ends;
    }

    /// Writes and reads, until either has moved.
    ///
    /// # Errors
    /// The connection is over.
    pub async fn exchange(&mut self) -> io::Result<usize> {
        self.stream.exchange(&mut self.input, &mut self.output, INPUT).await
    }

    /// Hands over what has come of MSRP, to be taken from the front.
    ///
    /// # Errors
    /// The WebSocket is over.
    pub fn payload(&mut self, take: impl FnMut(&mut BytesMut)) -> anyhow::Result<()> {
        payload(&mut self.websocket, &mut self.input, &mut self.output, take)
    }

    /// Hands over what has come, piece by piece.
    ///
    /// # Errors
    /// It is no MSRP; `take` says so; the WebSocket is over.
    pub fn events(&mut self, mut take: impl FnMut(Event) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut result = Ok(());
        let decoder = &mut self.decoder;
        payload(&mut self.websocket, &mut self.input, &mut self.output, |bytes| {
            while result.is_ok() {
                match decoder.decode(bytes) {
                    Ok(Some(event)) => result = take(event),
                    Ok(None) => return,
                    Err(error) => result = Err(error.into()),
                }
            }
        })?;
        result
    }
}

fn payload(
    websocket: &mut Option<WebSocket>,
    input: &mut BytesMut,
    output: &mut BytesMut,
    mut take: impl FnMut(&mut BytesMut),
) -> anyhow::Result<()> {
    let Some(websocket) = websocket else {
        take(input);
        return Ok(());
    };
    let flow = websocket.incoming.received(input, Instant::now(), |payload| {
        take(payload.buf);
        Flow::Read
    });
    while let Some(frame) = websocket.incoming.take_output() {
        output.put_slice(frame.as_ref());
    }
    ensure!(matches!(flow, Flow::Read), "the WebSocket is over: {flow:?}");
    Ok(())
}
