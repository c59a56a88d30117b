//! Responses: back where the request came from (RFC 3261 §16.7 step 3, §16.11).

use bytes::Bytes;
use tcp_transport::sip::{Message, Name, Start};

use super::edge::{Destination, Edge, Flow, Outcome, Reason, Scratch, Side};
use super::keys::{Came, Went};
use super::request::RETURN_PARAM;
use super::route::remove_values;
use super::upstream::Probe;

impl Edge {
    pub(super) fn response(
        &self,
        message: &Message,
        from: &Flow,
        scratch: &mut Scratch,
        out: &mut Vec<Bytes>,
    ) -> Outcome {
        let head = &message.head;
        let not_ours = Outcome::Drop(Reason::NotOurs);
        let Some(via) = head.top_via().filter(|via| self.is_own_via(via.host(), via.port())) else {
            return not_ours;
        };
        let (Some(token), Some(branch)) = (via.param(RETURN_PARAM), via.branch()) else { return not_ours };
        let Ok((came, went)) = self.keys.read_return(token, branch) else { return not_ours };
        let expected = match (went, from.side) {
            (Went::Client(connection), Side::Client(_)) => connection == from.connection,
            (Went::Upstream, Side::Upstream(_)) => true,
            _ => false,
        };
        if !expected {
            return Outcome::Drop(Reason::WrongConnection);
        }
        let to = match came {
            Came::Client(connection) => Destination::Client(connection),
            Came::Upstream(index, connection) => {
                Destination::Upstream { index: usize::from(index), over: Some(connection) }
            }
            Came::Probe(upstream, sequence) => {
                let Start::Response { status } = head.start() else { return not_ours };
                return Outcome::Probed(Probe { upstream: usize::from(upstream), sequence }, status);
            }
        };
        let mut vias = head.values(Name::Via).filter_map(Result::ok);
        let Some(own) = vias.next() else { return not_ours };
        // Without one below, nobody could take it (RFC 3261 §16.7 step 3: it is for us, and we asked for nothing).
        let Some(next) = vias.next() else { return not_ours };
        scratch.rewrite.clear();
        remove_values(&[own], Some(&next), &mut scratch.rewrite);
        self.write_length(message, scratch);
        scratch.rewrite.apply(head, out);
        if !message.body.is_empty() {
            out.push(message.body.clone());
        }
        Outcome::Send(to)
    }
}
