//! `hansa demo`: a mesh of five nodes in five jurisdictions on this machine, with real processes,
//! real gossip, real models and charters, and the story that it tells.
//!
//! [`mesh`] starts and stops the nodes, [`story`] submits the jobs and kills a node, [`show`]
//! prints what came of it. [`tasks`] and [`picture`] are what the models are asked.

pub mod evidence;
pub mod mesh;
pub mod picture;
pub mod show;
pub mod story;
pub mod tasks;

use std::path::PathBuf;

use serde::Serialize;

use self::evidence::{Auditor, Receipts};

use crate::cli::DemoArgs;

/// A node of the demo, as its JSON names it.
#[derive(Clone, Debug, Serialize)]
pub struct NodeLine {
    /// Its name.
    pub name: String,
    /// Its id.
    pub peer_id: String,
    /// Where its charter says it stands.
    pub location: String,
    /// Whose law reaches its operator.
    pub control: String,
    /// Address of its API.
    pub http: String,
}

/// A job of the demo, as its JSON names it.
#[derive(Clone, Debug, Serialize)]
pub struct JobLine {
    /// Model.
    pub model: String,
    /// The entry: name of the node that it was submitted to.
    pub via: String,
    /// The constraints, as headers say them.
    pub policy: String,
    /// `ok`, `refused` or `error`.
    pub outcome: &'static str,
    /// Name of the node that ran it; of several, with commas, where each ran a part.
    pub executed_by: Option<String>,
    /// Where that node stands, or those.
    pub location: Option<String>,
    /// From submission to answer.
    pub latency_ms: f64,
    /// What the model said, or the error.
    pub top: String,
    /// The id by which its receipt is asked for.
    pub receipt: Option<String>,
    /// Where its receipt lies, if it verifies.
    pub receipt_file: Option<PathBuf>,
}

/// The node that was killed.
#[derive(Clone, Debug, Serialize)]
pub struct Killed {
    /// Its name.
    pub node: String,
    /// Jobs submitted and not answered when it was killed.
    pub in_flight: usize,
    /// How many of those were answered.
    pub answered: usize,
}

/// All that the demo reports.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The mesh.
    pub nodes: Vec<NodeLine>,
    /// The scripted jobs.
    pub jobs: Vec<JobLine>,
    /// The killed node.
    pub killed: Option<Killed>,
    /// Jobs that ran where their policy forbids it; recomputed from the charters, not taken from
    /// the nodes' word.
    pub violations: usize,
    /// Receipts that were verified.
    pub receipts: Receipts,
    /// Whom the receipts are verified against, for `hansa receipt verify --authorities`.
    pub authorities_file: PathBuf,
}

/// Runs the demo.
pub fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let say = show::Voice::new(args.json);
    say.title();
    let mesh = mesh::Mesh::start(&say)?;
    say.nodes(&mesh);
    let auditor = Auditor::begin(mesh.believed()?)?;
    let mut report = Report {
        nodes: mesh.lines(),
        jobs: Vec::new(),
        killed: None,
        violations: 0,
        receipts: Receipts::default(),
        authorities_file: auditor.authorities_file(),
    };
    if args.keep {
        say.report(&report);
        say.kept(&mesh);
        mesh.wait_until_interrupted();
    } else {
        story::tell(mesh, &auditor, &say, &mut report)?;
        say.totals(&report);
        say.report(&report);
        let unanswered =
            report.killed.as_ref().map_or(0, |killed| killed.in_flight - killed.answered);
        anyhow::ensure!(
            report.violations == 0 && unanswered == 0 && report.receipts.defects.is_empty(),
            "{} jobs broke their policy, {unanswered} were not answered, {} receipts are defective: {}",
            report.violations,
            report.receipts.defects.len(),
            report.receipts.defects.join("; ")
        );
    }
    Ok(())
}
