//! What a response means (RFC 4976 §6.4.3).

use std::sync::Arc;
use std::time::Instant;

use msrp_proto::digest::Challenge;
use msrp_proto::encoder::HeadWriter;
use msrp_proto::flag::Flag;
use msrp_proto::head::Head;
use msrp_proto::header::Name;
use msrp_proto::status::StatusCode;
use msrp_proto::uri::UriRef;
use smallvec::SmallVec;
use tcp_transport::connection::CloseReason;
use tracing::debug;

use super::Relay;
use super::failures::tell_failure;
use super::link::Link;
use super::origin::Origin;
use super::transactions::Transaction;

impl Relay {
    /// Handles a response that came over `link`. The session it is traced under is `seen`, if it is known, before
    /// anything is sent that it causes.
    pub(crate) fn response(
        &self,
        head: &Head,
        status: StatusCode,
        link: &Arc<Link>,
        now: Instant,
        seen: impl FnOnce(Option<u128>),
    ) {
        let id = head.transaction_id();
        // To what was passed on in another's name (`super::kin`) it is for that one.
        if link.stands_for().is_none() && !head.to_path().next().is_some_and(|uri| self.is_us(&uri)) {
            debug!(link = link.id(), transaction = %id, "response for another: dropped");
            return seen(None);
        }
        let mut session = None;
        let transaction = link.with_used_queue(|queue| {
            let known = queue.response(&id);
            session = known.as_ref().and_then(|known| known.origin().session);
            match known {
                Some(Transaction::Chunk(failure)) if status.is_success() => {
                    queue.recycle(failure.origin);
                    None
                }
                Some(transaction) => Some(transaction),
                // An error before the end of the chunk it answers.
                None if !status.is_success() => {
                    let failed = queue.fail_current(&id);
                    session = failed.as_ref().and_then(|failure| failure.origin.session);
                    failed.map(Transaction::Chunk)
                }
                None => None,
            }
        });
        seen(session);
        match transaction {
            Some(Some(Transaction::Chunk(failure))) => {
                tell_failure(failure, status, now);
            }
            Some(Some(Transaction::Path(origin))) => self.forward_response(head, status, &origin, now),
            Some(None) | None => {}
        }
    }

    /// Sends the response to an AUTH or an unknown method on to the previous hop, under the
    /// transaction id that hop chose.
    fn forward_response(&self, head: &Head, status: StatusCode, origin: &Origin, now: Instant) {
        let Some(source) = &origin.source else { return };
        let hops: SmallVec<[_; 4]> = head.to_path().collect();
        let (ours, others) = hops.split_at(origin.own_hops.min(hops.len()));
        if others.is_empty() || !ours.iter().all(|uri| self.is_us(uri)) {
            debug!(link = source.id(), "response does not lead back the way of its request: dropped");
            return;
        }
        if !self.keeps_to_limits(head) {
            debug!(link = source.id(), "response exceeds our limits: dropped");
            return;
        }
        let sent = source.send_control_of(origin.session, |out| {
            // The one removed last stands first: it is the nearest to the next hop.
            let passed = ours.iter().rev().map(UriRef::as_str);
            HeadWriter::forwarded(out, &origin.transaction, head.after_transaction_id())
                .path(Name::ToPath, [head.to_path_text(ours.len())])
                .path(Name::FromPath, passed.chain([head.from_path_text()]))
                .lines(head.bytes_after_paths())
                .end(Flag::Complete);
        });
        if sent.is_err() {
            return;
        }
        source.flush(now);
        if !origin.is_auth_attempt || !self.counts_failed_auths(source, origin.is_relayed) {
            return;
        }
        if status == StatusCode::UNAUTHORIZED && !is_stale(head) {
            let failed = source.auth_failed_at(origin.destination()) as usize;
            if failed >= self.current().auth.max_failures {
                source.request_close(CloseReason::Protocol("AUTH keeps failing at other relays".into()));
            }
        } else if status.is_success() {
            source.auth_succeeded_at(origin.destination());
        }
    }

    /// Several failed AUTHs close a client's connection, never a relay's (RFC 4976 §6.3).
    pub(crate) fn counts_failed_auths(&self, link: &Link, relayed: bool) -> bool {
        !(relayed && link.is_verified())
    }
}

fn is_stale(head: &Head) -> bool {
    head.values(Name::WwwAuthenticate)
        .any(|value| Challenge::parse(value).is_ok_and(|challenge| challenge.stale()))
}
