//! Responses of the edge itself, built without state (RFC 3261 §8.2.6, §8.2.7): from the lines of the request.

use std::fmt::Write as _;

use bytes::Bytes;
use tcp_transport::sip::{Head, Name};

use super::edge::{Edge, Flow, Outcome, Reason, Scratch, Side};
use super::keys::write_hex;
use super::upstream::Probe;

/// What of a request goes into its response (RFC 3261 §8.2.6.2).
const KEPT: [Name; 5] = [Name::Via, Name::From, Name::To, Name::CallId, Name::CSeq];

impl Edge {
    /// A response without further fields.
    pub(super) fn respond(
        &self,
        head: &Head,
        from: &Flow,
        status: u16,
        phrase: &str,
        scratch: &mut Scratch,
        out: &mut Vec<Bytes>,
    ) -> Outcome {
        self.respond_with(head, from, status, phrase, "", scratch, out)
    }

    /// 503: all upstreams are down.
    pub(super) fn unavailable(
        &self,
        head: &Head,
        from: &Flow,
        scratch: &mut Scratch,
        out: &mut Vec<Bytes>,
    ) -> Outcome {
        let fields = format!("Retry-After: {}\r\n", self.settings.retry_after);
        self.respond_with(head, from, 503, "Service Unavailable", &fields, scratch, out)
    }

    /// 480: a SIPS request came, or would go on, without TLS. 416 would say that the scheme is not known here; the
    /// warning says what it is (RFC 5630).
    pub(super) fn sips_not_allowed(
        &self,
        head: &Head,
        from: &Flow,
        scratch: &mut Scratch,
        out: &mut Vec<Bytes>,
    ) -> Outcome {
        let host = match from.side {
            Side::Client(listener) => self.listeners.get(listener).map(|own| &*own.host),
            Side::Upstream(index) => self.upstreams.get(index).map(|upstream| &*upstream.settings.local.host),
        };
        let fields = format!("Warning: 380 {} \"SIPS Not Allowed\"\r\n", host.unwrap_or("edge.invalid"));
        self.respond_with(head, from, 480, "Temporarily Unavailable", &fields, scratch, out)
    }

    /// 420: none of the extensions of Proxy-Require is ours (RFC 3261 §16.3 step 5).
    pub(super) fn bad_extension(
        &self,
        head: &Head,
        from: &Flow,
        scratch: &mut Scratch,
        out: &mut Vec<Bytes>,
    ) -> Outcome {
        let mut fields = String::new();
        for (range, _) in head.values(Name::ProxyRequire).filter_map(Result::ok) {
            // Option tags are tokens: the framer has refused others.
            let separator = if fields.is_empty() { "Unsupported: " } else { ", " };
            let _ = write!(fields, "{separator}{}", String::from_utf8_lossy(&head[range]));
        }
        fields += "\r\n";
        self.respond_with(head, from, 420, "Bad Extension", &fields, scratch, out)
    }

    /// The answer to OPTIONS for the edge itself (RFC 3261 §11.2).
    pub(super) fn capabilities(
        &self,
        head: &Head,
        from: &Flow,
        scratch: &mut Scratch,
        out: &mut Vec<Bytes>,
    ) -> Outcome {
        let fields = "Allow: OPTIONS\r\nAccept: */*\r\nAccept-Encoding: identity\r\nAccept-Language: en\r\n\
                      Supported: path, outbound\r\n";
        self.respond_with(head, from, 200, "OK", fields, scratch, out)
    }

    #[expect(clippy::too_many_arguments, reason = "what a response consists of")]
    fn respond_with(
        &self,
        head: &Head,
        from: &Flow,
        status: u16,
        phrase: &str,
        fields: &str,
        scratch: &mut Scratch,
        out: &mut Vec<Bytes>,
    ) -> Outcome {
        if !head.is_answerable() {
            return Outcome::Drop(Reason::Ack(status));
        }
        let Scratch { rewrite, text, .. } = scratch;
        rewrite.clear();
        text.clear();
        let _ = write!(text, "SIP/2.0 {status} {phrase}\r\n");
        rewrite.replace(0..head.fields_start(), text.as_bytes());
        let mut kept_until = head.fields_start();
        let mut seen: [bool; KEPT.len()] = [false; KEPT.len()];
        for field in head.fields() {
            let Some(kind) = KEPT.iter().position(|kept| *kept == field.name) else { continue };
            // Of what may stand there once, once.
            if field.name != Name::Via && std::mem::replace(&mut seen[kind], true) {
                continue;
            }
            rewrite.delete(kept_until..field.line().start);
            kept_until = field.line().end;
        }
        write_source(head, from, text, rewrite);
        self.write_tag(head, text, rewrite);
        text.clear();
        let _ = write!(text, "{fields}Content-Length: 0\r\n\r\n");
        rewrite.replace(kept_until..head.len(), text.as_bytes());
        rewrite.apply(head, out);
        Outcome::Respond { status, close: false }
    }

