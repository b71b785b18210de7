//! Disks that are full, unwritable, or not what they were.

use std::path::Path;
use std::process::Command;

use hansa_node::audit::error::{LogError, State};
use hansa_node::audit::log::Log;
use hansa_node::audit::reader::Reader;
use hansa_node::audit::verify::verify;
use hansa_node::audit::writer::Writer;
use hansa_node::limits::AUDIT_CHECKPOINT_EVERY;

use crate::kept::walk;
use crate::world::*;

const FOLDER: &str = "HANSA_TEST_FULL_FOLDER";

/// Appends until the disk is full. Gives how many receipts were kept.
fn fill(log: &mut Log) -> u64 {
    let keeper = node().0;
    for number in log.size().. {
        match log.append(vec![entry(&keeper, number)]) {
            Ok(index) => assert_eq!(index, number),
            Err(LogError::Refused(State::Full(_))) => return number,
            Err(error) => panic!("{error}"),
        }
        if number % 64 == 63 && log.checkpoint().is_err() {
            assert!(matches!(log.state(), State::Full(_)), "{:?}", log.state());
        }
    }
    unreachable!("every disk is full in the end")
}

/// A disk that is full when an idle log gets a receipt, and has room again: the log sees it by itself.
fn fill_and_free(dir: &Path, ballast: &Path) {
    let keeper = node().0;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let log = Log::open(dir, &SEED).unwrap();
        let (writer, thread) = Writer::start(log, AUDIT_CHECKPOINT_EVERY).unwrap();
        let size = writer.status().kept;
        assert!(std::fs::write(ballast, vec![1; 2 << 20]).is_err());
        // An unfinished page may still take a few.
        let mut kept = 0;
        while writer.keep(entry(&keeper, size + kept)).unwrap().kept().await.is_ok() {
            kept += 1;
        }
        assert!(matches!(writer.status().state, State::Full(_)), "{:?}", writer.status());
        std::fs::remove_file(ballast).unwrap();
        let started = std::time::Instant::now();
        while writer.status().state != State::Writable {
            assert!(started.elapsed().as_secs() < 20, "{:?}", writer.status());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        writer.keep(entry(&keeper, size + kept)).unwrap().kept().await.unwrap();
        drop(writer);
        thread.join().unwrap().unwrap();
    });
    assert!(verify(&Reader::new(dir), Some(&trust())).ok);
}

/// Runs in a process that may write files up to a size only, or on a small disk of its own.
#[test]
#[ignore = "the other half of the tests below"]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let folder = Path::new(&folder);
    let ballast = folder.join("ballast");
    let dir = folder.join("audit");
    let mut log = open(&dir);
    if std::env::var_os("HANSA_TEST_FULL_BALLAST").is_some() {
        std::fs::write(&ballast, vec![1; 256 << 10]).unwrap();
    }
    let kept = fill(&mut log);
    assert!(kept > 0);
    // It says so until there is room again, and refuses meanwhile; what was kept is there.
    assert!(matches!(log.state(), State::Full(_)));
    assert!(matches!(log.probe(), State::Full(_)));
    let refused = log.append(vec![entry(&node().0, kept)]);
    assert!(matches!(refused, Err(LogError::Refused(State::Full(_)))));
    let report = verify(&Reader::new(&dir), Some(&trust()));
    assert!(report.ok, "{report:?}");
    assert_eq!(report.size + report.unsigned, kept);
    if ballast.exists() {
        std::fs::remove_file(&ballast).unwrap();
        assert_eq!(log.probe(), State::Writable);
        log.append(vec![entry(&node().0, kept)]).unwrap();
        log.close().unwrap();
        let report = verify(&Reader::new(&dir), Some(&trust()));
        assert!(report.ok, "{report:?}");
        assert_eq!((report.size, report.unsigned), (kept + 1, 0));
        fill_and_free(&dir, &ballast);
        println!("full at {kept}, went on");
    } else {
        println!("full at {kept}");
    }
}

fn run_child(shell: &str, folder: &Path) -> (bool, String) {
    let ran = Command::new("bash")
        .args(["-c", shell])
        .env("CHILD", std::env::current_exe().unwrap())
        .env(FOLDER, folder)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (ran.status.success(), text(&ran.stdout) + &text(&ran.stderr))
}

const EXEC: &str = "exec \"$CHILD\" --exact disk::child --ignored --nocapture";

#[test]
fn a_journal_that_may_not_grow_refuses_and_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let shell = format!("trap '' XFSZ; ulimit -f 16; {EXEC}");
    let (ok, said) = run_child(&shell, folder.path());
    assert!(ok && said.contains("full at "), "{said}");
}

