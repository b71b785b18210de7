//! Which requests are traced.

use std::collections::BTreeMap;

/// Which requests are traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tracing {
    pub(super) is_on: bool,
    /// One in so many.
    rate: u64,
    /// So many more; none for no limit.
    left: Option<u64>,
    /// Requests seen.
    seen: u64,
}

impl Default for Tracing {
    fn default() -> Self {
        Self { is_on: false, rate: 1_000, left: None, seen: 0 }
    }
}

impl Tracing {
    /// Whether the next request is one that is traced.
    pub(super) fn next(&mut self) -> bool {
        if !self.is_on || self.left == Some(0) {
            return false;
        }
        self.seen += 1;
        let is_due = (self.seen - 1).is_multiple_of(self.rate);
        if let (true, Some(left)) = (is_due, &mut self.left) {
            *left -= 1;
        }
        is_due
    }

    pub(super) fn set(&mut self, key: &str, value: Option<Vec<String>>) -> Result<(), String> {
        let default = Self::default();
        let one = |value: &[String]| match value {
            [text] => Ok(text.clone()),
            _ => Err(format!("{key} takes one value")),
        };
        let number = |text: String| {
            text.parse::<i64>().map_err(|_| format!("{key} is `{text}`, not a number"))
        };
        match (key, value) {
            ("trace_level", None) => self.is_on = default.is_on,
            ("trace_level", Some(levels)) => {
                self.is_on = match &levels.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                    ["OFF"] => false,
                    ["TIMESTAMPS"] => true,
                    _ => {
                        return Err(
                            "trace_level is OFF or TIMESTAMPS; payloads are not traced".into()
                        );
                    }
                };
            }
            ("trace_rate", None) => self.rate = default.rate,
            ("trace_rate", Some(value)) => {
                let rate = number(one(&value)?)?;
                let rate = u64::try_from(rate).ok().filter(|rate| *rate > 0);
                self.rate = rate.ok_or("trace_rate is 1 or more: one request in so many")?;
            }
            ("trace_count", None) => self.left = default.left,
            ("trace_count", Some(value)) => self.left = u64::try_from(number(one(&value)?)?).ok(),
            ("log_frequency" | "trace_mode" | "trace_file", None) => {}
            ("log_frequency", Some(value)) if one(&value)? == "0" => {}
            ("trace_mode", Some(value)) if one(&value)? == "triton" => {}
            ("log_frequency" | "trace_mode" | "trace_file", Some(_)) => {
                return Err(format!("{key} cannot be changed: traces go to data_dir/trace.jsonl"));
            }
            _ => {
                return Err(format!(
                    "unknown setting `{key}`; trace_level, trace_rate and trace_count are known"
                ));
            }
        }
        Ok(())
    }

    /// As clients read it.
    pub(super) fn told(&self, file: &str) -> BTreeMap<String, Vec<String>> {
        let level = if self.is_on { "TIMESTAMPS" } else { "OFF" };
        let left = self.left.map_or("-1".to_owned(), |left| left.to_string());
        [
            ("trace_level", level.to_owned()),
            ("trace_rate", self.rate.to_string()),
            ("trace_count", left),
            ("log_frequency", "0".to_owned()),
            ("trace_file", file.to_owned()),
            ("trace_mode", "triton".to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), vec![value]))
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(values: &[&str]) -> Option<Vec<String>> {
        Some(values.iter().map(|value| (*value).to_owned()).collect())
    }

    #[test]
    fn one_request_in_so_many_is_traced_and_no_more_than_were_asked_for() {
        let mut tracing = Tracing::default();
        assert!(!tracing.next(), "off unless it is set");
        tracing.set("trace_level", values(&["TIMESTAMPS"])).unwrap();
        tracing.set("trace_rate", values(&["3"])).unwrap();
        tracing.set("trace_count", values(&["2"])).unwrap();
        let traced: Vec<bool> = (0..12).map(|_| tracing.next()).collect();
        assert_eq!(traced.iter().filter(|is| **is).count(), 2);
        assert!(traced[0] && traced[3]);
        tracing.set("trace_rate", None).unwrap();
        assert_eq!(tracing.told("f")["trace_rate"], ["1000"]);
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let mut tracing = Tracing::default();
        for (key, value) in [
            ("trace_level", values(&["TENSORS"])),
            ("trace_rate", values(&["0"])),
            ("trace_rate", values(&["often"])),
            ("trace_rate", values(&["1", "2"])),
            ("trace_file", values(&["/etc/passwd"])),
            ("trace_depth", values(&["1"])),
        ] {
            assert!(tracing.set(key, value).is_err(), "{key}");
        }
    }
}
