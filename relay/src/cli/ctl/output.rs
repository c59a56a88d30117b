//! Where answers go.

use std::io::{self, IsTerminal as _, Write};

use console::Term;
use serde_json::Value;

use super::Failure;
use super::table::{Table, Tone};

/// Standard output, and what is known of it.
pub(super) struct Output {
    json: bool,
    /// Columns; `None`: as many as it takes.
    width: Option<usize>,
    colours: bool,
}

impl Output {
    /// `COLUMNS` counts more than the terminal's width. Colours are for terminals only, and not with `NO_COLOR`
    /// (<https://no-color.org>).
    pub(super) fn new(json: bool) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let width = columns.or_else(|| is_terminal.then(|| usize::from(Term::stdout().size().1)));
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colours = is_terminal && !is_set("NO_COLOR") && !is_dumb;
        Self { json, width: width.filter(|width| *width > 0), colours }
    }

    pub(super) fn wants_json(&self) -> bool {
        self.json
    }

    /// The answer as it is, readable.
    pub(super) fn json(&self, value: &Value) -> Result<(), Failure> {
        self.text(&format!("{value:#}\n"))
    }

    /// One of many: a line.
    pub(super) fn json_line(&self, value: &Value) -> Result<(), Failure> {
        self.text(&format!("{value}\n"))
    }

    pub(super) fn table(&self, table: &Table) -> Result<(), Failure> {
        self.text(&table.render(self.width, self.colours))
    }

    pub(super) fn paint(&self, text: &str, tone: Tone) -> String {
        tone.paint(text, self.colours)
    }

    /// A line, cut to the terminal's width.
    pub(super) fn line(&self, line: &str) -> Result<(), Failure> {
        match self.width {
            Some(width) => self.text(&format!("{}\n", console::truncate_str(line, width, "…"))),
            None => self.text(&format!("{line}\n")),
        }
    }

    pub(super) fn text(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
            // `ctl sessions | head` has what it wanted.
            io::ErrorKind::BrokenPipe => Failure::Done,
            _ => Failure::Usage(format!("cannot write the answer: {error}")),
        })
    }
}
