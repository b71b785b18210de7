//! `hansa audit`: a log's folder, or a copy of it, in an auditor's hands. It needs no node and no
//! network, and changes nothing.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use hansa_core::place::Place;
use hansa_core::receipt::{Outcome, Receipt};
use hansa_core::time::Utc;
use serde_json::json;

use super::out;
use crate::audit::authorities;
use crate::audit::error::LogError;
use crate::audit::export::Register;
use crate::audit::reader::Reader;
use crate::audit::totals::{Filter, Sum, Totals, moment};
use crate::audit::verify::{Report, verify};

/// A log that is written while it is read may change its newest files in between.
const TRIES: usize = 5;

/// `hansa audit …`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Verifies every receipt of a log
    Verify(VerifyArgs),
    /// Adds up what ran where, under whose control
    Show(ShowArgs),
    /// Writes receipts for other programs
    Export(ExportArgs),
    /// Writes the proof of one receipt
    Proof(ProofArgs),
}

/// `hansa audit verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The log's folder
    pub dir: PathBuf,
    /// Whom you believe: one authority a line, `KEY { countries = ["DE"], operators = ["*"] }`
    #[arg(long, value_name = "FILE")]
    pub authorities: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Which receipts are meant.
#[derive(Debug, Default, Args)]
pub struct FilterArgs {
    /// Jobs that started then or later: 2026-01-31 or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Option<Utc>,
    /// Jobs that started before
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<Utc>,
    /// The model: NAME, NAME:VERSION or its digest
    #[arg(long)]
    pub model: Option<String>,
    /// Where it ran
    #[arg(long, value_name = "PLACE")]
    pub country: Option<Place>,
    /// Whose law reaches who ran it
    #[arg(long, value_name = "PLACE")]
    pub control: Option<Place>,
    /// Who ran it
    #[arg(long, value_name = "NAME")]
    pub operator: Option<String>,
    /// What came of it
    #[arg(long)]
    pub outcome: Option<OutcomeArg>,
}

/// What came of a job.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[allow(missing_docs, reason = "the words of `Outcome`")]
pub enum OutcomeArg {
    Answered,
    Refused,
    Failed,
    Late,
    Cancelled,
}

