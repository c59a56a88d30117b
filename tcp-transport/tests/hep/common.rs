//! What the tests share: collectors, and waiting for what must come.

use std::future::Future;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use tcp_transport::hep::{
    Counters, DestinationSettings, Dispatch, HepTransport, HepUri, Packet, PayloadType, Received, Receiver,
    ReceiverSettings, Sender,
};
use tcp_transport::tls::{
    ClientDomain, ClientDomainSettings, ClientDomains, ServerDomain, ServerDomainSettings, ServerDomains,
};
use tcp_transport::{Ledger, ListenerSettings, Transport};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

pub(crate) const LOCALHOST: &str = "127.0.0.1:0";

/// Far more than anything here takes; only a hang meets it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fails a test that hangs, with what it waited for.
pub(crate) async fn patiently<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("nothing happened: {what}"))
}

/// Waits until the counters of the only destination are as wanted. Nothing tells of them, so they are looked at.
pub(crate) async fn until(sender: &Sender, what: &str, wanted: impl Fn(&Counters) -> bool) -> Counters {
    patiently(what, async {
        loop {
            let counters = sender.counters()[0].1;
            add_up(&counters);
            if wanted(&counters) {
                return counters;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
}

/// Everything that was submitted was sent, dropped, or waits.
pub(crate) fn add_up(c: &Counters) {
    let dropped = c.dropped_by_queue + c.dropped_while_down + c.dropped_unsendable;
    assert_eq!(c.submitted, c.sent + dropped + c.waiting, "{c:?}");
}

pub(crate) fn packet(payload: impl Into<Bytes>) -> Packet {
    Packet::new(
        "192.0.2.1:1000".parse().unwrap(),
        "192.0.2.2:2855".parse().unwrap(),
        UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456),
        PayloadType::LOG,
        payload.into(),
    )
}

/// A destination that is tried again at once, and often.
pub(crate) fn destination(transport: HepTransport, to: SocketAddr) -> DestinationSettings {
    let uri = HepUri { transport, host: to.ip().to_string(), port: to.port() };
    DestinationSettings {
        retry_pause: Duration::from_millis(1),
        retry_cooldown: Duration::from_millis(20),
        max_retries: None,
        ..DestinationSettings::new("collector", uri)
    }
}

pub(crate) fn sender(settings: DestinationSettings) -> Sender {
    Sender::start(vec![settings], &Arc::default(), None).unwrap()
}

/// What a collector gets.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    packets: UnboundedReceiver<Received>,
    pub(crate) dispatch: Arc<Dispatch>,
}

impl Collector {
    pub(crate) fn start(transport: HepTransport, settings: ReceiverSettings, domains: ServerDomains) -> Self {
        let (forward, packets) = unbounded_channel();
        let dispatch = Arc::new(Dispatch::new(settings).with(move |received: &Received| {
            let _ = forward.send(received.clone());
            ControlFlow::Continue(())
        }));
        let address = LOCALHOST.parse().unwrap();
        let stream = |transport| {
            let settings = ListenerSettings::new(address, transport);
            Receiver::stream(settings, Arc::new(domains), &Arc::default(), dispatch.clone()).unwrap()
        };
        let receiver = match transport {
            HepTransport::Udp => Receiver::udp(address, dispatch.clone()).unwrap(),
            HepTransport::Tcp => stream(Transport::Tcp),
            HepTransport::Tls => stream(Transport::Tls),
        };
        let address = receiver.local_addr();
        tokio::spawn(receiver.run());
        Self { address, packets, dispatch }
    }

    pub(crate) fn of(transport: HepTransport) -> Self {
        Self::start(transport, ReceiverSettings::default(), ServerDomains::default())
    }

    pub(crate) async fn next(&mut self) -> Received {
        patiently("a packet", self.packets.recv()).await.unwrap()
    }

    pub(crate) fn got_nothing_more(&mut self) -> bool {
        self.packets.try_recv().is_err()
    }
}

/// A server for 127.0.0.1, and clients that trust it.
pub(crate) fn tls() -> (ServerDomains, Arc<ClientDomains>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let (certificate_file, key_file) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&certificate_file, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let mut server = ServerDomainSettings::new("collector", &certificate_file, &key_file);
    (server.verify_cert, server.require_cert) = (false, false);
    let server = ServerDomains::new([ServerDomain::load(&server).unwrap()]).unwrap();
    let mut client = ClientDomainSettings::new("hep");
    client.ca_list = Some(certificate_file);
    let client = ClientDomains::new(ClientDomain::load(&client).unwrap(), []).unwrap();
    (server, Arc::new(client), dir)
}

pub(crate) fn ledger() -> Arc<Ledger> {
    Arc::default()
}
