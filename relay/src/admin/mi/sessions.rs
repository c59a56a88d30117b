//! Sessions, and the users who have them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Answer, Command, Error, Params, shown};
use crate::msrp::{ProcessTag, Session};
use crate::server::{Control, SessionFacts};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        names: &["session:list", "session_list"],
        params: &["user?", "limit?"],
        help: "the sessions, those granted last first; 1000 where no limit says otherwise",
        run: list,
    },
    Command { names: &["session:show", "session_show"], params: &["id"], help: "one session", run: show },
    Command {
        names: &["session:end", "session_end"],
        params: &["id"],
        help: "ends one session: its client gets 481 from then on",
        run: end,
    },
    Command {
        names: &["user:list", "user_list"],
        params: &[],
        help: "users who have sessions, and how many",
        run: users,
    },
    Command {
        names: &["user:end", "user_end"],
        params: &["user"],
        help: "ends all sessions of a user",
        run: end_user,
    },
];

fn list(control: &Arc<Control>, params: &Params) -> Answer {
    let user = params.text("user")?;
    let limit = params.limit()?;
    let mut sessions = control.relay().sessions().snapshot();
    sessions.retain(|session| user.as_deref().is_none_or(|user| session.user() == user));
    sessions.sort_unstable_by_key(|session| std::cmp::Reverse(session.began()));
    let count = sessions.len();
    sessions.truncate(limit);
    let shown: Vec<_> = sessions.iter().map(|session| facts(control, session)).collect();
    Ok(json!({ "Sessions": shown, "Count": count }))
}

fn facts(control: &Control, session: &Session) -> Value {
    shown::session(&SessionFacts::of(session, control.now()))
}

/// How many hexadecimal digits of a session-id there are behind the process' tag, and how many characters are enough to
/// name a session.
const ID_DIGITS: usize = 32;
const MIN_LENGTH: usize = 8;

fn find(control: &Control, params: &Params) -> Result<Arc<Session>, Error> {
    let text = params.text("id")?.unwrap_or_default();
    let sessions = control.relay().sessions();
    let digits = text.strip_prefix(sessions.tag().as_str()).unwrap_or(&text);
    let is_id = text.len() >= MIN_LENGTH
        && (1..=ID_DIGITS).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let none = || Error::not_found(format!("there is no session {text}"));
    if ProcessTag::of_session_id(&text).is_some_and(|tag| tag != sessions.tag()) {
        return Err(none());
    }
    let id = u128::from_str_radix(digits, 16).ok().filter(|_| is_id).ok_or_else(|| {
        let message =
            format!("`{text}` is not a session-id, nor the first {MIN_LENGTH} characters or more of one");
        Error::bad_value(message)
    })?;
    if digits.len() == ID_DIGITS {
        return sessions.get(id).ok_or_else(none);
    }
    let rest = 4 * (ID_DIGITS - digits.len());
    let mut found = sessions.snapshot();
    found.retain(|session| session.id() >> rest == id);
    match found.len() {
        0 => Err(none()),
        1 => found.pop().ok_or_else(none),
        count => Err(Error::bad_value(format!("{count} sessions begin with {text}: more is needed"))),
    }
}

fn show(control: &Arc<Control>, params: &Params) -> Answer {
    let session = find(control, params)?;
    Ok(facts(control, &session))
}

fn end(control: &Arc<Control>, params: &Params) -> Answer {
    let session = find(control, params)?;
    // It may have ended meanwhile, which is all that was wanted.
    control.relay().end_session(session.id());
    Ok("OK".into())
}

fn users(control: &Arc<Control>, _: &Params) -> Answer {
    let mut users: BTreeMap<String, u64> = BTreeMap::new();
    for session in control.relay().sessions().snapshot() {
        *users.entry(session.user().to_owned()).or_default() += 1;
    }
    let users: Vec<_> =
        users.into_iter().map(|(user, sessions)| json!({ "user": user, "sessions": sessions })).collect();
    Ok(json!({ "Users": users }))
}

fn end_user(control: &Arc<Control>, params: &Params) -> Answer {
    let user = params.text("user")?.unwrap_or_default();
    let sessions = control.relay().sessions().snapshot();
    let ended =
        sessions.iter().filter(|session| session.user() == user && control.relay().end_session(session.id()));
    match ended.count() {
        0 => Err(Error::not_found(format!("{user} has no session"))),
        count => Ok(json!({ "Ended": count })),
    }
}
