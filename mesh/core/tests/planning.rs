//! Plans over a mesh too large to look at every peer: what is drawn stays within the law, what is
//! refused is refused for everybody, and explanations agree. Small meshes that fail, forward and
//! retry are in `tests/law`.
//!
//! Random from one seed, printed first: `HANSA_LAW_SEED=<seed> cargo test -p hansa-core --test
//! planning`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hansa_core::advert::{Advert, Device, Model, Version};
use hansa_core::charter::{Authority, Charter, Trust};
use hansa_core::explain::{Choice, explain};
use hansa_core::flight::{Event, Flight, RetryBudget, Step};
use hansa_core::gate::Rule;
use hansa_core::id::{Digest, JobId, PeerId};
use hansa_core::keys::SigningKey;
use hansa_core::limits::CANDIDATES_MAX;
use hansa_core::loads::{Loads, Report};
use hansa_core::note::SignerKey;
use hansa_core::plan::{Job, Plan, Refusal, plan};
use hansa_core::policy::{Bounds, Policy};
use hansa_core::rng::Rng;
use hansa_core::time::{Mono, Now, Utc};
use hansa_core::view::{Entry, Liveness, View};

const PEERS: usize = 240;
const POLICIES: usize = 150;
const NOW: Now = Now { mono: Mono(5_000_000_000), utc: Utc(1_800_000_000_000) };
const HOUR_MS: u64 = 3_600_000;
const BUNDLE: Digest = Digest([7; 32]);
const PLACES: [&str; 7] = ["DE", "DE-BE", "DE-BY", "FR", "IE", "US", "SG"];
const CONTROLS: [&str; 3] = ["DE", "US", "SG"];
const OPERATORS: [&str; 4] = ["Nordlicht", "Acme", "Temasek", "Harbour"];

fn seed() -> u64 {
    let seed = std::env::var("HANSA_LAW_SEED").map_or(20_260_101, |text| text.parse().unwrap());
    eprintln!("HANSA_LAW_SEED={seed}");
    seed
}

/// What is true of a peer, and how the mesh sees it.
#[derive(Clone, Copy)]
struct Peer {
    id: PeerId,
    place: &'static str,
    control: &'static str,
    operator: &'static str,
    health: bool,
    /// None: it shows no charter.
    from: Option<u64>,
    cuda: bool,
    holds: bool,
    liveness: Liveness,
    avoided: bool,
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len())]
}

fn peer(index: usize, rng: &mut Rng) -> (Peer, SigningKey) {
    let key = SigningKey::from_seed(&[u8::try_from(index).unwrap(); 32]);
    let liveness = match rng.below(12) {
        0 => Liveness::Down,
        1 => Liveness::Suspect,
        _ => Liveness::Alive,
    };
    let from = match rng.below(12) {
        0 => None,
        1 => Some(NOW.utc.0 - 3 * HOUR_MS),
        2 => Some(NOW.utc.0 + HOUR_MS),
        _ => Some(NOW.utc.0 - HOUR_MS),
    };
    let peer = Peer {
        id: key.peer_id(),
        place: pick(rng, &PLACES),
        control: pick(rng, &CONTROLS),
        operator: pick(rng, &OPERATORS),
        health: rng.below(2) == 0,
        from,
        cuda: rng.below(3) == 0,
        holds: index != 0 && rng.below(10) > 0,
        liveness,
        avoided: index != 0 && rng.below(12) == 0,
    };
    (peer, key)
}

