use std::io::{self, Write};

/// Prints a table as Markdown does, its columns aligned to the right. Rows are as long as the head.
pub fn print(
    head: &[impl AsRef<str>],
    rows: &[Vec<String>],
    out: &mut impl Write,
) -> io::Result<()> {
    let head: Vec<&str> = head.iter().map(AsRef::as_ref).collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([head[column].chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, width)| format!(" {cell:>width$} |"));
        writeln!(out, "|{}", padded.collect::<String>())
    };
    line(&mut head.iter().copied())?;
    let rule: Vec<_> = widths.iter().map(|width| format!("{}:", "-".repeat(width - 1))).collect();
    line(&mut rule.iter().map(String::as_str))?;
    rows.iter().try_for_each(|row| line(&mut row.iter().map(String::as_str)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut out = Vec::new();
        let rows = [["1", "± 2"], ["100", "3"]].map(|row| row.map(str::to_owned).to_vec());
        super::print(&["a", "bc"], &rows, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "|   a |  bc |\n| --: | --: |\n|   1 | ± 2 |\n| 100 |   3 |\n");
    }
}
