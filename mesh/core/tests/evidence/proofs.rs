//! The chain from an authority to a receipt: each link that breaks has its own reason.

use hansa_core::charter::CharterFault;
use hansa_core::log::checkpoint::{Checkpoint, CheckpointFault, origin};
use hansa_core::log::cosign::{CosignFault, cosign, name};
use hansa_core::log::proof::{ProofFault, ReceiptProof};
use hansa_core::note::SignerKey;
use hansa_core::receipt::Receipt;
use hansa_core::time::Utc;

use crate::world::{Log, STARTED, authority, charter, key, receipt, trust};

fn log(change: impl Fn(&mut Receipt)) -> Log {
    Log::of((0..5).map(|number| {
        let mut receipt = receipt(number);
        change(&mut receipt);
        receipt.seal().unwrap()
    }))
}

fn fault(proof: &ReceiptProof) -> ProofFault {
    proof.verify(&trust(&["DE", "US"])).unwrap_err()
}

#[test]
fn a_proof_survives_its_text_and_shows_the_receipt() {
    let log = log(|_| {});
    for index in 0..5 {
        let proof = log.proof(index);
        let text = proof.to_string();
        assert!(text.starts_with("c2sp.org/tlog-proof@v1\nextra "), "{text}");
        assert_eq!(text.parse(), Ok(proof.clone()));
        let proven = proof.verify(&trust(&["DE", "US"])).unwrap();
        assert_eq!(proven.receipt, receipt(u8::try_from(index).unwrap()));
        assert_eq!((proven.index, proven.size), (index, 5));
        assert_eq!(proven.charter.operator, "Nordlicht GmbH");
    }
}

#[test]
fn a_receipt_that_differs_from_its_charter_is_refused() {
    let differs = |change: fn(&mut Receipt)| fault(&log(change).proof(2));
    for (field, change) in [
        ("serial", (|r| r.path[1].serial = "another".into()) as fn(&mut Receipt)),
        ("digest", |r| r.path[1].charter = r.policy),
        ("location", |r| r.path[1].location = "FR".parse().unwrap()),
        ("control", |r| r.path[1].control = "DE".parse().unwrap()),
        ("operator", |r| r.path[1].operator = "Somebody".into()),
    ] {
        assert_eq!(differs(change), ProofFault::Differs(field));
    }
    let identified = |r: &mut Receipt| {
        r.leis.insert(r.path[1].charter, "506700GE1G29325QX363".parse().unwrap());
    };
    assert_eq!(differs(identified), ProofFault::Differs("legal entity identifier"));
    let late =
        |r: &mut Receipt| (r.started, r.ended) = (Utc(1_800_002_000_000), Utc(1_800_002_000_000));
    assert_eq!(differs(late), ProofFault::Expired);
    let early = |r: &mut Receipt| r.started = Utc(1_799_997_999_999);
    assert_eq!(differs(early), ProofFault::Expired);
    let foreign = differs(|r| drop(r.path.pop()));
    assert_eq!(foreign, ProofFault::Foreign { keeper: key(2).peer_id(), log: Log::peer() });
}

#[test]
fn a_charter_that_does_not_count_is_refused_with_its_reason() {
    let log = log(|_| {});
    let proof = log.proof(0);
    let of = |fault: ProofFault| match fault {
        ProofFault::Charter { fault, .. } => fault,
        other => panic!("{other:?}"),
    };
    let nobody = hansa_core::charter::Trust::default();
    let unknown = of(proof.verify(&nobody).unwrap_err());
    assert_eq!(unknown, CharterFault::UnknownAuthority("harbour.example".into()));
    let over = of(proof.verify(&trust(&["US"])).unwrap_err());
    assert!(matches!(over, CharterFault::OverAsserting { .. }), "{over:?}");
    let stolen = charter(2, "DE-BE", "Nordlicht GmbH").sign(&authority()).unwrap();
    let foreign = of(fault(&ReceiptProof { charter: stolen, ..proof.clone() }));
    assert_eq!(foreign, CharterFault::ForeignKey(key(2).peer_id()));
    // The same statement, signed once more by somebody else: not the note that was meant.
    let other = SignerKey::new("other.example", [201; 32]).unwrap();
    let twice = other.sign(&proof.charter).unwrap();
    assert_eq!(fault(&ReceiptProof { charter: twice, ..proof }), ProofFault::Differs("digest"));
}

