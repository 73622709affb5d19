//! Text tables.

use trainer::config::Metric;

/// Columns aligned by their widest cell; numbers to the right. The first row is the heading.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &[String], i: usize| row.get(i).cloned().unwrap_or_default();
    let width = |i: usize| rows.iter().map(|row| cell(row, i).chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let numeric: Vec<bool> = (0..columns)
        .map(|i| {
            rows.iter().skip(1).all(|row| cell(row, i).chars().next().is_none_or(|c| c.is_ascii_digit() || c == '–'))
        })
        .collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (i, &width) in widths.iter().enumerate() {
            let cell = cell(row, i);
            line += &if numeric[i] { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
        }
        text += line.trim_end();
        text.push('\n');
        if number == 0 {
            text += &"─".repeat(widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1));
            text.push('\n');
        }
    }
    text
}

/// A share as a percentage.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

/// The share of what a network cost before it was made smaller, to stand behind its MACs.
pub(crate) fn of_published(used: f64, published: Option<u64>, name: &str) -> String {
    let share = published.map(|published| percent(used / published as f64));
    share.map(|share| format!(", {share} of the published {name}")).unwrap_or_default()
}

/// What an evaluation measured.
pub(crate) fn metric_value(metric: Metric, value: f64) -> String {
    if metric.is_better_high() { percent(value) } else { format!("{value:.4}") }
}

/// A count with thousands separated.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// MACs in the unit that fits.
pub(crate) fn macs(count: f64) -> String {
    match count {
        count if count >= 1e9 => format!("{:.3} GMACs", count / 1e9),
        count if count >= 1e6 => format!("{:.1} MMACs", count / 1e6),
        count if count >= 1e3 => format!("{:.1} kMACs", count / 1e3),
        count => format!("{count:.0} MACs"),
    }
}

/// A count in the unit that fits.
pub(crate) fn count(count: u64) -> String {
    match count as f64 {
        count if count >= 1e6 => format!("{:.2} M", count / 1e6),
        count if count >= 1e3 => format!("{:.1} k", count / 1e3),
        count => format!("{count:.0}"),
    }
}

/// Bytes in the unit that fits.
pub(crate) fn bytes(bytes: u64) -> String {
    match bytes as f64 {
        bytes if bytes >= 1e9 => format!("{:.2} GB", bytes / 1e9),
        bytes if bytes >= 1e6 => format!("{:.1} MB", bytes / 1e6),
        bytes => format!("{:.1} kB", bytes / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_left_and_numbers_right() {
        let rows = [vec!["block", "open"], vec!["layer1.0", "7.0%"], vec!["stem", "100.0%"]];
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(ToString::to_string).collect()).collect();
        assert_eq!(table(&rows), "block       open\n────────────────\nlayer1.0    7.0%\nstem      100.0%\n");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!((grouped(7), grouped(1234567)), ("7".into(), "1,234,567".into()));
        assert_eq!((count(25_557_032), count(700)), ("25.56 M".into(), "700".into()));
        assert_eq!((bytes(3_210_000_000), bytes(1500)), ("3.21 GB".into(), "1.5 kB".into()));
        assert_eq!(
            (macs(4.089e9), macs(82.5e6), macs(900.0)),
            ("4.089 GMACs".into(), "82.5 MMACs".into(), "900 MACs".into())
        );
    }
}
