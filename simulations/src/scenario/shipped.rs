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

shipped![
    "adversaries",
    "azure-trace",
    "churn",
    "demand-shifts",
    "diurnal-sharing",
    "flash-crowd",
    "gray-peer",
    "join",
    "join-10000",
    "jurisdiction-walls",
    "killed-10000",
    "partition-10000",
    "partition-heals",
    "region-lost",
    "routing-85",
    "routing-95",
    "shards-50000",
    "split-chains",
    "steady-10000",
    "storm",
];

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn each_shipped_scenario_is_sound_and_says_what_it_asks_and_expects() {
        for shipped in ALL {
            let scenario = Scenario::open(Path::new(shipped.name));
            let scenario = scenario.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(scenario.name, shipped.name);
            assert!(scenario.asks.ends_with('?'), "{}", shipped.name);
            assert!(scenario.expect.ends_with('.'), "{}", shipped.name);
        }
    }

    #[test]
    fn a_name_that_is_nearly_right_is_corrected() {
        let error = Scenario::open(Path::new("routing-58")).unwrap_err();
        assert!(error.to_string().ends_with("shipped scenario `routing-85`?"), "{error}");
    }
}