#[test]
fn a_full_disk_refuses_says_so_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let mut may = Command::new("unshare");
    may.args(["-Urm", "mount", "-t", "tmpfs", "tmpfs"]).arg(folder.path());
    if !may.output().is_ok_and(|ran| ran.status.success()) {
        println!("this machine lets nobody mount a small disk; the test above stands for it");
        return;
    }
    let mount = format!("mount -t tmpfs -o size=1m tmpfs \"${FOLDER}\"");
    let shell = format!("exec unshare -Urm bash -c '{mount} && HANSA_TEST_FULL_BALLAST=1 {EXEC}'")
        .replace("HANSA_TEST_FULL_BALLAST=1 exec", "export HANSA_TEST_FULL_BALLAST=1; exec");
    let (ok, said) = run_child(&shell, folder.path());
    assert!(ok && said.contains("went on"), "{said}");
}

/// From now on no tile can be written.
fn block_tiles(dir: &Path) {
    std::fs::rename(dir.join("tile"), dir.join("aside")).unwrap();
    std::fs::write(dir.join("tile"), "in the way").unwrap();
}

/// They can be again.
fn free_tiles(dir: &Path) {
    std::fs::remove_file(dir.join("tile")).unwrap();
    std::fs::rename(dir.join("aside"), dir.join("tile")).unwrap();
}

/// A log of so many receipts, ten of them under a checkpoint: the tiles of the others cannot be
/// written.
fn stuck(dir: &Path, count: u64) -> Log {
    let mut log = filled(dir, 10);
    block_tiles(dir);
    log.append((10..count).map(|number| entry(&node().0, number)).collect()).unwrap();
    assert!(log.checkpoint().is_err());
    log
}

#[test]
fn tiles_that_cannot_be_written_are_said_and_written_later() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let mut log = stuck(dir, 300);
    assert!(matches!(log.state(), State::Unwritable(_)), "{:?}", log.state());
    assert_eq!((log.size(), log.signed_size()), (300, 10));
    // It keeps receipts meanwhile, in the other journal, and would open with all of them.
    log.append(vec![entry(&node().0, 300)]).unwrap();
    let copy = tempfile::tempdir().unwrap();
    let mut copied = 0;
    for file in walk(dir).into_iter().filter(|file| file != "tile") {
        let to = copy.path().join(file.replace("aside", "tile"));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        copied += std::fs::copy(dir.join(&file), to).unwrap();
    }
    assert!(copied > 0);
    let opened = Log::open(copy.path(), &SEED).unwrap();
    assert_eq!((opened.size(), opened.signed_size()), (301, 301));
    free_tiles(dir);
    assert_eq!(log.probe(), State::Writable);
    log.close().unwrap();
    let report = verify(&Reader::new(dir), Some(&trust()));
    assert!(report.ok && report.size == 301, "{report:?}");
}

#[test]
fn a_torn_batch_is_cut_and_a_damaged_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    // A checkpoint came before, and the journals changed places.
    let journal = folder.path().join("journal-1");
    let mut log = filled(folder.path(), 3);
    log.append(vec![entry(&node().0, 3).durable()]).unwrap();
    let first = std::fs::metadata(&journal).unwrap().len();
    log.append(vec![entry(&node().0, 4)]).unwrap();
    drop(log);
    let whole = std::fs::read(&journal).unwrap();
    let report = || verify(&Reader::new(folder.path()), None);

    std::fs::write(&journal, &whole[..whole.len() - 1]).unwrap();
    let found = report();
    assert!(found.defects[0].contains("middle of a batch"), "{found:?}");
    // One bit of an acknowledged receipt that another follows.
    let mut damaged = whole.clone();
    damaged[usize::try_from(first).unwrap() - 40] ^= 1;
    std::fs::write(&journal, &damaged).unwrap();
    assert!(report().defects[0].contains("has changed"));
    assert!(matches!(Log::open(folder.path(), &SEED), Err(LogError::Damaged { .. })));

    std::fs::write(&journal, &whole[..whole.len() - 1]).unwrap();
    let log = Log::open(folder.path(), &SEED).unwrap();
    assert_eq!((log.size(), log.repaired()), (4, whole.len() as u64 - 1 - first));
    drop(log);
    assert!(report().ok);
}

#[test]
fn what_follows_a_journal_that_a_loss_of_power_took_goes_with_it_unless_it_was_synced() {
    for is_synced in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let mut log = filled(dir, 10);
        block_tiles(dir);
        log.append(vec![entry(&node().0, 10)]).unwrap();
        assert!(log.checkpoint().is_err());
        for number in [11, 12] {
            let next = entry(&node().0, number);
            log.append(vec![if is_synced { next.durable() } else { next }]).unwrap();
        }
        drop(log);
        free_tiles(dir);
        // Entry 10 is in the one journal, 11 and 12 are in the other.
        std::fs::write(dir.join("journal-1"), []).unwrap();
        let opened = Log::open(dir, &SEED);
        match (is_synced, &opened) {
            (false, Ok(log)) => assert!(log.size() == 10 && log.repaired() > 0),
            (true, Err(LogError::Damaged { reason, .. })) => assert!(reason.contains("missing")),
            (_, Ok(log)) => panic!("{} receipts", log.size()),
            (_, Err(error)) => panic!("{error}"),
        }
    }
}

