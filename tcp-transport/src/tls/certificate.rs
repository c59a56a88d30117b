//! What stands in a certificate, in words for policy, logs, traces and the admin interface.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{ASN1Time, FromDer as _, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// The most names of one kind that are taken from a certificate: 64. It is the peer who writes them;
/// real ones have a handful.
const MAX_NAMES: usize = 64;

/// The longest text taken from a certificate, in characters: 256. What is longer ends in `…`.
const MAX_TEXT: usize = 256;

/// The facts of one certificate. Nothing of a key is in it.
///
/// Text comes from whoever made the certificate, and is made safe to log: control characters are
/// escaped, and what is overlong is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// X.509 version: 3, as a rule.
    pub version: u32,
    /// Serial number, in hexadecimal bytes: `01:ab:…`.
    pub serial: String,
    /// Whose it is.
    pub subject: SubjectFacts,
    /// Who signed it.
    pub issuer: SubjectFacts,
    /// `dNSName` entries of subjectAltName, in lower case, without a trailing dot.
    pub dns_names: Vec<String>,
    /// `iPAddress` entries of subjectAltName.
    pub ip_addresses: Vec<IpAddr>,
    /// `uniformResourceIdentifier` entries of subjectAltName (`sip:example.com`, RFC 5922 §7.1).
    pub uris: Vec<String>,
    /// `rfc822Name` entries of subjectAltName.
    pub emails: Vec<String>,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
    /// Whether subject and issuer are the same. Said of the names; the signature is not checked here.
    pub self_signed: bool,
    /// SHA-256 of the certificate.
    pub sha256: [u8; 32],
}

/// The parts of a distinguished name; of repeated ones, the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubjectFacts {
    /// The whole name: `C=AT, O=enum.at, CN=enum.at`.
    pub name: String,
    /// commonName. Never compared with a host.
    pub common_name: Option<String>,
    /// organizationName.
    pub organization: Option<String>,
    /// organizationalUnitName.
    pub unit: Option<String>,
    /// localityName.
    pub locality: Option<String>,
    /// stateOrProvinceName.
    pub state: Option<String>,
    /// countryName.
    pub country: Option<String>,
}

impl CertificateFacts {
    /// Reads a certificate.
    ///
    /// # Errors
    /// What is wrong with its form.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|e| format!("not a well-formed certificate: {e}"))?;
        let names =
            parsed.subject_alternative_name().map_err(|e| format!("malformed subjectAltName: {e}"))?;
        let mut facts = Self {
            version: parsed.version().0.saturating_add(1),
            serial: clean(&parsed.raw_serial_as_string()),
            subject: SubjectFacts::of(parsed.subject()),
            issuer: SubjectFacts::of(parsed.issuer()),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            uris: Vec::new(),
            emails: Vec::new(),
            not_before: system_time(parsed.validity().not_before),
            not_after: system_time(parsed.validity().not_after),
            self_signed: parsed.subject().as_raw() == parsed.issuer().as_raw(),
            sha256: Sha256::digest(certificate).into(),
        };
        for name in names.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => {
                    push(&mut facts.dns_names, &name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase());
                }
                GeneralName::IPAddress(bytes) if facts.ip_addresses.len() < MAX_NAMES => {
                    facts.ip_addresses.extend(ip_address(bytes));
                }
                GeneralName::URI(uri) => push(&mut facts.uris, uri),
                GeneralName::RFC822Name(email) => push(&mut facts.emails, email),
                _ => {}
            }
        }
        Ok(facts)
    }

    /// Whether it is past its time.
    #[must_use]
    pub fn is_expired(&self, now: SystemTime) -> bool {
        now > self.not_after
    }

    /// The SHA-256 of the certificate in lower-case hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex(&self.sha256)
    }
}

/// One line: who, by whom, until when.
impl fmt::Display for CertificateFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, issuer, serial, not_after, .. } = self;
        let names: Vec<_> = self
            .dns_names
            .iter()
            .cloned()
            .chain(self.ip_addresses.iter().map(IpAddr::to_string))
            .chain(self.uris.iter().cloned())
            .collect();
        write!(
            f,
            "{} [{}] by {}, serial {serial}, until {}",
            subject.name,
            names.join(" "),
            issuer.name,
            date(*not_after)
        )
    }
}

impl SubjectFacts {
    fn of(name: &X509Name<'_>) -> Self {
        fn first<'a, 'b: 'a>(
            mut values: impl Iterator<Item = &'a AttributeTypeAndValue<'b>>,
        ) -> Option<String> {
            values.next().and_then(|value| value.as_str().ok()).map(clean)
        }
        Self {
            name: clean(&name.to_string()),
            common_name: first(name.iter_common_name()),
            organization: first(name.iter_organization()),
            unit: first(name.iter_organizational_unit()),
            locality: first(name.iter_locality()),
            state: first(name.iter_state_or_province()),
            country: first(name.iter_country()),
        }
    }
}

/// One more name, unless there are too many. A name that had to be changed is not that name any more.
fn push(names: &mut Vec<String>, name: &str) {
    if names.len() < MAX_NAMES && clean(name) == name {
        names.push(name.to_owned());
    }
}

/// Text as it may stand in a log.
fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len().min(MAX_TEXT));
    for (index, character) in text.chars().enumerate() {
        if index == MAX_TEXT {
            cleaned.push('…');
            break;
        }
        if character.is_control() {
            cleaned.extend(character.escape_default());
        } else {
            cleaned.push(character);
        }
    }
    cleaned
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

pub(super) fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}

/// A day as `2030-01-31`, for operators.
pub(super) fn date(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let known = i64::try_from(seconds).ok().and_then(|seconds| ASN1Time::from_timestamp(seconds).ok());
    known.map_or_else(|| "an unknown day".into(), |time| time.to_datetime().date().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_made_safe_to_log() {
        assert_eq!(clean("a\nb\u{1b}[0m\u{0}"), "a\\nb\\u{1b}[0m\\u{0}");
        assert_eq!(clean(&"x".repeat(300)).chars().count(), MAX_TEXT + 1);
        let mut names = vec![];
        push(&mut names, "a\0b.test");
        assert!(names.is_empty(), "a name with a control character is no name");
        for _ in 0..100 {
            push(&mut names, "a.test");
        }
        assert_eq!(names.len(), MAX_NAMES);
    }

    #[test]
    fn days_are_written_in_full() {
        assert_eq!(date(UNIX_EPOCH + Duration::from_secs(1_893_456_000)), "2030-01-01");
        assert_eq!(
            system_time(ASN1Time::from_timestamp(-86400).unwrap()),
            UNIX_EPOCH - Duration::from_secs(86400)
        );
    }
}
