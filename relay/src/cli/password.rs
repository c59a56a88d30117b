//! Where passwords come from: the terminal without echo, or standard input. Never an argument, which other users of
//! the machine can read.

use std::io::{self, BufRead as _, IsTerminal as _};

use anyhow::{Context as _, bail};

/// The longest line taken.
const MAX_LINE: usize = 4096;

/// Asks for the password of `user`, twice on a terminal; else it is the first line of standard input.
///
/// # Errors
/// If there is none, or the two differ.
pub(super) fn read(user: &str) -> anyhow::Result<String> {
    let password = if io::stdin().is_terminal() {
        let ask = |prompt: String| rpassword::prompt_password(prompt).context("cannot read a password");
        let password = ask(format!("Password of {user}: "))?;
        if ask("Once more: ".to_owned())? != password {
            bail!("these are two passwords");
        }
        password
    } else {
        first_line(io::stdin().lock())?
    };
    if password.is_empty() {
        bail!("the password is empty");
    }
    Ok(password)
}

fn first_line(input: impl io::BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    let mut limited = io::Read::take(input, MAX_LINE as u64 + 1);
    limited.read_line(&mut line).context("cannot read a password from standard input")?;
    if line.len() > MAX_LINE {
        bail!("the password is longer than {MAX_LINE} bytes");
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line_without_its_end() {
        for (input, password) in [("pw\n", "pw"), (" p w \r\nmore", " p w "), ("pw", "pw"), ("", "")] {
            assert_eq!(first_line(input.as_bytes()).unwrap(), password);
        }
        assert_eq!(first_line("x".repeat(MAX_LINE).as_bytes()).unwrap().len(), MAX_LINE);
        assert!(first_line("x".repeat(MAX_LINE + 1).as_bytes()).is_err());
        assert!(first_line(&b"\xff\n"[..]).is_err());
    }
}
