//! The demo's story: jobs through every node under several policies, a refusal, a crash.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use hansa_runtime::models::property;
use hansa_runtime::tensor::Tensor;

use super::evidence::Auditor;
use super::mesh::{CAST, Mesh};
use super::picture::{Letters, picture};
use super::show::Voice;
use super::tasks::{Labels, Sample, file_samples, magika_input, sound_sample, speech};
use super::{JobLine, Killed, Report};
use crate::client::{Client, ClientError};

/// A policy of the story: what the app's headers say, and the same law once more, written
/// independently of the gate, to check the nodes' word.
struct Law {
    words: &'static str,
    headers: &'static [(&'static str, &'static str)],
    permits: fn(location: &str, control: &str) -> bool,
}

const EU: [&str; 3] = ["DE", "FR", "IE"];

const ANYWHERE: Law = Law { words: "any admitted peer", headers: &[], permits: |_, _| true };
const IN_EU: Law = Law {
    words: "in EU",
    headers: &[("Hansa-Locations", "EU")],
    permits: |location, _| EU.contains(&location),
};
const EU_CONTROL: Law = Law {
    words: "in EU, control EU",
    headers: &[("Hansa-Locations", "EU"), ("Hansa-Control", "EU")],
    permits: |location, control| EU.contains(&location) && EU.contains(&control),
};
const IN_DE: Law = Law {
    words: "in DE",
    headers: &[("Hansa-Locations", "DE")],
    permits: |location, _| location == "DE",
};
const IN_US: Law = Law {
    words: "in US",
    headers: &[("Hansa-Locations", "US")],
    permits: |location, _| location == "US",
};
const IN_CH: Law = Law {
    words: "in CH",
    headers: &[("Hansa-Locations", "CH")],
    permits: |location, _| location == "CH",
};

const IN_EU_BY_ROWS: Law = Law {
    words: "in EU, by rows",
    headers: &[("Hansa-Locations", "EU"), ("Hansa-Split", "rows")],
    permits: IN_EU.permits,
};
const IN_EU_WHOLE: Law = Law {
    words: "in EU, unsplit",
    headers: &[("Hansa-Locations", "EU"), ("Hansa-Split", "never")],
    permits: IN_EU.permits,
};

/// Files in the batch that is spread.
const BATCH_ROWS: usize = 24;

/// What the picture says.
const WORDS: &str = "OPEN PORTS";

/// The node that crashes, and how many jobs are in the air when it does.
const VICTIM: &str = "berlin";
const CRASH_JOBS: usize = 60;
const CRASH_ROWS: usize = 6;

/// Tells the whole story and stops the mesh.
pub fn tell(
    mut mesh: Mesh,
    auditor: &Auditor,
    say: &Voice,
    report: &mut Report,
) -> anyhow::Result<()> {
    let labels = Labels::read(&mesh.assets.magika_config()?)?;
    let files = file_samples(&mesh.assets.files()?);
    let sounds = [sound_sample(true), sound_sample(false)];
    let name = |sample: &Sample, outputs: &[Tensor]| match sample.model {
        "magika" => labels.top(outputs),
        _ => speech(outputs),
    };

    say.chapter("Every node answers, under every policy");
    let laws = [&ANYWHERE, &IN_EU, &EU_CONTROL, &IN_DE];
    for (turn, role) in CAST.iter().enumerate() {
        for (step, law) in laws.iter().enumerate() {
            let sample = &files[(turn * laws.len() + step) % files.len()];
            let line = submit(&mesh, role.name, sample, law, &name);
            say.job(&line, &sample.what);
            report.jobs.push(line);
        }
        let sample = &sounds[turn % sounds.len()];
        let law = if turn % 2 == 0 { &ANYWHERE } else { &IN_US };
        let line = submit(&mesh, role.name, sample, law, &name);
        say.job(&line, &sample.what);
        report.jobs.push(line);
        if mesh.is_interrupted() {
            anyhow::bail!("interrupted");
        }
    }

    say.chapter("Why so: the plan for magika in the EU under EU control, as singapore sees it");
    say.plan(&mesh.client("singapore").get("/mesh/v1/plan?model=magika&locations=EU&control=EU")?);

    say.chapter(
        "A model that fits no node whole: three have a third each, and read a picture together",
    );
    let letters = property(&std::fs::read(mesh.assets.reader())?, "character");
    let letters = Letters::read(&letters.context("the reader lists its letters")?);
    let sample = picture(WORDS);
    for (via, law) in [("berlin", &ANYWHERE), ("singapore", &ANYWHERE), ("paris", &IN_EU)] {
        let read = |_: &Sample, outputs: &[Tensor]| letters.text(outputs);
        let line = submit(&mesh, via, &sample, law, &read);
        say.job(&line, &sample.what);
        report.jobs.push(line);
    }

    say.chapter("A batch of files, on one node and spread over all that the policy permits");
    for law in [&IN_EU_WHOLE, &IN_EU_BY_ROWS] {
        let inputs = vec![magika_input(&mesh.assets.magika_config()?, BATCH_ROWS)];
        let what = format!("{BATCH_ROWS} files");
        let batch = Sample { what, model: "magika", inputs };
        let line = submit(&mesh, "singapore", &batch, law, &name);
        say.job(&line, &batch.what);
        report.jobs.push(line);
    }

    say.chapter("No permitted peer can run it: refused, never degraded");
    for (via, law) in [("paris", &IN_CH), ("virginia", &IN_US)] {
        let line = submit(&mesh, via, &files[0], law, &name);
        say.job(&line, &files[0].what);
        report.jobs.push(line);
    }

    // While all are there to be asked.
    auditor.verify(&mesh, &mut report.jobs, &mut report.receipts);

    say.chapter("A node crashes with jobs in flight");
    let (killed, mut lines) = crash(&mut mesh, &files[0], &labels)?;
    say.killed(&killed, &lines);

    say.chapter("Every receipt, verified from files alone");
    auditor.verify(&mesh, &mut lines, &mut report.receipts);
    say.receipts(&report.receipts, &auditor.authorities_file());
    report.jobs.extend(lines);
    report.killed = Some(killed);
    report.violations = violations(&report.jobs);
    Ok(())
}

