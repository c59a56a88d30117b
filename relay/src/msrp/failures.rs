//! What a sender is told of a request that was sent on and will not arrive.

use std::time::Instant;

use msrp_proto::header::FailureReport;
use msrp_proto::status::StatusCode;
use tracing::debug;

use super::counters::Count;
use super::origin::Origin;
use super::transactions::{Failure, Transaction};

/// Tells the sender of a request that it will not arrive.
pub(crate) fn tell_lost(transaction: Transaction, status: StatusCode, now: Instant) {
    match transaction {
        Transaction::Chunk(failure) => tell_failure(failure, status, now),
        Transaction::Path(origin) => {
            // Whatever befell it on the way, nobody answered in time (RFC 4975 §10.4).
            let status = StatusCode::REQUEST_TIMEOUT;
            answer(origin, now, Answer::Response(status), |origin, out| {
                origin.write_path_response(out, status);
            });
        }
    }
}

/// Tells the sender of a chunk that it will not arrive, if it wants to hear of it: an error response
/// while the chunk is unanswered, a REPORT afterwards (RFC 4976 §6.4.1).
pub(crate) fn tell_failure(failure: Failure, status: StatusCode, now: Instant) {
    let Failure { origin, answered, range } = failure;
    if origin.failure_report == FailureReport::No {
        return;
    }
    debug!(message = origin.message_id(), %status, %range, answered, "a chunk fails");
    if answered {
        let transaction = origin.source.as_ref().map(|source| source.new_transaction());
        let Some(transaction) = transaction else { return };
        answer(origin, now, Answer::Report, |origin, out| {
            origin.write_report(out, &transaction, status, range);
        });
    } else {
        answer(origin, now, Answer::Response(status), |origin, out| origin.write_hop_response(out, status));
    }
}

/// What a sender is told by, for the counters.
#[derive(Clone, Copy)]
enum Answer {
    Response(StatusCode),
    Report,
}

fn answer(origin: Box<Origin>, now: Instant, what: Answer, write: impl FnOnce(&Origin, &mut Vec<u8>)) {
    let Some(source) = origin.source.clone() else { return };
    let sent = source.with_queue(|queue| {
        queue.control(origin.session, |out| write(&origin, out));
        queue.recycle(origin);
    });
    if sent.is_ok() {
        match what {
            Answer::Response(status) => source.count_response(status),
            Answer::Report => source.count(Count::FailuresReported, 1),
        }
        source.flush(now);
    }
}
