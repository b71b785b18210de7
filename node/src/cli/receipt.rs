//! `hansa receipt`: verifies a receipt's proof. It needs the file, a file of authorities, and
//! nothing else: no node, no network, no clock.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use hansa_core::limits::PROOF_BYTES_MAX;
use hansa_core::log::proof::{Proven, ReceiptProof};
use hansa_core::receipt::{Party, Receipt, Salt, Side, Used, commit, date};
use hansa_runtime::tensor::Tensor;
use serde_json::json;

use super::{npy, out};
use crate::audit::authorities;
use crate::audit::error::LogError;
use crate::audit::totals::share;
use crate::jobs::digest_of;

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
    /// What opens its commitments, as its node tells it: 64 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = salt)]
    pub salt: Option<Salt>,
    /// An input that is to be the one that was committed to: NAME=@FILE.npy; once for each
    #[arg(long = "input", value_name = "NAME=@FILE", requires = "salt")]
    pub inputs: Vec<String>,
    /// An output, likewise
    #[arg(long = "output", value_name = "NAME=@FILE", requires = "salt")]
    pub outputs: Vec<String>,
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
    let sides = [(Side::Input, tensors(&args.inputs)?), (Side::Output, tensors(&args.outputs)?)];
    let proven = text.parse::<ReceiptProof>().and_then(|proof| proof.verify(&trust));
    let proven = proven.map_err(|fault| fault.to_string()).and_then(|proven| {
        let opened = args.salt.map_or(Ok(()), |salt| opens(&proven.receipt, &salt, &sides));
        opened.map(|()| proven)
    });
    if args.json {
        out::json_line(&match &proven {
            Ok(proven) => json!({"ok": true, "proven": proven, "defects": []}),
            Err(fault) => json!({"ok": false, "proven": null, "defects": [fault]}),
        });
    } else {
        out::line(&match &proven {
            Ok(proven) => summary(proven),
            Err(fault) => format!("{}: does not verify: {fault}", args.file.display()),
        });
    }
    Ok(if proven.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn salt(text: &str) -> Result<Salt, &'static str> {
    Salt::from_hex(text).ok_or("expected 64 hexadecimal digits")
}

fn tensors(given: &[String]) -> anyhow::Result<Vec<Tensor>> {
    let read = |text: &String| {
        let (name, file) = text.split_once("=@").context("expected NAME=@FILE.npy")?;
        let bytes = std::fs::read(file).with_context(|| file.to_owned())?;
        npy::read(name, &bytes).map_err(|reason| anyhow::anyhow!("{file}: {reason}"))
    };
    given.iter().map(read).collect()
}

/// Holds payloads against the commitments to them; a side of which nothing is given is passed over.
fn opens(receipt: &Receipt, salt: &Salt, sides: &[(Side, Vec<Tensor>)]) -> Result<(), String> {
    for (side, tensors) in sides.iter().filter(|(_, tensors)| !tensors.is_empty()) {
        let (name, committed) = match side {
            Side::Input => ("input", receipt.input),
            Side::Output => ("output", receipt.output),
        };
        let given = commit(salt, *side, &digest_of(tensors));
        match committed {
            None => return Err(format!("the receipt commits to no {name}")),
            Some(committed) if committed != given => {
                return Err(format!(
                    "this is not the {name} that was committed to, or the salt is another's"
                ));
            }
            Some(_) => {}
        }
    }
    Ok(())
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
    let who = |party: &Party| {
        let lei = receipt.lei(party).map_or(String::new(), |lei| format!(", LEI {lei},"));
        let flag = if party.contradicted { ", contradicted by round trips" } else { "" };
        format!("{}{lei} in {} ({}){flag}", party.operator, party.location, party.control)
    };
    for (at, party) in receipt.path.iter().enumerate() {
        row(if at == 0 { "entry" } else { "then" }, who(party));
    }
    if let Some(work) = &receipt.work {
        let on = format!("{} ({})", work.provider, work.runtime);
        row("ran here", format!("{} on {on}", took(&work.used)));
    }
    for part in &receipt.parts {
        let ran =
            part.executor.as_ref().map_or(String::new(), |ran| format!(", run by {}", who(ran)));
        let (share, why, to) = (share(part.share), part.why, who(&part.party));
        let came = format!("{:?}, {}", part.outcome, took(&part.used));
        row("handed on", format!("{share} ({why:?}) to {to}{ran}: {came}"));
    }
    row("bytes", format!("{} in, {} out", receipt.bytes_in, receipt.bytes_out));
    let commitments = [("input", receipt.input), ("output", receipt.output)];
    for (side, committed) in commitments {
        row(side, committed.map_or("not committed to".into(), |digest| digest.to_string()));
    }
    row("policy", receipt.policy.to_string());
    if let Some(groups) = receipt.groups {
        row("groups", groups.to_string());
    }
    row("verdict", format!("{:?}", receipt.verdict).to_lowercase());
    for (rule, peers) in &receipt.rejected {
        row("kept out", format!("{peers} peers: {rule}"));
    }
    out::table(&["", ""], rows.into_iter()).trim_start().to_owned()
}

/// What running took.
fn took(used: &Used) -> String {
    let price = used.price.map_or(String::new(), |price| format!(", {price}"));
    format!("{} rows, {} µs{price}", used.rows, used.device_us)
}
