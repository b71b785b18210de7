//! Chains of stages: each is whole, within the law, and the cheapest there is.
//!
//! Random from one seed, printed first: `HANSA_LAW_SEED=<seed> cargo test -p hansa-core --test
//! chains`.

use std::collections::BTreeSet;
use std::time::Duration;

use hansa_core::advert::{Advert, Stage, Version};
use hansa_core::chain::survey::Survey;
use hansa_core::chain::{Chain, Link, chain};
use hansa_core::charter::{Authority, Charter, Trust};
use hansa_core::gate::Rule;
use hansa_core::id::{Digest, JobId, PeerId};
use hansa_core::keys::SigningKey;
use hansa_core::loads::Loads;
use hansa_core::note::SignerKey;
use hansa_core::plan::{Job, Plan, Refusal, plan};
use hansa_core::policy::{Bounds, Policy, Split};
use hansa_core::quote::Quote;
use hansa_core::rng::Rng;
use hansa_core::time::{Mono, Now, Utc};
use hansa_core::view::{Entry, Liveness, View};

const NOW: Now = Now { mono: Mono(5_000_000_000), utc: Utc(1_800_000_000_000) };
const HOUR_MS: u64 = 3_600_000;
const WHOLE: Digest = Digest([7; 32]);
/// Nodes of the model, and where it may be cut.
const OF: u32 = 40;
const ENDS: [u32; 5] = [0, 10, 20, 30, 40];

fn seed() -> u64 {
    let seed = std::env::var("HANSA_LAW_SEED").map_or(20_261_123, |text| text.parse().unwrap());
    eprintln!("HANSA_LAW_SEED={seed}");
    seed
}

fn stage(from: u32, to: u32, service_us: u32) -> Stage {
    let mut bundle = Digest([1; 32]);
    bundle.0[..4].copy_from_slice(&from.to_le_bytes());
    bundle.0[4..8].copy_from_slice(&to.to_le_bytes());
    Stage {
        name: "deep".into(),
        version: "1".into(),
        whole: WHOLE,
        bundle,
        from,
        to,
        of: OF,
        slots: 1,
        service_us,
    }
}

fn entry(index: u8, place: &str, liveness: Liveness, stages: &[Stage]) -> Entry {
    let key = SigningKey::from_seed(&[index; 32]);
    let signer = SignerKey::new("authority", [250; 32]).unwrap();
    let any = || BTreeSet::from(["*".to_owned()]);
    let trust =
        Trust::new(vec![Authority { key: signer.verifier(), countries: any(), operators: any() }]);
    let charter = Charter {
        serial: index.to_string(),
        subject: key.peer_id(),
        location: place.parse().unwrap(),
        operator: "any".into(),
        lei: None,
        control: place.parse().unwrap(),
        data_classes: BTreeSet::new(),
        not_before: Utc(NOW.utc.0 - HOUR_MS),
        not_after: Utc(NOW.utc.0 + HOUR_MS),
        authorities: BTreeSet::new(),
    };
    let mut advert = Advert {
        peer: key.peer_id(),
        version: Version { epoch: 1, sequence: 1 },
        issued: NOW.utc,
        name: index.to_string(),
        control_addrs: Vec::new(),
        data_addrs: Vec::new(),
        relays: Vec::new(),
        coordinate: Default::default(),
        charter: Some(charter.sign(&signer).unwrap()),
        devices: Vec::new(),
        models: Vec::new(),
        price: None,
        extensions: Vec::new(),
    };
    advert.offer_stages(stages);
    let record = advert.sign(&key).verify(&trust, NOW).unwrap();
    assert_eq!(record.stages, stages);
    Entry { record, liveness, since: Mono(0) }
}

fn job(policy: Policy, rng: &mut Rng) -> Job {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&rng.next_u64().to_le_bytes());
    Job::new(JobId(id), WHOLE, policy, &Bounds::default(), Mono(NOW.mono.0 + 1_000_000_000))
}

fn me(view: &View) -> PeerId {
    view.me()
}

