//! The process: its version, time, numbers, log and configuration.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::super::statistics::{self, Family, Value as Number};
use super::{Answer, Command, Error, Params, commands};
use crate::config::LogLevel;
use crate::logging;
use crate::server::Control;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        names: &["which"],
        params: &["command?"],
        help: "the commands, or the parameters that one may be called with",
        run: which,
    },
    Command {
        names: &["help"],
        params: &["mi_cmd"],
        help: "what a command does, and how it is called",
        run: help,
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
        params: &["statistics?"],
        help: "the numbers' names: all, a group with its colon, or those named",
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

/// The longest name that another one is looked for instead of: comparing takes time by its length.
const MAX_GUESSED: usize = 100;

fn which(_: &Arc<Control>, params: &Params) -> Answer {
    let Some(name) = params.text("command")? else {
        let mut names: Vec<_> = commands().flat_map(|command| command.names).collect();
        names.sort_unstable();
        return Ok(json!(names));
    };
    // In OpenSIPS' form: a list for each way to call it.
    let params = find(&name)?.params;
    let required = params.iter().filter(|name| !name.ends_with('?')).count();
    let names: Vec<_> = params.iter().map(|name| name.trim_end_matches('?')).collect();
    Ok((required..=names.len()).map(|count| json!(names[..count])).collect())
}

fn find(name: &str) -> Result<&'static Command, Error> {
    let command = commands().find(|command| command.names.contains(&name));
    command.ok_or_else(|| Error::not_found(format!("there is no `{name}`; `which` lists what there is")))
}

fn help(_: &Arc<Control>, params: &Params) -> Answer {
    let command = find(&params.text("mi_cmd")?.unwrap_or_default())?;
    Ok(json!({ "Help": command.help, "Names": command.names, "Params": command.params }))
}

fn version(_: &Arc<Control>, _: &Params) -> Answer {
    let (arch, os) = (std::env::consts::ARCH, std::env::consts::OS);
    Ok(json!({ "Server": format!("msrp-relay ({} ({arch}/{os}))", env!("CARGO_PKG_VERSION")) }))
}

fn uptime(control: &Arc<Control>, _: &Params) -> Answer {
    let started = control.started();
    let seconds = control.now().saturating_duration_since(started.at).as_secs();
    Ok(json!({
        "Now": asctime(SystemTime::now()),
        "Up since": asctime(started.time),
        "Up time": format!("{seconds} [sec]"),
    }))
}

/// As `asctime` of C writes it, which OpenSIPS shows: `Sat Nov 21 19:30:42 2026`. It is UTC here.
fn asctime(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    let (weekday, month) = (at.weekday().to_string(), at.month().to_string());
    let short = |name: &str| name.get(..3).map(str::to_owned).unwrap_or_default();
    format!(
        "{} {} {:>2} {:02}:{:02}:{:02} {}",
        short(&weekday),
        short(&month),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.year()
    )
}

fn ps(_: &Arc<Control>, _: &Params) -> Answer {
    Ok(json!({ "Processes": [{ "ID": 0, "PID": std::process::id(), "Type": "msrp-relay" }] }))
}

/// `group:short`, with its labels' values behind it.
fn name(family: &Family, labels: &[(&'static str, String)]) -> String {
    let labels = labels.iter().map(|(_, value)| format!("_{value}")).collect::<String>();
    format!("{}:{}{labels}", family.group, family.short)
}

/// Every number's name, and `of` it.
fn all<T>(control: &Control, of: impl Fn(&Family, Number) -> T) -> Vec<(String, T)> {
    let mut found = Vec::new();
    for family in statistics::collect(control) {
        for sample in &family.samples {
            found.push((name(&family, &sample.labels), of(&family, sample.value)));
        }
    }
    found
}

/// Which numbers are meant: `None` for all of them.
fn wanted(params: &Params) -> Result<Option<Vec<String>>, Error> {
    let wanted: Vec<String> = match params.get("statistics") {
        None => return Ok(None),
        Some(Value::Array(names)) => {
            let text = |name: &Value| name.as_str().map(str::to_owned);
            let names: Option<_> = names.iter().map(text).collect();
            names.ok_or_else(|| Error::bad_value("`statistics` is not a list of names"))?
        }
        Some(Value::String(names)) => names.split_whitespace().map(str::to_owned).collect(),
        Some(_) => return Err(Error::bad_value("`statistics` is neither a name nor a list of names")),
    };
    let is_all = wanted.iter().any(|name| name == "all");
    Ok((!is_all).then_some(wanted))
}

/// Those of `all` that are meant.
fn chosen<T>(params: &Params, all: Vec<(String, T)>, shown: impl Fn(T) -> Value) -> Answer {
    let wanted = wanted(params)?;
    let is_wanted = |name: &str| {
        wanted.as_ref().is_none_or(|wanted| {
            wanted.iter().any(|wanted| {
                let is_group = wanted.ends_with(':') && name.starts_with(wanted.as_str());
                is_group || wanted == name || name.split_once(':').is_some_and(|(_, short)| short == wanted)
            })
        })
    };
    if !all.iter().any(|(name, _)| is_wanted(name)) {
        // So OpenSIPS says it.
        let nearest = wanted.iter().flatten().next().and_then(|wanted| nearest(wanted, &all));
        let hint = nearest.map_or_else(
            || "`list_statistics` (`ctl stats`) has their names".to_owned(),
            |nearest| format!("did you mean `{nearest}`?"),
        );
        return Err(Error::not_found(format!("Statistics Not Found; {hint}")));
    }
    let found = all.into_iter().filter(|(name, _)| is_wanted(name));
    Ok(Value::Object(found.map(|(name, value)| (name, shown(value))).collect()))
}

/// The name, or the group with its colon, that is most like `wanted`. A third of it may be wrong.
fn nearest<T>(wanted: &str, all: &[(String, T)]) -> Option<String> {
    if wanted.len() > MAX_GUESSED {
        return None;
    }
    let candidates = all.iter().filter_map(|(name, _)| {
        let (group, short) = name.split_once(':')?;
        let group = format!("{group}:");
        let shown = if wanted.ends_with(':') { &group } else { name };
        // Who leaves the group out means the short name.
        let compared = if wanted.contains(':') { shown } else { short };
        Some((strsim::damerau_levenshtein(wanted, compared), shown.clone()))
    });
    let (distance, nearest) = candidates.min()?;
    (distance <= (wanted.chars().count() / 3).max(1)).then_some(nearest)
}

fn get_statistics(control: &Arc<Control>, params: &Params) -> Answer {
    chosen(params, all(control, |_, value| value), Number::to_json)
}

fn list_statistics(control: &Arc<Control>, params: &Params) -> Answer {
    let kind = |family: &Family, _| match family.kind {
        statistics::Kind::Counter => "incremental",
        statistics::Kind::Gauge => "non-incremental",
    };
    chosen(params, all(control, kind), Value::from)
}

fn log_level(control: &Arc<Control>, params: &Params) -> Answer {
    let config = control.config();
    let configured = &config.log.level;
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
    let config = control.config();
    let source = &config.source;
    Ok(json!({ "File": source.file_name(), "Configuration": source.masked() }))
}
