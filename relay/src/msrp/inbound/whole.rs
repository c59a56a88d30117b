//! Requests other than SEND: small, and handled when they are complete.

use std::sync::Arc;
use std::time::Instant;

use msrp_proto::encoder::{self, HeadWriter};
use msrp_proto::flag::Flag;
use msrp_proto::head::{Head, Kind, Method};
use msrp_proto::header::Name;
use msrp_proto::status::StatusCode;
use tcp_transport::connection::CloseReason;
use tracing::{debug, info};

use super::{Inbound, Waiting, WaitingOn, foreign, lost, touch};
use crate::msrp::counters::Count;
use crate::msrp::link::Closed;
use crate::msrp::route::Refusal;
use crate::msrp::session::Traffic;

impl Inbound {
    /// A request other than SEND, complete.
    pub(super) fn whole(
        &mut self,
        head: &Head,
        body: &[u8],
        flag: Flag,
        now: Instant,
    ) -> Result<(), CloseReason> {
        touch(&mut self.touched, &self.link);
        let Kind::Request(method) = head.kind() else { return Ok(()) };
        // What comes over a connection that stands for a relay's is for that one.
        let passed = self.link.stands_for().is_some();
        if method == Method::Auth && head.to_path().len() == 1 && !passed {
            return self.auth(head, now);
        }
        let route = self.relay.route(head, &self.link, now).map_err(|refusal| match (refusal, method) {
            // Our domain, but none of our listeners: for us, and no session.
            (Refusal::Foreign, Method::Auth) => {
                Refusal::Status(StatusCode::NO_SUCH_SESSION, "no session in the first URI")
            }
            (refusal, _) => refusal,
        });
        let route = match route {
            Ok((route, _)) => route,
            Err(Refusal::Foreign) => return Err(foreign(head)),
            Err(Refusal::Status(status, reason)) => {
                let method = method.as_str();
                info!(link = self.link.id(), peer = self.link.address(), method, %status, reason, to = head.to_path_text(0), "request refused");
                if method == "REPORT" {
                    self.link.count(Count::ReportsDropped, 1);
                } else {
                    self.respond_along_path(head, status);
                }
                return self.count_refusal();
            }
        };
        self.proved();
        let transaction = self.link.new_transaction();
        let link = &self.link;
        let overfull = &mut self.overfull;
        let pushed = route.link.with_queue(|queue| {
            if method != Method::Report && queue.is_full_of_transactions() {
                return None;
            }
            if *overfull == Some(route.link.id()) {
                if !queue.is_relieved_of_control() {
                    return None;
                }
                *overfull = None;
            }
            let mut origin = queue.spare_origin();
            let wishes = (head.failure_report().unwrap_or_default(), None);
            origin.set(Arc::clone(link), head, wishes, route.own_uris(), route.correlation());
            let pushed = if head.has_body() {
                queue.control_with_end_line(
                    origin.session,
                    |out| {
                        origin.write_head(out, &transaction, None).body();
                        out.extend_from_slice(body);
                    },
                    |out| encoder::end_line(out, &transaction, flag),
                )
            } else {
                queue.control(origin.session, |out| origin.write_head(out, &transaction, None).end(flag))
            };
            if method == Method::Report {
                queue.recycle(origin);
            } else {
                queue.await_path_response(transaction, origin, now);
            }
            Some(pushed)
        });
        touch(&mut self.touched, &route.link);
        match pushed {
            Ok(Some(pushed)) => {
                if method == Method::Report {
                    self.link.count(Count::ReportsForwarded, 1);
                    route.through.count(Traffic::count_report);
                } else {
                    self.link.count(Count::OthersForwarded, 1);
                }
                if pushed.full {
                    self.waiting = Some(Box::new(Waiting { since: now, on: WaitingOn::Control(route.link) }));
                }
            }
            Ok(None) => {
                info!(
                    link = self.link.id(),
                    peer = self.link.address(),
                    target = route.link.id(),
                    "request refused: too many wait there"
                );
                if method == Method::Report {
                    self.link.count(Count::ReportsDropped, 1);
                } else {
                    self.respond_along_path(head, StatusCode::REQUEST_TIMEOUT);
                }
            }
            Err(Closed) if method == Method::Report => {
                debug!(link = self.link.id(), "REPORT dropped: the next hop is gone");
                self.link.count(Count::ReportsDropped, 1);
            }
            Err(Closed) => self.respond_along_path(head, lost(&route.link)),
        }
        Ok(())
    }

    /// Tells who watches whose the connection is: a client's, who has obtained a session. One that a relay asks for on
    /// another's behalf says nothing of the connection.
    pub(super) fn granted(&self) {
        let Some(watch) = &self.watch else { return };
        let session = self.link.owned().last().and_then(|id| self.relay.sessions.get(*id));
        if let Some(session) = session {
            watch.tap().authenticated(session.user());
        }
    }

    pub(super) fn auth_refused(&self, head: &Head) -> Result<(), CloseReason> {
        if !self.relay.counts_failed_auths(&self.link, head.from_path().len() > 1) {
            return Ok(());
        }
        let failed = self.link.auth_failed();
        if failed as usize >= self.relay.current().auth.max_failures {
            return Err(CloseReason::Protocol(format!("{failed} AUTH requests failed").into()));
        }
        Ok(())
    }

    fn respond_along_path(&mut self, head: &Head, status: StatusCode) {
        let Some(ours) = head.to_path().next() else { return };
        let _ = self.link.send_control_of(self.relay.session_of(head.to_path()), |out| {
            HeadWriter::response(out, &head.transaction_id(), status)
                .path(Name::ToPath, [head.from_path_text()])
                .path(Name::FromPath, [ours.as_str()])
                .end(Flag::Complete);
        });
        self.link.count_response(status);
        touch(&mut self.touched, &self.link);
    }
}
