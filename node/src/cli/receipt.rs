//! `hansa receipt`: verifies a receipt's proof. It needs the file, a file of authorities, and
//! nothing else: no node, no network, no clock.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use hansa_core::limits::PROOF_BYTES_MAX;
use hansa_core::log::proof::{Proven, ReceiptProof};
use hansa_core::receipt::{Party, Receipt, date};
use serde_json::json;

use super::out;
use crate::audit::authorities;
use crate::audit::error::LogError;
use crate::audit::totals::share;

/// `hansa receipt …`
#[derive(Debug, Subcommand)]
pub enum ReceiptCommand {
    /// Verifies a receipt's proof, offline
    Verify(VerifyArgs),
}

/// `hansa receipt verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The proof, as a node gives it
    pub file: PathBuf,
    /// Whom you believe: one authority a line, `KEY { countries = ["DE"], operators = ["*"] }`
    #[arg(long, value_name = "FILE")]
    pub authorities: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(command: &ReceiptCommand) -> anyhow::Result<ExitCode> {
    let ReceiptCommand::Verify(args) = command;
    let trust = authorities::load(&args.authorities)?;
    let text = crate::audit::read_text(&args.file, PROOF_BYTES_MAX as u64)
        .with_context(|| args.file.display().to_string())?
        .ok_or_else(|| LogError::NotThere(args.file.clone()))?;
    let proven = text.parse::<ReceiptProof>().and_then(|proof| proof.verify(&trust));
    if args.json {
        out::json_line(&match &proven {
            Ok(proven) => json!({"ok": true, "proven": proven, "defects": []}),
            Err(fault) => json!({"ok": false, "proven": null, "defects": [fault.to_string()]}),
        });
    } else {
        out::line(&match &proven {
            Ok(proven) => summary(proven),
            Err(fault) => format!("{}: does not verify: {fault}", args.file.display()),
        });
    }
    Ok(if proven.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn summary(proven: &Proven) -> String {
    let Proven { receipt, charter, cosigned, index, size, .. } = proven;
    let by = charter.authorities.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let others =
        cosigned.iter().filter(|own| own.operator.as_ref().is_some_and(|o| *o != charter.operator));
    format!(
        "verified: entry {index} of {size} in the log of {peer}\n\
         {operator}, {location}, under the law of {control}, as {by} attested\n\
         cosigned by {all} peers, {others} of them known to be of other operators\n\n{text}",
        peer = charter.subject,
        operator = charter.operator,
        location = charter.location,
        control = charter.control,
        all = cosigned.len(),
        others = others.count(),
        text = describe(receipt),
    )
}

/// A receipt for people.
pub(super) fn describe(receipt: &Receipt) -> String {
    let mut rows = Vec::new();
    let mut row = |key: &str, value: String| rows.push(vec![key.to_owned(), value]);
    row("job", receipt.job.to_string());
    if let Some(parent) = receipt.parent {
        row("part of", parent.to_string());
    }
    let bundle = receipt.bundle.map_or("unknown here".to_owned(), |bundle| bundle.to_string());
    row("model", format!("{} ({bundle})", receipt.model));
    row("started", date(receipt.started));
    row("ended", date(receipt.ended));
    row("outcome", format!("{:?}, attempt {}", receipt.outcome, receipt.attempt).to_lowercase());
    for (at, party) in receipt.path.iter().enumerate() {
        let flag = if party.contradicted { ", contradicted by round trips" } else { "" };
        let who = format!("{} in {} ({}){flag}", party.operator, party.location, party.control);
        row(if at == 0 { "entry" } else { "then" }, who);
    }
    if let Some(work) = &receipt.work {
        row(
            "ran here",
            format!(
                "{} rows, {} µs on {} ({})",
                work.used.rows, work.used.device_us, work.provider, work.runtime
            ),
        );
    }
    for part in &receipt.parts {
        let who =
            |party: &Party| format!("{} in {} ({})", party.operator, party.location, party.control);
        let ran =
            part.executor.as_ref().map_or(String::new(), |ran| format!(", run by {}", who(ran)));
        row(
            "handed on",
            format!(
                "{} ({:?}) to {}{ran}: {:?}",
                share(part.share),
                part.why,
                who(&part.party),
                part.outcome,
            ),
        );
    }
    row("policy", receipt.policy.to_string());
    row("verdict", format!("{:?}", receipt.verdict).to_lowercase());
    for (rule, peers) in &receipt.rejected {
        row("kept out", format!("{peers} peers: {rule}"));
    }
    out::table(&["", ""], rows.into_iter()).trim_start().to_owned()
}
