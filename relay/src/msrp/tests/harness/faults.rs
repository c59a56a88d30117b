//! What networks and schedulers do to connections, one thing at a time; nothing here waits for rest.

use super::*;

impl World {
    /// How many connections there have been, those between relays from both ends.
    pub(in super::super) fn connections(&self) -> usize {
        self.conns.len()
    }

    /// The link of the connection of this number.
    pub(in super::super) fn link_at(&self, conn: usize) -> &Arc<Link> {
        &self.conns[conn].link
    }

    /// Whether the relay has not closed it.
    pub(in super::super) fn is_open_at(&self, conn: usize) -> bool {
        self.conns[conn].closed.is_none()
    }

    /// Whether the relay has stopped reading there.
    pub(in super::super) fn is_paused_at(&self, conn: usize) -> bool {
        self.conns[conn].paused
    }

    /// How often the relay's task for the client's connection was woken since the last call.
    pub(in super::super) fn take_wakes(&self, client: ClientId) -> usize {
        std::mem::take(&mut self.socket_of(client).0.lock().wakes)
    }

    /// What was read from the connection of this number and not understood yet.
    pub(in super::super) fn unread_at(&self, conn: usize) -> usize {
        self.conns[conn].buf.len()
    }

    /// The connection that leads from the other relay to this one.
    pub(in super::super) fn other_end(&self, conn: usize) -> Option<usize> {
        match self.conns[conn].other {
            Other::Relay(other) => Some(other),
            Other::Client(_) | Other::Nobody => None,
        }
    }

    /// Whether each message is a frame there.
    pub(in super::super) fn is_websocket_at(&self, conn: usize) -> bool {
        self.conns[conn].unframer.is_some()
    }

    /// What the relay has written there since the last call.
    pub(in super::super) fn take_written_at(&mut self, conn: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.conns[conn].socket.0.lock().records)
    }

    /// One thing happens: a connection's task has its turn, the network carries some bytes, a dial succeeds.
    pub(in super::super) fn nudge(&mut self, random: &Seeded) {
        let index = random.below(self.conns.len());
        match random.below(8) {
            0 => drop(self.settle_dials()),
            1..=4 => drop(self.turn(index)),
            _ => self.carry_some(index, 1 + random.below([2, 100, 5000][random.below(3)])),
        }
    }

    /// The network carries up to so many bytes of what a relay wrote.
    fn carry_some(&mut self, index: usize, len: usize) {
        let rest = {
            let mut state = self.conns[index].socket.0.lock();
            let len = len.min(state.unread.len());
            state.unread.split_off(len)
        };
        self.carry(index);
        let mut state = self.conns[index].socket.0.lock();
        state.unread.extend_from_slice(&rest);
    }

    /// The client writes these bytes and no others, which nobody reads yet.
    pub(in super::super) fn write_raw_later(&mut self, client: ClientId, bytes: &[u8]) {
        let conn = self.clients[client.0].conn;
        self.conns[conn].incoming.extend_from_slice(bytes);
    }

    /// The complete messages that have come since the last call, as things stand.
    pub(in super::super) fn take_now(&mut self, client: ClientId) -> Vec<Message> {
        let messages = &mut self.clients[client.0].messages;
        let complete = messages.iter().take_while(|message| message.flag.is_some()).count();
        messages.drain(..complete).collect()
    }

    /// The message that is coming, as things stand.
    pub(in super::super) fn coming_now(&self, client: ClientId) -> Option<&Message> {
        self.clients[client.0].messages.back().filter(|message| message.flag.is_none())
    }

    /// Whether the relay has closed the client's connection, as things stand.
    pub(in super::super) fn closed_now(&self, client: ClientId) -> Option<&CloseReason> {
        self.conns[self.clients[client.0].conn].closed.as_ref()
    }

    /// The client's connection is reset: what is under way either way is lost.
    pub(in super::super) fn reset(&mut self, client: ClientId) {
        let conn = self.clients[client.0].conn;
        self.conns[conn].incoming.clear();
        self.conns[conn].socket.0.lock().unread.clear();
        self.close(conn, CloseReason::Reset);
    }

    /// The client is gone, and nobody tells its relay.
    pub(in super::super) fn vanish(&mut self, client: ClientId) {
        let conn = self.clients[client.0].conn;
        self.conns[conn].incoming.clear();
        self.conns[conn].other = Other::Nobody;
    }

    /// The open connections between relays, by the end that dialled.
    pub(in super::super) fn hops(&self) -> Vec<usize> {
        let dialled = |conn: &Conn| conn.link.target().is_some() && conn.closed.is_none();
        (0..self.conns.len()).filter(|&index| dialled(&self.conns[index])).collect()
    }

    /// Whether the network carries anything from the relay at this end.
    pub(in super::super) fn hold(&mut self, conn: usize, held: bool) {
        self.conns[conn].held = held;
    }

    /// A connection between relays is lost with all that is under way on it. Both ends see it, or this one does not.
    pub(in super::super) fn cut(&mut self, conn: usize, seen_here: bool) {
        let Other::Relay(other) = self.conns[conn].other else { return };
        for end in [conn, other] {
            self.conns[end].incoming.clear();
            self.conns[end].socket.0.lock().unread.clear();
            self.conns[end].other = Other::Nobody;
        }
        self.close(other, CloseReason::Reset);
        if seen_here {
            self.close(conn, CloseReason::Reset);
        }
    }

    /// Connections whose other end is gone are reset.
    pub(in super::super) fn miss_the_lost(&mut self) {
        for index in 0..self.conns.len() {
            if matches!(self.conns[index].other, Other::Nobody) {
                self.close(index, CloseReason::Reset);
            }
        }
    }

    /// A dial that is under way fails. Says whether there was one.
    pub(in super::super) fn fail_a_dial(&mut self, relay: usize) -> bool {
        let link = self.relays[relay].dials.waiting.lock().pop_front();
        if let Some(link) = &link {
            self.relays[relay].relay.connect_failed(link, self.now);
        }
        link.is_some()
    }

    /// Every connection ends, in order. Gives their links, for whoever wants to see them go.
    pub(in super::super) fn close_everything(&mut self) -> Vec<std::sync::Weak<Link>> {
        for index in 0..self.conns.len() {
            self.close(index, CloseReason::PeerClosed);
        }
        for relay in 0..self.relays.len() {
            while self.fail_a_dial(relay) {}
        }
        let links = self.conns.iter().map(|conn| Arc::downgrade(&conn.link)).collect();
        self.conns.clear();
        links
    }
}