fn entry(peer: &Peer, key: &SigningKey, signer: &SignerKey, trust: &Trust, rng: &mut Rng) -> Entry {
    let charter = |from: u64| Charter {
        serial: peer.id.to_string(),
        subject: peer.id,
        location: peer.place.parse().unwrap(),
        operator: peer.operator.into(),
        lei: None,
        control: peer.control.parse().unwrap(),
        data_classes: if peer.health { ["health".to_owned()].into() } else { BTreeSet::new() },
        not_before: Utc(from),
        not_after: Utc(from + 2 * HOUR_MS),
        authorities: BTreeSet::new(),
    };
    let device = Device {
        provider: if peer.cuda { "cuda" } else { "cpu" }.into(),
        name: "any".into(),
        id: 0,
        memory_total_mib: 8_000,
        memory_free_mib: 8_000,
        utilisation_percent: None,
    };
    let model = Model {
        name: "model".into(),
        version: "1".into(),
        bundle: BUNDLE,
        slots: u16::try_from(rng.below(4)).unwrap(),
        service_us: u32::try_from(rng.below(20_000)).unwrap(),
    };
    let advert = Advert {
        peer: peer.id,
        version: Version { epoch: 1, sequence: 1 },
        issued: NOW.utc,
        name: peer.id.to_string(),
        control_addrs: Vec::new(),
        data_addrs: Vec::new(),
        relays: Vec::new(),
        coordinate: Default::default(),
        charter: peer.from.map(|from| charter(from).sign(signer).unwrap()),
        devices: vec![device],
        models: if peer.holds { vec![model] } else { Vec::new() },
        price: None,
        extensions: Vec::new(),
    };
    let record = advert.sign(key).verify(trust, NOW).unwrap();
    Entry { record, liveness: peer.liveness, since: Mono(0) }
}

/// Peers, the view that the first of them has, and what it measured.
fn mesh(rng: &mut Rng) -> (Vec<Peer>, View, Loads) {
    let signer = SignerKey::new("authority", [250; 32]).unwrap();
    let any = || BTreeSet::from(["*".to_owned()]);
    let authority = Authority { key: signer.verifier(), countries: any(), operators: any() };
    let trust = Trust::new(vec![authority]);
    let mut loads = Loads::new();
    let (mut peers, mut entries) = (Vec::new(), Vec::new());
    for index in 0..PEERS {
        let (peer, key) = peer(index, rng);
        entries.push(entry(&peer, &key, &signer, &trust, rng));
        if rng.below(2) == 0 {
            let us = 200 + rng.below(100_000) as u64;
            loads.measured_rtt(peer.id, Duration::from_micros(us));
        }
        if peer.avoided {
            loads.failed(peer.id, NOW.mono);
        }
        peers.push(peer);
    }
    let view = View::new(peers[0].id, entries);
    (peers, view, loads)
}

/// A policy as it was meant, for the oracle, and as the core reads it.
#[derive(Clone, Debug, Default)]
struct Meant {
    places: Option<BTreeSet<&'static str>>,
    not_places: BTreeSet<&'static str>,
    controls: Option<BTreeSet<&'static str>>,
    not_operators: BTreeSet<&'static str>,
    health: bool,
    cuda: bool,
}

impl Meant {
    fn draw(rng: &mut Rng) -> Self {
        let some = |rng: &mut Rng, from: &[&'static str], most: usize| {
            let count = rng.below(most + 1);
            (0..count).map(|_| pick(rng, from)).collect::<BTreeSet<_>>()
        };
        let mut meant = Self::default();
        if rng.below(2) == 0 {
            meant.places = Some(some(rng, &PLACES, 4));
        }
        if rng.below(3) == 0 {
            meant.not_places = some(rng, &PLACES, 2);
        }
        if rng.below(3) == 0 {
            meant.controls = Some(some(rng, &CONTROLS, 2));
        }
        if rng.below(3) == 0 {
            meant.not_operators = some(rng, &OPERATORS, 3);
        }
        meant.health = rng.below(4) == 0;
        meant.cuda = rng.below(4) == 0;
        meant
    }

