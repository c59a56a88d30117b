//! Connections: what tcpops does from a script, by hand.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tcp_transport::event::Direction;
use tcp_transport::ledger::Phase;
use tcp_transport::{ConnectionId, KeepAlive};

use super::{Answer, Command, Error, Params, shown};
use crate::config::DEFAULT_KEEPALIVE;
use crate::server::Control;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        names: &["tcp:list", "list_tcp_conns"],
        params: &[],
        help: "the connections, in OpenSIPS' form",
        run: list_opensips,
    },
    Command {
        names: &["connection:list", "connection_list"],
        params: &["protocol?", "limit?"],
        help: "the connections; 1000 where no limit says otherwise",
        run: list,
    },
    Command {
        names: &["connection:show", "connection_show"],
        params: &["id"],
        help: "one connection",
        run: show,
    },
    Command {
        names: &["tcp:close", "tcp_close", "connection:close"],
        params: &["id"],
        help: "closes a connection in order; its sessions end",
        run: close,
    },
    Command {
        names: &["connection:lifetime", "tcp_set_connection_lifetime"],
        params: &["id", "seconds"],
        help: "sets how long a connection may be idle; 0: for ever",
        run: lifetime,
    },
    Command {
        names: &["connection:keepalive", "tcp_keepalive"],
        params: &["id", "mode", "idle?", "count?", "interval?"],
        help: "turns TCP keep-alive of a connection on or off",
        run: keepalive,
    },
    Command {
        names: &["connection:mark", "tcp_enable_closed_event"],
        params: &["id"],
        help: "has a connection's events told where only those of marked ones are",
        run: mark,
    },
];

/// The form of OpenSIPS' `list_tcp_conns`.
fn list_opensips(control: &Arc<Control>, _: &Params) -> Answer {
    let connections: Vec<Value> = control
        .connections()
        .iter()
        .map(|info| {
            let entry = &info.entry;
            let (remote, local) =
                (entry.remote().to_string(), entry.local().map(|local| local.to_string()).unwrap_or_default());
            let inbound = entry.direction() == Direction::Inbound;
            let (source, destination) = if inbound { (remote, local) } else { (local, remote) };
            json!({
                "ID": entry.id().as_u64(),
                "Type": entry.scheme().map_or(entry.transport().as_str(), |scheme| scheme.as_str()),
                "State": if entry.phase() == Phase::Open { "CONN_OK" } else { "CONN_CONNECTING" },
                "Source": source,
                "Destination": destination,
                "Lifetime": entry.lifetime().map_or_else(|| "forever".to_owned(), |lifetime| format!("{} s idle", lifetime.as_secs())),
            })
        })
        .collect();
    Ok(json!({ "Connections": connections }))
}

fn list(control: &Arc<Control>, params: &Params) -> Answer {
    let protocol = params.text("protocol")?;
    let mut connections = control.connections();
    connections.retain(|info| {
        protocol
            .as_deref()
            .is_none_or(|wanted| info.entry.scheme().is_some_and(|scheme| scheme.as_str() == wanted))
    });
    let count = connections.len();
    let shown: Vec<_> = connections.iter().take(params.limit()?).map(shown::connection).collect();
    Ok(json!({ "Connections": shown, "Count": count }))
}

fn id(params: &Params) -> Result<ConnectionId, Error> {
    Ok(ConnectionId::from(params.number("id")?.unwrap_or_default()))
}

fn done(found: bool, id: ConnectionId) -> Answer {
    if found { Ok("OK".into()) } else { Err(none(id)) }
}

fn none(id: ConnectionId) -> Error {
    Error::not_found(format!("there is no connection {id}"))
}

fn show(control: &Arc<Control>, params: &Params) -> Answer {
    let id = id(params)?;
    control.connection(id).map(|info| shown::connection(&info)).ok_or_else(|| none(id))
}

fn close(control: &Arc<Control>, params: &Params) -> Answer {
    let id = id(params)?;
    done(control.close_connection(id), id)
}

fn lifetime(control: &Arc<Control>, params: &Params) -> Answer {
    let id = id(params)?;
    let seconds = params.number("seconds")?.unwrap_or_default();
    if seconds > 366 * 24 * 3600 {
        return Err(Error::bad_value("`seconds` is more than a year"));
    }
    done(control.set_connection_lifetime(id, (seconds > 0).then(|| Duration::from_secs(seconds))), id)
}

fn keepalive(control: &Arc<Control>, params: &Params) -> Answer {
    let id = id(params)?;
    let on = params.switch("mode")?.unwrap_or_default();
    let number = |name: &str, default: u32| match params.number(name)? {
        None => Ok(default),
        Some(value) => match u32::try_from(value) {
            Ok(value @ 1..=32767) => Ok(value),
            _ => Err(Error::bad_value(format!("`{name}` is from 1 to 32767"))),
        },
    };
    let keepalive = if on {
        let default = DEFAULT_KEEPALIVE;
        let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
        Some(KeepAlive {
            idle: Duration::from_secs(number("idle", seconds(default.idle))?.into()),
            count: number("count", default.count)?,
            interval: Duration::from_secs(number("interval", seconds(default.interval))?.into()),
        })
    } else {
        None
    };
    match control.set_connection_keepalive(id, keepalive) {
        Ok(()) => Ok("OK".into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(none(id)),
        Err(error) => Err(Error::failed(error.to_string())),
    }
}

fn mark(control: &Arc<Control>, params: &Params) -> Answer {
    let id = id(params)?;
    done(control.mark_connection(id), id)
}
