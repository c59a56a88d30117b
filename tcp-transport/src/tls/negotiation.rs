//! What a handshake may settle on: `tls_method`, `ciphers_list` and `ec_curve`.
//!
//! Each is parsed from what tls_mgm's admins write, and refuses, with the reason, what rustls lacks
//! on purpose: TLS before 1.2, suites without forward secrecy (the TLS_RSA_ ones that RFC 4976 §9.2
//! names among them), suites without authenticated encryption, finite-field Diffie-Hellman.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{ALL_CIPHER_SUITES, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{NamedGroup, SupportedCipherSuite, SupportedProtocolVersion};

use super::{PROVIDER, TlsConfigError};

/// A setting that cannot be read, or that asks for what there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` {reason}")]
pub struct NegotiationError {
    text: String,
    reason: String,
}

impl NegotiationError {
    fn new(text: &str, reason: impl Into<String>) -> Self {
        Self { text: text.to_owned(), reason: reason.into() }
    }
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246), with forward secrecy and authenticated encryption only.
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

impl TlsVersion {
    const LOWEST: Self = Self::V1_2;
    const HIGHEST: Self = Self::V1_3;

    /// `TLSv1.2` or `TLSv1.3`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1_2 => "TLSv1.2",
            Self::V1_3 => "TLSv1.3",
        }
    }
}

/// One end of a range. `None`: it is left open.
fn version(text: &str) -> Result<Option<TlsVersion>, String> {
    let lower = text.trim().to_ascii_lowercase().replace('_', ".");
    let number = lower.strip_prefix("tls").unwrap_or(&lower).trim_start_matches([' ', 'v']);
    match number {
        "" if lower.is_empty() => Ok(None),
        "1.2" => Ok(Some(TlsVersion::V1_2)),
        "1.3" => Ok(Some(TlsVersion::V1_3)),
        "1" | "1.0" | "1.1" => Err("asks for TLS 1.0 or 1.1, which are broken and not in here (RFC 8996); \
                                    TLSv1_2 is the lowest"
            .into()),
        _ if lower.starts_with("ssl") => {
            Err("asks for SSL, which is broken and not in here (RFC 7568); for any version there is, leave \
                 `tls_method` out or write `-`"
                .into())
        }
        _ => {
            Err("is not a TLS version, those are TLSv1_2 and TLSv1_3, or a range such as TLSv1_2-TLSv1_3"
                .into())
        }
    }
}

/// `tls_method`: one version, or a range of them. The default is all there are, 1.2 and 1.3.
///
/// `TLSv1_3`, `TLSv1_2-TLSv1_3`, `1.2-1.3`; an end that is left out is the lowest or highest there is,
/// as in tls_mgm: `TLSv1_3-`, `-TLSv1_2`, `-`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TlsMethod {
    lowest: TlsVersion,
    highest: TlsVersion,
}

impl TlsMethod {
    /// Whether it includes `version`.
    #[must_use]
    pub fn includes(self, version: TlsVersion) -> bool {
        (self.lowest..=self.highest).contains(&version)
    }

    fn versions(self) -> Vec<&'static SupportedProtocolVersion> {
        let known =
            [(TlsVersion::V1_3, &rustls::version::TLS13), (TlsVersion::V1_2, &rustls::version::TLS12)];
        known.into_iter().filter(|(version, _)| self.includes(*version)).map(|(_, rustls)| rustls).collect()
    }
}

impl Default for TlsMethod {
    fn default() -> Self {
        Self { lowest: TlsVersion::LOWEST, highest: TlsVersion::HIGHEST }
    }
}

impl FromStr for TlsMethod {
    type Err = NegotiationError;

    fn from_str(text: &str) -> Result<Self, NegotiationError> {
        let refused = |reason: String| NegotiationError::new(text, reason);
        let Some((low, high)) = text.split_once('-') else {
            let only = version(text).map_err(refused)?;
            let only = only.ok_or_else(|| refused("names no TLS version".into()))?;
            return Ok(Self { lowest: only, highest: only });
        };
        let lowest = version(low).map_err(refused)?.unwrap_or(TlsVersion::LOWEST);
        let highest = version(high).map_err(refused)?.unwrap_or(TlsVersion::HIGHEST);
        if lowest > highest {
            return Err(refused("has its lower version after its higher one".into()));
        }
        Ok(Self { lowest, highest })
    }
}

impl fmt::Display for TlsMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.lowest.as_str())?;
        if self.lowest == self.highest { Ok(()) } else { write!(f, "-{}", self.highest.as_str()) }
    }
}

/// One entry of `ciphers_list`: a suite by its IANA or OpenSSL name.
#[derive(Clone, Copy)]
pub struct CipherSuite(SupportedCipherSuite);

