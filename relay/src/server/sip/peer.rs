//! Who has opened a connection to the edge: a client, or an upstream that opens its own (RFC 5923), as proxies do that
//! know no connection for the URI in a Route, or have lost it.
//!
//! An upstream is known by, in this order,
//! * its certificate: one that verifies and is made for the upstream's host (RFC 5922 §7), on a listener that asks for
//!   certificates;
//! * `sip_upstream[].connects_from`: networks that the operator names;
//! * where that is not set, on a listener that is for SIP alone, and if the upstream is reached without TLS: its
//!   address, as it was configured or as its name was last dialled. Who can take over that address gets what the edge
//!   sends there anyway.
//!
//! The last rule does not hold for the edge's own address, nor for WebSockets: from there come the clients of a web server
//! in front, which may well run where an upstream does. An upstream that is reached by TLS has to come by TLS, wherever
//! from: anything else would be less than is asked of it in the other direction, and SIPS would leave TLS.
//!
//! What is opened by this is little. An upstream's connection leads along flow tokens that the edge has signed, and nowhere
//! else; only whoever takes part in the signalling has seen one.

use std::net::IpAddr;

use tcp_transport::Scheme;
use tcp_transport::tls::PeerCertificate;

use crate::config::{Host, SipUpstream};

/// What is known of a connection that was accepted.
pub(super) struct Accepted<'a> {
    pub(super) remote: IpAddr,
    pub(super) local: IpAddr,
    pub(super) certificate: &'a PeerCertificate,
    /// It came by TLS to the edge itself.
    pub(super) secure: bool,
    /// It is no WebSocket, and no proxy has named it.
    pub(super) direct: bool,
}

impl Accepted<'_> {
    /// The upstream that has opened it; `dialled` says where the name of each led last.
    pub(super) fn upstream(
        &self,
        upstreams: &[SipUpstream],
        dialled: impl Fn(usize) -> Option<IpAddr>,
    ) -> Option<usize> {
        let is_shown = |upstream: &SipUpstream| self.certificate.matches_host(&upstream.uri.host.to_string());
        let verified = self.certificate.is_verified();
        let by_certificate = upstreams.iter().position(|upstream| verified && is_shown(upstream));
        by_certificate.or_else(|| {
            let mut all = upstreams.iter().enumerate();
            all.find(|(index, upstream)| self.comes_from(upstream, || dialled(*index)))
                .map(|(index, _)| index)
        })
    }

    fn comes_from(&self, upstream: &SipUpstream, dialled: impl FnOnce() -> Option<IpAddr>) -> bool {
        let remote = self.remote.to_canonical();
        let over_tls = matches!(upstream.uri.scheme, Scheme::Sips | Scheme::Wss);
        if over_tls && !self.secure {
            return false;
        }
        if let Some(networks) = &upstream.connects_from {
            return networks.iter().any(|network| network.contains(remote));
        }
        let address = match &upstream.uri.host {
            Host::Ip(address) => Some(*address),
            Host::Name(_) => dialled(),
        };
        self.direct
            && !over_tls
            && remote != self.local.to_canonical()
            && address.is_some_and(|address| address.to_canonical() == remote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(uri: &str, connects_from: Option<&[&str]>) -> SipUpstream {
        let networks = |list: &[&str]| list.iter().map(|network| network.parse().unwrap()).collect();
        SipUpstream {
            uri: uri.parse().unwrap(),
            advertise: None,
            priority: 0,
            weight: 1,
            connects_from: connects_from.map(networks),
        }
    }

    fn found(upstreams: &[SipUpstream], remote: &str, certificate: &PeerCertificate) -> Option<usize> {
        let (remote, local) = (remote.parse().unwrap(), "10.0.0.9".parse().unwrap());
        let dialled = |index| (index == 1).then(|| "10.0.0.2".parse().unwrap());
        let plain = Accepted { remote, local, certificate, secure: false, direct: true };
        plain.upstream(upstreams, dialled)
    }

    fn found_over(upstreams: &[SipUpstream], remote: &str, secure: bool) -> Option<usize> {
        let (remote, local) = (remote.parse().unwrap(), "10.0.0.9".parse().unwrap());
        let other = Accepted { remote, local, certificate: &PeerCertificate::None, secure, direct: false };
        other.upstream(upstreams, |_| None)
    }

    #[test]
    fn an_upstream_without_tls_is_known_by_its_address_and_no_other() {
        let all = [
            upstream("sip://10.0.0.1", None),
            upstream("ws://proxy.test", None),
            upstream("sips://10.0.0.3", None),
            upstream("sip://10.0.0.9", None),
        ];
        for (remote, expected) in [
            ("10.0.0.1", Some(0)),
            ("::ffff:10.0.0.1", Some(0)),
            ("10.0.0.2", Some(1)),
            ("10.0.0.3", None),
            ("10.0.0.9", None),
            ("10.0.0.4", None),
        ] {
            assert_eq!(found(&all, remote, &PeerCertificate::None), expected, "{remote}");
        }
    }

    #[test]
    fn the_operator_may_say_where_one_comes_from() {
        let all = [
            upstream("sip://10.0.0.1", Some(&[])),
            upstream("sips://10.0.0.2", Some(&["10.1.0.0/16", "10.0.0.9"])),
        ];
        for (remote, expected) in
            [("10.0.0.1", None), ("10.0.0.2", None), ("10.1.2.3", Some(1)), ("10.0.0.9", Some(1))]
        {
            assert_eq!(found_over(&all, remote, true), expected, "{remote}");
            assert_eq!(found(&all, remote, &PeerCertificate::None), None, "{remote}: sips, and no TLS");
        }
        let plain = [upstream("sip://10.0.0.1", Some(&["10.1.0.0/16"]))];
        assert_eq!(found(&plain, "10.1.2.3", &PeerCertificate::None), Some(0));
    }

    #[test]
    fn who_comes_by_websocket_is_not_known_by_its_address() {
        let all = [upstream("sip://10.0.0.1", None), upstream("ws://10.0.0.2", None)];
        for remote in ["10.0.0.1", "10.0.0.2"] {
            assert_eq!((found_over(&all, remote, false), found_over(&all, remote, true)), (None, None));
        }
    }

    #[test]
    fn a_certificate_for_its_host_is_enough_and_nothing_else_about_it_is() {
        let all = [upstream("sip://a.test", None), upstream("sips://b.test", Some(&[]))];
        let verified = |name: &str| PeerCertificate::Verified {
            dns_names: vec![name.to_owned()],
            ip_addresses: Vec::new(),
        };
        for (certificate, expected) in [
            (verified("b.test"), Some(1)),
            (verified("a.test"), Some(0)),
            (verified("*.test"), None),
            (verified("c.test"), None),
            (PeerCertificate::Unverified { reason: String::new() }, None),
        ] {
            assert_eq!(found(&all, "192.0.2.1", &certificate), expected, "{certificate:?}");
        }
    }
}
