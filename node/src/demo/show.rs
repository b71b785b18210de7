//! The demo's voice: what a person reads while it runs, or the one line of JSON at its end.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use hansa_runtime::library::{Library, LibraryError, install};
use hansa_runtime::wheel::Progress;
use serde_json::Value;

use super::evidence::Receipts;
use super::mesh::Mesh;
use super::picture::READER;
use super::{JobLine, Killed, Report};
use crate::cli::out;

/// What the demo runs, in the user's cache.
pub struct Assets {
    library: PathBuf,
    magika: PathBuf,
    silero_vad: PathBuf,
    reader: PathBuf,
}

impl Assets {
    /// Names and folders of the models.
    pub fn models(&self) -> [(&'static str, &Path); 2] {
        [("magika", &self.magika), ("silero-vad", &self.silero_vad)]
    }

    /// The text recognizer, which no node holds whole.
    pub fn reader(&self) -> PathBuf {
        self.reader.join("model.onnx")
    }

    /// magika's own configuration.
    pub fn magika_config(&self) -> std::io::Result<Vec<u8>> {
        std::fs::read(self.magika.join("config.min.json"))
    }

    /// Files to be asked about.
    pub fn files(&self) -> std::io::Result<Vec<(&'static str, Vec<u8>)>> {
        let library = head_and_tail(&self.library)?;
        let model = head_and_tail(&self.silero_vad.join("model.onnx"))?;
        Ok(vec![
            ("config.min.json", self.magika_config()?),
            ("libonnxruntime", library),
            ("silero-vad", model),
        ])
    }
}

/// Speaks to a person, or keeps silent for a program until the report.
pub struct Voice {
    json: bool,
    color: bool,
}

impl Voice {
    /// A voice; with `json`, only the report is printed.
    pub fn new(json: bool) -> Self {
        Self { json, color: std::io::stdout().is_terminal() }
    }

    fn line(&self, text: &str) {
        if !self.json {
            out::line(text);
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// What this is.
    pub fn title(&self) {
        self.line(&self.paint("1", "Hansa: five nodes, five jurisdictions, no coordinator"));
    }

    /// A part of the story begins.
    pub fn chapter(&self, title: &str) {
        self.line(&format!("\n{}", self.paint("1", title)));
    }

    /// Fetches ONNX Runtime and the models unless they are cached.
    pub fn fetch(&self) -> anyhow::Result<Assets> {
        let library = match Library::find("auto") {
            Err(LibraryError::NotInstalled) => install(false, Progress::Stderr)?,
            other => other?,
        };
        let magika = hansa_runtime::models::magika(Progress::Stderr)?;
        let silero_vad = hansa_runtime::models::silero_vad(Progress::Stderr)?;
        let reader = hansa_runtime::models::reader(Progress::Stderr)?;
        Ok(Assets { library: library.path, magika, silero_vad, reader })
    }

    /// The mesh.
    pub fn nodes(&self, mesh: &Mesh) {
        let rows = mesh.nodes.iter().map(|node| {
            let models: Vec<&str> = ["magika", "silero-vad"]
                .into_iter()
                .filter(|model| node.role.holds(model))
                .collect();
            let stage = node.role.stage.map(|number| format!("{READER} stage {number}"));
            let models: Vec<String> = models.into_iter().map(str::to_owned).chain(stage).collect();
            let models = if models.is_empty() { "–".to_owned() } else { models.join(", ") };
            let place = [node.role.location, node.role.control];
            vec![
                node.role.name.to_owned(),
                place[0].to_owned(),
                place[1].to_owned(),
                models,
                node.http.clone(),
            ]
        });
        let table = out::table(&["node", "location", "control", "models", "http"], rows);
        self.line(&format!("\n{table}"));
        self.line("Every node sees every other. Jobs go to all of them:");
    }

    /// One job.
    pub fn job(&self, job: &JobLine, what: &str) {
        let ran = match (&job.executed_by, &job.location) {
            (Some(by), Some(location)) => format!("{by} ({location})"),
            _ => self.paint("33", job.outcome),
        };
        self.line(&format!(
            "  {:<13} {:<10} {:<18} {:<18} → {:<15} {:>7.1} ms  {}",
            format!("via {}", job.via),
            job.model,
            what,
            job.policy,
            ran,
            job.latency_ms,
            job.top
        ));
    }

    /// Who was gated out and why, and how the others rank.
    pub fn plan(&self, plan: &Value) {
        if !self.json {
            out::line(&crate::cli::plan::table(plan));
        }
    }

    /// The crash.
    pub fn killed(&self, killed: &Killed, lines: &[JobLine]) {
        let mut by = std::collections::BTreeMap::<&str, usize>::new();
        for line in lines {
            *by.entry(line.executed_by.as_deref().unwrap_or(line.outcome)).or_default() += 1;
        }
        let shares: Vec<String> = by.iter().map(|(who, jobs)| format!("{who} {jobs}")).collect();
        self.line(&format!(
            "  {} was killed with {} jobs in flight: {} answered. Who ran the {}: {}",
            killed.node,
            killed.in_flight,
            killed.answered,
            lines.len(),
            shares.join(", ")
        ));
        for line in lines.iter().filter(|line| line.outcome != "ok") {
            self.line(&format!("  via {}: {}: {}", line.via, line.outcome, line.top));
        }
    }

    /// What the receipts say.
    pub fn receipts(&self, found: &Receipts, authorities: &Path) {
        self.line(&format!(
            "  {} of {} receipts verified, and {} of peers that took a part",
            found.verified, found.given, found.of_executors
        ));
        for defect in &found.defects {
            self.line(&format!("  {}", self.paint("31", defect)));
        }
        let folder = authorities.with_file_name("receipts");
        self.line(&format!(
            "  Verify one yourself: hansa receipt verify {}/ID --authorities {}",
            folder.display(),
            authorities.display()
        ));
    }

    /// The end.
    pub fn totals(&self, report: &Report) {
        let count = |outcome| report.jobs.iter().filter(|job| job.outcome == outcome).count();
        let violations = format!("{} policy violations", report.violations);
        self.line(&format!(
            "\n{} jobs: {} answered, {} refused by policy, {} failed; {}",
            report.jobs.len(),
            count("ok"),
            count("refused"),
            count("error"),
            self.paint(if report.violations == 0 { "32" } else { "31" }, &violations),
        ));
        self.line("Try it yourself: `hansa demo --keep`, then `hansa peers --via URL`.");
    }

    /// The one line for programs.
    pub fn report(&self, report: &Report) {
        if self.json {
            out::json_line(report);
        }
    }

    /// The mesh stays.
    pub fn kept(&self, mesh: &Mesh) {
        let url = &mesh.nodes[0].http;
        self.line(&format!(
            "\nThe mesh stays up until you press Ctrl-C. In another terminal:\n  \
             hansa peers --via {url}\n  hansa plan magika --in EU --via {url}"
        ));
    }
}

/// The parts of a big file that magika looks at.
fn head_and_tail(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let mut bytes = vec![0; 8192];
    file.read_exact(&mut bytes[..4096])?;
    file.seek(SeekFrom::End(-4096))?;
    file.read_exact(&mut bytes[4096..])?;
    Ok(bytes)
}