/// Submits one job and tells what came of it.
fn submit(
    mesh: &Mesh,
    via: &str,
    sample: &Sample,
    law: &Law,
    name: &impl Fn(&Sample, &[Tensor]) -> String,
) -> JobLine {
    let read = |outputs: &[Tensor]| name(sample, outputs);
    ask(&mesh.client(via), via, sample.model, &sample.inputs, law, read)
}

fn ask(
    client: &Client,
    via: &str,
    model: &str,
    inputs: &[Tensor],
    law: &Law,
    read: impl Fn(&[Tensor]) -> String,
) -> JobLine {
    let headers: Vec<(String, String)> =
        law.headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let started = Instant::now();
    let outcome = client.infer(model, inputs, &headers);
    let latency_ms = (started.elapsed().as_secs_f64() * 1e5).round() / 100.0;
    let receipt = match &outcome {
        Ok(done) => done.receipt.clone(),
        Err(ClientError::Refused { receipt, .. }) => receipt.clone(),
        Err(_) => None,
    };
    let (outcome, executed_by, location, top) = match outcome {
        Ok(done) => ("ok", Some(done.executed_by), Some(done.executed_in), read(&done.outputs)),
        Err(ClientError::Refused { status, message, .. }) if status < 500 => {
            ("refused", None, None, message)
        }
        Err(error) => ("error", None, None, error.to_string()),
    };
    JobLine {
        model: model.into(),
        via: via.into(),
        policy: law.words.into(),
        outcome,
        executed_by,
        location,
        latency_ms,
        top,
        receipt,
        receipt_file: None,
    }
}

/// Fills the victim with jobs from all other nodes, kills it, and waits for every answer.
fn crash(
    mesh: &mut Mesh,
    sample: &Sample,
    labels: &Labels,
) -> anyhow::Result<(Killed, Vec<JobLine>)> {
    let entries: Vec<(&str, Client)> = CAST
        .iter()
        .filter(|role| role.name != VICTIM)
        .map(|role| (role.name, mesh.client(role.name)))
        .collect();
    let first = sample.inputs.first().context("a sample has an input")?;
    let batch = magika_input(sample.what.as_bytes(), CRASH_ROWS);
    anyhow::ensure!(first.dtype == batch.dtype, "the batch is of the model's type");
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let mut jobs = Vec::new();
        for index in 0..CRASH_JOBS {
            let (via, client) = &entries[index % entries.len()];
            let (batch, answered) = (&batch, &answered);
            jobs.push(scope.spawn(move || {
                let inputs = std::slice::from_ref(batch);
                let line = ask(client, via, "magika", inputs, &IN_EU_WHOLE, |out| labels.top(out));
                answered.fetch_add(1, Ordering::SeqCst);
                line
            }));
        }
        // Some answers show that the jobs are under way; most are still in the air.
        while answered.load(Ordering::SeqCst) < CRASH_JOBS / 10 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let in_flight = CRASH_JOBS - answered.load(Ordering::SeqCst);
        mesh.kill(VICTIM);
        let lines: Vec<JobLine> =
            jobs.into_iter().map(|job| job.join().expect("a job's thread ends")).collect();
        let unanswered = lines.iter().filter(|line| line.outcome != "ok").count();
        let killed = Killed {
            node: VICTIM.into(),
            in_flight,
            answered: in_flight.saturating_sub(unanswered),
        };
        Ok((killed, lines))
    })
}

/// Jobs that ran where their policy forbids it, by the charters of the cast.
fn violations(jobs: &[JobLine]) -> usize {
    let eu = [&IN_EU, &IN_EU_BY_ROWS, &IN_EU_WHOLE, &EU_CONTROL];
    let laws = eu.into_iter().chain([&ANYWHERE, &IN_DE, &IN_US, &IN_CH]);
    let laws: BTreeMap<&str, &Law> = laws.map(|law| (law.words, law)).collect();
    let breaks = |job: &&JobLine| {
        let Some(by) = &job.executed_by else { return false };
        let permits = laws[job.policy.as_str()].permits;
        by.split(", ").any(|name| {
            let role = CAST.iter().find(|role| role.name == name);
            !role.is_some_and(|role| permits(role.location, role.control))
        })
    };
    jobs.iter().filter(breaks).count()
}