/// `hansa audit show`
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The log's folder
    pub dir: PathBuf,
    /// Which receipts
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `hansa audit export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The log's folder
    pub dir: PathBuf,
    /// `jsonl`: one receipt a line. `csv`: for a register of information (DORA)
    #[arg(long)]
    pub format: Format,
    /// Which receipts
    #[command(flatten)]
    pub filter: FilterArgs,
}

/// How receipts are written.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[allow(missing_docs, reason = "names of formats")]
pub enum Format {
    Csv,
    Jsonl,
}

/// `hansa audit proof`
#[derive(Debug, Args)]
pub struct ProofArgs {
    /// The log's folder
    pub dir: PathBuf,
    /// The job, as its answer named it
    pub job: String,
    /// Where the proof goes; standard output by default
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(command: &AuditCommand) -> anyhow::Result<ExitCode> {
    match command {
        AuditCommand::Verify(args) => return run_verify(args),
        AuditCommand::Show(args) => show(args)?,
        AuditCommand::Export(args) => export(args)?,
        AuditCommand::Proof(args) => proof(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn run_verify(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let trust = args.authorities.as_deref().map(authorities::load).transpose()?;
    if !args.dir.is_dir() {
        return Err(LogError::NotThere(args.dir.clone()).into());
    }
    let reader = Reader::new(&args.dir);
    let checkpoint = || reader.checkpoint().ok().flatten();
    let mut before = checkpoint();
    let mut report = verify(&reader, trust.as_ref());
    for _ in 1..TRIES {
        let now = checkpoint();
        if report.ok || now == before {
            break;
        }
        before = now;
        report = verify(&reader, trust.as_ref());
    }
    if args.json {
        out::json_line(&report);
    } else {
        out::line(&summary(args, &report));
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn summary(args: &VerifyArgs, report: &Report) -> String {
    let keeper = report.keeper.map_or("somebody".to_owned(), |keeper| keeper.to_string());
    let attested = match (&args.authorities, report.authorities.as_slice()) {
        (None, _) => "charters are as they were, and not verified: give --authorities FILE".into(),
        (Some(_), []) => "no charter was attested".into(),
        (Some(_), names) => format!("charters attested by {}", names.join(", ")),
    };
    let mut lines = vec![
        format!("{}: the log of {keeper}", args.dir.display()),
        format!(
            "{} entries under the checkpoint, {} receipts read, {} deleted by their keeper, {} kept since",
            report.size, report.receipts, report.deleted, report.unsigned
        ),
        format!("{} charters; {attested}", report.charters),
        format!("cosigned by {} peers at {} entries", report.cosigned.len(), report.cosigned_size),
    ];
    if let (Some(from), Some(until)) = (&report.from, &report.until) {
        lines.push(format!("from {from} until {until}"));
    }
    match report.defects.as_slice() {
        [] => lines.push("verified: no defect".into()),
        defects => lines.extend(defects.iter().map(|defect| format!("defect: {defect}"))),
    }
    lines.join("\n")
}

fn show(args: &ShowArgs) -> anyhow::Result<()> {
    let filter = args.filter.read();
    let mut totals = Totals::default();
    receipts(&args.dir, |_, receipt| totals.count(&filter, &receipt))?;
    if args.json {
        out::json_line(&totals);
        return Ok(());
    }
    let outcomes = totals.outcomes.iter();
    let outcomes = outcomes.map(|(outcome, count)| format!("{count} {outcome:?}").to_lowercase());
    let outcomes: Vec<_> = outcomes.collect();
    out::line(&format!("{} jobs: {}\n", totals.jobs, outcomes.join(", ")));
    let kinds = [
        ("country", &totals.countries),
        ("control", &totals.control),
        ("operator", &totals.operators),
        ("model", &totals.models),
    ];
    let rows = kinds
        .into_iter()
        .flat_map(|(kind, sums)| sums.iter().map(move |(name, sum)| row(kind, name, sum)));
    let rows = rows.chain([row("all", "", &totals.all)]);
    out::line(&out::table(&["by", "", "jobs", "rows", "device s", "price"], rows));
    Ok(())
}

fn row(kind: &str, name: &str, sum: &Sum) -> Vec<String> {
    #[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
    let seconds = sum.device_us as f64 / 1e6;
    let (jobs, rows) = (sum.jobs.to_string(), sum.rows.to_string());
    vec![kind.to_owned(), name.to_owned(), jobs, rows, format!("{seconds:.3}"), sum.price()]
}

fn export(args: &ExportArgs) -> anyhow::Result<()> {
    let filter = args.filter.read();
    match args.format {
        Format::Csv => {
            let mut register = Register::default();
            receipts(&args.dir, |_, receipt| register.count(&filter, &receipt))?;
            out::line(&register.csv());
        }
        Format::Jsonl => receipts(&args.dir, |index, receipt| {
            if filter.ran(&receipt).is_some() {
                out::json_line(&json!({"index": index, "receipt": receipt}));
            }
        })?,
    }
    Ok(())
}

fn proof(args: &ProofArgs) -> anyhow::Result<()> {
    let reader = Reader::new(&args.dir);
    let mut found = None;
    receipts(&args.dir, |index, receipt| {
        if receipt.job.to_string() == args.job {
            found = Some(index);
        }
    })?;
    let Some(index) = found else {
        bail!("{} has no receipt of job `{}` (32 hexadecimal digits)", args.dir.display(), args.job)
    };
    let proof = reader.proof(index)?.to_string();
    match &args.out {
        Some(path) => std::fs::write(path, proof).with_context(|| path.display().to_string()),
        None => {
            out::line(&proof);
            Ok(())
        }
    }
}

fn receipts(dir: &std::path::Path, mut each: impl FnMut(u64, Receipt)) -> anyhow::Result<()> {
    Reader::new(dir).receipts(|index, receipt| {
        each(index, receipt);
        true
    })?;
    Ok(())
}

impl FilterArgs {
    fn read(&self) -> Filter {
        Filter {
            since: self.since,
            until: self.until,
            model: self.model.clone(),
            country: self.country.clone(),
            control: self.control.clone(),
            operator: self.operator.clone(),
            outcome: self.outcome.map(|outcome| match outcome {
                OutcomeArg::Answered => Outcome::Answered,
                OutcomeArg::Refused => Outcome::Refused,
                OutcomeArg::Failed => Outcome::Failed,
                OutcomeArg::Late => Outcome::Late,
                OutcomeArg::Cancelled => Outcome::Cancelled,
            }),
        }
    }
}
