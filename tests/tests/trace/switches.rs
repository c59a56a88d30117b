//! The switches of a relay that runs in this process.

use relay::config::Config;
use relay::server::{Server, TraceSwitches};
use tcp_transport::ConnectionId;
use tcp_transport::hep::trace::What;
use tests::{Client, Send, Session, Settings, Site, Stream, within};

use super::{Collector, ends, kind, net, settings};

/// A relay in this process, whose switches are at hand.
struct Switched {
    server: Server,
    collector: Collector,
    _site: Site,
}

impl Switched {
    async fn start(trace: &str) -> Self {
        let site = Site::new();
        let (collector, uri) = Collector::start().await;
        let settings = settings(&format!("destinations: {{ homer: {{ uri: '{uri}' }} }}, {trace}"));
        let config = Config::parse(&settings.to_yaml(), site.directory(), "relay.yaml").unwrap();
        let server = Server::start(config).await.unwrap();
        Self { server, collector, _site: site }
    }

    fn switches(&self) -> TraceSwitches {
        self.server.control().trace().unwrap()
    }

    async fn member(&self, user: &str) -> (Client, Session) {
        let address = self.address();
        let socket = within("a connection", tokio::net::TcpStream::connect(address)).await.unwrap();
        let uri = format!("msrp://{user}.invalid:2855/s;tcp");
        let relay = format!("msrp://relay.test:{};tcp", address.port());
        let mut client = Client::over(Stream::Plain(socket), &uri, &relay);
        let session = client.auth(user, &format!("{user}pw")).await;
        (client, session)
    }

    fn address(&self) -> std::net::SocketAddr {
        let listeners = self.server.addresses();
        listeners.iter().find(|(scheme, _)| *scheme == "msrp").unwrap().1
    }

    /// The number of a client's connection.
    fn number(&self, client: &Client) -> ConnectionId {
        let entries = self.server.ledger().snapshot();
        entries.iter().find(|entry| entry.remote().to_string() == client.address()).unwrap().id()
    }

    /// A message there and one back; waits until the relay has read the responses to both.
    async fn chat(&self, from: &mut (Client, Session), to: &mut (Client, Session), text: &str) {
        let entry = |client: &Client| self.server.ledger().entry(self.number(client)).unwrap();
        let entries = [entry(&from.0), entry(&to.0)];
        let before = entries.each_ref().map(|entry| entry.messages_in());
        from.0.send(&Send::text(&from.1.to(&to.1), "there", text)).await;
        to.0.receive().await;
        to.0.send(&Send::text(&to.1.to(&from.1), "back", "back")).await;
        from.0.receive().await;
        let read = async {
            while entries.iter().zip(before).any(|(entry, before)| entry.messages_in() < before + 2) {
                tokio::task::yield_now().await;
            }
        };
        within("the responses' reading", read).await;
    }
}

#[tokio::test]
async fn a_user_a_connection_a_protocol_and_a_collector_are_switched_while_the_relay_runs() {
    let relay = Switched::start("trace_on: false, msrp_body: 10B").await;
    let mut alice = relay.member("alice").await;
    let mut bob = relay.member("bob").await;
    let switches = relay.switches();
    assert!(!switches.state().unwrap().on);
    relay.chat(&mut alice, &mut bob, "before").await;

    // A user, in the middle of a run; both messages and events.
    switches.switch_user("alice", Some(true));
    assert_eq!(switches.state().unwrap().users, [("alice".to_owned(), true)]);
    relay.chat(&mut alice, &mut bob, "alice").await;
    let of_alice = alice.0.address();
    for wanted in ["SEND", "200", "SEND", "200"] {
        let (packet, text) = relay.collector.message().await;
        assert_eq!(kind(&text), wanted);
        assert!(ends(&packet).0 == of_alice || ends(&packet).1 == of_alice);
    }

    // One connection, nearer than all else: on, and off.
    switches.switch_user("alice", None);
    let of_bob = relay.number(&bob.0);
    assert!(switches.switch_connection(of_bob, Some(true)));
    assert_eq!(switches.state().unwrap().connections, [(of_bob, true)]);
    relay.chat(&mut alice, &mut bob, "bob").await;
    let (packet, text) = relay.collector.message().await;
    assert_eq!(net(&packet), of_bob.to_string());
    assert_eq!((kind(&text), packet.source()), ("SEND", Some(relay.address())));
    assert!(text.ends_with("\r\n\r\nbob"), "{text}");

    // Everything, and a protocol; what was said of single ones is forgotten.
    switches.switch_all(true);
    let state = switches.state().unwrap();
    assert!(state.on && state.connections.is_empty());
    assert!(state.protocols.contains(&(tcp_transport::Scheme::Msrp, What::default())));
    relay.chat(&mut alice, &mut bob, "nobody").await;
    let what = What { events: false, messages: true };
    switches.switch_protocol(tcp_transport::Scheme::Msrp, what);
    assert!(switches.state().unwrap().protocols.contains(&(tcp_transport::Scheme::Msrp, what)));
    assert!(switches.switch_connection(of_bob, Some(false)), "off, while all others are on");
    relay.chat(&mut alice, &mut bob, "alice alone").await;
    loop {
        let (packet, text) = relay.collector.message().await;
        assert!(!text.contains("nobody"), "{text}");
        if text.ends_with("alice alon") {
            assert_eq!(ends(&packet).0, of_alice);
            break;
        }
    }

    // The collector itself.
    let told = || switches.destinations()[0].counters.submitted;
    assert!(switches.switch_destination("homer", false) && !switches.switch_destination("nobody", true));
    let destinations = switches.destinations();
    assert_eq!((&*destinations[0].name, destinations[0].on), ("homer", false));
    let before = told();
    relay.chat(&mut alice, &mut bob, "to no one").await;
    assert_eq!(told(), before);
    assert!(switches.switch_destination("homer", true));
    relay.chat(&mut alice, &mut bob, "again").await;
    loop {
        let (packet, text) = relay.collector.message().await;
        assert!(!text.contains("to no one"), "{text}");
        assert_ne!(net(&packet), of_bob.to_string(), "his is off");
        if text.ends_with("again") {
            break;
        }
    }
    assert!(!switches.switch_connection(ConnectionId::from(u64::MAX), Some(true)), "there is none");
    relay.server.stop(std::future::ready(())).await;
}

#[tokio::test]
async fn there_is_nothing_to_switch_without_a_collector() {
    let site = Site::new();
    let config = Config::parse(&Settings::default().to_yaml(), site.directory(), "relay.yaml").unwrap();
    let server = Server::start(config).await.unwrap();
    assert!(server.control().trace().is_none());
    server.stop(std::future::ready(())).await;
}
