//! What server and client domains have in common: what they were loaded from, and how a new set of
//! them takes the place of the old one.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::TlsConfigError;
use super::certificate::{CertificateFacts, hex};
use super::expiry::Expiry;
use super::load::{Identity, Trust};

/// What a domain was made from, settings and files (but no private key: it belongs to its
/// certificate, so it changes with it). Two domains with the same fingerprint are exchangeable.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Enough of it to tell one loading of a domain from another.
    pub(super) fn short(self) -> String {
        hex(&self.0[..8])
    }
}

/// What a domain keeps of its files, besides what rustls needs.
pub(super) struct Parts {
    /// The facts of its own certificate, if it has one.
    pub(super) own: Option<Arc<CertificateFacts>>,
    pub(super) expiries: Vec<Expiry>,
    pub(super) fingerprint: Fingerprint,
}

impl Parts {
    /// `settings` names files and rules, and holds no secret.
    pub(super) fn new(settings: &impl fmt::Debug, identity: Option<&Identity>, trust: &Trust) -> Self {
        let mut digest = Sha256::new();
        digest.update(format!("{settings:?}"));
        let mut expiries = Vec::new();
        if let Some(identity) = identity {
            for certificate in &identity.key.cert {
                digest.update(certificate);
            }
            expiries.extend(identity.expiries.iter().cloned());
        }
        trust.add_to(&mut digest);
        expiries.extend(trust.expiries.iter().cloned());
        Self {
            own: identity.and_then(|identity| identity.facts.clone()),
            expiries,
            fingerprint: Fingerprint(digest.finalize().into()),
        }
    }
}

/// What replacing a set of domains came to, each list by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// New ones.
    pub added: Vec<String>,
    /// Those whose settings or files are different now.
    pub changed: Vec<String>,
    /// Those that are gone.
    pub removed: Vec<String>,
}

impl Changes {
    /// Whether all is as it was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

/// For logs: `added a, b; changed c`.
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [("added", &self.added), ("changed", &self.changed), ("removed", &self.removed)];
        let told: Vec<_> = lists
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{what} {}", names.join(", ")))
            .collect();
        f.write_str(if told.is_empty() { "nothing" } else { "" })?;
        f.write_str(&told.join("; "))
    }
}

pub(super) trait Domain {
    fn name(&self) -> &str;
    fn fingerprint(&self) -> Fingerprint;
}

/// The domains as a set.
pub(super) fn unique<D: Domain>(domains: impl IntoIterator<Item = D>) -> Result<Vec<Arc<D>>, TlsConfigError> {
    let mut all: Vec<Arc<D>> = Vec::new();
    for domain in domains {
        if all.iter().any(|known| known.name() == domain.name()) {
            return Err(TlsConfigError::Duplicate { domain: domain.name().to_owned() });
        }
        all.push(Arc::new(domain));
    }
    Ok(all)
}

/// `new`, but with the old one of each domain that has not changed.
pub(super) fn merge<D: Domain>(old: &[Arc<D>], new: &[Arc<D>]) -> (Vec<Arc<D>>, Changes) {
    let mut changes = Changes::default();
    let find = |among: &[Arc<D>], name: &str| among.iter().find(|domain| domain.name() == name).cloned();
    let merged = new
        .iter()
        .map(|domain| match find(old, domain.name()) {
            Some(old) if old.fingerprint() == domain.fingerprint() => old,
            Some(_) => {
                changes.changed.push(domain.name().to_owned());
                domain.clone()
            }
            None => {
                changes.added.push(domain.name().to_owned());
                domain.clone()
            }
        })
        .collect();
    let gone = old.iter().filter(|domain| find(new, domain.name()).is_none());
    changes.removed = gone.map(|domain| domain.name().to_owned()).collect();
    (merged, changes)
}
