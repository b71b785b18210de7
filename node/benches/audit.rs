//! What receipts cost, with and without them: CPU a job where all cores are busy with some 10,000 jobs a
//! second, and throughput of jobs that take a millisecond of CPU. `cargo bench -p hansa-node`. Cores that
//! are busy in both cases are compared, since one that is woken for each millisecond's jobs takes more
//! for that, on a virtual machine, than for all that a receipt takes.
//!
//! Each job does at its end what a node's does: it draws a salt, commits to its payloads, names its
//! peer and its law, seals its receipt, hands it to the keeper of the log, counts it, and waits until
//! it is kept. What signing, tiles, checkpoints and the disk take is in it, since CPU time is that of
//! the process. The log is in the folder of the build, or in `HANSA_BENCH_FOLDER`: a disk, not memory.
#![allow(clippy::print_stdout, reason = "a bench prints")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

#[path = "../tests/audit/world.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod world;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hansa_core::charter::Charter;
use hansa_core::id::Digest;
use hansa_core::policy::{Law, Policy};
use hansa_core::receipt::{Party, Receipt, Salt, Side, commit, payload_digest};
use hansa_core::wire::TensorMeta;
use hansa_node::audit::Entry;
use hansa_node::audit::keeper::Keeper;
use hansa_node::audit::reader::Reader;
use hansa_node::audit::verify::verify;
use hansa_node::audit::writer::KeepError;
use hansa_node::config::{AuditConfig, Receipts};
use hansa_node::random::draw;
use tokio::runtime::Runtime;

use world::{SEED, charter, job, local, trust};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PER_SECOND: u64 = 10_000;
/// Rounds with and without receipts, in turn, so that both see the same machine: many short ones, since
/// what is added is a fiftieth of what is measured.
const ROUNDS: usize = 60;
const ROUND: Duration = Duration::from_millis(500);
/// Jobs in the air for each core.
const AT_ONCE: usize = 8;
const CPU_BAR_US: f64 = 5.0;
const THROUGHPUT_BAR: f64 = 0.98;

/// CPU time of all threads that there are, of which none ends while it is measured.
fn cpu() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux");
    let nanos = threads.map(|thread| {
        let path = thread.expect("a thread").path().join("schedstat");
        let text = std::fs::read_to_string(path).expect("Linux says what a thread took");
        text.split(' ').next().expect("a number").parse::<u64>().expect("a number")
    });
    Duration::from_nanos(nanos.sum())
}

/// What a node with a log does at the end of each job.
struct Ends {
    keeper: Keeper,
    charter: Charter,
    digest: Digest,
    /// Known of each job before it has ended: it was planned under it.
    law: Law,
    sample: Receipt,
    tensor: TensorMeta,
    jobs: AtomicU64,
    lost: AtomicU64,
}

impl Ends {
    fn new(dir: &Path) -> Self {
        let (charter, note) = charter(SEED, "DE", "DE", "Nordlicht GmbH");
        let (receipts, dir) = (Receipts::Batched, dir.to_owned());
        let config = AuditConfig { receipts, dir, retention_days: 0, fail_closed: false };
        let keeper = Keeper::open(&config, &SEED, &note).expect("an empty folder");
        let tensor = TensorMeta { name: "x".into(), dtype: 1, shape: vec![1, 16], bytes: 64 };
        // Each job brings its own path.
        let sample = Receipt { path: Vec::new(), ..local(&Party::of(&charter, &note, false), 0) };
        let (law, jobs, lost) = (Law::new(Policy::default()), AtomicU64::new(0), AtomicU64::new(0));
        let digest = Digest::of(note.as_bytes());
        Self { keeper, charter, digest, law, sample, tensor, jobs, lost }
    }

