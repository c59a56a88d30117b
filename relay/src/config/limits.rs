//! `limits` and `timeouts`: how much, and how long.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::error::KeyPath;
use super::form;
use super::value::{count, duration, duration_or_zero, optional_count, size};
use super::{Check, UserLimits};

/// How much the relay takes from others before it says no. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The largest head of a message, from `MSRP` to the empty line; a larger one is refused with 400, and
    /// one that is larger by more than 1 KiB closes the connection: heads grow on their way through relays. Default
    /// 16 KiB: a path of the longest permitted length with URIs of 500 bytes.
    #[serde(deserialize_with = "size")]
    #[schemars(with = "form::Size")]
    pub head_size: usize,
    /// The most header fields in a head; more are refused with 400, more than eight more close the connection. Default 64.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "form::Count")]
    pub headers: usize,
    /// The most URIs in To-Path and From-Path, each; more are refused with 400, more than eight more close the
    /// connection. Default 32.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "form::Count")]
    pub path_length: usize,
    /// The largest body of a request other than SEND. Default 10240 bytes, which RFC 4975 §7.1 sets as the
    /// limit for those.
    #[serde(deserialize_with = "size")]
    #[schemars(with = "form::Size")]
    pub non_send_body_size: usize,
    /// What waits at most for one session's slow receiver; then its sender is not read from until some of it
    /// has gone. Default 256 KiB: 20 ms at 100 Mbit/s.
    #[serde(deserialize_with = "size")]
    #[schemars(with = "form::Size")]
    pub session_buffer: usize,
    /// How many whole messages wait at most, whatever their size: chunks of one session's slow receiver, and
    /// responses, REPORTs and other requests of one connection. Then their senders are not read from until half of
    /// them have gone. Default 4096: one read of 64 KiB brings up to some 600, which need not pause it; and what is
    /// kept for each besides its bytes, about 500 bytes, makes 2 MiB.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "form::Count")]
    pub async_max_postponed_chunks: usize,
    /// The chunk size above which a chunk is interrupted when another message waits for the same connection
    /// (RFC 4975 §7.1.1). Default 2048 bytes, the RFC's figure.
    #[serde(deserialize_with = "size")]
    #[schemars(with = "form::Size")]
    pub interrupt_size: usize,
    /// The most sessions obtained over one connection; one more AUTH is refused. Default 1000.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "form::Count")]
    pub sessions_per_connection: usize,
    /// The most URIs of this relay in a row in one To-Path; more are a loop, and refused. Default 8.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "form::Count")]
    pub own_hops: usize,
    /// The most connections open at once, accepted and opened; one more is closed as soon as it is accepted.
    /// Default: none but the system's.
    #[serde(deserialize_with = "optional_count")]
    #[schemars(with = "form::Count")]
    pub max_connections: Option<usize>,
    /// The most connections accepted from one IPv4 address or IPv6 /64. Default: no limit, as thousands may share
    /// the address of one NAT.
    #[serde(deserialize_with = "optional_count")]
    #[schemars(with = "form::Count")]
    pub max_connections_per_address: Option<usize>,
    /// The most reads in which one head may arrive; more close the connection. Default: no limit, as a bad mobile
    /// link cuts a head in any number of pieces; `timeouts.head_timeout` is what protects.
    #[serde(deserialize_with = "optional_count")]
    #[schemars(with = "form::Count")]
    pub max_msg_chunks: Option<usize>,
    /// What a message must bring at least in each `timeouts.progress_timeout` once it has begun. Default 100 bytes:
    /// about one TCP segment of the smallest kind, and less than any head.
    #[serde(deserialize_with = "size")]
    #[schemars(with = "form::Size")]
    pub min_progress: usize,
    /// What each user may have and send, unless it has limits of its own.
    pub user: UserLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_size: 16 * 1024,
            headers: 64,
            path_length: 32,
            non_send_body_size: 10240,
            session_buffer: 256 * 1024,
            async_max_postponed_chunks: 4096,
            interrupt_size: 2048,
            sessions_per_connection: 1000,
            own_hops: 8,
            max_connections: None,
            max_connections_per_address: None,
            max_msg_chunks: None,
            min_progress: 100,
            user: UserLimits::default(),
        }
    }
}

