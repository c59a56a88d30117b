//! TLS domains.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};
use tcp_transport::tls::{CertificateFacts, Expiry};

use super::{Answer, Command, Error, Params, shown::time};
use crate::server::{Control, Reload};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        names: &["tls_mgm:list", "tls_list"],
        params: &[],
        help: "the TLS domains and their certificates",
        run: list,
    },
    Command {
        names: &["tls_mgm:reload", "tls_reload"],
        params: &[],
        help: "reads the configuration again, TLS domains and certificates with it: what changed, and what needs a restart",
        run: reload,
    },
];

fn list(control: &Arc<Control>, _: &Params) -> Answer {
    let servers = control.server_domains().snapshot();
    let clients = control.client_domains().snapshot();
    let servers = servers
        .iter()
        .map(|domain| describe("TLS_DOMAIN_SRV", domain.name(), domain.certificate(), domain.expiries()));
    let clients = clients
        .iter()
        .map(|domain| describe("TLS_DOMAIN_CLI", domain.name(), domain.certificate(), domain.expiries()));
    Ok(json!({ "Domains": servers.chain(clients).collect::<Vec<_>>() }))
}

fn describe(role: &str, name: &str, certificate: Option<&CertificateFacts>, expiries: &[Expiry]) -> Value {
    let first = expiries.iter().map(|expiry| expiry.at).min();
    json!({
        "ID": name,
        "TYPE": role,
        "certificate": certificate.map(|facts| json!({
            "subject": facts.subject.name,
            "issuer": facts.issuer.name,
            "serial": facts.serial,
            "dns_names": facts.dns_names,
            "not_before": time(facts.not_before),
            "not_after": time(facts.not_after),
            "days_left": days_left(facts.not_after),
        })),
        "first_expiry": first.map(time),
    })
}

/// Whole days until then; negative once it is over.
fn days_left(at: SystemTime) -> i64 {
    let day = 24.0 * 60.0 * 60.0;
    ((time(at) - time(SystemTime::now())) / day).floor() as i64
}

fn reload(control: &Arc<Control>, _: &Params) -> Answer {
    let Reload { configuration, files } = control.reload();
    match configuration {
        Ok(reloaded) => {
            tracing::info!("reloaded by the admin interface");
            let changed = reloaded
                .changed
                .iter()
                .map(|change| json!({ "Setting": change.setting, "From": change.from, "To": change.to }));
            Ok(json!({
                "Reloaded": reloaded.to_string(),
                "Changed": changed.collect::<Value>(),
                "LogNotReopened": files.log,
                "RecordsNotReopened": files.records.iter().map(ToString::to_string).collect::<Value>(),
                "NeedsRestart": reloaded.needs_restart.iter().map(ToString::to_string).collect::<Value>(),
            }))
        }
        Err(errors) => {
            let mut errors: Vec<_> = errors.errors().iter().map(ToString::to_string).collect();
            errors.extend(files.log.map(|why| format!("the log was not opened again: {why}")));
            let records = files.records.iter();
            errors.extend(records.map(|file| format!("session records were not opened again: {file}")));
            Err(Error::failed(format!("not reloaded, everything stays as it was: {}", errors.join("; "))))
        }
    }
}
