//! A keeper with a charter, its receipts and its log, in memory.

use std::collections::BTreeMap;

use hansa_core::charter::{Authority, Charter, Trust};
use hansa_core::gate::Rule;
use hansa_core::id::{Digest, JobId, PeerId};
use hansa_core::keys::SigningKey;
use hansa_core::log::checkpoint::{Checkpoint, origin};
use hansa_core::log::proof::ReceiptProof;
use hansa_core::log::tile::{Kind, Tile, level_of, push_entry};
use hansa_core::log::tree::{Frontier, Node, leaf_hash, prove_inclusion};
use hansa_core::note::SignerKey;
use hansa_core::price::Amount;
use hansa_core::receipt::{
    Outcome, Part, Party, Receipt, Salt, Share, Side, Used, Verdict, Why, Work, commit,
};
use hansa_core::time::Utc;

pub(crate) const STARTED: Utc = Utc(1_800_000_000_250);

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

pub(crate) fn authority() -> SignerKey {
    SignerKey::new("harbour.example", [200; 32]).unwrap()
}

pub(crate) fn trust(countries: &[&str]) -> Trust {
    let countries = countries.iter().map(|country| (*country).to_owned()).collect();
    let operators = ["*".to_owned()].into();
    Trust::new(vec![Authority { key: authority().verifier(), countries, operators }])
}

/// The charter of the peer `seed`, valid for an hour around [`STARTED`].
pub(crate) fn charter(seed: u8, location: &str, operator: &str) -> Charter {
    Charter {
        serial: format!("serial-{seed}"),
        subject: key(seed).peer_id(),
        location: location.parse().unwrap(),
        operator: operator.into(),
        lei: None,
        control: "US".parse().unwrap(),
        data_classes: ["health".to_owned()].into(),
        not_before: Utc(1_799_998_000_000),
        not_after: Utc(1_800_002_000_000),
        authorities: Default::default(),
    }
}

pub(crate) fn party(seed: u8, location: &str, operator: &str) -> Party {
    let charter = charter(seed, location, operator);
    Party::of(&charter, &charter.sign(&authority()).unwrap(), false)
}

/// Every field has something to say.
pub(crate) fn receipt(number: u8) -> Receipt {
    let salt = Salt([number; 32]);
    let euros = |micros| Some(Amount { micros, currency: "EUR".parse().unwrap() });
    Receipt {
        job: JobId([number; 16]),
        parent: Some(JobId([77; 16])),
        attempt: 2,
        started: STARTED,
        ended: Utc(STARTED.0 + 1_500),
        path: vec![party(2, "FR", "Marée SA"), party(1, "DE-BE", "Nordlicht GmbH")],
        model: "magika:1".into(),
        bundle: Some(Digest([3; 32])),
        policy: Digest([4; 32]),
        groups: Some(Digest([5; 32])),
        verdict: Verdict::Permitted,
        rejected: BTreeMap::from([(Rule::Location, 3), (Rule::Control, 1)]),
        input: Some(commit(&salt, Side::Input, &Digest([6; 32]))),
        output: Some(commit(&salt, Side::Output, &Digest([7; 32]))),
        bytes_in: 4_096,
        bytes_out: 856,
        work: Some(Work {
            runtime: "onnxruntime 1.24.1".into(),
            provider: "cpu".into(),
            used: Used { rows: 3, device_us: 70_000, price: euros(210) },
        }),
        parts: vec![Part {
            job: JobId([8; 16]),
            share: Share::Rows { first: 3, rows: 5 },
            why: Why::Hedge,
            party: party(3, "IE", "Harp Ltd"),
            executor: None,
            receipt: Some(Digest([9; 32])),
            outcome: Outcome::Answered,
            used: Used { rows: 5, device_us: 300, price: euros(50) },
        }],
        outcome: Outcome::Answered,
        leis: BTreeMap::new(),
    }
}

/// The log of the peer 1.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) entries: Vec<Vec<u8>>,
    frontier: Frontier,
    nodes: BTreeMap<Node, Digest>,
}

impl Log {
    pub(crate) fn of(entries: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let mut log = Self::default();
        for entry in entries {
            let nodes = &mut log.nodes;
            log.frontier.push(leaf_hash(&entry), |node, hash| {
                nodes.insert(node, hash);
            });
            log.entries.push(entry);
        }
        log
    }

    pub(crate) fn peer() -> PeerId {
        key(1).peer_id()
    }

    pub(crate) fn signer() -> SignerKey {
        SignerKey::new(&origin(Self::peer()), [1; 32]).unwrap()
    }

    pub(crate) fn checkpoint(&self) -> String {
        let (size, root) = (self.frontier.size(), self.frontier.root());
        Checkpoint { origin: origin(Self::peer()), size, root }.sign(&Self::signer()).unwrap()
    }

    pub(crate) fn proof(&self, index: u64) -> ReceiptProof {
        let read = |node| Ok::<_, ()>(self.nodes[&node]);
        let charter = charter(1, "DE-BE", "Nordlicht GmbH");
        ReceiptProof {
            receipt: self.entries[usize::try_from(index).unwrap()].clone(),
            charter: charter.sign(&authority()).unwrap(),
            cosigners: Vec::new(),
            index,
            hashes: prove_inclusion(self.frontier.size(), index, read).unwrap(),
            checkpoint: self.checkpoint(),
        }
    }

    /// All files, as they lie on a disk.
    pub(crate) fn files(&self) -> BTreeMap<Tile, Vec<u8>> {
        let content = |tile: Tile| {
            let places = tile.index * 256..tile.index * 256 + tile.width;
            let mut bytes = Vec::new();
            for at in places {
                match tile.kind {
                    Kind::Entries => {
                        push_entry(&mut bytes, &self.entries[usize::try_from(at).unwrap()]);
                    }
                    Kind::Hashes(level) => {
                        let node = Node { level: level * 8, index: at };
                        assert_eq!(level_of(node), Some(level));
                        bytes.extend(self.nodes[&node].0);
                    }
                }
            }
            (tile, bytes)
        };
        Tile::all(self.frontier.size()).map(content).collect()
    }
}
