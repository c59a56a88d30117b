//! The edge as its driver sees it.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use tcp_transport::sip::{Defect, Event, Head, Message, Refused, Rewrite, SipUri};

use super::keys::Keys;
use super::numbered::Numbered;
use super::upstream::{Probe, Upstreams};

/// How SIP is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket (RFC 7118).
    Ws,
    /// WebSocket over TLS.
    Wss,
}

impl Transport {
    /// As it stands in Via (RFC 3261 §20.42, RFC 7118 §5.1).
    #[must_use]
    pub fn in_via(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Ws => "WS",
            Self::Wss => "WSS",
        }
    }

    /// Whether it is protected by TLS, as a SIPS URI demands (RFC 3261 §26.2.2, RFC 7118 §9.2).
    #[must_use]
    pub fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    /// As it stands in the `transport` parameter of a `sip` URI; `ws` is that of both kinds (RFC 7118 §5.2).
    #[must_use]
    pub fn in_uri(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws | Self::Wss => "ws",
        }
    }
}

/// How one side of the edge calls itself in messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// The transport of this side.
    pub transport: Transport,
    /// The host, an IPv6 address in brackets.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
}

/// An upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// How it is reached; its host and port, by which it is known in Route.
    pub peer: Advertised,
    /// How the edge calls itself towards it: where the upstream reaches the edge, if it must open a connection.
    pub local: Advertised,
    /// The lowest that is up is taken.
    pub priority: u16,
    /// Its share of the requests among those of the same priority, 1 or more.
    pub weight: u16,
}

/// What an [`Edge`] needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How the edge calls itself towards the clients of each listener.
    pub listeners: Vec<Advertised>,
    /// The upstreams; 65 535 at most, those before a change included.
    pub upstreams: Vec<UpstreamSettings>,
    /// What a client is told to wait for when all upstreams are down, in seconds (RFC 3261 §20.33). Default 10, the
    /// default interval of probes.
    pub retry_after: u32,
    /// Whether a double CRLF is answered. Default true, as OpenSIPS' `tcp_crlf_pingpong`.
    pub crlf_pingpong: bool,
}

/// On which side of the edge a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A client's, accepted by the listener of this index.
    Client(usize),
    /// One to, or accepted from, the upstream of this index.
    Upstream(usize),
}

/// A connection, as the edge sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its number, which no other connection of this process ever has.
    pub connection: u64,
    /// Its side.
    pub side: Side,
    /// The address of the peer: what goes into `received` and `rport`.
    pub remote: SocketAddr,
    /// The address it has on our side: by which a client may name us, whatever we call ourselves.
    pub local: Option<SocketAddr>,
    /// Whether TLS protects it: its own, or that of a proxy which has named the peer and is trusted to.
    pub secure: bool,
}

/// The connections that are open.
pub trait Flows {
    /// The open connection of this number, if it is a client's.
    fn client(&self, connection: u64) -> Option<Flow>;
}

/// Where slices are to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To this client's connection. If it is gone, the message is dropped.
    Client(u64),
    /// To this upstream.
    Upstream {
        /// Which.
        index: usize,
        /// Over this connection if it is still open, as it is a response (RFC 3261 §18.2.2).
        over: Option<u64>,
    },
}

/// Why a message could not be sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsendable {
    /// There is no connection.
    Gone,
    /// Too much waits there already.
    Full,
}

/// Why a message, or a connection, ends here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// It is malformed, and no answer can be built.
    #[error(transparent)]
    Defect(Defect),
    /// A response whose top Via is not ours.
    #[error("a response to a request that this edge did not send")]
    NotOurs,
    /// A response to a request that went out over another connection.
    #[error("a response over another connection than the request's")]
    WrongConnection,
    /// A response whose way back is gone or full.
    #[error("a response that cannot be delivered")]
    Undeliverable,
    /// A request that cannot go on and is never answered: an ACK.
    #[error("an ACK that would be refused with {0}")]
    Ack(u16),
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Write the slices there.
    Send(Destination),
    /// Write the slices to where the message came from; then close that connection if `close` says so.
    Respond {
        /// The status of the response, for the log.
        status: u16,
        /// Whether the connection cannot be understood any more.
        close: bool,
    },
    /// A CRLF to where the ping came from (RFC 5626 §3.5.1).
    Pong,
    /// A probe was answered: tell [`Upstreams::answered`].
    Probed(Probe, u16),
    /// Nothing.
    Drop(Reason),
    /// Close the connection.
    Close(Reason),
    /// The peer is alive.
    Alive,
}

