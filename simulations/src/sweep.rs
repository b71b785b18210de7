//! Varies keys of a scenario: each combination of values becomes a scenario of its own, with
//! results in a folder of its own.

use std::path::Path;

use crate::compare::{figures, shown};
use crate::recording::Recording;
use crate::scenario::{Scenario, ScenarioError};
use crate::statistics::{margin, mean};

/// A key and the values that it takes: `links.loss=0.01,0.05`.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The key, with dots; a number is the place in a list, from 0: `arrivals.0.load`.
    pub key: String,
    /// The values, as TOML.
    pub values: Vec<toml::Value>,
}

/// Why nothing can be varied so.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// Not of the form `key=v1,v2`.
    #[error("`{0}` is no setting; write `key=value1,value2`, such as `links.loss=0.01,0.05`")]
    Form(String),
    /// There is nothing of that name to go into.
    #[error("--set {key}: {problem}; name a key with dots, and the place in a list from 0")]
    Key {
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// With that value it is no scenario.
    #[error("with {settings}: {error}")]
    Scenario {
        /// The values.
        settings: String,
        /// Why.
        error: Box<ScenarioError>,
    },
}

/// One combination.
#[derive(Clone, Debug)]
pub struct Variant {
    /// Its values, such as `links.loss=0.05`; also the name of its folder.
    pub name: String,
    /// The scenario with them.
    pub scenario: Scenario,
}

impl std::str::FromStr for Setting {
    type Err = SweepError;

    fn from_str(text: &str) -> Result<Self, SweepError> {
        let form = || SweepError::Form(text.to_owned());
        let (key, values) = text.split_once('=').ok_or_else(form)?;
        let values: Vec<toml::Value> = split(values).into_iter().map(value).collect();
        if key.trim().is_empty() || values.is_empty() {
            return Err(form());
        }
        Ok(Self { key: key.trim().to_owned(), values })
    }
}

