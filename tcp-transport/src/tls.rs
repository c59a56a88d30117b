//! TLS domains: named sets of certificate, key and verification rules, as in OpenSIPS tls_mgm.
//!
//! Settings ([`ServerDomainSettings`], [`ClientDomainSettings`]) are what a configuration says;
//! loading turns them into a [`ServerDomain`] or [`ClientDomain`], or into a [`TlsConfigError`] that
//! names the file and the reason. Handshakes end in a [`Stream`](crate::Stream) with its
//! [`TlsInfo`], or in a [`HandshakeError`] an operator can act on.
//!
//! **What is known about the peer** is computed after every handshake from the chain the session
//! carries, not remembered from the verification during it: so a resumed session, whose chain comes
//! out of the session store, tells the same as a full one, and a certificate that has expired since
//! counts as expired.
//!
//! **What a certificate is good for.** One that names extended key usages is good for those alone (RFC 5280
//! §4.2.1.12): a server's certificate without `clientAuth` makes no verified client of its holder, and the
//! other way round; `anyExtendedKeyUsage` is not taken for either. A wildcard in a server's certificate
//! stands for one whole label (RFC 9525 §6.3): MSRP does not forbid it. In a client's certificate it is
//! nobody's name ([`PeerCertificate::matches_host`]). RFC 5922 §7.2 forbids wildcards for SIP, on either
//! side: who dials for SIP asks [`PeerCertificate::matches_host`] too.

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

mod certificate;
mod client;
mod clients;
mod domain;
mod error;
mod expiry;
mod handshake;
mod load;
mod negotiation;
mod peer;
mod select;
mod server;

pub use certificate::{CertificateFacts, SubjectFacts};
pub use client::{ClientDomain, ClientDomainSettings};
pub use clients::{ChooseClientDomain, ChosenDomain, ClientDomains, ForListener};
pub use domain::Changes;
pub use error::{HandshakeError, TlsConfigError};
pub use expiry::{DEFAULT_EXPIRY_WARNING, Expiry, ExpiryKind};
pub use handshake::{DEFAULT_HANDSHAKE_TIMEOUT, accept, connect};
pub use negotiation::{CipherSuite, Curve, NegotiationError, TlsMethod, TlsVersion};
pub use peer::{PeerCertificate, PeerFacts, TlsInfo, Verification, VerifyFailure};
pub use select::{AddressPattern, PatternError, SniPattern};
pub use server::{ServerDomain, ServerDomainSettings, ServerDomains};

/// The cryptography of all domains: aws-lc-rs with rustls' default suites and groups.
static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
