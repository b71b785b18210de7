//! Strict reading of TOML: every key that is asked for is known, every other is refused with its
//! nearest neighbour, and every problem is kept with its line instead of stopping at the first.
//! What the keys mean is in [`super::schema`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;

use toml_edit::{Document, Item, TableLike};

use super::Problem;

/// How similar a known key must be to be suggested, from 0 to 1.
const SIMILARITY_MIN: f64 = 0.7;

/// A config being read.
pub(crate) struct Reader<'a> {
    text: &'a str,
    /// What is wrong so far.
    pub(crate) problems: Vec<Problem>,
    /// Line of each key that is present, by `section.key`.
    pub(crate) spots: BTreeMap<String, usize>,
    /// Every key that was asked for, as `section.key`.
    pub(crate) asked: Vec<String>,
}

/// One table of it.
pub(crate) struct Section<'r, 'a> {
    reader: &'r mut Reader<'a>,
    name: String,
    path: String,
    table: Option<&'a dyn TableLike>,
    known: Vec<&'static str>,
}

/// A type of value, with the words for it.
pub(crate) trait Value: Sized {
    /// What is expected, as in "expected …".
    const EXPECTED: &'static str;

    /// The value, if the item is one. `Err` is a reason of its own.
    fn read(item: &Item) -> Option<Result<Self, String>>;
}

impl Value for String {
    const EXPECTED: &'static str = "a text in quotes";
    fn read(item: &Item) -> Option<Result<Self, String>> {
        item.as_str().map(|text| Ok(text.to_owned()))
    }
}

impl Value for bool {
    const EXPECTED: &'static str = "true or false";
    fn read(item: &Item) -> Option<Result<Self, String>> {
        item.as_bool().map(Ok)
    }
}

impl Value for f64 {
    const EXPECTED: &'static str = "a number";
    fn read(item: &Item) -> Option<Result<Self, String>> {
        let whole = item.as_integer().map(|whole| whole as f64);
        item.as_float().or(whole).map(Ok)
    }
}

impl Value for u32 {
    const EXPECTED: &'static str = "a whole number";
    fn read(item: &Item) -> Option<Result<Self, String>> {
        let number = item.as_integer()?;
        Some(Self::try_from(number).map_err(|_| format!("{number} is not from 0 to {}", Self::MAX)))
    }
}

impl Value for SocketAddr {
    const EXPECTED: &'static str = "an address and a port in quotes, such as \"127.0.0.1:8000\"";
    fn read(item: &Item) -> Option<Result<Self, String>> {
        let text = item.as_str()?;
        Some(text.parse().map_err(|_| format!("`{text}` is not {}", Self::EXPECTED)))
    }
}

impl<T: Value> Value for Vec<T> {
    const EXPECTED: &'static str = "a list in brackets";
    fn read(item: &Item) -> Option<Result<Self, String>> {
        let entries = item.as_array()?.iter().map(|value| {
            let read = T::read(&Item::Value(value.clone()));
            read.unwrap_or_else(|| Err(format!("in the list: expected {}", T::EXPECTED)))
        });
        Some(entries.collect())
    }
}

impl<'a> Reader<'a> {
    /// Reads `document`, which was parsed from `text`, with `read`.
    pub(crate) fn read<T>(
        text: &'a str,
        document: &'a Document<&str>,
        read: impl FnOnce(&mut Section<'_, 'a>) -> T,
    ) -> (T, Self) {
        let mut reader =
            Self { text, problems: Vec::new(), spots: BTreeMap::new(), asked: Vec::new() };
        let value = reader.section(String::new(), String::new(), Some(document.as_table()), read);
        reader.problems.sort_by_key(|problem| problem.line);
        (value, reader)
    }

    fn section<T>(
        &mut self,
        name: String,
        path: String,
        table: Option<&'a dyn TableLike>,
        read: impl FnOnce(&mut Section<'_, 'a>) -> T,
    ) -> T {
        let mut section = Section { reader: self, name, path, table, known: Vec::new() };
        let value = read(&mut section);
        section.refuse_unknown();
        value
    }

    fn line(&self, span: Option<Range<usize>>) -> usize {
        let start = span.map_or(0, |span| span.start);
        1 + self.text[..start].bytes().filter(|byte| *byte == b'\n').count()
    }
}

