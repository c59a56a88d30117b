//! What a domain's files are good until, so that somebody hears of it in time.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::certificate::date;

/// How long before a certificate's end its domain begins to warn: 30 days, `tls.expiry_warning`.
/// Certificates that are renewed by themselves are so by then; who renews by hand has time to.
pub const DEFAULT_EXPIRY_WARNING: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A day.
const DAY: u64 = 24 * 60 * 60;

/// Something in a domain's files that ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// What it is.
    pub kind: ExpiryKind,
    /// The subject of a certificate, the issuer of a CRL.
    pub name: String,
    /// The file it stands in.
    pub file: PathBuf,
    /// When it ends.
    pub at: SystemTime,
}

/// What ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiryKind {
    /// The domain's certificate, or one of its intermediates.
    Certificate,
    /// A CA of `ca_list` or `ca_dir`.
    Authority,
    /// A CRL: who it should have spoken about is refused once it has expired.
    Crl,
}

impl Expiry {
    /// What an operator should hear about it at `now`, if anything. A CRL lives for days, so it is
    /// named only when it has expired.
    #[must_use]
    pub fn warning(&self, now: SystemTime, window: Duration) -> Option<String> {
        let (kind, ended) = match self.kind {
            ExpiryKind::Certificate => ("certificate", "peers that verify it refuse us"),
            ExpiryKind::Authority => ("CA", "nothing it has signed verifies any more"),
            ExpiryKind::Crl => ("CRL of", "certificates that it speaks for are refused"),
        };
        let about = format!("{kind} {} in {}", self.name, self.file.display());
        match self.at.duration_since(now) {
            Err(_) => Some(format!("{about} has expired on {}: {ended}", date(self.at))),
            Ok(left) if left <= window && self.kind != ExpiryKind::Crl => {
                let days = left.as_secs() / DAY;
                let unit = if days == 1 { "day" } else { "days" };
                Some(format!("{about} expires in {days} {unit}, on {}", date(self.at)))
            }
            Ok(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_warning_comes_within_the_window_and_after_the_end() {
        let day = |days: u64| UNIX_EPOCH + Duration::from_secs(days * DAY);
        let window = Duration::from_secs(30 * DAY);
        let expiry = |kind| Expiry { kind, name: "CN=a".into(), file: "a.crt".into(), at: day(100) };
        let warning = |kind, now| expiry(kind).warning(now, window);
        use ExpiryKind::{Authority, Certificate, Crl};
        assert_eq!(warning(Certificate, day(69)), None);
        assert_eq!(
            warning(Certificate, day(70)).unwrap(),
            "certificate CN=a in a.crt expires in 30 days, on 1970-04-11"
        );
        assert_eq!(warning(Authority, day(99)).unwrap(), "CA CN=a in a.crt expires in 1 day, on 1970-04-11");
        assert_eq!(warning(Crl, day(99)), None);
        for kind in [Certificate, Authority, Crl] {
            let text = warning(kind, day(101)).unwrap();
            assert!(text.contains("has expired on 1970-04-11"), "{text}");
        }
        assert_eq!(expiry(Certificate).warning(day(99), Duration::ZERO), None, "a window of nothing");
        assert!(expiry(Certificate).warning(day(101), Duration::ZERO).is_some());
    }
}
