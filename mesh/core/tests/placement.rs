//! Placement by many peers at once: within memory, within the law, within bounds, and no bundle is
//! ever lost by it.
//!
//! The mesh here is a plain one: news take a second, a bundle takes ten to load, and each second the
//! holders of a bundle share what is asked of it. Random from one seed, printed first:
//! `HANSA_LAW_SEED=<seed> cargo test -p hansa-core --test placement`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use hansa_core::advert::{Advert, AdvertFault, Device, Model, Record, Version};
use hansa_core::charter::{Authority, Charter, Trust};
use hansa_core::id::{Digest, JobId, PeerId};
use hansa_core::keys::SigningKey;
use hansa_core::limits::{ADVERT_BYTES_MAX, MOVES_A_MINUTE_MAX, WANTS_MAX};
use hansa_core::note::SignerKey;
use hansa_core::place::Place;
use hansa_core::placement::{HELD_MIN, Move, Notice, Placement, Pledge, Shelf, State, Stock, Want};
use hansa_core::plan::Job;
use hansa_core::policy::{Bounds, Clause, DeviceNeeds, Policy};
use hansa_core::rng::Rng;
use hansa_core::time::{Mono, Now, Utc};
use hansa_core::view::{Entry, Liveness, View};

const START: Utc = Utc(1_800_000_000_000);
const LOADING: u64 = 10;
const SLOTS: u16 = 2;
const GIB: u64 = 1 << 30;

fn seed() -> u64 {
    let seed = std::env::var("HANSA_LAW_SEED").map_or(20_261_123, |text| text.parse().unwrap());
    eprintln!("HANSA_LAW_SEED={seed}");
    seed
}

fn now(second: u64) -> Now {
    let passed = Duration::from_secs(second);
    Now { mono: Mono(0) + passed, utc: START + passed }
}

fn bundle(number: usize) -> Digest {
    Digest([u8::try_from(number).unwrap() + 1; 32])
}

fn number(bundle: Digest) -> usize {
    usize::from(bundle.0[0]) - 1
}

/// Only peers in these countries.
fn within(places: &[&str]) -> Bounds {
    let places = places.iter().map(|place| place.parse::<Place>().unwrap());
    let locations = Clause { allow: Some(places.collect()), ..Clause::default() };
    Bounds { locations, ..Bounds::default() }
}

fn permits(bounds: &Bounds, place: &str) -> bool {
    bounds.locations.permits_place(&place.parse().unwrap())
}

/// A model: its size, who may have it.
#[derive(Clone)]
struct Kind {
    bytes: u64,
    law: Bounds,
}

struct Peer {
    key: SigningKey,
    place: &'static str,
    /// Nothing for one at which jobs enter.
    bytes_max: u64,
    /// Jobs a second.
    pace: u64,
    machine: Placement,
    /// By number of the model; those on their way are there at a later second.
    held: BTreeMap<usize, u64>,
    notice: Notice,
    record: Arc<Record>,
    moves: Vec<u64>,
}

/// Jobs a second for a model, from an entry, under a law.
#[derive(Clone)]
struct Demand {
    entry: usize,
    model: usize,
    bounds: Bounds,
    rate: u64,
}

struct Mesh {
    kinds: Vec<Kind>,
    peers: Vec<Peer>,
    second: u64,
    /// What all knew a second ago.
    known: Vec<Entry>,
    /// Of the last second: jobs asked and not answered.
    asked: u64,
    unmet: u64,
}

static TRUST: LazyLock<Trust> = LazyLock::new(|| {
    let any = || BTreeSet::from(["*".to_owned()]);
    let key = authority().verifier();
    Trust::new(vec![Authority { key, countries: any(), operators: any() }])
});

fn authority() -> SignerKey {
    SignerKey::new("authority", [250; 32]).unwrap()
}