#[test]
fn a_log_that_is_stopped_leaves_nothing_in_its_journals() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let mut log = stuck(dir, 11);
    // The one journal waits for its tiles, the other takes this.
    log.append(vec![entry(&node().0, 11)]).unwrap();
    free_tiles(dir);
    let journals =
        || ["journal-0", "journal-1"].map(|name| dir.join(name).metadata().unwrap().len());
    assert!(journals().iter().all(|bytes| *bytes > 0));
    log.close().unwrap();
    assert_eq!(journals(), [0, 0]);
    let report = verify(&Reader::new(dir), Some(&trust()));
    assert!(report.ok && report.size == 12, "{report:?}");
}

#[test]
fn receipts_that_another_version_left_in_its_journal_are_not_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    drop(filled(folder.path(), 3));
    for (journal, bytes) in
        [("journal", &[1][..]), ("journal-0", b"hansa-j1"), ("journal-1", b"hansa-j3")]
    {
        let path = folder.path().join(journal);
        std::fs::write(&path, bytes).unwrap();
        match Log::open(folder.path(), &SEED) {
            Err(error) => assert!(error.to_string().contains("another version"), "{error}"),
            Ok(log) => panic!("{} receipts", log.size()),
        }
        // As it left it when it had closed.
        std::fs::write(&path, []).unwrap();
        assert_eq!(Log::open(folder.path(), &SEED).unwrap().size(), 3);
    }
}

#[test]
fn no_file_under_a_checkpoint_is_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = filled(folder.path(), 300);
    log.checkpoint().unwrap();
    // Over the first of 256, and over those behind it.
    let files =
        ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"].map(|file| folder.path().join(file));
    for file in &files {
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        std::fs::File::options().write(true).open(file).unwrap().set_modified(long_ago).unwrap();
    }
    let written = || files.each_ref().map(|file| file.metadata().unwrap().modified().unwrap());
    let before = written();
    for number in 300..303 {
        log.append(vec![entry(&node().0, number)]).unwrap();
        log.checkpoint().unwrap();
        assert_eq!(written(), before);
    }
    assert!(folder.path().join("tile/0/001.p/47").exists());
}

#[test]
fn a_log_that_lost_what_it_signed_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    drop(filled(folder.path(), 300));
    for (file, change) in [
        ("checkpoint", None),
        ("checkpoint", Some("x")),
        ("tile/0/000", None),
        ("tile/0/000", Some("x")),
        ("tile/0/001.p/44", None),
        ("tile/1/000.p/1", Some("x")),
        ("tile/entries/001.p/44", None),
    ] {
        let path = folder.path().join(file);
        let before = std::fs::read(&path).unwrap();
        match change {
            Some(text) => std::fs::write(&path, text).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let opened = Log::open(folder.path(), &SEED);
        // Hashes of full bundles below are read when they are needed; all are when it verifies.
        if file != "tile/0/000" {
            assert!(matches!(opened, Err(LogError::Damaged { .. })), "{file} {change:?}");
        }
        drop(opened);
        assert!(!verify(&Reader::new(folder.path()), None).ok, "{file} {change:?}");
        std::fs::write(&path, before).unwrap();
    }
    assert_eq!(Log::open(folder.path(), &SEED).unwrap().size(), 300);
}

#[test]
fn no_byte_of_the_folder_changes_unnoticed_but_salts() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = filled(folder.path(), 258);
    // So that the journal is not empty.
    log.append(vec![entry(&node().0, 258)]).unwrap();
    drop(log);
    let reader = Reader::new(folder.path());
    assert!(verify(&reader, Some(&trust())).ok);
    let mut tried = 0;
    for file in walk(folder.path()) {
        if file.starts_with("openings/") || file == "lock" {
            continue;
        }
        let path = folder.path().join(&file);
        let bytes = std::fs::read(&path).unwrap();
        let step = (bytes.len() / 40).max(1);
        for at in (0..bytes.len()).step_by(step) {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            std::fs::write(&path, &changed).unwrap();
            assert!(!verify(&reader, Some(&trust())).ok, "{file} byte {at}");
            tried += 1;
        }
        std::fs::write(&path, &bytes).unwrap();
    }
    println!("{tried} changes, each found");
    assert!(verify(&reader, Some(&trust())).ok);
}
