//! Numbers, sizes, times and tables as people read them.

use bytesize::ByteSize;

/// A number with a comma between thousands.
pub fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in binary units.
pub fn bytes(value: u64) -> String {
    ByteSize::b(value).to_string()
}

/// Milliseconds as `12 ms`, `3.4 s`, `5 m 06 s`, `7 h 08 m`, `2 d 03 h`.
pub fn millis(value: u64) -> String {
    match value {
        0..1000 => format!("{value} ms"),
        1000..60_000 => format!("{}.{} s", value / 1000, value % 1000 / 100),
        _ => seconds(value / 1000),
    }
}

/// Seconds, likewise.
pub fn seconds(value: u64) -> String {
    match value {
        0..60 => format!("{value} s"),
        60..3600 => format!("{} m {:02} s", value / 60, value % 60),
        3600..86_400 => format!("{} h {:02} m", value / 3600, value % 3600 / 60),
        _ => format!("{} d {:02} h", value / 86_400, value % 86_400 / 3600),
    }
}

/// Lines `name  value`, the values below each other.
pub fn pairs(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in lines {
        text.push_str(format!("{name:width$}  {value}").trim_end());
        text.push('\n');
    }
    text
}

/// Rows under a header, columns aligned; numbers to the right.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(header.get(column).map(|name| name.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let is_number = |column: usize| {
        let starts = |row: &Vec<String>| {
            row.get(column)
                .is_none_or(|cell| cell.starts_with(|c: char| c.is_ascii_digit() || c == '-'))
        };
        !rows.is_empty() && rows.iter().all(starts)
    };
    let numbers: Vec<bool> = (0..header.len()).map(is_number).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for ((cell, width), number) in cells.zip(&widths).zip(&numbers) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let cell = if *number { format!("{cell:>width$}") } else { format!("{cell:width$}") };
            line.push_str(&cell);
        }
        format!("{}\n", line.trim_end())
    };
    let mut text = line(&mut header.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// A bar of `width` characters for `done` of `all`.
pub fn bar(done: u64, all: u64, width: u64) -> String {
    let marked = (done.min(all) * width).checked_div(all).unwrap_or(0);
    let fill = |count: u64, sign: char| -> String { (0..count).map(|_| sign).collect() };
    format!("[{}{}]", fill(marked, '#'), fill(width - marked, '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_units() {
        assert_eq!(number(0), "0");
        assert_eq!(number(1_234_567), "1,234,567");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(millis(999), "999 ms");
        assert_eq!(millis(3_450), "3.4 s");
        assert_eq!(millis(306_000), "5 m 06 s");
        assert_eq!(seconds(187_200), "2 d 04 h");
    }

    #[test]
    fn tables_are_aligned() {
        let rows =
            [vec!["b".to_owned(), "5".to_owned()], vec!["long".to_owned(), "1,000".to_owned()]];
        assert_eq!(table(&["site", "units"], &rows), "site  units\nb         5\nlong  1,000\n");
        assert_eq!(pairs(&[("a", "1".to_owned()), ("long", "2".to_owned())]), "a     1\nlong  2\n");
        assert_eq!(bar(1, 4, 8), "[##......]");
        assert_eq!(bar(9, 0, 2), "[..]");
    }
}
