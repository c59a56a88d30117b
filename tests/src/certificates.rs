//! Certificates and files of one test.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use tempfile::TempDir;

/// A directory with certificates: `ca.pem`, the authority that everybody trusts; `foreign-ca.pem`,
/// one that nobody trusts; and, for each identity, `NAME.crt` and `NAME.key`.
///
/// There from the start: `relay` (relay.test, localhost, 127.0.0.1, ::1), `relay-b` (relay-b.test),
/// `expired` and `foreign` (both for the names of `relay`), and `client` (client.test).
pub struct Site {
    directory: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
    foreign: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// The names of the usual relay.
const RELAY_NAMES: [&str; 4] = ["relay.test", "localhost", "127.0.0.1", "::1"];

impl Site {
    /// Makes the directory, the authorities and the usual identities.
    #[must_use]
    pub fn new() -> Self {
        let site = Self {
            directory: TempDir::with_prefix("msrp-relay-e2e-").expect("temporary directory"),
            authority: authority("Test CA"),
            foreign: authority("Foreign CA"),
        };
        fs::write(site.path("ca.pem"), site.authority.pem()).expect("ca.pem");
        fs::write(site.path("foreign-ca.pem"), site.foreign.pem()).expect("foreign-ca.pem");
        site.issue("relay", &RELAY_NAMES);
        site.issue("relay-b", &["relay-b.test"]);
        site.issue("client", &["client.test"]);
        site.write_identity("foreign", &parameters(&RELAY_NAMES), &site.foreign);
        let mut expired = parameters(&RELAY_NAMES);
        expired.not_before = date_time_ymd(2020, 1, 1);
        expired.not_after = date_time_ymd(2021, 1, 1);
        site.write_identity("expired", &expired, &site.authority);
        site
    }

    /// Makes an identity with these subject alternative names; an IP literal becomes an iPAddress.
    pub fn issue(&self, name: &str, subject_alt_names: &[&str]) -> Identity {
        self.write_identity(name, &parameters(subject_alt_names), &self.authority)
    }

    /// As [`issue`](Self::issue), good from a day before now until `left` after now.
    pub fn issue_for(&self, name: &str, subject_alt_names: &[&str], left: Duration) -> Identity {
        let mut parameters = parameters(subject_alt_names);
        let now = SystemTime::now();
        parameters.not_before = (now - Duration::from_secs(24 * 60 * 60)).into();
        parameters.not_after = (now + left).into();
        self.write_identity(name, &parameters, &self.authority)
    }

    /// An identity made before.
    #[must_use]
    pub fn identity(&self, name: &str) -> Identity {
        Identity { certificate: self.path(&format!("{name}.crt")), key: self.path(&format!("{name}.key")) }
    }

    /// A file of the directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file, and gives its full path.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("write a file of the site");
        path
    }

    fn write_identity(
        &self,
        name: &str,
        parameters: &CertificateParams,
        issuer: &CertifiedIssuer<'static, KeyPair>,
    ) -> Identity {
        let key = KeyPair::generate().expect("key");
        let certificate = parameters.signed_by(&key, issuer).expect("certificate");
        let identity = self.identity(name);
        fs::write(&identity.certificate, certificate.pem()).expect("write a certificate");
        fs::write(&identity.key, key.serialize_pem()).expect("write a key");
        identity
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().expect("key")).expect("authority")
}

fn parameters(subject_alt_names: &[&str]) -> CertificateParams {
    let names: Vec<String> = subject_alt_names.iter().map(|&name| name.to_owned()).collect();
    CertificateParams::new(names).expect("subject alternative names")
}