/// What one connection's task keeps from message to message, so that none of them allocates.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(super) rewrite: Rewrite,
    pub(super) text: String,
    pub(super) branch: String,
}

/// The edge. See the [module](super).
#[derive(Debug)]
pub struct Edge {
    pub(super) settings: Settings,
    /// How the listeners call themselves.
    pub(super) listeners: Numbered<Advertised>,
    /// How those called themselves that went, or changed their names, when one did last: dialogs that know them by it
    /// live on, whichever connections their clients have by now.
    former: Vec<Advertised>,
    pub(super) upstreams: Numbered<Upstream>,
    pub(super) keys: Keys,
}

/// An upstream that there is, or that is going.
#[derive(Clone, Debug)]
pub(super) struct Upstream {
    pub(super) settings: UpstreamSettings,
    /// How we called ourselves towards it before: what we have left in messages leads to us.
    former: Option<Advertised>,
    /// It gets no requests any more but by the connections that are there.
    is_going: bool,
}

impl Upstream {
    fn new(settings: UpstreamSettings) -> Self {
        Self { settings, former: None, is_going: false }
    }

    /// Our names towards it.
    fn own(&self) -> impl Iterator<Item = &Advertised> {
        self.former.iter().chain([&self.settings.local])
    }
}

/// What an outcome depends on besides the message.
#[derive(Clone, Copy)]
pub(super) struct World<'a> {
    pub(super) from: &'a Flow,
    pub(super) flows: &'a dyn Flows,
    pub(super) upstreams: &'a Upstreams,
}

impl Edge {
    /// An edge with these settings.
    #[must_use]
    pub fn new(settings: Settings, keys: Keys) -> Self {
        let listeners = Numbered::new(settings.listeners.iter().cloned());
        let upstreams = Numbered::new(settings.upstreams.iter().cloned().map(Upstream::new));
        Self { settings, listeners, former: Vec::new(), upstreams, keys }
    }

    /// This edge with other settings. What is there keeps its number, by how a listener calls itself and how an upstream
    /// is reached. A listener that is gone is known until the next change, as it may accept a moment longer, and for as
    /// long as it is `in_use`; an upstream until it is [forgotten](Self::without_upstream). The names of listeners that
    /// are gone lead here until others go.
    #[must_use]
    pub fn changed(&self, settings: Settings, keys: Keys, in_use: impl Fn(usize) -> bool) -> Self {
        let (mut listeners, mut upstreams) = (self.listeners.clone(), self.upstreams.clone());
        let before = &self.settings.listeners;
        listeners
            .retain(|number, own| settings.listeners.contains(own) || before.contains(own) || in_use(number));
        let mut former: Vec<_> =
            before.iter().filter(|own| !settings.listeners.contains(own)).cloned().collect();
        if former.is_empty() {
            former.clone_from(&self.former);
        }
        // Who is an upstream by now has the name.
        former.retain(|own| {
            !settings.upstreams.iter().any(|upstream| upstream.peer.is(own.host.as_bytes(), Some(own.port)))
        });
        for own in &settings.listeners {
            let wanted = settings.listeners.iter().filter(|other| *other == own).count();
            if listeners.iter().filter(|(_, known)| *known == own).count() < wanted {
                listeners.add(own.clone());
            }
        }
        for (_, upstream) in upstreams.iter_mut() {
            upstream.is_going = true;
        }
        for new in &settings.upstreams {
            if let Some((_, known)) = upstreams.iter_mut().find(|(_, known)| known.settings.peer == new.peer)
            {
                let before = std::mem::replace(&mut known.settings, new.clone());
                known.is_going = false;
                if before.local != new.local {
                    known.former = Some(before.local);
                }
                continue;
            }
            upstreams.add(Upstream::new(new.clone()));
        }
        Self { settings, listeners, former, upstreams, keys }
    }

