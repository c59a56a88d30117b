//! Tables for people.

use console::{Style, measure_text_width, truncate_str};

use super::text::safe;

/// The narrowest that a column of text is made, so that a table fits its terminal.
const NARROWEST: usize = 8;

/// Between two columns.
const GAP: &str = "  ";

/// How urgent a cell is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Tone {
    #[default]
    Plain,
    Good,
    Warning,
    Bad,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Good => Style::new().green(),
            Self::Warning => Style::new().yellow(),
            Self::Bad => Style::new().red(),
        }
    }

    /// The text in this tone's colour, or as it is.
    pub(super) fn paint(self, text: &str, colours: bool) -> String {
        self.style().force_styling(colours && self != Self::Plain).apply_to(text).to_string()
    }
}

/// One cell.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(super) fn toned(text: impl AsRef<str>, tone: Tone) -> Self {
        Self { text: safe(text.as_ref()), tone }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// A table. Titles that begin with `>` are those of numbers, which stand at the right.
#[derive(Debug)]
pub(super) struct Table {
    titles: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) fn new(titles: &[&'static str]) -> Self {
        Self { titles: titles.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// As text, each line with its end. `width` columns at most: long texts give way first, then lines are cut.
    pub(super) fn render(&self, width: Option<usize>, colours: bool) -> String {
        let titles: Vec<_> = self.titles.iter().map(|title| title.trim_start_matches('>')).collect();
        let is_number = |column: usize| self.titles[column].starts_with('>');
        let mut widths: Vec<_> = titles.iter().map(|title| measure_text_width(title)).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(measure_text_width(&cell.text));
            }
        }
        if let Some(width) = width {
            let texts: Vec<_> = (0..widths.len()).filter(|column| !is_number(*column)).collect();
            fit(&mut widths, &texts, width);
        }
        let mut shown = String::new();
        let heads: Vec<Cell> = titles.iter().map(Cell::from).collect();
        for (index, row) in std::iter::once(&heads).chain(&self.rows).enumerate() {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate().take(widths.len()) {
                let text = truncate_str(&cell.text, widths[column], "…");
                let pad = " ".repeat(widths[column].saturating_sub(measure_text_width(&text)));
                let text = if index == 0 {
                    Style::new().bold().force_styling(colours).apply_to(text).to_string()
                } else {
                    cell.tone.paint(&text, colours)
                };
                if column > 0 {
                    line.push_str(GAP);
                }
                line.push_str(&if is_number(column) { pad + &text } else { text + &pad });
            }
            let line = line.trim_end();
            shown.push_str(&width.map_or_else(|| line.into(), |width| truncate_str(line, width, "…")));
            shown.push('\n');
        }
        shown
    }
}

/// Makes the widest of `texts` narrower until all fit into `width`, or none can be.
fn fit(widths: &mut [usize], texts: &[usize], width: usize) {
    let gaps = GAP.len() * widths.len().saturating_sub(1);
    loop {
        let needed = widths.iter().sum::<usize>() + gaps;
        let widest = texts.iter().copied().max_by_key(|column| widths[*column]);
        match widest {
            Some(column) if needed > width && widths[column] > NARROWEST => widths[column] -= 1,
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["USER", ">BYTES", "PEERS"]);
        table.row(["alice".into(), "1.5 KiB".into(), "msrps://bob.example.com:2855/abc;tcp".into()]);
        table.row(["日本".into(), "7 B".into(), Cell::toned("", Tone::Bad)]);
        table
    }

    #[test]
    fn columns_are_aligned() {
        assert_eq!(
            table().render(None, false),
            "USER     BYTES  PEERS\n\
             alice  1.5 KiB  msrps://bob.example.com:2855/abc;tcp\n\
             日本       7 B\n"
        );
    }

    #[test]
    fn it_fits_its_terminal() {
        for width in [1, 5, 20, 30, 40, 52, 53, 200] {
            for line in table().render(Some(width), true).lines() {
                assert!(measure_text_width(line) <= width, "{width}: {line}");
            }
        }
        assert!(table().render(Some(40), false).contains("alice  1.5 KiB  msrps://bob.example.com…"));
        assert_eq!(table().render(Some(200), false), table().render(None, false));
    }

    #[test]
    fn colours_are_there_only_if_wanted() {
        let mut table = Table::new(&["STATE"]);
        table.row([Cell::toned("bad", Tone::Bad)]);
        assert_eq!(table.render(None, false), "STATE\nbad\n");
        assert_eq!(table.render(None, true), "\u{1b}[1mSTATE\u{1b}[0m\n\u{1b}[31mbad\u{1b}[0m\n");
    }
}
