//! Requests: which way they go, and what is written into them (RFC 3261 §16.3 to §16.6).

use std::fmt::Write as _;

use bytes::Bytes;
use smallvec::SmallVec;
use tcp_transport::sip::{Address, Head, Message, Name, SipUri, Start, Via, scheme};

use super::answer::write_source;
use super::edge::{Advertised, Destination, Edge, Flow, Outcome, Scratch, Side, Transport, Upstream, World};
use super::keys::{BadToken, Came, Went, write_hex};
use super::route::Routes;

/// The Via parameter that holds the return token.
pub(super) const RETURN_PARAM: &str = "rt";

/// Where a branch by RFC 3261 §8.1.1.7 begins.
const COOKIE: &[u8] = b"z9hG4bK";

/// The schemes a Request-URI may have. An edge need not understand it, the upstream does; but what is none of these
/// is no address of telephony (RFC 3261 §16.3 step 2). `urn` is that of emergency services (RFC 5031).
const SCHEMES: [&[u8]; 4] = [b"sip", b"sips", b"tel", b"urn"];

/// Hops a request may still take if it does not say (RFC 3261 §16.6 step 3).
const MAX_FORWARDS: u8 = 70;

/// Requests that make no dialog and refresh none; the edge need not be on the way of what follows them.
const NO_RECORD: [&[u8]; 8] =
    [b"REGISTER", b"ACK", b"CANCEL", b"BYE", b"MESSAGE", b"OPTIONS", b"PUBLISH", b"INFO"];

/// Where a request goes.
struct Way {
    to: Destination,
    went: Went,
    /// The client's connection, on whichever side it is.
    client: u64,
    /// How the edge calls itself to the sender, and to the receiver.
    incoming: usize,
    /// As above: an index of listeners or upstreams, by side.
    outgoing: usize,
    /// Whether it is for a SIPS URI; then both sides are protected by TLS.
    sips: bool,
}

/// What is said to a request that goes nowhere.
enum Refusal {
    Status(u16, &'static str),
    Capabilities,
    BadExtension,
    Unavailable,
    SipsNotAllowed,
}

impl Edge {
    pub(super) fn request(
        &self,
        message: &Message,
        world: World<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<Bytes>,
    ) -> Outcome {
        let (head, from) = (&message.head, world.from);
        let routes = self.routes(head, world.from);
        let decided = self
            .validate(head)
            .and_then(|()| {
                self.write_branch(head, from, &mut scratch.branch);
                // The part after the dot says where it goes; a request that has been here with it goes round.
                let loop_hash =
                    scratch.branch.rfind('.').map_or(&[][..], |dot| &scratch.branch.as_bytes()[dot..]);
                if self.has_been_here(head, loop_hash) {
                    return Err(Refusal::Status(482, "Loop Detected"));
                }
                Ok(())
            })
            .and_then(|()| self.way(head, &routes, world));
        match decided {
            Ok(way) => self.forward(message, &routes, &way, from, scratch, out),
            Err(Refusal::Status(status, phrase)) => self.respond(head, from, status, phrase, scratch, out),
            Err(Refusal::Capabilities) => self.capabilities(head, from, scratch, out),
            Err(Refusal::BadExtension) => self.bad_extension(head, from, scratch, out),
            Err(Refusal::SipsNotAllowed) => self.sips_not_allowed(head, from, scratch, out),
            Err(Refusal::Unavailable) => self.unavailable(head, from, scratch, out),
        }
    }

    /// What RFC 3261 §16.3 has checked before all else; the framer has checked the syntax.
    fn validate(&self, head: &Head) -> Result<(), Refusal> {
        let Start::Request { method, uri } = head.start() else { return Ok(()) };
        let scheme = scheme(uri).unwrap_or_default();
        if !SCHEMES.iter().any(|known| known.eq_ignore_ascii_case(scheme)) {
            return Err(Refusal::Status(416, "Unsupported URI Scheme"));
        }
        // Header fields have no place in a Request-URI (RFC 3261 §19.1.1).
        let sip = scheme[..3].eq_ignore_ascii_case(b"sip");
        if sip && SipUri::parse(uri).map_or(true, |uri| uri.headers.is_some()) {
            return Err(Refusal::Status(400, "Bad Request"));
        }
        if head.max_forwards() == Some(0) {
            return Err(Refusal::Status(483, "Too Many Hops"));
        }
        // ACK and CANCEL have no extensions of their own (RFC 3261 §8.2.2.3).
        if head.field(Name::ProxyRequire).is_some() && method != b"ACK" && method != b"CANCEL" {
            return Err(Refusal::BadExtension);
        }
        Ok(())
    }

