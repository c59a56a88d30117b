//! The configuration, read again while the relay runs: SIGHUP, `ctl reload`.
//!
//! # All or nothing
//!
//! First everything that can fail: the file and those it names are read and checked, certificates loaded, the sockets of
//! new listeners bound, the files of new sinks and of the log opened. Whatever is wrong is told, each with its line, and
//! nothing has changed then. Only then the new settings take the places of the old ones, which cannot fail.
//!
//! # What is taken over, and from when on
//!
//! | section | from when on |
//! |---|---|
//! | `listeners`, `tcp`, `websocket` | new ones accept, those that are gone accept nothing more (`listeners::change`). What a connection is made with counts for the next one |
//! | `tls` | the next handshake |
//! | `domain`, `auth`, `limits`, `timeouts` | see [`Relay::prepare`](crate::msrp::Relay::prepare) |
//! | `limits.max_connections…`, `events.closed_event` | the next connection, the next event |
//! | `outbound` | the next connection that is opened |
//! | `trace` | at once, on the connections that are there too. Collectors that changed are connected to anew, all of them |
//! | `hep` | the next packet; limits of a frame: the next connection |
//! | `records` | the next record. What waits for a sink that is gone is still written; of one that changed, by the new settings |
//! | `log` | at once |
//! | `upgrade` | the next process that takes over |
//! | `admin.token`, `admin.allow_hosts` | the next request. A token that is gone is asked for until a restart |
//! | `sip` | the next message; limits and times of a connection: the next one. Upstreams that are new are connected to. One that is gone gets no new requests, and its connection is closed when nothing uses it (`sip::place`). Tokens of the secret before are still taken, until it changes again |
//!
//! A relay that drains takes all of it over but other listeners and `upgrade.socket`: its own are closed. So does one whose place another
//! process is about to take, which has its listeners already. No drain begins or ends while a reload is under way.
//!
//! What cannot be taken over is told, each time, until the relay is started again or the file is as it was.

use std::fmt;
use std::sync::Arc;

use tcp_transport::hep::Sender;
use tcp_transport::tls::Changes;
use tracing::{error, info, warn};

use super::control::Control;
use super::handover::Door;
use super::network::Network;
use super::{StartError, tls, trace};
use crate::config::{Change, Config, ConfigError, ConfigErrors};
use crate::logging;
use crate::msrp::Settings;
use crate::records::{Facts, RecordsNotReopened};

/// The sections that are taken over.
const TAKEN_OVER: &[&str] = &[
    "domain",
    "listeners",
    "tls",
    "auth",
    "limits",
    "timeouts",
    "tcp",
    "events",
    "outbound",
    "websocket",
    "sip",
    "trace",
    "records",
    "hep",
    "log",
    "upgrade",
];

/// What of them is not, and why.
const NEEDS_RESTART: &[(&str, &str)] =
    &[("events.queue", "the queue of events is made when the relay starts")];

/// Why another section is not.
const AT_START: &str = "this is only looked at when the relay starts";

/// A setting that is written otherwise than when the relay started, and that it has not taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeedsRestart {
    /// Its path.
    pub setting: String,
    /// Why.
    pub reason: &'static str,
}

/// `events.queue (the queue of events is made when the relay starts)`
impl fmt::Display for NeedsRestart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.setting, self.reason)
    }
}

/// What a reload came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// What has changed among the server domains.
    pub server_domains: Changes,
    /// What has changed among the client domains.
    pub client_domains: Changes,
    /// What is written otherwise than when it was last read.
    pub changed: Vec<Change>,
    /// What takes effect only when the relay starts again.
    pub needs_restart: Vec<NeedsRestart>,
}

/// For logs: `server domains: changed relay; client domains: nothing`.
impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return f.write_str("nothing has changed");
        }
        write!(f, "server domains: {}; client domains: {}", self.server_domains, self.client_domains)
    }
}

