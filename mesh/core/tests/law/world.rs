//! Made-up meshes: peers with a truth, the charter and advert that they show of it, and the
//! strategies that draw them.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use hansa_core::advert::{Advert, Device, Model, Record, Version};
use hansa_core::charter::{Authority, Charter, Trust};
use hansa_core::id::{Digest, PeerId};
use hansa_core::keys::SigningKey;
use hansa_core::note::SignerKey;
use hansa_core::policy::{Bounds, Clause, DeviceNeeds, Policy};
use hansa_core::time::{Mono, Now, Utc};
use hansa_core::view::Liveness;
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::oracle::Truth;

/// Most peers of a mesh.
pub(crate) const PEERS: usize = 9;
/// The second in which every test starts, at its 995th millisecond.
pub(crate) const START: u64 = 1_800_000_000;
pub(crate) const PLACES: [&str; 9] =
    ["DE", "DE-BE", "DE-BY", "FR", "FR-75C", "IE", "US", "US-CA", "SG"];
const OPERATORS: [&str; 3] = ["Nordlicht GmbH", "Acme Inc.", "Temasek"];
const AUTHORITIES: [&str; 3] = ["alpha", "beta", "gamma"];
const CLASSES: [&str; 2] = ["health", "finance"];
pub(crate) const BUNDLES: [Digest; 2] = [Digest([1; 32]), Digest([2; 32])];

/// The moment of the start.
pub(crate) fn start() -> Now {
    Now { mono: Mono(1_000_000_000), utc: Utc(START * 1_000 + 995) }
}

/// `ms` after `now`, on both clocks.
pub(crate) fn later(now: Now, ms: u64) -> Now {
    let by = std::time::Duration::from_millis(ms);
    Now { mono: now.mono + by, utc: now.utc + by }
}

pub(crate) fn key(peer: usize) -> SigningKey {
    SigningKey::from_seed(&[u8::try_from(peer).expect("few peers") + 1; 32])
}

pub(crate) fn id(peer: usize) -> PeerId {
    static IDS: LazyLock<Vec<PeerId>> =
        LazyLock::new(|| (0..64).map(|peer| key(peer).peer_id()).collect());
    IDS[peer]
}

/// An authority's key; 3 is of nobody who is trusted.
pub(crate) fn signer(authority: usize) -> SignerKey {
    let name = AUTHORITIES.get(authority).unwrap_or(&"nobody");
    SignerKey::new(name, [100 + u8::try_from(authority).expect("few"); 32]).expect("a name")
}

/// Everyone trusts the same: the first two for anything, the third for all but Singapore and not
/// for Temasek.
pub(crate) fn trust() -> &'static Trust {
    static TRUST: LazyLock<Trust> = LazyLock::new(|| {
        let set = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        let authority = |index, countries, operators| Authority {
            key: signer(index).verifier(),
            countries: set(countries),
            operators: set(operators),
        };
        Trust::new(vec![
            authority(0, &["*"], &["*"]),
            authority(1, &["*"], &["*"]),
            authority(2, &["DE", "FR", "IE", "US"], &["Nordlicht GmbH", "Acme Inc."]),
        ])
    });
    &TRUST
}

/// What a peer shows of its truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shows {
    Nothing,
    Valid,
    Later,
    Earlier,
    /// Its charter ends 5 ms after the start.
    EndsSoon,
    /// Its charter begins 5 ms after the start.
    BeginsSoon,
    /// A text that was changed after it was signed.
    Forged,
    /// Another peer's.
    Foreign,
    UnknownAuthority,
    /// Signed also by the third authority, for Singapore.
    OverAsserting,
}

/// One made-up peer.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) shows: Shows,
    pub(crate) truth: Truth,
    pub(crate) holds: [bool; 2],
    pub(crate) devices: Vec<(&'static str, u32)>,
    pub(crate) slots: u16,
    pub(crate) service_us: u32,
    /// Where it may send.
    pub(crate) send: Bounds,
    /// Drawn from when others' views of it are made.
    pub(crate) seen: Vec<u8>,
}

impl Peer {
    /// How the peer `viewer` sees it, if it knows it.
    pub(crate) fn liveness(&self, viewer: usize) -> Option<Liveness> {
        match self.seen[viewer % self.seen.len()] {
            0 => None,
            1 => Some(Liveness::Down),
            2 => Some(Liveness::Suspect),
            _ => Some(Liveness::Alive),
        }
    }

