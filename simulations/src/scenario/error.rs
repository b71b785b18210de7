//! Why a scenario cannot be run: the file, the line, the key, and what to do.

use std::path::{Path, PathBuf};

use super::lines::{line_at, line_of};

/// Why a scenario cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// Its file cannot be read.
    #[error("{}: {error}{hint}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
        /// What to do.
        hint: String,
    },
    /// It is not TOML, or a key is unknown, missing or of another kind.
    #[error("{}{line}: {problem}; {fix}", file.display())]
    Toml {
        /// The file.
        file: PathBuf,
        /// `:` and the line, when it is known.
        line: String,
        /// What is wrong.
        problem: String,
        /// What to do.
        fix: String,
    },
    /// It says what cannot be.
    #[error("{}{line}: {key}: {problem}; {fix}", file.display())]
    Impossible {
        /// The file.
        file: PathBuf,
        /// `:` and the line, when it is known.
        line: String,
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        fix: String,
    },
    /// A file that it names cannot be used.
    #[error("{0}")]
    Data(String),
}

/// A key that says what cannot be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) key: String,
    pub(super) problem: String,
    pub(super) fix: String,
}

impl ScenarioError {
    /// Whether a file is not there, and not merely wrong.
    pub fn is_missing_file(&self) -> bool {
        matches!(self, Self::Read { .. })
    }

    pub(super) fn toml(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        let line = error.span().map(|span| format!(":{}", line_at(text, span.start)));
        let message = error.message();
        Self::Toml {
            file: named(file),
            line: line.unwrap_or_default(),
            problem: message.lines().next().unwrap_or("not a scenario").to_owned(),
            fix: fix_of(message),
        }
    }

    pub(super) fn impossible(file: &Path, text: &str, fault: Fault) -> Self {
        let line = line_of(text, &fault.key).map(|line| format!(":{line}"));
        let Fault { key, problem, fix } = fault;
        Self::Impossible { file: named(file), line: line.unwrap_or_default(), key, problem, fix }
    }
}

fn named(file: &Path) -> PathBuf {
    if file.as_os_str().is_empty() { "scenario".into() } else { file.to_owned() }
}

/// What to do about what the parser says: for a misspelt name, the one that was meant.
fn fix_of(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown") {
        let Some(wrong) = quoted.next() else { return "remove it".to_owned() };
        return match nearest(wrong, quoted) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "remove it, or see simulations/scenarios/README.md for what there is".into(),
        };
    }
    match quoted.next() {
        Some(name) if message.starts_with("missing field") => format!("add `{name} = …`"),
        _ => "see simulations/scenarios/README.md for what each key takes".to_owned(),
    }
}

/// The name that is likest to `wrong`, if one is like it at all.
pub fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = names.into_iter().map(|name| (strsim::jaro_winkler(wrong, name), name));
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (best.0 >= 0.75).then_some(best.1)
}
