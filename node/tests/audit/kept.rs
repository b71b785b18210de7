//! What is kept, proven, erased and deleted.

use std::path::Path;
use std::time::Duration;

use hansa_core::id::{Digest, PeerId};
use hansa_core::keys::SigningKey;
use hansa_core::log::checkpoint::Checkpoint;
use hansa_core::log::cosign::{cosign, name};
use hansa_core::log::proof::ReceiptProof;
use hansa_core::log::tree::{extends, prove_consistency};
use hansa_core::note::SignerKey;
use hansa_core::receipt::{Receipt, Side, commit};
use hansa_core::time::Utc;
use hansa_node::audit::error::LogError;
use hansa_node::audit::log::Log;
use hansa_node::audit::reader::Reader;
use hansa_node::audit::verify::{Report, verify};
use hansa_node::audit::writer::{KeepError, Kept, Writer};
use hansa_node::limits::AUDIT_CHECKPOINT_EVERY;

use crate::world::*;

fn report(dir: &Path) -> Report {
    verify(&Reader::new(dir), Some(&trust()))
}

fn jobs(dir: &Path) -> Vec<u64> {
    let mut jobs = Vec::new();
    let told = Reader::new(dir).receipts(|index, receipt| {
        assert_eq!(receipt.job, job(index));
        jobs.push(index);
        true
    });
    told.unwrap();
    jobs
}

#[test]
fn a_log_of_every_size_around_a_bundle_verifies_and_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    let keeper = node().0;
    let mut roots = Vec::new();
    for size in [0, 1, 2, 255, 256, 257, 511, 512, 513, 1_000] {
        let mut log = open(folder.path());
        let more: Vec<_> = (log.size()..size).map(|number| entry(&keeper, number)).collect();
        if !more.is_empty() {
            log.append(more).unwrap();
        }
        log.checkpoint().unwrap();
        let (checkpoint, _) = Checkpoint::open(log.note()).unwrap();
        for (old, root) in &roots {
            let proof = prove_consistency(*old, size, |node| log.node(node)).unwrap();
            assert!(extends((*old, root), (size, &checkpoint.root), &proof), "{old} {size}");
        }
        roots.push((size, checkpoint.root));
        log.close().unwrap();
        let report = report(folder.path());
        assert!(report.ok, "{size}: {report:?}");
        assert_eq!((report.size, report.receipts, report.unsigned), (size, size, 0));
    }
    assert_eq!(jobs(folder.path()), (0..1_000).collect::<Vec<_>>());
    // Of unfinished files there is one each: those of the newest checkpoint.
    let partial = walk(folder.path()).into_iter().filter(|path| path.contains(".p/"));
    let expected = ["tile/0/003.p/232", "tile/1/000.p/3", "tile/entries/003.p/232"];
    let mut partial: Vec<_> = partial.collect();
    partial.sort();
    assert_eq!(partial, expected);
}