    /// Its advert, as the mesh knows it.
    pub(crate) fn record(&self, index: usize) -> Arc<Record> {
        let models = BUNDLES.iter().zip(self.holds).filter(|(_, holds)| *holds);
        let advert = Advert {
            peer: id(index),
            version: Version { epoch: 1, sequence: 1 },
            issued: start().utc,
            name: format!("peer{index}"),
            control_addrs: Vec::new(),
            data_addrs: Vec::new(),
            relays: Vec::new(),
            coordinate: Default::default(),
            charter: self.charter(index),
            devices: self.devices.iter().map(|(provider, mib)| device(provider, *mib)).collect(),
            models: models
                .map(|(bundle, _)| Model {
                    name: "m".into(),
                    version: "1".into(),
                    bundle: *bundle,
                    slots: self.slots,
                    service_us: self.service_us,
                })
                .collect(),
            price: None,
            extensions: Vec::new(),
        };
        advert.sign(&key(index)).verify(trust(), start()).expect("an honest advert")
    }

    fn charter(&self, index: usize) -> Option<String> {
        let subject = if self.shows == Shows::Foreign { index + 20 } else { index };
        let truth = &self.truth;
        let charter = Charter {
            serial: format!("{index}"),
            subject: id(subject),
            location: truth.location.parse().expect("a place"),
            operator: truth.operator.into(),
            lei: None,
            control: truth.control.parse().expect("a place"),
            data_classes: truth.data_classes.clone(),
            not_before: Utc(truth.from * 1_000),
            not_after: Utc(truth.until * 1_000),
            authorities: BTreeSet::new(),
        };
        let by = |authorities: &[usize]| {
            let mut note = charter.sign(&signer(authorities[0])).expect("a charter");
            for authority in &authorities[1..] {
                note = signer(*authority).sign(&note).expect("a note");
            }
            note
        };
        let all: Vec<usize> = (0..AUTHORITIES.len())
            .filter(|index| truth.authorities.contains(AUTHORITIES[*index]))
            .collect();
        match self.shows {
            Shows::Nothing => None,
            Shows::UnknownAuthority => Some(by(&[3])),
            // What a peer under another law would write into its charter.
            Shows::Forged => Some(by(&all).replace("serial ", "serial 0")),
            _ => Some(by(&all)),
        }
    }
}

pub(crate) fn device(provider: &str, mib: u32) -> Device {
    Device {
        provider: provider.into(),
        name: "any".into(),
        id: 0,
        memory_total_mib: mib,
        memory_free_mib: mib,
        utilisation_percent: None,
    }
}

fn names(of: &'static [&'static str], from: usize) -> impl Strategy<Value = BTreeSet<String>> {
    btree_set(select(of).prop_map(str::to_owned), from..=of.len())
}

pub(crate) fn places() -> impl Strategy<Value = Clause<hansa_core::place::Place>> {
    let set = |to| btree_set(select(&PLACES[..]).prop_map(|text| text.parse().unwrap()), 0..to);
    clause(set(7), set(3))
}

fn named(of: &'static [&'static str]) -> impl Strategy<Value = Clause<String>> {
    let set = move || btree_set(select(of).prop_map(str::to_owned), 0..=of.len());
    clause(set(), set())
}

/// Mostly open, else often wide: a mesh that nothing may enter tests little.
fn clause<T: Ord + Clone + std::fmt::Debug + 'static>(
    allow: impl Strategy<Value = BTreeSet<T>> + 'static,
    deny: impl Strategy<Value = BTreeSet<T>> + 'static,
) -> impl Strategy<Value = Clause<T>> {
    let deny = prop_oneof![4 => Just(BTreeSet::new()).boxed(), 1 => deny.boxed()];
    (option::weighted(0.25, allow), deny).prop_map(|(allow, deny)| Clause { allow, deny })
}