    fn way(&self, head: &Head, routes: &Routes<'_>, world: World<'_>) -> Result<Way, Refusal> {
        const FORGED: Refusal = Refusal::Status(403, "Forbidden");
        let Start::Request { method, uri } = head.start() else { return Err(FORGED) };
        let token = routes.token.map(|token| self.keys.read_flow(token));
        if token == Some(Err(BadToken::Forged)) {
            return Err(FORGED);
        }
        let to_us = || {
            routes.ends_here()
                && SipUri::parse(uri).is_ok_and(|uri| uri.user.is_none() && self.is_own(&uri, world.from))
        };
        if method == b"OPTIONS" && token.is_none() && to_us() {
            return Err(Refusal::Capabilities);
        }
        let sips = self.is_sips(head, routes);
        // By the connection, not by what its listener is: somebody may have come around the proxy in front of it.
        let is_plain = |flow: &Flow| sips && !flow.secure;
        let plain_upstream = |index: usize| {
            let is_secure = |upstream: &Upstream| upstream.settings.peer.transport.is_secure();
            sips && !self.upstreams.get(index).is_some_and(is_secure)
        };
        match world.from.side {
            Side::Client(listener) => {
                let named = self.next_upstream(head, routes);
                if routes.is_foreign() && named.is_none() {
                    return Err(FORGED);
                }
                // What comes back would not be protected either.
                if is_plain(world.from) || self.there().all(|(index, _)| plain_upstream(index)) {
                    return Err(Refusal::SipsNotAllowed);
                }
                let call_id = head.value(Name::CallId).unwrap_or_default();
                let index = world.upstreams.choose(call_id, named, |index| !plain_upstream(index));
                let index = index.ok_or(Refusal::Unavailable)?;
                Ok(Way {
                    to: Destination::Upstream { index, over: None },
                    went: Went::Upstream,
                    client: world.from.connection,
                    incoming: listener,
                    outgoing: index,
                    sips,
                })
            }
            Side::Upstream(index) => {
                let connection = match token {
                    Some(Ok(connection)) => connection,
                    Some(Err(_)) => return Err(Refusal::Status(430, "Flow Failed")),
                    None if routes.is_foreign() => return Err(FORGED),
                    None => return Err(Refusal::Status(404, "Not Found")),
                };
                const DEAD: Refusal = Refusal::Status(430, "Flow Failed");
                let client = world.flows.client(connection).ok_or(DEAD)?;
                let Side::Client(listener) = client.side else { return Err(DEAD) };
                if is_plain(&client) || is_plain(world.from) || plain_upstream(index) {
                    return Err(Refusal::SipsNotAllowed);
                }
                Ok(Way {
                    to: Destination::Client(connection),
                    went: Went::Client(connection),
                    client: connection,
                    incoming: index,
                    outgoing: listener,
                    sips,
                })
            }
        }
    }

    fn forward(
        &self,
        message: &Message,
        routes: &Routes<'_>,
        way: &Way,
        from: &Flow,
        scratch: &mut Scratch,
        out: &mut Vec<Bytes>,
    ) -> Outcome {
        let head = &message.head;
        let method = head.method().unwrap_or_default();
        let from_client = matches!(from.side, Side::Client(_));
        let listener = if from_client { way.incoming } else { way.outgoing };
        let upstream = if from_client { way.outgoing } else { way.incoming };
        let sides = (self.listeners.get(listener), self.upstreams.get(upstream));
        let (Some(client_side), Some(upstream_side)) =
            (sides.0, sides.1.map(|upstream| &upstream.settings.local))
        else {
            return self.unavailable(head, from, scratch, out);
        };
        let (towards, backwards) =
            if from_client { (upstream_side, client_side) } else { (client_side, upstream_side) };
        let came = match from.side {
            Side::Client(_) => Came::Client(from.connection),
            Side::Upstream(index) => {
                Came::Upstream(u16::try_from(index).unwrap_or(u16::MAX), from.connection)
            }
        };

        let Scratch { rewrite, text, branch } = scratch;
        rewrite.clear();
        write_source(head, from, text, rewrite);
        routes.remove_own(head, rewrite);
        match (head.field(Name::MaxForwards), head.max_forwards()) {
            (Some(field), Some(hops)) => {
                text.clear();
                let _ = write!(text, "{}", hops.saturating_sub(1));
                rewrite.replace(field.value(), text.as_bytes());
            }
            _ => {
                text.clear();
                let _ = write!(text, "Max-Forwards: {MAX_FORWARDS}\r\n");
                rewrite.insert(head.fields_end(), text.as_bytes());
            }
        }

        text.clear();
        self.write_via(towards, came, way.went, branch, text);
        if !NO_RECORD.contains(&method) {
            // On top what the next hop sees of us, below it what the last one sees (RFC 5658 §5).
            self.write_flow_uri("Record-Route", towards, way, "", text);
            if towards != backwards {
                self.write_flow_uri("Record-Route", backwards, way, "", text);
            }
        } else if method == b"REGISTER" && from_client {
            // The first hop says so by `ob` (RFC 5626 §5.1).
            let ob = if head.values(Name::Via).nth(1).is_none() { ";ob" } else { "" };
            self.write_flow_uri("Path", towards, way, ob, text);
        }
        // Above every field there is: a Record-Route or Path of the hop before us may stand above its Via
        // (RFC 3261 §16.6 item 4).
        rewrite.insert(head.fields_start(), text.as_bytes());
        self.write_length(message, scratch);
        scratch.rewrite.apply(head, out);
        if !message.body.is_empty() {
            out.push(message.body.clone());
        }
        Outcome::Send(way.to)
    }

