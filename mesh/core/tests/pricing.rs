//! Money over random meshes: what a job may cost is never exceeded, and where its deadline leaves time
//! to spare, the cheapest runs it.
//!
//! Random from one seed, printed first: `HANSA_LAW_SEED=<seed> cargo test -p hansa-core --test
//! pricing`.

use std::collections::BTreeSet;
use std::time::Duration;

use hansa_core::advert::{Advert, Device, Model, Price, Stage, Version};
use hansa_core::chain::{Chain, Link, chain};
use hansa_core::charter::{Authority, Charter, Trust};
use hansa_core::explain::{Explanation, Form, explain};
use hansa_core::flight::{Event, Flight, RetryBudget, Step};
use hansa_core::gate::Rule;
use hansa_core::id::{Digest, JobId, PeerId};
use hansa_core::keys::SigningKey;
use hansa_core::loads::Loads;
use hansa_core::note::SignerKey;
use hansa_core::plan::{Cost, Job, Plan, Refusal, plan};
use hansa_core::policy::{Bounds, Policy, Split};
use hansa_core::price::{Amount, Bill};
use hansa_core::rng::Rng;
use hansa_core::scatter::scatter;
use hansa_core::time::{Mono, Now, Utc};
use hansa_core::view::{Entry, Liveness, View};

const NOW: Now = Now { mono: Mono(5_000_000_000), utc: Utc(1_800_000_000_000) };
const WHOLE: Digest = Digest([7; 32]);

/// One peer of a mesh.
#[derive(Clone)]
struct Peer {
    price: Option<(&'static str, u64, u64)>,
    cuda_mib: u32,
    service_us: u32,
    rtt_us: u64,
    liveness: Liveness,
    /// What it holds of the 40 nodes; all of them is the model.
    holds: Option<(u32, u32)>,
}

/// A holder that is near and quick and asks nothing.
const FREE: Peer = Peer {
    price: None,
    cuda_mib: 0,
    service_us: 10_000,
    rtt_us: 1_000,
    liveness: Liveness::Alive,
    holds: Some((0, 40)),
};

fn seeded() -> Rng {
    let seed = std::env::var("HANSA_LAW_SEED").map_or(20_261_124, |text| text.parse().unwrap());
    eprintln!("HANSA_LAW_SEED={seed}");
    Rng::new(seed)
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len())]
}

fn draw(rng: &mut Rng, ends: &[(u32, u32)]) -> Peer {
    let currency = pick(rng, &["EUR", "EUR", "EUR", "USD"]);
    let rates = (pick(rng, &[0, 10, 500, 4_000]), pick(rng, &[0, 0, 90_000]));
    Peer {
        price: (rng.below(5) > 0).then_some((currency, rates.0, rates.1)),
        cuda_mib: pick(rng, &[0, 0, 8_000, 80_000]),
        service_us: u32::try_from(1 + rng.below(60_000)).unwrap(),
        rtt_us: 100 + rng.below(80_000) as u64,
        liveness: pick(
            rng,
            &[Liveness::Alive, Liveness::Alive, Liveness::Alive, Liveness::Suspect],
        ),
        holds: (rng.below(6) > 0).then(|| pick(rng, ends)),
    }
}

/// At least so many peers; the first of them plans.
fn meet(rng: &mut Rng, least: usize, ends: &[(u32, u32)]) -> Vec<Peer> {
    let mut peers: Vec<Peer> = (0..least + rng.below(7)).map(|_| draw(rng, ends)).collect();
    peers[0].liveness = Liveness::Alive;
    peers
}

fn id(index: usize) -> PeerId {
    key(index).peer_id()
}

fn key(index: usize) -> SigningKey {
    SigningKey::from_seed(&[u8::try_from(index).unwrap() + 1; 32])
}