    async fn end(&self, payload: &[u8]) {
        let salt = Salt(draw());
        let [input, output] = [Side::Input, Side::Output].map(|side| {
            let digest = payload_digest(&[(&self.tensor, payload)]);
            Some(commit(&salt, side, &digest))
        });
        let job = job(self.jobs.fetch_add(1, Ordering::Relaxed));
        let path = vec![Party::named(&self.charter, self.digest, false)];
        let policy = self.law.hash();
        let receipt = Receipt { job, path, policy, input, output, ..self.sample.clone() };
        let entry = Entry::seal(&receipt, salt).expect("it is one");
        match self.keeper.keep(entry) {
            Ok(keeping) => {
                self.keeper.count(&receipt);
                keeping.kept().await.expect("it is kept");
            }
            // The disk is so slow that too many wait. A node flags its answer.
            Err(KeepError::QueueFull) => drop(self.lost.fetch_add(1, Ordering::Relaxed)),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Work of so many steps.
fn work(steps: u64) -> u64 {
    (0..steps).fold(1, |state: u64, step| std::hint::black_box(state.wrapping_mul(3) ^ step))
}

/// The steps of a millisecond, by the fastest of many tries.
fn steps_of_a_millisecond() -> u64 {
    const TRIED: u64 = 100_000;
    let took = (0..200).map(|_| {
        let start = Instant::now();
        std::hint::black_box(work(TRIED));
        start.elapsed()
    });
    let fastest = took.min().expect("some");
    TRIED * 1_000_000 / u64::try_from(fastest.as_nanos()).expect("not for centuries").max(1)
}

/// What jobs took that ran one after the other, on all cores, for a while.
struct Took {
    jobs: u64,
    per_second: f64,
    /// CPU time a job, in µs.
    cpu_us: f64,
}

/// Jobs of so many steps, for a while.
async fn round(ends: Option<&Arc<Ends>>, steps: u64, cores: usize) -> Took {
    let (before, start) = (cpu(), Instant::now());
    let loops: Vec<_> = (0..AT_ONCE * cores)
        .map(|_| {
            let ends = ends.cloned();
            tokio::spawn(async move {
                let mut jobs = 0;
                while start.elapsed() < ROUND {
                    std::hint::black_box(work(steps));
                    match &ends {
                        Some(ends) => ends.end(&[7; 64]).await,
                        None => tokio::task::yield_now().await,
                    }
                    jobs += 1;
                }
                jobs
            })
        })
        .collect();
    let mut jobs = 0;
    for one in loops {
        jobs += one.await.expect("no panic");
    }
    let (wall, spent) = (start.elapsed().as_secs_f64(), (cpu() - before).as_secs_f64());
    Took { jobs, per_second: jobs as f64 / wall, cpu_us: spent * 1e6 / jobs as f64 }
}

/// Rounds without and with receipts, in turn.
fn rounds(runtime: &Runtime, ends: &Arc<Ends>, steps: u64, cores: usize) -> Vec<[Took; 2]> {
    let take = |ends| runtime.block_on(round(ends, steps, cores));
    (0..ROUNDS).map(|_| [take(None), take(Some(ends))]).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "NOT MET" }
}

fn main() {
    let within = std::env::var_os("HANSA_BENCH_FOLDER").map(PathBuf::from);
    let within = within.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    let folder = tempfile::tempdir_in(within).expect("a folder");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("threads");

    let millisecond = steps_of_a_millisecond();
    let at =
        |name: &str| runtime.block_on(async { Arc::new(Ends::new(&folder.path().join(name))) });
    let each = |rounds: &[[Took; 2]], figure: fn(&Took) -> f64| {
        [0, 1].map(|which| median(rounds.iter().map(|round| figure(&round[which])).collect()))
    };

    let ends = at("many");
    let steps = millisecond * cores as u64 * 1_000 / PER_SECOND;
    let many = rounds(&runtime, &ends, steps, cores);
    let [_, per_second] = each(&many, |took| took.per_second);
    let added = median(many.iter().map(|[without, with]| with.cpu_us - without.cpu_us).collect());
    let [bare, kept] = each(&many, |took| took.cpu_us);
    println!(
        "{per_second:.0} jobs a second on {cores} cores: {kept:.1} µs CPU a job, {bare:.1} without \
         receipts, which add {added:.1} µs, bar {CPU_BAR_US}: {}",
        verdict(added <= CPU_BAR_US)
    );
    ends.keeper.close();
    let start = Instant::now();
    let report = verify(&Reader::new(&folder.path().join("many")), Some(&trust()));
    let [jobs, lost] = [&ends.jobs, &ends.lost].map(|count| count.load(Ordering::Relaxed));
    assert_eq!(jobs, many.iter().map(|[_, with]| with.jobs).sum::<u64>());
    assert!(report.ok && report.size + lost == jobs, "{jobs} jobs, {lost} lost: {report:?}");
    let (receipts, took) = (report.size, start.elapsed().as_secs_f64());
    println!(
        "{receipts} receipts verified from files, {:.0} a second; {lost} found the queue full",
        receipts as f64 / took
    );

    let ends = at("long");
    let long = rounds(&runtime, &ends, millisecond, cores);
    let [without, with] = each(&long, |took| took.per_second);
    let [bare, kept] = each(&long, |took| took.cpu_us);
    println!(
        "jobs of 1 ms on {cores} cores: {with:.0} a second, {without:.0} without receipts; {kept:.1} µs \
         CPU a job, {bare:.1} without"
    );
    println!(
        "throughput {:.4} of that without (by CPU time {:.4}), bar {THROUGHPUT_BAR}: {}",
        with / without,
        bare / kept,
        verdict(with / without >= THROUGHPUT_BAR),
    );
    ends.keeper.close();
}
