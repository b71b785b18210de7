//! Protobuf's text format, as Triton's `config.pbtxt` is written in, read into the JSON that the same
//! message has. It knows no schema: what a field means is [`super::settings`]' to know.
//!
//! Grammar: <https://protobuf.dev/reference/protobuf/textformat-spec/>, without extensions.

use serde_json::{Map, Number, Value};

/// Deepest nesting of messages.
const DEPTH_MAX: usize = 32;

/// Reads the fields of one message. A field that is there more than once becomes a list.
///
/// # Errors
/// What is wrong, with its line.
pub(super) fn read(text: &str) -> Result<Value, String> {
    let mut reader = Reader { text, at: 0, depth: 0 };
    let message = reader.message(None)?;
    Ok(message)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// Fields up to `end`, or up to the end of the text.
    fn message(&mut self, end: Option<char>) -> Result<Value, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.fault("more nesting than any model's configuration has"));
        }
        let mut fields = Map::new();
        loop {
            match self.peek() {
                None if end.is_none() => break,
                None => return Err(self.fault("a message is not closed")),
                next if next == end => {
                    self.at += 1;
                    break;
                }
                Some(',' | ';') => self.at += 1,
                Some(_) => {
                    let name = self.word()?;
                    let value = self.field()?;
                    add(&mut fields, name, value);
                }
            }
        }
        self.depth -= 1;
        Ok(Value::Object(fields))
    }

    /// What follows a field's name.
    fn field(&mut self) -> Result<Value, String> {
        let has_colon = self.peek() == Some(':');
        self.at += usize::from(has_colon);
        match self.peek() {
            Some('{' | '<' | '[') => self.value(),
            _ if has_colon => self.value(),
            _ => Err(self.fault("`:` or `{` is expected after a field's name")),
        }
    }

    fn value(&mut self) -> Result<Value, String> {
        match self.peek() {
            Some(open @ ('{' | '<')) => {
                self.at += 1;
                self.message(Some(if open == '{' { '}' } else { '>' }))
            }
            Some('[') => {
                self.at += 1;
                let mut values = Vec::new();
                loop {
                    match self.peek() {
                        Some(']') => break self.at += 1,
                        Some(',') => self.at += 1,
                        Some('[') => return Err(self.fault("a list in a list")),
                        _ => values.push(self.value()?),
                    }
                }
                Ok(Value::Array(values))
            }
            Some('"' | '\'') => {
                let mut text = String::new();
                // Strings beside each other are one.
                while let Some(quote @ ('"' | '\'')) = self.peek() {
                    self.string(quote, &mut text)?;
                }
                Ok(Value::String(text))
            }
            _ => Ok(scalar(self.word()?)),
        }
    }

    fn string(&mut self, quote: char, text: &mut String) -> Result<(), String> {
        let start = self.at + 1;
        let mut rest = self.text[start..].char_indices();
        loop {
            match rest.next() {
                Some((at, end)) if end == quote => {
                    self.at = start + at + 1;
                    return Ok(());
                }
                Some((_, '\\')) => match rest.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, same @ ('\\' | '"' | '\''))) => text.push(same),
                    _ => return Err(self.fault("an escape in a text that is not understood")),
                },
                Some((_, '\n')) | None => return Err(self.fault("a text is not closed")),
                Some((_, other)) => text.push(other),
            }
        }
    }

    /// A name, a number, a word.
    fn word(&mut self) -> Result<&'a str, String> {
        self.peek();
        let rest = &self.text[self.at..];
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '+');
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        if end == 0 {
            return Err(self.fault("a name or a value is expected"));
        }
        self.at += end;
        Ok(&rest[..end])
    }

    /// The next character that means something.
    fn peek(&mut self) -> Option<char> {
        loop {
            let rest = &self.text[self.at..];
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            match trimmed.chars().next()? {
                '#' => self.at += trimmed.find('\n').unwrap_or(trimmed.len()),
                other => return Some(other),
            }
        }
    }

    fn fault(&self, what: &str) -> String {
        let line = 1 + self.text[..self.at.min(self.text.len())].matches('\n').count();
        format!("line {line}: {what}")
    }
}

fn scalar(word: &str) -> Value {
    match word {
        "true" => return Value::Bool(true),
        "false" => return Value::Bool(false),
        _ => {}
    }
    let whole = word.parse::<i64>().map(Number::from).ok();
    let large = || word.parse::<u64>().map(Number::from).ok();
    let broken = || Number::from_f64(word.trim_end_matches(['f', 'F']).parse().ok()?);
    // The names of enumerations are words.
    let number = whole.or_else(large).or_else(broken).map(Value::Number);
    number.filter(|_| !word.starts_with(|c: char| c.is_alphabetic())).unwrap_or_else(|| word.into())
}

fn add(fields: &mut Map<String, Value>, name: &str, value: Value) {
    match fields.get_mut(name) {
        None => drop(fields.insert(name.to_owned(), value)),
        Some(Value::Array(known)) => match value {
            Value::Array(more) => known.extend(more),
            one => known.push(one),
        },
        Some(known) => {
            let first = known.take();
            let mut both = vec![first];
            match value {
                Value::Array(more) => both.extend(more),
                one => both.push(one),
            }
            *known = Value::Array(both);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_configuration_as_people_write_it_is_read() {
        let text = r#"
            # A comment.
            name: "densenet" platform: 'onnx' "runtime_onnx"
            max_batch_size : 8,
            input [ { name: "x" dims: [ 3, -1 ] }, { name: "y", dims: 4; dims: 5 } ]
            output: < name: "z" # another
                      ratio: 0.5f >
            instance_group { count: 2 kind: KIND_CPU }
            instance_group { count: 1 }
            dynamic_batching { } on: true
            text: "a \"b\"\n"
        "#;
        let expected = json!({
            "name": "densenet",
            "platform": "onnxruntime_onnx",
            "max_batch_size": 8,
            "input": [{ "name": "x", "dims": [3, -1] }, { "name": "y", "dims": [4, 5] }],
            "output": { "name": "z", "ratio": 0.5 },
            "instance_group": [{ "count": 2, "kind": "KIND_CPU" }, { "count": 1 }],
            "dynamic_batching": {},
            "on": true,
            "text": "a \"b\"\n",
        });
        assert_eq!(read(text).unwrap(), expected);
    }

    #[test]
    fn what_is_no_text_format_is_told_with_its_line() {
        for (text, fault) in [
            ("a: 1\nb 2", "line 2: `:` or `{`"),
            ("a {\nb: 1", "line 2: a message is not closed"),
            ("a: \"x\n\"", "line 1: a text is not closed"),
            ("a: \"\\x41\"", "an escape"),
            ("a: [1, [2]]", "a list in a list"),
            ("\n\n}", "line 3: a name or a value"),
            ("a:", "a name or a value is expected"),
        ] {
            let told = read(text).unwrap_err();
            assert!(told.contains(fault), "{text}: {told}");
        }
        assert!(read(&"a {".repeat(100)).unwrap_err().contains("nesting"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-c:{}<>\\[\\]\"'\\\\#,; \n0-9.é-]{0,60}") {
            let _ = read(&text);
        }
    }
}