    fn policy(&self) -> Policy {
        let places = |set: &BTreeSet<&str>| set.iter().map(|p| p.parse().unwrap()).collect();
        let mut policy = Policy::default();
        let bounds = &mut policy.bounds;
        bounds.locations.allow = self.places.as_ref().map(places);
        bounds.locations.deny = places(&self.not_places);
        bounds.control.allow = self.controls.as_ref().map(places);
        bounds.operators.deny = self.not_operators.iter().map(|o| (*o).to_owned()).collect();
        bounds.data_classes = self.health.then(|| "health".to_owned()).into_iter().collect();
        policy.device.provider = self.cuda.then(|| "cuda".to_owned());
        policy
    }

    /// The first rule that keeps a holder out, by a reading of its own.
    fn keeps_out(&self, peer: &Peer, now: Utc) -> Option<Rule> {
        let within = |outer: &str, inner: &str| outer == inner || &inner[..2] == outer;
        let Some(from) = peer.from else { return Some(Rule::NoCharter) };
        if now.0 < from || now.0 >= from + 2 * HOUR_MS {
            return Some(Rule::CharterExpired);
        }
        let listed = |set: &BTreeSet<&str>| set.iter().any(|outer| within(outer, peer.place));
        let touches = |part: &&&str| within(part, peer.place) || within(peer.place, part);
        if self.places.as_ref().is_some_and(|places| !listed(places))
            || self.not_places.iter().any(|part| touches(&part))
        {
            return Some(Rule::Location);
        }
        if self.controls.as_ref().is_some_and(|controls| !controls.contains(peer.control)) {
            return Some(Rule::Control);
        }
        if self.not_operators.contains(peer.operator) {
            return Some(Rule::Operator);
        }
        if self.health && !peer.health {
            return Some(Rule::DataClass);
        }
        if self.cuda && !peer.cuda {
            return Some(Rule::Device);
        }
        (peer.liveness == Liveness::Down || peer.avoided).then_some(Rule::Unreachable)
    }
}

fn job(policy: &Policy, number: u64) -> Job {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_le_bytes());
    Job::new(JobId(id), BUNDLE, policy.clone(), &Bounds::default(), Mono(u64::MAX))
}

#[test]
fn a_draw_from_many_stays_within_the_law_and_a_refusal_speaks_for_all() {
    let mut rng = Rng::new(seed());
    let (peers, view, loads) = mesh(&mut rng);
    let (mut drawn, mut refused) = (0, 0);
    for _ in 0..POLICIES {
        let meant = Meant::draw(&mut rng);
        let policy = meant.policy();
        // Time goes on while a verdict is kept: charters lapse and begin.
        for (number, hours) in [0, 0, 0, 1, 2].into_iter().enumerate() {
            let now = Now { utc: Utc(NOW.utc.0 + hours * HOUR_MS), ..NOW };
            let mut failed = BTreeMap::new();
            let mut open = 0;
            for peer in peers.iter().filter(|peer| peer.holds) {
                match meant.keeps_out(peer, now.utc) {
                    Some(rule) => *failed.entry(rule).or_insert(0) += 1,
                    None => open += 1,
                }
            }
            match plan(now, &view, &loads, &job(&policy, number as u64), &[]) {
                Plan::Forward { to, .. } => {
                    let peer = peers.iter().find(|peer| peer.id == to).unwrap();
                    assert!(peer.holds, "{meant:?}");
                    assert_eq!(meant.keeps_out(peer, now.utc), None, "{meant:?}");
                    drawn += usize::from(open > CANDIDATES_MAX);
                }
                Plan::Refuse(
                    Refusal::PolicyUnsatisfiable { failed: told }
                    | Refusal::Unavailable { failed: told },
                ) => {
                    assert_eq!(open, 0, "{meant:?}");
                    assert_eq!(told, failed, "{meant:?}");
                    refused += 1;
                }
                other => panic!("{meant:?}: {other:?}"),
            }
        }
    }
    assert!(drawn > 100 && refused > 30, "{drawn} drawn, {refused} refused: little was tested");
}

