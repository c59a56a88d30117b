//! The configuration of a daemon under test.

use std::fmt::Write as _;

use crate::daemon::WEBSOCKET_PATH;

/// What goes into the YAML file. Each section is the inside of a YAML flow mapping, such as
/// `stall_timeout: 300ms, probation: 1s`; empty for the defaults.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the relay is called.
    pub domain: String,
    /// Address of the TLS listener, and what follows in its mapping, such as `advertise: "…"`.
    pub tls: Option<String>,
    /// Address of the plain listener, likewise.
    pub plain: Option<String>,
    /// Address of the WebSocket listener, likewise.
    pub ws: Option<String>,
    /// Address of the WebSocket listener over TLS, likewise.
    pub wss: Option<String>,
    /// Address of the SIP listener over TCP, likewise.
    pub sip_tcp: Option<String>,
    /// Address of the SIP listener over TLS, likewise.
    pub sip_tls: Option<String>,
    /// Address of the HEP listener over UDP, likewise.
    pub hep_udp: Option<String>,
    /// Address of the HEP listener over TCP, likewise.
    pub hep_tcp: Option<String>,
    /// Address of the HEP listener over TLS, likewise.
    pub hep_tls: Option<String>,
    /// `hep`; none: the key is left out.
    pub hep: Option<String>,
    /// `sip`; none: there is no SIP edge.
    pub sip: Option<String>,
    /// A line of `tls` itself, such as `tls_handshake_timeout: 300ms`.
    pub tls_section: String,
    /// The identity of the server domain.
    pub identity: String,
    /// What else the server domain says.
    pub server_domain: String,
    /// The whole client domain.
    pub client_domain: String,
    /// `auth` but realm and users. It allows AUTH without TLS by default: most tests are not about it.
    pub auth: String,
    /// More users: `, erin: { ha1: … }`.
    pub users: String,
    /// `limits`.
    pub limits: String,
    /// `timeouts`.
    pub timeouts: String,
    /// `outbound`.
    pub outbound: String,
    /// `websocket`.
    pub websocket: String,
    /// `trace`.
    pub trace: String,
    /// `records`.
    pub records: String,
    /// `admin`; none: there is no admin interface.
    pub admin: Option<String>,
    /// `upgrade`; none: no process takes over.
    pub upgrade: Option<String>,
    /// `threads`; none: the key is left out.
    pub threads: Option<usize>,
    /// `log`.
    pub log: String,
}

impl Default for Settings {
    /// Both listeners on free ports of 127.0.0.1, users `alice`, `bob`, `carol` and `dave` with the
    /// passwords `alicepw` and so on.
    fn default() -> Self {
        Self {
            domain: "relay.test".into(),
            tls: Some("127.0.0.1:0".into()),
            plain: Some("127.0.0.1:0".into()),
            ws: None,
            wss: None,
            sip_tcp: None,
            sip_tls: None,
            hep_udp: None,
            hep_tcp: None,
            hep_tls: None,
            hep: None,
            sip: None,
            tls_section: String::new(),
            identity: "relay".into(),
            server_domain: "ca_list: ca.pem, verify_cert: true, require_cert: false".into(),
            client_domain:
                "ca_list: ca.pem, verify_cert: true, certificate: relay.crt, private_key: relay.key".into(),
            auth: "allow_auth_without_tls: true".into(),
            users: String::new(),
            limits: String::new(),
            timeouts: String::new(),
            outbound: String::new(),
            websocket: String::new(),
            trace: String::new(),
            records: String::new(),
            admin: None,
            upgrade: None,
            threads: None,
            log: "level: info, format: text".into(),
        }
    }
}

impl Settings {
    /// The YAML text.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let threads = self.threads.map(|threads| format!("threads: {threads}\n")).unwrap_or_default();
        let mut yaml = format!("domain: {}\n{threads}listeners:\n", self.domain);
        let mut listen = |scheme: &str, text: &Option<String>| {
            let Some(text) = text else { return };
            // `127.0.0.1:0, advertise: "…"`: the address, and what follows.
            let (address, more) = text.split_once(',').unwrap_or((text, ""));
            let path = if scheme.starts_with("ws") { WEBSOCKET_PATH } else { "" };
            let domain = if matches!(scheme, "msrps" | "wss" | "sips" | "hep_tls") {
                ", tls_domain: main"
            } else {
                ""
            };
            let more = if more.is_empty() { String::new() } else { format!(",{more}") };
            let _ = writeln!(yaml, "  - {{ uri: \"{scheme}://{address}{path}\"{more}{domain} }}");
        };
        listen("msrps", &self.tls);
        listen("msrp", &self.plain);
        listen("wss", &self.wss);
        listen("ws", &self.ws);
        listen("sip", &self.sip_tcp);
        listen("sips", &self.sip_tls);
        listen("hep_udp", &self.hep_udp);
        listen("hep_tcp", &self.hep_tcp);
        listen("hep_tls", &self.hep_tls);
        let identity = &self.identity;
        let tls_section =
            if self.tls_section.is_empty() { String::new() } else { format!("  {}\n", self.tls_section) };
        let _ = writeln!(
            yaml,
            "tls:\n{tls_section}  server_domains:\n    main: {{ certificate: {identity}.crt, private_key: {identity}.key, {} }}\n  \
             client_domains:\n    default: {{ {} }}",
            self.server_domain, self.client_domain
        );
        let users = ["alice", "bob", "carol", "dave"].map(|user| format!("{user}: {{ password: {user}pw }}"));
        let _ = writeln!(
            yaml,
            "auth: {{ realm: relay.test, users: {{ {} {} }}, {} }}",
            users.join(", "),
            self.users,
            self.auth
        );
        // A test that stops the relay while sessions last is not about how long they may, unless it says so.
        let mut timeouts = self.timeouts.clone();
        if !timeouts.contains("drain_timeout") {
            timeouts.insert_str(0, "drain_timeout: 500ms, ");
        }
        for (name, section) in [
            ("limits", &self.limits),
            ("timeouts", &timeouts),
            ("outbound", &self.outbound),
            ("websocket", &self.websocket),
            ("trace", &self.trace),
            ("records", &self.records),
            ("log", &self.log),
        ] {
            let _ = writeln!(yaml, "{name}: {{ {section} }}");
        }
        if let Some(hep) = &self.hep {
            let _ = writeln!(yaml, "hep: {{ {hep} }}");
        }
        if let Some(sip) = &self.sip {
            let _ = writeln!(yaml, "sip: {{ {sip} }}");
        }
        if let Some(upgrade) = &self.upgrade {
            let _ = writeln!(yaml, "upgrade: {{ {upgrade} }}");
        }
        if let Some(admin) = &self.admin {
            let _ = writeln!(yaml, "admin: {{ {admin} }}");
        }
        yaml
    }
}