/// What became of the order to read the configuration and to open files again.
#[derive(Debug)]
#[must_use]
pub struct Reload {
    /// What was taken over; or everything that is wrong, at its line, and nothing has changed then.
    pub configuration: Result<Reloaded, ConfigErrors>,
    /// The files; they are opened whatever the configuration is like.
    pub files: NotReopened,
}

/// Files that were not opened again, or of which that is not known after a second.
#[derive(Debug, Default)]
pub struct NotReopened {
    /// Why not the log's: what was open is written to.
    pub log: Option<String>,
    /// Those of session records, which wait.
    pub records: Vec<RecordsNotReopened>,
}

impl Control {
    /// Reads the configuration again and takes it over, all or nothing, and tells the log. Files with session
    /// records and with the log are opened again, whatever the configuration is like.
    pub fn reload(&self) -> Reload {
        self.reload_from(|before| before.source.reload())
    }

    /// As [`reload`](Self::reload), with a configuration that was read already.
    ///
    /// # Errors
    /// Everything that is wrong, at its line; nothing has changed then.
    pub fn reload_to(&self, config: Config) -> Result<Reloaded, ConfigErrors> {
        self.reload_from(|_| Ok(config)).configuration
    }

    fn reload_from(&self, read: impl FnOnce(&Config) -> Result<Config, ConfigErrors>) -> Reload {
        // Whoever asks may have another runtime, which ends before the traffic does.
        let _runtime = self.runtime.enter();
        // One after the other: each compares with what the one before has left.
        let _one = self.reloading.lock();
        let files = self.reopen_files();
        let before = self.config();
        let reloaded = read(&before).and_then(|config| self.take_over(&before, config));
        match &reloaded {
            Ok(reloaded) => {
                for change in &reloaded.changed {
                    info!(setting = change.setting, from = change.from(), to = change.to(), "reloaded");
                }
                info!("TLS reloaded: {reloaded}");
                for NeedsRestart { setting, reason } in &reloaded.needs_restart {
                    warn!(
                        setting,
                        reason, "changed in the file, and taken over only when the relay starts again"
                    );
                }
                let (changed, needs_restart) = (reloaded.changed.len(), reloaded.needs_restart.len());
                info!(changed, needs_restart, "configuration reloaded");
            }
            Err(errors) => {
                for error in errors.errors() {
                    error!("not reloaded, everything stays as it was: {error}");
                }
            }
        }
        Reload { configuration: reloaded, files }
    }

    /// Has the files of session records and of the log opened again, for whoever has moved them, and waits for that, for
    /// a second each at most. What fails is told in the log.
    pub fn reopen_files(&self) -> NotReopened {
        let records = self.records().reopen();
        for RecordsNotReopened { sink, error } in &records {
            error!(sink, error, "session records were not opened again, and wait");
        }
        let log = logging::reopen().err().map(|error| error.to_string());
        if let Some(error) = &log {
            error!(error, "the log was not opened again: what was open is written to");
        }
        NotReopened { log, records }
    }