#[test]
fn an_explanation_agrees_with_the_plan_and_with_the_law() {
    let mut rng = Rng::new(seed());
    let (peers, view, loads) = mesh(&mut rng);
    let (mut firsts, mut forwards) = (0, 0);
    for number in 0..POLICIES {
        let meant = Meant::draw(&mut rng);
        let job = job(&meant.policy(), number as u64);
        let explanation = explain(NOW, &view, &loads, &job);
        assert_eq!(explanation.peers.len(), PEERS);
        let mut ranked = 0;
        for told in &explanation.peers {
            let peer = peers.iter().find(|peer| peer.id == told.peer_id).unwrap();
            let rule = told.gated_out.as_ref().map(|reason| reason.rule);
            let expected = meant.keeps_out(peer, NOW.utc);
            if peer.holds {
                assert_eq!(rule, expected, "{meant:?}");
            } else {
                assert!(rule.is_some(), "{meant:?}");
            }
            assert_eq!(told.rank.is_some(), rule.is_none());
            ranked += usize::from(told.rank.is_some());
        }
        match (&explanation.plan, plan(NOW, &view, &loads, &job, &[])) {
            (Choice::Forward { peer_id, .. }, Plan::Forward { to, .. }) => {
                assert_eq!(*peer_id, to);
                let chosen = explanation.peers.iter().find(|peer| peer.peer_id == to).unwrap();
                let rank = chosen.rank.expect("the chosen is ranked");
                // Those that cannot take a job just now count among the permitted.
                let at_best = |peer: &&Peer| {
                    let able = Peer { avoided: false, ..**peer };
                    let then = Utc(peer.from.unwrap_or_default());
                    peer.holds && meant.keeps_out(&able, then).is_none()
                };
                if peers.iter().filter(at_best).count() <= CANDIDATES_MAX {
                    assert_eq!(rank, 1, "{meant:?}");
                    firsts += 1;
                }
                forwards += 1;
            }
            (Choice::Refuse { .. }, Plan::Refuse(_)) => assert_eq!(ranked, 0),
            (told, planned) => panic!("{told:?} is not {planned:?}"),
        }
    }
    assert!(firsts > 10 && forwards > firsts, "{firsts} of {forwards}: little was tested");
}

#[test]
fn the_nearest_permitted_peer_is_found_among_many() {
    let mut rng = Rng::new(seed());
    let (peers, view, _) = mesh(&mut rng);
    let meant = Meant { places: Some(["US"].into()), ..Meant::default() };
    let open = |peer: &&Peer| peer.holds && meant.keeps_out(peer, NOW.utc).is_none();
    assert!(peers.iter().filter(open).count() > CANDIDATES_MAX, "else nothing is drawn");
    let near = peers.iter().filter(open).find(|peer| peer.liveness == Liveness::Alive).unwrap();
    let mut loads = Loads::new();
    loads.measured_rtt(near.id, Duration::from_micros(50));
    let report = Report {
        took: Duration::from_micros(200),
        service: Duration::from_micros(100),
        rows: 1,
        ..Report::default()
    };
    loads.answered(near.id, BUNDLE, report, NOW.mono);
    for number in 0..100 {
        let planned = plan(NOW, &view, &loads, &job(&meant.policy(), number), &[]);
        assert!(matches!(planned, Plan::Forward { to, .. } if to == near.id), "{planned:?}");
    }
    // One failure, and from that moment on it gets no job; once heard of, it does again.
    loads.failed(near.id, NOW.mono);
    let second = Now { mono: NOW.mono + Duration::from_secs(1), ..NOW };
    for number in 0..100 {
        let planned = plan(second, &view, &loads, &job(&meant.policy(), number), &[]);
        assert!(matches!(planned, Plan::Forward { to, .. } if to != near.id), "{planned:?}");
    }
    loads.heard(near.id);
    let planned = plan(second, &view, &loads, &job(&meant.policy(), 0), &[]);
    assert!(matches!(planned, Plan::Forward { to, .. } if to == near.id), "{planned:?}");
}

