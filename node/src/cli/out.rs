//! Standard output: the only file that prints to it. Lines, JSON objects, tables. A reader that
//! went away (`hansa peers | head -1`) is no error.
#![allow(clippy::print_stdout, reason = "the one place that prints")]

use std::io::{self, ErrorKind, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Prints one line, or several.
pub fn line(text: &str) {
    write(text.trim_end_matches('\n').as_bytes());
}

/// Tells people something beside the result, where programs do not read it.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}"); // Nobody has to read it.
}

/// Prints a value as one line of JSON.
pub fn json_line(value: &impl Serialize) {
    write(&serde_json::to_vec(value).expect("our own values serialize"));
}

/// A table without borders. It is as wide as the terminal at most; in a pipe it is not folded.
pub fn table(titles: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(titles)
        .add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    // Spaces to the right of the last column are of no use to anybody.
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn write(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.write_all(b"\n"));
    match written.and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            tracing::error!(%error, "standard output cannot be written");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_text_without_borders() {
        let rows = [["berlin", "DE"], ["virginia", "US"]];
        let rows = rows.map(|row| row.map(String::from).to_vec());
        let text = table(&["name", "location"], rows.into_iter());
        assert_eq!(text, "name      location\nberlin    DE\nvirginia  US");
    }
}
