//! Sessions, and the users who have them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Answer, Command, Error, Params, shown};
use crate::msrp::Session;
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

/// How many digits of a session-id there are, and how many are enough to name a session.
const ID_DIGITS: usize = 32;
const MIN_DIGITS: usize = 8;

fn find(control: &Control, params: &Params) -> Result<Arc<Session>, Error> {
    let text = params.text("id")?.unwrap_or_default();
    let is_id =
        (MIN_DIGITS..=ID_DIGITS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u128::from_str_radix(&text, 16).ok().filter(|_| is_id).ok_or_else(|| {
        let message = format!(
            "`{text}` is not a session-id: {ID_DIGITS} hexadecimal digits, or the first {MIN_DIGITS} or more of them"
        );
        Error::bad_value(message)
    })?;
    let none = || Error::not_found(format!("there is no session {text}"));
    let sessions = control.relay().sessions();
    if text.len() == ID_DIGITS {
        return sessions.get(id).ok_or_else(none);
    }
    let rest = 4 * (ID_DIGITS - text.len());
    let mut found = sessions.snapshot();
    found.retain(|session| session.id() >> rest == id);
    match found.len() {
        0 => Err(none()),
        1 => found.pop().ok_or_else(none),
        count => Err(Error::bad_value(format!("{count} sessions begin with {text}: more digits are needed"))),
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