    fn take_over(&self, before: &Config, mut config: Config) -> Result<Reloaded, ConfigErrors> {
        let socket = |config: &Config| config.upgrade.as_ref().map(|upgrade| upgrade.socket.clone());
        let changed = [
            ("listeners", config.listeners != before.listeners),
            ("upgrade", socket(&config) != socket(before)),
        ];
        for (section, _) in changed.into_iter().filter(|(_, changed)| *changed) {
            // They are closed, or another process has them, or is about to.
            let message = match (self.is_ready(), self.is_being_succeeded()) {
                (false, _) => Some("cannot change while the relay drains"),
                (true, true) => Some("cannot change while another process takes over"),
                (true, false) => None,
            };
            if let Some(message) = message {
                return Err(config.source.error_at(&[section], message).into());
            }
        }
        let network = self.network();

        // What may fail.
        let mut errors = Vec::new();
        let servers = tls::server_domains(&config).map_err(|error| errors.push(error)).ok();
        let clients = tls::client_domains(&config).map_err(|error| errors.push(error)).ok();
        let servers = servers.map(Arc::new);
        if let Some(clients) = &clients
            && let Err(error) = Sender::check(&config.trace.destinations, Some(clients))
        {
            errors.push(config.source.error_at(&["trace", "destinations"], error.to_string()).into());
        }
        let listeners = {
            let domains = servers.as_ref().unwrap_or(&network.server_domains);
            let prepared = self.listeners().prepare(&config, domains, self.concentrator());
            let failed = |mut all: Vec<(usize, StartError)>| {
                // Without the domains that are meant, which are there and cannot be used.
                let about_domains = |error: &StartError| {
                    use tcp_transport::BindError::{NoDomain, UnknownDomain};
                    matches!(error, StartError::Bind(UnknownDomain { .. } | NoDomain { .. }))
                };
                all.retain(|(_, error)| servers.is_some() || !about_domains(error));
                errors.extend(all.iter().map(|(number, error)| at_listener(&config, *number, error).into()));
            };
            prepared.map_err(failed).ok()
        };
        if network.sip.as_ref().is_some_and(|sip| !sip.has_numbers_for(&config)) {
            let message = "has changed so often that the relay has to be started again";
            errors.push(config.source.error_at(&["sip", "sip_upstream"], message).into());
        }
        let records = self.records().prepare(&config.records);
        let records = records
            .map_err(|error| errors.push(config.source.error_at(&["records"], error.to_string()).into()));
        let door = Door::prepare(before.upgrade.as_ref(), config.upgrade.as_ref());
        let door = door.map_err(|error| {
            errors.push(config.source.error_at(&["upgrade", "socket"], error.to_string()).into());
        });
        let log = logging::prepare(&config.log);
        let log = log.map_err(|error| errors.push(config.source.error_at(&["log", "to"], error).into()));
        if config.auth.realm == before.auth.realm {
            config.auth.credentials.keep_of(&before.auth.credentials);
        }
        let core = listeners.as_ref().and_then(|listeners| {
            let prepared = network.relay.prepare(settings(&config, listeners.msrp(&config)));
            let failed = |error: crate::msrp::SettingsError| {
                errors.push(config.source.error_at(&["listeners"], error.to_string()).into());
            };
            prepared.map_err(failed).ok()
        });
        let (Some(servers), Some(clients), Some(listeners), Ok(records), Ok(log), Ok(door), Some(core)) =
            (servers, clients, listeners, records, log, door, core)
        else {
            let all = errors.into_iter().reduce(ConfigErrors::and);
            return Err(all.unwrap_or_else(|| config.source.error("cannot be taken over")));
        };
        let Ok(servers) = Arc::try_unwrap(servers).or_else(|_| tls::server_domains(&config).map_err(drop))
        else {
            return Err(config.source.error("has certificates that changed while they were read"));
        };

        // What cannot.
        for warning in &config.warnings {
            warn!("{warning}");
        }
        let mut reloaded = Reloaded {
            changed: before.source.changes(&config.source),
            needs_restart: self.needs_restart(&config),
            ..Reloaded::default()
        };
        tls::warn_of_expiry(&servers, &clients, config.tls.expiry_warning);
        *self.expiry_warning.lock() = config.tls.expiry_warning;
        reloaded.server_domains = network.server_domains.replace(servers);
        reloaded.client_domains = network.client_domains.replace(clients);
        config.auth.credentials.begin_beside(&before.auth.credentials);
        network.relay.take_over(core);
        network.reload(&config);
        let msrp: Vec<_> = network.relay.current().listener_ids().collect();
        let sip = network.sip.as_ref().map(|sip| sip.reload(&config, &listeners.sip(&config)));
        let sip = sip.unwrap_or_default();
        self.listeners().take_over(listeners, &config, network, self.concentrator(), msrp, sip);
        self.records().take_over(records, &config.records);
        self.records().recorder(facts(&config, network)).set_facts(facts(&config, network));
        {
            let mut tracing = self.tracing().lock();
            trace::reload(&mut tracing, &config, before, self.listeners().names(), network);
            self.concentrator().forward_to(tracing.as_ref().map(trace::Tracing::sender).as_ref());
        }
        self.concentrator().reload(config.hep.clone(), &self.listeners().hep());
        self.keep_token(&mut config, before);
        self.lifecycle.door.take_over(door);
        logging::take_over(log, &before.log, &config.log);
        self.set_config(config);
        Ok(reloaded)
    }