    /// This edge without an upstream that nothing leads to any more.
    #[must_use]
    pub fn without_upstream(&self, number: usize) -> Self {
        let mut upstreams = self.upstreams.clone();
        upstreams.retain(|known, _| known != number);
        let (settings, listeners, former) =
            (self.settings.clone(), self.listeners.clone(), self.former.clone());
        Self { settings, listeners, former, upstreams, keys: self.keys.clone() }
    }

    /// Whether these upstreams can be told from all that there were.
    #[must_use]
    pub fn has_numbers_for(&self, upstreams: &[UpstreamSettings]) -> bool {
        let is_known =
            |new: &UpstreamSettings| self.upstreams.iter().any(|(_, old)| old.settings.peer == new.peer);
        let more = upstreams.iter().filter(|new| !is_known(new)).count();
        self.upstreams.next() + more <= usize::from(u16::MAX)
    }

    /// The numbers of the listeners, in the order of the settings.
    #[must_use]
    pub fn listener_numbers(&self) -> Vec<usize> {
        let mut found: Vec<usize> = Vec::new();
        for own in &self.settings.listeners {
            let mut known = self.listeners.iter();
            found.extend(
                known
                    .find(|(number, known)| *known == own && !found.contains(number))
                    .map(|(number, _)| number),
            );
        }
        found
    }

    /// The numbers of the upstreams, in the order of the settings.
    #[must_use]
    pub fn upstream_numbers(&self) -> Vec<usize> {
        let number = |new: &UpstreamSettings| {
            let mut known = self.upstreams.iter();
            known.find(|(_, known)| known.settings.peer == new.peer).map(|(number, _)| number)
        };
        self.settings.upstreams.iter().filter_map(number).collect()
    }

    /// Whether it knows a listener of this number.
    #[must_use]
    pub fn has_listener(&self, number: usize) -> bool {
        self.listeners.get(number).is_some()
    }

    /// What tokens are signed with.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// What it was made with, or changed to.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Decides what becomes of what the framer of `from` has found. What is to be written, if anything, is appended
    /// to `out`.
    pub fn received(
        &self,
        event: &Event,
        from: &Flow,
        flows: &dyn Flows,
        upstreams: &Upstreams,
        scratch: &mut Scratch,
        out: &mut Vec<Bytes>,
    ) -> Outcome {
        match event {
            Event::Ping if self.settings.crlf_pingpong => Outcome::Pong,
            Event::Ping | Event::Pong => Outcome::Alive,
            Event::Refused(refused) => self.refused(refused, from, scratch, out),
            Event::Message(message) => {
                let world = World { from, flows, upstreams };
                if message.head.method().is_some() {
                    self.request(message, world, scratch, out)
                } else {
                    self.response(message, from, scratch, out)
                }
            }
        }
    }

    /// The answer to a request that could not be sent on: 430 (RFC 5626 §11.5) if the client's connection is gone
    /// meanwhile, 480 if the client does not read, 503 if it is an upstream that does not. A response is dropped.
    pub fn unsendable(
        &self,
        message: &Message,
        from: &Flow,
        to: Destination,
        why: Unsendable,
        scratch: &mut Scratch,
        out: &mut Vec<Bytes>,
    ) -> Outcome {
        match (to, why) {
            _ if message.head.method().is_none() => Outcome::Drop(Reason::Undeliverable),
            (Destination::Client(_), Unsendable::Gone) => {
                self.respond(&message.head, from, 430, "Flow Failed", scratch, out)
            }
            // Not 503: that would say of the edge what is true of one client (RFC 3261 §21.5.4).
            (Destination::Client(_), Unsendable::Full) => {
                self.respond(&message.head, from, 480, "Temporarily Unavailable", scratch, out)
            }
            _ => self.unavailable(&message.head, from, scratch, out),
        }
    }

    fn refused(
        &self,
        refused: &Refused,
        from: &Flow,
        scratch: &mut Scratch,
        out: &mut Vec<Bytes>,
    ) -> Outcome {
        let Refused { head, defect, last } = refused;
        let reason = Reason::Defect(*defect);
        // Lines that end in other ways than lines do would be given back as they are, and who knows as what.
        if head.is_answerable() && *defect != Defect::BareLineBreak {
            let (status, phrase) = defect.status();
            return match self.respond(head, from, status, phrase, scratch, out) {
                Outcome::Respond { status, .. } => Outcome::Respond { status, close: *last },
                other => other,
            };
        }
        // An upstream serves many: what one of them got through it does not end its connection. Nor does a bad
        // response or ACK, which nobody would have answered, end a client's.
        let forgivable =
            matches!(from.side, Side::Upstream(_)) || head.method().is_none_or(|method| method == b"ACK");
        if forgivable && !last { Outcome::Drop(reason) } else { Outcome::Close(reason) }
    }