impl<'a> Section<'_, 'a> {
    /// The value of `key`, unless it is absent or (which is then a problem) not of that type.
    pub(crate) fn get<T: Value>(&mut self, key: &'static str) -> Option<T> {
        let item = self.item(key)?;
        match T::read(item) {
            Some(Ok(value)) => return Some(value),
            Some(Err(reason)) => self.refuse(key, reason),
            None => self.refuse(key, format!("expected {}, found {}", T::EXPECTED, kind(item))),
        }
        None
    }

    /// The value of `key` as `convert` reads its text.
    pub(crate) fn parse<T>(
        &mut self,
        key: &'static str,
        convert: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text: String = self.get(key)?;
        match convert(&text) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.refuse(key, reason);
                None
            }
        }
    }

    /// The value of a key without which the section means nothing.
    pub(crate) fn require<T: Value>(&mut self, key: &'static str) -> Option<T> {
        let value = self.get(key);
        if value.is_none() && !self.has(key) {
            self.refuse(key, "is missing".into());
        }
        value
    }

    /// A key that the schema has and this version cannot honour: refused, never ignored.
    pub(crate) fn unsupported(&mut self, key: &'static str) {
        if self.item(key).is_some() {
            self.refuse(key, "not supported by this version yet: remove it".into());
        }
    }

    /// A key of which this version has one value: any other is refused.
    pub(crate) fn only<T: Value + PartialEq>(&mut self, key: &'static str, value: &T) {
        if self.get::<T>(key).is_some_and(|given| given != *value) {
            self.refuse(key, "this value is not supported by this version yet: remove it".into());
        }
    }

    /// Whether `key` is present and a text.
    pub(crate) fn is_text(&self, key: &str) -> bool {
        self.table.and_then(|table| table.get(key)).is_some_and(Item::is_str)
    }

    /// Whether `key` is present.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// The table at `key`, read with `read`, which sees an empty one if it is absent.
    pub(crate) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'_, 'a>) -> T,
    ) -> T {
        let item = self.item(key);
        let table = item.and_then(Item::as_table_like);
        if let (Some(item), None) = (item, table) {
            self.refuse(key, format!("expected a table, found {}", kind(item)));
        }
        let name = join(self.name.trim_matches(['[', ']']), key);
        self.reader.section(name, join(&self.path, key), table, read)
    }

    /// Each table of the list of tables at `key`. With none, the schema is asked all the same.
    pub(crate) fn tables<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'_, 'a>) -> Option<T>,
    ) -> Vec<T> {
        let item = self.item(key);
        let tables: Vec<&'a dyn TableLike> = match item {
            Some(Item::ArrayOfTables(tables)) => {
                tables.iter().map(|table| table as &dyn TableLike).collect()
            }
            Some(item) => {
                let tables = item.as_array().map(|values| {
                    let tables = values.iter().map(|value| value.as_inline_table());
                    tables.map(|table| table.map(|table| table as &dyn TableLike)).collect()
                });
                tables.flatten().unwrap_or_else(|| {
                    self.refuse(key, format!("expected [[{key}]] tables, found {}", kind(item)));
                    Vec::new()
                })
            }
            None => Vec::new(),
        };
        let name = join(self.name.trim_matches(['[', ']']), key);
        if tables.is_empty() {
            // Keys of an absent list are part of the schema too; what they lack is no problem.
            let kept = self.reader.problems.len();
            self.reader.section(name.clone(), name, None, read);
            self.reader.problems.truncate(kept);
            return Vec::new();
        }
        let mut values = Vec::new();
        for (index, table) in tables.into_iter().enumerate() {
            let path = format!("{name}.{index}");
            values.extend(self.reader.section(format!("[{name}]"), path, Some(table), &mut read));
        }
        values
    }

    /// All keys of a table that the operator names as he likes.
    pub(crate) fn entries<T: Value>(&mut self) -> BTreeMap<String, T> {
        let mut entries = BTreeMap::new();
        let Some(table) = self.table else { return entries };
        for (key, item) in table.iter() {
            match T::read(item) {
                Some(Ok(value)) => {
                    entries.insert(key.to_owned(), value);
                }
                Some(Err(reason)) => self.refuse(key, reason),
                None => self.refuse(key, format!("expected {}", T::EXPECTED)),
            }
        }
        self.table = None;
        entries
    }

    /// Whether nothing is wrong with `key`'s own text. Adds a problem at `key`.
    pub(crate) fn refuse(&mut self, key: &str, message: String) {
        let line = self.line_of(key);
        let section = self.name.clone();
        self.reader.problems.push(Problem { line, section, key: key.to_owned(), message });
    }

    fn line_of(&self, key: &str) -> usize {
        let table = self.table;
        let named = table.and_then(|table| table.get_key_value(key));
        let span = named.and_then(|(name, item)| name.span().or_else(|| item.span()));
        let whole = || {
            let first = table?.iter().next()?.0;
            table?.get_key_value(first)?.0.span()
        };
        self.reader.line(span.or_else(whole))
    }

    fn item(&mut self, key: &'static str) -> Option<&'a Item> {
        self.known.push(key);
        let path = join(&self.path, key);
        let item = self.table.and_then(|table| table.get(key));
        if item.is_some() {
            let line = self.line_of(key);
            self.reader.spots.insert(path.clone(), line);
        }
        self.reader.asked.push(path);
        item
    }

    fn refuse_unknown(&mut self) {
        let Some(table) = self.table else { return };
        let unknown = table.iter().map(|(key, _)| key).filter(|key| !self.known.contains(key));
        for key in unknown.collect::<Vec<_>>() {
            let near = |known: &&&str| strsim::jaro_winkler(known, key);
            let nearest = self.known.iter().max_by(|a, b| near(a).total_cmp(&near(b)));
            let nearest = nearest.filter(|known| near(known) >= SIMILARITY_MIN);
            let message = match nearest {
                Some(known) => format!("unknown key; did you mean {known}?"),
                None => format!("unknown key; known are {}", self.known.join(", ")),
            };
            self.refuse(key, message);
        }
    }
}

/// Parses the text; its grammar errors carry a line too.
pub(crate) fn parse(text: &str) -> Result<Document<&str>, Problem> {
    Document::parse(text).map_err(|error| {
        let before = error.span().map_or("", |span| &text[..span.start.min(text.len())]);
        let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
        let message = format!("not TOML: {}", error.message().replace('\n', "; "));
        Problem { line, section: String::new(), key: String::new(), message }
    })
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn kind(item: &Item) -> &'static str {
    match item.type_name() {
        "string" => "a text",
        "integer" => "a whole number",
        "float" => "a number with a point",
        "boolean" => "true or false",
        "array" => "a list",
        "array of tables" => "[[…]] tables",
        "table" | "inline table" => "a table",
        _ => "something else",
    }
}
