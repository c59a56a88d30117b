//! The process: its version, time, numbers, log and configuration.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::super::statistics::{self, Family, Value as Number};
use super::{Answer, Command, Error, Params, commands, shown::time};
use crate::config::LogLevel;
use crate::logging;
use crate::server::Control;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        names: &["which"],
        params: &["command?"],
        help: "the commands, or how one is called",
        run: which,
    },
    Command { names: &["version"], params: &[], help: "what runs here", run: version },
    Command { names: &["uptime"], params: &[], help: "since when", run: uptime },
    Command { names: &["ps"], params: &[], help: "the process", run: ps },
    Command {
        names: &["get_statistics", "statistics:get"],
        params: &["statistics?"],
        help: "numbers: `all`, a group with its colon (`msrp:`), or names, one or a list",
        run: get_statistics,
    },
    Command {
        names: &["list_statistics", "statistics:list"],
        params: &[],
        help: "the numbers' names",
        run: list_statistics,
    },
    Command {
        names: &["log_level"],
        params: &["level?"],
        help: "how much is logged, or sets it: `info`, `info,relay::sip=debug`; `reset`: as configured",
        run: log_level,
    },
    Command {
        names: &["config:show", "config_show"],
        params: &[],
        help: "the configuration, secrets masked",
        run: config,
    },
];

fn which(_: &Arc<Control>, params: &Params) -> Answer {
    let Some(name) = params.text("command")? else {
        let mut names: Vec<_> = commands().flat_map(|command| command.names).collect();
        names.sort_unstable();
        return Ok(json!(names));
    };
    let command = commands().find(|command| command.names.contains(&name.as_str()));
    let command = command.ok_or_else(|| Error::not_found(format!("there is no `{name}`")))?;
    Ok(json!({ "names": command.names, "params": command.params, "help": command.help }))
}

fn version(_: &Arc<Control>, _: &Params) -> Answer {
    let (arch, os) = (std::env::consts::ARCH, std::env::consts::OS);
    Ok(json!({ "Server": format!("msrp-relay ({} ({arch}/{os}))", env!("CARGO_PKG_VERSION")) }))
}

fn uptime(control: &Arc<Control>, _: &Params) -> Answer {
    let started = control.started();
    let seconds = control.now().saturating_duration_since(started.at).as_secs();
    Ok(json!({
        "Now": time(SystemTime::now()),
        "Up since": time(started.time),
        "Up time": format!("{seconds} [sec]"),
    }))
}

fn ps(_: &Arc<Control>, _: &Params) -> Answer {
    Ok(json!({ "Processes": [{ "ID": 0, "PID": std::process::id(), "Type": "msrp-relay" }] }))
}

/// `group:short`, with its labels' values behind it.
fn name(family: &Family, labels: &[(&'static str, String)]) -> String {
    let labels = labels.iter().map(|(_, value)| format!("_{value}")).collect::<String>();
    format!("{}:{}{labels}", family.group, family.short)
}

fn all(control: &Control) -> Vec<(String, Number)> {
    let families = statistics::collect(control);
    let of = |family: &Family| -> Vec<_> {
        family.samples.iter().map(|sample| (name(family, &sample.labels), sample.value)).collect()
    };
    families.iter().flat_map(of).collect()
}

fn get_statistics(control: &Arc<Control>, params: &Params) -> Answer {
    let wanted: Vec<String> = match params.get("statistics") {
        None => vec!["all".to_owned()],
        Some(Value::Array(names)) => {
            let text = |name: &Value| name.as_str().map(str::to_owned);
            let names: Option<_> = names.iter().map(text).collect();
            names.ok_or_else(|| Error::bad_value("`statistics` is not a list of names"))?
        }
        Some(Value::String(names)) => names.split_whitespace().map(str::to_owned).collect(),
        Some(_) => return Err(Error::bad_value("`statistics` is neither a name nor a list of names")),
    };
    let is_wanted = |name: &str| {
        wanted.iter().any(|wanted| {
            let group = wanted.ends_with(':') && name.starts_with(wanted.as_str());
            group
                || wanted == "all"
                || wanted == name
                || name.split_once(':').is_some_and(|(_, short)| short == wanted)
        })
    };
    let mut found = Map::new();
    for (name, value) in all(control).into_iter().filter(|(name, _)| is_wanted(name)) {
        found.insert(name, value.to_json());
    }
    if found.is_empty() {
        return Err(Error::not_found("Statistics Not Found"));
    }
    Ok(Value::Object(found))
}

fn list_statistics(control: &Arc<Control>, _: &Params) -> Answer {
    let mut found = Map::new();
    for family in statistics::collect(control) {
        let kind = match family.kind {
            statistics::Kind::Counter => "incremental",
            statistics::Kind::Gauge => "non-incremental",
        };
        for sample in &family.samples {
            found.insert(name(&family, &sample.labels), kind.into());
        }
    }
    Ok(Value::Object(found))
}

fn log_level(control: &Arc<Control>, params: &Params) -> Answer {
    let configured = &control.config().log.level;
    let level: LogLevel = match params.text("level")?.as_deref() {
        None => {
            let level = logging::level().unwrap_or_else(|| configured.clone());
            return Ok(json!({ "Log level": level.as_str(), "Configured": configured.as_str() }));
        }
        Some("reset") => configured.clone(),
        Some(level) => level.parse().map_err(Error::bad_value)?,
    };
    if !logging::set_level(&level) {
        return Err(Error::failed("this process has not installed the log"));
    }
    tracing::info!(level = level.as_str(), "the log level was changed by the admin interface");
    Ok(json!({ "Log level": level.as_str() }))
}

fn config(control: &Arc<Control>, _: &Params) -> Answer {
    let source = &control.config().source;
    Ok(json!({ "File": source.file_name(), "Configuration": source.masked() }))
}
