//! Who may open a WebSocket, and what the opening handshake proves about them (RFC 7977 §4.1, §5.3.1, §7).
//!
//! In this order: the path (404), the host (421), the origin (403), the subprotocol (400), and who it is: a token,
//! a client certificate, or Digest (401). Where the handshake proves nothing, and need not, AUTH is challenged as
//! on any connection.

use std::sync::Arc;

use tcp_transport::tls::{TlsInfo, Verification};
use tcp_transport::ws::{self, Answer, HeadLimits, Headers, Request};
use tracing::{debug, info, warn};

use crate::config::{CertificateUser, Host, HostPort, TokenAuth, WebSocket};
use crate::msrp::HandshakeDenial;

mod token;

/// The subprotocol that carries MSRP (RFC 7977 §4).
pub(super) const MSRP: &str = "msrp";

/// The limits of what follows the handshake.
pub(super) fn session(settings: &WebSocket) -> ws::Settings {
    ws::Settings {
        max_frame: settings.max_frame_size as u64,
        max_message: settings.max_message_size as u64,
        max_msg_chunks: settings.max_msg_chunks.and_then(|most| u32::try_from(most).ok()?.try_into().ok()),
        ping_interval: settings.ping_interval,
        pong_timeout: settings.pong_timeout,
    }
}

/// The limits of the handshake.
pub(super) fn handshake(settings: &WebSocket) -> ws::ServerSettings {
    ws::ServerSettings {
        handshake_timeout: settings.handshake_timeout,
        head: HeadLimits { max_bytes: settings.handshake_size, ..HeadLimits::default() },
    }
}

/// The answer to an opening handshake from `peer`. `digest` says who sent a request (method, target, Authorization), or
/// gives the challenges to answer. `has_line` is whether the log may have a line if it is refused.
pub(super) async fn answer<F: Future<Output = Result<Arc<str>, HandshakeDenial>>>(
    settings: &WebSocket,
    served: impl Iterator<Item = &'static str> + Clone,
    digest: impl FnOnce(String, String, Option<String>) -> F,
    request: &Request<'_>,
    tls: Option<&TlsInfo>,
    peer: &str,
    has_line: impl FnOnce() -> bool,
) -> Answer {
    let protocol = match admit(settings, served, request) {
        Ok(protocol) => protocol,
        Err((answer, reason)) => {
            if has_line() {
                warn!(peer, reason, path = request.path(), origin = request.origin(), "WebSocket refused");
            } else {
                debug!(peer, reason, "WebSocket refused");
            }
            return answer;
        }
    };
    let mut headers = Headers::new();
    let mut refused = Vec::new();
    let principal = match identify(settings, request, tls, peer) {
        None if settings.auth.digest => {
            let target = match request.query() {
                Some(query) => format!("{}?{query}", request.path()),
                None => request.path().to_owned(),
            };
            let authorization = request.header("Authorization").map(str::to_owned);
            match digest(request.method().to_owned(), target, authorization).await {
                Ok(user) => Some(user),
                Err(HandshakeDenial::Challenge(challenges)) => {
                    refused = challenges;
                    None
                }
                Err(HandshakeDenial::Unavailable | HandshakeDenial::Later(_)) => {
                    return Answer::refuse(503, "Who you are cannot be found out now.\n");
                }
            }
        }
        known => known,
    };
    if let Some(origin) = request.origin() {
        // Text that came in a header field can go out in one.
        let _ = headers.add("Access-Control-Allow-Origin", origin);
        let _ = headers.add("Vary", "Origin");
    }
    if !refused.is_empty() {
        for challenge in &refused {
            let _ = headers.add("WWW-Authenticate", challenge);
        }
        return Answer::Refuse { status: 401, headers, body: "Who are you?\n".into() };
    }
    Answer::Accept { protocol: Some(protocol.to_owned()), headers, principal }
}

