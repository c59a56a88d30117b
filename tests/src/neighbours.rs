//! Two clients that are not concerned, and must not notice anything.

use crate::{Client, Daemon, Scheme, Send, Session, Site};

/// `carol` and `dave`, who chat with each other.
pub struct Neighbours {
    carol: Client,
    dave: Client,
    from_carol: Session,
    from_dave: Session,
}

impl Neighbours {
    /// Connects them over TLS.
    ///
    /// # Panics
    /// When they get no session.
    pub async fn join(daemon: &Daemon, site: &Site) -> Self {
        let (carol, from_carol) = Client::with_session(daemon, site, Scheme::Msrps, "carol").await;
        let (dave, from_dave) = Client::with_session(daemon, site, Scheme::Msrps, "dave").await;
        Self { carol, dave, from_carol, from_dave }
    }

    /// One message each way.
    ///
    /// # Panics
    /// When it does not arrive.
    pub async fn chat(&mut self) {
        let there = Send::text(&self.from_carol.to(&self.from_dave), "c", "how are you?");
        assert_eq!(self.carol.send(&there).await.status(), 200);
        assert_eq!(self.dave.receive().await.text(), "how are you?");
        let back = Send::text(&self.from_dave.to(&self.from_carol), "d", "fine");
        assert_eq!(self.dave.send(&back).await.status(), 200);
        assert_eq!(self.carol.receive().await.text(), "fine");
    }

    /// A fresh session of dave's for a third party to send to: the one used with carol is in use.
    pub async fn guest_session(&mut self) -> Session {
        self.dave.auth("dave", "davepw").await
    }

    /// The one who gets what is sent to [guest sessions](Self::guest_session).
    pub fn dave(&mut self) -> &mut Client {
        &mut self.dave
    }
}