pub(crate) fn bounds() -> impl Strategy<Value = Bounds> {
    let open = || Just(Clause::<String>::default());
    let drawn = (
        places(),
        places(),
        prop_oneof![2 => open().boxed(), 1 => named(&OPERATORS).boxed()],
        prop_oneof![2 => open().boxed(), 1 => named(&AUTHORITIES).boxed()],
        prop_oneof![12 => Just(0u8), 3 => Just(1), 3 => Just(2), 1 => Just(3)],
        prop_oneof![3 => Just(BTreeSet::new()).boxed(), 1 => names(&CLASSES, 0).boxed()],
    );
    let drawn =
        drawn.prop_map(|(locations, control, operators, authorities, min, classes)| Bounds {
            locations,
            control,
            operators,
            authorities,
            signatures_min: min,
            data_classes: classes,
        });
    prop_oneof![1 => Just(Bounds::default()).boxed(), 2 => drawn.boxed()]
}

pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    let bundles =
        clause(btree_set(select(&BUNDLES[..]), 0..3), btree_set(select(&BUNDLES[1..]), 0..2));
    let device = prop_oneof![
        3 => Just(DeviceNeeds::default()),
        1 => Just(DeviceNeeds { provider: Some("cuda".into()), memory_mib_min: Some(10_000) }),
    ];
    (bounds(), bundles, option::of(prop_oneof![1 => 0u8..=1, 3 => 2u8..=4]), device).prop_map(
        |(bounds, bundles, hops_max, device)| Policy {
            bounds,
            bundles,
            hops_max,
            device,
            ..Policy::default()
        },
    )
}

pub(crate) fn truth() -> impl Strategy<Value = Truth> {
    let said = (select(&PLACES[..]), select(&PLACES[..]), select(&OPERATORS[..]));
    (said, names(&AUTHORITIES, 1), names(&CLASSES, 0)).prop_map(
        |((location, control, operator), mut authorities, data_classes)| {
            let beyond_gamma = [location, control].contains(&"SG") || operator == "Temasek";
            if beyond_gamma && authorities.remove("gamma") && authorities.is_empty() {
                authorities.insert("alpha".into());
            }
            let (from, until) = (START - 100, START + 100);
            Truth {
                vouched: true,
                from,
                until,
                location,
                control,
                operator,
                authorities,
                data_classes,
            }
        },
    )
}

pub(crate) fn peer() -> impl Strategy<Value = Peer> {
    let shows = prop_oneof![
        30 => Just(Shows::Valid),
        1 => Just(Shows::Nothing),
        1 => Just(Shows::Later),
        1 => Just(Shows::Earlier),
        4 => Just(Shows::EndsSoon),
        2 => Just(Shows::BeginsSoon),
        1 => Just(Shows::Forged),
        1 => Just(Shows::Foreign),
        1 => Just(Shows::UnknownAuthority),
        1 => Just(Shows::OverAsserting),
    ];
    let holds =
        prop_oneof![6 => Just([true, true]), 1 => Just([true, false]), 2 => Just([false, false])];
    let devices = prop_oneof![
        Just(vec![("cpu", 64_000)]),
        Just(vec![("cpu", 64_000), ("cuda", 24_000)]),
        Just(vec![("cuda", 8_000)]),
    ];
    let offer = (holds, devices, 0u16..4, 0u32..20_000);
    let seen = vec(prop_oneof![1 => Just(0u8), 1 => Just(1), 1 => Just(2), 6 => Just(3)], PEERS);
    (shows, truth(), offer, bounds(), seen).prop_map(|(shows, mut truth, offer, send, seen)| {
        match shows {
            Shows::Later => truth.from = START + 50,
            Shows::Earlier => truth.until = START - 50,
            Shows::EndsSoon => truth.until = START + 1,
            Shows::BeginsSoon => truth.from = START + 1,
            Shows::OverAsserting => {
                truth.location = "SG";
                truth.authorities.insert("gamma".into());
            }
            _ => {}
        }
        let lies = [
            Shows::Nothing,
            Shows::Forged,
            Shows::Foreign,
            Shows::UnknownAuthority,
            Shows::OverAsserting,
        ];
        truth.vouched = !lies.contains(&shows);
        let (holds, devices, slots, service_us) = offer;
        Peer { shows, truth, holds, devices, slots, service_us, send, seen }
    })
}

pub(crate) fn mesh() -> impl Strategy<Value = Vec<Peer>> {
    vec(peer(), 3..=PEERS)
}

/// Drawn numbers, used over and over.
pub(crate) fn dice() -> impl Strategy<Value = Vec<Index>> {
    vec(any::<Index>(), 1..24)
}