/// OpenSSL's names of the suites there are. The TLS 1.3 ones are IANA's there too.
const OPENSSL_NAMES: [(&str, &str); 6] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ("ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    ("ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    ("ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
];

impl CipherSuite {
    /// All suites there are, the preferred ones first.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL_CIPHER_SUITES.iter().copied().map(Self)
    }

    /// Its IANA name.
    #[must_use]
    pub fn name(self) -> &'static str {
        iana(self.0)
    }

    /// The version of TLS it belongs to.
    #[must_use]
    pub fn version(self) -> TlsVersion {
        match self.0 {
            SupportedCipherSuite::Tls13(_) => TlsVersion::V1_3,
            SupportedCipherSuite::Tls12(_) => TlsVersion::V1_2,
        }
    }
}

/// A suite's IANA name: rustls writes `TLS13_` where IANA has `TLS_`.
pub(super) fn iana(suite: SupportedCipherSuite) -> &'static str {
    match suite.suite().as_str() {
        Some("TLS13_AES_256_GCM_SHA384") => "TLS_AES_256_GCM_SHA384",
        Some("TLS13_AES_128_GCM_SHA256") => "TLS_AES_128_GCM_SHA256",
        Some("TLS13_CHACHA20_POLY1305_SHA256") => "TLS_CHACHA20_POLY1305_SHA256",
        Some(name) => name,
        None => "unknown",
    }
}

/// The length of a suite's key.
pub(super) fn cipher_bits(suite: SupportedCipherSuite) -> u16 {
    if iana(suite).contains("AES_128") { 128 } else { 256 }
}

impl PartialEq for CipherSuite {
    fn eq(&self, other: &Self) -> bool {
        self.0.suite() == other.0.suite()
    }
}

impl Eq for CipherSuite {}

impl fmt::Debug for CipherSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CipherSuite {
    type Err = NegotiationError;

    fn from_str(text: &str) -> Result<Self, NegotiationError> {
        let upper = text.trim().to_ascii_uppercase();
        let wanted = match upper.strip_prefix("TLS13_") {
            Some(rest) => format!("TLS_{rest}"),
            None => OPENSSL_NAMES
                .iter()
                .find(|(openssl, _)| *openssl == upper)
                .map_or_else(|| upper.clone(), |(_, iana)| (*iana).to_owned()),
        };
        Self::all()
            .find(|suite| suite.name() == wanted)
            .ok_or_else(|| NegotiationError::new(text, why_not(&upper)))
    }
}

/// Why there is no such suite.
fn why_not(name: &str) -> String {
    let has = |part: &str| name.split(['_', '-']).any(|word| word == part);
    let reason = if name.starts_with(['!', '+', '-', '@']) || name.contains(['!', '@', '+']) {
        "is an OpenSSL rule, not a suite; list the suites themselves"
    } else if has("NULL") || has("ENULL") {
        "does not encrypt, and is not in here"
    } else if has("ANON") || has("ADH") || has("AECDH") || has("ANULL") {
        "does not authenticate, and is not in here"
    } else if ["RC4", "DES", "3DES", "EXPORT", "EXP", "MD5", "IDEA", "SEED"].into_iter().any(has) {
        "is broken, and is not in here"
    } else if has("PSK") || has("SRP") || has("KRB5") {
        "works without certificates, and is not in here"
    } else if (has("DHE") || has("EDH") || has("DH")) && !has("ECDHE") {
        "needs Diffie-Hellman over prime fields, which is not in here (so neither is `dh_params`); take its ECDHE \
         counterpart"
    } else if has("ECDHE") && (has("CBC") || !has("GCM") && !has("CHACHA20") && !has("CCM")) {
        "encrypts in CBC mode, which leaks through timing, and is not in here; take its GCM counterpart"
    } else if name.starts_with("TLS_RSA_")
        || name.starts_with("AES")
        || name.starts_with("RSA-")
        || has("CAMELLIA")
    {
        "has no forward secrecy (RSA key exchange): RFC 4976 §9.2 names such suites, but RFC 9325 §4.1 is against them, \
         and rustls has none; take ECDHE-RSA-AES128-GCM-SHA256 for the same certificate"
    } else if ["HIGH", "MEDIUM", "LOW", "ALL", "DEFAULT", "COMPLEMENTOFDEFAULT", "SECURE"].contains(&name) {
        "is an OpenSSL rule, not a suite; list the suites themselves"
    } else {
        "is not a cipher suite there is"
    };
    let known: Vec<_> = CipherSuite::all().map(CipherSuite::name).collect();
    format!("{reason}. Known are {}", known.join(", "))
}

