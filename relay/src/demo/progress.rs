//! How far the file is: a bar on a terminal, a line for each quarter elsewhere.

use std::io::{IsTerminal as _, stderr};

use indicatif::{ProgressBar, ProgressStyle};

/// See the [module](self).
pub(super) struct Progress {
    size: u64,
    bar: Option<ProgressBar>,
    quarters: u64,
}

impl Progress {
    /// For a file of `size` bytes.
    pub(super) fn new(size: u64) -> anyhow::Result<Self> {
        let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}")?;
        let bar = stderr().is_terminal().then(|| ProgressBar::new(size).with_style(style));
        Ok(Self { size, bar, quarters: 0 })
    }

    /// The first `place` bytes have arrived.
    #[expect(clippy::print_stdout, reason = "the demo speaks to the user")]
    pub(super) fn reached(&mut self, place: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(place);
            if place == self.size {
                bar.finish();
            }
            return;
        }
        let quarters = (place * 4).checked_div(self.size).unwrap_or(4);
        if quarters > self.quarters {
            self.quarters = quarters;
            println!("           bob has {} %", quarters * 25);
        }
    }
}
