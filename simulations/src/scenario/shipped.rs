//! The scenarios that come with the binary, found by name.

use std::path::Path;

use super::error::nearest;

/// A scenario that is part of the binary.
#[derive(Clone, Copy, Debug)]
pub struct Shipped {
    /// What it is called.
    pub name: &'static str,
    /// Its file in the repository.
    pub file: &'static str,
    /// Its TOML.
    pub text: &'static str,
}

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        /// All of them, by name.
        pub const ALL: &[Shipped] = &[$(Shipped {
            name: $name,
            file: concat!("simulations/scenarios/", $name, ".toml"),
            text: include_str!(concat!("../../scenarios/", $name, ".toml")),
        }),*];
    };
}

shipped!["churn", "join", "partition-heals"];

/// The one of that name.
pub fn find(name: &str) -> Option<&'static Shipped> {
    ALL.iter().find(|shipped| shipped.name == name)
}

/// What to do when there is neither a file nor a shipped scenario of that name.
pub(super) fn hint(name: &Path) -> String {
    let name = name.to_string_lossy();
    match nearest(name.trim_end_matches(".toml"), ALL.iter().map(|shipped| shipped.name)) {
        Some(near) => format!("; did you mean the shipped scenario `{near}`?"),
        None => "; name a file, or one that `hansa-sim list` shows".to_owned(),
    }
}