/// One entry of `ec_curve`: a group for the key exchange.
#[derive(Clone, Copy)]
pub struct Curve(&'static dyn SupportedKxGroup);

/// Every name under which a curve is known, the first being the one shown.
static CURVES: [(&[&str], &dyn SupportedKxGroup); 4] = [
    (&["X25519"], kx_group::X25519),
    (&["P-256", "prime256v1", "secp256r1", "P256"], kx_group::SECP256R1),
    (&["P-384", "secp384r1", "P384"], kx_group::SECP384R1),
    (&["X25519MLKEM768"], kx_group::X25519MLKEM768),
];

impl Curve {
    /// `X25519`, `P-256`, `P-384` or `X25519MLKEM768`.
    #[must_use]
    pub fn name(self) -> &'static str {
        group_name(self.0.name())
    }
}

pub(super) fn group_name(group: NamedGroup) -> &'static str {
    CURVES
        .iter()
        .find(|(_, known)| known.name() == group)
        .and_then(|(names, _)| names.first())
        .map_or_else(|| group.as_str().unwrap_or("unknown"), |name| *name)
}

impl PartialEq for Curve {
    fn eq(&self, other: &Self) -> bool {
        self.0.name() == other.0.name()
    }
}

impl Eq for Curve {}

impl fmt::Debug for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Curve {
    type Err = NegotiationError;

    fn from_str(text: &str) -> Result<Self, NegotiationError> {
        let wanted = text.trim();
        let found =
            CURVES.iter().find(|(names, _)| names.iter().any(|name| name.eq_ignore_ascii_case(wanted)));
        found.map(|(_, group)| Self(*group)).ok_or_else(|| {
            let known: Vec<_> = CURVES.iter().filter_map(|(names, _)| names.first().copied()).collect();
            NegotiationError::new(
                text,
                format!(
                    "is not a curve there is. Known are {} (P-256 is also prime256v1 or secp256r1)",
                    known.join(", ")
                ),
            )
        })
    }
}

/// What the handshakes of one domain may settle on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Negotiation {
    pub(super) tls_method: TlsMethod,
    /// Empty: all.
    pub(super) ciphers_list: Vec<CipherSuite>,
    /// Empty: rustls' default, all with X25519 first.
    pub(super) ec_curve: Vec<Curve>,
}

impl Negotiation {
    /// Says what does not go together.
    pub(super) fn check(&self, domain: &str) -> Result<(), TlsConfigError> {
        if !self.is_possible() {
            return Err(TlsConfigError::NoSuite { domain: domain.to_owned(), tls_method: self.tls_method });
        }
        if let Some(version) = self.version_without_suite() {
            tracing::warn!(
                tls_domain = domain,
                version = version.as_str(),
                "ciphers_list has no suite of this version of TLS, so it is not spoken"
            );
        }
        Ok(())
    }

    /// A version of `tls_method` for which `ciphers_list` has no suite, and which is off therefore.
    pub(super) fn version_without_suite(&self) -> Option<TlsVersion> {
        let has = |version| {
            self.ciphers_list.is_empty() || self.ciphers_list.iter().any(|suite| suite.version() == version)
        };
        [TlsVersion::V1_2, TlsVersion::V1_3]
            .into_iter()
            .find(|version| self.tls_method.includes(*version) && !has(*version))
    }

    /// Whether any handshake can succeed.
    pub(super) fn is_possible(&self) -> bool {
        self.ciphers_list.is_empty()
            || self.ciphers_list.iter().any(|suite| self.tls_method.includes(suite.version()))
    }

