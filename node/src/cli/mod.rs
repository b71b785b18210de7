//! The command line: its words, and which function each runs. Exit codes are those of sysexits:
//! 0 done, 64 a wrong command line, 69 something needed is not there, 78 a wrong config, 1 anything
//! else.

pub mod audit;
pub mod authority;
pub mod check;
pub mod cut;
mod entry;
pub mod infer;
pub mod init;
pub mod models;
pub mod npy;
pub mod onnxruntime;
pub mod out;
pub mod peers;
pub mod plan;
pub mod receipt;
pub mod revoke;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use hansa_runtime::library::LibraryError;

use crate::audit::authorities::AuthoritiesError;
use crate::audit::error::LogError;
use crate::client::ClientError;
use crate::config::{Config, ConfigErrors};
use crate::run::StartError;
use crate::telemetry;

/// The command line is wrong.
const USAGE: u8 = 64;
/// Something that is needed is not there.
const UNAVAILABLE: u8 = 69;
/// The config, or a file that it names, is wrong.
const CONFIG: u8 = 78;

/// Where commands look for a node.
const VIA: &str = "http://127.0.0.1:8000";

/// A peer-to-peer inference mesh that knows jurisdictions.
#[derive(Debug, Parser)]
#[command(name = "hansa", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows a mesh of five nodes on this machine
    Demo(DemoArgs),
    /// Makes an identity key and an annotated config
    Init(init::InitArgs),
    /// Runs a node until SIGTERM, then drains
    Run(RunArgs),
    /// Validates a config and the files that it names
    Check(check::CheckArgs),
    /// Submits a job to a node
    Infer(InferArgs),
    /// Shows the mesh as a node sees it
    Peers(PeersArgs),
    /// Shows what a node would do with a job, and why
    Plan(PlanArgs),
    /// Models: what a node holds, pull, add, remove; cut one into stages
    #[command(subcommand)]
    Models(models::ModelsCommand),
    /// The offline side of charters
    #[command(subcommand)]
    Authority(authority::AuthorityCommand),
    /// Verifies what a node says of a job, offline
    #[command(subcommand)]
    Receipt(receipt::ReceiptCommand),
    /// A node's log of receipts: verify, add up, export, offline
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// ONNX Runtime, the library that runs models
    #[command(subcommand)]
    Onnxruntime(onnxruntime::OnnxruntimeCommand),
}

/// `hansa demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Leave the mesh up until interrupted, without the scripted jobs
    #[arg(long)]
    pub keep: bool,
}

/// `hansa run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The node's config
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Stop when standard input ends: a parent that dies takes its node along
    #[arg(long, hide = true)]
    pub until_stdin_ends: bool,
}

