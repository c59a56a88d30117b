//! Tracing: what collectors are told of connections and messages, and what they are not.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use tcp_transport::event::{Direction, Subscription};
use tcp_transport::hep::trace::{
    ConnectionTrace, Filter, MAX_MESSAGE, Message, Rule, SentBy, TraceSettings, TraceState, Tracer, What,
};
use tcp_transport::hep::{
    ChunkOrder, DestinationSettings, Encoding, EventFormat, HepTransport, Packet, PayloadType, Sender,
};
use tcp_transport::tls::{ClientDomains, HandshakeError, ServerDomains};
use tcp_transport::{
    Acceptor, BoundListener, ConnectSettings, ConnectionEvent, ConnectionId, ConnectionLimits, Connector,
    Events, Ledger, ListenerSettings, Reporting, Scheme, Stream, Target, Transport,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::common::{Collector, LOCALHOST, destination, ledger, patiently, tls};

/// A ledger under trace, with a server in it.
struct Scene {
    collector: Collector,
    sender: Arc<Sender>,
    tracer: Tracer,
    ledger: Arc<Ledger>,
    events: Subscription,
    server: SocketAddr,
    accepted: UnboundedReceiver<Stream>,
    domains: Option<Arc<ClientDomains>>,
}

struct Server(UnboundedSender<Stream>);

impl Acceptor for Server {
    fn accepted(&self, stream: Stream) {
        let _ = self.0.send(stream);
    }

    fn handshake_failed(&self, _peer: SocketAddr, _error: HandshakeError) {}
}

impl Scene {
    fn new(settings: TraceSettings) -> Self {
        Self::with(settings, |_| {}, Transport::Tcp, ServerDomains::default(), None)
    }

    fn with(
        mut settings: TraceSettings,
        change: impl FnOnce(&mut DestinationSettings),
        transport: Transport,
        server: ServerDomains,
        domains: Option<Arc<ClientDomains>>,
    ) -> Self {
        let collector = Collector::of(HepTransport::Tcp);
        let mut to = destination(HepTransport::Tcp, collector.address);
        to.encoding = Encoding { order: ChunkOrder::OpenSips, ..Encoding::default() };
        change(&mut to);
        // A ledger of its own: what the sender does is not part of what is traced here.
        let sender = Arc::new(Sender::start(vec![to], &ledger(), None).unwrap());
        let ledger = ledger();
        let scheme = if transport == Transport::Tls { Scheme::Msrps } else { Scheme::Msrp };
        let listener = ListenerSettings {
            scheme: Some(scheme),
            ..ListenerSettings::new(LOCALHOST.parse().unwrap(), transport)
        };
        let listener = BoundListener::bind(listener, Arc::new(server)).unwrap().with_ledger(ledger.clone());
        let address = listener.local_addr();
        settings.listeners.insert(address, "outside".into());
        let tracer = Tracer::start(settings, sender.clone(), &ledger);
        let (streams, accepted) = unbounded_channel();
        tokio::spawn(listener.run(Arc::new(Server(streams))));
        let events = ledger.events().subscribe();
        Self { collector, sender, tracer, ledger, events, server: address, accepted, domains }
    }

    /// Our end of a connection to us, and the other.
    async fn connect(&mut self, transport: Transport) -> (Stream, Stream) {
        let connector =
            Connector::new(ConnectSettings::default(), |_, _| true).with_ledger(self.ledger.clone());
        let target = Target { host: "127.0.0.1".into(), port: self.server.port(), transport };
        let scheme = if transport == Transport::Tls { Scheme::Msrps } else { Scheme::Msrp };
        let choice = self.domains.as_ref().map(|domains| domains.for_listener(None));
        let choice = choice.as_ref().map(|choice| choice as _);
        let out = patiently("connect", connector.connect_for(&target, choice, Some(scheme))).await.unwrap();
        (out, patiently("accept", self.accepted.recv()).await.unwrap())
    }

    /// The next traced event, which must be of this kind.
    async fn event(&mut self, kind: &str) -> (Packet, Value) {
        let packet = self.collector.next().await.packet;
        assert_eq!(packet.payload_type, Some(PayloadType::CONNECTION_EVENT));
        let value: Value = serde_json::from_slice(packet.payload.as_deref().unwrap()).unwrap();
        assert_eq!(value["Kind"], kind, "{value}");
        (packet, value)
    }

    async fn told(&mut self) -> Arc<ConnectionEvent> {
        patiently("event", self.events.next()).await.unwrap()
    }

    /// What has been traced until now: a packet that is none of the tracer's ends the look.
    async fn sent(&mut self) -> Vec<(u64, String)> {
        self.sender.send(&crate::common::packet("end of the look"));
        let mut seen = Vec::new();
        loop {
            let packet = self.collector.next().await.packet;
            let Ok(value) = serde_json::from_slice::<Value>(packet.payload.as_deref().unwrap()) else {
                return seen;
            };
            let id = std::str::from_utf8(packet.correlation_id.as_deref().unwrap()).unwrap().parse().unwrap();
            seen.push((id, value["Kind"].as_str().unwrap().to_owned()));
        }
    }

    /// Until the tracer has seen everything that happened; then what it sent.
    async fn settled(&mut self, events: usize) -> Vec<(u64, String)> {
        for _ in 0..events {
            self.told().await;
        }
        // The tracer subscribed before this test did, and both are tasks of one thread: it has its turn.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        self.sent().await
    }
}

fn text(bytes: Option<&Bytes>) -> &str {
    std::str::from_utf8(bytes.unwrap()).unwrap()
}

#[tokio::test]
async fn a_connection_is_traced_from_beginning_to_end_with_its_true_addresses() {
    let mut scene = Scene::new(TraceSettings::default());
    let (out, inward) = scene.connect(Transport::Tcp).await;
    let (client, server) = (out.local_addr(), scene.server);
    out.write_all(b"hello").await.unwrap();
    let mut buf = BytesMut::new();
    inward.read(&mut buf, 100).await.unwrap();

    let (packet, value) = scene.event("tcp:connecting").await;
    assert_eq!(packet.source(), Some("0.0.0.0:0".parse().unwrap()), "ours is not known yet");
    assert_eq!(packet.destination(), Some(server));
    assert_eq!((&value["Event"], &value["Status"]), (&"CONNECT_START".into(), &"SUCCESS".into()));
    let mut accepted = None;
    for _ in 0..2 {
        let packet = scene.collector.next().await.packet;
        // Of our own connect we are the source, and of theirs they are: the same two here.
        assert_eq!((packet.source(), packet.destination()), (Some(client), Some(server)));
        let value: Value = serde_json::from_slice(packet.payload.as_deref().unwrap()).unwrap();
        assert_eq!((&value["Protocol"], &value["Status"]), (&"MSRP".into(), &"SUCCESS".into()));
        let id = if value["Event"] == "ACCEPTED" { inward.entry().id() } else { out.entry().id() };
        assert_eq!(text(packet.correlation_id.as_ref()), id.to_string());
        if value["Event"] == "ACCEPTED" {
            accepted = packet.time();
        }
    }
    assert!(accepted.unwrap() <= SystemTime::now());
    let order: Vec<u16> = {
        let wire = packet.encode(Encoding { order: ChunkOrder::OpenSips, ..Encoding::default() }).unwrap();
        let mut kinds = Vec::new();
        let mut at = 6;
        while at < wire.len() {
            kinds.push(u16::from_be_bytes([wire[at + 2], wire[at + 3]]));
            at += usize::from(u16::from_be_bytes([wire[at + 4], wire[at + 5]]));
        }
        kinds
    };
    assert_eq!(order, [1, 2, 7, 8, 9, 0xa, 0xb, 0xc, 3, 4, 0xf, 0x11]);
    let id = inward.entry().id();
    drop(inward);
    let (packet, value) = scene.event("tcp:closed").await;
    assert_eq!(text(packet.correlation_id.as_ref()), id.to_string());
    assert_eq!((packet.source(), packet.destination()), (Some(client), Some(server)));
    assert_eq!(
        (&value["Event"], &value["BytesIn"], &value["BytesOut"]),
        (&"CLOSED".into(), &5.into(), &0.into())
    );
    assert_eq!(value["Message"], "its task was ended");
    assert!(value["Duration"].as_f64().unwrap() >= 0.0);
}

#[tokio::test]
async fn the_facts_of_tls_are_told_and_none_of_its_secrets() {
    let (server, client, _dir) = tls();
    let mut scene = Scene::with(TraceSettings::default(), |_| {}, Transport::Tls, server, Some(client));
    let pair = scene.connect(Transport::Tls).await;
    scene.event("tcp:connecting").await;
    for _ in 0..2 {
        let packet = scene.collector.next().await.packet;
        let value: Value = serde_json::from_slice(packet.payload.as_deref().unwrap()).unwrap();
        assert_eq!((&value["Protocol"], &value["TlsVersion"]), (&"MSRPS".into(), &"TLSv1.3".into()));
        assert!(value["TlsCipher"].is_string() && value["server-subject"].is_string(), "{value}");
        assert!(value["TlsDomain"] == "collector" || value["PeerVerified"] == true, "{value}");
        let text = value.to_string().to_lowercase();
        assert!(!text.contains("master") && !text.contains("secret"));
    }
    drop(pair);
}

#[tokio::test]
async fn a_connection_that_does_not_come_up_is_a_failure_of_its_beginning() {
    let mut scene = Scene::new(TraceSettings::default());
    let connector = Connector::new(ConnectSettings::default(), |_, _| true).with_ledger(scene.ledger.clone());
    let free = std::net::TcpListener::bind(LOCALHOST).unwrap().local_addr().unwrap();
    let target = Target { host: "127.0.0.1".into(), port: free.port(), transport: Transport::Tcp };
    connector.connect_for(&target, None, Some(Scheme::Sip)).await.unwrap_err();
    scene.event("tcp:connecting").await;
    let (packet, value) = scene.event("tcp:failed").await;
    assert_eq!(packet.destination(), Some(free));
    assert_eq!((&value["Event"], &value["Status"]), (&"CONNECTED".into(), &"FAILURE".into()));
    assert!(value["Message"].as_str().unwrap().contains("refused"), "{value}");
}

#[tokio::test]
async fn events_are_text_where_the_destination_wants_that() {
    let format = |to: &mut DestinationSettings| to.format = EventFormat::Text(':');
    let mut scene =
        Scene::with(TraceSettings::default(), format, Transport::Tcp, ServerDomains::default(), None);
    let _pair = scene.connect(Transport::Tcp).await;
    let packet = scene.collector.next().await.packet;
    let text = text(packet.payload.as_ref());
    assert_eq!(text, "MSRP:CONNECT_START:SUCCESS:Connecting:tcp connecting:outbound");
}

fn filter(rules: Vec<Rule>) -> TraceSettings {
    TraceSettings { filter: Filter { rules }, ..TraceSettings::default() }
}

#[tokio::test]
async fn the_filter_decides_once_and_what_it_needs_is_waited_for() {
    // The listener's port as local port is that of the accepted connection alone.
    let only_accepted = |listener: &str| Rule { listener: Some(listener.into()), ..Rule::any(true) };
    let mut scene = Scene::new(filter(vec![only_accepted("outside"), Rule::any(false)]));
    let (out, inward) = scene.connect(Transport::Tcp).await;
    let id = inward.entry().id().as_u64();
    drop((out, inward));
    let seen = scene.settled(5).await;
    assert_eq!(seen, [(id, "tcp:accepted".to_owned()), (id, "tcp:closed".to_owned())]);

    // Our own port is known when the connection is up: the beginning is told then, or not at all.
    let of_port = |range, trace| Rule { local_port: Some(range), ..Rule::any(trace) };
    for (trace, expected) in [(true, 3), (false, 0)] {
        let inbound = Rule { direction: Some(Direction::Inbound), ..Rule::any(false) };
        let mut scene = Scene::new(filter(vec![inbound, of_port(1..=65535, trace), Rule::any(false)]));
        let (out, inward) = scene.connect(Transport::Tcp).await;
        let id = out.entry().id().as_u64();
        drop((out, inward));
        let seen = scene.settled(5).await;
        assert_eq!(seen.len(), expected, "{seen:?}");
        assert!(seen.iter().all(|(of, _)| *of == id));
        if trace {
            assert_eq!(seen[0].1, "tcp:connecting");
        }
    }
}

#[tokio::test]
async fn everything_one_protocol_one_connection_and_one_destination_can_be_switched() {
    let mut scene = Scene::new(TraceSettings { trace_on: false, ..TraceSettings::default() });
    assert!(!scene.tracer.is_on());
    let (out, inward) = scene.connect(Transport::Tcp).await;
    assert_eq!(scene.settled(3).await, []);

    let (id, other) = (inward.entry().id(), out.entry().id());
    assert!(scene.tracer.switch_connection(id, Some(true)));
    assert!(!scene.tracer.switch_connection(ConnectionId::from(u64::MAX), Some(true)));
    drop(inward);
    assert_eq!(scene.settled(1).await, [(id.as_u64(), "tcp:closed".to_owned())]);

    scene.tracer.switch_all(true);
    scene.tracer.switch_protocol(Scheme::Msrp, What { events: false, messages: false });
    drop(out);
    assert_eq!(scene.settled(1).await, []);
    scene.tracer.switch_protocol(Scheme::Msrp, What::default());
    let (out, inward) = scene.connect(Transport::Tcp).await;
    assert_eq!(scene.settled(3).await.len(), 3);
    assert!(!scene.tracer.switch_connection(other, Some(true)), "it is over");

    // A nearer switch counts more, until all is switched.
    assert!(scene.tracer.switch_connection(out.entry().id(), Some(false)));
    drop(out);
    assert_eq!(scene.settled(1).await, []);
    assert!(scene.sender.set_enabled("collector", false));
    drop(inward);
    scene.told().await;
    assert!(!scene.sender.is_enabled());
}

fn msrp<'a>(session: &'a str, head: &'a [u8], body: &'a [u8]) -> Message<'a> {
    Message::Msrp { session, head, body }
}