/// A peer may claim any load; the planner only ranks by it.
#[test]
fn a_claim_of_endless_work_is_survived() {
    let (_, view, mut loads) = mesh(&mut Rng::new(seed()));
    let (took, claim) = (Duration::from_secs(3_600), Duration::MAX);
    for entry in view.entries() {
        let report = Report {
            took,
            queue: claim,
            service: claim,
            rows: 1,
            bytes: u64::MAX,
            in_flight: u32::MAX,
        };
        loads.answered(entry.record.advert.peer, BUNDLE, report, NOW.mono);
    }
    let job = Job { rows: u32::MAX, bytes: u64::MAX, ..job(&Policy::default(), 1) };
    assert!(matches!(plan(NOW, &view, &loads, &job, &[]), Plan::Forward { .. }));
}

/// kill -9 of a peer with 200 jobs in flight: each is answered by another permitted peer, whatever
/// the retry budget has left, and none goes back to the dead one.
#[test]
fn every_job_in_flight_at_a_peer_that_dies_flies_on() {
    let mut rng = Rng::new(seed());
    let (peers, view, mut loads) = mesh(&mut rng);
    let meant = Meant { places: Some(["DE", "FR"].into()), ..Meant::default() };
    let policy = meant.policy();
    let mut budget = RetryBudget::default();
    let mut flights = Vec::new();
    for number in 0..200 {
        let mut flight = Flight::begin(job(&policy, number));
        match flight.handle(NOW, Event::Begin, &view, &loads, &mut budget) {
            Step::Send { to } => flights.push((flight, to)),
            other => panic!("{other:?}"),
        }
    }
    // Nothing is left to spend.
    let busy = || Event::Refused(Refusal::Busy { retry_after_ms: 1 });
    for number in 1_000..2_000 {
        let mut flight = Flight::begin(job(&policy, number));
        let mut step = flight.handle(NOW, Event::Begin, &view, &loads, &mut budget);
        while let Step::Send { .. } = step {
            step = flight.handle(NOW, busy(), &view, &loads, &mut budget);
        }
    }
    // All peers that hold one of the jobs die at the same moment.
    let dead: BTreeSet<PeerId> = flights.iter().map(|(_, to)| *to).collect();
    dead.iter().for_each(|peer| loads.failed(*peer, NOW.mono));
    for (flight, _) in &mut flights {
        let lost = Event::Lost("reset".into());
        match flight.handle(NOW, lost, &view, &loads, &mut budget) {
            Step::Send { to: next } => {
                let peer = peers.iter().find(|peer| peer.id == next).unwrap();
                assert!(!dead.contains(&next), "a job goes to a dead peer");
                assert!(peer.holds && meant.keeps_out(peer, NOW.utc).is_none());
            }
            other => panic!("{other:?}"),
        }
        let answer = flight.handle(NOW, Event::Answered, &view, &loads, &mut budget);
        assert_eq!(answer, Step::Answer(Ok(())));
    }
}

#[test]
fn a_peer_to_which_only_the_way_was_cut_is_asked_once_more() {
    let (_, view, loads) = mesh(&mut Rng::new(seed()));
    let mut budget = RetryBudget::default();
    let mut flight = Flight::begin(job(&Policy::default(), 1));
    let step = flight.handle(NOW, Event::Begin, &view, &loads, &mut budget);
    let Step::Send { to: first } = step else { panic!("{step:?}") };
    let cut = |peer| Event::Cut { peer, last: "its relay died".into() };
    // Nobody is better than the best, which lives.
    let step = flight.handle(NOW, cut(first), &view, &loads, &mut budget);
    assert_eq!(step, Step::Send { to: first });
    let step = flight.handle(NOW, cut(first), &view, &loads, &mut budget);
    let Step::Send { to: second } = step else { panic!("{step:?}") };
    assert_ne!(second, first, "its relays die as fast as it is asked");
}
