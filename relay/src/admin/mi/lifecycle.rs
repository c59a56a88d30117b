//! Draining, and taking over by another process.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Answer, Command, Error, Params};
use crate::server::{Control, Order};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        names: &["drain"],
        params: &["timeout?"],
        help: "takes nothing new, and stops when the last session has ended, or after so many seconds",
        run: drain,
    },
    Command {
        names: &["drain:cancel", "drain_cancel"],
        params: &[],
        help: "takes a drain back",
        run: cancel,
    },
    Command {
        names: &["upgrade"],
        params: &[],
        help: "starts the program again, which takes over without a gap",
        run: upgrade,
    },
];

fn drain(control: &Arc<Control>, params: &Params) -> Answer {
    let timeout = params.number("timeout")?.map(Duration::from_secs);
    order(control, |reply| Order::Drain(timeout, reply))
}

fn cancel(control: &Arc<Control>, _: &Params) -> Answer {
    order(control, Order::CancelDrain)
}

fn upgrade(control: &Arc<Control>, _: &Params) -> Answer {
    order(control, Order::Upgrade)
}

fn order(control: &Control, order: impl FnOnce(crate::server::Reply) -> Order) -> Answer {
    let state = control.order(order).map_err(Error::failed)?;
    Ok(json!({ "State": state, "Drain": shown(control) }))
}

/// The processes before this one that still have sessions.
pub(in crate::admin) fn older(control: &Control) -> Value {
    let older = control.older_processes();
    older.iter().map(|older| json!({ "pid": older.pid, "sessions": older.sessions })).collect()
}

/// The drain, if there is one.
pub(in crate::admin) fn shown(control: &Control) -> Value {
    control.drain_status().map_or(Value::Null, |status| {
        json!({
            "cause": status.drain.cause.as_str(),
            "sessions": status.sessions,
            "busy_connections": status.busy,
            "seconds": control.now().saturating_duration_since(status.drain.since).as_secs(),
            "seconds_left": status.drain.left().map(|left| left.as_secs()),
        })
    })
}