    /// A tag for To, if it has none: the same for every retransmission (RFC 3261 §8.2.7).
    fn write_tag(&self, head: &Head, text: &mut String, rewrite: &mut tcp_transport::sip::Rewrite) {
        let Some(to) = head.address(Name::To).filter(|to| to.tag().is_none()) else { return };
        let Some(field) = head.field(Name::To) else { return };
        let branch = head.top_via().and_then(|via| via.branch()).unwrap_or_default();
        let call_id = head.value(Name::CallId).unwrap_or_default();
        text.clear();
        text.push_str(";tag=");
        write_hex(&self.keys.hash("tag", [branch, call_id, to.uri()])[..8], text);
        rewrite.insert(field.value().end, text.as_bytes());
    }

    /// Appends an OPTIONS that asks whether an upstream is alive. Its answer comes as [`Outcome::Probed`].
    pub fn probe(&self, probe: Probe, scratch: &mut Scratch, out: &mut Vec<Bytes>) {
        let Some(upstream) = self.upstreams.get(probe.upstream).map(|upstream| &upstream.settings) else {
            return;
        };
        let Ok(index) = u16::try_from(probe.upstream) else { return };
        let (peer, local) = (&upstream.peer, &upstream.local);
        let (sequence, instance) = (probe.sequence, self.keys.instance());
        let Scratch { text, branch, .. } = scratch;
        branch.clear();
        branch.push_str("z9hG4bK");
        let parts = [&index.to_be_bytes()[..], &sequence.to_be_bytes(), &instance.to_be_bytes()];
        write_hex(&self.keys.hash("probe", parts)[..12], branch);
        text.clear();
        let _ = write!(
            text,
            "OPTIONS sip:{}:{};transport={} SIP/2.0\r\n",
            peer.host,
            peer.port,
            peer.transport.in_uri()
        );
        let came = super::keys::Came::Probe(index, sequence);
        self.write_via(local, came, super::keys::Went::Upstream, branch, text);
        let tag = &branch[7..23];
        let _ = write!(
            text,
            "Max-Forwards: 70\r\nTo: <sip:{peer_host}:{peer_port}>\r\nFrom: <sip:{host}:{port}>;tag={tag}\r\n\
             Call-ID: {tag}-{sequence}@{host}\r\nCSeq: {number} OPTIONS\r\nContent-Length: 0\r\n\r\n",
            peer_host = peer.host,
            peer_port = peer.port,
            host = local.host,
            port = local.port,
            number = sequence & 0x7fff_ffff,
        );
        out.push(Bytes::copy_from_slice(text.as_bytes()));
    }
}

/// Writes into the top Via where the request came from: `received` if its host does not say so
/// (RFC 3261 §18.2.1), and both if it asks for `rport` (RFC 3581 §4). What it claims itself is replaced.
pub(super) fn write_source(
    head: &Head,
    from: &Flow,
    text: &mut String,
    rewrite: &mut tcp_transport::sip::Rewrite,
) {
    let Some(via) = head.top_via() else { return };
    let remote = super::edge::canonical(from.remote);
    let host = via.host();
    let host = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(host);
    let named: Option<std::net::IpAddr> = std::str::from_utf8(host).ok().and_then(|host| host.parse().ok());
    let mut asks = false;
    for param in via.params().filter_map(Result::ok) {
        let name = &head[param.name.clone()];
        if name.eq_ignore_ascii_case(b"rport") {
            text.clear();
            if !asks {
                let _ = write!(text, ";rport={}", from.remote.port());
            }
            asks = true;
            rewrite.replace(param.whole, text.as_bytes());
        } else if name.eq_ignore_ascii_case(b"received") {
            rewrite.delete(param.whole);
        }
    }
    if asks || named.map(|named| named.to_canonical()) != Some(remote) {
        text.clear();
        let _ = write!(text, ";received={remote}");
        rewrite.insert(via.params_end(), text.as_bytes());
    }
}