/// A mesh of up to nine peers, this one among them, with up to two stages each.
fn mesh(rng: &mut Rng) -> (View, Loads) {
    let mut loads = Loads::new();
    let mut entries = Vec::new();
    for index in 0..2 + rng.below(8) {
        let mut stages = Vec::<Stage>::new();
        for _ in 0..rng.below(3) {
            let from = rng.below(ENDS.len() - 1);
            let to = from + 1 + rng.below(ENDS.len() - from - 1);
            let cost = 1 + u32::try_from(rng.below(20_000)).unwrap();
            let fresh = stage(ENDS[from], ENDS[to], cost);
            if stages.iter().all(|held| held.bundle != fresh.bundle) {
                stages.push(fresh);
            }
        }
        let place = ["DE", "FR", "US"][rng.below(3)];
        let liveness =
            if index > 0 && rng.below(8) == 0 { Liveness::Down } else { Liveness::Alive };
        let entry = entry(u8::try_from(index).unwrap() + 1, place, liveness, &stages);
        if rng.below(2) == 0 {
            let rtt = Duration::from_micros(1 + rng.below(80_000) as u64);
            loads.measured_rtt(entry.record.advert.peer, rtt);
        }
        entries.push(entry);
    }
    let me = entries[0].record.advert.peer;
    (View::new(me, entries), loads)
}

/// What the law of costs says of a chain: half a round trip from peer to peer and back home (where
/// nobody measured, the median of what was, or 20 ms), and the service of each stage.
fn cost(view: &View, loads: &Loads, links: &[Link]) -> Duration {
    let me = me(view);
    let peers = view.entries().iter().map(|entry| entry.record.advert.peer);
    let mut measured: Vec<Duration> = peers.filter_map(|peer| loads.rtt(peer)).collect();
    measured.sort_unstable();
    let unknown = measured.get(measured.len() / 2).copied();
    let unknown = unknown.unwrap_or(Duration::from_millis(20));
    let way = |a: PeerId, b: PeerId| {
        let known = if a == me {
            loads.rtt(b)
        } else if b == me {
            loads.rtt(a)
        } else {
            None
        };
        if a == b { Duration::ZERO } else { known.unwrap_or(unknown) / 2 }
    };
    let mut at = me;
    let mut total = Duration::ZERO;
    for link in links {
        let record = &view.get(link.peer).unwrap().record;
        let stage = record.stages.iter().find(|stage| stage.bundle == link.bundle).unwrap();
        total += way(at, link.peer) + Duration::from_micros(stage.service_us.into());
        at = link.peer;
    }
    total + way(at, me)
}

/// Every chain there is, by trying all.
fn all(view: &View, may: &dyn Fn(&Entry) -> bool, at: u32, so_far: &[Link]) -> Vec<Vec<Link>> {
    if at == OF {
        return vec![so_far.to_vec()];
    }
    let mut found = Vec::new();
    for entry in view.entries().iter().filter(|entry| may(entry)) {
        for stage in entry.record.stages.iter().filter(|stage| stage.from == at) {
            let peer = entry.record.advert.peer;
            let link = Link { peer, bundle: stage.bundle, from: stage.from, to: stage.to };
            found.extend(all(view, may, stage.to, &[so_far, &[link]].concat()));
        }
    }
    found
}