fn advert(key: &SigningKey, place: &str, memory_mib: u32) -> Advert {
    let charter = Charter {
        serial: "1".into(),
        subject: key.peer_id(),
        location: place.parse().unwrap(),
        operator: "any".into(),
        lei: None,
        control: place.parse().unwrap(),
        data_classes: BTreeSet::new(),
        not_before: START,
        not_after: START + Duration::from_secs(1_000_000),
        authorities: BTreeSet::new(),
    };
    let device = Device {
        provider: "cpu".into(),
        name: String::new(),
        id: 0,
        memory_total_mib: memory_mib,
        memory_free_mib: 0,
        utilisation_percent: None,
    };
    Advert {
        peer: key.peer_id(),
        version: Version { epoch: 1, sequence: 1 },
        issued: START,
        name: String::new(),
        control_addrs: Vec::new(),
        data_addrs: Vec::new(),
        relays: Vec::new(),
        coordinate: Default::default(),
        charter: Some(charter.sign(&authority()).unwrap()),
        devices: if memory_mib > 0 { vec![device] } else { Vec::new() },
        models: Vec::new(),
        price: None,
        extensions: Vec::new(),
    }
}

impl Peer {
    fn new(index: usize, place: &'static str, gib: u64, pace: u64) -> Self {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&index.to_le_bytes());
        let key = SigningKey::from_seed(&seed);
        let mib = u32::try_from(gib << 10).unwrap();
        let record = advert(&key, place, mib).sign(&key).verify(&TRUST, now(0)).unwrap();
        Self {
            key,
            place,
            bytes_max: gib * GIB,
            pace,
            machine: Placement::new(Bounds::default()),
            held: BTreeMap::new(),
            notice: Notice::default(),
            record,
            moves: Vec::new(),
        }
    }

    fn has(&self, model: usize, second: u64) -> bool {
        self.held.get(&model).is_some_and(|since| *since <= second)
    }

    fn publish(&mut self, second: u64) {
        let mut advert = self.record.advert.clone();
        advert.version.sequence += 1;
        let offered = self.held.iter().filter(|(_, since)| **since <= second);
        let model = |(model, _): (&usize, &u64)| Model {
            name: format!("model-{model}"),
            version: "1".into(),
            bundle: bundle(*model),
            slots: SLOTS,
            service_us: 1,
        };
        advert.models = offered.map(model).collect();
        advert.tell(&self.notice);
        self.record = advert.sign(&self.key).verify(&TRUST, now(0)).unwrap();
    }

    fn stock(&self, kinds: &[Kind], second: u64) -> Vec<Stock> {
        let stock = |(model, kind): (usize, &Kind)| Stock {
            bundle: bundle(model),
            bytes: kind.bytes,
            law: Policy { bounds: kind.law.clone(), ..Policy::default() },
            per_minute: u32::try_from(self.pace * 60).unwrap(),
            state: match self.held.get(&model) {
                None => State::Absent,
                Some(since) if *since > second => State::Loading,
                Some(since) => State::Held { since: now(*since).mono },
            },
        };
        kinds.iter().enumerate().map(stock).collect()
    }

    fn decide(&mut self, kinds: &[Kind], second: u64, view: &View) -> Vec<Move> {
        let stock = self.stock(kinds, second);
        let shelf = Shelf { bytes_max: self.bytes_max, slots: SLOTS, stock: &stock };
        self.machine.decide(now(second), view, &shelf)
    }

    /// Does what it decided, and judges it.
    fn apply(&mut self, kinds: &[Kind], second: u64, moves: &[Move]) {
        for step in moves {
            match *step {
                Move::Drop { bundle } => {
                    let since = self.held.remove(&number(bundle)).expect("it has what it drops");
                    assert!(since + HELD_MIN.as_secs() <= second, "held for too short a time");
                }
                Move::Hold { bundle } => {
                    let kind = &kinds[number(bundle)];
                    assert!(permits(&kind.law, self.place), "{} must not have it", self.place);
                    let before = self.held.insert(number(bundle), second + LOADING);
                    assert_eq!(before, None, "it has it already");
                    self.moves.push(second);
                }
            }
        }
        let used: u64 = self.held.keys().map(|model| kinds[*model].bytes).sum();
        assert!(used <= self.bytes_max, "{used} bytes of {}", self.bytes_max);
        let lately = self.moves.iter().filter(|at| **at + 60 > second).count();
        assert!(lately <= MOVES_A_MINUTE_MAX, "{lately} moves in a minute");
    }
}

fn job(model: usize, bounds: &Bounds) -> Job {
    let policy = Policy { bounds: bounds.clone(), ..Policy::default() };
    Job::new(JobId([0; 16]), bundle(model), policy, &Bounds::default(), Mono(u64::MAX))
}

