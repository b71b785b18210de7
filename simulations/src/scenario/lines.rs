//! Finds the line of a key in a scenario's text, so that a fault can be told where it is.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The line, from 1, of the key that `path` names, such as `fault.2.at_s`; of the nearest part of
/// it that is there when it is not.
pub(super) fn line_of(text: &str, path: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut parts = path.split('.');
    let mut found = None;
    let mut value = find(document.get_ref(), parts.next()?, &mut found);
    for part in parts {
        value = match value.map(Spanned::get_ref) {
            Some(DeValue::Table(table)) => find(table, part, &mut found),
            Some(DeValue::Array(list)) => {
                let item = part.parse().ok().and_then(|index: usize| list.get(index));
                found = item.map(|item| item.span().start).or(found);
                item
            }
            _ => break,
        };
    }
    found.map(|start| line_at(text, start))
}

/// The line, from 1, of a byte of a text.
pub(super) fn line_at(text: &str, byte: usize) -> usize {
    text.bytes().take(byte).filter(|byte| *byte == b'\n').count() + 1
}

fn find<'a, 'i>(
    table: &'a DeTable<'i>,
    key: &str,
    found: &mut Option<usize>,
) -> Option<&'a Spanned<DeValue<'i>>> {
    let (name, value) = table.iter().find(|(name, _)| name.get_ref().as_ref() == key)?;
    *found = Some(name.span().start);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_tables_and_lists() {
        let text = "name = 'x'\n[links]\nloss = 2\n[[fault]]\nat_s = 1\n[[fault]]\nat_s = 9\n";
        assert_eq!(line_of(text, "links.loss"), Some(3));
        assert_eq!(line_of(text, "fault.1.at_s"), Some(7));
        assert_eq!(line_of(text, "name"), Some(1));
        assert_eq!(line_of(text, "peers"), None);
    }
}