#[test]
fn a_chain_is_whole_within_the_law_and_the_cheapest() {
    let mut rng = Rng::new(seed());
    let (mut found, mut none) = (0, 0);
    for _ in 0..2_000 {
        let (view, loads) = mesh(&mut rng);
        let mut policy = Policy::default();
        let places = ["DE", "FR"];
        if rng.below(2) == 0 {
            let only = places.iter().map(|place| place.parse().unwrap()).collect();
            policy.bounds.locations.allow = Some(only);
        }
        let is_bound = policy.bounds.locations.allow.is_some();
        let job = job(policy, &mut rng);
        let may = |entry: &Entry| {
            let place = entry.record.charter.as_ref().unwrap().location.to_string();
            entry.liveness != Liveness::Down && (!is_bound || places.contains(&&*place))
        };
        // Where this node itself may see the job: else it would not be here.
        let here = view.get(me(&view)).unwrap();
        let all = if may(here) || !is_bound { all(&view, &may, 0, &[]) } else { continue };
        let best = all.iter().map(|links| cost(&view, &loads, links)).min();
        match chain(NOW, &view, &loads, &job, 0, &[]) {
            None => {
                none += 1;
                assert_eq!(best, None);
                let planned = plan(NOW, &view, &loads, &job, &[]);
                assert!(matches!(planned, Plan::Refuse(_)), "{planned:?}");
            }
            Some(Chain { links, cost: said, .. }) => {
                found += 1;
                assert!(all.contains(&links), "{links:?}");
                assert_eq!(Some(said), best);
                assert_eq!(said, cost(&view, &loads, &links));
            }
        }
    }
    assert!(found > 200 && none > 200, "{found} chains, {none} without");
}

#[test]
fn a_chain_is_mended_from_where_it_broke_without_the_dead() {
    let (a, b) = (stage(0, 20, 10), stage(20, 40, 10));
    let entries = [
        entry(1, "DE", Liveness::Alive, &[]),
        entry(2, "DE", Liveness::Alive, &[a]),
        entry(3, "DE", Liveness::Alive, std::slice::from_ref(&b)),
        entry(4, "DE", Liveness::Alive, &[b]),
    ];
    let id = |index: usize| entries[index].record.advert.peer;
    let (me, second, third, fourth) = (id(0), id(1), id(2), id(3));
    let view = View::new(second, entries.to_vec());
    let mut rng = Rng::new(seed());
    let mut job = job(Policy::default(), &mut rng);
    job.path = vec![me];
    let loads = Loads::new();
    let rest = |tried: &[PeerId]| chain(NOW, &view, &loads, &job, 20, tried);
    let first = rest(&[]).unwrap().links;
    assert_eq!(first.len(), 1);
    let other = if first[0].peer == third { fourth } else { third };
    assert_eq!(rest(&[first[0].peer]).unwrap().links[0].peer, other);
    assert_eq!(rest(&[third, fourth]), None);
}

#[test]
fn stages_are_taken_where_nobody_holds_the_whole_and_never_against_the_apps_will() {
    let entries = [
        entry(1, "DE", Liveness::Alive, &[]),
        entry(2, "DE", Liveness::Alive, &[stage(0, 20, 10)]),
        entry(3, "US", Liveness::Alive, &[stage(20, 40, 10)]),
    ];
    let view = View::new(entries[0].record.advert.peer, entries.to_vec());
    let mut rng = Rng::new(seed());
    let loads = Loads::new();
    let planned = |policy: Policy, rng: &mut Rng| plan(NOW, &view, &loads, &job(policy, rng), &[]);
    let chosen = planned(Policy::default(), &mut rng);
    assert!(matches!(chosen, Plan::Stages { ref chain } if chain.links.len() == 2), "{chosen:?}");
    let never = Policy { split: Split::Never, ..Policy::default() };
    assert!(matches!(planned(never, &mut rng), Plan::Refuse(_)));
    let one = Policy { stages_max: Some(1), ..Policy::default() };
    assert!(matches!(planned(one, &mut rng), Plan::Refuse(_)));
    let mut german = Policy::default();
    german.bounds.locations.allow = Some(["DE".parse().unwrap()].into());
    let Plan::Refuse(Refusal::PolicyUnsatisfiable { failed }) = planned(german, &mut rng) else {
        panic!("the US may not see it");
    };
    assert_eq!(failed, [(Rule::Location, 1)].into());
    // Without its second half the model is not there, and nobody's law is to blame.
    let half = View::new(view.me(), entries[..2].to_vec());
    let gap = plan(NOW, &half, &loads, &job(Policy::default(), &mut rng), &[]);
    assert_eq!(gap, Plan::Refuse(Refusal::Gap { at: 20, of: 40 }));
}

fn waits(ms: u32) -> Quote {
    Quote { wait_us: ms * 1_000, service_us: 60_000, ..Quote::default() }
}

