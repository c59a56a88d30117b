//! The SIP edge: a stateless proxy (RFC 3261 §16.11) between clients, behind NAT or in browsers, and the operator's
//! SIP proxies, the *upstreams*. Without a socket, a clock or randomness of its own.
//!
//! # How it is driven
//!
//! Each connection has a [`tcp_transport::sip::Framer`], a [`Flow`] that says what it is, and a [`Scratch`]. What the
//! framer finds goes to [`Edge::received`], which says in an [`Outcome`] what to do, with the slices to write in a
//! vector of the caller's. One [`Edge`] serves all connections; nothing in it changes: other settings make another one of it
//! ([`Edge::changed`]). Which upstream is alive is
//! kept by [`Upstreams`], which is told of time and of answers; which connections are open is asked of [`Flows`].
//!
//! # What becomes of a message
//!
//! | what arrives | from a client | from an upstream |
//! |---|---|---|
//! | OPTIONS for the edge itself | 200 | 200 |
//! | request, first Route is ours or there is none | to an upstream | along the flow token in it |
//! | request, first Route is an upstream's | to that upstream | 403 |
//! | request, first Route is somebody else's | 403 | 403 |
//! | request, first Route is ours with a forged token | 403 | 403 |
//! | request, its token is of a connection that is gone, or of another process | to an upstream | 430 |
//! | request for a SIPS URI, and one of the two sides is without TLS | 480 | 480 |
//! | request without a token | to an upstream | 404 |
//! | response to a request that went out over this connection | to where the request came from | the same |
//! | any other response | dropped | dropped |
//! | malformed request | 400 (413, 505, 513) where that can be built, else close | the same, else dropped |
//! | what hides where the next message begins | close | close, and a new connection at once |
//!
//! A URI is ours by host and port; one without a port leads to the default port of its scheme and transport.
//!
//! # Never an open proxy
//!
//! RFC 3261 §16.6 would have a proxy send a request to whatever its Route or Request-URI names. An edge that did so
//! for everybody could be used by anybody to reach anything, so what a client sends goes to a configured upstream and
//! nowhere else; a Route that asks for another next hop is refused with 403 rather than ignored, since the request
//! would not go where its sender wants it. What an upstream sends goes along a token this edge has signed and nowhere
//! else. A response follows what this edge has written and signed in its own Via, never the Via below it, and only if
//! it comes over the connection to which the request went.
//!
//! # The two tokens
//!
//! A *flow token* (RFC 5626 §5.2) names a client's connection. It is the user of the URIs the edge leaves in Path and
//! Record-Route, so that later requests find that connection, whatever Contact and Via say: those of browsers end in
//! `.invalid` (RFC 7118 §5). The *return token* is a parameter of the edge's Via and names the connections that the
//! request came from and went to. Both are signed by HMAC-SHA-256 with the flow secret and hold the number of this
//! process, since connection numbers begin anew with each. After a change of the secret tokens that were signed with the one
//! before are still taken; branches and tags are by the secret of the start, as a CANCEL has to match its INVITE. A secret that was drawn at start dies with its process; then a
//! token that names another process is taken for a dead one (430) rather than for a forged one (403), so that a
//! registrar forgets the flow.
//!
//! A token in a client's own request proves only that the Route is one of ours. It goes upstream even when the token's
//! flow is gone, or is another's: so a client that has come back on a new connection can end its dialogs, and from
//! one client to another there is no way but through an upstream.
//!
//! # How an upstream finds the edge
//!
//! The edge opens the connections to the upstreams. Its Via towards them says `alias` (RFC 5923), by which Kamailio
//! and OpenSIPS, with `tcp_accept_aliases`, send what is for the edge's address over that connection. One that opens its
//! own connection is known by certificate or address (`relay::server::sip`), and is an upstream there too.
//!
//! # SIPS
//!
//! A request whose Request-URI, or next Route, is a SIPS URI goes over TLS alone (RFC 3261 §26.2.2): to the upstreams that
//! are reached so, to clients that came so, and only from them, as what follows in the dialog goes the other way. What
//! the edge records of itself is a SIPS URI then (RFC 3261 §16.6 step 4), in Path too.
//!
//! # The branch
//!
//! `z9hG4bK`, a hash over what a request shares with its retransmissions, its CANCEL and its ACK, a dot, and a hash
//! over what decides where it goes (RFC 3261 §16.6 step 8, §16.11): a request that comes again with the latter in one of
//! its Vias is in a loop.

mod answer;
mod edge;
mod keys;
mod numbered;
mod request;
mod response;
mod route;
#[cfg(test)]
mod tests;
mod upstream;

pub use self::edge::{
    Advertised, Destination, Edge, Flow, Flows, Outcome, Reason, Scratch, Settings, Side, Transport,
    Unsendable, UpstreamSettings,
};
pub use self::keys::{Keys, MIN_SECRET_LEN, ShortSecret};
pub use self::upstream::{Change, HealthSettings, Probe, Upstreams};