fn entry(index: usize, peer: &Peer) -> Entry {
    let signer = SignerKey::new("authority", [250; 32]).unwrap();
    let any = || BTreeSet::from(["*".to_owned()]);
    let trust =
        Trust::new(vec![Authority { key: signer.verifier(), countries: any(), operators: any() }]);
    let charter = Charter {
        serial: index.to_string(),
        subject: id(index),
        location: "DE".parse().unwrap(),
        operator: "any".into(),
        lei: None,
        control: "DE".parse().unwrap(),
        data_classes: BTreeSet::new(),
        not_before: Utc(NOW.utc.0 - 1_000_000),
        not_after: Utc(NOW.utc.0 + 1_000_000),
        authorities: BTreeSet::new(),
    };
    let device = |provider: &str, mib| Device {
        provider: provider.into(),
        name: "any".into(),
        id: 0,
        memory_total_mib: mib,
        memory_free_mib: mib,
        utilisation_percent: None,
    };
    let cuda = (peer.cuda_mib > 0).then(|| device("cuda", peer.cuda_mib));
    let service_us = peer.service_us;
    let (name, version) = ("deep".to_owned(), "1".to_owned());
    let model = Model { name, version, bundle: WHOLE, slots: 1, service_us };
    let mut advert = Advert {
        peer: id(index),
        version: Version { epoch: 1, sequence: 1 },
        issued: NOW.utc,
        name: format!("peer{index}"),
        control_addrs: Vec::new(),
        data_addrs: Vec::new(),
        relays: Vec::new(),
        coordinate: Default::default(),
        charter: Some(charter.sign(&signer).unwrap()),
        devices: [device("cpu", 64_000)].into_iter().chain(cuda).collect(),
        models: if peer.holds == Some((0, 40)) { vec![model.clone()] } else { Vec::new() },
        price: peer.price.map(|(currency, per_device_second_micros, per_gb_micros)| Price {
            currency: currency.into(),
            per_device_second_micros,
            per_gb_micros,
        }),
        extensions: Vec::new(),
    };
    if let Some((from, to)) = peer.holds.filter(|held| *held != (0, 40)) {
        let bundle = Digest::of(&[from, to].map(|end| u8::try_from(end).unwrap()));
        let Model { name, version, slots, service_us, .. } = model;
        let whole = WHOLE;
        advert.offer_stages(&[Stage {
            name,
            version,
            whole,
            bundle,
            from,
            to,
            of: 40,
            slots,
            service_us,
        }]);
    }
    let record = advert.sign(&key(index)).verify(&trust, NOW).unwrap();
    Entry { record, liveness: peer.liveness, since: Mono(0) }
}

/// What the first of `peers` sees and has measured.
fn mesh(peers: &[Peer]) -> (View, Loads) {
    assert_eq!(peers[0].liveness, Liveness::Alive, "nobody doubts itself");
    let mut loads = Loads::new();
    for (index, peer) in peers.iter().enumerate().skip(1) {
        loads.measured_rtt(id(index), Duration::from_micros(peer.rtt_us));
    }
    let entries = peers.iter().enumerate().map(|(index, peer)| entry(index, peer));
    (View::new(id(0), entries.collect()), loads)
}

/// A job that must be answered within `ms`, if the app says so.
fn job(rng: &mut Rng, ms: Option<u64>, max: Option<&str>, split: Split) -> Job {
    let mut policy = Policy { split, ..Policy::default() };
    if let Some(max) = max {
        policy.limit_price(max.parse().unwrap());
    }
    let mut number = [0; 16];
    number[..8].copy_from_slice(&rng.next_u64().to_le_bytes());
    let deadline = NOW.mono + Duration::from_millis(ms.unwrap_or(30_000));
    let fresh = Job::new(JobId(number), WHOLE, policy, &Bounds::default(), deadline);
    Job { is_timed: ms.is_some(), bytes: 400_000, ..fresh }
}

/// What a peer alone would cost the job, if it may run it: the plan of a mesh where no other can.
fn alone(view: &View, loads: &Loads, job: &Job, peer: PeerId) -> Option<Cost> {
    let others = view.entries().iter().map(|entry| entry.record.advert.peer);
    let others: Vec<PeerId> = others.filter(|other| *other != peer).collect();
    match plan(NOW, view, loads, job, &others) {
        Plan::Local { cost } | Plan::Forward { cost, .. } => Some(cost),
        _ => None,
    }
}

fn is_within(price: Option<Amount>, max: Option<Amount>) -> bool {
    let is_within =
        |max: Amount| price.is_none_or(|p| p.currency == max.currency && p.micros <= max.micros);
    max.is_none_or(is_within)
}

/// Whether the one asks more than the other, as far as that can be said.
fn is_dearer(one: Option<Amount>, other: Option<Amount>) -> bool {
    match (one, other) {
        (Some(_), None) => true,
        (Some(a), Some(b)) => a.currency == b.currency && a.micros > b.micros,
        (None, _) => false,
    }
}

