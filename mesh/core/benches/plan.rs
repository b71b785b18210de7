//! How long one plan takes over a view of 10,000 peers that all hold the bundle, against the bar
//! of 20 µs at p50 (`cargo bench -p hansa-core`). It prints figures; it fails on none.

#![allow(clippy::print_stdout)] // Figures are what it is for.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hansa_core::advert::{Advert, Device, Model, Version};
use hansa_core::charter::{Authority, Charter, Trust};
use hansa_core::id::{Digest, JobId, PeerId};
use hansa_core::keys::SigningKey;
use hansa_core::loads::{Loads, Report};
use hansa_core::note::SignerKey;
use hansa_core::place::Place;
use hansa_core::plan::{Job, Plan, plan};
use hansa_core::policy::{Bounds, Clause, DeviceNeeds, Policy};
use hansa_core::rng::Rng;
use hansa_core::time::{Mono, Now, Utc};
use hansa_core::view::{Entry, Liveness, View};

const PEERS: u32 = 10_000;
const PLANS: usize = 20_000;
const BAR_US: f64 = 20.0;
const BUNDLE: Digest = Digest([1; 32]);
const SECOND: u64 = 1_800_000_000;

/// Members of the Union, and others; Luxembourg is given to one peer in a hundred.
const EU: [&str; 8] = ["DE", "FR", "IE", "NL", "ES", "PL", "SE", "IT"];
const OTHERS: [&str; 8] = ["US", "SG", "JP", "BR", "IN", "GB", "CH", "AU"];
const NARROW: &str = "LU";

fn main() {
    let now = Now { mono: Mono(10_000_000_000), utc: Utc(SECOND * 1_000) };
    let entries = entries(now);
    let me = entries[0].record.advert.peer;
    let loads = loads(&entries, now);
    let views: Vec<f64> = (0..5).map(|_| time(|| View::new(me, entries.clone())).1).collect();
    println!("view of {PEERS} peers: {:.0} µs to build (median of 5)", quantile(views, 0.5));
    println!(
        "{:34} {:>9} {:>9} {:>7} {:>14} {:>15}",
        "policy", "p50 µs", "p99 µs", "÷ 20 µs", "new law µs", "new snapshot µs"
    );
    for (name, policy) in policies() {
        let view = View::new(me, entries.clone());
        let job = |number: u64| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&Rng::new(number).next().to_le_bytes());
            let deadline = now.mono + Duration::from_secs(30);
            let job = Job::new(JobId(id), BUNDLE, policy.clone(), &Bounds::default(), deadline);
            Job { bytes: 4_096, ..job }
        };
        let jobs: Vec<Job> = (0..256).map(job).collect();
        let (first, first_us) = time(|| plan(now, &view, &loads, &jobs[0], &[]));
        let took: Vec<f64> = (0..PLANS)
            .map(|turn| time(|| plan(now, &view, &loads, &jobs[turn % jobs.len()], &[])).1)
            .collect();
        let snapshots = (0..5).map(|_| {
            let view = View::new(me, entries.clone());
            time(|| plan(now, &view, &loads, &jobs[0], &[])).1
        });
        let snapshot = quantile(snapshots.collect(), 0.5);
        let (p50, p99) = (quantile(took.clone(), 0.5), quantile(took, 0.99));
        let name = format!("{name} ({})", what(&first));
        println!(
            "{name:34} {p50:9.2} {p99:9.2} {:7.2} {first_us:14.0} {snapshot:15.0}",
            p50 / BAR_US
        );
    }
    let policy = policies().swap_remove(2).1;
    let laws: Vec<f64> = (0..PLANS).map(|_| time(|| black_box(&policy).hash()).1).collect();
    println!("hash of an EU policy: {:.2} µs (once per job, at its entry)", quantile(laws, 0.5));
}

fn what(plan: &Plan) -> &'static str {
    match plan {
        Plan::Local => "local",
        Plan::Forward { .. } => "forward",
        Plan::Refuse(_) => "refuse",
    }
}

fn time<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let start = Instant::now();
    let result = black_box(work());
    (result, start.elapsed().as_secs_f64() * 1e6)
}

fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (0..values.len()).rfind(|index| *index as f64 <= share * (values.len() - 1) as f64);
    values[index.expect("values")]
}

