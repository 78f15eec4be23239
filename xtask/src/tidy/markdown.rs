//! Tables of Markdown, as far as our documents use them.

/// One table.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    /// The cells of the line above the rule.
    pub(crate) header: Vec<&'a str>,
    /// The rows: line number and cells.
    pub(crate) rows: Vec<(usize, Vec<&'a str>)>,
}

impl<'a> Table<'a> {
    /// The place of the column headed `name`.
    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|&cell| cell == name)
    }

    /// The cells of one column, with their line numbers.
    pub(crate) fn cells(&self, column: usize) -> impl Iterator<Item = (usize, &'a str)> {
        self.rows
            .iter()
            .filter_map(move |(line, row)| Some((*line, *row.get(column)?)))
    }
}

/// All tables of `text`.
pub(crate) fn tables(text: &str) -> Vec<Table<'_>> {
    let mut tables = Vec::new();
    let mut open: Option<Table<'_>> = None;
    for (number, line) in super::tree::lines(text) {
        let row = line.trim();
        if !row.starts_with('|') {
            tables.extend(open.take());
            continue;
        }
        let cells = cells(row);
        match &mut open {
            None => {
                open = Some(Table {
                    header: cells,
                    rows: Vec::new(),
                });
            }
            Some(_) if is_rule(row) => {}
            Some(table) => table.rows.push((number, cells)),
        }
    }
    tables.extend(open);
    tables
}

/// What stands between backticks in `cell`.
pub(crate) fn backticked(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn is_rule(row: &str) -> bool {
    row.chars().all(|c| matches!(c, '|' | '-' | ':' | ' '))
}

/// The cells of a row; a `\|` does not end one.
fn cells(row: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 1;
    for (at, _) in row.match_indices('|').skip(1) {
        if !row[..at].ends_with('\\') {
            found.push(row[start..at].trim());
            start = at + 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_end_where_their_rows_end() {
        let text =
            "# T\n\n| A | B |\n|---|:-:|\n| `a` | x \\| y |\n\ntext | no table\n\n| C |\n|---|\n";
        let found = tables(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].header, ["A", "B"]);
        assert_eq!(found[0].rows, [(5, vec!["`a`", "x \\| y"])]);
        assert_eq!(found[0].column("B"), Some(1));
        assert_eq!(found[1].header, ["C"]);
    }

    #[test]
    fn only_whole_backtick_pairs_count() {
        assert_eq!(
            backticked("`a`, b and `c d`").collect::<Vec<_>>(),
            ["a", "c d"]
        );
        assert_eq!(backticked("–").count(), 0);
    }
}