async fn trace_of(scene: &mut Scene) -> (ConnectionTrace, Stream, Stream) {
    let (out, inward) = scene.connect(Transport::Tcp).await;
    scene.settled(3).await;
    (scene.tracer.connection(inward.entry(), None), out, inward)
}

fn with_messages(msrp_body: usize) -> TraceSettings {
    let what = What { events: true, messages: true };
    TraceSettings { protocols: HashMap::from([(Scheme::Msrp, what)]), msrp_body, ..TraceSettings::default() }
}

#[tokio::test]
async fn messages_are_traced_with_who_sent_them_and_of_the_body_what_is_allowed() {
    let mut scene = Scene::new(with_messages(4));
    let (trace, out, inward) = trace_of(&mut scene).await;
    let (client, server) = (out.local_addr(), scene.server);
    let time = SystemTime::now() - Duration::from_secs(5);
    for (by, body, wanted) in [
        (SentBy::Peer, &b"abc"[..], "HEAD\r\nabc"),
        (SentBy::Us, b"abcd", "HEAD\r\nabcd"),
        (SentBy::Us, b"abcde", "HEAD\r\nabcd"),
    ] {
        trace.message(by, time, || msrp("session-1", b"HEAD", body));
        let packet = scene.collector.next().await.packet;
        let (from, to) = if by == SentBy::Peer { (client, server) } else { (server, client) };
        assert_eq!((packet.source(), packet.destination()), (Some(from), Some(to)));
        assert_eq!(packet.payload_type, Some(PayloadType::LOG));
        assert_eq!(text(packet.correlation_id.as_ref()), "session-1");
        assert_eq!(text(packet.payload.as_ref()), wanted);
        assert!(time.duration_since(packet.time().unwrap()).unwrap() < Duration::from_micros(1));
        let chunk = &packet.others[0];
        let net = format!(r#"{{"net":"{}"}}"#, inward.entry().id());
        assert_eq!((chunk.vendor, chunk.kind, text(Some(&chunk.value))), (0, 0x65, &*net));
    }
    let pieces = ["OPTIONS sip:x SIP/2.0\r\nAuthorization: Digest response=\"a".into(), "b\"\r\n".into()];
    trace.message(SentBy::Peer, time, || Message::Sip { call_id: "call@host", message: &pieces });
    let packet = scene.collector.next().await.packet;
    assert_eq!(packet.payload_type, Some(PayloadType::SIP));
    assert_eq!(text(packet.correlation_id.as_ref()), "call@host");
    assert_eq!(
        text(packet.payload.as_ref()),
        "OPTIONS sip:x SIP/2.0\r\nAuthorization: Digest response=\"xx\"\r\n",
        "whole, but for what proves the password"
    );
    trace.message(SentBy::Us, time, || msrp("", b"HEAD", b""));
    let packet = scene.collector.next().await.packet;
    assert_eq!(text(packet.correlation_id.as_ref()), inward.entry().id().to_string(), "no session");
    let huge = vec![b'x'; 100_000];
    trace.message(SentBy::Peer, time, || msrp("session-1", &huge, &huge));
    assert_eq!(scene.collector.next().await.packet.payload.unwrap().len(), MAX_MESSAGE);
}

#[tokio::test]
async fn no_body_is_traced_by_default_and_no_message_where_nobody_asked() {
    let mut scene = Scene::new(TraceSettings::default());
    let (trace, _out, inward) = trace_of(&mut scene).await;
    assert!(!trace.is_on());
    trace.message(SentBy::Us, SystemTime::now(), || panic!("made for nobody"));
    assert!(scene.tracer.switch_connection(inward.entry().id(), Some(true)));
    assert!(trace.is_on());
    trace.message(SentBy::Us, SystemTime::now(), || msrp("s", b"HEAD", b"private"));
    assert_eq!(text(scene.collector.next().await.packet.payload.as_ref()), "HEAD");
    scene.tracer.switch_all(true);
    assert!(!trace.is_on(), "the nearer switch is forgotten");
}

#[tokio::test]
async fn a_user_is_filtered_and_switched_from_its_authentication_on() {
    let alice = Rule { user: Some("alice".into()), ..Rule::any(true) };
    let settings =
        TraceSettings { filter: Filter { rules: vec![alice, Rule::any(false)] }, ..with_messages(0) };
    let mut scene = Scene::new(settings);
    let (trace, _out, _inward) = trace_of(&mut scene).await;
    assert!(!trace.is_on());
    trace.authenticated("bob");
    assert!(!trace.is_on());
    scene.tracer.switch_user("bob", Some(true));
    assert!(trace.is_on());
    scene.tracer.switch_user("bob", None);
    assert!(!trace.is_on());
    trace.authenticated("alice");
    assert!(trace.is_on());
    scene.tracer.switch_user("alice", Some(false));
    assert!(!trace.is_on());
    scene.tracer.switch_all(true);
    assert!(trace.is_on());
    scene.tracer.switch_all(false);
    assert!(!trace.is_on());
}

#[tokio::test]
async fn no_message_is_traced_while_a_rule_for_a_user_may_still_decide() {
    let of = |user: &str, trace| Rule { user: Some(user.into()), ..Rule::any(trace) };
    let rules = || vec![of("alice", false), of("bob", true)];
    let settings = || TraceSettings { filter: Filter { rules: rules() }, ..with_messages(0) };

    let mut scene = Scene::new(settings());
    let (trace, out, _inward) = trace_of(&mut scene).await;
    assert!(!trace.is_on(), "nobody knows yet whose it is");
    trace.authenticated("alice");
    assert!(!trace.is_on());
    trace.authenticated("carol");
    assert!(trace.is_on(), "what no rule matches is traced");
    let ours = scene.tracer.connection(out.entry(), None);
    assert!(ours.is_on(), "nobody authenticates where we are the client");

    let mut scene = Scene::new(settings());
    let (trace, _out, _inward) = trace_of(&mut scene).await;
    trace.anonymous();
    assert!(trace.is_on(), "used without authentication");
    trace.authenticated("alice");
    assert!(!trace.is_on());
    trace.anonymous();
    assert!(!trace.is_on(), "it is hers");

    // Where no rule names a user, nothing is waited for.
    let mut scene = Scene::new(with_messages(0));
    assert!(trace_of(&mut scene).await.0.is_on());
}

#[tokio::test]
async fn the_state_of_all_switches_can_be_read() {
    let mut scene = Scene::new(with_messages(0));
    let (trace, _out, inward) = trace_of(&mut scene).await;
    let before = scene.tracer.state();
    assert!(before.on && before.users.is_empty() && before.connections.is_empty());
    let what = |state: &TraceState, scheme| state.protocols.iter().find(|(of, _)| *of == scheme).unwrap().1;
    assert_eq!(what(&before, Scheme::Msrp), What { events: true, messages: true });
    assert_eq!(what(&before, Scheme::Sip), What::default());
    scene.tracer.switch_user("bob", Some(true));
    scene.tracer.switch_user("alice", Some(false));
    scene.tracer.switch_protocol(Scheme::Sip, What { events: false, messages: true });
    assert!(scene.tracer.switch_connection(inward.entry().id(), Some(false)));
    let state = scene.tracer.state();
    assert_eq!(state.users, [("alice".to_owned(), false), ("bob".to_owned(), true)]);
    assert_eq!(state.connections, [(inward.entry().id(), false)]);
    assert_eq!(what(&state, Scheme::Sip), What { events: false, messages: true });
    scene.tracer.switch_all(false);
    let state = scene.tracer.state();
    assert!(!state.on && state.users.is_empty() && state.connections.is_empty());

    drop(scene.tracer);
    trace.message(SentBy::Us, SystemTime::now(), || msrp("s", b"HEAD", b""));
}

#[tokio::test]
async fn events_that_are_too_many_are_counted_and_nothing_is_kept_for_them() {
    let ledger = Ledger::new(ConnectionLimits::default(), Events::new(4, Reporting::All));
    let collector = Collector::of(HepTransport::Tcp);
    let to = destination(HepTransport::Tcp, collector.address);
    let sender = Arc::new(Sender::start(vec![to], &Arc::default(), None).unwrap());
    let tracer = Tracer::start(TraceSettings::default(), sender.clone(), &ledger);
    let connector = Connector::new(ConnectSettings::default(), |_, _| true).with_ledger(ledger.clone());
    let listener = std::net::TcpListener::bind(LOCALHOST).unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = Target { host: "127.0.0.1".into(), port, transport: Transport::Tcp };
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(connector.connect(&target, None).await.unwrap());
    }
    // One thread, and no await: the tracer sees nothing of this until it is over.
    streams.clear();
    patiently("loss", async {
        while tracer.lost_events() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let _ = connector.connect(&target, None).await.unwrap();
    patiently("nothing is known any more", async {
        while !format!("{tracer:?}").contains("connections: 0") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let submitted = sender.counters()[0].1.submitted;
    assert_eq!(submitted + tracer.lost_events(), 63, "each event was traced or counted");
}