    pub(super) fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        self.tls_method.versions()
    }

    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        if self.ciphers_list.is_empty() && self.ec_curve.is_empty() {
            return PROVIDER.clone();
        }
        let mut provider = (**PROVIDER).clone();
        if !self.ciphers_list.is_empty() {
            provider.cipher_suites = self.ciphers_list.iter().map(|suite| suite.0).collect();
        }
        if !self.ec_curve.is_empty() {
            provider.kx_groups = self.ec_curve.iter().map(|curve| curve.0).collect();
        }
        Arc::new(provider)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_methods_are_versions_and_ranges() {
        for (text, shown) in [
            ("TLSv1_2", "TLSv1.2"),
            ("TLSv1_3", "TLSv1.3"),
            ("tlsv1.3", "TLSv1.3"),
            ("1.2", "TLSv1.2"),
            ("TLSv1_2-TLSv1_3", "TLSv1.2-TLSv1.3"),
            ("1.2-1.3", "TLSv1.2-TLSv1.3"),
            ("TLSv1_2 - TLSv1_3", "TLSv1.2-TLSv1.3"),
            ("TLSv1_3-", "TLSv1.3"),
            ("TLSv1_2-", "TLSv1.2-TLSv1.3"),
            ("-TLSv1_2", "TLSv1.2"),
            ("-", "TLSv1.2-TLSv1.3"),
        ] {
            assert_eq!(text.parse::<TlsMethod>().unwrap().to_string(), shown, "{text}");
        }
        for (text, reason) in [
            ("TLSv1", "TLS 1.0 or 1.1"),
            ("TLSv1_1", "TLS 1.0 or 1.1"),
            ("TLSv1-TLSv1_3", "TLS 1.0 or 1.1"),
            ("1.1-", "TLS 1.0 or 1.1"),
            ("SSLv23", "asks for SSL"),
            ("SSLv3", "asks for SSL"),
            ("TLSv1_4", "is not a TLS version"),
            ("TLS", "is not a TLS version"),
            ("", "names no TLS version"),
            ("TLSv1_3-TLSv1_2", "has its lower version after"),
        ] {
            let error = text.parse::<TlsMethod>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn suites_have_iana_and_openssl_names() {
        for suite in CipherSuite::all() {
            assert_eq!(suite.name().parse(), Ok(suite));
            assert_eq!(suite.name().to_ascii_lowercase().parse(), Ok(suite));
        }
        for (openssl, iana) in OPENSSL_NAMES {
            assert_eq!(openssl.parse::<CipherSuite>().unwrap().name(), iana);
        }
        assert_eq!(CipherSuite::all().count(), OPENSSL_NAMES.len() + 3);
        assert_eq!("TLS13_AES_128_GCM_SHA256".parse(), "TLS_AES_128_GCM_SHA256".parse::<CipherSuite>());
    }

    #[test]
    fn suites_that_are_not_there_say_why() {
        for (text, reason) in [
            ("TLS_RSA_WITH_AES_128_CBC_SHA", "no forward secrecy"),
            ("TLS_RSA_WITH_AES_128_GCM_SHA256", "RFC 4976 §9.2"),
            ("AES128-SHA", "no forward secrecy"),
            ("AES256-GCM-SHA384", "no forward secrecy"),
            ("TLS_RSA_WITH_3DES_EDE_CBC_SHA", "is broken"),
            ("DHE-RSA-AES128-GCM-SHA256", "`dh_params`"),
            ("TLS_DHE_RSA_WITH_AES_128_GCM_SHA256", "prime fields"),
            ("ECDHE-RSA-AES128-SHA", "CBC mode"),
            ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", "CBC mode"),
            ("NULL", "does not encrypt"),
            ("HIGH", "an OpenSSL rule"),
            ("!aNULL", "an OpenSSL rule"),
            ("ADH-AES128-SHA", "does not authenticate"),
            ("PSK-AES128-CBC-SHA", "without certificates"),
            ("nonsense", "is not a cipher suite"),
            ("", "is not a cipher suite"),
        ] {
            let error = text.parse::<CipherSuite>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(error.contains("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"), "{error}");
        }
    }

    #[test]
    fn curves_have_several_names() {
        for (text, name) in [
            ("x25519", "X25519"),
            ("P-256", "P-256"),
            ("prime256v1", "P-256"),
            ("secp256r1", "P-256"),
            ("secp384r1", "P-384"),
            ("X25519MLKEM768", "X25519MLKEM768"),
        ] {
            assert_eq!(text.parse::<Curve>().unwrap().name(), name);
        }
        for text in ["secp521r1", "sect283k1", ""] {
            let error = text.parse::<Curve>().unwrap_err().to_string();
            assert!(error.contains("Known are X25519, P-256, P-384"), "{error}");
        }
    }

    #[test]
    fn suites_and_versions_must_meet() {
        let negotiation = |method: &str, suites: &[&str]| Negotiation {
            tls_method: method.parse().unwrap(),
            ciphers_list: suites.iter().map(|s| s.parse().unwrap()).collect(),
            ec_curve: Vec::new(),
        };
        let (old, new) = ("ECDHE-RSA-AES128-GCM-SHA256", "TLS_AES_128_GCM_SHA256");
        for (method, suites, possible, off) in [
            ("-", &[][..], true, None),
            ("-", &[old], true, Some(TlsVersion::V1_3)),
            ("-", &[new], true, Some(TlsVersion::V1_2)),
            ("-", &[old, new], true, None),
            ("TLSv1_2", &[new], false, Some(TlsVersion::V1_2)),
            ("TLSv1_3", &[new], true, None),
        ] {
            let negotiation = negotiation(method, suites);
            assert_eq!(
                (negotiation.is_possible(), negotiation.version_without_suite()),
                (possible, off),
                "{method} {suites:?}"
            );
        }
    }
}