    /// What the admin interface was started with a token for is not open to all once that is gone: the last one stays in
    /// force.
    fn keep_token(&self, config: &mut Config, before: &Config) {
        if self.started_with().admin.as_ref().is_none_or(|admin| admin.token.is_none()) {
            return;
        }
        match (&mut config.admin, &before.admin) {
            (Some(now), Some(before)) if now.token.is_none() => now.token.clone_from(&before.token),
            (now @ None, before) => now.clone_from(before),
            _ => {}
        }
    }

    /// What `config` says otherwise than what the relay was started with, and what is not taken over.
    fn needs_restart(&self, config: &Config) -> Vec<NeedsRestart> {
        let started = self.started_with();
        let mut found = Vec::new();
        let mut add = |setting: String, reason| found.push(NeedsRestart { setting, reason });
        for change in started.source.changes(&config.source) {
            // A token that is gone is asked for until then.
            let is_token = change.is_under("admin.token") && change.to.is_some();
            if (is_token || change.is_under("admin.allow_hosts")) && started.admin.is_some() {
                continue;
            }
            let except = NEEDS_RESTART.iter().find(|(path, _)| change.is_under(path));
            let known = TAKEN_OVER.iter().any(|section| change.is_under(section));
            match except {
                Some((_, reason)) => add(change.setting, reason),
                None if !known => add(change.setting, AT_START),
                None => {}
            }
        }
        if started.sip.is_some() != config.sip.is_some() {
            add("sip".to_owned(), "the SIP edge is made when the relay starts");
        }
        for (number, setting) in self.listeners().unchanged_sockets(config) {
            let listener = config.listeners.get(number).map(ToString::to_string).unwrap_or_default();
            add(format!("listeners[{listener}].{setting}"), "it belongs to the socket, which stays open");
        }
        found
    }
}

/// What the core is to know.
pub(super) fn settings(config: &Config, listeners: Vec<crate::msrp::Advertised>) -> Settings {
    Settings {
        domain: config.domain.to_string(),
        listeners,
        auth: config.auth.clone(),
        limits: config.limits.clone(),
        timeouts: config.timeouts.clone(),
    }
}

/// What records are to know.
pub(super) fn facts(config: &Config, network: &Network) -> Facts {
    let (domain, realm) = (config.domain.to_string(), config.auth.realm.clone());
    Facts { domain, realm, listeners: network.listener_facts() }
}

