//! How far a file is: a bar on standard error, if that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// See the [module](self). Shown until it is dropped.
pub struct Progress(ProgressBar);

impl Progress {
    /// For a file of `size` bytes, if that is known.
    pub fn new(name: &str, size: Option<u64>) -> Self {
        let bar = size.map_or_else(ProgressBar::no_length, ProgressBar::new);
        let template = if size.is_some() {
            "{msg} {bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left"
        } else {
            "{msg} {spinner} {bytes}, {bytes_per_sec}"
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(bar.with_style(style).with_message(name.to_owned()))
    }

    /// The first `place` bytes are done.
    pub fn reached(&self, place: u64) {
        self.0.set_position(place);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
