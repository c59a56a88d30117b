//! What is known about the peer of a TLS connection.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{CommonState, HandshakeKind, ProtocolVersion};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The peer's certificate, as verification found it.
///
/// It speaks about the certificate's holder, that is a relay, a server or a device: it does not
/// authenticate a user (RFC 4976 §9.3 keeps the digest for that).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerCertificate {
    /// None was presented, or none was asked for.
    None,
    /// One was presented, and does not verify.
    Unverified {
        /// Why, for logs.
        reason: String,
    },
    /// One was presented that chains to a CA of the TLS domain and is valid now.
    Verified {
        /// `dNSName` entries of subjectAltName, in lower case, without a trailing dot.
        dns_names: Vec<String>,
        /// `iPAddress` entries of subjectAltName.
        ip_addresses: Vec<IpAddr>,
    },
}

impl PeerCertificate {
    /// Whether the certificate verified.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        matches!(self, Self::Verified { .. })
    }

    /// Whether this is a verified certificate for `host`: a DNS name, or an IP literal (an IPv6 one
    /// with or without brackets).
    ///
    /// Names are compared whole and without regard to case. A wildcard certificate matches nothing
    /// here: it says which domain somebody belongs to, not which relay it is (RFC 5922 §7.2 forbids
    /// it for the same reason). The subject's common name is never looked at.
    #[must_use]
    pub fn matches_host(&self, host: &str) -> bool {
        let Self::Verified { dns_names, ip_addresses } = self else { return false };
        match parse_ip(host) {
            Some(ip) => ip_addresses.iter().any(|own| own.to_canonical() == ip.to_canonical()),
            None => {
                let host = host.strip_suffix('.').unwrap_or(host);
                !host.is_empty()
                    && !host.contains('*')
                    && dns_names.iter().any(|own| own.eq_ignore_ascii_case(host))
            }
        }
    }

    /// The names of a certificate that has verified.
    pub(super) fn verified(certificate: &CertificateDer<'_>) -> Self {
        let mut dns_names = Vec::new();
        let mut ip_addresses = Vec::new();
        let parsed = match X509Certificate::from_der(certificate) {
            Ok((_, parsed)) => parsed,
            // webpki has read it, so this is a form that only x509-parser refuses; without its names
            // the certificate is worth nothing.
            Err(e) => return Self::Unverified { reason: format!("not a well-formed certificate: {e}") },
        };
        let names = match parsed.subject_alternative_name() {
            Ok(names) => names,
            Err(e) => return Self::Unverified { reason: format!("malformed subjectAltName: {e}") },
        };
        for name in names.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => {
                    dns_names.push(name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase());
                }
                GeneralName::IPAddress(bytes) => ip_addresses.extend(ip_address(bytes)),
                _ => {}
            }
        }
        Self::Verified { dns_names, ip_addresses }
    }
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// An IP literal, an IPv6 one with or without brackets.
pub(crate) fn parse_ip(host: &str) -> Option<IpAddr> {
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    inner.map_or_else(|| host.parse().ok(), |v6| v6.parse::<std::net::Ipv6Addr>().ok().map(IpAddr::V6))
}

/// Facts about a TLS session, fixed when its handshake ends.
#[derive(Debug, Clone)]
pub struct TlsInfo {
    domain: Arc<str>,
    version: &'static str,
    cipher: &'static str,
    sni: Option<String>,
    resumed: bool,
    peer: PeerCertificate,
}

impl TlsInfo {
    pub(super) fn new(
        domain: &Arc<str>,
        session: &CommonState,
        sni: Option<String>,
        peer: PeerCertificate,
    ) -> Self {
        Self {
            domain: domain.clone(),
            version: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "unknown",
            },
            cipher: session
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or("unknown"),
            sni,
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            peer,
        }
    }

    /// The name of the TLS domain that served the connection.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// `TLSv1.2` or `TLSv1.3`.
    #[must_use]
    pub fn version(&self) -> &'static str {
        self.version
    }

    /// The cipher suite, by its IANA name as rustls spells it.
    #[must_use]
    pub fn cipher(&self) -> &'static str {
        self.cipher
    }

    /// The server name the client asked for. None where it asked for none; an IP literal is never
    /// sent (RFC 6066 §3).
    #[must_use]
    pub fn sni(&self) -> Option<&str> {
        self.sni.as_deref()
    }

    /// Whether the session was resumed.
    #[must_use]
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// The peer's certificate, as verification found it.
    #[must_use]
    pub fn peer(&self) -> &PeerCertificate {
        &self.peer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified() -> PeerCertificate {
        PeerCertificate::Verified {
            dns_names: vec!["relay.test".into(), "*.example.org".into()],
            ip_addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        }
    }

    #[test]
    fn a_host_matches_a_whole_name_in_any_case() {
        for host in ["relay.test", "RELAY.Test", "relay.test."] {
            assert!(verified().matches_host(host), "{host}");
        }
        for host in ["", ".", "test", "x.relay.test", "relay.test.evil", "relay.tes"] {
            assert!(!verified().matches_host(host), "{host}");
        }
    }

    #[test]
    fn a_wildcard_identifies_nobody() {
        assert!(!verified().matches_host("a.example.org"));
        assert!(!verified().matches_host("*.example.org"));
    }

    #[test]
    fn an_ip_literal_matches_ip_entries_only() {
        for host in ["192.0.2.1", "2001:db8::1", "[2001:DB8:0::1]", "::ffff:192.0.2.1"] {
            assert!(verified().matches_host(host), "{host}");
        }
        assert!(!verified().matches_host("192.0.2.2"));
        let by_name = PeerCertificate::Verified { dns_names: vec!["192.0.2.1".into()], ip_addresses: vec![] };
        assert!(!by_name.matches_host("192.0.2.1"));
    }

    #[test]
    fn what_is_not_verified_matches_nothing() {
        assert!(!PeerCertificate::None.matches_host("relay.test"));
        assert!(!PeerCertificate::Unverified { reason: String::new() }.matches_host("relay.test"));
    }
}