/// All files under a folder.
pub(crate) fn walk(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

#[test]
fn every_receipt_is_proven_from_the_folder_and_by_its_job() {
    let folder = tempfile::tempdir().unwrap();
    let log = filled(folder.path(), 300);
    for number in [0, 1, 255, 256, 299] {
        let proof = log.proof_of(job(number)).unwrap();
        let text = proof.to_string();
        let proven = text.parse::<ReceiptProof>().unwrap().verify(&trust()).unwrap();
        assert_eq!((proven.index, proven.receipt.job), (number, job(number)));
        let salt = log.salt(number).unwrap().unwrap();
        let payload = Digest::of(&number.to_le_bytes());
        assert_eq!(proven.receipt.input, Some(commit(&salt, Side::Input, &payload)));
    }
    assert!(matches!(log.proof_of(job(300)), Err(LogError::Absent(_))));
    drop(log);
    let log = open(folder.path());
    assert_eq!(log.proof_of(job(299)).unwrap().index, 299);
}

#[test]
fn a_receipt_is_kept_before_a_checkpoint_covers_it_and_proven_after() {
    let folder = tempfile::tempdir().unwrap();
    let keeper = node().0;
    let mut log = filled(folder.path(), 10);
    assert_eq!(log.append(vec![entry(&keeper, 10), entry(&keeper, 11)]).unwrap(), 10);
    assert!(matches!(log.proof_of(job(11)), Err(LogError::Absent(_))));
    // As if the process were killed here.
    drop(log);
    let found = report(folder.path());
    assert!(found.ok, "{found:?}");
    assert_eq!((found.size, found.unsigned), (10, 2));
    assert_eq!(jobs(folder.path()).len(), 12);
    let log = Log::open(folder.path(), &SEED).unwrap();
    assert_eq!((log.size(), log.signed_size()), (12, 12));
    log.proof_of(job(11)).unwrap().verify(&trust()).unwrap();
}

#[test]
fn a_log_has_one_writer_and_one_keeper() {
    let folder = tempfile::tempdir().unwrap();
    let log = filled(folder.path(), 1);
    assert!(matches!(Log::open(folder.path(), &SEED), Err(LogError::Locked(_))));
    drop(log);
    let foreign = Log::open(folder.path(), &[2; 32]);
    assert!(matches!(foreign, Err(LogError::Damaged { .. })));
    // And no receipt that nobody could verify.
    let mut log = open(folder.path());
    let stranger = other(2, "FR", "FR", "Marée SA");
    assert!(matches!(log.append(vec![entry(&stranger, 1)]), Err(LogError::Charter)));
    assert_eq!(log.size(), 1);
}

#[test]
fn a_salt_that_is_erased_is_gone_and_the_log_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let keeper = node().0;
    let mut log = filled(folder.path(), 300);
    log.append(vec![entry(&keeper, 300)]).unwrap();
    for number in [5, 299, 300] {
        let before = log.salt(number).unwrap().unwrap().0;
        log.erase(number).unwrap();
        assert!(log.salt(number).unwrap().is_none());
        for file in walk(folder.path()) {
            let bytes = std::fs::read(folder.path().join(&file)).unwrap();
            assert!(!bytes.windows(32).any(|part| part == before), "{number} in {file}");
        }
    }
    log.append(vec![entry(&keeper, 301)]).unwrap();
    log.close().unwrap();
    let log = open(folder.path());
    assert!(log.salt(300).unwrap().is_none() && log.salt(299).unwrap().is_none());
    assert_eq!(log.salt(301).unwrap().unwrap().0, salt(301).0);
    assert_eq!(log.salt(4).unwrap().unwrap().0, salt(4).0);
    assert!(report(folder.path()).ok);
}

#[test]
fn old_receipts_are_deleted_and_what_was_proven_holds() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = filled(folder.path(), 1_000);
    let old = log.proof_of(job(3)).unwrap();
    let ended = |number: u64| Utc(START_MS + number * 1_000 + 20);
    // The second bundle has one receipt that is too young.
    assert_eq!(log.delete(ended(511), ended(767 + 1)).unwrap(), 256);
    assert!(log.proof_of(job(3)).is_err());
    log.proof_of(job(256)).unwrap().verify(&trust()).unwrap();
    assert_eq!(old.verify(&trust()).unwrap().index, 3);
    let found = report(folder.path());
    assert!(found.ok, "{found:?}");
    assert_eq!((found.size, found.deleted, found.receipts), (1_000, 256, 744));
    assert_eq!(jobs(folder.path()), (256..1_000).collect::<Vec<_>>());
    // Salts go earlier, by their own rule.
    for (number, kept) in [(3, false), (300, false), (767, false), (768, true), (999, true)] {
        assert_eq!(log.salt(number).unwrap().is_some(), kept, "{number}");
    }
    assert_eq!(log.delete(ended(512), ended(0)).unwrap(), 512);
    drop(log);
    let mut log = open(folder.path());
    assert_eq!(log.delete(Utc(0), Utc(0)).unwrap(), 512);
    log.append(vec![entry(&node().0, 1_000)]).unwrap();
    log.close().unwrap();
    assert!(report(folder.path()).ok);
    // More is missing than was signed for.
    std::fs::remove_file(folder.path().join("tile/entries/002")).unwrap();
    let found = report(folder.path());
    assert_eq!(found.defects, ["tile/entries/002: missing"]);
}

