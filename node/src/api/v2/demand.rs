//! What a request demands, from its headers and its `parameters`: the only place where `Hansa-*`
//! headers are read. What is not understood is refused.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use hansa_core::limits::DEADLINE_MAX;
use hansa_core::place::Groups;
use hansa_core::policy::{CONSTRAINTS, Demand};
use serde_json::Value;

use super::error::ApiError;

/// In the case that header maps keep names in.
const PREFIX: &str = "hansa-";

/// The constraints of a request, under both forms that they have.
pub fn demand(
    headers: &HeaderMap,
    parameters: &BTreeMap<String, Value>,
    groups: &Groups,
) -> Result<Demand, ApiError> {
    let mut demand = Demand::default();
    let mut by_header: BTreeMap<String, &str> = BTreeMap::new();
    for (name, value) in headers {
        let Some(short) = name.as_str().strip_prefix(PREFIX) else { continue };
        let shown = shown(short);
        let key = short.replace('-', "_");
        if !CONSTRAINTS.contains(&key.as_str()) {
            let known: Vec<String> = CONSTRAINTS.iter().map(|key| self::shown(key)).collect();
            let known = known.join(", ");
            return Err(bad(format!("unknown header `{shown}`; known are {known}")));
        }
        let value = value.to_str().map_err(|_| bad(format!("header `{shown}` is not ASCII")))?;
        demand.set(&key, value, groups).map_err(|e| bad(format!("header `{shown}`: {e}")))?;
        if by_header.insert(key, value.trim()).is_some() {
            return Err(bad(format!("header `{shown}` is given twice; separate values by commas")));
        }
    }
    for (key, value) in parameters {
        if !CONSTRAINTS.contains(&key.as_str()) {
            continue;
        }
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return Err(bad(format!("parameter `{key}` is {value}, not a string or number"))),
        };
        demand.set(key, &text, groups).map_err(|e| bad(format!("parameter {e}")))?;
        if by_header.get(key).is_some_and(|header| *header != text.trim()) {
            return Err(bad(format!(
                "header `{}` and parameter `{key}` disagree; give one of them",
                shown(key)
            )));
        }
    }
    // Last, so that the protocol's own timeout narrows a deadline and is not replaced by it.
    let others = parameters.iter().filter(|(key, _)| !CONSTRAINTS.contains(&key.as_str()));
    others.into_iter().try_for_each(|(key, value)| protocols_own(&mut demand, key, value))?;
    Ok(demand)
}

/// Takes a parameter that is not a constraint.
fn protocols_own(demand: &mut Demand, key: &str, value: &Value) -> Result<(), ApiError> {
    match key {
        "timeout" => {
            let expected = || bad(format!("parameter `timeout` is {value}, not a number of µs"));
            // Clients send numbers; some only know how to send strings.
            let micros = match value {
                Value::String(text) => text.parse().ok(),
                other => other.as_u64(),
            };
            let timeout = Duration::from_micros(micros.ok_or_else(expected)?);
            if timeout > DEADLINE_MAX {
                let most = DEADLINE_MAX.as_micros();
                return Err(bad(format!("parameter `timeout` is {value} µs, the most is {most}")));
            }
            if !timeout.is_zero() {
                let deadline = demand.deadline.map_or(timeout, |given| given.min(timeout));
                demand.deadline = Some(deadline);
            }
            Ok(())
        }
        _ => Err(ApiError::unsupported(format!(
            "unknown parameter `{key}`; known are {}, timeout and binary_data_output",
            CONSTRAINTS.join(", ")
        ))),
    }
}

fn bad(message: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "bad_constraint", message)
}