impl Mesh {
    fn new(kinds: Vec<Kind>, peers: Vec<Peer>) -> Self {
        let mut mesh = Self { kinds, peers, second: 0, known: Vec::new(), asked: 0, unmet: 0 };
        mesh.peers.iter_mut().for_each(|peer| peer.publish(0));
        mesh.known = mesh.entries();
        mesh
    }

    fn entries(&self) -> Vec<Entry> {
        let entry = |peer: &Peer| Entry {
            record: peer.record.clone(),
            liveness: Liveness::Alive,
            since: Mono(0),
        };
        self.peers.iter().map(entry).collect()
    }

    fn view(&self, peer: usize) -> View {
        View::new(self.peers[peer].key.peer_id(), self.known.clone())
    }

    fn holders(&self, model: usize) -> usize {
        self.peers.iter().filter(|peer| peer.held.contains_key(&model)).count()
    }

    fn moves(&self) -> usize {
        self.peers.iter().map(|peer| peer.moves.len()).sum()
    }

    /// Shares one second's jobs among those who may run them.
    fn work(&mut self, demands: &[Demand]) {
        let second = self.second;
        let mut left: Vec<u64> = self.peers.iter().map(|peer| peer.pace).collect();
        (self.asked, self.unmet) = (0, 0);
        for demand in demands {
            let job = job(demand.model, &demand.bounds);
            let mut missing = demand.rate;
            let may: Vec<usize> = (0..self.peers.len())
                .filter(|at| self.peers[*at].has(demand.model, second))
                .filter(|at| permits(&demand.bounds, self.peers[*at].place))
                .collect();
            for (rank, at) in may.iter().enumerate() {
                let others = (may.len() - rank) as u64;
                let share = missing.div_ceil(others).min(left[*at]);
                left[*at] -= share;
                missing -= share;
                let took = Duration::from_secs(u64::from(SLOTS)) * u32::try_from(share).unwrap();
                let took = took / u32::try_from(self.peers[*at].pace).unwrap();
                if share > 0 {
                    self.peers[*at].machine.ran(now(second).mono, &job, took);
                }
            }
            let machine = &mut self.peers[demand.entry].machine;
            (0..demand.rate).for_each(|_| machine.asked(now(second).mono, &job));
            (0..missing).for_each(|_| machine.missed(now(second).mono, &job));
            (missing..demand.rate).for_each(|_| machine.answered(now(second).mono, &job));
            self.asked += demand.rate;
            self.unmet += missing;
        }
    }

    fn step(&mut self, demands: &[Demand]) {
        self.work(demands);
        let known = self.entries();
        for at in 0..self.peers.len() {
            let (view, second) = (self.view(at), self.second);
            let peer = &mut self.peers[at];
            let moves = peer.decide(&self.kinds, second, &view);
            peer.apply(&self.kinds, second, &moves);
            let arrives = peer.held.values().any(|since| *since == second);
            if let Some(notice) = peer.machine.notice(now(second).mono) {
                peer.notice = notice;
                peer.publish(second);
            } else if arrives || !moves.is_empty() {
                peer.publish(second);
            }
        }
        for (model, _) in self.kinds.iter().enumerate() {
            assert!(self.holders(model) > 0, "nobody holds model {model} any more");
        }
        self.known = known;
        self.second += 1;
    }
}

fn anywhere(gib: u64) -> Kind {
    Kind { bytes: gib * GIB, law: Bounds::default() }
}

/// Servers that each hold the first model and some of the others, and one entry at the end.
fn servers(count: usize, models: usize, gib: u64) -> Vec<Peer> {
    let server = |index: usize| {
        let mut peer = Peer::new(index, "DE", gib, 10);
        peer.held.insert(index % models, 0);
        peer
    };
    let mut peers: Vec<Peer> = (0..count).map(server).collect();
    peers.push(Peer::new(count, "DE", 0, 1));
    peers
}

fn demand(entry: usize, model: usize, rate: u64) -> Demand {
    Demand { entry, model, bounds: Bounds::default(), rate }
}