    /// Whether a Via's host and port are of this edge, which writes both.
    pub(super) fn is_own_via(&self, host: &[u8], port: Option<u16>) -> bool {
        self.own().any(|own| own.is(host, port))
    }

    /// Whether a URI leads to this edge. Without a port it leads to the default port of its scheme and transport
    /// (RFC 3261 §19.1.2): on the same host, another one may be somebody else's. A client whose outbound proxy is an
    /// address puts that into Route: where its connection ends is ours too (RFC 3261 §16.4).
    pub(super) fn is_own(&self, uri: &SipUri<'_>, from: &Flow) -> bool {
        let ports = match uri.port {
            Some(port) => [port; 2],
            None => default_ports(uri),
        };
        let is_local = |local: SocketAddr| {
            ports.contains(&local.port()) && ip_literal(uri.host) == Some(local.ip().to_canonical())
        };
        let is_own = |own: &Advertised| {
            ports.contains(&own.port) && own.host.as_bytes().eq_ignore_ascii_case(uri.host)
        };
        self.own().any(is_own) || from.local.is_some_and(is_local)
    }

    /// The upstream with this host and port. Without a port it is by its host alone: where it leads is for the upstream to
    /// say, as all that a client sends.
    pub(super) fn upstream_at(&self, host: &[u8], port: Option<u16>) -> Option<usize> {
        let mut there = self.there();
        there.find(|(_, upstream)| upstream.peer.is(host, port)).map(|(number, _)| number)
    }

    /// The upstreams that take requests.
    pub(super) fn there(&self) -> impl Iterator<Item = (usize, &UpstreamSettings)> {
        let there = self.upstreams.iter().filter(|(_, upstream)| !upstream.is_going);
        there.map(|(number, upstream)| (number, &upstream.settings))
    }

    /// All our names.
    fn own(&self) -> impl Iterator<Item = &Advertised> {
        let upstreams = self.upstreams.iter().flat_map(|(_, upstream)| upstream.own());
        self.listeners.iter().map(|(_, own)| own).chain(&self.former).chain(upstreams)
    }

    /// Whether a head has a Via of this edge whose branch ends with `loop_hash`.
    pub(super) fn has_been_here(&self, head: &Head, loop_hash: &[u8]) -> bool {
        use tcp_transport::sip::{Name, Via};
        head.values(Name::Via).filter_map(Result::ok).any(|(range, _)| {
            Via::parse(head, range).is_ok_and(|via| {
                self.is_own_via(via.host(), via.port())
                    && via.branch().is_some_and(|it| it.ends_with(loop_hash))
            })
        })
    }
}

impl Advertised {
    /// Whether this is its host, and its port if there is one.
    fn is(&self, host: &[u8], port: Option<u16>) -> bool {
        port.is_none_or(|port| port == self.port) && self.host.as_bytes().eq_ignore_ascii_case(host)
    }
}

/// Where a URI without a port leads. JsSIP writes `sip:host;transport=ws` for `wss://host` too, whose port is 443.
fn default_ports(uri: &SipUri<'_>) -> [u16; 2] {
    let transport = uri.param("transport").unwrap_or_default();
    match (uri.secure, transport) {
        (true, ws) if ws.eq_ignore_ascii_case(b"ws") => [443; 2],
        (false, ws) if ws.eq_ignore_ascii_case(b"ws") => [80, 443],
        (false, wss) if wss.eq_ignore_ascii_case(b"wss") => [443; 2],
        (false, tls) if !tls.eq_ignore_ascii_case(b"tls") => [5060; 2],
        _ => [5061; 2],
    }
}

/// The address that a URI's host is, an IPv6 one in brackets.
fn ip_literal(host: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(host).ok()?;
    let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    text.parse().ok().map(|ip: IpAddr| ip.to_canonical())
}

/// As in `received`, which has no brackets (RFC 3261 §25.1).
pub(super) fn canonical(address: SocketAddr) -> IpAddr {
    address.ip().to_canonical()
}