#[test]
fn peers_cosign_and_proofs_carry_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = filled(folder.path(), 300);
    let peer = SigningKey::from_seed(&[2; 32]).peer_id();
    let signer = SignerKey::new(&name(peer), [2; 32]).unwrap();
    let (note, _) = cosign(log.note(), None, &[], &signer, Utc(START_MS)).unwrap();
    log.append(vec![entry(&node().0, 300)]).unwrap();
    log.checkpoint().unwrap();
    log.add_cosigned(&note, &[]).unwrap();
    let of = |proof: ReceiptProof| {
        let proven = proof.verify(&trust()).unwrap();
        (proven.size, proven.cosigned.iter().map(|own| own.peer).collect::<Vec<PeerId>>())
    };
    assert_eq!(of(log.proof_of(job(299)).unwrap()), (300, vec![peer]));
    assert_eq!(of(log.proof_of(job(300)).unwrap()), (301, vec![]));
    let found = report(folder.path());
    assert!(found.ok, "{found:?}");
    assert_eq!((found.cosigned.len(), found.cosigned_size), (1, 300));
    // A peer that saw another log under this name is evidence, not a cosigner.
    let elsewhere = tempfile::tempdir().unwrap();
    let mut fork = open(elsewhere.path());
    fork.append((7..300).map(|number| entry(&node().0, number)).collect()).unwrap();
    let note = fork.checkpoint().unwrap().to_owned();
    let (note, _) = cosign(&note, None, &[], &signer, Utc(START_MS)).unwrap();
    assert!(matches!(log.add_cosigned(&note, &[]), Err(LogError::Damaged { .. })));
    std::fs::write(folder.path().join("cosigned"), note).unwrap();
    assert_eq!(
        report(folder.path()).defects,
        ["cosigned: peers saw another log under this log's name"]
    );
}

#[tokio::test]
async fn whoever_waits_is_told_where_the_receipt_is_and_a_proof_follows_within_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let keeper = node().0;
    let log = Log::open(folder.path(), &SEED).unwrap();
    let (writer, thread) = Writer::start(log, AUDIT_CHECKPOINT_EVERY).unwrap();
    writer.add_charter(node().1).await.unwrap();
    let entries: Vec<_> = (0..500).map(|number| entry(&keeper, number)).collect();
    let leaves: Vec<_> = entries.iter().map(|entry| entry.leaf).collect();
    let keepings: Vec<_> = entries.into_iter().map(|entry| writer.keep(entry).unwrap()).collect();
    for (number, keeping) in (0..).zip(keepings) {
        let kept = keeping.kept().await.unwrap();
        assert_eq!(kept, Kept { index: number, leaf: leaves[usize::try_from(number).unwrap()] });
    }
    let proof = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            match writer.proof(job(499)).await {
                Ok(proof) => return proof,
                Err(KeepError::Log(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        }
    });
    proof.await.unwrap().verify(&trust()).unwrap();
    assert_eq!((writer.status().kept, writer.status().signed), (500, 500));
    // Nobody waits for this one; it is kept all the same.
    drop(writer.keep(entry(&keeper, 500)).unwrap());
    drop(writer);
    thread.join().unwrap().unwrap();
    assert_eq!(report(folder.path()).size, 501);
    let sealed = Reader::new(folder.path()).bundle(1, 501).unwrap().unwrap();
    assert_eq!(Receipt::open(&sealed[244]).unwrap(), local(&keeper, 500));
}