/// `hansa infer`
#[derive(Debug, Args)]
pub struct InferArgs {
    /// The model: NAME, NAME:VERSION or NAME@sha256:…
    pub model: String,
    /// The node to ask
    #[arg(long, value_name = "URL", env = "HANSA_VIA", default_value = VIA)]
    pub via: String,
    /// Constraints
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// An input: NAME=@FILE.npy or NAME=JSON; once for each
    #[arg(long = "input", value_name = "NAME=VALUE")]
    pub inputs: Vec<String>,
    /// A text to embed, for models that have a tokenizer; once for each
    #[arg(long = "text", value_name = "TEXT", conflicts_with = "inputs")]
    pub texts: Vec<String>,
    /// Write each output to DIR as NAME.npy, embeddings as sentence_embedding.npy
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Whom to believe about peers: a file, one authority a line. Before any input is sent, the node
    /// that is asked must show a charter that the constraints permit
    #[arg(long, value_name = "FILE")]
    pub authorities: Option<PathBuf>,
    /// Show the plan instead of running the job
    #[arg(long)]
    pub explain: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Constraints on who may see a job's data. Lists have commas; `!` denies: `EU,!IE`.
#[derive(Debug, Default, Args)]
pub struct PolicyArgs {
    /// Where the job may run: countries, parts of them, groups
    #[arg(long = "in", value_name = "PLACES")]
    pub locations: Option<String>,
    /// Whose law may reach the operator
    #[arg(long, value_name = "PLACES")]
    pub control: Option<String>,
    /// Who may operate the peer
    #[arg(long, value_name = "NAMES")]
    pub operators: Option<String>,
    /// Classes of the data, each of which a peer's charter must name
    #[arg(long, value_name = "CLASSES")]
    pub data_class: Option<String>,
    /// Which authorities may have signed a peer's charter
    #[arg(long, value_name = "NAMES")]
    pub signed_by: Option<String>,
    /// How many of them must have
    #[arg(long, value_name = "N")]
    pub signatures_min: Option<u8>,
    /// Which bundles may run: sha256:…
    #[arg(long, value_name = "DIGESTS")]
    pub bundles: Option<String>,
    /// What it must run on: cpu, cuda
    #[arg(long, value_name = "PROVIDER")]
    pub device: Option<String>,
    /// Memory that the device must have
    #[arg(long, value_name = "MIB")]
    pub device_memory_mib: Option<u32>,
    /// Most hops after the node that is asked
    #[arg(long, value_name = "N")]
    pub hops_max: Option<u8>,
    /// Most stages, where it runs in stages
    #[arg(long, value_name = "N")]
    pub stages_max: Option<u8>,
    /// `none`: nothing is kept after the answer
    #[arg(long, value_name = "none")]
    pub retention: Option<String>,
    /// `fail-closed`: nothing runs where the audit log cannot be written
    #[arg(long, value_name = "fail-closed")]
    pub audit: Option<String>,
    /// What the data may be used for
    #[arg(long, value_name = "PURPOSE")]
    pub purpose: Option<String>,
    /// `required`: only peers whose round trips were measured and do not contradict their charter
    #[arg(long, value_name = "required")]
    pub rtt_evidence: Option<String>,
    /// `required`: only peers that leave a receipt
    #[arg(long, value_name = "required")]
    pub receipt: Option<String>,
    /// Answer within this time
    #[arg(long, value_name = "MS")]
    pub deadline_ms: Option<u64>,
    /// Most that the answer may cost: `0.02 EUR`
    #[arg(long, value_name = "AMOUNT")]
    pub max_price: Option<String>,
    /// How the job may be split: auto, never, rows, stages
    #[arg(long, value_name = "HOW")]
    pub split: Option<String>,
}

/// `hansa peers`
#[derive(Debug, Args)]
pub struct PeersArgs {
    /// The node to ask
    #[arg(long, value_name = "URL", env = "HANSA_VIA", default_value = VIA)]
    pub via: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `hansa plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The model: NAME, NAME:VERSION or NAME@sha256:…
    pub model: String,
    /// The node to ask
    #[arg(long, value_name = "URL", env = "HANSA_VIA", default_value = VIA)]
    pub via: String,
    /// Constraints
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Rows of the batch that the plan is for
    #[arg(long)]
    pub rows: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the command line `arguments`, the program's name first, and says how it went.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(said) => {
            // Help and version go to standard output and are no error. A closed pipe is none either.
            let _ = said.print();
            return if said.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    run(cli).unwrap_or_else(|error| {
        let text = match error.downcast_ref::<ConfigErrors>() {
            Some(errors) => errors.to_string(),
            None => format!("hansa: {error:#}"),
        };
        eprintln!("{text}");
        exit_code(&error)
    })
}

/// Runs one command.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Demo(args) => crate::demo::run(&args)?,
        Command::Init(args) => init::run(&args)?,
        Command::Run(args) => run_node(&args)?,
        Command::Check(args) => return check::run(&args),
        Command::Infer(args) => infer::run(&args)?,
        Command::Peers(args) => peers::run(&args)?,
        Command::Plan(args) => plan::run(&args)?,
        Command::Models(command) => models::run(&command)?,
        Command::Authority(command) => authority::run(&command)?,
        Command::Receipt(command) => return receipt::run(&command),
        Command::Audit(command) => return audit::run(&command),
        Command::Onnxruntime(command) => onnxruntime::run(&command)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn run_node(args: &RunArgs) -> anyhow::Result<()> {
    // Both planes' TLS would write its secrets there.
    if !cfg!(debug_assertions) && std::env::var_os("SSLKEYLOGFILE").is_some() {
        anyhow::bail!(
            "SSLKEYLOGFILE is set, which would leak the keys of every connection; unset it"
        );
    }
    let config = Config::load(&args.config)?;
    telemetry::log(&config.telemetry)?;
    for warning in config.check(crate::clock::Clock::start().now().utc)?.warnings {
        tracing::warn!("{}", warning.at(config.file()));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ran = runtime.block_on(crate::run::run(config, telemetry::count()?, args.until_stdin_ends));
    // A read of standard input may still be under way, and would be waited for.
    runtime.shutdown_background();
    Ok(ran?)
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let mut codes = error.chain().filter_map(|cause| {
        if cause.is::<ConfigErrors>() || cause.is::<AuthoritiesError>() {
            Some(CONFIG)
        } else if let Some(start) = cause.downcast_ref::<StartError>() {
            Some(start_code(start))
        } else if matches!(cause.downcast_ref(), Some(ClientError::Unreachable { .. }))
            || cause.is::<LibraryError>()
            || matches!(cause.downcast_ref(), Some(LogError::NotThere(_)))
        {
            Some(UNAVAILABLE)
        } else {
            None
        }
    });
    ExitCode::from(codes.next().unwrap_or(1))
}

fn start_code(error: &StartError) -> u8 {
    match error {
        StartError::Control(_)
        | StartError::Data(_)
        | StartError::Listen { .. }
        | StartError::Library(_)
        | StartError::Device(_) => UNAVAILABLE,
        StartError::Tls(_)
        | StartError::Audit(_)
        | StartError::Key(_)
        | StartError::Model { .. }
        | StartError::Repository(_)
        | StartError::File { .. } => CONFIG,
        StartError::Actor(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_lost_node_and_a_wrong_config_have_codes_of_their_own() {
        let lost = ClientError::Unreachable { url: "x".into(), reason: "y".into() };
        assert_eq!(exit_code(&anyhow::Error::new(lost).context("z")), ExitCode::from(UNAVAILABLE));
        let wrong = Config::parse("nodes = 1", "x.toml".as_ref()).unwrap_err();
        assert_eq!(exit_code(&wrong.into()), ExitCode::from(CONFIG));
        assert_eq!(exit_code(&anyhow::anyhow!("else")), ExitCode::from(1));
    }
}
