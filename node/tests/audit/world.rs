//! A node with a charter, and receipts of its jobs.

use std::path::Path;

use hansa_core::charter::{Authority, Charter, Trust};
use hansa_core::id::{Digest, JobId};
use hansa_core::keys::SigningKey;
use hansa_core::note::SignerKey;
use hansa_core::price::Amount;
use hansa_core::receipt::{
    Outcome, Part, Party, Receipt, Salt, Share, Side, Used, Verdict, Why, Work, commit,
};
use hansa_core::time::Utc;
use hansa_node::audit::Entry;
use hansa_node::audit::log::Log;

/// The node's seed.
pub(crate) const SEED: [u8; 32] = [1; 32];
/// When its first job starts; each following one a second later.
pub(crate) const START_MS: u64 = 1_800_000_000_000;

pub(crate) fn authority() -> SignerKey {
    SignerKey::new("harbour.example", [200; 32]).unwrap()
}

pub(crate) fn authorities() -> Vec<Authority> {
    let (countries, operators) = (["*".to_owned()].into(), ["*".to_owned()].into());
    vec![Authority { key: authority().verifier(), countries, operators }]
}

pub(crate) fn trust() -> Trust {
    Trust::new(authorities())
}

/// The charter of the peer of `seed`, for years.
pub(crate) fn charter(
    seed: [u8; 32],
    location: &str,
    control: &str,
    operator: &str,
) -> (Charter, String) {
    let charter = Charter {
        serial: "7".into(),
        subject: SigningKey::from_seed(&seed).peer_id(),
        location: location.parse().unwrap(),
        operator: operator.into(),
        lei: None,
        control: control.parse().unwrap(),
        data_classes: Default::default(),
        not_before: Utc(START_MS - 1_000_000),
        not_after: Utc(START_MS + 100_000_000_000),
        authorities: Default::default(),
    };
    let note = charter.sign(&authority()).unwrap();
    (charter, note)
}

pub(crate) fn node() -> (Party, String) {
    let (charter, note) = charter(SEED, "DE", "DE", "Nordlicht GmbH");
    (Party::of(&charter, &note, false), note)
}

pub(crate) fn other(seed: u8, location: &str, control: &str, operator: &str) -> Party {
    let (charter, note) = charter([seed; 32], location, control, operator);
    Party::of(&charter, &note, false)
}

pub(crate) fn job(number: u64) -> JobId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    JobId(id)
}

pub(crate) fn salt(number: u64) -> Salt {
    let mut salt = [0x5a; 32];
    salt[..8].copy_from_slice(&number.to_be_bytes());
    Salt(salt)
}

/// A job that the node itself ran.
pub(crate) fn local(keeper: &Party, number: u64) -> Receipt {
    let started = Utc(START_MS + number * 1_000);
    let payload = |side| Some(commit(&salt(number), side, &Digest::of(&number.to_le_bytes())));
    Receipt {
        job: job(number),
        parent: None,
        attempt: 1,
        started,
        ended: Utc(started.0 + 20),
        path: vec![keeper.clone()],
        model: "magika:1".into(),
        bundle: Some(Digest([3; 32])),
        policy: Digest([4; 32]),
        groups: Some(Digest([5; 32])),
        verdict: Verdict::Permitted,
        rejected: Default::default(),
        input: payload(Side::Input),
        output: payload(Side::Output),
        bytes_in: 2_048,
        bytes_out: 856,
        work: Some(Work {
            runtime: "onnxruntime 1.24.1".into(),
            provider: "cpu".into(),
            used: Used { rows: 2, device_us: 1_500, price: price(10) },
        }),
        parts: Vec::new(),
        outcome: Outcome::Answered,
        leis: Default::default(),
    }
}

pub(crate) fn price(micros: u64) -> Option<Amount> {
    Some(Amount { micros, currency: "EUR".parse().unwrap() })
}

/// A job that the node took in and another ran.
pub(crate) fn forwarded(keeper: &Party, to: &Party, number: u64) -> Receipt {
    let part = Part {
        job: job(number),
        share: Share::Whole,
        why: Why::Planned,
        executor: None,
        party: to.clone(),
        receipt: Some(Digest([8; 32])),
        outcome: Outcome::Answered,
        used: Used { rows: 5, device_us: 9_000, price: price(300) },
    };
    Receipt { work: None, parts: vec![part], ..local(keeper, number) }
}

pub(crate) fn entry(keeper: &Party, number: u64) -> Entry {
    Entry::seal(&local(keeper, number), salt(number)).unwrap()
}

/// A log that knows its charter.
pub(crate) fn open(dir: &Path) -> Log {
    let mut log = Log::open(dir, &SEED).unwrap();
    log.add_charter(&node().1).unwrap();
    log
}

/// A log with receipts of the jobs up to `count`, a checkpoint over them all.
pub(crate) fn filled(dir: &Path, count: u64) -> Log {
    let (mut log, keeper) = (open(dir), node().0);
    for first in (0..count).step_by(100) {
        let batch = (first..count.min(first + 100)).map(|number| entry(&keeper, number)).collect();
        log.append(batch).unwrap();
    }
    log.checkpoint().unwrap();
    log
}
