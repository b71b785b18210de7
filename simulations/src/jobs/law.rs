//! The law of a scenario: constraints as requests write them, as the core reads them.

use std::collections::BTreeMap;

use hansa_core::place::Groups;
use hansa_core::policy::{ConstraintError, Demand, Policy};
use serde::Deserialize;

use crate::scenario::{Constraints, Scenario};

/// The groups of countries that nodes know too.
const GROUPS: &str = include_str!("../../../configs/groups.toml");

#[derive(Deserialize)]
struct GroupsFile {
    groups: BTreeMap<String, Vec<String>>,
}

/// Groups of places, by name.
pub fn groups() -> Groups {
    let file: GroupsFile = toml::from_str(GROUPS).expect("compiled in, and tested");
    Groups::new(file.groups).expect("compiled in, and tested")
}

/// What `constraints` say; `own` is the place that they call so.
pub fn policy(
    constraints: &Constraints,
    own: &str,
    groups: &Groups,
) -> Result<Policy, ConstraintError> {
    let places = |text: &Option<String>| {
        let here = |entry: &str| match entry.trim() {
            "own" => own.to_owned(),
            "!own" => format!("!{own}"),
            entry => entry.to_owned(),
        };
        text.as_ref().map(|text| text.split(',').map(here).collect::<Vec<String>>().join(","))
    };
    let mut demand = Demand::default();
    for (key, value) in [
        ("locations", places(&constraints.locations)),
        ("control", places(&constraints.control)),
        ("operators", constraints.operators.clone()),
        ("data_class", constraints.data_class.clone()),
    ] {
        if let Some(value) = value {
            demand.set(key, &value, groups)?;
        }
    }
    Ok(demand.policy)
}

/// What of a scenario's law cannot be understood.
pub fn faults(scenario: &Scenario) -> Vec<String> {
    let groups = groups();
    let own = scenario.region.first().map_or("", |region| region.location.as_str());
    let charters = scenario.charter.iter().flat_map(|charter| [&charter.serve, &charter.send]);
    let policies = scenario.policy.iter().map(|policy| &policy.require);
    let parse = |constraints| policy(constraints, own, &groups).err();
    let faults = charters.chain(policies).filter_map(parse).map(|fault| fault.to_string());
    let places = scenario.region.iter().map(|region| &region.location);
    let places = places.chain(scenario.charter.iter().map(|charter| &charter.control));
    let places = places.filter_map(|place| place.parse::<hansa_core::place::Place>().err());
    faults.chain(places.map(|fault| fault.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_is_where_the_job_comes_from_and_groups_are_those_of_nodes() {
        let constraints =
            |places: &str| Constraints { locations: Some(places.into()), ..Constraints::default() };
        let read = |places: &str| policy(&constraints(places), "NL", &groups()).expect("places");
        let passes = |places: &str, place: &str| {
            read(places).bounds.locations.permits_place(&place.parse().expect("a place"))
        };
        assert!(passes("own", "NL") && !passes("own", "DE"));
        assert!(passes("EU", "DE") && !passes("EU,!own", "NL") && !passes("EU", "US-VA"));
    }
}