#[test]
fn with_time_to_spare_the_cheapest_runs_it_and_no_deadline_is_missed_that_another_meets() {
    let mut rng = seeded();
    let (mut spared, mut hurried, mut refused, mut kept) = (0, 0, 0, 0);
    for _ in 0..1_000 {
        let peers: Vec<Peer> = meet(&mut rng, 2, &[(0, 40)]);
        let (view, loads) = mesh(&peers);
        let ms = pick(&mut rng, &[None, Some(30), Some(60), Some(120), Some(2_000)]);
        let max = pick(&mut rng, &[None, Some("0.00001 EUR"), Some("0.0001 EUR"), Some("1 USD")]);
        let job = job(&mut rng, ms, max, Split::Never);
        let max = job.limit();
        let free = Job {
            policy: Policy { split: Split::Never, ..Policy::default() }.into(),
            ..job.clone()
        };
        let open: Vec<(usize, Cost)> = (0..peers.len())
            .filter_map(|index| Some((index, alone(&view, &loads, &free, id(index))?)))
            .collect();
        let may: Vec<(usize, Cost)> =
            open.iter().copied().filter(|(_, cost)| is_within(cost.price, max)).collect();
        let chosen = match plan(NOW, &view, &loads, &job, &[]) {
            Plan::Local { .. } => 0,
            Plan::Forward { to, .. } => (0..peers.len()).find(|index| id(*index) == to).unwrap(),
            Plan::Refuse(refusal) => {
                assert!(may.is_empty(), "{refusal}");
                if let (Refusal::PolicyUnsatisfiable { failed }, true) = (&refusal, max.is_some()) {
                    assert_eq!(failed.get(&Rule::Price), Some(&u32::try_from(open.len()).unwrap()));
                    refused += 1;
                }
                continue;
            }
            other => panic!("{other:?}"),
        };
        let (_, cost) = *may.iter().find(|(index, _)| *index == chosen).expect("it may run it");
        kept += usize::from(may.len() < open.len());
        let left = job.deadline.since(NOW.mono);
        let at_ease = |index: usize, cost: &Cost| {
            let is_sure = index == 0 || peers[index].liveness == Liveness::Alive;
            job.is_timed && is_sure && cost.total() <= left / 2
        };
        if may.iter().any(|(index, cost)| at_ease(*index, cost)) {
            assert!(at_ease(chosen, &cost));
            for (other, its) in may.iter().filter(|(index, cost)| at_ease(*index, cost)) {
                assert!(!is_dearer(cost.price, its.price), "{:?} over {:?}", cost.price, its.price);
                if cost.price == its.price {
                    assert!(peers[chosen].cuda_mib <= peers[*other].cuda_mib);
                }
            }
            spared += 1;
        } else {
            let is_at_once = chosen == 0 && cost.total() <= Duration::from_millis(1);
            let soonest = may.iter().map(|(_, cost)| cost.total()).min().unwrap();
            assert!(is_at_once || cost.total() == soonest);
            hurried += 1;
        }
    }
    assert!(spared > 150 && hurried > 150 && refused > 30 && kept > 100, "little was tested");
}

