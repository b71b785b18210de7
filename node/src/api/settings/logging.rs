//! How much is logged, and the filter that does it.

use serde_json::{Value, json};

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Logging {
    info: bool,
    warning: bool,
    error: bool,
    verbose: u32,
}

impl Default for Logging {
    fn default() -> Self {
        Self { info: true, warning: true, error: true, verbose: 0 }
    }
}

impl Logging {
    pub(super) fn set(&mut self, key: &str, value: &Value) -> Result<(), String> {
        let flag = || value.as_bool().ok_or(format!("{key} is {value}, not true or false"));
        match key {
            "log_info" => self.info = flag()?,
            "log_warning" => self.warning = flag()?,
            "log_error" => self.error = flag()?,
            "log_verbose_level" => {
                let level = value.as_u64().and_then(|level| u32::try_from(level).ok());
                self.verbose = level.ok_or(format!("{key} is {value}, not a number"))?;
            }
            "log_format" if value == "ISO8601" => {}
            "log_file" if value == "" => {}
            "log_format" | "log_file" => {
                return Err(format!(
                    "{key} cannot be changed: see [telemetry] in the node's config"
                ));
            }
            _ => return Err(format!("unknown setting `{key}`")),
        }
        Ok(())
    }

    /// The filter that does this, given the one of the config.
    pub(super) fn filter(self, config: &str) -> Result<String, String> {
        let ours = |level: &str| {
            let crates = ["hansa_node", "hansa_core", "hansa_net", "hansa_runtime"];
            crates.map(|name| format!(",{name}={level}")).concat()
        };
        match (self.info, self.warning, self.error, self.verbose) {
            (true, true, true, 0) => Ok(config.to_owned()),
            (true, true, true, 1) => Ok(format!("{config}{}", ours("debug"))),
            (true, true, true, _) => Ok(format!("{config}{}", ours("trace"))),
            (false, true, true, 0) => Ok("warn".into()),
            (false, false, true, 0) => Ok("error".into()),
            (false, false, false, 0) => Ok("off".into()),
            _ => Err(
                "levels are nested: what is verbose tells infos, infos need warnings, warnings \
                      need errors"
                    .into(),
            ),
        }
    }

    pub(super) fn told(self) -> Value {
        json!({
            "log_file": "",
            "log_info": self.info,
            "log_warning": self.warning,
            "log_error": self.error,
            "log_verbose_level": self.verbose,
            "log_format": "ISO8601",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let mut logging = Logging::default();
        for (key, value) in [
            ("log_file", json!("/etc/passwd")),
            ("log_info", json!("yes")),
            ("log_verbose_level", json!(-1)),
            ("log_depth", json!(1)),
        ] {
            assert!(logging.set(key, &value).is_err(), "{key}");
        }
    }

    #[test]
    fn levels_of_logging_become_filters() {
        let filter = |changes: &[(&str, Value)]| {
            let mut logging = Logging::default();
            changes.iter().for_each(|(key, value)| logging.set(key, value).unwrap());
            logging.filter("info")
        };
        assert_eq!(filter(&[]).unwrap(), "info");
        assert_eq!(filter(&[("log_info", json!(false))]).unwrap(), "warn");
        assert!(filter(&[("log_verbose_level", json!(1))]).unwrap().contains("hansa_node=debug"));
        assert!(filter(&[("log_warning", json!(false))]).is_err());
    }
}
