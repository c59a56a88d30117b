//! An edge between scripted clients and a scripted proxy.

use tests::{Daemon, Scheme, Settings, SipPeer, SipUpstream, Site, request, response};

/// The daemon.
pub(crate) const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// The kinds of listeners.
pub(crate) const KINDS: [Scheme; 4] = [Scheme::Sip, Scheme::Sips, Scheme::Ws, Scheme::Wss];

/// An edge with all kinds of listeners; `sip` is what else its section says. Probes are rare, and come first.
pub(crate) fn settings(upstreams: &[&SipUpstream], sip: &str) -> Settings {
    let any_port = || Some("127.0.0.1:0".to_owned());
    let list: Vec<String> = upstreams
        .iter()
        .enumerate()
        .map(|(priority, upstream)| {
            format!("{{ uri: \"{}\", advertise: \"edge.test:5060\", priority: {priority} }}", upstream.uri())
        })
        .collect();
    let probes = if sip.contains("probe_interval") { "" } else { "probe_interval: 1h, " };
    Settings {
        ws: any_port(),
        wss: any_port(),
        sip_tcp: any_port(),
        sip_tls: any_port(),
        sip: Some(format!(
            "{probes}sip_upstream: [ {} ]{}{sip}",
            list.join(", "),
            if sip.is_empty() { "" } else { ", " }
        )),
        ..Settings::default()
    }
}

pub(crate) struct Edge {
    pub(crate) site: Site,
    pub(crate) daemon: Daemon,
    pub(crate) upstream: SipUpstream,
    /// The edge's connection to it.
    pub(crate) proxy: SipPeer,
}

impl Edge {
    pub(crate) async fn start(sip: &str) -> Self {
        Self::start_with(Scheme::Sip, |upstream| settings(&[upstream], sip)).await
    }

    pub(crate) async fn start_with(scheme: Scheme, settings: impl FnOnce(&SipUpstream) -> Settings) -> Self {
        let site = Site::new();
        let upstream = SipUpstream::bind(scheme, &site).await;
        let daemon = Daemon::start(RELAY, &site, &settings(&upstream)).await;
        let proxy = connection(&upstream).await;
        Self { site, daemon, upstream, proxy }
    }

    pub(crate) async fn client(&self, scheme: Scheme) -> SipPeer {
        SipPeer::connect(&self.daemon, &self.site, scheme).await
    }

    /// A client that has shown that its connection is served.
    pub(crate) async fn registered(&mut self, scheme: Scheme, branch: &str) -> (SipPeer, String) {
        let mut client = self.client(scheme).await;
        let path = register(&mut client, &mut self.proxy, branch).await;
        (client, path)
    }
}

/// The edge's next connection.
pub(crate) async fn connection(upstream: &SipUpstream) -> SipPeer {
    let mut proxy = upstream.accept().await.answering_probes();
    // The edge asks at once.
    proxy.probed().await;
    // The connection is taken in before anything that came over it is answered.
    proxy.send(&request("OPTIONS", "sip:edge.test:5060", "ready", "", "")).await;
    proxy.expect("200").await;
    proxy
}

/// A REGISTER there and its answer back; the Path that the registrar saw.
pub(crate) async fn register(client: &mut SipPeer, proxy: &mut SipPeer, branch: &str) -> String {
    let contact = "Contact: <sip:alice@x7.invalid;transport=ws;ob>;reg-id=1\r\nSupported: path, outbound\r\n";
    client.send(&request("REGISTER", "sip:example.com", branch, contact, "")).await;
    let seen = proxy.expect("REGISTER").await;
    assert_eq!(seen.field("Max-Forwards"), "69");
    assert_eq!(seen.fields("Via").len(), 2);
    assert!(seen.field("Via").starts_with("SIP/2.0/"), "{}", seen.0);
    assert!(seen.field("Via").contains(" edge.test:5060;branch=z9hG4bK"), "{}", seen.0);
    assert!(seen.fields("Via")[1].contains("received=127.0.0.1"), "{}", seen.0);
    assert!(seen.field("Path").contains(";lr;ob>"), "{}", seen.0);
    let path = seen.field("Path").to_owned();
    proxy.send(&response(&seen, "200 OK", &format!("Path: {path}\r\n"))).await;
    let ok = client.expect("200").await;
    assert_eq!(ok.fields("Via").len(), 1, "{}", ok.0);
    path
}