/// A header as people write it: `Hansa-Data-Class`.
fn shown(short: &str) -> String {
    let mut name = String::from("Hansa");
    for word in short.split(['-', '_']) {
        let (first, rest) = word.split_at(word.len().min(1));
        name.push('-');
        name.push_str(&first.to_ascii_uppercase());
        name.push_str(rest);
    }
    name
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};
    use serde_json::json;

    use super::*;

    fn ask(headers: &[(&str, &str)], parameters: Value) -> Result<Demand, ApiError> {
        let eu = ["DE", "FR", "IE"].map(String::from).to_vec();
        let groups = Groups::new([("EU".to_owned(), eu)].into()).unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        demand(&map, &serde_json::from_value(parameters).unwrap(), &groups)
    }

    fn refused(headers: &[(&str, &str)], parameters: Value) -> String {
        let error = ask(headers, parameters).expect_err("must be refused");
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
        error.to_string()
    }

    #[test]
    fn nothing_demands_nothing() {
        let demand = ask(&[("host", "x"), ("accept", "*/*")], json!({})).unwrap();
        assert_eq!(demand, Demand::default());
    }

    #[test]
    fn headers_and_parameters_mean_the_same() {
        let headers = [
            ("Hansa-Locations", "EU,!IE"),
            ("Hansa-Data-Class", "personal"),
            ("Hansa-Deadline-Ms", "250"),
        ];
        let same = json!({"locations": "EU,!IE", "data_class": "personal", "deadline_ms": 250});
        let demand = ask(&headers, json!({})).unwrap();
        assert_eq!(ask(&[], same.clone()).unwrap(), demand);
        assert_eq!(ask(&headers, same).unwrap(), demand);
        assert_eq!(demand.deadline, Some(Duration::from_millis(250)));
        assert!(demand.policy.bounds.locations.allow.is_some());
    }

    #[test]
    fn a_header_that_is_empty_unknown_twice_or_wrong_is_refused() {
        assert!(refused(&[("Hansa-Locations", "")], json!({})).contains("empty"));
        assert!(refused(&[("hansa-locations", "  ")], json!({})).contains("empty"));
        let unknown = refused(&[("Hansa-Location", "DE")], json!({}));
        assert!(unknown.contains("`Hansa-Location`"), "{unknown}");
        assert!(unknown.contains("Hansa-Locations, Hansa-Control"), "{unknown}");
        assert!(unknown.contains("Hansa-Data-Class"), "{unknown}");
        let twice = [("Hansa-Locations", "DE"), ("Hansa-Locations", "FR")];
        assert!(refused(&twice, json!({})).contains("twice"));
        assert!(refused(&[("Hansa-Locations", "Europe")], json!({})).contains("Hansa-Locations"));
    }

    #[test]
    fn a_header_and_a_parameter_that_disagree_are_refused() {
        let disagreeing = refused(&[("Hansa-Control", "DE")], json!({"control": "FR"}));
        assert!(disagreeing.contains("disagree"), "{disagreeing}");
    }

    #[test]
    fn parameters_that_are_not_understood_are_refused() {
        for parameters in [
            json!({"locations": ""}),
            json!({"locations": ["DE"]}),
            json!({"locations": null}),
            json!({"deadline_ms": 0}),
            json!({"deadline_ms": 1.5}),
            json!({"location": "DE"}),
            json!({"headers": {}}),
            json!({"temperature": 1}),
            json!({"priority": -1}),
            json!({"priority": "high"}),
            json!({"timeout": -1}),
            json!({"timeout": 1.5}),
            json!({"timeout": 3_600_000_001u64}),
        ] {
            refused(&[], parameters);
        }
        assert!(refused(&[], json!({"location": "DE"})).contains("locations"));
    }

    #[test]
    fn a_timeout_in_microseconds_narrows_the_deadline() {
        let deadline = |parameters| ask(&[], parameters).unwrap().deadline;
        assert_eq!(deadline(json!({"timeout": 1_500})), Some(Duration::from_micros(1_500)));
        assert_eq!(deadline(json!({"timeout": 0})), None);
        let both = json!({"timeout": 1_500, "deadline_ms": 10});
        assert_eq!(deadline(both), Some(Duration::from_micros(1_500)));
        let both = json!({"timeout": "50000", "deadline_ms": 10});
        assert_eq!(deadline(both), Some(Duration::from_millis(10)));
    }

    #[test]
    fn a_priority_is_a_level_by_header_or_parameter() {
        assert_eq!(ask(&[], json!({"priority": 3})).unwrap().priority, 3);
        assert_eq!(ask(&[("Hansa-Priority", "1")], json!({})).unwrap().priority, 1);
        assert_eq!(ask(&[], json!({"priority": u64::MAX})).unwrap().priority, u32::MAX);
    }

    #[test]
    fn the_defaults_that_clients_send_are_taken() {
        assert_eq!(ask(&[], json!({ "priority": 0 })).unwrap(), Demand::default());
    }
}