fn policies() -> Vec<(&'static str, Policy)> {
    let places = |codes: &[&str]| -> BTreeSet<Place> {
        codes.iter().map(|code| code.parse().expect("a place")).collect()
    };
    let law = |locations, control| Policy {
        bounds: Bounds { locations, control, ..Bounds::default() },
        ..Policy::default()
    };
    let allow = |codes: &[&str]| Clause { allow: Some(places(codes)), deny: BTreeSet::new() };
    let deny = |codes: &[&str]| Clause { allow: None, deny: places(codes) };
    let mut operators = law(deny(&["US", "DE-BY"]), deny(&["US"]));
    operators.bounds.operators.deny = (0..300).map(|n| format!("Operator {}", n * 3)).collect();
    let device = DeviceNeeds { provider: Some("cuda".into()), memory_mib_min: Some(20_000) };
    vec![
        ("none", Policy::default()),
        ("EU", law(allow(&EU), Clause::default())),
        ("EU, EU control", law(allow(&EU), allow(&EU))),
        ("deny lists of 303", operators),
        ("one narrow country", law(allow(&[NARROW]), Clause::default())),
        ("a rare device (1 %)", Policy { device, ..Policy::default() }),
        ("nobody", law(allow(&["AQ"]), Clause::default())),
    ]
}

fn loads(entries: &[Entry], now: Now) -> Loads {
    let mut loads = Loads::new();
    let mut rng = Rng::new(1);
    for entry in entries {
        let peer = entry.record.advert.peer;
        let mut ms = |most| Duration::from_micros(1_000 + rng.below(most) as u64);
        loads.measured_rtt(peer, ms(99_000));
        let report = Report { took: ms(50_000), service: ms(5_000), rows: 1, ..Report::default() };
        loads.answered(peer, BUNDLE, report, now.mono);
    }
    loads
}

fn entries(now: Now) -> Vec<Entry> {
    let signer = SignerKey::new("authority", [9; 32]).expect("a name");
    let all = || BTreeSet::from(["*".to_owned()]);
    let authority = Authority { key: signer.verifier(), countries: all(), operators: all() };
    let trust = Trust::new(vec![authority]);
    let entry = |number: u32| {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&number.to_le_bytes());
        let key = SigningKey::from_seed(&seed);
        let charter = charter(number, key.peer_id()).sign(&signer).expect("a charter");
        let record = advert(number, key.peer_id(), charter, now).sign(&key).verify(&trust, now);
        let record: Arc<_> = record.expect("an honest advert");
        assert!(record.charter.is_ok(), "{:?}", record.charter);
        Entry { record, liveness: Liveness::Alive, since: now.mono }
    };
    (0..=PEERS).map(entry).collect()
}

fn charter(number: u32, subject: PeerId) -> Charter {
    let pick = |number: u32| {
        let from = if number.is_multiple_of(2) { EU } else { OTHERS };
        from[number as usize / 2 % from.len()]
    };
    let location = if number % 100 == 7 { NARROW } else { pick(number) };
    Charter {
        serial: number.to_string(),
        subject,
        location: location.parse().expect("a place"),
        operator: format!("Operator {number}"),
        control: pick(number / 3).parse().expect("a place"),
        data_classes: BTreeSet::new(),
        not_before: Utc((SECOND - 1_000) * 1_000),
        not_after: Utc((SECOND + 1_000) * 1_000),
        authorities: BTreeSet::new(),
    }
}

fn advert(number: u32, peer: PeerId, charter: String, now: Now) -> Advert {
    let gpu = number % 100 == 11;
    let memory = if gpu { 24_000 } else { 64_000 };
    Advert {
        peer,
        version: Version { epoch: 1, sequence: 1 },
        issued: now.utc,
        name: format!("peer{number}"),
        control_addrs: vec!["/ip4/192.0.2.1/udp/4001/quic-v1".into()],
        data_addrs: vec!["192.0.2.1:4002".parse().expect("an address")],
        relays: Vec::new(),
        charter: Some(charter),
        devices: vec![Device {
            provider: if gpu { "cuda" } else { "cpu" }.into(),
            name: "any".into(),
            id: 0,
            memory_total_mib: memory,
            memory_free_mib: memory,
            utilisation_percent: None,
        }],
        // The first peer is the one that plans: it holds nothing and must forward.
        models: Vec::from_iter((number > 0).then(|| Model {
            name: "m".into(),
            version: "1".into(),
            bundle: BUNDLE,
            slots: u16::try_from(1 + number % 4).expect("few"),
            service_us: 4_000 + number % 5_000,
        })),
        price: None,
        extensions: Vec::new(),
    }
}
