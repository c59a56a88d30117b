//! What the core counts: monotonic, exact, and cheap enough to be always on.
//!
//! The counters stand in several [shards](SHARDS), each on cache lines of its own, and a link counts in the one its
//! number gives: two connections that are busy on two threads seldom write to the same line. Reading adds the
//! shards up, so a sum that is read while traffic goes on is one that was true of each shard at some moment of the
//! reading; once traffic has stopped it is exact.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use msrp_proto::head::Method;
use msrp_proto::status::StatusCode;

/// How many links count without getting into each other's way.
const SHARDS: usize = 16;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Count {
            $($(#[$doc])* $name,)*
        }

        impl Count {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

counts! {
    /// SEND requests whose head has come.
    SendsReceived,
    /// REPORT requests whose head has come.
    ReportsReceived,
    /// AUTH requests whose head has come, those for other relays included.
    AuthsReceived,
    /// Requests of other methods whose head has come.
    OthersReceived,
    /// Responses that have come, of status 200.
    SuccessesReceived,
    /// Responses that have come, of any other status.
    ErrorsReceived,
    /// Body bytes of SENDs that have come and were not refused.
    BodyBytesReceived,
    /// SENDs that were given whole to the next hop's queue.
    ChunksForwarded,
    /// Those of them that end their message (`$`).
    MessagesForwarded,
    /// SENDs that were begun at the next hop and ended early (`#`): refused, stalled, or their sender was lost.
    ChunksAbandoned,
    /// Body bytes of SENDs that were given to the next hop's queue.
    BodyBytesForwarded,
    /// REPORTs that were sent on.
    ReportsForwarded,
    /// REPORTs that led nowhere.
    ReportsDropped,
    /// AUTHs for other relays, and requests of other methods, that were sent on.
    OthersForwarded,
    /// REPORTs of a failure by this relay itself.
    FailuresReported,
    /// Transactions that nobody has answered in time.
    TransactionsTimedOut,
    /// AUTHs that made a session.
    AuthsGranted,
    /// AUTHs without credentials, which were answered with a challenge.
    AuthsChallenged,
    /// AUTHs with the right password and an old nonce.
    AuthsStale,
    /// AUTHs with wrong credentials.
    AuthsFailed,
    /// AUTHs that could not be decided, as the source of credentials was away.
    AuthsUndecided,
    /// AUTHs refused for anything else.
    AuthsRefused,
    /// Sessions that lasted to their end.
    SessionsExpired,
    /// Sessions that ended with their client's connection.
    SessionsDisconnected,
    /// Sessions ended by the operator.
    SessionsTerminated,
    /// Sessions that ended with the relay.
    SessionsShutDown,
}

/// The statuses of RFC 4975 §10 and RFC 4976 §7, and 0 for any other.
const STATUSES: [u16; 12] = [200, 400, 401, 403, 408, 413, 415, 423, 481, 501, 506, 0];

/// What has been counted. Reading adds up what links have counted apart: exact once traffic has stopped.
pub struct Counters {
    shards: Box<[Shard; SHARDS]>,
}

#[repr(align(128))]
#[derive(Default)]
struct Shard {
    counts: [AtomicU64; Count::ALL.len()],
    responses: [AtomicU64; STATUSES.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self { shards: Box::new(std::array::from_fn(|_| Shard::default())) }
    }
}

impl Counters {
    /// Adds to what the link of this number has counted.
    pub(crate) fn add(&self, link: u64, count: Count, n: u64) {
        let shard = &self.shards[link as usize % SHARDS];
        shard.counts[count as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// A response was sent.
    pub(crate) fn responded(&self, link: u64, status: StatusCode) {
        let place = STATUSES.iter().position(|known| *known == status.as_u16());
        let shard = &self.shards[link as usize % SHARDS];
        shard.responses[place.unwrap_or(STATUSES.len() - 1)].fetch_add(1, Ordering::Relaxed);
    }

    /// A request's head has come.
    pub(crate) fn received(&self, link: u64, method: Method<'_>) {
        let count = match method {
            Method::Send => Count::SendsReceived,
            Method::Report => Count::ReportsReceived,
            Method::Auth => Count::AuthsReceived,
            Method::Other(_) => Count::OthersReceived,
        };
        self.add(link, count, 1);
    }

    /// How much was counted.
    #[must_use]
    pub fn get(&self, count: Count) -> u64 {
        self.shards.iter().map(|shard| shard.counts[count as usize].load(Ordering::Relaxed)).sum()
    }

    /// How many responses this relay has made itself, by status; 0 stands for those it knows no name for. Responses
    /// that it passed on are not among them.
    pub fn responses(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        STATUSES.into_iter().enumerate().map(|(index, status)| {
            let of = |shard: &Shard| shard.responses[index].load(Ordering::Relaxed);
            (status, self.shards.iter().map(of).sum())
        })
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(Count::ALL.iter().map(|count| (count, self.get(*count)))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_counts_into_the_same_sum() {
        let counters = Counters::default();
        for link in 0..40 {
            counters.add(link, Count::BodyBytesReceived, 3);
            counters.received(link, Method::Send);
        }
        assert_eq!(counters.get(Count::BodyBytesReceived), 120);
        assert_eq!((counters.get(Count::SendsReceived), counters.get(Count::ReportsReceived)), (40, 0));
    }

    #[test]
    fn responses_are_counted_by_status_and_unknown_ones_together() {
        let counters = Counters::default();
        let odd = StatusCode::new(299).unwrap();
        for status in [StatusCode::OK, StatusCode::OK, StatusCode::NO_SUCH_SESSION, odd] {
            counters.responded(7, status);
        }
        let of = |wanted| counters.responses().find(|(status, _)| *status == wanted).unwrap().1;
        assert_eq!((of(200), of(481), of(0), of(403)), (2, 1, 1, 0));
    }
}