    /// The branch: see the [module](super). It is the same for all that belongs to one transaction, whichever
    /// connection it comes over.
    fn write_branch(&self, head: &Head, from: &Flow, branch: &mut String) {
        let Start::Request { uri, .. } = head.start() else { return };
        let via = head.top_via();
        let received = via.as_ref().and_then(Via::branch).filter(|branch| branch.starts_with(COOKIE));
        // Without the cookie the branch may be anything: then the whole of the Via counts (RFC 3261 §16.11).
        let whole = via.as_ref().map_or(&[][..], |via| &head[via.range()]);
        let sent_by = via.as_ref().map_or(&[][..], |via| via.host());
        let port = via.as_ref().and_then(Via::port).unwrap_or(0).to_be_bytes();
        let call_id = head.value(Name::CallId).unwrap_or_default();
        let sender = head.address(Name::From);
        let tag = sender.as_ref().and_then(Address::tag).unwrap_or_default();
        let number = head.cseq().map_or(0, |cseq| cseq.number).to_be_bytes();
        let side = match from.side {
            Side::Client(_) => &b"client"[..],
            Side::Upstream(_) => b"upstream",
        };
        let transaction = [received.unwrap_or(whole), sent_by, &port, call_id, tag, &number, uri, side];
        let routes = head.values(Name::Route).filter_map(Result::ok).map(|(range, _)| &head[range]);
        let direction: SmallVec<[&[u8]; 16]> =
            [call_id, tag, &number, uri, side].into_iter().chain(routes).collect();
        branch.clear();
        branch.push_str("z9hG4bK");
        write_hex(&self.keys.hash("transaction", transaction)[..12], branch);
        branch.push('.');
        write_hex(&self.keys.hash("loop", direction)[..8], branch);
    }

    /// Appends our Via, as `own` calls itself.
    pub(super) fn write_via(
        &self,
        own: &Advertised,
        came: Came,
        went: Went,
        branch: &str,
        text: &mut String,
    ) {
        let Advertised { transport, host, port } = own;
        let _ =
            write!(text, "Via: SIP/2.0/{} {host}:{port};branch={branch};{RETURN_PARAM}=", transport.in_via());
        self.keys.write_return(came, went, branch.as_bytes(), text);
        if went == Went::Upstream {
            text.push_str(";alias");
        }
        text.push_str("\r\n");
    }

    /// Appends a field whose URI leads to `own` and from there to the client's connection: a SIPS URI in a request for
    /// one (RFC 3261 §16.6 step 4), where `transport=tls` has no place (§26.2.2).
    fn write_flow_uri(&self, name: &str, own: &Advertised, way: &Way, params: &str, text: &mut String) {
        let Advertised { transport, host, port } = own;
        let _ = write!(text, "{name}: <{}:", if way.sips { "sips" } else { "sip" });
        self.keys.write_flow(way.client, text);
        let transport = match transport {
            Transport::Tls if way.sips => "tcp",
            transport => transport.in_uri(),
        };
        let _ = write!(text, "@{host}:{port};transport={transport};lr{params}>\r\n");
    }

    /// Adds Content-Length, which a message over WebSocket need not have and one over a stream must (RFC 7118 §5,
    /// RFC 3261 §18.3).
    pub(super) fn write_length(&self, message: &Message, scratch: &mut Scratch) {
        let Scratch { rewrite, text, .. } = scratch;
        if message.head.field(Name::ContentLength).is_none() {
            text.clear();
            let _ = write!(text, "Content-Length: {}\r\n", message.body.len());
            rewrite.insert(message.head.fields_end(), text.as_bytes());
        }
    }
}