#[test]
fn demand_that_grows_tenfold_is_met_within_a_minute_and_then_nothing_moves() {
    seed();
    // Room for three of six models on each of 40 servers that run 10 jobs a second.
    let mut mesh = Mesh::new(vec![anywhere(1); 6], servers(40, 6, 3));
    let even: Vec<Demand> = (0..6).map(|model| demand(40, model, 20)).collect();
    (0..120).for_each(|_| mesh.step(&even));
    assert_eq!(mesh.unmet, 0);
    let before = mesh.moves();
    let mut shifted = even;
    shifted[2].rate = 200;
    let mut met = 0;
    for second in 0..600 {
        mesh.step(&shifted);
        if mesh.unmet * 100 >= mesh.asked {
            met = second + 1;
        }
    }
    assert!(met <= 60, "met after {met} s");
    // 200 a second and a quarter more are 25 servers, and 7 had it.
    let moves = mesh.moves() - before;
    assert!((13..=36).contains(&moves), "{moves} moves");
    let last = mesh.peers.iter().filter_map(|peer| peer.moves.last()).max().unwrap();
    assert!(*last < 120 + 90, "something moved {} s after the shift", last - 120);
}

#[test]
fn constant_demand_comes_to_rest() {
    let mut rng = Rng::new(seed());
    for world in 0..6 {
        let models = 2 + rng.below(4);
        let count = 6 + rng.below(14);
        let mut mesh = Mesh::new(vec![anywhere(1); models], servers(count, models, 2));
        // From idle to more than there is.
        let rate = |rng: &mut Rng| rng.below(1 + 20 * count / models) as u64;
        let demands: Vec<Demand> =
            (0..models).map(|model| demand(count, model, rate(&mut rng))).collect();
        (0..400).for_each(|_| mesh.step(&demands));
        let before = mesh.moves();
        (0..300).for_each(|_| mesh.step(&demands));
        assert_eq!(mesh.moves(), before, "world {world} still moves after 400 s");
        assert!(before <= 3 * count, "world {world}: {before} moves of {count} peers");
    }
}

#[test]
fn whatever_is_asked_memory_law_and_bounds_are_kept_and_no_bundle_is_lost() {
    let mut rng = Rng::new(seed());
    let places = ["DE", "FR", "US", "SG"];
    let laws = [vec!["DE", "FR"], vec!["US"], vec!["DE", "FR", "US", "SG"]];
    let mut moves = 0;
    for world in 0..6 {
        let kinds: Vec<Kind> = (0..2 + rng.below(5))
            .map(|_| Kind {
                bytes: (1 + rng.below(4) as u64) * GIB,
                law: within(&laws[rng.below(3)]),
            })
            .collect();
        let mut peers = Vec::new();
        for index in 0..4 + rng.below(16) {
            let gib = 4 + rng.below(6) as u64;
            let mut peer = Peer::new(index, places[rng.below(4)], gib, 1 + rng.below(20) as u64);
            let mut used = 0;
            for (model, kind) in kinds.iter().enumerate() {
                let fits = used + kind.bytes <= peer.bytes_max;
                if fits && permits(&kind.law, peer.place) && rng.below(2) == 0 {
                    peer.held.insert(model, 0);
                    used += kind.bytes;
                }
            }
            peers.push(peer);
        }
        let entry = peers.len();
        peers.push(Peer::new(entry, places[rng.below(4)], 0, 1));
        let mut mesh = Mesh::new(kinds, peers);
        // What nobody holds at the beginning is nobody's to lose.
        for model in 0..mesh.kinds.len() {
            if mesh.holders(model) == 0 {
                let place = if permits(&mesh.kinds[model].law, "US") { "US" } else { "DE" };
                let mut archive = Peer::new(mesh.peers.len(), place, 9, 1);
                archive.held.insert(model, 0);
                archive.publish(0);
                mesh.peers.push(archive);
            }
        }
        mesh.known = mesh.entries();
        for _ in 0..4 {
            let demands: Vec<Demand> = (0..1 + rng.below(6))
                .map(|_| Demand {
                    entry,
                    model: rng.below(mesh.kinds.len()),
                    bounds: within(&laws[rng.below(3)]),
                    rate: rng.below(60) as u64,
                })
                .collect();
            (0..90).for_each(|_| mesh.step(&demands));
        }
        eprintln!("world {world}: {} moves", mesh.moves());
        moves += mesh.moves();
    }
    assert!(moves > 30, "{moves} moves show nothing");
}