#[test]
fn a_batch_and_all_that_becomes_of_its_shares_stays_within_the_limit() {
    let mut rng = seeded();
    let (mut split, mut refused, mut frugal) = (0, 0, 0);
    for _ in 0..800 {
        let mut peers: Vec<Peer> = meet(&mut rng, 2, &[(0, 40)]);
        if rng.below(2) == 0 {
            let Peer { price, cuda_mib, .. } = peers[1].clone();
            peers.iter_mut().for_each(|peer| (peer.price, peer.cuda_mib) = (price, cuda_mib));
        }
        let (view, loads) = mesh(&peers);
        let max = pick(&mut rng, &[None, Some("0.0004 EUR"), Some("0.02 EUR"), Some("1 EUR")]);
        let how = pick(&mut rng, &[Split::Auto, Split::Rows]);
        let ms = pick(&mut rng, &[None, Some(1_000), Some(60_000)]);
        let rows = u32::try_from(2 + rng.below(300)).unwrap();
        let job = Job { rows, separable: true, ..job(&mut rng, ms, max, how) };
        let found = match scatter(NOW, &view, &loads, &job) {
            Ok(Some(found)) => found,
            Ok(None) => continue,
            Err(refusal) => {
                let is_price = |failed: &std::collections::BTreeMap<Rule, u32>| {
                    failed.contains_key(&Rule::Price)
                };
                refused += usize::from(matches!(&refusal,
                    Refusal::PolicyUnsatisfiable { failed } if is_price(failed)));
                continue;
            }
        };
        split += 1;
        if let Some(limit) = job.limit() {
            let limits = found.shares.iter().map(|share| share.limit.unwrap().micros);
            assert!(limits.sum::<u64>() <= limit.micros);
            for share in &found.shares {
                assert!(is_within(share.cost.price, share.limit));
                // Whoever gets it, and then whoever gets it after a failure, is held to its part.
                let shard = job.shard(JobId([9; 16]), share.rows, share.limit);
                assert_eq!(shard.limit(), share.limit);
                let rest: Vec<PeerId> = found.shares.iter().map(|share| share.peer).collect();
                for tried in [&[][..], &[share.peer], &rest] {
                    if let Plan::Local { cost } | Plan::Forward { cost, .. } =
                        plan(NOW, &view, &loads, &shard, tried)
                    {
                        assert!(is_within(cost.price, share.limit));
                    }
                }
                let others: Vec<PeerId> =
                    (0..peers.len()).map(id).filter(|peer| *peer != share.peer).collect();
                let planned = plan(NOW, &view, &loads, &shard, &others);
                assert!(!matches!(planned, Plan::Refuse(_)), "{planned:?} for its own share");
            }
        }
        // Where one is in time with a margin, a split that nobody demanded costs nothing more.
        let ease = job.deadline.since(NOW.mono) / 2;
        let are_sure = peers.iter().all(|peer| peer.liveness == Liveness::Alive);
        if how == Split::Auto && job.is_timed && are_sure && found.alone <= ease {
            let policy = job.policy.with(|policy| policy.split = Split::Never);
            let whole = Job { policy, ..job.clone() };
            if let Plan::Local { cost } | Plan::Forward { cost, .. } =
                plan(NOW, &view, &loads, &whole, &[])
            {
                let own: Bill = cost.price.into_iter().collect();
                for amount in found.price().amounts() {
                    let begun = found.shares.len() as u64;
                    assert!(amount.micros <= own.micros(amount.currency) + begun);
                }
                frugal += 1;
            }
        }
    }
    assert!(split > 200 && refused > 10 && frugal > 10, "{split}, {refused}, {frugal}");
}

/// Every chain there is, by trying all.
fn all_chains(view: &View, at: u32, so_far: &[Link]) -> Vec<Vec<Link>> {
    if at == 40 {
        return vec![so_far.to_vec()];
    }
    let mut found = Vec::new();
    for entry in view.entries() {
        for stage in entry.record.stages.iter().filter(|stage| stage.from == at) {
            let (peer, bundle) = (entry.record.advert.peer, stage.bundle);
            let link = Link { peer, bundle, from: stage.from, to: stage.to };
            found.extend(all_chains(view, stage.to, &[so_far, &[link]].concat()));
        }
    }
    found
}

