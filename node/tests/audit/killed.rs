//! kill -9 at any moment: what was acknowledged is there afterwards, and the log verifies.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hansa_core::id::Digest;
use hansa_core::receipt::leaf;
use hansa_core::rng::Rng;
use hansa_node::audit::log::Log;
use hansa_node::audit::reader::Reader;
use hansa_node::audit::verify::verify;
use hansa_node::audit::writer::Writer;

use crate::world::*;

const FOLDER: &str = "HANSA_TEST_AUDIT_FOLDER";
const KILLS: u32 = 100;

/// Runs in a process of its own, until it is killed: appends under load and says what was
/// acknowledged.
#[test]
#[ignore = "the other half of the test below"]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let log = open(Path::new(&folder));
    let mut number = log.size();
    println!("opened {number} {}", log.repaired());
    // Checkpoints so often that kills hit them too.
    let (writer, _thread) = Writer::start(log, Duration::from_millis(5)).unwrap();
    let keeper = node().0;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut out = std::io::stdout().lock();
    loop {
        let burst = 1 + number % 37;
        let keepings: Vec<_> = (0..burst)
            .map(|_| {
                let keeping = writer.keep(entry(&keeper, number)).unwrap();
                number += 1;
                keeping
            })
            .collect();
        let mut said = String::new();
        for keeping in keepings {
            let kept = runtime.block_on(keeping.kept()).unwrap();
            said += &format!("kept {} {}\n", kept.index, kept.leaf);
        }
        out.write_all(said.as_bytes()).unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn a_log_that_is_killed_a_hundred_times_under_load_holds_all_that_it_acknowledged() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let (mut acknowledged, mut repaired, mut unsigned) = (0, 0, 0);
    let mut folder = tempfile::tempdir().unwrap();
    for kill in 0..KILLS {
        // Anew now and then, so that the beginning of a log is hit as well.
        if kill % 10 == 0 {
            folder = tempfile::tempdir().unwrap();
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::child", "--ignored", "--nocapture", "--test-threads=1"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut opened =
            lines.by_ref().map(Result::unwrap).skip_while(|line| !line.contains("opened "));
        let opened = opened.next().expect("it opened the log");
        repaired += u32::from(!opened.ends_with(" 0"));
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(rng.below(60_000) as u64));
            child.kill().unwrap();
            child.wait().unwrap();
            rng
        });
        // The last line may be torn; it was not said, then.
        let kept: Vec<(u64, Digest)> =
            lines.map_while(Result::ok).filter_map(|line| said(&line)).collect();
        rng = killer.join().unwrap();

        let reader = Reader::new(folder.path());
        let scanned = verify(&reader, Some(&trust()));
        unsigned += scanned.unsigned;
        let log = Log::open(folder.path(), &SEED).unwrap();
        let report = verify(&reader, Some(&trust()));
        assert!(report.ok, "kill {kill}: {report:?}");
        assert_eq!((report.size, report.unsigned), (log.size(), 0));
        for (index, expected) in &kept {
            let bundle = reader.bundle(index / 256, report.size).unwrap().unwrap();
            let found = &bundle[usize::try_from(index % 256).unwrap()];
            assert_eq!(leaf(found), *expected, "kill {kill}: receipt {index}");
            assert_eq!(log.salt(*index).unwrap(), Some(salt(*index)), "kill {kill}: {index}");
        }
        acknowledged += kept.len();
    }
    println!(
        "{KILLS} kills, {acknowledged} receipts acknowledged and found, {repaired} torn ends cut, \
         {unsigned} found in journals"
    );
    assert!(acknowledged > 0 && unsigned > 0);
}

fn said(line: &str) -> Option<(u64, Digest)> {
    let (index, leaf) = line.strip_prefix("kept ")?.split_once(' ')?;
    Some((index.parse().ok()?, leaf.parse().ok()?))
}
