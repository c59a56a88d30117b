//! What is wrong with a configuration, and where: file, line, column, key.

use std::fmt;

use super::document;

/// More errors than this are counted, not listed: each costs a walk through the file, and nobody reads on.
const MAX_LISTED: usize = 20;

/// A place in the YAML text, both counted from 1; columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// One thing wrong, or worth a warning, in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file's name, as it was given.
    pub file: String,
    /// Where in it; nothing if it is about the file as a whole.
    pub position: Option<Position>,
    /// The key's path, such as `listeners[1].tls_domain`; empty for the file as a whole.
    pub key: String,
    /// What is wrong, in words that never quote a secret.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything found wrong, in the order of the file; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// The errors, at least one.
    pub fn errors(&self) -> &[ConfigError] {
        &self.0
    }

    /// The error of a file that cannot be read at all.
    pub(super) fn whole_file(file: &str, message: impl Into<String>) -> Self {
        let (file, message) = (file.to_owned(), message.into());
        Self(vec![ConfigError { file, position: None, key: String::new(), message }])
    }

    /// All of these; `None`: there is none. In the order of the file, what concerns it as a whole last.
    pub(crate) fn all(mut errors: Vec<ConfigError>) -> Option<Self> {
        errors.sort_by_key(|error| (error.position.is_none(), error.position));
        errors.dedup();
        (!errors.is_empty()).then_some(Self(errors))
    }

    /// Finds each problem's place in `text`.
    pub(super) fn locate(file: &str, text: &str, problems: Vec<Problem>) -> Self {
        let unlisted = problems.len().saturating_sub(MAX_LISTED);
        let mut errors: Vec<_> =
            problems.into_iter().take(MAX_LISTED).map(|problem| problem.locate(file, text)).collect();
        errors.sort_by_key(|error| error.position);
        if unlisted > 0 {
            errors.extend(Self::whole_file(file, format!("and {unlisted} more errors")).0);
        }
        Self(errors)
    }
}

impl ConfigErrors {
    /// These and those.
    pub(crate) fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

/// A key's path from the top of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct KeyPath(Vec<Segment>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Key(String),
    Index(usize),
}

impl KeyPath {
    pub(super) fn new(keys: &[&str]) -> Self {
        Self(keys.iter().map(|key| Segment::Key((*key).to_owned())).collect())
    }

    pub(super) fn key(mut self, key: &str) -> Self {
        self.0.push(Segment::Key(key.to_owned()));
        self
    }

    pub(super) fn index(mut self, index: usize) -> Self {
        self.0.push(Segment::Index(index));
        self
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.0
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Key(key) if depth == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Which end of a `key: value` a problem points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spot {
    Key,
    Value,
}

/// An error before its line and column are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) path: KeyPath,
    pub(super) spot: Spot,
    pub(super) message: String,
}

impl Problem {
    pub(super) fn locate(self, file: &str, text: &str) -> ConfigError {
        ConfigError {
            file: file.to_owned(),
            position: document::locate(text, self.path.segments(), self.spot),
            key: self.path.to_string(),
            message: self.message,
        }
    }
}
