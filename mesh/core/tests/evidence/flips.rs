//! No bit of a log or a proof can change unnoticed.

use std::collections::BTreeMap;

use hansa_core::log::check::{Checked, LogFault, check, open_pruned, sign_pruned};
use hansa_core::log::checkpoint::origin;
use hansa_core::log::cosign::{cosign, name};
use hansa_core::log::proof::ReceiptProof;
use hansa_core::log::tile::{Kind, Tile};
use hansa_core::note::SignerKey;
use hansa_core::receipt::{Receipt, Salt, Side, commit};

use crate::world::{Log, STARTED, authority, charter, key, receipt, trust};

type Files = BTreeMap<Tile, Vec<u8>>;

/// A log of small entries, so that all its bits can be tried.
fn small(entries: u32) -> Log {
    Log::of((0..entries).map(|entry| entry.to_le_bytes()[..2].to_vec()))
}

fn checked(checkpoint: &str, minimum: u64, files: &Files) -> Result<Checked, LogFault> {
    check(checkpoint, minimum, |tile| Ok(files.get(&tile).cloned()), |_, _| Ok(()))
}

#[test]
fn no_bit_of_a_log_changes_unnoticed() {
    let log = small(300);
    let (checkpoint, files) = (log.checkpoint(), log.files());
    let found = checked(&checkpoint, 0, &files).unwrap();
    assert_eq!((found.checkpoint.size, found.keeper, found.pruned), (300, Log::peer(), 0));
    let mut bits = 0;
    for (tile, bytes) in &files {
        for bit in 0..bytes.len() * 8 {
            // Only what lies under the bit is hashed anew: the file alone is changed.
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let read = |asked: Tile| {
                Ok::<_, LogFault>(match asked == *tile {
                    true => Some(changed.clone()),
                    false => files.get(&asked).cloned(),
                })
            };
            assert!(check(&checkpoint, 0, read, |_, _| Ok(())).is_err(), "{tile} bit {bit}");
            bits += 1;
        }
        let mut less = files.clone();
        less.remove(tile);
        assert_eq!(checked(&checkpoint, 0, &less), Err(LogFault::Missing(*tile)));
    }
    for bit in 0..checkpoint.len() * 8 {
        let mut changed = checkpoint.clone().into_bytes();
        changed[bit / 8] ^= 1 << (bit % 8);
        // Bytes that are no text are no note.
        if let Ok(changed) = String::from_utf8(changed) {
            assert!(checked(&changed, 0, &files).is_err(), "checkpoint bit {bit}");
        }
        bits += 1;
    }
    eprintln!("{bits} bits, each found");
}

#[test]
fn no_bit_of_a_proof_changes_unnoticed() {
    let mut log = Vec::new();
    for number in 0..3 {
        let mut receipt = receipt(number);
        receipt.parts.clear();
        log.push(receipt.seal().unwrap());
    }
    let mut proof = Log::of(log).proof(1);
    let signer = SignerKey::new(&name(key(3).peer_id()), [3; 32]).unwrap();
    proof.checkpoint = cosign(&proof.checkpoint, None, &[], &signer, STARTED).unwrap().0;
    proof.cosigners = vec![charter(3, "US", "Harp Ltd").sign(&authority()).unwrap()];
    let trust = trust(&["DE", "US"]);
    let verifies =
        |text: &str| text.parse::<ReceiptProof>().is_ok_and(|proof| proof.verify(&trust).is_ok());
    let text = proof.to_string();
    assert!(verifies(&text));
    for bit in 0..text.len() * 8 {
        let mut changed = text.clone().into_bytes();
        changed[bit / 8] ^= 1 << (bit % 8);
        if let Ok(changed) = String::from_utf8(changed) {
            assert!(!verifies(&changed), "bit {bit} of {text}");
        }
    }
    eprintln!("{} bits, each found", text.len() * 8);
}

#[test]
fn no_bit_of_a_receipt_changes_unnoticed() {
    let sealed = receipt(1).seal().unwrap();
    let log = Log::of([sealed.clone()]);
    let trust = trust(&["DE", "US"]);
    for bit in 0..sealed.len() * 8 {
        let mut proof = log.proof(0);
        proof.receipt[bit / 8] ^= 1 << (bit % 8);
        assert!(proof.verify(&trust).is_err(), "bit {bit}");
        // Also by whoever has no proof: what still reads as a receipt is another one.
        if let Ok(other) = Receipt::open(&proof.receipt) {
            assert_ne!(other, receipt(1));
        }
    }
    let opened = receipt(1).input.unwrap();
    let payload = hansa_core::id::Digest([6; 32]);
    assert_eq!(opened, commit(&Salt([1; 32]), Side::Input, &payload));
}

#[test]
fn what_was_deleted_is_known_by_its_hashes_and_only_as_far_as_was_signed() {
    let log = small(600);
    let (checkpoint, mut files) = (log.checkpoint(), log.files());
    files.retain(|tile, _| tile.kind != Kind::Entries || tile.index > 0);
    let missing = Tile { kind: Kind::Entries, index: 0, width: 256 };
    for minimum in [0, 255] {
        assert_eq!(checked(&checkpoint, minimum, &files), Err(LogFault::Missing(missing)));
    }
    assert_eq!(checked(&checkpoint, 256, &files).unwrap().pruned, 256);

    let (log, signer) = (origin(Log::peer()), Log::signer());
    let note = sign_pruned(&log, 256, &signer).unwrap();
    assert_eq!(open_pruned(&note, &log), Ok(256));
    assert!(open_pruned(&note.replace("\n256\n", "\n512\n"), &log).is_err());
    assert!(open_pruned(&note, &origin(key(2).peer_id())).is_err());
    assert!(open_pruned(&checkpoint, &log).is_err());
    let other = SignerKey::new(&log, [2; 32]).unwrap();
    assert!(open_pruned(&sign_pruned(&log, 256, &other).unwrap(), &log).is_err());
}
