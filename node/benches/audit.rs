//! What receipts cost: CPU a receipt, sealing, salting, hashing, journal, tiles, checkpoints and
//! fsyncs together, at 10,000 a second and as fast as they go. `cargo bench -p hansa-node`.
#![allow(clippy::print_stdout, reason = "a bench prints")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

#[path = "../tests/audit/world.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod world;

use std::path::Path;
use std::time::{Duration, Instant};

use hansa_core::receipt::{Receipt, Salt};
use hansa_node::audit::Entry;
use hansa_node::audit::log::Log;
use hansa_node::audit::reader::Reader;
use hansa_node::audit::verify::verify;
use hansa_node::audit::writer::{KeepError, Writer};
use hansa_node::keyfile::draw_seed;
use hansa_node::limits::AUDIT_CHECKPOINT_EVERY;

use world::{SEED, local, node, trust};

const PACED: u64 = 100_000;
const PER_SECOND: u64 = 10_000;
const UNPACED: u64 = 300_000;

/// CPU time of all threads of this process, by the kernel's own account.
fn cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let spent = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(spent.sum())
}

/// A receipt on its way, as the end of a job makes it.
fn seal(receipt: &mut Receipt, number: u64) -> Entry {
    receipt.job = world::job(number);
    Entry::seal(receipt, Salt(draw_seed())).expect("it is one")
}

/// Keeps `count` receipts, so many a second if it is given. Gives wall and CPU time, receipts that
/// the full queue turned away for a moment, and how many a checkpoint covers in the end.
fn keep(dir: &Path, count: u64, per_second: Option<u64>) -> (Duration, Duration, u64) {
    let (keeper, note) = node();
    let mut log = Log::open(dir, &SEED).expect("an empty folder");
    log.add_charter(&note).expect("a charter");
    let (writer, _thread) = Writer::start(log, AUDIT_CHECKPOINT_EVERY).expect("a thread");
    let mut receipt = local(&keeper, 0);
    let (before, start, mut turned_away) = (cpu(), Instant::now(), 0);
    for number in 0..count {
        let mut entry = Some(seal(&mut receipt, number));
        while let Some(next) = entry.take() {
            match writer.keep(next.clone()) {
                Ok(keeping) => drop(keeping),
                Err(KeepError::QueueFull) => {
                    turned_away += 1;
                    entry = Some(next);
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        }
        // In bursts of a millisecond, as jobs come.
        if let Some(rate) = per_second.filter(|rate| number % (rate / 1_000) == 0) {
            let due = Duration::from_secs_f64(number as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
    while writer.status().signed < count {
        assert_eq!(writer.status().lost, 0, "receipts are lost: {:?}", writer.status());
        std::thread::sleep(Duration::from_millis(5));
    }
    (start.elapsed(), cpu() - before, turned_away)
}

/// The same loop without keeping anything: what the bench itself costs.
fn pace_only(count: u64, rate: u64) -> Duration {
    let (before, start) = (cpu(), Instant::now());
    for number in 0..count {
        if number % (rate / 1_000) == 0 {
            let due = Duration::from_secs_f64(number as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
    cpu() - before
}

fn main() {
    // A disk, not memory: the folder of the build.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let mut receipt = local(&node().0, 0);
    let bytes = seal(&mut receipt, 0).bytes.len();
    println!("a receipt has {bytes} bytes");

    let before = cpu();
    for number in 0..PACED {
        std::hint::black_box(seal(&mut receipt, number));
    }
    let sealing = cpu() - before;
    println!("sealing alone: {:.2} µs CPU", each(sealing, PACED));

    let idle = pace_only(PACED, PER_SECOND);
    let (wall, spent, _) = keep(&folder.path().join("paced"), PACED, Some(PER_SECOND));
    println!(
        "{PER_SECOND} a second: {:.2} µs CPU a receipt ({:.2} of them the bench's own pacing), {:.1} s",
        each(spent, PACED),
        each(idle, PACED),
        wall.as_secs_f64(),
    );
    println!("  net of pacing: {:.2} µs, bar 5", each(spent.saturating_sub(idle), PACED));
    let dir = folder.path().join("fast");
    let (wall, spent, turned_away) = keep(&dir, UNPACED, None);
    println!(
        "as fast as they go: {:.0} a second, {:.2} µs CPU a receipt, {turned_away} waits for the queue",
        UNPACED as f64 / wall.as_secs_f64(),
        each(spent, UNPACED),
    );
    let start = Instant::now();
    let report = verify(&Reader::new(&dir), Some(&trust()));
    assert!(report.ok && report.size == UNPACED, "{report:?}");
    println!(
        "verified: {:.0} receipts a second from files",
        UNPACED as f64 / start.elapsed().as_secs_f64()
    );
}

fn each(spent: Duration, count: u64) -> f64 {
    spent.as_secs_f64() * 1e6 / count as f64
}