/// Every peer holds model 0, which is cold, has room for nothing more, and is asked for model 1.
fn crowd(count: usize, places: &[&'static str]) -> Mesh {
    let peers = (0..count).map(|index| {
        let mut peer = Peer::new(index, places[index % places.len()], 1, 10);
        peer.held.insert(usize::from(index == count - 1), 0);
        peer
    });
    let mut peers: Vec<Peer> = peers.collect();
    peers.push(Peer::new(count, "DE", 0, 1));
    Mesh::new(vec![anywhere(1), anywhere(1)], peers)
}

/// Lets all decide on one view for a while, whatever they do.
fn rush(mesh: &mut Mesh, demands: &[Demand]) {
    for _ in 0..100 {
        mesh.work(demands);
        let entry = mesh.peers.len() - 1;
        if let Some(notice) = mesh.peers[entry].machine.notice(now(mesh.second).mono) {
            mesh.peers[entry].notice = notice;
            mesh.peers[entry].publish(mesh.second);
            mesh.known[entry] = mesh.entries()[entry].clone();
        }
        for at in 0..mesh.peers.len() {
            let (view, second) = (mesh.view(at), mesh.second);
            let moves = mesh.peers[at].decide(&mesh.kinds, second, &view);
            mesh.peers[at].apply(&mesh.kinds, second, &moves);
        }
        mesh.second += 1;
    }
}

#[test]
fn the_last_holder_stays_even_if_all_decide_at_once_and_hear_nothing_of_each_other() {
    seed();
    for count in 3..16 {
        let mut mesh = crowd(count, &["DE"]);
        mesh.second = 100;
        rush(&mut mesh, &[demand(count, 1, 5_000)]);
        assert!(mesh.holders(0) >= 1, "{count} peers lost it");
        assert!(
            count < 5 || mesh.holders(1) > 1,
            "{count} peers: nobody moved, which shows nothing"
        );
    }
}

#[test]
fn under_each_law_that_asked_for_it_somebody_still_holds_what_was_dropped() {
    seed();
    let laws = [within(&["DE"]), within(&["FR"]), within(&["US"])];
    let mut moved = 0;
    for count in 4..20 {
        let mut mesh = crowd(count, &["DE", "FR", "US"]);
        mesh.second = 10;
        let served = |mesh: &Mesh, law: &Bounds| {
            mesh.peers.iter().any(|peer| peer.held.contains_key(&0) && permits(law, peer.place))
        };
        let few: Vec<Demand> = laws
            .iter()
            .map(|bounds| Demand { bounds: bounds.clone(), ..demand(count, 0, 9) })
            .filter(|demand| served(&mesh, &demand.bounds))
            .collect();
        mesh.work(&few);
        mesh.second = 100;
        rush(&mut mesh, &[demand(count, 1, 5_000)]);
        for demand in &few {
            assert!(served(&mesh, &demand.bounds), "{count} peers: a law lost its holder");
        }
        moved += mesh.moves();
    }
    assert!(moved > 20, "{moved} moves show nothing");
}

#[test]
fn a_peer_brings_nothing_for_those_whom_it_may_not_serve_or_run() {
    seed();
    let wanting = |bounds: Bounds, serve: Bounds| {
        let mut mesh = Mesh::new(vec![anywhere(1), anywhere(1)], servers(8, 2, 2));
        for peer in &mut mesh.peers {
            peer.machine = Placement::new(serve.clone());
        }
        let demands = [Demand { bounds, ..demand(8, 0, 500) }];
        (0..60).for_each(|_| mesh.step(&demands));
        mesh.moves()
    };
    assert!(wanting(Bounds::default(), Bounds::default()) > 0);
    assert_eq!(wanting(within(&["US"]), Bounds::default()), 0, "all are in DE");
    assert_eq!(wanting(Bounds::default(), within(&["US"])), 0, "so is the entry");
}

#[test]
fn a_bundle_that_cannot_be_had_is_not_tried_at_once_again() {
    seed();
    let mut mesh = Mesh::new(vec![anywhere(1), anywhere(1)], servers(2, 2, 2));
    let demands = [demand(2, 0, 500)];
    let mut tries = Vec::new();
    for second in 0..120 {
        mesh.work(&demands);
        for at in 0..mesh.peers.len() {
            let view = mesh.view(at);
            let peer = &mut mesh.peers[at];
            if !peer.decide(&mesh.kinds, second, &view).is_empty() {
                tries.push(second);
                peer.machine.failed(now(second).mono, bundle(0));
            }
            if let Some(notice) = peer.machine.notice(now(second).mono) {
                peer.notice = notice;
                peer.publish(second);
            }
        }
        (mesh.known, mesh.second) = (mesh.entries(), second + 1);
    }
    assert!(tries.len() >= 2, "{tries:?}");
    assert!(tries.windows(2).all(|pair| pair[1] - pair[0] >= 30), "{tries:?}");
}

fn want(bounds: Bounds) -> Want {
    Want { bundle: bundle(0), per_minute: 96, bounds, device: DeviceNeeds::default() }
}

#[test]
fn a_notice_keeps_its_bytes_and_travels_in_an_advert() {
    let key = SigningKey::from_seed(&[1; 32]);
    let mut advert = advert(&key, "DE", 0);
    let pledge = Pledge { bundle: bundle(1), per_minute: 300 };
    let notice = Notice { wants: vec![want(within(&["DE"]))], pledges: vec![pledge] };
    advert.tell(&notice);
    let [extension] = &advert.extensions[..] else { panic!("one extension") };
    assert_eq!((extension.tag, extension.critical), (2, false));
    let hex: String = extension.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let (wanted, pledged) = ("01".repeat(32), "02".repeat(32));
    // Locations: one allowed, none denied; all other clauses and the device are free.
    let bounds = format!("01010244450000{}", "0000".repeat(2) + "00" + "00" + "00");
    assert_eq!(hex, format!("01{wanted}60{bounds}000001{pledged}fb2c01"));
    let record = advert.clone().sign(&key).verify(&TRUST, now(0)).unwrap();
    assert_eq!(record.notice, notice);
    advert.tell(&Notice::default());
    assert!(advert.extensions.is_empty());
}

#[test]
fn a_notice_gives_way_to_what_a_peer_serves_and_one_over_its_limit_is_refused() {
    let key = SigningKey::from_seed(&[1; 32]);
    let mut advert = advert(&key, "DE", 0);
    let names = (0..80).map(|n| format!("operator number {n}"));
    let long = Bounds {
        operators: Clause { allow: Some(names.take(40).collect()), ..Clause::default() },
        ..Bounds::default()
    };
    let wants = vec![want(within(&["DE"])), want(long.clone()), want(long)];
    advert.tell(&Notice { wants: wants.clone(), pledges: Vec::new() });
    let record = advert.clone().sign(&key).verify(&TRUST, now(0)).unwrap();
    assert_eq!(record.notice.wants, wants[..2], "three are over the limit");
    advert.name = "x".repeat(250);
    let model = |n: usize| Model {
        name: format!("a model of a long name, number {n}"),
        version: "1".into(),
        bundle: bundle(n),
        slots: 1,
        service_us: 1,
    };
    advert.models = (0..38).map(model).collect();
    advert.tell(&Notice { wants: wants.clone(), pledges: Vec::new() });
    let signed = advert.clone().sign(&key);
    assert!(signed.len() <= ADVERT_BYTES_MAX, "{} bytes", signed.len());
    assert_eq!(signed.verify(&TRUST, now(0)).unwrap().notice.wants, wants[..1]);

    advert.models.clear();
    let wants = vec![want(Bounds::default()); WANTS_MAX + 1];
    advert.tell(&Notice { wants, pledges: Vec::new() });
    let fault = advert.sign(&key).verify(&TRUST, now(0)).unwrap_err();
    assert_eq!(fault, AdvertFault::OverLimit("notice"));
}

#[test]
fn peers_are_told_apart() {
    // The harness draws keys by index: two alike would test nothing.
    let peers: BTreeSet<PeerId> =
        (0..40).map(|index| Peer::new(index, "DE", 1, 1).key.peer_id()).collect();
    assert_eq!(peers.len(), 40);
}
