//! A file of authorities: whom an auditor believes about peers, and about what.
//!
//! ```text
//! # who is believed, and about what
//! eu.example+b4b158e1+AdR0FFIv… { countries = ["DE", "FR"], operators = ["*"] }
//! ```
//!
//! One authority a line: its public key as `hansa authority new` prints it, then what it may assert,
//! in the words of the config's `may_assert`. Lines that begin with `#` are comments. There is no
//! default: an authority that may assert nothing is a mistake here.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use hansa_core::charter::{Authority, Trust};
use hansa_core::note::VerifierKey;
use hansa_core::place::Place;

use super::files::read_text;
use crate::limits::AUTHORITIES_BYTES_MAX;

/// Why there are no authorities.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// The file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A line is not one.
    #[error("{path}:{line}: {reason}", path = path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// It names nobody.
    #[error("{} names no authority: one line each, `KEY {{ countries = [\"DE\"], operators = [\"*\"] }}`", .0.display())]
    Empty(PathBuf),
}

/// Reads a file of authorities.
pub fn load(path: &Path) -> Result<Trust, AuthoritiesError> {
    let fault = |source| AuthoritiesError::File { path: path.to_owned(), source };
    let text = read_text(path, AUTHORITIES_BYTES_MAX).map_err(fault)?;
    let text = text.ok_or_else(|| fault(io::ErrorKind::NotFound.into()))?;
    let line = |(line, text): (usize, &str)| {
        parse(text).map_err(|reason| AuthoritiesError::Line { path: path.to_owned(), line, reason })
    };
    let lines = (1..).zip(text.lines());
    let lines = lines.filter(|(_, text)| !text.trim().is_empty() && !text.starts_with('#'));
    let authorities = lines.map(line).collect::<Result<Vec<_>, _>>()?;
    if authorities.is_empty() {
        return Err(AuthoritiesError::Empty(path.to_owned()));
    }
    Ok(Trust::new(authorities))
}

/// The text of such a file.
pub fn text(authorities: &[Authority]) -> String {
    let mut text =
        "# Who is believed about peers, and about what (hansa receipt verify).\n".to_owned();
    for authority in authorities {
        let list = |set: &std::collections::BTreeSet<String>| {
            toml::Value::from(set.iter().cloned().collect::<Vec<_>>()).to_string()
        };
        let (countries, operators) = (list(&authority.countries), list(&authority.operators));
        let may = format!("{{ countries = {countries}, operators = {operators} }}");
        writeln!(text, "{} {may}", authority.key).expect("a text can be written to");
    }
    text
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    may_assert: MayAssert,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct MayAssert {
    countries: Vec<String>,
    operators: Vec<String>,
}

fn parse(line: &str) -> Result<Authority, String> {
    let (key, may) = line.trim().split_once(char::is_whitespace).ok_or(
        "after the key comes what it may assert, as `{ countries = [\"DE\"], operators = [\"*\"] }`",
    )?;
    let key: VerifierKey = key.parse().map_err(|error| format!("{error}"))?;
    let line: Line = toml::from_str(&format!("may_assert = {}", may.trim()))
        .map_err(|error| error.message().to_owned())?;
    let MayAssert { countries, operators } = line.may_assert;
    if countries.is_empty() || operators.is_empty() {
        return Err("it may assert nothing; \"*\" is anything".into());
    }
    for country in countries.iter().filter(|country| *country != "*") {
        let place: Place = country.parse().map_err(|error| format!("{error}"))?;
        if place.country() != country {
            return Err(format!("`{country}` is a part; name its country"));
        }
    }
    let (countries, operators) = (countries.into_iter().collect(), operators.into_iter().collect());
    Ok(Authority { key, countries, operators })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";

    #[test]
    fn what_was_written_is_read() {
        let operators = ["Acme, Inc.".to_owned(), "Say \"Yes\" Ltd".to_owned()].into();
        let countries = ["DE".to_owned(), "FR".to_owned()].into();
        let authority = Authority { key: KEY.parse().unwrap(), countries, operators };
        let text = text(std::slice::from_ref(&authority));
        assert_eq!(parse(text.lines().nth(1).unwrap()), Ok(authority));
    }

    #[test]
    fn a_line_that_is_none_is_named_with_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("authorities");
        let fault = |text: &str| {
            std::fs::write(&path, text).unwrap();
            load(&path).unwrap_err().to_string()
        };
        let all = "{ countries = [\"*\"], operators = [\"*\"] }";
        for (line, reason) in [
            (KEY.to_owned(), "after the key"),
            (format!("{} {all}", &KEY[..60]), "not a key"),
            (format!("{KEY} {{ countries = [\"DE\"] }}"), "operators"),
            (format!("{KEY} {{ countries = [], operators = [\"*\"] }}"), "nothing"),
            (format!("{KEY} {{ countries = [\"UK\"], operators = [\"*\"] }}"), "GB"),
            (format!("{KEY} {{ countries = [\"DE-BE\"], operators = [\"*\"] }}"), "is a part"),
            (format!("{KEY} {{ countries = [\"*\"], operators = [\"*\"], all = 1 }}"), "all"),
            (format!("{KEY} {all}\nother = 1"), "not a key"),
        ] {
            let found = fault(&format!("# a comment\n\n{KEY} {all}\n{line}\n"));
            assert!(found.contains(reason), "{found}");
            assert!(found.contains(":4: ") || found.contains(":5: "), "{found}");
        }
        assert!(fault("# nobody\n").contains("names no authority"));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(load(&path), Err(AuthoritiesError::File { .. })));
    }
}