/// This peer, and two for each of two stages that take 60 ms.
fn doubled() -> View {
    let (a, b) = (stage(0, 20, 60_000), stage(20, 40, 60_000));
    let entries: Vec<Entry> = [vec![], vec![a.clone()], vec![a], vec![b.clone()], vec![b]]
        .iter()
        .zip(1..)
        .map(|(stages, index)| entry(index, "DE", Liveness::Alive, stages))
        .collect();
    View::new(entries[0].record.advert.peer, entries)
}

#[test]
fn a_long_job_takes_the_chain_of_those_that_say_they_are_free() {
    let (view, loads) = (doubled(), Loads::new());
    let job = job(Policy::default(), &mut Rng::new(seed()));
    let begun = Survey::begin(NOW, &view, &loads, &job, |_| None).expect("it is long");
    let asked: Vec<_> = begun.questions().collect();
    assert_eq!(asked.len(), 4, "both of each stage");
    // Whichever of each stage is free, that one is taken.
    for free in 0..4_usize {
        let mut survey = begun.clone();
        for (number, (peer, bundle, _)) in asked.iter().enumerate() {
            let of_stage = if *bundle == asked[0].1 { free & 1 } else { free >> 1 };
            let before = asked[..number].iter().filter(|(_, other, _)| other == bundle).count();
            survey.quoted(*peer, *bundle, waits(if before == of_stage { 0 } else { 500 }));
        }
        let chosen = survey.decide(NOW, &view, &loads, &job).expect("all have answered").unwrap();
        let said = Duration::from_millis(120) + 3 * Duration::from_millis(10);
        assert_eq!((chosen.links.len(), chosen.cost), (2, said));
    }
}

#[test]
fn no_answer_is_waited_for_that_could_not_better_the_chain() {
    let (view, loads) = (doubled(), Loads::new());
    let job = job(Policy::default(), &mut Rng::new(seed()));
    let mut survey = Survey::begin(NOW, &view, &loads, &job, |_| None).unwrap();
    let asked: Vec<_> = survey.questions().collect();
    let (first, last) = (asked[0], *asked.iter().find(|other| other.1 != asked[0].1).unwrap());
    survey.quoted(first.0, first.1, waits(0));
    assert_eq!(survey.decide(NOW, &view, &loads, &job), None);
    survey.quoted(last.0, last.1, waits(0));
    let chosen = survey.decide(NOW, &view, &loads, &job).expect("nobody can be sooner").unwrap();
    assert_eq!(chosen.links.len(), 2);
    // Silence ends it too: at the latest when its time is up.
    let mut survey = Survey::begin(NOW, &view, &loads, &job, |_| None).unwrap();
    survey.silent(first.0, first.1);
    let late = Now { mono: survey.until(), ..NOW };
    assert_eq!(survey.decide(late, &view, &loads, &job), Some(None));
}

#[test]
fn nobody_is_asked_about_a_short_job_or_where_there_is_one_chain_only() {
    let loads = Loads::new();
    let job = job(Policy::default(), &mut Rng::new(seed()));
    let view = doubled();
    let alone = View::new(view.me(), [0, 1, 3].map(|at| lone(&view, at)).to_vec());
    assert!(Survey::begin(NOW, &alone, &loads, &job, |_| None).is_none());
    let quick = [stage(0, 20, 900), stage(20, 40, 900)];
    let entries: Vec<Entry> = (1..=5)
        .map(|index| {
            let stages =
                if index == 1 { vec![] } else { vec![quick[usize::from(index) % 2].clone()] };
            entry(index, "DE", Liveness::Alive, &stages)
        })
        .collect();
    let view = View::new(entries[0].record.advert.peer, entries);
    assert!(Survey::begin(NOW, &view, &loads, &job, |_| None).is_none());
}

/// The entry of the peer that [`doubled`] made as number `at`.
fn lone(view: &View, at: u8) -> Entry {
    let peer = SigningKey::from_seed(&[at + 1; 32]).peer_id();
    view.get(peer).unwrap().clone()
}