/// The subprotocol, if anybody may open a WebSocket this way: the first of the client's that is served here. Else the
/// answer, and why for the log.
fn admit(
    settings: &WebSocket,
    served: impl Iterator<Item = &'static str> + Clone,
    request: &Request<'_>,
) -> Result<&'static str, (Answer, &'static str)> {
    let refuse = |status, text: &'static str, reason| Err((Answer::refuse(status, text), reason));
    if request.path() != settings.path {
        return refuse(404, "There is no WebSocket at this path.\n", "an unknown path");
    }
    if let Some(hosts) = &settings.allow_hosts
        && !request.host().is_some_and(|host| is_one_of(host, hosts))
    {
        return refuse(421, "This host is not served here.\n", "a host that is not allowed");
    }
    let mut origins = request.headers("Origin");
    match (origins.next(), origins.next()) {
        (Some(_), Some(_)) => return refuse(400, "There can be one Origin.\n", "several origins"),
        (None, _) if settings.require_origin => {
            return refuse(403, "An Origin is required.\n", "no origin");
        }
        (Some(origin), None) => {
            let allowed =
                |list: &Vec<crate::config::Origin>| list.iter().any(|allowed| allowed.matches(origin));
            if !settings.allow_origins.as_ref().is_none_or(allowed) {
                return refuse(403, "This origin is not allowed.\n", "an origin that is not allowed");
            }
        }
        (None, _) => {}
    }
    let mut wanted = request.protocols();
    if let Some(protocol) = wanted.find_map(|wanted| served.clone().find(|served| *served == wanted)) {
        return Ok(protocol);
    }
    let text = format!("The subprotocol must be {}.\n", served.collect::<Vec<_>>().join(" or "));
    Err((Answer::refuse(400, text), "no subprotocol served here"))
}

fn is_one_of(host: &str, hosts: &[Host]) -> bool {
    let Ok(HostPort { host, .. }) = host.parse() else { return false };
    hosts.iter().any(|allowed| match (allowed, &host) {
        (Host::Name(allowed), Host::Name(host)) => allowed.eq_ignore_ascii_case(host),
        (allowed, host) => allowed == host,
    })
}

/// Who it is by what came along: a token or a certificate.
fn identify(
    settings: &WebSocket,
    request: &Request<'_>,
    tls: Option<&TlsInfo>,
    peer: &str,
) -> Option<Arc<str>> {
    if let Some(settings) = &settings.auth.token {
        let mut failed = None;
        for token in tokens(settings, request).into_iter().flatten() {
            match token::user(settings, token) {
                Ok(user) => return Some(user.into()),
                Err(reason) => failed = Some(reason),
            }
        }
        // One line for a handshake, and none where another token is good: addresses are banned for it.
        if let Some(reason) = failed {
            warn!(peer, reason, "AUTH failed: the token of the WebSocket handshake");
        }
    }
    let facts =
        tls.and_then(TlsInfo::peer_facts).filter(|facts| facts.verification == Verification::Verified);
    let (name, facts) = (settings.auth.client_certificate?, facts?);
    let certificate = &facts.certificate;
    let only = |names: &[String]| if let [name] = names { Some(name.clone()) } else { None };
    let user = match name {
        CertificateUser::CommonName => certificate.subject.common_name.clone(),
        CertificateUser::Email => only(&certificate.emails),
        CertificateUser::DnsName => only(&certificate.dns_names),
    };
    // No user name has control characters (see `Peer::principal`).
    let user = user.filter(|user| !user.contains(char::is_control));
    if user.is_none() {
        info!(
            peer,
            ?name,
            "the client certificate does not have exactly one such name: AUTH will be challenged"
        );
    }
    user.map(Into::into)
}

/// The tokens in the cookie and the query, in that order. An outdated cookie does not hide a good query.
fn tokens<'a>(settings: &TokenAuth, request: &Request<'a>) -> [Option<&'a str>; 2] {
    let value_in = |pairs: &'a str, separator: char, name: &str| {
        let mut pairs = pairs.split(separator).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value.trim_matches('"'))
    };
    let cookie = settings.cookie.as_ref().and_then(|name| {
        let mut cookies = request.headers("Cookie").filter_map(|cookies| value_in(cookies, ';', name));
        cookies.next()
    });
    let query = || value_in(request.query()?, '&', settings.query.as_ref()?);
    [cookie, query()]
}

#[cfg(test)]
mod tests;
