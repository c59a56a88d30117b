//! No body contains its own end-line (RFC 4975 §7.1).

use memchr::memmem::Finder;

use crate::ident::TransactionId;

/// Scans a chunk's body as it is sent, in slices of any size, for seven hyphens and the chunk's
/// transaction id. It is stricter than what [ends a body](crate::decoder): neither CRLF nor flag
/// is asked for, since §7.1 forbids the bare end-line.
#[derive(Clone, Debug)]
pub struct EndLineGuard {
    pattern: Finder<'static>,
    /// The last bytes let through, too few to be the pattern.
    tail: Vec<u8>,
}

impl EndLineGuard {
    /// The guard of a chunk of which nothing has been sent.
    pub fn new(transaction: &TransactionId) -> Self {
        let pattern = [b"-------", transaction.as_bytes()].concat();
        Self { pattern: Finder::new(&pattern).into_owned(), tail: Vec::with_capacity(2 * pattern.len()) }
    }

    /// Lets through as many bytes of `data`, which follows what was let through before, as may be
    /// sent under this transaction id. Less than all of them means: end the chunk here, and send the
    /// rest under another id.
    pub fn pass(&mut self, data: &[u8]) -> usize {
        let longest = self.pattern.needle().len() - 1;
        let before = self.tail.len();
        self.tail.extend_from_slice(&data[..data.len().min(longest)]);
        if let Some(found) = self.pattern.find(&self.tail) {
            let allowed = found.saturating_sub(before);
            self.tail.truncate(before + allowed);
            self.keep(longest);
            return allowed;
        }
        let allowed = self.pattern.find(data).unwrap_or(data.len());
        if allowed > longest {
            self.tail.clear();
            self.tail.extend_from_slice(&data[allowed - longest..allowed]);
        } else {
            self.tail.truncate(before + allowed);
            self.keep(longest);
        }
        allowed
    }

    fn keep(&mut self, longest: usize) {
        self.tail.drain(..self.tail.len().saturating_sub(longest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn guard() -> EndLineGuard {
        EndLineGuard::new(&TransactionId::new(b"abcd").unwrap())
    }

    #[test]
    fn the_end_line_is_stopped_wherever_it_is_cut() {
        let body = b"xy-------abcd$";
        assert_eq!(guard().pass(body), 2);
        for cut in 1..body.len() - 1 {
            let mut guard = guard();
            let first = guard.pass(&body[..cut]);
            if first < cut {
                assert_eq!(first, 2, "{cut}");
                continue;
            }
            assert!(guard.pass(&body[cut..]) < 13 - cut, "{cut}");
        }
    }

    #[test]
    fn look_alikes_pass() {
        for body in [b"------abcd$".as_slice(), b"-------abc-------abce", b"-------\r\nabcd", b""] {
            assert_eq!(guard().pass(body), body.len());
        }
        assert_eq!(guard().pass(b"--------abcd"), 1);
    }

    proptest! {
        #[test]
        fn what_passes_never_holds_the_pattern(
            body in "[-abcd]{0,80}|(-{5,8}|abcd|x){0,20}",
            cuts in prop::collection::vec(1usize..9, 1..40),
        ) {
            let mut guard = guard();
            let mut sent = Vec::new();
            let mut rest = body.as_bytes();
            for cut in cuts.iter().cycle() {
                let slice = &rest[..rest.len().min(*cut)];
                let allowed = guard.pass(slice);
                sent.extend_from_slice(&slice[..allowed]);
                rest = &rest[allowed..];
                if allowed < slice.len() || rest.is_empty() {
                    break;
                }
            }
            let holds = |text: &[u8]| memchr::memmem::find(text, b"-------abcd").is_some();
            prop_assert!(!holds(&sent));
            // Nothing was stopped without cause.
            prop_assert_eq!(rest.is_empty(), !holds(body.as_bytes()));
        }
    }
}
