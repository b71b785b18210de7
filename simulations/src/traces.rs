//! Recorded demand: reads the Azure and the Mooncake layouts line by line, so that a trace of any
//! length fits. A line that cannot be read is named by file and number, with what it should be.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::scenario::{ArrivalSpec, TraceLayout};

/// One request of a trace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// Seconds since the trace's first request.
    pub at_s: f64,
    /// Tokens of the input.
    pub input_tokens: u32,
    /// Tokens of the output.
    pub output_tokens: u32,
    /// Hashes of the input's blocks, for those that reuse prefixes; empty in the Azure layout.
    pub blocks: Vec<u64>,
}

/// Why a trace cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It cannot be opened or read.
    #[error("{}: {error}; `file` is relative to the scenario's folder", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A column is not there.
    #[error("{}:1: no column `{column}`, there are {there}; name it in the scenario: \
             `{key} = \"…\"`", file.display())]
    Column {
        /// The file.
        file: PathBuf,
        /// The column that is missing.
        column: String,
        /// Those that are there.
        there: String,
        /// The scenario's key that names it.
        key: &'static str,
    },
    /// A line is not what its layout says.
    #[error("{}:{line}: {problem}; {fix}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
        /// What to do.
        fix: String,
    },
}

/// The requests of a trace, in order of time.
#[derive(Debug)]
pub struct Trace {
    file: PathBuf,
    lines: std::io::Lines<BufReader<File>>,
    line: usize,
    layout: TraceLayout,
    names: [String; 3],
    columns: [usize; 3],
    first: Option<f64>,
    last: f64,
}

/// The scenario's keys that name the three columns.
const KEYS: [&str; 3] = ["time", "input_tokens", "output_tokens"];

impl Trace {
    /// Opens a trace as the scenario describes it.
    pub fn open(file: &Path, spec: &ArrivalSpec) -> Result<Self, TraceError> {
        let read = |error| TraceError::Read { file: file.to_owned(), error };
        let defaults = match spec.layout {
            TraceLayout::Azure => ["TIMESTAMP", "ContextTokens", "GeneratedTokens"],
            TraceLayout::Mooncake => ["timestamp", "input_length", "output_length"],
        };
        let given = [&spec.time, &spec.input_tokens, &spec.output_tokens];
        let name = |index: usize| given[index].clone().unwrap_or(defaults[index].to_owned());
        let mut trace = Self {
            file: file.to_owned(),
            lines: BufReader::new(File::open(file).map_err(read)?).lines(),
            line: 0,
            layout: spec.layout,
            names: [0, 1, 2].map(name),
            columns: [0; 3],
            first: None,
            last: 0.0,
        };
        if spec.layout == TraceLayout::Azure {
            trace.line = 1;
            let header = trace.lines.next().transpose().map_err(read)?.unwrap_or_default();
            trace.read_header(header.trim_start_matches('\u{feff}'))?;
        }
        Ok(trace)
    }

    fn read_header(&mut self, header: &str) -> Result<(), TraceError> {
        let there: Vec<&str> = header.split(',').map(str::trim).collect();
        for (index, name) in self.names.iter().enumerate() {
            let Some(column) = there.iter().position(|column| column == name) else {
                return Err(TraceError::Column {
                    file: self.file.clone(),
                    column: name.clone(),
                    there: there
                        .iter()
                        .map(|name| format!("`{name}`"))
                        .collect::<Vec<_>>()
                        .join(", "),
                    key: KEYS[index],
                });
            };
            self.columns[index] = column;
        }
        Ok(())
    }

    fn fault(&self, problem: impl Into<String>, fix: &str) -> TraceError {
        let (problem, fix) = (problem.into(), fix.to_owned());
        TraceError::Line { file: self.file.clone(), line: self.line, problem, fix }
    }

    fn csv(&self, text: &str) -> Result<Request, TraceError> {
        let fields: Vec<&str> = text.split(',').map(str::trim).collect();
        let field = |index: usize| {
            fields.get(self.columns[index]).copied().ok_or_else(|| {
                let fix = "each line has as many fields as the first, with commas between";
                self.fault(format!("no `{}`", self.names[index]), fix)
            })
        };
        let number = |index: usize| {
            let text = field(index)?;
            let problem = || format!("`{}` is `{text}`", self.names[index]);
            text.parse().map_err(|_| self.fault(problem(), "it is a whole number of tokens"))
        };
        let time = field(0)?;
        let fix = "write `2023-11-16 18:17:03.97`, or seconds as a number";
        let at_s = seconds(time)
            .ok_or_else(|| self.fault(format!("`{}` is `{time}`", self.names[0]), fix))?;
        let (input_tokens, output_tokens) = (number(1)?, number(2)?);
        Ok(Request { at_s, input_tokens, output_tokens, blocks: Vec::new() })
    }

