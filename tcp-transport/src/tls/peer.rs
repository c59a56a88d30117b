//! What is known about the peer of a TLS connection.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, CommonState, HandshakeKind, ProtocolVersion};

use super::CertificateFacts;
use super::error::certificate_reason;
use super::negotiation::{cipher_bits, group_name};

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
}

/// Whether a certificate verified, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// It chains to a CA of the TLS domain, is valid now, and (a server's) is made for the host that
    /// was wanted.
    Verified,
    /// `verify_cert` is off: nobody has looked.
    NotChecked,
    /// It does not verify.
    Failed {
        /// What is wrong, for policy.
        cause: VerifyFailure,
        /// What is wrong, for logs.
        reason: String,
    },
}

/// What can be wrong with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VerifyFailure {
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// A CRL names it.
    Revoked,
    /// No CRL speaks for it, or only one that has expired.
    RevocationUnknown,
    /// It is not issued by a CA of the domain.
    UnknownIssuer,
    /// It is made for another host.
    OtherHost,
    /// Anything else.
    Other,
}

impl VerifyFailure {
    fn of(error: &rustls::Error) -> Self {
        use CertificateError as E;
        let rustls::Error::InvalidCertificate(error) = error else { return Self::Other };
        match error {
            E::Expired | E::ExpiredContext { .. } => Self::Expired,
            E::NotValidYet | E::NotValidYetContext { .. } => Self::NotYetValid,
            E::Revoked => Self::Revoked,
            E::UnknownRevocationStatus
            | E::ExpiredRevocationList
            | E::ExpiredRevocationListContext { .. } => Self::RevocationUnknown,
            E::UnknownIssuer => Self::UnknownIssuer,
            E::NotValidForName | E::NotValidForNameContext { .. } => Self::OtherHost,
            _ => Self::Other,
        }
    }
}

/// What the peer's certificate says, and what it is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFacts {
    /// What stands in it. Only if `verification` says so is any of it true.
    pub certificate: CertificateFacts,
    /// Whether it verified.
    pub verification: Verification,
}

/// For logs: the certificate in one line, and what it is worth.
impl fmt::Display for PeerFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.certificate.fmt(f)?;
        match &self.verification {
            Verification::Verified => f.write_str(", verified"),
            Verification::NotChecked => f.write_str(", not checked"),
            Verification::Failed { reason, .. } => write!(f, ", not verified: {reason}"),
        }
    }
}

/// What is known about the peer after a handshake.
pub(super) struct Judged {
    pub(super) peer: PeerCertificate,
    pub(super) facts: Option<Arc<PeerFacts>>,
}

impl Judged {
    /// No certificate.
    pub(super) fn nobody() -> Self {
        Self { peer: PeerCertificate::None, facts: None }
    }

    /// One that nobody was to look at.
    pub(super) fn not_checked(certificate: &CertificateDer<'_>) -> Self {
        let facts = CertificateFacts::of(certificate).ok();
        let facts =
            facts.map(|certificate| PeerFacts { certificate, verification: Verification::NotChecked });
        let reason = "verify_cert is off".into();
        Self { peer: PeerCertificate::Unverified { reason }, facts: facts.map(Arc::new) }
    }

    pub(super) fn new(certificate: &CertificateDer<'_>, checked: Result<(), rustls::Error>) -> Self {
        let facts = match CertificateFacts::of(certificate) {
            Ok(facts) => facts,
            // If webpki has read it, this is a form that only x509-parser refuses; without its names
            // the certificate is worth nothing.
            Err(reason) => return Self { peer: PeerCertificate::Unverified { reason }, facts: None },
        };
        let (peer, verification) = match checked {
            Ok(()) => {
                let (dns_names, ip_addresses) = (facts.dns_names.clone(), facts.ip_addresses.clone());
                (PeerCertificate::Verified { dns_names, ip_addresses }, Verification::Verified)
            }
            Err(error) => {
                let reason = match &error {
                    rustls::Error::InvalidCertificate(e) => certificate_reason(e),
                    e => e.to_string(),
                };
                let verification =
                    Verification::Failed { cause: VerifyFailure::of(&error), reason: reason.clone() };
                (PeerCertificate::Unverified { reason }, verification)
            }
        };
        Self { peer, facts: Some(Arc::new(PeerFacts { certificate: facts, verification })) }
    }
}

/// An IP literal, an IPv6 one with or without brackets.
pub(crate) fn parse_ip(host: &str) -> Option<IpAddr> {
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    inner.map_or_else(|| host.parse().ok(), |v6| v6.parse::<std::net::Ipv6Addr>().ok().map(IpAddr::V6))
}

/// Facts about a TLS session, fixed when its handshake ends. Nothing of a key is in it.
#[derive(Debug, Clone)]
pub struct TlsInfo {
    domain: Arc<str>,
    version: &'static str,
    cipher: &'static str,
    cipher_bits: Option<u16>,
    key_exchange: Option<&'static str>,
    sni: Option<String>,
    resumed: bool,
    peer: PeerCertificate,
    peer_facts: Option<Arc<PeerFacts>>,
    own: Option<Arc<CertificateFacts>>,
}

impl TlsInfo {
    /// `own` is the domain's certificate, if it has one.
    pub(super) fn new(
        domain: &Arc<str>,
        own: Option<&Arc<CertificateFacts>>,
        session: &CommonState,
        sni: Option<String>,
        judged: Judged,
    ) -> Self {
        let suite = session.negotiated_cipher_suite();
        Self {
            domain: domain.clone(),
            version: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "unknown",
            },
            cipher: suite.and_then(|suite| suite.suite().as_str()).unwrap_or("unknown"),
            cipher_bits: suite.map(cipher_bits),
            key_exchange: session.negotiated_key_exchange_group().map(|group| group_name(group.name())),
            sni,
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            peer: judged.peer,
            peer_facts: judged.facts,
            own: own.cloned(),
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

    /// The length of the cipher's key.
    #[must_use]
    pub fn cipher_bits(&self) -> Option<u16> {
        self.cipher_bits
    }

    /// The curve of the key exchange, by the name `ec_curve` has for it. None for a resumed TLS 1.2
    /// session, which has none of its own.
    #[must_use]
    pub fn key_exchange(&self) -> Option<&'static str> {
        self.key_exchange
    }

    /// The peer's certificate, as verification found it.
    #[must_use]
    pub fn peer(&self) -> &PeerCertificate {
        &self.peer
    }

    /// What stands in the peer's certificate, verified or not; none was presented, or asked for,
    /// where there is nothing.
    #[must_use]
    pub fn peer_facts(&self) -> Option<&PeerFacts> {
        self.peer_facts.as_deref()
    }

    /// The certificate of our TLS domain. (As a client: the one we have; whether the server asked for
    /// it is not told.)
    #[must_use]
    pub fn own_certificate(&self) -> Option<&CertificateFacts> {
        self.own.as_deref()
    }
}

/// For logs: `TLSv1.3 TLS13_AES_256_GCM_SHA384 X25519 domain=relay sni=relay.test peer=(none)`.
impl fmt::Display for TlsInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.version, self.cipher)?;
        if let Some(group) = self.key_exchange {
            write!(f, " {group}")?;
        }
        write!(f, " domain={} sni={}", self.domain, self.sni().unwrap_or("(none)"))?;
        if self.resumed {
            f.write_str(" resumed")?;
        }
        match (&self.peer_facts, &self.peer) {
            (Some(facts), _) => write!(f, " peer=({facts})"),
            (None, PeerCertificate::Unverified { reason }) => write!(f, " peer=({reason})"),
            (None, _) => f.write_str(" peer=(none)"),
        }
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
