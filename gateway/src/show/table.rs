//! Tables of text: columns as wide as their widest cell, numbers to the right.
//!
//! The one hard constraint: nothing is cut off; a program that reads it gets whole words.

use std::io::{self, Write};

/// Rows of text under a header.
#[derive(Debug)]
pub(super) struct Table {
    /// Names of the columns; those that begin with `>` hold numbers.
    header: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(header: &'static [&'static str]) -> Table {
        Table { header, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.header.len(), "a cell for every column");
        self.rows.push(cells);
    }

    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let names = self.header.iter().map(|name| name.trim_start_matches('>'));
        let header: Vec<String> = names.map(str::to_uppercase).collect();
        let mut widths: Vec<usize> = header.iter().map(|name| name.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, &width), name) in row.iter().zip(&widths).zip(self.header) {
                match name.starts_with('>') {
                    true => line.push_str(&format!("{cell:>width$}  ")),
                    false => line.push_str(&format!("{cell:<width$}  ")),
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Bytes in a unit that fits, powers of 1024.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1_024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1_024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        // What would be shown as 1024.0 goes to the next unit.
        if value < 1_023.95 {
            break;
        }
        value /= 1_024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// Seconds as people say them.
pub(super) fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1}s");
    }
    let whole = seconds as u64;
    match whole {
        0..3_600 => format!("{}m{}s", whole / 60, whole % 60),
        3_600..86_400 => format!("{}h{}m", whole / 3_600, whole % 3_600 / 60),
        _ => format!("{}d{}h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_is_cut() {
        let mut table = Table::new(&["name", ">packets"]);
        table.row(vec!["web/front".into(), "7".into()]);
        table.row(vec!["a".into(), "1234567890".into()]);
        let mut out = Vec::new();
        table.print(&mut out).unwrap();
        let expected = "NAME          PACKETS\nweb/front           7\na          1234567890\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn bytes_and_times_have_their_units() {
        let shown = [0, 1_023, 1_024, 1_536, 1_048_575, u64::MAX].map(bytes);
        let expected = ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "16384.0 PiB"];
        assert_eq!(shown, expected);
        let shown = [0.04, 12.34, 60.0, 7_440.0, 200_000.0].map(duration);
        assert_eq!(shown, ["0.0s", "12.3s", "1m0s", "2h4m", "2d7h"]);
    }
}