/// Splits at the commas that are in no bracket.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut parts) = (0_i32, 0, Vec::new());
    for (at, letter) in text.char_indices() {
        match letter {
            '[' | '{' => depth += 1,
            ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

/// TOML if it is, else a string: who types `hansa` need not quote it.
fn value(text: &str) -> toml::Value {
    let table = format!("x = {text}").parse::<toml::Table>();
    let value = table.ok().and_then(|mut table| table.remove("x"));
    value.unwrap_or_else(|| toml::Value::String(text.trim().to_owned()))
}

/// All combinations of the settings' values, the last setting varying fastest.
pub fn variants(scenario: &Scenario, settings: &[Setting]) -> Result<Vec<Variant>, SweepError> {
    let mut names = vec![(Vec::new(), table_of(scenario))];
    for Setting { key, values } in settings {
        let mut more = Vec::new();
        for (parts, table) in &names {
            for value in values {
                let mut table: toml::Value = table.clone();
                set(&mut table, key, value)?;
                let mut parts: Vec<String> = parts.clone();
                parts.push(format!("{key}={}", plain(value)));
                more.push((parts, table));
            }
        }
        names = more;
    }
    let variant = |(parts, table): (Vec<String>, toml::Value)| {
        let name = parts.join(" ");
        let text = toml::to_string(&table).expect("it was TOML");
        let file = scenario.folder.join(format!("{} with {name}", scenario.name));
        match Scenario::parse_as(&text, &file) {
            Ok(scenario) => Ok(Variant { name, scenario }),
            Err(error) => Err(SweepError::Scenario { settings: name, error: Box::new(error) }),
        }
    };
    names.into_iter().map(variant).collect()
}

fn table_of(scenario: &Scenario) -> toml::Value {
    toml::Value::Table(scenario.text.parse().expect("it was read"))
}

fn plain(value: &toml::Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.replace(['/', '\n', ' '], "_")
}

fn set(table: &mut toml::Value, key: &str, value: &toml::Value) -> Result<(), SweepError> {
    let fault = |problem: String| SweepError::Key { key: key.to_owned(), problem };
    let mut here = table;
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        here = match here {
            toml::Value::Table(table) => {
                let empty = || toml::Value::Table(toml::Table::new());
                table.entry(part).or_insert_with(empty)
            }
            toml::Value::Array(list) => {
                let count = list.len();
                let item = part.parse().ok().and_then(|index: usize| list.get_mut(index));
                item.ok_or_else(|| fault(format!("`{part}` is no place in a list of {count}")))?
            }
            _ => return Err(fault(format!("`{part}` is in nothing that has keys"))),
        };
        if last {
            *here = value.clone();
        }
    }
    Ok(())
}

/// A figure's mean and the half width of its interval.
pub type MeanAndMargin = (f64, Option<f64>);

/// A sweep's results: each variant's name with its figures, by name.
pub fn rows(
    results: &[(String, Vec<Recording>)],
) -> (Vec<String>, Vec<Vec<Option<MeanAndMargin>>>) {
    let of_run = |runs: &[Recording]| runs.iter().map(figures).collect::<Vec<_>>();
    let all: Vec<_> = results.iter().map(|(_, runs)| of_run(runs)).collect();
    let mut names: Vec<String> =
        all.iter().flatten().flat_map(|figures| figures.keys().cloned()).collect();
    names.sort();
    names.dedup();
    let cell = |runs: &Vec<std::collections::BTreeMap<String, f64>>, name: &String| {
        let values: Vec<f64> = runs.iter().filter_map(|run| run.get(name).copied()).collect();
        (!values.is_empty()).then(|| (mean(&values), margin(&values)))
    };
    let rows = all.iter().map(|runs| names.iter().map(|name| cell(runs, name)).collect());
    (names.clone(), rows.collect())
}

/// The sweep as CSV: a row for each variant, a mean and a margin for each figure.
pub fn csv(results: &[(String, Vec<Recording>)]) -> String {
    let (names, rows) = rows(results);
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let mut text = "variant,seeds".to_owned();
    for name in &names {
        text += &format!(",{},{}", quoted(name), quoted(&format!("{name} ±")));
    }
    for ((name, runs), row) in results.iter().zip(rows) {
        text += &format!("\n{},{}", quoted(name), runs.len());
        for cell in row {
            let (mean, margin) = cell.unzip();
            let number =
                |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
            text += &format!(",{},{}", number(mean), number(margin.flatten()));
        }
    }
    text + "\n"
}

/// The sweep as a table for people: a row for each figure that varies, a column for each variant.
pub fn table(results: &[(String, Vec<Recording>)]) -> String {
    let (names, rows) = rows(results);
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let columns = results.iter().map(|(name, _)| name.chars().count().max(18));
    let columns: Vec<usize> = columns.collect();
    let mut text = format!("{:<width$}", "figure");
    for ((name, _), column) in results.iter().zip(&columns) {
        text += &format!("  {name:>column$}");
    }
    for (index, name) in names.iter().enumerate() {
        let cells: Vec<_> = rows.iter().map(|row| row[index]).collect();
        if cells.windows(2).all(|pair| pair[0] == pair[1]) && results.len() > 1 {
            continue;
        }
        text += &format!("\n{name:<width$}");
        for (cell, column) in cells.iter().zip(&columns) {
            let cell = match cell {
                None => "—".to_owned(),
                Some((mean, None)) => shown(*mean),
                Some((mean, Some(margin))) => format!("{} ± {}", shown(*mean), shown(*margin)),
            };
            text += &format!("  {cell:>column$}");
        }
    }
    text + "\n"
}

/// The folder of a variant in the sweep's.
pub fn folder(out: &Path, variant: &Variant) -> std::path::PathBuf {
    out.join(&variant.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOML: &str = "name = 'x'\npeers = 5\nseconds = 20\n[[fault]]\nkind = 'crash'\nat_s = 3\n\
                        share = 0.2";

    fn names(settings: &[&str]) -> Result<Vec<String>, String> {
        let settings: Result<Vec<Setting>, _> = settings.iter().map(|text| text.parse()).collect();
        let settings = settings.map_err(|error| error.to_string())?;
        let variants = variants(&Scenario::parse(TOML).unwrap(), &settings);
        let variants = variants.map_err(|error| error.to_string())?;
        Ok(variants.into_iter().map(|variant| variant.name).collect())
    }

    #[test]
    fn all_combinations_are_made_in_order() {
        let all = names(&["links.loss=0.0,0.1", "fault.0.share=0.2,0.4"]).unwrap();
        let expected = [
            "links.loss=0.0 fault.0.share=0.2",
            "links.loss=0.0 fault.0.share=0.4",
            "links.loss=0.1 fault.0.share=0.2",
            "links.loss=0.1 fault.0.share=0.4",
        ];
        assert_eq!(all, expected);
        assert_eq!(names(&["links.latency_ms=[1,2],[3,4]"]).unwrap().len(), 2);
        assert_eq!(names(&["routing.strategy=hansa,random"]).unwrap().len(), 2);
    }

    #[test]
    fn what_cannot_be_set_is_named() {
        assert!(names(&["peers"]).unwrap_err().starts_with("`peers` is no setting; write"));
        let error = names(&["fault.7.share=1"]).unwrap_err();
        assert!(error.contains("`7` is no place in a list of 1"), "{error}");
        let error = names(&["links.los=0.1"]).unwrap_err();
        assert!(error.contains("with links.los=0.1") && error.contains("`loss`"), "{error}");
    }
}