fn at_listener(config: &Config, number: usize, error: &StartError) -> ConfigError {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    config.source.error_at(&["listeners", &number.to_string(), "uri"], message)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::server::Server;

    /// What the parser says of a configuration with this setting in it.
    fn parsed(section: &str, value: &str) -> String {
        let text = format!("domain: a\nlisteners: [ {{ uri: 'msrp://127.0.0.1:0' }} ]\n{section}: {value}\n");
        Config::parse(&text, Path::new(""), "a").map_or_else(|errors| errors.to_string(), |_| String::new())
    }

    fn config(text: &str) -> Config {
        let text = format!("domain: relay.test\nlisteners: [ {{ uri: 'msrp://127.0.0.1:0' }} ]\n{text}");
        Config::parse(&text, Path::new(""), "relay.yaml").unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[tokio::test]
    async fn credentials_that_are_replaced_end() {
        use crate::credentials::{Credentials, UserTable};

        let mut first = config("");
        let source: Arc<dyn Credentials> = Arc::new(UserTable::default());
        let former = Arc::downgrade(&source);
        first.auth.credentials.push(source);
        let server = Server::start(first).await.unwrap();
        assert!(former.upgrade().is_some());
        server.control().reload_to(config("timeouts: { drain_timeout: 1m }\n")).unwrap();
        assert!(former.upgrade().is_none());
    }

    /// As [`config`], with one more listener.
    fn config_with_two() -> Config {
        let text = "domain: relay.test\nlisteners: [ { uri: 'msrp://127.0.0.1:0' }, { uri: 'msrp://127.0.0.2:0' } ]\n";
        Config::parse(text, Path::new(""), "relay.yaml").unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// Has `order` begun while a reload to `config` is under way: it comes to nothing before that is over.
    async fn beside_a_reload(
        server: &Arc<Server>,
        config: Config,
        order: impl FnOnce(&Server) + Send + 'static,
    ) -> Result<Reloaded, ConfigErrors> {
        let (control, server) = (Arc::clone(server.control()), Arc::clone(server));
        let both = move || {
            let (begins, began) = std::sync::mpsc::channel();
            let before = control.is_ready();
            let mut ordered = None;
            let reloaded = control.reload_from(|_| {
                ordered = Some(std::thread::spawn(move || {
                    begins.send(()).unwrap();
                    order(&server);
                }));
                began.recv().unwrap();
                // It has all the time that it would need.
                for _ in 0..10_000 {
                    std::thread::yield_now();
                }
                assert_eq!(control.is_ready(), before);
                Ok(config)
            });
            ordered.unwrap().join().unwrap();
            reloaded.configuration
        };
        tokio::task::spawn_blocking(both).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_drain_begins_and_ends_before_or_after_a_reload() {
        use crate::server::{Drain, DrainCause};

        let server = Arc::new(Server::start(config("")).await.unwrap());
        let control = Arc::clone(server.control());
        let drain = |server: &Server| server.drain(Drain::now(DrainCause::Operator, None));
        beside_a_reload(&server, config_with_two(), drain).await.unwrap();
        assert!(!control.is_ready() && control.addresses().is_empty(), "the new one is closed, too");
        let cancel = |server: &Server| server.cancel_drain().unwrap();
        let refused = beside_a_reload(&server, config(""), cancel).await.unwrap_err().to_string();
        assert!(refused.contains("cannot change while the relay drains"), "{refused}");
        assert!(control.is_ready());
        assert_eq!(control.addresses().len(), 2);
        drain(&server);
        beside_a_reload(&server, config_with_two(), cancel).await.unwrap();
        assert_eq!((control.is_ready(), control.addresses().len()), (true, 2));
    }

    #[tokio::test]
    async fn while_another_process_takes_over_the_listeners_stay() {
        use crate::server::lifecycle::Succession;

        let server = Server::start(config("")).await.unwrap();
        let control = server.control();
        for stage in [Succession::Offered, Succession::Paused] {
            assert!(control.set_succession(stage));
            let refused = control.reload_to(config_with_two()).unwrap_err().to_string();
            assert!(refused.contains("cannot change while another process takes over"), "{refused}");
            control.reload_to(config("timeouts: { drain_timeout: 1m }\n")).unwrap();
        }
        control.set_succession(Succession::None);
        control.reload_to(config_with_two()).unwrap();
        assert_eq!(control.addresses().len(), 2);
    }

    #[test]
    fn what_needs_a_restart_are_settings_of_sections_that_are_taken_over() {
        for (path, _) in NEEDS_RESTART {
            let (section, key) = path.split_once('.').unwrap();
            assert!(TAKEN_OVER.contains(&section), "{path}");
            let told = parsed(section, &format!("{{ {key}: {{}} }}"));
            assert!(!told.contains("unknown key"), "{told}");
        }
        for section in TAKEN_OVER {
            let told = parsed(section, "{ nonsense: 1 }");
            assert!(!told.contains("at the top"), "{told}");
        }
        assert!(parsed("sip", "{ nonsense: 1 }").contains("unknown key"));
    }
}
