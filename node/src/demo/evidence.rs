//! The demo as an auditor: every receipt that a job left is fetched, verified from files alone
//! against the authorities, and held against what the answer said. The files stay when the demo is
//! over, in the user's cache: `demo/PID`, those of earlier days swept.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use hansa_core::charter::{Authority, Trust};
use hansa_core::log::proof::{Proven, ReceiptProof};
use hansa_core::receipt::Outcome;
use hansa_runtime::cache;
use serde::Serialize;

use super::JobLine;
use super::mesh::Mesh;
use crate::audit::authorities;
use crate::client::Client;

/// Evidence of earlier demos is kept for a day.
const KEEP: Duration = Duration::from_secs(24 * 3_600);

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Receipts {
    /// Receipts that answers named.
    pub given: usize,
    /// How many of them verify and say what the answer said.
    pub verified: usize,
    /// Receipts of other peers, of parts that were handed on to them, that verify and are those
    /// that the entry's receipt names.
    pub of_executors: usize,
    /// What is wrong with the others.
    pub defects: Vec<String>,
}

/// Where evidence goes, and who is believed.
pub struct Auditor {
    folder: PathBuf,
    trust: Trust,
}

impl Auditor {
    /// Writes down whom the demo's mesh believes.
    pub fn begin(believed: Vec<Authority>) -> anyhow::Result<Self> {
        let demos = cache::dir().unwrap_or_else(std::env::temp_dir).join("demo");
        sweep(&demos);
        let folder = demos.join(std::process::id().to_string());
        let _ = fs::remove_dir_all(&folder);
        let auditor = Self { folder, trust: Trust::new(believed.clone()) };
        let receipts = auditor.folder.join("receipts");
        fs::create_dir_all(&receipts).with_context(|| receipts.display().to_string())?;
        fs::write(auditor.authorities_file(), authorities::text(&believed))?;
        Ok(auditor)
    }

    /// Who is believed, as `hansa receipt verify` reads it.
    pub fn authorities_file(&self) -> PathBuf {
        self.folder.join("authorities")
    }

    /// Fetches and verifies the receipts of `jobs`, and of those who ran parts of them.
    pub fn verify(&self, mesh: &Mesh, jobs: &mut [JobLine], found: &mut Receipts) {
        for job in jobs {
            let Some(id) = job.receipt.clone() else { continue };
            found.given += 1;
            let file = self.folder.join("receipts").join(&id);
            match self.one(mesh, job, &id, &file) {
                Ok(executors) => {
                    job.receipt_file = Some(file);
                    found.verified += 1;
                    found.of_executors += executors;
                }
                Err(error) => found.defects.push(format!("{id} via {}: {error:#}", job.via)),
            }
        }
    }

    /// Verifies one job's receipt; gives how many of other peers.
    fn one(&self, mesh: &Mesh, job: &JobLine, id: &str, file: &Path) -> anyhow::Result<usize> {
        let proven = self.fetch(&mesh.client(&job.via), id, file)?;
        let receipt = &proven.receipt;
        ensure!(receipt.job.to_string() == id, "it is of the job {}", receipt.job);
        let is_answered = receipt.outcome == Outcome::Answered;
        ensure!(is_answered == (job.outcome == "ok"), "it says {:?}", receipt.outcome);
        let name = |peer: String| mesh.nodes.iter().find(|node| node.peer_id == peer);
        let ran: BTreeSet<&str> = receipt
            .ran()
            .filter_map(|(party, _)| Some(name(party.peer.to_string())?.role.name))
            .collect();
        let said = job.executed_by.as_deref().unwrap_or_default();
        let said: BTreeSet<&str> = said.split(", ").filter(|name| !name.is_empty()).collect();
        ensure!(ran == said, "it says that {ran:?} ran it, the answer that {said:?} did");
        let mut executors = 0;
        for part in &receipt.parts {
            let Some(named) = part.receipt else { continue };
            let node = name(part.party.peer.to_string()).context("a peer of no name")?;
            if !node.is_up {
                continue; // It was killed: its log can be read, but nobody answers.
            }
            let file = file.with_file_name(format!("{}.{}", part.job, node.role.name));
            let fetched = self.fetch(&Client::new(&node.http), &part.job.to_string(), &file);
            let Proven { leaf, .. } = fetched.with_context(|| format!("of {}", node.role.name))?;
            ensure!(leaf == named, "{} keeps another receipt than it said", node.role.name);
            executors += 1;
        }
        Ok(executors)
    }

    /// Fetches a proof, keeps it in `file` and verifies it as it is read from there.
    fn fetch(&self, client: &Client, id: &str, file: &Path) -> anyhow::Result<Proven> {
        fs::write(file, client.text(&format!("/mesh/v1/receipts/{id}"))?)?;
        let proof: ReceiptProof = fs::read_to_string(file)?.parse()?;
        Ok(proof.verify(&self.trust)?)
    }
}

/// Removes what earlier demos left; whoever still looks at it has had a day.
fn sweep(demos: &Path) {
    for entry in fs::read_dir(demos).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|meta| meta.modified()).map(|at| at.elapsed());
        if age.is_ok_and(|age| age.is_ok_and(|age| age > KEEP)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
