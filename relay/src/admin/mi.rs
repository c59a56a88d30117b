//! `POST /mi`: JSON-RPC 2.0, with the names that OpenSIPS' management interface uses where there is a counterpart, so that
//! its tools work here, and with names of our own for the rest. `which` lists them, with what they are for.
//!
//! Parameters go by name or by position. An error of ours has a code of JSON-RPC, or one like HTTP's, as OpenSIPS' have:
//! 400 for a value that cannot be, 404 for what is not there, 500 for what could not be done.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::server::Control;

mod connections;
pub(super) mod lifecycle;
mod process;
mod sessions;
pub(super) mod shown;
mod tls;
mod trace;

/// The most calls in one batch.
const MAX_BATCH: usize = 20;

/// How many items a list has where nothing else is asked for.
const DEFAULT_LIMIT: usize = 1000;

/// What a call comes to, if not well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Of JSON-RPC, or like HTTP's.
    pub code: i64,
    /// What is wrong.
    pub message: String,
}

impl Error {
    fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    fn bad_value(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, message)
    }

    fn failed(message: impl Into<String>) -> Self {
        Self::new(500, message)
    }
}

type Answer = Result<Value, Error>;

/// Something that can be called.
struct Command {
    /// Its names; the first is the one to use.
    names: &'static [&'static str],
    /// Its parameters in their order; one that may be left out ends with `?`.
    params: &'static [&'static str],
    /// What it is for.
    help: &'static str,
    run: fn(&Arc<Control>, &Params) -> Answer,
}

fn commands() -> impl Iterator<Item = &'static Command> {
    [
        process::COMMANDS,
        lifecycle::COMMANDS,
        connections::COMMANDS,
        sessions::COMMANDS,
        tls::COMMANDS,
        trace::COMMANDS,
    ]
    .into_iter()
    .flatten()
}

/// The parameters of one call, by name.
#[derive(Debug, Default)]
struct Params(Map<String, Value>);

impl Params {
    fn of(command: &Command, given: Option<Value>) -> Result<Self, Error> {
        let names = command.params.iter().map(|name| name.trim_end_matches('?'));
        let given = match given {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(given)) => given,
            Some(Value::Array(values)) => {
                if values.len() > command.params.len() {
                    return Err(Error::new(
                        -32602,
                        format!("takes at most {} parameters", command.params.len()),
                    ));
                }
                names.clone().map(str::to_owned).zip(values).collect()
            }
            Some(_) => return Err(Error::new(-32602, "`params` is neither an object nor an array")),
        };
        if let Some(unknown) = given.keys().find(|key| !names.clone().any(|name| name == *key)) {
            let known = names.collect::<Vec<_>>().join(", ");
            return Err(Error::new(-32602, format!("there is no parameter `{unknown}`, those are: {known}")));
        }
        for name in command.params.iter().filter(|name| !name.ends_with('?')) {
            if given.get(*name).is_none_or(Value::is_null) {
                return Err(Error::new(-32602, format!("lacks the parameter `{name}`")));
            }
        }
        Ok(Self(given))
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// Text, or a number as text: tools of the command line know no difference.
    fn text(&self, name: &str) -> Result<Option<String>, Error> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(Value::Bool(value)) => Ok(Some(value.to_string())),
            Some(_) => Err(Error::bad_value(format!("`{name}` is not text"))),
        }
    }

    /// A number, or text that is one.
    fn number(&self, name: &str) -> Result<Option<u64>, Error> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.trim()
            .parse()
            .map(Some)
            .map_err(|_| Error::bad_value(format!("`{name}` is not a number: {text}")))
    }

    /// How many items a list may have.
    fn limit(&self) -> Result<usize, Error> {
        let limit = self.number("limit")?;
        Ok(limit.map_or(DEFAULT_LIMIT, |limit| usize::try_from(limit).unwrap_or(usize::MAX)))
    }

    /// `on` or `off`, and what else means so.
    fn switch(&self, name: &str) -> Result<Option<bool>, Error> {
        match self.text(name)?.as_deref() {
            None => Ok(None),
            Some("on" | "true" | "1" | "yes") => Ok(Some(true)),
            Some("off" | "false" | "0" | "no") => Ok(Some(false)),
            Some(other) => Err(Error::bad_value(format!("`{name}` is on or off, not {other}"))),
        }
    }
}

/// Answers what a request's body asks; `None` if nothing wants an answer.
pub async fn answer(control: &Arc<Control>, body: &[u8]) -> Option<Value> {
    match serde_json::from_slice(body) {
        Err(error) => Some(failure(&Value::Null, &Error::new(-32700, format!("not JSON: {error}")))),
        Ok(Value::Array(calls)) if calls.is_empty() || calls.len() > MAX_BATCH => {
            let message = format!("a batch has 1 to {MAX_BATCH} calls");
            Some(failure(&Value::Null, &Error::new(-32600, message)))
        }
        Ok(Value::Array(calls)) => {
            let mut answers = Vec::new();
            for one in calls {
                answers.extend(call(control, one).await);
            }
            (!answers.is_empty()).then_some(Value::Array(answers))
        }
        Ok(one) => call(control, one).await,
    }
}

async fn call(control: &Arc<Control>, call: Value) -> Option<Value> {
    let invalid = |message: &str| Some(failure(&Value::Null, &Error::new(-32600, message)));
    let Value::Object(mut call) = call else { return invalid("a call is an object") };
    if call.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return invalid("`jsonrpc` is not \"2.0\"");
    }
    let id = call.remove("id");
    if matches!(id, Some(Value::Object(_) | Value::Array(_) | Value::Bool(_))) {
        return invalid("`id` is a string or a number");
    }
    let Some(Value::String(method)) = call.remove("method") else { return invalid("`method` is not text") };
    let result = run(control, &method, call.remove("params")).await;
    let id = id?;
    Some(match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "result": result, "id": id }),
        Err(error) => failure(&id, &error),
    })
}

fn failure(id: &Value, error: &Error) -> Value {
    json!({ "jsonrpc": "2.0", "error": { "code": error.code, "message": error.message }, "id": id })
}

/// Calls one command.
///
/// # Errors
/// [`Error`], for the caller.
pub async fn run(control: &Arc<Control>, method: &str, params: Option<Value>) -> Answer {
    let command = commands().find(|command| command.names.contains(&method));
    let Some(command) = command else {
        return Err(Error::new(-32601, format!("there is no `{method}`; `which` lists what there is")));
    };
    let params = Params::of(command, params)?;
    let control = Arc::clone(control);
    // Some of them read files.
    let done = tokio::task::spawn_blocking(move || (command.run)(&control, &params)).await;
    done.unwrap_or_else(|_| Err(Error::failed("the command failed; the log says why")))
}

#[cfg(test)]
mod tests;