#[test]
fn a_chain_costs_no_more_than_the_job_may_and_is_found_where_there_is_one() {
    let mut rng = seeded();
    let ends = [(0, 20), (20, 40), (0, 10), (10, 20), (0, 30), (30, 40)];
    let (mut bound, mut too_dear, mut cheapest, mut none) = (0, 0, 0, 0);
    for _ in 0..1_200 {
        let mut peers: Vec<Peer> = meet(&mut rng, 3, &ends);
        peers[0].holds = None;
        let (view, loads) = mesh(&peers);
        let max = pick(&mut rng, &[None, Some("0.00005 EUR"), Some("0.0002 EUR")]);
        let ms = pick(&mut rng, &[None, Some(200), Some(20_000)]);
        let job = job(&mut rng, ms, max, Split::Auto);
        // By the law, simply: of each link its device's time and the job's bytes.
        let asked = |link: &Link| -> Option<Amount> {
            let peer = &peers[(0..peers.len()).find(|index| id(*index) == link.peer).unwrap()];
            let (currency, second, gb) = peer.price.filter(|(_, a, b)| *a > 0 || *b > 0)?;
            let femtos = u64::from(peer.service_us) * 1_000 * second + job.bytes * gb;
            let micros = femtos.div_ceil(1_000_000_000);
            Some(Amount { currency: currency.parse().unwrap(), micros })
        };
        let price = |links: &[Link]| links.iter().filter_map(asked).collect::<Bill>();
        let fits = |links: &Vec<Link>| {
            let limit = job.limit();
            price(links).amounts().all(|amount| is_within(Some(amount), limit))
        };
        let chains = all_chains(&view, 0, &[]);
        let open: Vec<&Vec<Link>> = chains.iter().filter(|links| fits(links)).collect();
        let Some(Chain { links, cost, parts }) = chain(NOW, &view, &loads, &job, 0, &[]) else {
            assert!(open.is_empty(), "there is one: {open:?}");
            let refused = plan(NOW, &view, &loads, &job, &[]);
            if chains.is_empty() {
                none += 1;
            } else {
                let Plan::Refuse(Refusal::PolicyUnsatisfiable { failed }) = refused else {
                    panic!("{refused:?}")
                };
                assert!(failed.contains_key(&Rule::Price));
                too_dear += 1;
            }
            continue;
        };
        assert!(fits(&links), "{:?}", price(&links));
        let told: Bill = parts.iter().filter_map(|part| part.price).collect();
        assert_eq!(told, price(&links));
        bound += usize::from(open.len() < chains.len());
        // With time to spare, and in one currency, none of the sure ones is cheaper.
        let currencies: BTreeSet<_> = view
            .entries()
            .iter()
            .flat_map(|entry| entry.record.stages.iter().map(move |stage| (entry, stage)))
            .filter_map(|(entry, stage)| {
                let Stage { bundle, from, to, .. } = *stage;
                asked(&Link { peer: entry.record.advert.peer, bundle, from, to })
            })
            .filter(|amount| is_within(Some(*amount), job.limit()))
            .map(|amount| amount.currency)
            .collect();
        let is_sure = |links: &Vec<Link>| {
            let at = |link: &Link| (0..peers.len()).find(|index| id(*index) == link.peer).unwrap();
            links.iter().all(|link| peers[at(link)].liveness == Liveness::Alive)
        };
        let sure: Vec<u64> = open
            .iter()
            .filter(|links| is_sure(links))
            .map(|links| price(links).amounts().map(|amount| amount.micros).sum())
            .collect();
        let micros: u64 = price(&links).amounts().map(|amount| amount.micros).sum();
        let ease = job.deadline.since(NOW.mono) / 2;
        if ms == Some(20_000) && currencies.len() == 1 && is_sure(&links) && cost <= ease {
            assert_eq!(Some(&micros), sure.iter().min());
            cheapest += 1;
        }
    }
    let counts = [bound, too_dear, cheapest, none];
    assert!(counts.iter().all(|count| *count > 20), "{counts:?}: little was tested");
}

#[test]
fn a_job_under_a_limit_is_never_run_twice_at_once() {
    let mut rng = seeded();
    let dear = Peer { price: Some(("EUR", 1_000, 0)), ..FREE };
    let (view, loads) = mesh(&[Peer { holds: None, ..FREE }, dear.clone(), dear]);
    let mut budget = RetryBudget::default();
    for max in [None, Some("1 EUR")] {
        let mut flight = Flight::begin(job(&mut rng, None, max, Split::Auto));
        let step = flight.handle(NOW, Event::Begin, &view, &loads, &mut budget);
        assert!(matches!(step, Step::Send { .. }));
        assert_eq!(flight.late_at().is_some(), max.is_none());
        // The first that had it gave no answer, so it is not paid, and another may have all of it.
        let step = flight.handle(NOW, Event::Lost("gone".into()), &view, &loads, &mut budget);
        assert!(matches!(step, Step::Send { .. }));
    }
}

fn told(explanation: &Explanation, index: usize) -> (Option<Rule>, String) {
    let peer = explanation.peers.iter().find(|peer| peer.peer_id == id(index)).unwrap();
    let reason = peer.gated_out.as_ref();
    (reason.map(|reason| reason.rule), reason.map_or(String::new(), |r| r.detail.clone()))
}

