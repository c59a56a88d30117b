//! What collectors are told by HEP.

use std::sync::Arc;

use serde_json::{Value, json};
use tcp_transport::hep::trace::What;
use tcp_transport::{ConnectionId, Scheme};

use super::{Answer, Command, Error, Params};
use crate::server::{Control, TraceSwitches};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        names: &["msrp:trace", "msrp_trace", "trace"],
        params: &["trace_mode?"],
        help: "whether tracing is on; `on` or `off` switches it for everything",
        run: all,
    },
    Command {
        names: &["trace:show", "trace_show"],
        params: &[],
        help: "all switches, and the collectors with their figures",
        run: show,
    },
    Command {
        names: &["trace:protocol"],
        params: &["protocol", "events?", "messages?"],
        help: "switches what is traced of a protocol",
        run: protocol,
    },
    Command {
        names: &["trace:destination"],
        params: &["name", "trace_mode"],
        help: "switches one collector",
        run: destination,
    },
    Command {
        names: &["trace:connection"],
        params: &["id", "trace_mode?"],
        help: "switches one connection; without a mode, nothing is said about it any more",
        run: connection,
    },
    Command {
        names: &["trace:user"],
        params: &["user", "trace_mode?"],
        help: "switches one user; without a mode, nothing is said about it any more",
        run: user,
    },
];

fn switches(control: &Control) -> Result<TraceSwitches, Error> {
    control.trace().ok_or_else(|| Error::not_found("there are no `trace.destinations`"))
}

fn word(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn all(control: &Arc<Control>, params: &Params) -> Answer {
    let switches = switches(control)?;
    match params.switch("trace_mode")? {
        Some(on) => {
            switches.switch_all(on);
            tracing::info!(on, "tracing was switched by the admin interface");
            Ok("OK".into())
        }
        None => Ok(json!({ "MSRP tracing": switches.state().map(|state| word(state.on)) })),
    }
}

fn show(control: &Arc<Control>, _: &Params) -> Answer {
    let switches = switches(control)?;
    let state = switches.state().ok_or_else(|| Error::failed("tracing has ended"))?;
    let protocols = state.protocols.iter().map(|(scheme, what)| {
        let what = json!({ "events": what.events, "messages": what.messages });
        (scheme.as_str().to_owned(), what)
    });
    let users = state.users.iter().map(|(user, on)| (user.clone(), word(*on).into()));
    let connections = state.connections.iter().map(|(id, on)| (id.to_string(), word(*on).into()));
    let destinations = switches.destinations().into_iter().map(|destination| {
        let counters = destination.counters;
        json!({
            "name": destination.name,
            "on": destination.on,
            "submitted": counters.submitted,
            "sent": counters.sent,
            "waiting": counters.waiting,
            "dropped_by_queue": counters.dropped_by_queue,
            "dropped_while_down": counters.dropped_while_down,
            "dropped_unsendable": counters.dropped_unsendable,
            "possibly_lost_bytes": counters.possibly_lost_bytes,
        })
    });
    Ok(json!({
        "on": state.on,
        "protocols": protocols.collect::<serde_json::Map<_, _>>(),
        "users": users.collect::<serde_json::Map<String, Value>>(),
        "connections": connections.collect::<serde_json::Map<String, Value>>(),
        "destinations": destinations.collect::<Vec<_>>(),
    }))
}

fn protocol(control: &Arc<Control>, params: &Params) -> Answer {
    let switches = switches(control)?;
    let name = params.text("protocol")?.unwrap_or_default();
    let scheme = Scheme::ALL.into_iter().find(|scheme| scheme.as_str().eq_ignore_ascii_case(&name));
    let scheme = scheme.ok_or_else(|| {
        let names = Scheme::ALL.map(Scheme::as_str).join(", ");
        Error::bad_value(format!("`{name}` is not a protocol, those are {names}"))
    })?;
    let state = switches.state().ok_or_else(|| Error::failed("tracing has ended"))?;
    let known = state.protocols.iter().find(|(known, _)| *known == scheme).map(|(_, what)| *what);
    let known = known.unwrap_or_default();
    let what = What {
        events: params.switch("events")?.unwrap_or(known.events),
        messages: params.switch("messages")?.unwrap_or(known.messages),
    };
    switches.switch_protocol(scheme, what);
    Ok("OK".into())
}

fn found(found: bool, what: &str, name: &str) -> Answer {
    if found { Ok("OK".into()) } else { Err(Error::not_found(format!("there is no {what} {name}"))) }
}

fn destination(control: &Arc<Control>, params: &Params) -> Answer {
    let name = params.text("name")?.unwrap_or_default();
    let on = params.switch("trace_mode")?.unwrap_or_default();
    found(switches(control)?.switch_destination(&name, on), "destination", &name)
}

fn connection(control: &Arc<Control>, params: &Params) -> Answer {
    let id = ConnectionId::from(params.number("id")?.unwrap_or_default());
    let on = params.switch("trace_mode")?;
    found(switches(control)?.switch_connection(id, on), "connection", &id.to_string())
}

fn user(control: &Arc<Control>, params: &Params) -> Answer {
    let user = params.text("user")?.unwrap_or_default();
    switches(control)?.switch_user(&user, params.switch("trace_mode")?);
    Ok("OK".into())
}
