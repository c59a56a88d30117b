//! The lines a daemon logs.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use crate::within;

/// The lines written so far, and those to come.
#[derive(Clone)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    count: watch::Receiver<usize>,
}

impl Log {
    /// Collects the lines of `source` until it ends.
    pub(crate) fn collect(source: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sender, count) = watch::channel(0);
        let collected = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(source).lines() {
                let Ok(line) = line else { break };
                let mut lines = collected.lock().expect("log");
                lines.push(line);
                let _ = sender.send(lines.len());
            }
        });
        Self { lines, count }
    }

    /// All lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("log").clone()
    }

    /// The lines so far that contain each of `words`.
    #[must_use]
    pub fn with(&self, words: &[&str]) -> Vec<String> {
        let holds = |line: &String| words.iter().all(|word| line.contains(word));
        self.lines.lock().expect("log").iter().filter(|line| holds(line)).cloned().collect()
    }

    /// The first line that contains each of `words`, now or later.
    ///
    /// # Panics
    /// When there is none by the deadline, or when the log ends; with the log.
    pub async fn wait_for(&self, words: &[&str]) -> String {
        let mut count = self.count.clone();
        let found = async {
            loop {
                count.borrow_and_update();
                if let Some(line) = self.with(words).into_iter().next() {
                    return Some(line);
                }
                if count.changed().await.is_err() {
                    return self.with(words).into_iter().next();
                }
            }
        };
        match within(format_args!("a log line with {words:?} in {self:?}"), found).await {
            Some(line) => line,
            None => panic!("the log ended without a line with {words:?}: {self:?}"),
        }
    }

    /// Waits until `count` lines contain each of `words`, and gives them.
    ///
    /// # Panics
    /// When there are not so many by the deadline, when there are more, or when the log ends.
    pub async fn wait_for_lines(&self, words: &[&str], wanted: usize) -> Vec<String> {
        let mut count = self.count.clone();
        let found = async {
            loop {
                count.borrow_and_update();
                let lines = self.with(words);
                if lines.len() >= wanted || count.changed().await.is_err() {
                    return lines;
                }
            }
        };
        let lines = within(format_args!("{wanted} log lines with {words:?} in {self:?}"), found).await;
        assert_eq!(lines.len(), wanted, "lines with {words:?}: {lines:#?}");
        lines
    }

    /// Waits until the log ends: the process has.
    pub async fn ended(&self) {
        let mut count = self.count.clone();
        within("the end of the log", async { while count.changed().await.is_ok() {} }).await;
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines = self.lines();
        let skipped = lines.len().saturating_sub(200);
        write!(f, "log ({skipped} lines before):\n{}", lines[skipped..].join("\n"))
    }
}

/// Waits until the file has these words in it, and gives its text.
///
/// # Panics
/// When it has not by the deadline.
pub async fn until(path: &Path, words: &str) -> String {
    let found = async {
        loop {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if text.contains(words) {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(format_args!("{words:?} in {path:?}"), found).await
}