#[test]
fn what_is_explained_is_what_each_form_would_cost_and_who_asks_too_much() {
    let mut rng = seeded();
    let cheap = Peer { price: Some(("EUR", 100, 0)), service_us: 20_000, ..FREE };
    let peers = [
        Peer { holds: None, ..FREE },
        Peer { price: Some(("EUR", 9_000, 0)), cuda_mib: 80_000, service_us: 1_000, ..FREE },
        cheap.clone(),
        Peer { price: Some(("USD", 1, 0)), ..cheap },
    ];
    let (view, loads) = mesh(&peers);
    let timed = job(&mut rng, Some(5_000), Some("0.000005 EUR"), Split::Auto);
    let explained = explain(NOW, &view, &loads, &timed);
    let (rule, detail) = told(&explained, 1);
    assert_eq!(rule, Some(Rule::Price));
    assert_eq!(detail, "it would ask 0.000009 EUR, and the job may cost 0.000005 EUR");
    assert_eq!(told(&explained, 3).1, "it asks USD, and the job's limit is in EUR");
    let chosen: Vec<_> = explained.forms.iter().filter(|form| form.chosen).collect();
    assert_eq!(chosen.len(), 1);
    assert_eq!((chosen[0].form, &chosen[0].peers[..]), (Form::Forward, &["peer2".to_owned()][..]));
    assert_eq!(chosen[0].price_micros.to_string(), "0.000002 EUR");
    let forms: Vec<Form> = explained.forms.iter().map(|form| form.form).collect();
    assert_eq!(forms, [Form::Local, Form::Forward, Form::Rows, Form::Stages]);
    assert!(explained.forms.iter().all(|form| form.cost_us.is_some() != form.why_not.is_some()));
    // Without a named deadline the soonest is taken, whatever it asks.
    let hasty = explain(NOW, &view, &loads, &job(&mut rng, None, None, Split::Never));
    assert_eq!(hasty.forms[1].peers, ["peer1"]);
    assert_eq!(hasty.forms[2].why_not.as_deref(), Some("the job's split is never"));
}

#[test]
fn who_holds_a_stage_is_judged_by_that_and_not_by_the_whole() {
    let mut rng = seeded();
    let part = |holds, price| Peer { holds: Some(holds), price, ..FREE };
    let peers = [
        Peer { holds: None, ..FREE },
        part((0, 20), Some(("EUR", 1_000, 0))),
        part((20, 40), Some(("EUR", 2_000, 0))),
        part((20, 40), Some(("EUR", 90_000, 0))),
    ];
    let (view, loads) = mesh(&peers);
    let explained =
        explain(NOW, &view, &loads, &job(&mut rng, None, Some("0.0001 EUR"), Split::Auto));
    assert_eq!(told(&explained, 0).0, Some(Rule::NotHeld));
    assert_eq!((told(&explained, 1).0, told(&explained, 2).0), (None, None));
    assert_eq!(told(&explained, 3).0, Some(Rule::Price));
    let first = explained.peers.iter().find(|peer| peer.peer_id == id(1)).unwrap();
    assert_eq!((first.stages[0].from, first.stages[0].to, first.rank), (0, 20, None));
    assert_eq!(first.cost_us.unwrap().service, 10_000);
    let stages = &explained.forms[3];
    assert!(stages.chosen && stages.why_not.is_none());
    assert_eq!(stages.peers, ["peer1", "peer2"]);
    assert_eq!(stages.price_micros.to_string(), "0.000030 EUR");
    assert_eq!(stages.cost_us.unwrap().service, 20_000);
    // Each is within it, and both together are not.
    let tight = job(&mut rng, None, Some("0.000025 EUR"), Split::Auto);
    let explained = explain(NOW, &view, &loads, &tight);
    assert!(explained.forms.iter().all(|form| !form.chosen));
    let refused = plan(NOW, &view, &loads, &tight, &[]);
    let failed = [(Rule::Price, 1)].into();
    assert_eq!(refused, Plan::Refuse(Refusal::PolicyUnsatisfiable { failed }));
}

#[test]
fn stages_after_the_first_have_what_is_left() {
    let mut rng = seeded();
    let part = |holds, price| Peer { holds: Some(holds), price, ..FREE };
    let peers = [
        Peer { holds: None, ..FREE },
        part((0, 20), Some(("EUR", 1_000, 0))),
        part((20, 40), Some(("EUR", 2_000, 0))),
    ];
    let (view, loads) = mesh(&peers);
    let fresh = job(&mut rng, None, Some("0.00003 EUR"), Split::Auto);
    let links = chain(NOW, &view, &loads, &fresh, 0, &[]).unwrap().links;
    let passed = |spent: &str| {
        let spent = [spent.parse::<Amount>().unwrap()].into_iter().collect();
        let job = Job { spent, path: vec![id(0)], ..fresh.clone() };
        hansa_core::chain::may_pass(NOW, &view, &loads, &job, &links[1])
    };
    assert_eq!(passed("0.00001 EUR"), Ok(()));
    assert_eq!(passed("0.000011 EUR"), Err(Rule::Price));
}