impl Limits {
    /// Refuses values with which no relay works, or none is safe.
    pub(super) fn validate(&self, check: &mut Check<'_>) {
        let sizes = [
            ("head_size", self.head_size, 1024, 1024 * 1024),
            ("non_send_body_size", self.non_send_body_size, 1, 1024 * 1024),
            ("session_buffer", self.session_buffer, 4096, 1024 * 1024 * 1024),
            ("interrupt_size", self.interrupt_size, 1, usize::MAX),
            ("min_progress", self.min_progress, 1, 1024 * 1024),
        ];
        for (key, value, min, max) in sizes {
            if value < min || value > max {
                let message = format!("is {value} bytes, and goes from {min} to {max}");
                check.error(KeyPath::new(&["limits", key]), message);
            }
        }
        self.user.validate(&KeyPath::new(&["limits", "user"]), check);
        // A request carries To-Path, From-Path and what its method needs; a path through two relays has three hops.
        for (key, value, min, max) in
            [("headers", self.headers, 16, 10_000), ("path_length", self.path_length, 4, 1000)]
        {
            if value < min || value > max {
                check.error(
                    KeyPath::new(&["limits", key]),
                    format!("is {value}, and goes from {min} to {max}"),
                );
            }
        }
    }
}

/// How long the relay waits for others.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// From accepting a connection to its first good request; then it is closed. Default 30 s (RFC 4976 §6.1).
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    pub probation: Duration,
    /// How long a head may take from its first byte to its end; then the connection is closed. Default 30 s: three
    /// lost segments in a row and their retransmissions.
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    pub head_timeout: Duration,
    /// In which time a message must bring `limits.min_progress` once it has begun, while it is read at all; then
    /// the connection is closed. Peers with a verified certificate (relays) are exempt. Default 2 min: longer than
    /// a tunnel.
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    pub progress_timeout: Duration,
    /// How long one session may hold up a connection that others share; then its message is ended (`#` and a
    /// failure report) and the rest goes on. Default 5 s.
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    pub stall_timeout: Duration,
    /// How long a connection may take no byte while data waits for it; then it is closed. Default 30 s.
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    pub send_timeout: Duration,
    /// How long the next hop may take to answer a chunk after its last byte; then the sender gets a REPORT 408.
    /// Default 30 s (RFC 4976 §6.4.1).
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    pub response_timeout: Duration,
    /// How long connecting to one address may take before the next one is tried. Default 3 s: the SYN, and two
    /// more.
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    pub connect_timeout: Duration,
    /// How long a connection may be silent both ways; then it is closed. Default 1 h (RFC 4976 §6.5).
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    pub idle_timeout: Duration,
    /// How long a connection must be silent both ways before it may be closed to make room where no descriptor is left
    /// for another one (RFC 4976 §6.5): the longest silent first, after those without a session (which have 5 s at
    /// most), and never one with a message under way. `0s`: none is, and new connections wait until others end.
    /// Default 1 min.
    #[serde(deserialize_with = "duration_or_zero")]
    #[schemars(with = "form::DurationOrZero")]
    pub reclaim_after: Duration,
    /// How long a stopping relay lets sessions and messages go on; `0s` ends them at once. Processes before this one
    /// that still drain after an upgrade are waited for, too, and up to 5 s more. Default 10 s.
    #[serde(deserialize_with = "duration_or_zero")]
    #[schemars(with = "form::DurationOrZero")]
    pub drain_timeout: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            probation: seconds(30),
            head_timeout: seconds(30),
            progress_timeout: seconds(120),
            stall_timeout: seconds(5),
            send_timeout: seconds(30),
            response_timeout: seconds(30),
            connect_timeout: seconds(3),
            idle_timeout: seconds(60 * 60),
            reclaim_after: seconds(60),
            drain_timeout: seconds(10),
        }
    }
}