    fn json(&self, text: &str) -> Result<Request, TraceError> {
        let fix = "each line is a JSON object with times in ms and lengths in tokens";
        let object: serde_json::Value =
            serde_json::from_str(text).map_err(|error| self.fault(error.to_string(), fix))?;
        let field = |index: usize| {
            let name = self.names[index].as_str();
            object.get(name).and_then(serde_json::Value::as_f64).filter(|x| *x >= 0.0).ok_or_else(
                || {
                    let there = object.as_object().into_iter().flat_map(|object| object.keys());
                    let there: Vec<&str> = there.map(String::as_str).collect();
                    let problem = format!("no number `{name}`, there are {}", there.join(", "));
                    self.fault(problem, &format!("name it in the scenario: `{} = …`", KEYS[index]))
                },
            )
        };
        let tokens = |tokens: f64| format!("{tokens:.0}").parse().unwrap_or(u32::MAX);
        let (input_tokens, output_tokens) = (tokens(field(1)?), tokens(field(2)?));
        let blocks = object.get("hash_ids").and_then(serde_json::Value::as_array);
        let blocks = blocks.into_iter().flatten().filter_map(serde_json::Value::as_u64).collect();
        Ok(Request { at_s: field(0)? / 1_000.0, input_tokens, output_tokens, blocks })
    }
}

impl Iterator for Trace {
    type Item = Result<Request, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.line += 1;
            let text = match self.lines.next()? {
                Ok(text) => text,
                Err(error) => {
                    return Some(Err(TraceError::Read { file: self.file.clone(), error }));
                }
            };
            if text.trim().is_empty() {
                continue;
            }
            let read = match self.layout {
                TraceLayout::Azure => self.csv(&text),
                TraceLayout::Mooncake => self.json(&text),
            };
            return Some(read.and_then(|mut request| {
                request.at_s -= *self.first.get_or_insert(request.at_s);
                if request.at_s < self.last {
                    return Err(self.fault("it is earlier than the line before", "sort by time"));
                }
                self.last = request.at_s;
                Ok(request)
            }));
        }
    }
}

/// Seconds since some fixed moment: of `YYYY-MM-DD HH:MM:SS.fff`, with `T` for the blank and a `Z`
/// or an offset behind it or not; or of a plain number.
fn seconds(text: &str) -> Option<f64> {
    if let Ok(number) = text.parse::<f64>() {
        return number.is_finite().then_some(number);
    }
    let (date, clock) = text.split_once([' ', 'T'])?;
    let clock = clock.trim_end_matches('Z');
    let clock = clock.split_once('+').map_or(clock, |(clock, _)| clock);
    let mut date = date.split('-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let mut clock = clock.splitn(3, ':');
    let (hour, minute) = (clock.next()?.parse::<i64>().ok()?, clock.next()?.parse::<i64>().ok()?);
    let second: f64 = clock.next()?.parse().ok()?;
    // Days of the civil calendar, with the year beginning in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day = 365 * year + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (153 * month + 2) / 5
        + day;
    let minutes = i32::try_from((day - 730_000) * 1_440 + hour * 60 + minute).ok()?;
    Some(f64::from(minutes) * 60.0 + second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    fn read(layout: &str, text: &str) -> Result<Vec<Request>, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trace");
        std::fs::write(&file, text).unwrap();
        let toml = format!(
            "name = 'x'\nseconds = 9\npeers = 3\n[[arrivals]]\nkind = 'trace'\nfile = 'trace'\n\
             layout = '{layout}'"
        );
        let scenario = Scenario::parse(&toml).unwrap();
        let trace = Trace::open(&file, &scenario.arrivals[0]);
        let requests = trace.and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let folder = folder.path().display().to_string();
        requests.map_err(|error| error.to_string().replace(&folder, "F"))
    }

    #[test]
    fn the_azure_layout_is_read_across_midnight() {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n\
                    2023-12-31 23:59:59.5000000,4808,10\n2024-01-01 00:00:01.2500000,3180,8\n\n";
        let requests = read("azure", text).unwrap();
        assert_eq!(requests.len(), 2);
        assert_eq!((requests[0].at_s, requests[0].input_tokens), (0.0, 4_808));
        assert_eq!((requests[1].at_s, requests[1].output_tokens), (1.75, 8));
    }

    #[test]
    fn the_mooncake_layout_is_read_with_its_blocks() {
        let text = "{\"timestamp\": 1000, \"input_length\": 6758, \"output_length\": 500, \
                    \"hash_ids\": [0, 7]}\n{\"timestamp\": 4000, \"input_length\": 1, \
                    \"output_length\": 2, \"hash_ids\": []}";
        let requests = read("mooncake", text).unwrap();
        assert_eq!((requests[0].at_s, &requests[0].blocks), (0.0, &vec![0, 7]));
        assert_eq!((requests[1].at_s, requests[1].output_tokens), (3.0, 2));
    }

    #[test]
    fn a_missing_column_is_named_with_those_that_are_there() {
        let error = read("azure", "TIMESTAMP,Context,GeneratedTokens\n").unwrap_err();
        let expected = "F/trace:1: no column `ContextTokens`, there are `TIMESTAMP`, `Context`, \
                        `GeneratedTokens`; name it in the scenario: `input_tokens = \"…\"`";
        assert_eq!(error, expected);
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named_by_its_number() {
        let head = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
        let error = read("azure", &format!("{head}5,1,1\n6,many,1\n")).unwrap_err();
        assert!(error.starts_with("F/trace:3: `ContextTokens` is `many`; it is a"), "{error}");
        let error = read("azure", &format!("{head}5,1,1\n4,1,1\n")).unwrap_err();
        assert!(error.starts_with("F/trace:3: it is earlier"), "{error}");
        let error = read("mooncake", "{\"timestamp\": 1}").unwrap_err();
        assert!(error.starts_with("F/trace:1: no number `input_length`"), "{error}");
    }
}
