//! What a plan costs over a view of 10,000 peers that all hold the bundle, against the bar of
//! 20 µs at p50. `cargo bench -p hansa-core`.
//!
//! `first` is the first plan of a policy on a fresh snapshot: it pays for the gate's verdicts on
//! every holder, which the later ones reuse.

#![allow(clippy::print_stdout)] // A bench is read by people.

use std::hint::black_box;
use std::time::{Duration, Instant};

use hansa_core::advert::{Advert, Model, Version};
use hansa_core::charter::{Authority, Charter, Trust};
use hansa_core::id::{Digest, JobId};
use hansa_core::keys::SigningKey;
use hansa_core::loads::Loads;
use hansa_core::note::SignerKey;
use hansa_core::place::Groups;
use hansa_core::plan::{Job, plan};
use hansa_core::policy::{Bounds, Demand, Policy};
use hansa_core::rng::Rng;
use hansa_core::time::{Mono, Now, Utc};
use hansa_core::view::{Entry, Liveness, View};

const PEERS: u32 = 10_000;
const PLANS: u32 = 20_000;
const BAR_US: f64 = 20.0;
const NOW: Now = Now { mono: Mono(1_000_000_000), utc: Utc(1_800_000_000_000) };
const PLACES: [&str; 12] =
    ["DE", "DE-BE", "FR", "IE", "NL", "PL", "SE", "CH", "GB", "US", "SG", "JP"];
const BUNDLE: Digest = Digest([7; 32]);

fn main() {
    let seed = 1;
    println!("seed {seed}; {PEERS} peers hold the bundle, {PLANS} plans of each policy");
    let mut rng = Rng::new(seed);
    let mesh = mesh(&mut rng);
    let loads = loads(&mesh, &mut rng);
    let began = Instant::now();
    let view = View::new(mesh[0].record.advert.peer, mesh.clone());
    println!("snapshot built in {:.1} ms\n", began.elapsed().as_secs_f64() * 1e3);
    println!(
        "{:<26} {:>9} {:>9} {:>9} {:>12}",
        "policy", "p50 µs", "p99 µs", "first µs", "p50 ÷ bar"
    );
    for (name, constraints) in [
        ("none", [].as_slice()),
        ("locations EU", &[("locations", "EU")]),
        ("EU under EU control", &[("locations", "EU"), ("control", "EU")]),
        ("SG only", &[("locations", "SG")]),
        ("one operator of 50", &[("operators", "Operator 17")]),
        ("health data, no US law", &[("data_class", "health"), ("control", "!US")]),
        ("nobody", &[("locations", "AQ")]),
    ] {
        report(name, &policy(constraints), &view, &loads);
    }
}

fn report(name: &str, policy: &Policy, view: &View, loads: &Loads) {
    let mut job =
        Job::new(JobId([0; 16]), BUNDLE, policy.clone(), &Bounds::default(), Mono(u64::MAX));
    job.bytes = 4_096;
    let began = Instant::now();
    black_box(plan(NOW, view, loads, &job, &[]));
    let first = began.elapsed();
    let mut times: Vec<Duration> = (0..PLANS)
        .map(|count| {
            job.id.0[..4].copy_from_slice(&count.to_le_bytes());
            let began = Instant::now();
            black_box(plan(NOW, black_box(view), loads, &job, &[]));
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    let (p50, p99) = (us(times[times.len() / 2]), us(times[times.len() * 99 / 100]));
    println!("{name:<26} {p50:>9.2} {p99:>9.2} {:>9.0} {:>12.2}", us(first), p50 / BAR_US);
}

fn policy(constraints: &[(&str, &str)]) -> Policy {
    let eu = ["DE", "FR", "IE", "NL", "PL", "SE", "IT", "ES", "AT", "BE", "DK", "FI"];
    let groups = Groups::new([("EU".into(), eu.map(String::from).to_vec())].into());
    let groups = groups.expect("these are places");
    let mut demand = Demand::default();
    for (key, value) in constraints {
        demand.set(key, value, &groups).expect("a constraint");
    }
    demand.policy
}

/// Peers in twelve places, of fifty operators, with signed charters and adverts.
fn mesh(rng: &mut Rng) -> Vec<Entry> {
    let authority = SignerKey::new("authority", [9; 32]).expect("a name");
    let any = || ["*".to_owned()].into();
    let trust = Trust::new(vec![Authority {
        key: authority.verifier(),
        countries: any(),
        operators: any(),
    }]);
    (0..PEERS).map(|count| entry(count, &authority, &trust, rng)).collect()
}

fn entry(count: u32, authority: &SignerKey, trust: &Trust, rng: &mut Rng) -> Entry {
    let mut seed = [3; 32];
    seed[..4].copy_from_slice(&count.to_le_bytes());
    let key = SigningKey::from_seed(&seed);
    let location = PLACES[rng.below(PLACES.len())];
    let control = if rng.below(4) == 0 { "US" } else { &location[..2] };
    let classes: &[&str] = if rng.below(3) == 0 { &["health"] } else { &[] };
    let charter = Charter {
        serial: count.to_string(),
        subject: key.peer_id(),
        location: location.parse().expect("a place"),
        operator: format!("Operator {}", rng.below(50)),
        lei: None,
        control: control.parse().expect("a place"),
        data_classes: classes.iter().map(|class| (*class).to_owned()).collect(),
        not_before: Utc(NOW.utc.0 - 1_000_000),
        not_after: Utc(NOW.utc.0 + 1_000_000_000),
        authorities: Default::default(),
    };
    let model = Model {
        name: "model".into(),
        version: "1".into(),
        bundle: BUNDLE,
        slots: 1 + u16::try_from(rng.below(8)).expect("small"),
        service_us: 2_000 + u32::try_from(rng.below(20_000)).expect("small"),
    };
    // The peer that plans holds nothing: it always has to look at the others.
    let models = if count == 0 { Vec::new() } else { vec![model] };
    let advert = Advert {
        peer: key.peer_id(),
        version: Version { epoch: 1, sequence: 1 },
        issued: NOW.utc,
        name: format!("node-{count}"),
        control_addrs: Vec::new(),
        data_addrs: Vec::new(),
        relays: Vec::new(),
        coordinate: Default::default(),
        charter: Some(charter.sign(authority).expect("a charter")),
        devices: Vec::new(),
        models,
        price: None,
        extensions: Vec::new(),
    };
    let record = advert.sign(&key).verify(trust, NOW).expect("an advert");
    Entry { record, liveness: Liveness::Alive, since: Mono(0) }
}

/// Round trips to every peer, work in flight at some.
fn loads(mesh: &[Entry], rng: &mut Rng) -> Loads {
    let mut loads = Loads::new();
    for entry in mesh {
        let peer = entry.record.advert.peer;
        let rtt_us = 200 + rng.below(150_000);
        loads.measured_rtt(peer, Duration::from_micros(u64::try_from(rtt_us).expect("small")));
        for _ in 0..rng.below(4) {
            loads.began(peer, BUNDLE);
        }
    }
    loads
}