#[test]
fn a_receipt_of_another_place_or_log_is_refused() {
    let (one, other) = (log(|_| {}), log(|r| r.attempt = 3));
    let proof = one.proof(1);
    let moved = ReceiptProof { index: 2, ..proof.clone() };
    assert_eq!(fault(&moved), ProofFault::NotIncluded { index: 2, size: 5 });
    let elsewhere = ReceiptProof { checkpoint: other.checkpoint(), ..proof.clone() };
    assert_eq!(fault(&elsewhere), ProofFault::NotIncluded { index: 1, size: 5 });
    let mut forged = Checkpoint::open(&proof.checkpoint).unwrap().0;
    forged.size = 6;
    let signature = proof.checkpoint.split_once("\n\n").unwrap().1;
    let checkpoint = format!("{}\n{signature}", forged.text());
    let found = fault(&ReceiptProof { checkpoint, ..proof.clone() });
    assert!(matches!(found, ProofFault::Checkpoint(CheckpointFault::Note(_))), "{found:?}");
    // A log under the right name, signed with another key.
    let thief = SignerKey::new(&origin(Log::peer()), [9; 32]).unwrap();
    let checkpoint = Checkpoint::open(&proof.checkpoint).unwrap().0.sign(&thief).unwrap();
    let found = fault(&ReceiptProof { checkpoint, ..proof });
    assert_eq!(found, ProofFault::Checkpoint(CheckpointFault::Unsigned(Log::peer())));
}

#[test]
fn cosigners_are_named_with_who_runs_them() {
    let log = log(|_| {});
    let mut proof = log.proof(3);
    for seed in [2, 3] {
        let signer = SignerKey::new(&name(key(seed).peer_id()), [seed; 32]).unwrap();
        proof.checkpoint = cosign(&proof.checkpoint, None, &[], &signer, STARTED).unwrap().0;
    }
    let charter_of =
        |seed, location| charter(seed, location, "Harp Ltd").sign(&authority()).unwrap();
    proof.cosigners = vec![charter_of(3, "US")];
    let proven =
        proof.to_string().parse::<ReceiptProof>().unwrap().verify(&trust(&["DE", "US"])).unwrap();
    let named: Vec<_> = proven.cosigned.iter().map(|c| (c.peer, c.operator.as_deref())).collect();
    assert_eq!(named, [(key(2).peer_id(), None), (key(3).peer_id(), Some("Harp Ltd"))]);

    let with = |cosigners: Vec<String>| fault(&ReceiptProof { cosigners, ..proof.clone() });
    assert!(matches!(with(vec![charter_of(4, "US")]), ProofFault::Stray(_)));
    assert!(matches!(with(vec![charter_of(3, "FR")]), ProofFault::Charter { .. }));
    assert!(matches!(with(vec![charter_of(3, "US"); 2]), ProofFault::Stray(_)));
    let other = SignerKey::new("other.example", [201; 32]).unwrap();
    let half_known = other.sign(&charter_of(3, "US")).unwrap();
    assert!(matches!(with(vec![half_known]), ProofFault::Stray(_)));
    let checkpoint = other.sign(&proof.checkpoint).unwrap();
    let strange = fault(&ReceiptProof { checkpoint, ..proof });
    assert_eq!(strange, ProofFault::Cosign(CosignFault::Unknown("other.example".into())));
}

#[test]
fn what_is_no_proof_is_refused() {
    let good = log(|_| {}).proof(1).to_string();
    let hash = good.lines().nth(3).unwrap();
    for (from, to) in [
        ("tlog-proof@v1", "tlog-proof@v2"),
        ("\nextra ", "\nother "),
        ("\nindex 1\n", "\n"),
        ("\nindex 1\n", "\nindex 01\n"),
        ("\nindex 1\n", "\nindex +1\n"),
        ("\nindex 1\n", "\nindex -1\n"),
        ("\nindex 1\n", "\nindex 1 \n"),
        ("\n\nhansa.log", "\nhansa.log"),
        (hash, "notbase64"),
        (hash, &hash[..40]),
        (hash, &format!("{hash}\n")),
    ] {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{from}");
        let verified =
            text.parse::<ReceiptProof>().and_then(|proof| proof.verify(&trust(&["DE", "US"])));
        assert!(verified.is_err(), "{to}");
    }
    assert!("".parse::<ReceiptProof>().is_err());
    assert!(matches!("a".repeat(1 << 20).parse::<ReceiptProof>(), Err(ProofFault::TooLarge(_))));
}
