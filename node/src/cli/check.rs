//! `hansa check`: everything that is wrong with a config, before anything opens.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{CONFIG, out};
use crate::clock::Clock;
use crate::config::{Config, ConfigErrors, Findings};

/// `hansa check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The config
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the command. What is wrong is the answer, not a failure of the command: with `--json` it
/// goes where the answer goes.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let found = check(args);
    if args.json {
        let value = match &found {
            Ok((config, findings)) => json!({
                "ok": true, "peer_id": findings.peer_id, "warnings": findings.warnings,
                "groups": config.groups.digest(), "problems": [],
            }),
            Err(errors) => json!({"ok": false, "warnings": [], "problems": errors.problems}),
        };
        out::json_line(&value);
        return Ok(if found.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(CONFIG) });
    }
    let (config, findings) = found?;
    for warning in &findings.warnings {
        out::line(&format!("warning: {}", warning.at(config.file())));
    }
    out::line(&summary(&config, &findings));
    Ok(ExitCode::SUCCESS)
}

fn check(args: &CheckArgs) -> Result<(Config, Findings), ConfigErrors> {
    let config = Config::load(&args.config)?;
    let findings = config.check(Clock::start().now().utc)?;
    Ok((config, findings))
}

fn summary(config: &Config, findings: &Findings) -> String {
    let standing = match &findings.charter {
        Some(charter) => {
            format!("in {}, under the control of {}", charter.location, charter.control)
        }
        None => "without a charter: it runs its own apps' jobs that constrain nothing".into(),
    };
    format!(
        "{}: ok. {} is {}, {standing}; {} authorities, {} models; groups {}",
        config.file().display(),
        config.node.name,
        findings.peer_id,
        config.authorities.len(),
        config.models.len(),
        config.groups.digest(),
    )
}
